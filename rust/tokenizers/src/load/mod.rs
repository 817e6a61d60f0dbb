//! Tokenizer files.

mod component;
mod field;
mod gguf;
mod hf_json;
mod model_json;
mod vocab;

pub use gguf::{GgufTokenizer, TokenType};
pub use vocab::BertVocab;
