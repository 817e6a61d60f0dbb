//! What the machine can do, and how long work takes.

use std::alloc::Layout;
use std::hint::black_box;
use std::time::Instant;

use lmrs_kernels::linear::Weights;
use lmrs_kernels::simd::{Dot, DotKernel, Real};
use lmrs_kernels::{Level, Rows, RowsMut, team};

/// Seconds this thread has run.
fn cpu_clock() -> f64 {
    #[repr(C)]
    struct Time {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Time) -> i32;
    }
    const THREAD: i32 = 3;
    let mut time = Time {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: the clock of the thread, into a time.
    let failed = unsafe { clock_gettime(THREAD, &raw mut time) };
    assert_eq!(failed, 0, "Linux has a clock for each thread");
    time.seconds as f64 + time.nanoseconds as f64 / 1e9
}

/// Seconds a run takes, the median of batches of at least two milliseconds: of one thread by its CPU clock.
pub fn seconds(mut work: impl FnMut()) -> f64 {
    let mut batch = |runs: u32| {
        let (start, clock) = (Instant::now(), cpu_clock());
        for _ in 0..runs {
            work();
        }
        if team::threads() == 1 {
            cpu_clock() - clock
        } else {
            start.elapsed().as_secs_f64()
        }
    };
    batch(1);
    let runs = (0.002 / batch(1)).ceil().clamp(1.0, 1e6) as u32;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || begin.elapsed().as_secs_f64() < 0.3 {
        times.push(batch(runs) / f64::from(runs));
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Twelve independent chains of one instruction; returns how many operations were done.
struct Peak<'a> {
    weights: Weights,
    seed: &'a mut f32,
}

const PEAK_STEPS: usize = 1 << 20;

impl DotKernel<f32> for Peak<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Dot<f32>>(self, s: S) -> f64 {
        let (a, word) = (s.splat(*self.seed), s.splat_word(self.seed.to_bits()));
        let operations = match self.weights {
            Weights::F32 => {
                let (mut sums, b) = ([a; 12], s.splat(1e-9));
                for _ in 0..PEAK_STEPS {
                    for sum in &mut sums {
                        *sum = s.fma(*sum, a, b);
                    }
                }
                for sum in sums {
                    *self.seed += s.sum(sum);
                }
                2
            }
            Weights::Bf16 => {
                let (mut sums, word) = ([a; 12], s.pair(word, 0));
                for _ in 0..PEAK_STEPS {
                    for sum in &mut sums {
                        *sum = s.dot_pair(word, word, *sum);
                    }
                }
                for sum in sums {
                    *self.seed += s.sum(sum);
                }
                4 / S::PAIR_PASSES
            }
            Weights::Int8 | Weights::Int4 => {
                let (mut sums, quad) = ([word; 12], s.quad(word));
                for _ in 0..PEAK_STEPS {
                    for sum in &mut sums {
                        *sum = s.dot_quad(word, quad, *sum);
                    }
                }
                for sum in sums {
                    *self.seed += s.sum(s.integers(sum));
                }
                8
            }
        };
        *self.seed = self.seed.clamp(0.5, 0.6);
        (operations * 12 * S::LANES * PEAK_STEPS) as f64
    }
}

/// Thousands of millions of operations a second of products with such weights, in registers.
pub fn peak(level: Level, weights: Weights) -> f64 {
    let (mut seed, mut operations) = (0.5, 0.0);
    let time = seconds(|| {
        let seed = black_box(&mut seed);
        operations = f32::dispatch_dot(level, Peak { weights, seed });
    });
    operations / time / 1e9
}

/// 256 MiB on pages of 2 MiB, as panels lie.
pub fn large_pages() -> &'static [f32] {
    unsafe extern "C" {
        fn madvise(start: *mut u8, length: usize, advice: i32) -> i32;
    }
    const HUGEPAGE: i32 = 14;
    let layout = Layout::from_size_align(256 << 20, 2 << 20).expect("a layout");
    // SAFETY: the memory is fresh, never freed and written before it is read.
    unsafe {
        let start = std::alloc::alloc(layout);
        assert!(!start.is_null(), "256 MiB to read");
        madvise(start, layout.size(), HUGEPAGE);
        start.write_bytes(0, layout.size());
        std::slice::from_raw_parts(start.cast(), layout.size() / 4)
    }
}

/// Thousands of millions of bytes a second of reading them, a line at a time.
pub fn read(memory: &[f32]) -> f64 {
    let rows = Rows::new(memory, 1 << 10, 64 << 10);
    let mut out = vec![0.0; 1 << 10];
    let time = seconds(|| {
        team::for_rows(RowsMut::new(&mut out, 1 << 10, 1), 8, |first, mut out| {
            for i in 0..out.rows() {
                let mut sums = [0.0; 4];
                for lines in rows.row(first + i).chunks_exact(64) {
                    for (sum, line) in sums.iter_mut().zip(lines.chunks_exact(16)) {
                        *sum += line[0];
                    }
                }
                out.row_mut(i)[0] = sums.iter().sum();
            }
        });
    });
    black_box(&mut out);
    size_of_val(memory) as f64 / time / 1e9
}
