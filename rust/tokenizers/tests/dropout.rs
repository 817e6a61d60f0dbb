//! Mergers left out at random: against a simulation with the same draws, and against the distribution that the paper's
//! procedure has.

use std::collections::BTreeMap;

use lmrs_philox::philox;
use lmrs_testing::{cases, tokenizers::fixture};
use lmrs_tokenizers::{Dropout, EncodeOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Best first; `b c` and `bc a` compete with others for the same letters.
const MERGES: [(&str, &str); 7] = [
    ("a", "b"),
    ("b", "c"),
    ("a", "a"),
    ("ab", "c"),
    ("bc", "a"),
    ("aa", "bc"),
    ("abc", "abc"),
];

fn vocabulary() -> Vec<String> {
    let letters = ["a", "b", "c"].map(str::to_owned);
    let merged = MERGES.iter().map(|(left, right)| format!("{left}{right}"));
    letters.into_iter().chain(merged).collect()
}

/// Words lie between spaces.
fn tokenizer() -> Tokenizer {
    let vocab: Value = vocabulary().into_iter().zip(0..).collect();
    let merges = MERGES.map(|(left, right)| json!([left, right]));
    let file = json!({
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "BPE", "vocab": vocab, "merges": merges, "dropout": 0.1 },
    });
    Tokenizer::from_json(file.to_string().as_bytes()).unwrap()
}

fn dropping(rate: f64, seed: u64) -> EncodeOptions {
    EncodeOptions {
        add_special_tokens: false,
        dropout: Some(Dropout { rate, seed }),
        ..EncodeOptions::default()
    }
}

/// The places of the pairs that merge, best first.
fn candidates(symbols: &[String]) -> Vec<usize> {
    let rank = |two: &[String]| {
        MERGES
            .iter()
            .position(|(left, right)| two[0] == *left && two[1] == *right)
    };
    let pairs = symbols.windows(2).enumerate();
    let mut found: Vec<_> = pairs
        .filter_map(|(at, two)| Some((rank(two)?, at)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, at)| at).collect()
}

fn merged(symbols: &[String], at: usize) -> Vec<String> {
    let mut symbols = symbols.to_vec();
    let right = symbols.remove(at + 1);
    symbols[at].push_str(&right);
    symbols
}

fn letters(word: &str) -> Vec<String> {
    word.chars().map(String::from).collect()
}

/// Word `number` of text `text`, with the draws that the documentation names.
fn simulated(word: &str, rate: f64, seed: u64, number: u32, text: u32) -> Vec<String> {
    let mut symbols = letters(word);
    let mut drawn = 0;
    let mut drops = || {
        let random = philox([drawn / 4, number, text, 0], seed)[drawn as usize % 4];
        drawn += 1;
        f64::from(random) < (rate * 4_294_967_296.0).floor()
    };
    while let Some(at) = candidates(&symbols).into_iter().find(|_| !drops()) {
        symbols = merged(&symbols, at);
    }
    symbols
}

/// How likely each way to write a word is.
fn distribution(symbols: &[String], rate: f64, likely: f64, all: &mut BTreeMap<Vec<String>, f64>) {
    let mut left = likely;
    for at in candidates(symbols) {
        distribution(&merged(symbols, at), rate, left * (1.0 - rate), all);
        left *= rate;
    }
    *all.entry(symbols.to_vec()).or_default() += left;
}

