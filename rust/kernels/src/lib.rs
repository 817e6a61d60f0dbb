//! Numeric kernels of lmrs for every instruction set, chosen at run time.
//!
//! Slices in, slices out: a kernel takes [`Rows`] (row-major views) and writes [`RowsMut`]; there is no tensor type here.
//! Every kernel is written once over [`simd::Simd`] and instantiated per [`Level`]. Results do not depend on the number of
//! threads, on which rows travel together, or on how a sequence was cut into calls: each output is a sum of
//! fused multiply-adds in a fixed order.
//!
//! Backward functions overwrite their outputs unless their name says `add`. Shapes are the caller's contract: a kernel panics
//! when they disagree, so callers check what comes from outside first.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod conv;
pub mod dropout;
pub mod elementwise;
pub mod embed;
mod fork;
mod lanewise;
pub mod linear;
pub mod lstm;
mod memory;
pub mod norm;
pub mod pool;
pub mod rope;
pub mod simd;
pub mod softmax;
pub mod team;
pub mod view;

pub use simd::{Level, Real, level};
pub use view::{Rows, RowsMut};
