//! The step loop: many requests of unequal length, packed into one batch a step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lmrs_kernels::team;
use lmrs_program::Spares;
use lmrs_tensor::{Error, Result, Tensor};

use crate::generator::Generator;
use crate::prefixes::Prefixes;
use crate::request::{Completion, Finish, Request};
use crate::scheduler::{Arrival, Id, Limits, Scheduler, Span};
use crate::sequence::{Chosen, Sequence, Written};

/// Something that happened to a request in a step.
#[derive(Debug)]
pub struct Progress {
    /// The request.
    pub id: Id,
    /// New text; empty if all of it is held back.
    pub piece: String,
    /// The token chosen, unless the request ended without one.
    pub chosen: Option<Chosen>,
    /// The whole if the request is over, or why it failed.
    pub outcome: Option<Result<Completion>>,
}

impl Progress {
    /// No token, no text.
    pub(crate) fn nothing(id: Id) -> Self {
        Self {
            id,
            piece: String::new(),
            chosen: None,
            outcome: None,
        }
    }

    /// The end of a request that failed.
    pub(crate) fn failed(id: Id, error: Error) -> Self {
        Self {
            outcome: Some(Err(error)),
            ..Self::nothing(id)
        }
    }
}

/// Requests being worked on, each by its own model. Dropping it, or removing a request, frees what they hold.
pub struct Generation {
    pub(crate) limits: Limits,
    pub(crate) scheduler: Scheduler,
    pub(crate) sequences: BTreeMap<Id, Sequence>,
    prefixes: Prefixes,
    next: Id,
    pub(crate) spares: Spares,
}

