//! Which tokens of which requests the next step computes: a pure state machine, no model and no clock in it.

use std::collections::VecDeque;
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
    /// Tokens that all running sequences together may ever hold in the cache. A request that needs more runs alone.
    pub cached_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            step_tokens: 512,
            sequences: 64,
            cached_tokens: 1 << 17,
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
}

/// A request as the scheduler sees it.
#[derive(Clone, Debug)]
struct Job {
    id: Id,
    /// Tokens to encode before the first of its own, all in one step.
    source: usize,
    /// Tokens there are.
    tokens: usize,
    /// Tokens computed.
    done: usize,
    /// The most it will ever hold in the cache.
    reserve: usize,
}

impl Job {
    fn pending(&self) -> usize {
        self.tokens - self.done
    }
}

/// Requests that wait and requests that run, both in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    limits: Limits,
    waiting: VecDeque<Job>,
    running: Vec<Job>,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// A new request with `tokens` tokens that will grow to at most `most`, behind a `source` to encode.
    pub fn add(&mut self, id: Id, source: usize, tokens: usize, most: usize) {
        self.waiting.push_back(Job {
            id,
            source,
            tokens,
            done: 0,
            reserve: source + most.max(tokens),
        });
    }

    /// The next step: one token of every sequence that has one, then chunks of prompts in order of arrival. A step is
    /// empty only if there is nothing to do.
    pub fn plan(&mut self) -> Vec<Span> {
        let mut left = self.limits.step_tokens.max(1);
        let mut spans = Vec::new();
        for growing in [true, false] {
            for job in &mut self.running {
                if left > 0 && (job.pending() == 1) == growing && job.pending() > 0 {
                    spans.push(advance(job, &mut left));
                }
            }
        }
        while let Some(mut job) = self.admitted(left, spans.is_empty()) {
            left = left.saturating_sub(job.source);
            // The source may have taken the whole step, but it is of no use without a first token.
            left = left.max(1);
            spans.push(advance(&mut job, &mut left));
            self.running.push(job);
        }
        spans
    }

    /// The next waiting request if it may start with `left` tokens in this step; `first` if the step has no other.
    fn admitted(&mut self, left: usize, first: bool) -> Option<Job> {
        let job = self.waiting.front()?;
        let held: usize = self.running.iter().map(|j| j.reserve).sum();
        let room = self.running.is_empty() || held + job.reserve <= self.limits.cached_tokens;
        let fits = left > 0 && (job.source < left || first);
        let seat = self.running.len() < self.limits.sequences.max(1);
        if room && fits && seat {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    /// Request `id` got its next token.
    pub fn grow(&mut self, id: Id) {
        if let Some(job) = self.running.iter_mut().find(|job| job.id == id) {
            job.tokens += 1;
        }
    }

    /// Request `id` is over, whether it ran or waited.
    pub fn remove(&mut self, id: Id) {
        self.running.retain(|job| job.id != id);
        self.waiting.retain(|job| job.id != id);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

fn advance(job: &mut Job, left: &mut usize) -> Span {
    let stop = job.done + job.pending().min(*left);
    *left -= stop - job.done;
    let tokens = std::mem::replace(&mut job.done, stop)..stop;
    Span {
        id: job.id,
        tokens,
        last: stop == job.tokens,
    }
}
