//! Tokenizer files.

mod component;
mod describe;
mod field;
mod gguf;
mod hf_json;
mod model_json;
mod protobuf;
mod sentencepiece;
mod sentencepiece_file;
mod tiktoken;
mod vocab;
mod write;

pub(crate) use describe::{Description, build};
pub use gguf::{GgufTokenizer, TokenType};
pub use sentencepiece::Ends;
pub use vocab::BertVocab;
