//! Where each sequence of a packed batch starts.

use std::ops::Range;
use std::sync::Arc;

use lmrs_tensor::{Error, Result};

/// The starts of the sequences of a packed batch: sequence `i` is rows `starts[i]..starts[i + 1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ragged {
    starts: Arc<[usize]>,
}

impl Ragged {
    /// # Errors
    /// [`Error::Input`] unless `starts` begins with 0 and never decreases.
    pub fn new(starts: &[usize]) -> Result<Self> {
        if starts.first() != Some(&0) || !starts.is_sorted() {
            let shown = format!("{:?}", &starts[..starts.len().min(8)]);
            return Err(Error::input(
                "sequence starts",
                &shown,
                "0 first, never decreasing",
            ));
        }
        Ok(Self {
            starts: starts.into(),
        })
    }

    /// One sequence of `rows` rows.
    pub fn single(rows: usize) -> Self {
        Self {
            starts: [0, rows].into(),
        }
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// The number of rows of all sequences together.
    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The rows of each sequence, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The starts, one more than there are sequences.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }
}
