//! The engine: generation, scoring and embedding by recorded Programs.
//!
//! Nothing here knows a family or a tokenizer: a [`Generator`] is a Program of logits (and, for an encoder-decoder, the
//! encoder's), and text comes from a [`Detokenizer`]. What a request gets does not depend on what runs beside it: rows of a
//! Program do not depend on each other, and a draw depends on the request's seed and the number of the token.
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod batch;
mod beams;
mod beside;
mod cache;
mod contrast;
mod forward;
mod generation;
mod generator;
mod grammar;
mod lookup;
mod parts;
mod prefix;
mod prefixes;
mod reading;
mod request;
mod sampling;
mod scheduler;
mod score;
mod sequence;
mod service;
mod side;
mod stop;
mod text;
mod window;

pub use beams::{Beam, EarlyStopping, Search};
pub use contrast::Contrast;
pub use generation::{Generation, Progress};
pub use generator::{Encoder, Generator, Variant, Variants};
pub use grammar::{Grammar, Grammars, Notation};
pub use reading::{Segmented, Texts};
pub use request::{Completion, Finish, Guidance, Request, check_ids};
pub use sampling::{Past, Sampling};
pub use scheduler::{Arrival, Id, Limits, Scheduler, Span, Step};
pub use score::score_sharing;
pub use sequence::Chosen;
pub use service::{Load, Service};
pub use stop::{Found, StopStrings};
pub use text::{Detokenizer, Pieces, Text};
pub use window::Window;
