//! What a byte of a text that repeats one thing costs, at every doubling: `cargo run --release -p lmrs-tokenizers --example hostile`.
//!
//! The columns are nanoseconds a byte, of the quickest of five tries, from 4 KiB to 16 MiB; the last is milliseconds for 1 MiB.

use std::hint::black_box;
use std::time::Instant;

use lmrs_tokenizers::{EncodeOptions, Tokenizer};

const FIXTURES: [&str; 6] = [
    "byte_bpe",
    "roberta",
    "wordpiece",
    "unigram",
    "spm_bpe",
    "clip",
];
const REPEATED: [&str; 8] = ["a", "A", " ", "\n", "1", "!", "語", "\u{301}"];

/// Tries differ in length, or the cache would know the word they repeat.
fn seconds(tokenizer: &Tokenizer, piece: &str, bytes: usize) -> f64 {
    let time = |attempt| {
        let text = piece.repeat(bytes / piece.len() - attempt);
        let start = Instant::now();
        black_box(tokenizer.encode(&text, None, &EncodeOptions::default())).unwrap();
        start.elapsed().as_secs_f64()
    };
    (0..5).map(time).fold(f64::INFINITY, f64::min)
}

fn main() {
    for name in FIXTURES {
        let path = format!(
            "{}/../../tests/fixtures/tokenizers/{name}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
        for piece in REPEATED {
            let taken: Vec<f64> = (12..=24)
                .map(|power| seconds(&tokenizer, piece, 1 << power))
                .collect();
            print!("{name:9} {piece:>6?}");
            for (power, seconds) in (12..).zip(&taken) {
                print!(" {:6.1}", seconds * 1e9 / f64::from(1 << power));
            }
            println!("   {:6.1} ms", taken[20 - 12] * 1e3);
        }
    }
}
