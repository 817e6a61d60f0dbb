//! Training a tokenizer: one line a method.

use std::sync::{Arc, Mutex, PoisonError};

use lmrs_tokenizers::{Algorithm, Corpus, TrainOptions};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::{Failure, PyRes, bad_argument, detached, interruption};
use crate::tokenizer::{PyTokenizer, all_utf8};

/// The words of texts, counted.
#[pyclass(frozen, name = "Corpus", module = "lmrs._rs")]
pub struct PyCorpus(Mutex<Option<Corpus>>);

fn spent() -> Failure {
    bad_argument(
        "corpus",
        &"one that was trained on",
        "a corpus for each training",
    )
}

#[pymethods]
impl PyCorpus {
    /// `components` is a `tokenizer.json` without a model.
    #[new]
    fn new(components: &[u8]) -> PyRes<Self> {
        Ok(Self(Mutex::new(Some(Corpus::new(components)?))))
    }

    /// Counts the words of texts.
    fn add(&self, py: Python<'_>, texts: Vec<Bound<'_, PyString>>) -> PyRes<()> {
        let texts = all_utf8(&texts)?;
        detached(py, || -> PyRes<()> {
            let mut corpus = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(corpus.as_mut().ok_or_else(spent)?.add(&texts)?)
        })?
    }

    /// How many different words there are.
    fn __len__(&self) -> usize {
        let corpus = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        corpus.as_ref().map_or(0, Corpus::distinct_words)
    }

    /// Finds the vocabulary; `progress` is called now and then with how much is done, of how much.
    #[pyo3(signature = (algorithm, *, vocab_size, min_frequency, byte_fallback, special_tokens, progress))]
    #[allow(clippy::too_many_arguments)] // the options of a training
    fn train(
        &self,
        py: Python<'_>,
        algorithm: &str,
        vocab_size: usize,
        min_frequency: u64,
        byte_fallback: bool,
        special_tokens: Vec<String>,
        progress: Option<Py<PyAny>>,
    ) -> PyRes<PyTokenizer> {
        let algorithm = match algorithm {
            "bpe" => Algorithm::ByteBpe,
            "wordpiece" => Algorithm::WordPiece,
            "unigram" => Algorithm::Unigram { byte_fallback },
            other => return Err(bad_argument("model", &other, "bpe, wordpiece or unigram")),
        };
        let options = TrainOptions {
            algorithm,
            vocab_size,
            min_frequency,
            special_tokens,
        };
        let tokenizer = detached(py, || -> PyRes<_> {
            // The lock is given back at once: who waits for it may hold the GIL, which `progress` needs.
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = held.take();
            drop(held);
            let corpus = taken.ok_or_else(spent)?;
            let mut check = interruption();
            corpus.train(&options, |done, of| -> PyRes<()> {
                check()?;
                if let Some(progress) = &progress {
                    Python::attach(|py| progress.call1(py, (done, of)))?;
                }
                Ok(())
            })
        })??;
        Ok(PyTokenizer(Arc::new(tokenizer)))
    }
}
