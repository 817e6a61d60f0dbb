//! What the fuzz targets try. A case is built from the fuzzer's bytes, so that most of what is tried has the shape of the
//! real thing; `run` panics where a promise is broken.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use lmrs_tokenizers::{
    BertVocab, EncodeOptions, Ends, GgufTokenizer, Padding, Side, Strategy, TokenType, Tokenizer,
    Truncation, Unit,
};
use serde_json::{Value, json};

const FIXTURES: [&str; 6] = [
    include_str!("../../tests/fixtures/tokenizers/byte_bpe.json"),
    include_str!("../../tests/fixtures/tokenizers/roberta.json"),
    include_str!("../../tests/fixtures/tokenizers/wordpiece.json"),
    include_str!("../../tests/fixtures/tokenizers/unigram.json"),
    include_str!("../../tests/fixtures/tokenizers/spm_bpe.json"),
    include_str!("../../tests/fixtures/tokenizers/clip.json"),
];

/// Loading takes time with the vocabulary, and a small one has all that the large one has.
const KEPT: usize = 300;

static FILES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let file = |text: &&str| -> Value { serde_json::from_str(text).expect("a fixture is JSON") };
    FIXTURES.iter().map(file).map(small).collect()
});

static SOUND: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let load = |text: &&str| Tokenizer::from_json(text.as_bytes()).expect("a fixture loads");
    FIXTURES.iter().map(load).collect()
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

/// A file of another kind.
#[derive(Arbitrary, Debug)]
pub enum File {
    /// Bytes that stand for a protobuf message: fields in any order, well formed or not.
    SentencePiece(Vec<Field>, bool, String),
    /// Tokens with ranks; `raw` comes behind them.
    Tiktoken(u8, Vec<(Vec<u8>, u16)>, Vec<u8>, String),
    Bert(Vec<String>, bool, String),
    Gpt2(Vec<(String, u32)>, Vec<(String, String)>, Vec<u8>, String),
    Gguf(Gguf, String),
    Bytes(u8, Vec<u8>),
}

/// A field of a `.model`.
#[derive(Arbitrary, Debug)]
pub enum Field {
    Piece(String, f32, u8),
    Trainer(Vec<(u8, u32)>),
    Normalizer(Vec<u8>, bool, bool, bool),
    Raw(Vec<u8>),
}

