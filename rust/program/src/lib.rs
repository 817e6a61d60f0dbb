//! The op set, the [`Program`] it is recorded into, and the tape that differentiates it.
//!
//! Ops are coarse and work on packed `[rows, width]` arrays; which rows belong to which sequence is said by [`Ragged`]
//! streams beside the data. A [`Program`] is a flat SSA list of ops. Recording writes one, the [`Tape`] grows one while it
//! computes, and running one needs nothing but its inputs.
#![forbid(unsafe_code)]

mod fuse;
pub mod meta;
mod mixed;
pub mod op;
pub mod ops;
mod panels;
mod plan;
mod program;
mod ragged;
mod spares;
mod stage;
pub mod stored;
mod tape;

pub use meta::{Dim, Meta};
pub use mixed::{Mixed, Site, Updates};
pub use op::{Cache, Call, Forward, Op, Operation, Saved};
pub use ops::dropout::Randomness;
pub use panels::Precision;
pub use plan::Plan;
pub use program::{Bindings, Input, Node, Parameter, Program, ValueId};
pub use ragged::Ragged;
pub use spares::Spares;
pub use stage::{Run, Stage};
pub use tape::{Setting, Tape, evaluate};
