//! `Encoding`: one line a field.

use std::sync::Arc;

use lmrs_tokenizers::{Encoding, Tokenizer};
use pyo3::prelude::*;

/// The tokens of a text.
#[pyclass(frozen, name = "Encoding", module = "lmrs._rs")]
pub struct PyEncoding {
    encoding: Encoding,
    tokenizer: Arc<Tokenizer>,
}

impl PyEncoding {
    pub fn new(encoding: Encoding, tokenizer: &Arc<Tokenizer>) -> Self {
        Self {
            encoding,
            tokenizer: Arc::clone(tokenizer),
        }
    }
}

#[pymethods]
impl PyEncoding {
    /// Token ids.
    #[getter]
    fn ids(&self) -> &[u32] {
        &self.encoding.ids
    }

    /// The characters each token stands for, `(start, end)`.
    #[getter]
    fn offsets(&self) -> Vec<(u32, u32)> {
        self.encoding.offsets.clone()
    }

    /// The text of each token, as the model knows it.
    #[getter]
    fn tokens(&self) -> Vec<&str> {
        self.tokenizer.tokens(&self.encoding)
    }

    /// The segment of each token.
    #[getter]
    fn type_ids(&self) -> &[u32] {
        &self.encoding.type_ids
    }

    /// 1 for each token, 0 for padding.
    #[getter]
    fn attention_mask(&self) -> Vec<u32> {
        self.encoding.attention_mask()
    }

    /// Which text each token is of, 0 or 1; None for tokens that are of none.
    #[getter]
    fn sequence_ids(&self) -> Vec<Option<u32>> {
        self.encoding.sequence_ids()
    }

    /// What truncation cut off, in stretches as long as this.
    #[getter]
    fn overflowing(&self) -> Vec<Self> {
        let parts = self.encoding.overflowing.iter();
        parts
            .map(|part| Self::new(part.clone(), &self.tokenizer))
            .collect()
    }

    /// 1 for each token added around the text, and for padding.
    #[getter]
    fn special_tokens_mask(&self) -> Vec<u32> {
        self.encoding
            .special_tokens_mask
            .iter()
            .map(|&mask| u32::from(mask))
            .collect()
    }

    /// The word of its text that each token belongs to; None for tokens added around the text.
    #[getter]
    fn word_ids(&self) -> Vec<Option<u32>> {
        self.encoding.word_ids.clone()
    }

    fn __len__(&self) -> usize {
        self.encoding.len()
    }

    fn __repr__(&self) -> String {
        format!("Encoding({} tokens)", self.encoding.len())
    }
}
