//! Tokenizers: byte-level BPE, `WordPiece` and Unigram, exact to the id and the offset.
//!
//! A text passes through a pipeline of five nouns, each a module: added tokens are cut out and the rest is **normalised**
//! (`normalize`), **split** into words (`split`), turned into ids by the **model** (`model`), put between special tokens
//! by the **post-processor** (`post`), and turned back into text by the **decoder** (`decode`). `load` reads the files that
//! describe such a pipeline; [`ChatTemplate`] turns messages into text.
//!
//! The reference is the Hugging Face tokenizers library: same ids, same offsets, on any text. Unlike it, a [`Tokenizer`]
//! never changes, everything about a call is an option of the call, a file cannot make the work more than
//! O(n log n) in the text, and every error says which field is wrong.

#![forbid(unsafe_code)]

mod added;
mod append;
mod byte_level;
mod chat;
mod decode;
mod dropout;
mod encoding;
mod error;
mod load;
mod model;
mod normalize;
mod output;
mod parallel;
mod pattern;
mod plain;
mod post;
mod split;
mod stream;
mod stretch;
mod text;
mod tokenizer;
mod train;
mod vocabulary;
mod work;

pub use append::EncodeStream;
pub use chat::{ChatTemplate, Clock};
pub use dropout::Dropout;
pub use encoding::{Encoding, Padding, Side, Strategy, Truncation};
pub use error::{Error, Result};
pub use load::{BertVocab, Ends, GgufTokenizer, TokenType};
pub use stream::DecodeStream;
pub use tokenizer::{EncodeOptions, Tokenizer, Unit};
pub use train::{Algorithm, Corpus, TrainOptions};
