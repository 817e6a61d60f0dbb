//! A long-lived engine: requests come from any thread while others run, and one thread of its own does the steps.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lmrs_program::Plan;
use lmrs_tensor::{Error, Result};

use crate::generation::{Generation, Progress};
use crate::generator::Generator;
use crate::reading::{Reading, Readings, Texts};
use crate::request::{Finish, Request};
use crate::scheduler::{Id, Limits};

/// What a service is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests being computed.
    pub running: usize,
    /// Requests that wait for room.
    pub waiting: usize,
    /// Memory of the keys and values of requests.
    pub cached_bytes: usize,
    /// Memory of those of prompts kept for later; shared blocks count twice.
    pub prefix_bytes: usize,
    /// Steps so far.
    pub steps: u64,
    /// Tokens written so far.
    pub tokens: u64,
}

/// How long a call waits for its answer before it asks whether it should go on.
const PATIENCE: Duration = Duration::from_millis(20);

/// A [`Generation`] on a thread of its own. Dropping it ends the thread after the step it is at.
pub struct Service {
    shared: Arc<Shared>,
    limits: Limits,
    process: u32,
}

struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    outbox: Mutex<Outbox>,
    happened: Condvar,
}

#[derive(Default)]
struct Inbox {
    next: Id,
    requests: Vec<(Id, Arc<Generator>, Request, Option<Instant>)>,
    readings: Vec<Reading>,
    cancelled: Vec<Id>,
    closed: bool,
}

