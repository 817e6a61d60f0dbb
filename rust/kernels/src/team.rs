//! A small team of threads for kernels.
//!
//! A parallel region hands out chunks `0..n` from one counter; the caller works too. A chunk computes its part of the output
//! whichever thread runs it, so results do not depend on the number of threads. Workers are started on first use, spin for
//! some tens of microseconds between regions, then park. A region ends as soon as no chunk is left and none is held: a worker
//! the system has not scheduled yet holds nobody up.
//!
//! A region entered from inside a region, or while another thread holds the team, runs on its own thread alone. After a
//! `fork` the child builds its own team.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::simd::{self, Level};
use crate::{Real, RowsMut, fork};

/// How long an idle worker looks for work before it parks.
const SPIN: Duration = Duration::from_micros(40);

/// The most threads of a team.
const MOST: usize = 256;

/// `LMRS_NUM_THREADS` is not a number of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadsError(String);

impl fmt::Display for ThreadsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(asked) = self;
        write!(
            f,
            "LMRS_NUM_THREADS={asked}: expected a number from 1 to {MOST}"
        )
    }
}

impl std::error::Error for ThreadsError {}

/// What `LMRS_NUM_THREADS` asks for, else the CPUs this process may use (affinity and cgroup quota respected). Decided once a
/// process.
///
/// # Errors
/// If `LMRS_NUM_THREADS` is set and not a number of threads.
pub fn configured() -> Result<usize, ThreadsError> {
    static THREADS: OnceLock<Result<usize, ThreadsError>> = OnceLock::new();
    let choose = || match std::env::var_os("LMRS_NUM_THREADS") {
        None => Ok(std::thread::available_parallelism().map_or(1, |n| usize::from(n).min(MOST))),
        Some(asked) => {
            let asked = asked.to_string_lossy().trim().to_owned();
            let number = asked.parse().ok().filter(|n| (1..=MOST).contains(n));
            number.ok_or(ThreadsError(asked))
        }
    };
    THREADS.get_or_init(choose).clone()
}

/// Threads in a region entered from this thread. A wrong `LMRS_NUM_THREADS` is reported by [`configured`]; here it means one.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    LIMIT
        .get()
        .unwrap_or_else(|| *THREADS.get_or_init(|| configured().unwrap_or(1)))
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
    static OWN: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// Runs `body` with regions entered from this thread on a team of exactly `threads`.
pub fn with_threads<R>(threads: usize, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<usize>, Option<Arc<Team>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
            if let Some(team) = OWN.replace(self.1.take()) {
                team.stop();
            }
        }
    }
    let threads = threads.max(1);
    let _restore = Restore(
        LIMIT.replace(Some(threads)),
        OWN.replace(Some(Team::start(threads))),
    );
    body()
}

/// Runs `body(0)` … `body(chunks − 1)`, each once, on the team; returns when all are done.
///
/// # Panics
/// With the payload of the first chunk that panicked.
pub fn parallel(chunks: usize, body: impl Fn(usize) + Sync) {
    if chunks <= 1 || INSIDE.get() || threads() == 1 {
        (0..chunks).for_each(body);
        return;
    }
    let own = OWN.with_borrow(Clone::clone);
    match &own {
        Some(team) => team.region(chunks, &body),
        None => shared().region(chunks, &body),
    }
}

/// Splits `out` into blocks of `block` rows and runs `body(first_row, rows)` for each on the team.
pub fn for_rows<F: Real>(out: RowsMut<F>, block: usize, body: impl Fn(usize, RowsMut<F>) + Sync) {
    let block = block.max(1);
    let shared = out.share();
    parallel(shared.rows().div_ceil(block), |chunk| {
        let first = chunk * block;
        // SAFETY: chunks are disjoint runs of rows, and `out` is borrowed until the region ends.
        body(first, unsafe {
            shared.slice(first..(first + block).min(shared.rows()))
        });
    });
}

/// Rows in a chunk so that it touches about 64 KiB, less than which is not worth handing to another thread.
pub(crate) fn rows_for<F>(elements_per_row: usize) -> usize {
    (65_536 / (elements_per_row * size_of::<F>()).max(1)).max(1)
}

type Body<'a> = dyn Fn(usize) + Sync + 'a;

struct Job {
    body: *const Body<'static>,
    chunks: usize,
    level: Option<Level>,
}

/// All that threads say to each other in a region, in one cache line: taking it from another core costs more than anything else.
#[repr(align(64))]
struct Line {
    /// `chunks nobody has taken << 32 | workers that hold one`. A worker enters by taking a chunk, in one step; between regions it
    /// is 0.
    state: AtomicU64,
    /// Written while `state` is 0, read by those who hold a chunk.
    job: UnsafeCell<Job>,
}

// SAFETY: `state` says who may touch the job, and the body it points to is `Sync`.
unsafe impl Send for Line {}
// SAFETY: as above.
unsafe impl Sync for Line {}

/// One chunk that nobody has taken.
const CHUNK: u64 = 1 << 32;
/// One worker.
const WORKER: u64 = 1;

