//! What is asked of the engine, as Python says it.

use std::sync::Arc;

use lmrs_engine::{
    Contrast, EarlyStopping, Grammar, Grammars, Guidance, Notation, Request, Sampling, Search,
    StopStrings,
};
use pyo3::prelude::*;

use crate::engine::PyGenerator;
use crate::error::{Failure, PyRes, bad_argument, detached};
use crate::tokenizer::PyTokenizer;

/// What Python asks for; ids and counts are checked here, the rest by the engine.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Asked {
    prompt: Vec<i64>,
    max_tokens: i64,
    temperature: f64,
    top_k: i64,
    top_p: f64,
    min_p: f64,
    typical_p: f64,
    repetition_penalty: f64,
    presence_penalty: f64,
    frequency_penalty: f64,
    logit_bias: Vec<(i64, f64)>,
    no_repeat_ngram_size: i64,
    bad_words: Vec<Vec<i64>>,
    min_tokens: i64,
    begin: Vec<i64>,
    force_eos: bool,
    seed: u64,
    stop: Vec<String>,
    eos: Vec<u32>,
    priority: i32,
    top_logprobs: i64,
    beams: i64,
    length_penalty: f64,
    early_stopping: Option<bool>,
    grammar: Option<Py<PyGrammar>>,
    draft_tokens: i64,
    drafter: Option<Py<PyGenerator>>,
    negative_prompt: Option<Vec<i64>>,
    guidance: f64,
    penalty_alpha: f64,
}

impl TryFrom<Asked> for Request {
    type Error = Failure;

    fn try_from(asked: Asked) -> PyRes<Self> {
        let count = |what, value: i64| {
            usize::try_from(value).map_err(|_| bad_argument(what, &value, "0 or more"))
        };
        let top_k = count("top_k", asked.top_k)?;
        let (biased, by): (Vec<i64>, Vec<f64>) = asked.logit_bias.into_iter().unzip();
        let words = asked.bad_words.iter().map(|word| ids("bad_words", word));
        let negative = asked.negative_prompt.as_deref();
        let negative = negative
            .map(|given| ids("negative_prompt", given))
            .transpose()?;
        let search = Search {
            beams: count("beams", asked.beams)?,
            length_penalty: asked.length_penalty,
            early_stopping: match asked.early_stopping {
                Some(true) => EarlyStopping::Yes,
                Some(false) => EarlyStopping::Heuristic,
                None => EarlyStopping::Never,
            },
        };
        let contrast = (asked.penalty_alpha != 0.0).then_some(Contrast {
            alpha: asked.penalty_alpha,
            candidates: top_k,
        });
        Ok(Self {
            contrast,
            prompt: ids("prompt", &asked.prompt)?,
            max_tokens: count("max_tokens", asked.max_tokens)?,
            sampling: Sampling {
                temperature: asked.temperature,
                top_k: (top_k > 0 && contrast.is_none()).then_some(top_k),
                top_p: asked.top_p,
                min_p: asked.min_p,
                typical_p: asked.typical_p,
                repetition_penalty: asked.repetition_penalty,
                presence_penalty: asked.presence_penalty,
                frequency_penalty: asked.frequency_penalty,
                logit_bias: ids("logit_bias", &biased)?.into_iter().zip(by).collect(),
                no_repeat_ngram_size: count("no_repeat_ngram_size", asked.no_repeat_ngram_size)?,
                bad_words: words.collect::<PyRes<_>>()?,
                min_tokens: count("min_tokens", asked.min_tokens)?,
                begin: ids("begin", &asked.begin)?,
                force_eos: asked.force_eos,
                seed: asked.seed,
            },
            stop: StopStrings::new(asked.stop)?,
            eos: asked.eos,
            priority: asked.priority,
            top_logprobs: count("top_logprobs", asked.top_logprobs)?,
            search: (asked.beams != 1).then_some(search),
            grammar: asked.grammar.map(|grammar| grammar.get().0.clone()),
            drafts: count("draft_tokens", asked.draft_tokens)?,
            drafter: asked.drafter.map(|drafter| Arc::clone(&drafter.get().0)),
            guidance: negative.map(|negative| Guidance {
                negative,
                scale: asked.guidance,
            }),
        })
    }
}

/// Token ids, each below 2³².
pub fn ids(what: &str, values: &[i64]) -> PyRes<Vec<u32>> {
    let id = |(at, &value): (usize, &i64)| {
        let narrow = u32::try_from(value);
        narrow.map_err(|_| bad_argument(&format!("{what}[{at}]"), &value, "a token id"))
    };
    values.iter().enumerate().map(id).collect()
}

/// Compiles grammars for the vocabulary of a tokenizer.
#[pyclass(frozen, name = "Grammars", module = "lmrs._rs")]
pub struct PyGrammars(Grammars);

#[pymethods]
impl PyGrammars {
    /// `vocabulary` is the model's, which may have ids that no token has.
    #[new]
    #[pyo3(signature = (tokenizer, *, vocabulary, eos))]
    fn new(tokenizer: &PyTokenizer, vocabulary: usize, eos: Vec<u32>) -> PyRes<Self> {
        let words = tokenizer.0.token_bytes(vocabulary).ok_or_else(|| {
            let expected = "one whose tokens each stand for bytes: byte-level or SentencePiece";
            bad_argument("tokenizer", &tokenizer.0.kind(), expected)
        })?;
        Ok(Self(Grammars::new(&words, &eos)?))
    }

    /// `notation` is `regex`, `json_schema` or `lark`.
    fn compile(&self, py: Python<'_>, notation: &str, description: &str) -> PyRes<PyGrammar> {
        let notation = Notation::named(notation)
            .ok_or_else(|| bad_argument("notation", &notation, "regex, json_schema or lark"))?;
        let compiled = detached(py, || self.0.compile(notation, description))?;
        Ok(PyGrammar(compiled?))
    }
}

/// A description that was read.
#[pyclass(frozen, name = "Grammar", module = "lmrs._rs")]
pub struct PyGrammar(pub Grammar);
