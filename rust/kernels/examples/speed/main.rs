//! Speed of the kernels beside the floor of this machine: `cargo run --release -p lmrs-kernels --example speed [filter]`.
//!
//! `peak` is the measured rate of independent multiply-adds of each type, `read` the measured bandwidth of reading memory. One
//! thread is timed by its CPU clock, so that neighbours on a shared machine do not count.

mod attention;
mod floor;
mod products;
mod rest;

use lmrs_kernels::linear::Weights;
use lmrs_kernels::{level, team};

use floor::{large_pages, peak, read, seconds};

fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

struct Report {
    filter: String,
    threads: usize,
    /// Of products of floats, of bfloat16 and of bytes.
    peaks: [f64; 3],
    read: f64,
}

impl Report {
    fn wants(&self, name: &str) -> bool {
        format!("{}T {name}", self.threads).contains(&self.filter)
    }

    fn line(&self, name: &str, amount: f64, unit: &str, floor: f64, work: impl FnMut()) {
        let name = format!("{}T {name}", self.threads);
        if name.contains(&self.filter) {
            let time = seconds(work);
            let rate = amount / time / 1e9;
            let share = 100.0 * rate / floor;
            println!(
                "{name:40} {rate:8.1} {unit} {share:5.0} % {:10.3} ms",
                time * 1e3
            );
        }
    }

    fn flops(&self, name: &str, amount: usize, work: impl FnMut()) {
        self.line(name, amount as f64, "GF/s", self.peak(Weights::F32), work);
    }

    fn peak(&self, weights: Weights) -> f64 {
        match weights {
            Weights::F32 => self.peaks[0],
            Weights::Bf16 => self.peaks[1],
            Weights::Int8 | Weights::Int4 => self.peaks[2],
        }
    }

    fn bytes(&self, name: &str, amount: usize, work: impl FnMut()) {
        self.line(name, amount as f64, "GB/s", self.read, work);
    }
}

fn main() {
    let level = level().expect("LMRS_SIMD is a level");
    let filter = std::env::args().nth(1).unwrap_or_default();
    let one = team::with_threads(1, || {
        [Weights::F32, Weights::Bf16, Weights::Int8].map(|weights| peak(level, weights))
    });
    let memory = large_pages();
    for threads in [1, 2] {
        team::with_threads(threads, || {
            let report = Report {
                filter: filter.clone(),
                threads,
                peaks: one.map(|peak| peak * threads as f64),
                read: read(memory),
            };
            let [floats, pairs, bytes] = report.peaks;
            println!(
                "{level:?} {threads}T: peak {floats:.0} f32, {pairs:.0} bf16, {bytes:.0} int8 Gop/s; read {:.1} GB/s",
                report.read
            );
            products::report(&report);
            attention::report(&report);
            rest::report(&report);
        });
    }
}