impl Line {
    fn new() -> Self {
        const { assert!(size_of::<Self>() == 64) };
        let nothing: &'static Body<'static> = &|_| ();
        Self {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job {
                body: nothing,
                chunks: 0,
                level: None,
            }),
        }
    }

    /// Whether there is a chunk to take.
    fn open(&self, order: Ordering) -> bool {
        self.state.load(order) >= CHUNK
    }

    /// Takes a chunk, as so many workers more that `enter`; if there is none, so many `leave`. How many chunks were left.
    fn take(&self, enter: u64, leave: u64) -> Option<usize> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let (new, left) = if state >= CHUNK {
                (state - CHUNK + enter, Some((state / CHUNK) as usize))
            } else if leave == 0 {
                return None;
            } else {
                (state - leave, None)
            };
            let changed =
                self.state
                    .compare_exchange_weak(state, new, Ordering::AcqRel, Ordering::Relaxed);
            match changed {
                Ok(_) => return left,
                Err(now) => state = now,
            }
        }
    }
}

struct Team {
    line: Line,
    busy: Mutex<()>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    workers: OnceLock<Vec<Arc<Worker>>>,
    stopped: AtomicBool,
}

struct Worker {
    thread: OnceLock<Thread>,
    parked: AtomicBool,
}

static SHARED: AtomicPtr<Team> = AtomicPtr::new(null_mut());

/// The team of the process. It lives as long as the process; a child made by `fork` gets a new one, since threads do not
/// survive and the parent's locks may be held.
fn shared() -> &'static Team {
    static FORK: Once = Once::new();
    let mut team = SHARED.load(Ordering::Acquire);
    if team.is_null() {
        FORK.call_once(|| fork::around(None, None, Some(forget)));
        let new = Arc::into_raw(Team::start(threads())).cast_mut();
        team = match SHARED.compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                // SAFETY: `new` came from `Arc::into_raw` just above and was not published.
                unsafe { Arc::from_raw(new) }.stop();
                other
            }
        };
    }
    // SAFETY: a published team is never freed.
    unsafe { &*team }
}

extern "C" fn forget() {
    SHARED.store(null_mut(), Ordering::Release);
}

impl Team {
    fn start(threads: usize) -> Arc<Self> {
        let team = Arc::new(Self {
            line: Line::new(),
            busy: Mutex::new(()),
            panic: Mutex::new(None),
            workers: OnceLock::new(),
            stopped: AtomicBool::new(false),
        });
        let workers = (1..threads).filter_map(|index| {
            let worker = Arc::new(Worker {
                thread: OnceLock::new(),
                parked: AtomicBool::new(false),
            });
            let (mine, team) = (Arc::clone(&worker), Arc::clone(&team));
            let builder = std::thread::Builder::new().name(format!("lmrs-{index}"));
            // Without the thread the region has one worker fewer and the same result.
            let handle = builder.spawn(move || team.work(&mine)).ok()?;
            let _ = worker.thread.set(handle.thread().clone());
            Some(worker)
        });
        let _ = team.workers.set(workers.collect());
        team
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for worker in self.workers.get().into_iter().flatten() {
            if worker.parked.swap(false, Ordering::SeqCst)
                && let Some(thread) = worker.thread.get()
            {
                thread.unpark();
            }
        }
    }

    fn region(&self, chunks: usize, body: &Body<'_>) {
        let (Ok(busy), Ok(others)) = (self.busy.try_lock(), u32::try_from(chunks - 1)) else {
            (0..chunks).for_each(body);
            return;
        };
        // SAFETY: only the lifetime is erased; no chunk is left and none held when the region ends.
        let body = unsafe { std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body) };
        let job = Job {
            body,
            chunks,
            level: simd::forced(),
        };
        // SAFETY: this thread alone has the team, and no worker holds a chunk.
        unsafe { *self.line.job.get() = job };
        // The first chunk is the caller's.
        self.line
            .state
            .store(u64::from(others) * CHUNK, Ordering::SeqCst);
        self.wake();
        self.run(chunks, 0);
        let mut spins = 0_u32;
        while self.line.state.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let panic = self
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(busy);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Works on a chunk that this thread has taken, when `left` were left, and on others until none is left: then a worker has
    /// left the region. A panic leaves none and is kept for the caller, who is inside with `leave` 0.
    fn run(&self, left: usize, leave: u64) {
        // SAFETY: a chunk of the region is held, so the job and what it points to stay as they are.
        let (body, chunks, level) = unsafe {
            let job = &*self.line.job.get();
            (&*job.body, job.chunks, job.level)
        };
        INSIDE.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            simd::with_forced(level, || {
                let mut left = Some(left);
                while let Some(more) = left {
                    body(chunks - more);
                    left = self.line.take(0, leave);
                }
            });
        }));
        INSIDE.set(false);
        if let Err(payload) = result {
            self.panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(payload);
            self.line.state.fetch_and(CHUNK - 1, Ordering::AcqRel);
            self.line.state.fetch_sub(leave, Ordering::AcqRel);
        }
    }

    fn work(&self, me: &Worker) {
        let mut idle_since = Instant::now();
        let mut spins = 0_u32;
        while !self.stopped.load(Ordering::Relaxed) {
            if self.line.open(Ordering::Relaxed) {
                if let Some(left) = self.line.take(WORKER, 0) {
                    self.run(left, WORKER);
                    idle_since = Instant::now();
                }
                continue;
            }
            spins = spins.wrapping_add(1);
            if !spins.is_multiple_of(64) || idle_since.elapsed() < SPIN {
                std::hint::spin_loop();
                continue;
            }
            me.parked.store(true, Ordering::SeqCst);
            if !self.line.open(Ordering::SeqCst) && !self.stopped.load(Ordering::SeqCst) {
                std::thread::park();
            }
            me.parked.store(false, Ordering::SeqCst);
            idle_since = Instant::now();
        }
    }
}
