//! What is found by hand, from a cache or in another order, against what is found slowly.

use lmrs_testing::tokenizers::{self, FIXTURES};
use lmrs_tokenizers::{EncodeOptions, Encoding, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TIKTOKEN_CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn fixture(name: &str) -> Value {
    serde_json::from_slice(&tokenizers::fixture(name)).unwrap()
}

fn tokenizer(json: &Value) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

/// A byte-level BPE that cuts by `pattern`.
fn cutting_by(pattern: &str) -> Tokenizer {
    let mut json = fixture("byte_bpe");
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
    ] });
    tokenizer(&json)
}

/// The same pattern in a spelling that is not known and so goes to the automaton.
fn respelled(pattern: &str) -> String {
    pattern.replacen(r"\p{N}", r"[\p{N}]", 1)
}

fn plain() -> EncodeOptions {
    EncodeOptions {
        add_special_tokens: false,
        ..EncodeOptions::default()
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Encoding {
    tokenizer.encode(text, None, &plain()).unwrap()
}

/// What patterns treat differently, in any order.
fn text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "'s",
        "'S",
        "'ſ",
        "'re",
        "'RE",
        "'lL",
        "'",
        " ",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\r",
        "\t",
        "\u{a0}",
        "\u{3000}",
        "\u{85}",
        "a",
        "B",
        "hello",
        "HTML",
        "é",
        "É",
        "\u{301}",
        "語",
        "ǅ",
        "ʰ",
        "ß",
        "1",
        "23",
        "٣",
        "²",
        "Ⅷ",
        "!",
        "/",
        "?!",
        "_",
        "😀",
        "\u{200d}",
        "\0",
        "\u{7f}",
        "abcdefghijklmnopqrstuvwxyz",
        "привет",
        "ﬁ",
        "ｆｕ",
        " x",
        " the",
        " of",
        "don't",
        "\u{1100}\u{1161}",
        "\u{600}",
        "▁",
        "ABCDEFGHIJK",
        "\u{fe0f}",
    ]);
    prop_oneof![
        4 => prop::collection::vec(pieces.clone(), 0..80).prop_map(|pieces| pieces.concat()),
        2 => prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.join(" ")),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(lmrs_testing::cases(64))]

    #[test]
    fn words_by_hand_are_those_of_the_automaton(texts in prop::collection::vec(text(), 8)) {
        for pattern in [GPT2, CL100K, TIKTOKEN_CL100K, QWEN2, O200K] {
            let (fast, slow) = (cutting_by(pattern), cutting_by(&respelled(pattern)));
            for text in &texts {
                prop_assert_eq!(encode(&fast, text), encode(&slow, text), "{:?} by {}", text, pattern);
            }
        }
    }

    #[test]
    fn stretches_are_encoded_as_the_whole(texts in prop::collection::vec(text(), 8)) {
        for name in ["wordpiece", "unigram", "unigram with runs of blanks", "unigram with words", "spm_bpe"] {
            let mut json = fixture(name.split(' ').next().unwrap());
            if name.contains("blanks") {
                // Line ends and tabs become spaces, and of many spaces one is left.
                json["normalizer"] = json!({ "type": "Sequence", "normalizers": [
                    { "type": "Nmt" },
                    { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": "▁" },
                ] });
            } else if name.contains("words") {
                json["normalizer"] = json!({ "type": "Sequence", "normalizers": [{ "type": "Nmt" }, { "type": "NFKC" }] });
                let last = json["pre_tokenizer"].clone();
                json["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, last] });
            }
            for token in json["added_tokens"].as_array_mut().unwrap() {
                token["normalized"] = json!(false);
            }
            let cut = tokenizer(&json);
            // A token that is looked for in normalised text: the input cannot be cut before.
            let id = json["model"]["vocab"].as_object().map_or_else(|| json["model"]["vocab"].as_array().unwrap().len(), serde_json::Map::len);
            let id = json["added_tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap() + 1).max().unwrap().max(id as u64);
            json["added_tokens"].as_array_mut().unwrap().push(json!({
                "id": id, "content": "no such text", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false,
            }));
            let whole = tokenizer(&json);
            for text in texts.iter().chain(&texts) {
                prop_assert_eq!(encode(&cut, text), encode(&whole, text), "{:?} by {}", text, name);
            }
        }
    }

    #[test]
    fn a_word_seen_before_has_the_same_tokens(texts in prop::collection::vec(text(), 2)) {
        for name in FIXTURES {
            let json = fixture(name);
            let used = tokenizer(&json);
            for text in texts.iter().chain(&texts) {
                let new = tokenizer(&json);
                let encoding = used.encode(text, None, &EncodeOptions::default()).unwrap();
                prop_assert_eq!(&encoding, &new.encode(text, None, &EncodeOptions::default()).unwrap());
                prop_assert_eq!(&used.encode_ids(text, &EncodeOptions::default()).unwrap(), &encoding.ids);
            }
        }
    }
}

#[test]
fn a_batch_is_its_texts() {
    let texts: Vec<String> = (0..300)
        .map(|n| format!("text {n} ").repeat(n * 2))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for name in FIXTURES {
        let tokenizer = tokenizer(&fixture(name));
        let options = EncodeOptions::default();
        let (ids, starts) = tokenizer.encode_rows(&texts, None, &options).unwrap();
        let encodings = tokenizer.encode_batch(&texts, None, &options).unwrap();
        let rows = starts
            .windows(2)
            .map(|row| &ids[row[0] as usize..row[1] as usize]);
        for ((text, ids), encoding) in texts.iter().zip(rows).zip(encodings) {
            assert_eq!(tokenizer.encode_ids(text, &options).unwrap(), ids);
            assert_eq!(encoding.ids, ids);
        }
    }
}
