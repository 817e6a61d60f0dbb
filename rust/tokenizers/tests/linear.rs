//! Time grows with the text and not faster, whatever the text is.
//!
//! `LMRS_LINEAR_MIB=16` takes texts of 16 MiB: `make slow`.

use std::time::Duration;

use lmrs_testing::{
    hostile,
    tokenizers::{FIXTURES, fixture},
};
use lmrs_tokenizers::{EncodeOptions, Tokenizer};
use rustix::time::{ClockId, clock_gettime};

/// What this thread has had of a processor: what else runs on the machine costs nothing.
fn spent() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap()
}

fn time(tokenizer: &Tokenizer, text: &str) -> Duration {
    let before = spent();
    tokenizer
        .encode(text, None, &EncodeOptions::default())
        .unwrap();
    spent().saturating_sub(before)
}

/// How much more a byte of `large` costs than one of `small`, of the quickest of some tries; no more of them once it is
/// `enough`. Each try leaves another character of the start out, or the cache would know a word of thousands of letters
/// and not a longer one.
fn growth(tokenizer: &Tokenizer, texts: [&str; 2], enough: f64) -> f64 {
    let mut quickest = [f64::INFINITY; 2];
    for skip in 0..30 {
        for (quickest, text) in quickest.iter_mut().zip(texts) {
            let (start, _) = text.char_indices().nth(skip).unwrap();
            let text = &text[start..];
            *quickest = quickest.min(time(tokenizer, text).as_secs_f64() / text.len() as f64);
        }
        if quickest[1] <= enough * quickest[0] {
            break;
        }
    }
    quickest[1] / quickest[0]
}

/// What a byte costs grows as caches end and pages are touched first (three- to twelvefold from here to 16 MiB), and that
/// of a quadratic one as the text does: 32-fold at least, 2048-fold at 16 MiB. `examples/hostile.rs` measures; this tells
/// the two apart on any machine, however busy.
const BOUND: f64 = 16.0;

#[test]
fn a_byte_of_a_long_text_costs_as_one_of_a_short() {
    let largest =
        std::env::var("LMRS_LINEAR_MIB").map_or(1 << 18, |mib| mib.parse::<usize>().unwrap() << 20);
    let tokenizers = FIXTURES.map(|name| Tokenizer::from_json(&fixture(name)).unwrap());
    for number in 0..hostile::COUNT {
        let (small, large) = (
            hostile::text(number, 1 << 13),
            hostile::text(number, largest),
        );
        for (name, tokenizer) in FIXTURES.iter().zip(&tokenizers) {
            let growth = growth(tokenizer, [&small, &large], BOUND);
            let start: String = large.chars().take(8).collect();
            assert!(
                growth <= BOUND,
                "{name}: {start:?}…: a byte of {largest} costs {growth:.1} times one of {}",
                1 << 13
            );
        }
    }
}