/// What is in a GGUF file.
#[derive(Arbitrary, Debug)]
pub struct Gguf {
    model: u8,
    pre: Option<u8>,
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<u8>,
    merges: Vec<String>,
    ids: [Option<u32>; 3],
    flags: [Option<bool>; 3],
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(number: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend(value);
}

fn flag(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

impl Field {
    fn write(&self, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        match self {
            Self::Piece(piece, score, kind) => {
                bytes(1, piece.as_bytes(), &mut inner);
                inner.push(2 << 3 | 5);
                inner.extend(score.to_le_bytes());
                flag(3, u64::from(kind % 8), &mut inner);
                bytes(1, &inner, out);
            }
            Self::Trainer(fields) => {
                for (number, value) in fields {
                    flag(u64::from(*number % 64), u64::from(*value), &mut inner);
                }
                bytes(2, &inner, out);
            }
            Self::Normalizer(map, prefix, trim, escape) => {
                bytes(2, map, &mut inner);
                for (number, value) in [(3, prefix), (4, trim), (5, escape)] {
                    flag(number, u64::from(*value), &mut inner);
                }
                bytes(3, &inner, out);
            }
            Self::Raw(raw) => out.extend(raw),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0, |all, byte| all << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for at in 0..4 {
            let sign = SIGNS[(bits >> (18 - 6 * at) & 63) as usize] as char;
            out.push(if at <= three.len() { sign } else { '=' });
        }
    }
    out
}

const ENCODINGS: [&str; 6] = [
    "gpt2",
    "r50k_base",
    "p50k_base",
    "cl100k_base",
    "o200k_base",
    "o200k_harmony",
];

impl File {
    /// Loads the file; if that goes well, encodes the text.
    pub fn run(self) {
        let (tokenizer, text) = match self {
            Self::SentencePiece(fields, ends, text) => {
                let mut file = Vec::new();
                fields.iter().for_each(|field| field.write(&mut file));
                let ends = Ends {
                    bos: ends,
                    eos: !ends,
                };
                (
                    Tokenizer::from_sentencepiece(&file, ends).map(|(tokenizer, _)| tokenizer),
                    text,
                )
            }
            Self::Tiktoken(name, tokens, raw, text) => {
                let all = (0..=u8::MAX).map(|byte| (vec![byte], u16::from(byte)));
                let lines = all
                    .chain(tokens)
                    .map(|(token, rank)| format!("{} {rank}\n", base64(&token)));
                let mut file = lines.collect::<String>().into_bytes();
                file.extend(raw);
                (
                    Tokenizer::from_tiktoken(&file, ENCODINGS[name as usize % ENCODINGS.len()]),
                    text,
                )
            }
            Self::Bert(tokens, lowercase, text) => {
                let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
                let file = special
                    .into_iter()
                    .chain(tokens)
                    .collect::<Vec<_>>()
                    .join("\n");
                let bert = BertVocab {
                    lowercase,
                    ..BertVocab::default()
                };
                (Tokenizer::from_bert_vocab(file.as_bytes(), &bert), text)
            }
            Self::Gpt2(vocabulary, merges, raw, text) => {
                let vocabulary: serde_json::Map<String, Value> = vocabulary
                    .into_iter()
                    .map(|(token, id)| (token, json!(id)))
                    .collect();
                let lines = merges
                    .into_iter()
                    .map(|(left, right)| format!("{left} {right}\n"));
                let mut file = lines.collect::<String>().into_bytes();
                file.extend(raw);
                let vocabulary = Value::Object(vocabulary).to_string();
                (
                    Tokenizer::from_gpt2_vocab(vocabulary.as_bytes(), &file, &["<|endoftext|>"]),
                    text,
                )
            }
            Self::Gguf(gguf, text) => (Tokenizer::from_gguf(&gguf.into()), text),
            Self::Bytes(kind, bytes) => {
                let loaded = match kind % 4 {
                    0 => Tokenizer::from_json(&bytes),
                    1 => Tokenizer::from_sentencepiece(&bytes, Ends::default())
                        .map(|(tokenizer, _)| tokenizer),
                    2 => Tokenizer::from_tiktoken(&bytes, "cl100k_base"),
                    _ => Tokenizer::from_bert_vocab(&bytes, &BertVocab::default()),
                };
                (loaded, String::new())
            }
        };
        if let Ok(tokenizer) = tokenizer {
            promises(&tokenizer, &text);
        }
    }
}

impl From<Gguf> for GgufTokenizer {
    fn from(gguf: Gguf) -> Self {
        let [bos, eos, unknown] = gguf.ids;
        let [add_bos, add_eos, add_space_prefix] = gguf.flags;
        let pre = |number: u8| {
            ["default", "gpt-2", "llama-bpe", "qwen2", "smollm", "other"][number as usize % 6]
                .to_owned()
        };
        Self {
            model: ["gpt2", "llama", "bert", "other"][gguf.model as usize % 4].to_owned(),
            pre: gguf.pre.map(pre),
            token_types: gguf
                .types
                .iter()
                .filter_map(|kind| TokenType::from_number(i64::from(*kind % 7)))
                .collect(),
            tokens: gguf.tokens,
            scores: gguf.scores,
            merges: gguf.merges,
            bos,
            eos,
            unknown,
            add_bos,
            add_eos,
            add_space_prefix,
        }
    }
}

/// Texts for a tokenizer that is sound.
#[derive(Arbitrary, Debug)]
pub struct Texts {
    tokenizer: u8,
    /// Each repeated so often.
    parts: Vec<(String, u8)>,
    pair: Option<String>,
    options: [u8; 6],
    ids: Vec<u16>,
}

impl Texts {
    /// Encodes the text and decodes the ids.
    pub fn run(self) {
        let tokenizer = &SOUND[self.tokenizer as usize % SOUND.len()];
        let text: String = self
            .parts
            .iter()
            .map(|(part, times)| part.repeat(*times as usize % 16))
            .collect();
        promises(tokenizer, &text);
        let [most, stride, side, length, flags, unit] = self.options;
        let side = if side % 2 == 0 {
            Side::Left
        } else {
            Side::Right
        };
        let options = EncodeOptions {
            add_special_tokens: flags & 1 == 0,
            split_special_tokens: flags & 2 == 0,
            truncation: (flags & 4 == 0).then_some(Truncation {
                max_length: most as usize,
                stride: stride as usize,
                strategy: [
                    Strategy::LongestFirst,
                    Strategy::OnlyFirst,
                    Strategy::OnlySecond,
                ][unit as usize % 3],
                side,
            }),
            padding: None::<Padding>,
            offsets: if length % 2 == 0 {
                Unit::Bytes
            } else {
                Unit::Characters
            },
        };
        if let Ok(encoding) = tokenizer.encode(&text, self.pair.as_deref(), &options)
            && options.truncation.is_some()
        {
            assert!(encoding.len() <= most as usize);
        }
        let ids: Vec<u32> = self.ids.iter().map(|id| u32::from(*id)).collect();
        let whole = tokenizer.decode(&ids, false);
        assert!(whole.len() < 1 << 20);
        let cut = tokenizer.truncate_to(&text, most as usize, &EncodeOptions::default());
        assert!(cut.is_ok_and(|cut| text.starts_with(cut)));
    }
}

/// What holds for every tokenizer and text.
fn promises(tokenizer: &Tokenizer, text: &str) {
    let options = EncodeOptions {
        offsets: Unit::Bytes,
        ..EncodeOptions::default()
    };
    let Ok(encoding) = tokenizer.encode(text, None, &options) else {
        return;
    };
    assert_eq!(
        tokenizer.encode_ids(text, &options).ok().as_ref(),
        Some(&encoding.ids)
    );
    for (start, end) in &encoding.offsets {
        assert!(
            start <= end && text.get(*start as usize..*end as usize).is_some(),
            "{start}..{end}"
        );
    }
    let again = tokenizer.encode(text, None, &options);
    assert_eq!(
        again.as_ref(),
        Ok(&encoding),
        "the cache gives what the model gave"
    );
    tokenizer.decode(&encoding.ids, true);
}