impl Generation {
    /// Nothing to do yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            scheduler: Scheduler::new(limits),
            sequences: BTreeMap::new(),
            prefixes: Prefixes::default(),
            next: 0,
            spares: Spares::default(),
        }
    }

    /// Takes in a request for `generator`; it starts at one of the next steps.
    ///
    /// # Errors
    /// As [`Generator::check`].
    pub fn add(&mut self, generator: &Arc<Generator>, request: Request) -> Result<Id> {
        let most = generator.check(&request, self.limits)?;
        let id = self.next;
        self.next += 1;
        let (source, tokens) = match generator.encoder {
            Some(_) => (request.prompt.len(), 1),
            None => (0, request.prompt.len()),
        };
        self.scheduler.add(Arrival {
            id,
            priority: request.priority,
            source,
            tokens,
            beams: request.lines(),
        });
        let sequence = Sequence::new(Arc::clone(generator), request, most);
        self.sequences.insert(id, sequence);
        Ok(id)
    }

    /// Bytes that the keys and values of all requests take.
    pub fn cached_bytes(&self) -> usize {
        self.sequences.values().map(Sequence::bytes).sum()
    }

    /// Bytes that those of prompts kept for later take; blocks shared with a request count for both.
    pub fn prefix_bytes(&self) -> usize {
        self.prefixes.bytes()
    }

    /// How many requests run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        (self.scheduler.running(), self.scheduler.waiting())
    }

    /// Forgets a request; what it holds is free at once and others are not disturbed.
    pub fn remove(&mut self, id: Id) {
        self.take(id);
    }

    /// Ends a request because of `finish`, with what it has written.
    pub fn end(&mut self, id: Id, finish: Finish) -> Option<Progress> {
        let mut sequence = self.take(id)?;
        Some(Progress {
            piece: sequence.rest(),
            outcome: Some(Ok(sequence.complete(finish))),
            ..Progress::nothing(id)
        })
    }

    fn take(&mut self, id: Id) -> Option<Sequence> {
        self.scheduler.remove(id);
        self.sequences.remove(&id)
    }

    /// Whether every request is over.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Computes one step and says what came of it. A request that fails is over; it takes no other with it, unless the Program
    /// itself fails.
    pub fn step(&mut self) -> Vec<Progress> {
        let (sequences, prefixes) = (&mut self.sequences, &mut self.prefixes);
        let step = self.scheduler.plan(|id| {
            let Some(sequence) = sequences.get_mut(&id) else {
                return 0;
            };
            if sequence.generator.encoder.is_some() || sequence.candidates.is_some() {
                return 0;
            }
            let generator = Arc::clone(&sequence.generator);
            let mut lines = sequence.lines();
            let [(tokens, cache)] = lines.as_mut_slice() else {
                return 0;
            };
            let Some((kept, found)) = prefixes.find(&generator, tokens) else {
                return 0;
            };
            **cache = found;
            kept
        });
        for id in &step.preempted {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.release();
            }
        }
        let room = self.limits.cached_tokens;
        self.prefixes
            .shrink(room.saturating_sub(self.scheduler.held()));
        let mut progress = Vec::new();
        for (model, spans) in self.by_model(step.spans) {
            match self.compute(&model, &spans) {
                Ok(logits) => {
                    self.keep_prompts(&spans);
                    let going = self.choose(&spans, &logits, &mut progress);
                    drop(logits);
                    self.draft(&going);
                }
                Err(error) => self.fail(&spans, &error, &mut progress),
            }
        }
        progress
    }

    /// Works until every request is over; the completions in the order of the requests. `between` is called after each
    /// step and may end the work.
    ///
    /// # Errors
    /// What a request or `between` raise.
    pub fn finish<E: From<Error>>(
        &mut self,
        mut between: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<Completion>, E> {
        let mut completions = BTreeMap::new();
        while !self.is_idle() {
            for progress in self.step() {
                if let Some(outcome) = progress.outcome {
                    completions.insert(progress.id, outcome?);
                }
            }
            between()?;
        }
        Ok(completions.into_values().collect())
    }

    /// Keeps the prompts that were read to their end, for those that begin alike.
    fn keep_prompts(&mut self, spans: &[Span]) {
        for span in spans.iter().filter(|span| span.last) {
            if let Some(sequence) = self.sequences.get(&span.id)
                && sequence.new == 0
            {
                keep(
                    &mut self.prefixes,
                    self.limits,
                    sequence,
                    sequence.tokens.len(),
                );
            }
        }
    }

    /// The next tokens of each span that ends its sequence; the ids of those that go on.
    fn choose(&mut self, spans: &[Span], logits: &Tensor, progress: &mut Vec<Progress>) -> Vec<Id> {
        let width = logits.width().max(1);
        let mut rows = logits.values::<f32>().unwrap_or_default();
        let mut sequences: BTreeMap<Id, &mut Sequence> =
            self.sequences.iter_mut().map(|(&id, s)| (id, s)).collect();
        let mut work = Vec::with_capacity(spans.len());
        for span in spans.iter().filter(|span| span.last) {
            let Some(sequence) = sequences.remove(&span.id) else {
                continue;
            };
            let count = sequence.count() * (1 + sequence.drafts.len()) * width;
            let (own, rest) = rows.split_at_checked(count).unwrap_or_default();
            rows = rest;
            work.push((span.id, Mutex::new((sequence, own)), OnceLock::new()));
        }
        team::parallel(work.len(), |at| {
            if let Some((_, sequence, cell)) = work.get(at) {
                let mut sequence = sequence.lock().unwrap_or_else(PoisonError::into_inner);
                let (sequence, rows) = &mut *sequence;
                let _ = cell.set(sequence.advance(rows, width));
            }
        });
        let written = work
            .into_iter()
            .map(|(id, _, cell)| (id, cell.into_inner()));
        let written: Vec<_> = written.collect();
        let mut going = Vec::with_capacity(written.len());
        for (id, written) in written {
            let lost = || Err(Error::Internal("a token was not chosen".into()));
            match written.unwrap_or_else(lost) {
                Ok(written) => {
                    if written.finish.is_none() {
                        going.push(id);
                    }
                    self.tell(id, written, progress);
                }
                Err(error) => {
                    self.remove(id);
                    progress.push(Progress::failed(id, error));
                }
            }
        }
        going
    }

    /// Tells of what a request has written, and ends it if that was the last.
    fn tell(&mut self, id: Id, written: Written, progress: &mut Vec<Progress>) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        let lines = sequence.count();
        let outcome = match written.finish {
            None => {
                self.scheduler.fork(id, lines);
                let right = written.tokens.len().saturating_sub(1);
                self.scheduler.grow(id, right);
                None
            }
            Some(finish) => {
                let read = sequence.tokens.len().saturating_sub(1);
                keep(&mut self.prefixes, self.limits, sequence, read);
                self.take(id).map(|sequence| Ok(sequence.complete(finish)))
            }
        };
        let event = |(chosen, piece)| Progress {
            piece,
            chosen: Some(chosen),
            ..Progress::nothing(id)
        };
        let mut events: Vec<Progress> = written.tokens.into_iter().map(event).collect();
        if outcome.is_some() && events.is_empty() {
            events.push(Progress::nothing(id));
        }
        if let Some(last) = events.last_mut() {
            last.outcome = outcome;
        }
        progress.extend(events);
    }

    /// Ends the requests of `spans`, which were computed together.
    fn fail(&mut self, spans: &[Span], error: &Error, progress: &mut Vec<Progress>) {
        for span in spans {
            self.remove(span.id);
            progress.push(Progress::failed(
                span.id,
                Error::Internal(error.to_string()),
            ));
        }
    }
}

/// Keeps the first `read` tokens of `sequence`, which it has computed, for those that begin alike.
fn keep(prefixes: &mut Prefixes, limits: Limits, sequence: &Sequence, read: usize) {
    let plain = sequence.generator.encoder.is_none()
        && sequence.beams.is_none()
        && sequence.candidates.is_none();
    if let Some(tokens) = sequence.tokens.get(..read)
        && plain
        && limits.share_prefixes
    {
        prefixes.keep(&sequence.generator, tokens, &sequence.cache);
    }
}