fn tokens(ids: &[u32]) -> Vec<String> {
    let vocabulary = vocabulary();
    ids.iter()
        .map(|id| vocabulary[*id as usize].clone())
        .collect()
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn what_is_left_out_is_what_was_drawn(
        words in prop::collection::vec("[abc]{1,60}", 1..4),
        rate in 0.0..1.0,
        seed in any::<u64>(),
    ) {
        let tokenizer = tokenizer();
        let text = words.join(" ");
        let options = dropping(rate, seed);
        let rows = tokenizer.encode_batch(&[&text, &text], None, &options).unwrap();
        for (row, encoding) in (0..).zip(&rows) {
            let expected: Vec<_> = (0..)
                .zip(&words)
                .flat_map(|(number, word)| simulated(word, rate, seed, number, row))
                .collect();
            prop_assert_eq!(tokens(&encoding.ids), expected);
        }
        prop_assert_eq!(&tokenizer.encode(&text, None, &options).unwrap(), &rows[0]);
        prop_assert_eq!(&tokenizer.encode_ids(&text, &options).unwrap(), &rows[0].ids);
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn ways_to_write_a_word_are_as_frequent_as_they_are_likely(
        word in "[abc]{2,7}",
        rate in 0.05..0.95,
        first in any::<u32>(),
    ) {
        const TRIES: u32 = 4000;
        let tokenizer = tokenizer();
        let mut expected = BTreeMap::new();
        distribution(&letters(&word), rate, 1.0, &mut expected);
        let mut found: BTreeMap<Vec<String>, u32> = BTreeMap::new();
        for seed in 0..TRIES {
            let options = dropping(rate, u64::from(first) + u64::from(seed));
            *found.entry(tokens(&tokenizer.encode_ids(&word, &options).unwrap())).or_default() += 1;
        }
        for way in found.keys() {
            prop_assert!(expected.contains_key(way), "{way:?}");
        }
        for (way, likely) in expected {
            let tries = f64::from(TRIES);
            let share = f64::from(found.get(&way).copied().unwrap_or(0)) / tries;
            // Six standard deviations, and what few tries lack of the normal distribution.
            let bound = 6.0 * (likely * (1.0 - likely) / tries).sqrt() + 8.0 / tries;
            prop_assert!((share - likely).abs() < bound, "{way:?}: {share}, expected {likely}");
        }
    }
}

/// All kinds of pipelines around a byte-pair model: nothing of the text is lost, and nothing left out is the usual.
#[test]
fn rates_of_nothing_and_of_all() {
    for name in ["byte_bpe", "roberta", "spm_bpe", "clip"] {
        let tokenizer = Tokenizer::from_json(&fixture(name)).unwrap();
        let text = "the lower newest widest things of this world, don't they?";
        let encode = |rate| tokenizer.encode(text, None, &dropping(rate, 3)).unwrap();
        let usual = EncodeOptions {
            add_special_tokens: false,
            ..EncodeOptions::default()
        };
        let usual = tokenizer.encode(text, None, &usual).unwrap();
        assert_eq!(encode(0.0), usual, "{name}");
        let (half, all) = (encode(0.5), encode(1.0));
        assert!(usual.len() < half.len() && half.len() < all.len(), "{name}");
        for encoding in [half, all] {
            assert_eq!(
                tokenizer.decode(&encoding.ids, false),
                tokenizer.decode(&usual.ids, false),
                "{name}"
            );
        }
    }
}

#[test]
fn the_file_asks_and_the_call_decides() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.dropout(), Some(0.1));
    let again = Tokenizer::from_json(&tokenizer.to_json().unwrap()).unwrap();
    assert_eq!(again.dropout(), Some(0.1));
    let ids = |text| {
        tokenizer
            .encode_ids(text, &EncodeOptions::default())
            .unwrap()
    };
    assert_eq!(tokens(&ids("abcabc")), ["abcabc"]);
    for rate in [-0.1, 1.1, f64::NAN] {
        let error = tokenizer.encode_ids("a", &dropping(rate, 0)).unwrap_err();
        assert!(error.to_string().contains("expected 0 to 1"), "{error}");
    }
}

#[test]
fn a_model_without_mergers_has_none_to_leave_out() {
    let file = json!({ "model": { "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]] } });
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes()).unwrap();
    let error = tokenizer.encode_ids("a", &dropping(0.1, 0)).unwrap_err();
    assert!(error.to_string().contains("Unigram"), "{error}");
}