#[derive(Default)]
struct Outbox {
    progress: VecDeque<Progress>,
    load: Load,
    closed: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system gives no thread.
    pub fn start(limits: Limits) -> Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            outbox: Mutex::default(),
            happened: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("lmrs-engine".into());
        let started = thread.spawn(move || Driver::new(&theirs, limits).work());
        started.map_err(|error| Error::Internal(format!("no thread for the engine: {error}")))?;
        let process = std::process::id();
        Ok(Self {
            shared,
            limits,
            process,
        })
    }

    /// Hands in a request for `generator`; it is ended at `deadline` with what it has written by then.
    ///
    /// # Errors
    /// As [`Generator::check`].
    pub fn submit(
        &self,
        generator: &Arc<Generator>,
        request: Request,
        deadline: Option<Instant>,
    ) -> Result<Id> {
        generator.check(&request, self.limits)?;
        let mut inbox = locked(&self.shared.inbox);
        let id = inbox.next;
        inbox.next += 1;
        inbox
            .requests
            .push((id, Arc::clone(generator), request, deadline));
        self.shared.arrived.notify_one();
        Ok(id)
    }

    /// Reads texts by `plan`, a batch of theirs and of other calls' in turn with the steps of requests, and waits for the end.
    /// `between` is called now and then, and may end it.
    ///
    /// # Errors
    /// What the Program or `between` raise; [`Error::Internal`] if the service ends first.
    pub fn read<E: From<Error>>(
        &self,
        plan: &Arc<Plan>,
        texts: Texts,
        mut between: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<Vec<f32>>, E> {
        let (reply, answer) = sync_channel(1);
        let mut inbox = locked(&self.shared.inbox);
        let id = inbox.next;
        inbox.next += 1;
        let plan = Arc::clone(plan);
        inbox.readings.push(Reading {
            id,
            plan,
            texts,
            reply,
            found: Vec::new(),
        });
        let closed = inbox.closed;
        self.shared.arrived.notify_one();
        drop(inbox);
        let ended = || E::from(Error::Internal("the engine was closed".into()));
        if closed {
            return Err(ended());
        }
        loop {
            match answer.recv_timeout(PATIENCE) {
                Ok(found) => return Ok(found?),
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = between() {
                        self.cancel(id);
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Ends a request; it is gone, and what it held is free, before the next step. Nothing more is heard of it but, perhaps,
    /// what already happened.
    pub fn cancel(&self, id: Id) {
        locked(&self.shared.inbox).cancelled.push(id);
        self.shared.arrived.notify_one();
    }

    /// Waits until something has happened, at most `patience`, and takes all of it; `None` once the service is closed.
    pub fn wait(&self, patience: Duration) -> Option<Vec<Progress>> {
        let outbox = locked(&self.shared.outbox);
        let quiet = |outbox: &mut Outbox| outbox.progress.is_empty() && !outbox.closed;
        let waited = self
            .shared
            .happened
            .wait_timeout_while(outbox, patience, quiet);
        let (mut outbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if outbox.closed && outbox.progress.is_empty() {
            return None;
        }
        Some(outbox.progress.drain(..).collect())
    }

    /// What it is doing.
    pub fn load(&self) -> Load {
        let arriving = locked(&self.shared.inbox).requests.len();
        let mut load = locked(&self.shared.outbox).load;
        load.waiting += arriving;
        load
    }

    /// Ends it: requests that run are not finished.
    pub fn close(&self) {
        locked(&self.shared.inbox).closed = true;
        self.shared.arrived.notify_one();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A child made by `fork` has no such thread, and its locks may be held by nobody.
        if self.process == std::process::id() {
            self.close();
        }
    }
}

/// The thread's side.
struct Driver<'a> {
    shared: &'a Shared,
    limits: Limits,
    generation: Generation,
    readings: Readings,
    /// Ours by the generation's.
    ours: BTreeMap<Id, Id>,
    /// The generation's by ours, and when they must end.
    theirs: BTreeMap<Id, (Id, Option<Instant>)>,
    load: Load,
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Shared, limits: Limits) -> Self {
        Self {
            shared,
            limits,
            generation: Generation::new(limits),
            readings: Readings::default(),
            ours: BTreeMap::new(),
            theirs: BTreeMap::new(),
            load: Load::default(),
        }
    }

    fn work(mut self) {
        while self.receive() {
            let mut progress = self.overdue();
            let stepped = catch_unwind(AssertUnwindSafe(|| {
                let progress = self.generation.step();
                let (most, spares) = (self.limits.step_tokens, &self.generation.spares);
                self.readings.step(most, spares);
                progress
            }));
            progress.extend(stepped.unwrap_or_else(|_| self.lost()));
            self.tell(progress);
        }
        // Nobody waits for what will not come.
        locked(&self.shared.inbox).readings.clear();
        locked(&self.shared.outbox).closed = true;
        self.shared.happened.notify_all();
    }

    /// Takes in what came, waiting if there is nothing to do; false once closed.
    fn receive(&mut self) -> bool {
        let inbox = locked(&self.shared.inbox);
        let idle = self.generation.is_idle() && self.readings.is_empty();
        let quiet = |inbox: &mut Inbox| {
            let asked = !inbox.requests.is_empty() || !inbox.readings.is_empty();
            idle && !asked && inbox.cancelled.is_empty() && !inbox.closed
        };
        let waited = self.shared.arrived.wait_while(inbox, quiet);
        let mut inbox = waited.unwrap_or_else(PoisonError::into_inner);
        if inbox.closed {
            return false;
        }
        let requests = std::mem::take(&mut inbox.requests);
        let readings = std::mem::take(&mut inbox.readings);
        let cancelled = std::mem::take(&mut inbox.cancelled);
        drop(inbox);
        let mut refused = Vec::new();
        for (id, generator, request, deadline) in requests {
            match self.generation.add(&generator, request) {
                Ok(theirs) => {
                    self.ours.insert(theirs, id);
                    self.theirs.insert(id, (theirs, deadline));
                }
                Err(error) => refused.push(Progress::failed(id, error)),
            }
        }
        for reading in readings {
            self.readings.push(reading);
        }
        for id in cancelled {
            self.readings.remove(id);
            if let Some((theirs, _)) = self.theirs.remove(&id) {
                self.ours.remove(&theirs);
                self.generation.remove(theirs);
            }
        }
        self.publish(refused);
        true
    }

    /// Ends the requests whose deadline has passed.
    fn overdue(&mut self) -> Vec<Progress> {
        let now = Instant::now();
        let late = self
            .theirs
            .values()
            .filter(|(_, deadline)| deadline.is_some_and(|deadline| deadline <= now));
        let late: Vec<Id> = late.map(|(theirs, _)| *theirs).collect();
        let ended = late.into_iter();
        ended
            .filter_map(|id| self.generation.end(id, Finish::Deadline))
            .collect()
    }

    /// After a panic: every request fails, and the next ones start afresh.
    fn lost(&mut self) -> Vec<Progress> {
        self.generation = Generation::new(self.limits);
        self.readings = Readings::default();
        let message = || Error::Internal("a step of the engine panicked".into());
        let ids = self.ours.keys();
        ids.map(|&id| Progress::failed(id, message())).collect()
    }

    /// Tells of what the generation calls by its own ids.
    fn tell(&mut self, progress: Vec<Progress>) {
        let mut told = Vec::with_capacity(progress.len());
        self.load.steps += 1;
        for mut event in progress {
            let Some(&id) = self.ours.get(&event.id) else {
                continue;
            };
            if event.outcome.is_some() {
                self.ours.remove(&event.id);
                self.theirs.remove(&id);
            }
            self.load.tokens += u64::from(event.chosen.is_some());
            event.id = id;
            told.push(event);
        }
        self.publish(told);
    }

    fn publish(&mut self, progress: Vec<Progress>) {
        (self.load.running, self.load.waiting) = self.generation.load();
        self.load.running += self.readings.len();
        self.load.cached_bytes = self.generation.cached_bytes();
        self.load.prefix_bytes = self.generation.prefix_bytes();
        let mut outbox = locked(&self.shared.outbox);
        outbox.load = self.load;
        if !progress.is_empty() {
            outbox.progress.extend(progress);
            self.shared.happened.notify_all();
        }
    }
}
