//! The files of other formats.

use arbitrary::Arbitrary;
use lmrs_tokenizers::{BertVocab, Ends, GgufTokenizer, TokenType, Tokenizer};
use serde_json::{Value, json};

use crate::promises;

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
