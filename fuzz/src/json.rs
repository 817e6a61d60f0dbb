//! `tokenizer.json` with parts changed.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use lmrs_tokenizers::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

use crate::{FIXTURES, promises};

/// Loading takes time with the vocabulary, and a small one has all that the large one has.
const KEPT: usize = 300;

static FILES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let file = |text: &&str| -> Value { serde_json::from_str(text).expect("a fixture is JSON") };
    FIXTURES.iter().map(file).map(small).collect()
});

/// The file with few merges or pieces.
fn small(mut file: Value) -> Value {
    for part in ["merges", "vocab"] {
        if let Some(list) = file["model"][part].as_array_mut() {
            list.truncate(KEPT);
        }
    }
    file
}

/// A `tokenizer.json` with changes.
#[derive(Arbitrary, Debug)]
pub struct Json {
    file: u8,
    changes: Vec<(u16, Change)>,
    text: String,
}

/// What becomes of a value.
#[derive(Arbitrary, Debug)]
enum Change {
    Gone,
    Null,
    Bool(bool),
    Number(i64),
    Real(f64),
    Text(String),
    Word(u8),
    /// A copy of another value of the same file, or of another one.
    Copy(u8, u16),
    List(Vec<u8>),
}

/// Values that mean something somewhere.
fn word(number: u8) -> Value {
    let words = json!([
        "BPE", "WordPiece", "Unigram", "WordLevel", "Sequence", "Split", "ByteLevel", "Metaspace", "Precompiled", "NFC", "NFKD",
        "BertNormalizer", "Prepend", "Replace", "Strip", "TemplateProcessing", "RobertaProcessing", "Fuse", "CTC", "ByteFallback",
        "always", "first", "never", "Isolated", "Removed", "MergedWithNext", "Contiguous", "Right", "Left", "OnlyFirst",
        {"Regex": "(a+)+$"}, {"Regex": "\\p{L}{1,3}"}, {"Regex": " {2,}"}, {"String": ""}, "▁", "##", " ", "", [], {},
        {"type": "UnicodeScripts"}, {"type": "Digits", "individual_digits": true}, {"type": "FixedLength", "length": 0},
        {"type": "Whitespace"}, {"type": "Punctuation", "behavior": "Isolated"}, {"type": "Nmt"}, {"type": "Lowercase"},
        {"type": "StripAccents"}, {"type": "CharDelimiterSplit", "delimiter": "a"}, {"type": "WhitespaceSplit"},
    ]);
    let list = words.as_array().cloned().unwrap_or_default();
    list.get(number as usize % list.len())
        .cloned()
        .unwrap_or_default()
}

/// The value at a place, counted from the top down, or the last.
fn find(value: &mut Value, left: &mut usize, found: &mut dyn FnMut(&mut Value)) -> bool {
    if *left == 0 {
        found(value);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| find(value, left, found)),
        Value::Object(map) => map.values_mut().any(|value| find(value, left, found)),
        _ => false,
    }
}

impl Json {
    /// Loads the file; if that goes well, encodes the text, and loads what is written.
    pub fn run(self) {
        let files = &*FILES;
        let mut file = files[self.file as usize % files.len()].clone();
        for (place, change) in self.changes {
            let new = match change {
                Change::Gone | Change::Null => Value::Null,
                Change::Bool(value) => json!(value),
                Change::Number(value) => json!(value),
                Change::Real(value) => json!(value),
                Change::Text(value) => json!(value),
                Change::Word(number) => word(number),
                Change::Copy(from, place) => {
                    let mut other = files[from as usize % files.len()].clone();
                    let mut copy = Value::Null;
                    find(&mut other, &mut (place as usize), &mut |value| {
                        copy = value.clone()
                    });
                    copy
                }
                Change::List(bytes) => bytes.into_iter().map(word).collect(),
            };
            find(&mut file, &mut (place as usize), &mut |value| {
                *value = new.clone()
            });
        }
        if let Ok(tokenizer) = Tokenizer::from_json(file.to_string().as_bytes()) {
            promises(&tokenizer, &self.text);
            if let Ok(written) = tokenizer.to_json() {
                let again = Tokenizer::from_json(&written).expect("what is written is read");
                let ids = |tokenizer: &Tokenizer| {
                    tokenizer
                        .encode_ids(&self.text, &EncodeOptions::default())
                        .ok()
                };
                assert_eq!(ids(&again), ids(&tokenizer));
            }
        }
    }
}
