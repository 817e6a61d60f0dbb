//! How the time for a text that a search could stumble over grows with it: `cargo run --release -p lmrs-tokenizers --example
//! hostile [MINUTES]`.
//!
//! Each text is doubled from 1 MiB to 16 MiB, or as far as its share of the minutes (5 if not said) goes; what quick texts
//! leave over is for the slow ones. The columns are milliseconds for 1 MiB, the largest size, nanoseconds a byte there, and
//! t(2n)/t(n) of the largest pair if there was time for one, all in time of the processor.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lmrs_testing::{
    hostile,
    tokenizers::{FIXTURES, fixture},
};
use lmrs_tokenizers::{EncodeOptions, Tokenizer};
use rustix::time::{ClockId, clock_gettime};

const SMALLEST: usize = 1 << 20;
const LARGEST: usize = 1 << 24;

/// What this thread has had of a processor.
fn spent() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// The quickest of two tries. They differ by a character, or the second would find the first in a cache.
fn time(tokenizer: &Tokenizer, number: usize, bytes: usize) -> f64 {
    let text = hostile::text(number, bytes);
    let try_from = |skip| {
        let (start, _) = text.char_indices().nth(skip).unwrap();
        let before = spent();
        black_box(tokenizer.encode(&text[start..], None, &EncodeOptions::default())).unwrap();
        spent().saturating_sub(before).as_secs_f64()
    };
    try_from(0).min(try_from(1))
}

fn main() {
    let minutes = std::env::args().nth(1);
    let minutes = minutes.map_or(5.0, |minutes| minutes.parse().expect("a number of minutes"));
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let mut left = (FIXTURES.len() * hostile::COUNT) as u32;
    let mut worst = 0.0_f64;
    for name in FIXTURES {
        let tokenizer = Tokenizer::from_json(&fixture(name)).unwrap();
        for number in 0..hostile::COUNT {
            let share = end.saturating_duration_since(Instant::now()) / left;
            left -= 1;
            let start = Instant::now();
            let first = time(&tokenizer, number, SMALLEST);
            let (mut bytes, mut taken, mut growth) = (SMALLEST, first, None);
            // Twice the text twice, and its making.
            while bytes < LARGEST
                && start.elapsed().as_secs_f64() + 4.5 * taken < share.as_secs_f64()
            {
                bytes *= 2;
                let now = time(&tokenizer, number, bytes);
                (growth, taken) = (Some(now / taken), now);
            }
            worst = worst.max(growth.unwrap_or(0.0));
            let text: String = hostile::text(number, 64).chars().take(8).collect();
            println!(
                "{name:9} {text:32} {:7.1} ms {:3} MiB {:6.1} ns {:>5}",
                first * 1e3,
                bytes >> 20,
                taken * 1e9 / bytes as f64,
                growth.map_or("-".to_owned(), |growth| format!("{growth:.2}")),
                text = format!("{text:?}"),
            );
        }
    }
    println!("largest t(2n)/t(n): {worst:.2}");
}
