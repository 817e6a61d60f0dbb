//! Which tokens of which requests the next step computes: a pure state machine, no model and no clock in it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

/// Names a request.
pub type Id = u64;

/// What a step, and all that runs at once, may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a step. A prompt longer than that is computed in chunks.
    pub step_tokens: usize,
    /// Sequences running at once.
    pub sequences: usize,
    /// Tokens that all running sequences together may hold in the cache. A sequence that runs alone may hold more; it is for the
    /// caller to end one that would.
    pub cached_tokens: usize,
    /// Whether the keys and values of prompts are kept for others that begin alike.
    pub share_prefixes: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            step_tokens: 512,
            sequences: 64,
            cached_tokens: 1 << 17,
            share_prefixes: true,
        }
    }
}

/// A run of tokens of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The request.
    pub id: Id,
    /// The tokens, counted from its first.
    pub tokens: Range<usize>,
    /// Whether they are the last it has, so that the next one is chosen after this step.
    pub last: bool,
    /// Guesses at what follows them, computed in the same step.
    pub drafts: usize,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Requests that must give up what they hold in the cache; they start again from their first token when there is room.
    pub preempted: Vec<Id>,
    /// What to compute then.
    pub spans: Vec<Span>,
}

/// A request as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The request.
    pub id: Id,
    /// The higher, the sooner; it may take the place of a lower one that runs.
    pub priority: i32,
    /// Tokens to encode before the first of its own, all in one step.
    pub source: usize,
    /// Tokens there are.
    pub tokens: usize,
    /// Sequences it may come to, which all go on from these tokens: the beams of a search, else 1.
    pub beams: usize,
}

/// By priority, then by arrival.
type Rank = (Reverse<i32>, u64);

/// A request as the scheduler sees it.
#[derive(Clone, Debug)]
struct Job {
    id: Id,
    source: usize,
    tokens: usize,
    /// Tokens computed, of each of its sequences.
    done: usize,
    /// Sequences that it may come to, and those that there are.
    beams: usize,
    lines: usize,
    /// Guesses at what follows the last token.
    drafts: usize,
}

impl Job {
    fn pending(&self) -> usize {
        self.tokens - self.done
    }

    /// Whether it is still at its prompt.
    fn reads(&self) -> bool {
        self.pending() > 1 || (self.done == 0 && self.pending() == 1)
    }

    /// What it holds in the cache when all its tokens are computed.
    fn held(&self) -> usize {
        self.beams * (self.source + self.tokens) + self.drafts
    }
}

