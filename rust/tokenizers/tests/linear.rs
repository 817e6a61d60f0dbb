//! Time grows with the text and not faster, whatever the text is.
//!
//! `LMRS_LINEAR_MIB=16` takes texts of 16 MiB: `make slow`.

use std::time::Duration;

use lmrs_tokenizers::{EncodeOptions, Tokenizer};
use rustix::time::{ClockId, clock_gettime};

const FIXTURES: [&str; 6] = [
    "byte_bpe",
    "roberta",
    "wordpiece",
    "unigram",
    "spm_bpe",
    "clip",
];

/// Texts that repeat one of these.
const REPEATED: [&str; 54] = [
    "a",
    "A",
    "1",
    " ",
    "\n",
    "\t",
    "\r\n",
    "!",
    "'",
    "/",
    "_",
    "-",
    "\0",
    "\u{7f}",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "é",
    "É",
    "語",
    "ば",
    "한",
    "\u{301}",
    "e\u{301}",
    "\u{300}\u{301}",
    "\u{1100}\u{1161}",
    "\u{200d}",
    "😀",
    "👨\u{200d}",
    "🇩",
    "ﬁ",
    "ß",
    "ſ",
    "ǅ",
    "ʰ",
    "'s",
    "'ſ",
    " a",
    "  a",
    " \n",
    "\n ",
    " !",
    "a b",
    "ab",
    "aB",
    "Ab",
    "語A",
    "the ",
    "don't ",
    "<",
    "<mask",
    "[UNK",
    "▁",
    "\u{600}",
];

/// Repetition with something else at the end: what a look-ahead or a search from the end stumbles over.
const ENDS: [(&str, &str); 6] = [
    (" ", "x"),
    ("\n", " x"),
    ("a", "!"),
    ("語", "A"),
    ("A", "語"),
    ("\u{301}", "x"),
];

fn tokenizer(name: &str) -> Tokenizer {
    let path = format!(
        "{}/../../tests/fixtures/tokenizers/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap()
}

/// `bytes` of letters without a pattern: one word that repeats nothing.
fn noise(bytes: usize, letters: u64) -> String {
    let mut state = 1u64;
    let letter = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + ((state >> 33) % letters) as u8)
    };
    (0..bytes).map(letter).collect()
}

fn texts(bytes: usize) -> Vec<String> {
    let repeated = |piece: &str, end: &str| piece.repeat(bytes / piece.len()) + end;
    let mut all: Vec<String> = REPEATED.iter().map(|piece| repeated(piece, "")).collect();
    all.extend(ENDS.iter().map(|(piece, end)| repeated(piece, end)));
    all.extend([2, 3, 26].map(|letters| noise(bytes, letters)));
    all
}

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
    let (small, large) = (texts(1 << 13), texts(largest));
    for name in FIXTURES {
        let tokenizer = tokenizer(name);
        for (small, large) in small.iter().zip(&large) {
            let growth = growth(&tokenizer, [small, large], BOUND);
            let start: String = large.chars().take(8).collect();
            assert!(
                growth <= BOUND,
                "{name}: {start:?}…: a byte of {largest} costs {growth:.1} times one of {}",
                1 << 13
            );
        }
    }
}
