//! `DecodeStream` and `EncodeStream`: ids to text and text to ids as they come.

use std::sync::{Arc, Mutex, PoisonError};

use lmrs_tokenizers::{DecodeStream, EncodeStream, Tokenizer};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::{PyRes, detached};
use crate::tokenizer::{ids, utf8};

/// Ids to text as they come.
#[pyclass(frozen, name = "DecodeStream", module = "lmrs._rs")]
pub struct PyDecodeStream {
    pub stream: Mutex<DecodeStream>,
    pub tokenizer: Arc<Tokenizer>,
}

/// Text to ids as it comes.
#[pyclass(frozen, name = "EncodeStream", module = "lmrs._rs")]
pub struct PyEncodeStream {
    pub stream: Mutex<EncodeStream>,
    pub tokenizer: Arc<Tokenizer>,
}

#[pymethods]
impl PyDecodeStream {
    /// Takes the next id; returns the text that is now certain.
    fn push(&self, id: i64) -> PyRes<String> {
        let id = ids(&[id])?;
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(id
            .into_iter()
            .filter_map(|id| stream.push(&self.tokenizer, id))
            .collect())
    }

    /// Returns what is left.
    fn finish(&self) -> String {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.finish(&self.tokenizer).unwrap_or_default()
    }
}

#[pymethods]
impl PyEncodeStream {
    /// Takes more text; returns the ids that are now certain.
    fn push(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyRes<Vec<u32>> {
        let text = utf8(text)?;
        Ok(detached(py, || {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.push(&self.tokenizer, text)
        })??)
    }

    /// Returns the ids of what is left.
    fn finish(&self, py: Python<'_>) -> PyRes<Vec<u32>> {
        Ok(detached(py, || {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.finish(&self.tokenizer)
        })??)
    }
}