/// Requests that wait and requests that run, both by rank.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    limits: Limits,
    waiting: BTreeMap<Rank, Job>,
    running: BTreeMap<Rank, Job>,
    ranks: BTreeMap<Id, Rank>,
    arrived: u64,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// A new request.
    pub fn add(&mut self, arrival: Arrival) {
        let rank = (Reverse(arrival.priority), self.arrived);
        self.arrived += 1;
        self.ranks.insert(arrival.id, rank);
        let job = Job {
            id: arrival.id,
            source: arrival.source,
            tokens: arrival.tokens,
            done: 0,
            beams: arrival.beams.max(1),
            lines: 1,
            drafts: 0,
        };
        self.waiting.insert(rank, job);
    }

    /// The next step: one token of every sequence that has one, then chunks of prompts by rank. `kept` says how many tokens of a
    /// request that starts are in the cache already, fewer than it has. A step is empty only if there is nothing to do.
    ///
    /// Running sequences that grew out of the cache's limit are preempted, the last in rank first. A prompt takes no more than
    /// half of what is left of the step while another waits behind it, so that short ones are not held up by a long one.
    pub fn plan(&mut self, mut kept: impl FnMut(Id) -> usize) -> Step {
        let mut step = Step::default();
        while self.running.len() > 1 && self.held() > self.limits.cached_tokens {
            self.preempt_last(&mut step);
        }
        self.admit(&mut kept, &mut step);
        let mut left = self.limits.step_tokens.max(1);
        let writing = |job: &&mut Job| job.pending() == 1 && !job.reads();
        let mut behind = self.running.values_mut().filter(writing).count();
        for job in self.running.values_mut().filter(writing) {
            behind -= 1;
            if left < job.lines && !step.spans.is_empty() {
                break;
            }
            // Guesses take nothing from those that only want a token.
            job.drafts = job.drafts.min(left.saturating_sub(job.lines + behind));
            left = left.saturating_sub(job.drafts);
            step.spans.push(advance(job, 1, &mut left));
        }
        let mut behind = self.running.values().filter(|job| job.reads()).count();
        for job in self.running.values_mut().filter(|job| job.reads()) {
            behind -= 1;
            if left == 0 || (left < job.lines && !step.spans.is_empty()) {
                break;
            }
            if job.done == 0 && job.source > 0 {
                let source = job.source * job.lines;
                if source + job.lines > left && !step.spans.is_empty() {
                    break;
                }
                // The source may take the whole step, but it is of no use without a first token.
                left = left.saturating_sub(source).max(1);
            }
            job.drafts = 0;
            let most = if behind > 0 { left.div_ceil(2) } else { left };
            step.spans.push(advance(job, most, &mut left));
        }
        step
    }

    /// Moves requests that wait to those that run, while there are seats and room.
    fn admit(&mut self, kept: &mut impl FnMut(Id) -> usize, step: &mut Step) {
        let mut held = self.held();
        while let Some((&rank, job)) = self.waiting.first_key_value() {
            let seats: usize = self.running.values().map(|job| job.beams).sum();
            let seat = self.running.is_empty() || seats + job.beams <= self.limits.sequences;
            // Room for a token of each that runs, lest it be preempted at once.
            let grown = held + job.held() + seats;
            let room = self.running.is_empty() || grown <= self.limits.cached_tokens;
            if seat && room {
                if let Some(mut job) = self.waiting.remove(&rank) {
                    job.done = kept(job.id).min(job.tokens.saturating_sub(1));
                    held += job.held();
                    self.running.insert(rank, job);
                }
                continue;
            }
            let lower = self.running.last_key_value();
            if lower.is_some_and(|(last, _)| last.0 > rank.0) {
                self.preempt_last(step);
                held = self.held();
            } else {
                break;
            }
        }
    }

    fn preempt_last(&mut self, step: &mut Step) {
        if let Some((rank, mut job)) = self.running.pop_last() {
            (job.done, job.drafts) = (0, 0);
            step.preempted.push(job.id);
            self.waiting.insert(rank, job);
        }
    }

    /// Tokens that the running sequences hold or will when this step is done.
    pub fn held(&self) -> usize {
        self.running.values().map(Job::held).sum()
    }

    /// Request `id` got its next token, after as many of its guesses as were `right`.
    pub fn grow(&mut self, id: Id, right: usize) {
        if let Some(job) = self.job(id) {
            job.tokens += right + 1;
            job.done += right;
            job.drafts = 0;
        }
    }

    /// Has `count` guesses computed with the last token of request `id`.
    pub fn draft(&mut self, id: Id, count: usize) {
        if let Some(job) = self.job(id) {
            job.drafts = count;
        }
    }

    /// Request `id` goes on as so many sequences.
    pub fn fork(&mut self, id: Id, lines: usize) {
        if let Some(job) = self.job(id) {
            job.lines = lines.max(1);
        }
    }

    fn job(&mut self, id: Id) -> Option<&mut Job> {
        let rank = self.ranks.get(&id)?;
        self.running.get_mut(rank)
    }

    /// Request `id` is over, whether it ran or waited.
    pub fn remove(&mut self, id: Id) {
        if let Some(rank) = self.ranks.remove(&id) {
            self.running.remove(&rank);
            self.waiting.remove(&rank);
        }
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

fn advance(job: &mut Job, most: usize, left: &mut usize) -> Span {
    let room = (*left).min(most) / job.lines;
    let stop = job.done + job.pending().min(room.max(1));
    *left = left.saturating_sub((stop - job.done) * job.lines);
    let tokens = std::mem::replace(&mut job.done, stop)..stop;
    Span {
        id: job.id,
        tokens,
        last: stop == job.tokens,
        drafts: job.drafts,
    }
}
