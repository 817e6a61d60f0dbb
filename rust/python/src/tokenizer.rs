//! `Tokenizer`: one line a method.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lmrs_tensor::{Checkpoint, Metadata};
use lmrs_tokenizers::{BertVocab, DecodeStream, EncodeStream, Ends, Error, Tokenizer};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::error::{PyRes, bad_argument, detached};
use crate::tokenizer_encoding::PyEncoding;
use crate::tokenizer_gguf::{gguf_tokenizer, scalars};
use crate::tokenizer_options::{PyEncodeOptions, read};
use crate::tokenizer_stream::{PyDecodeStream, PyEncodeStream};

/// A tokenizer; it never changes.
#[pyclass(frozen, name = "Tokenizer", module = "lmrs._rs")]
pub struct PyTokenizer(pub Arc<Tokenizer>);

/// Ids, and where each text begins and the last one ends.
type Rows<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

/// A Python string as UTF-8, which cannot have surrogates.
pub fn utf8<'a>(text: &'a Bound<'_, PyString>) -> PyRes<&'a str> {
    let surrogate =
        |_| Error::Text("the text has a lone surrogate, which is no character".to_owned());
    Ok(text.to_str().map_err(surrogate)?)
}

pub fn all_utf8<'a>(texts: &'a [Bound<'_, PyString>]) -> PyRes<Vec<&'a str>> {
    texts.iter().map(utf8).collect()
}

pub fn ids(ids: &[i64]) -> PyRes<Vec<u32>> {
    let id = |(at, id): (usize, &i64)| {
        u32::try_from(*id).map_err(|_| bad_argument(&format!("ids[{at}]"), id, "0 to 4294967295"))
    };
    ids.iter().enumerate().map(id).collect()
}

#[pymethods]
impl PyTokenizer {
    #[staticmethod]
    fn from_json(py: Python<'_>, data: &[u8], file: &str) -> PyRes<Self> {
        let tokenizer = detached(py, || Tokenizer::from_json(data))?;
        Ok(Self(Arc::new(tokenizer.map_err(|e| e.in_file(file))?)))
    }

    #[staticmethod]
    #[pyo3(signature = (data, file, *, lowercase, strip_accents, handle_chinese_chars, special))]
    fn from_bert_vocab(
        py: Python<'_>,
        data: &[u8],
        file: &str,
        lowercase: bool,
        strip_accents: Option<bool>,
        handle_chinese_chars: bool,
        special: BTreeMap<String, String>,
    ) -> PyRes<Self> {
        let default = BertVocab::default();
        let token = |name: &str, default: String| special.get(name).cloned().unwrap_or(default);
        let bert = BertVocab {
            lowercase,
            strip_accents,
            handle_chinese_chars,
            unk_token: token("unk", default.unk_token),
            sep_token: token("sep", default.sep_token),
            cls_token: token("cls", default.cls_token),
            pad_token: token("pad", default.pad_token),
            mask_token: token("mask", default.mask_token),
        };
        let tokenizer = detached(py, || Tokenizer::from_bert_vocab(data, &bert))?;
        Ok(Self(Arc::new(tokenizer.map_err(|e| e.in_file(file))?)))
    }

    #[staticmethod]
    fn from_gpt2_vocab(
        py: Python<'_>,
        vocab: &[u8],
        merges: &[u8],
        directory: &str,
        special: Vec<String>,
    ) -> PyRes<Self> {
        let special: Vec<&str> = special.iter().map(String::as_str).collect();
        let tokenizer = detached(py, || Tokenizer::from_gpt2_vocab(vocab, merges, &special))?;
        Ok(Self(Arc::new(tokenizer.map_err(|e| e.in_file(directory))?)))
    }

    #[staticmethod]
    fn from_tiktoken(py: Python<'_>, data: &[u8], file: &str, encoding: &str) -> PyRes<Self> {
        let tokenizer = detached(py, || Tokenizer::from_tiktoken(data, encoding))?;
        Ok(Self(Arc::new(tokenizer.map_err(|e| e.in_file(file))?)))
    }

    /// The tokenizer of a `SentencePiece` model, and its tokens with a role.
    #[staticmethod]
    #[pyo3(signature = (data, file, *, add_bos, add_eos))]
    fn from_sentencepiece(
        py: Python<'_>,
        data: &[u8],
        file: &str,
        add_bos: bool,
        add_eos: bool,
    ) -> PyRes<(Self, BTreeMap<&'static str, String>)> {
        let ends = Ends {
            bos: add_bos,
            eos: add_eos,
        };
        let read = detached(py, || Tokenizer::from_sentencepiece(data, ends))?;
        let (tokenizer, roles) = read.map_err(|e| e.in_file(file))?;
        Ok((Self(Arc::new(tokenizer)), roles))
    }

    /// A `tokenizer.json`.
    fn to_json(&self, py: Python<'_>) -> PyRes<Vec<u8>> {
        Ok(detached(py, || self.0.to_json())??)
    }

    /// The tokenizer inside a GGUF file, and what else the file says under `tokenizer.`.
    #[staticmethod]
    fn from_gguf(py: Python<'_>, path: PathBuf) -> PyRes<(Self, Bound<'_, PyDict>)> {
        let checkpoint = detached(py, || Checkpoint::open(&path))??;
        let file = path.display().to_string();
        let Metadata::Gguf(metadata) = checkpoint.metadata() else {
            return Err(bad_argument("path", &file, "a GGUF file"));
        };
        let gguf = gguf_tokenizer(metadata).map_err(|e| e.in_file(&file))?;
        let tokenizer = detached(py, || Tokenizer::from_gguf(&gguf))?;
        let tokenizer = Self(Arc::new(tokenizer.map_err(|e| e.in_file(&file))?));
        let rest = PyDict::new(py);
        scalars(metadata, "tokenizer.", &rest)?;
        Ok((tokenizer, rest))
    }

    #[pyo3(signature = (text, pair, options))]
    fn encode(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        pair: Option<&Bound<'_, PyString>>,
        options: Option<&Bound<'_, PyEncodeOptions>>,
    ) -> PyRes<PyEncoding> {
        let (text, pair) = (utf8(text)?, pair.map(utf8).transpose()?);
        let options = read(options);
        let encoding = detached(py, || self.0.encode(text, pair, &options))??;
        Ok(PyEncoding::new(encoding, &self.0))
    }

    #[pyo3(signature = (texts, pairs, options))]
    fn encode_batch(
        &self,
        py: Python<'_>,
        texts: Vec<Bound<'_, PyString>>,
        pairs: Option<Vec<Bound<'_, PyString>>>,
        options: Option<&Bound<'_, PyEncodeOptions>>,
    ) -> PyRes<Vec<PyEncoding>> {
        let (texts, pairs) = (
            all_utf8(&texts)?,
            pairs.as_deref().map(all_utf8).transpose()?,
        );
        let options = read(options);
        let encodings = detached(py, || {
            self.0.encode_batch(&texts, pairs.as_deref(), &options)
        })??;
        Ok(encodings
            .into_iter()
            .map(|encoding| PyEncoding::new(encoding, &self.0))
            .collect())
    }

    /// The ids of all texts in one array, and where each text begins and the last one ends.
    #[pyo3(signature = (texts, pairs, options))]
    fn encode_rows<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        pairs: Option<Vec<Bound<'py, PyString>>>,
        options: Option<&Bound<'_, PyEncodeOptions>>,
    ) -> PyRes<Rows<'py>> {
        let (texts, pairs) = (
            all_utf8(&texts)?,
            pairs.as_deref().map(all_utf8).transpose()?,
        );
        let options = read(options);
        let (ids, starts) = detached(py, || {
            self.0.encode_rows(&texts, pairs.as_deref(), &options)
        })??;
        Ok((ids.into_pyarray(py), starts.into_pyarray(py)))
    }

    fn count(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        options: Option<&Bound<'_, PyEncodeOptions>>,
    ) -> PyRes<usize> {
        let (text, options) = (utf8(text)?, read(options));
        Ok(detached(py, || self.0.count(text, &options))??)
    }

    /// The bytes of `text` to keep.
    fn truncate_to(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        count: usize,
        options: Option<&Bound<'_, PyEncodeOptions>>,
    ) -> PyRes<String> {
        let (text, options) = (utf8(text)?, read(options));
        Ok(detached(py, || {
            self.0.truncate_to(text, count, &options).map(str::to_owned)
        })??)
    }

    fn decode_batch(
        &self,
        py: Python<'_>,
        rows: Vec<Vec<i64>>,
        skip_special_tokens: bool,
    ) -> PyRes<Vec<String>> {
        let rows = rows.iter().map(|row| ids(row)).collect::<PyRes<Vec<_>>>()?;
        detached(py, || {
            rows.iter()
                .map(|row| self.0.decode(row, skip_special_tokens))
                .collect()
        })
    }

    fn decode(&self, py: Python<'_>, ids: Vec<i64>, skip_special_tokens: bool) -> PyRes<String> {
        let ids = self::ids(&ids)?;
        detached(py, || self.0.decode(&ids, skip_special_tokens))
    }

    fn decode_stream(&self, after: Vec<i64>, skip_special_tokens: bool) -> PyRes<PyDecodeStream> {
        let stream = DecodeStream::after(&self.0, &ids(&after)?, skip_special_tokens);
        Ok(PyDecodeStream {
            stream: Mutex::new(stream),
            tokenizer: Arc::clone(&self.0),
        })
    }

    fn encode_stream(&self, split_special_tokens: bool) -> PyEncodeStream {
        PyEncodeStream {
            stream: Mutex::new(EncodeStream::new(split_special_tokens)),
            tokenizer: Arc::clone(&self.0),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<&str> {
        self.0.id_to_token(id)
    }

    fn token_to_id(&self, token: &Bound<'_, PyString>) -> PyRes<Option<u32>> {
        Ok(self.0.token_to_id(utf8(token)?))
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    #[getter]
    fn dropout(&self) -> Option<f64> {
        self.0.dropout()
    }

    #[getter]
    fn unknown_id(&self) -> Option<u32> {
        self.0.unknown_id()
    }

    #[getter]
    fn special_ids(&self) -> Vec<u32> {
        self.0.special_ids()
    }

    fn __len__(&self) -> usize {
        self.0.vocab_size()
    }
}
