//! Generation, scoring and embedding: one line a method.

use std::sync::{Arc, Mutex};

use lmrs_engine::{
    Completion, Detokenizer, Encoder, Generation, Generator, Limits, Pieces, Request, Sampling,
    Segmented, StopStrings, Window, check_ids,
};
use lmrs_kernels::attention::KvType;
use lmrs_tokenizers::{DecodeStream, Tokenizer};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use crate::error::{Failure, PyRes, bad_argument, detached, interruption};
use crate::plan::PyPlan;
use crate::program::locked;
use crate::tensor::PyTensor;
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
    repetition_penalty: f64,
    seed: u64,
    stop: Vec<String>,
    eos: Vec<u32>,
}

impl TryFrom<Asked> for Request {
    type Error = Failure;

    fn try_from(asked: Asked) -> PyRes<Self> {
        let count = |what, value: i64| {
            usize::try_from(value).map_err(|_| bad_argument(what, &value, "0 or more"))
        };
        let top_k = count("top_k", asked.top_k)?;
        Ok(Self {
            prompt: ids("prompt", &asked.prompt)?,
            max_tokens: count("max_tokens", asked.max_tokens)?,
            sampling: Sampling {
                temperature: asked.temperature,
                top_k: (top_k > 0).then_some(top_k),
                top_p: asked.top_p,
                min_p: asked.min_p,
                repetition_penalty: asked.repetition_penalty,
                seed: asked.seed,
            },
            stop: StopStrings::new(asked.stop)?,
            eos: asked.eos,
        })
    }
}

fn ids(what: &str, values: &[i64]) -> PyRes<Vec<u32>> {
    let id = |(at, &value): (usize, &i64)| {
        let narrow = u32::try_from(value);
        narrow.map_err(|_| bad_argument(&format!("{what}[{at}]"), &value, "a token id"))
    };
    values.iter().enumerate().map(id).collect()
}

/// Text by the tokenizer, special tokens left out.
struct Native(Arc<Tokenizer>);

struct NativePieces {
    stream: DecodeStream,
    tokenizer: Arc<Tokenizer>,
}

impl Detokenizer for Native {
    fn after(&self, prompt: &[u32]) -> Box<dyn Pieces> {
        let stream = DecodeStream::after(&self.0, prompt, true);
        let tokenizer = Arc::clone(&self.0);
        Box::new(NativePieces { stream, tokenizer })
    }
}

impl Pieces for NativePieces {
    fn push(&mut self, id: u32) -> Option<String> {
        self.stream.push(&self.tokenizer, id)
    }

    fn finish(&mut self) -> Option<String> {
        self.stream.finish(&self.tokenizer)
    }
}

type Completed = (String, Vec<u32>, Vec<f32>, &'static str);

fn completed(completion: Completion) -> Completed {
    let Completion {
        text,
        tokens,
        logprobs,
        finish,
    } = completion;
    (text, tokens, logprobs, finish.name())
}

/// A model that writes.
#[pyclass(frozen, name = "Generator", module = "lmrs._rs")]
pub struct PyGenerator(Arc<Generator>);

#[pymethods]
impl PyGenerator {
    /// `encoder` is the plan of the encoder, the width of its states, and the token that starts the decoder; `kv_dtype` is
    /// `f32`, `bf16` or `int8`.
    #[new]
    #[pyo3(signature = (logits, *, tokenizer, vocabulary, context=None, encoder=None, kv_dtype="f32"))]
    fn new(
        logits: &PyPlan,
        tokenizer: Option<PyRef<'_, PyTokenizer>>,
        vocabulary: usize,
        context: Option<usize>,
        encoder: Option<(PyRef<'_, PyPlan>, usize, u32)>,
        kv_dtype: &str,
    ) -> PyRes<Self> {
        let kv = KvType::named(kv_dtype)
            .ok_or_else(|| bad_argument("kv_dtype", &kv_dtype, "f32, bf16 or int8"))?;
        let detokenizer =
            tokenizer.map(|t| Arc::new(Native(Arc::clone(&t.0))) as Arc<dyn Detokenizer>);
        let encoder = encoder.map(|(plan, width, start)| Encoder {
            plan: plan.0.clone(),
            width,
            start,
        });
        Ok(Self(Arc::new(Generator {
            logits: logits.0.clone(),
            encoder,
            vocabulary,
            context,
            kv,
            detokenizer,
        })))
    }

    /// All requests at once: (text, tokens, log-probabilities, why it ended) of each.
    fn generate(&self, py: Python<'_>, requests: Vec<Asked>) -> PyRes<Vec<Completed>> {
        let mut generation = Generation::new(Arc::clone(&self.0), Limits::default());
        for asked in requests {
            generation.add(asked.try_into()?)?;
        }
        let completions = detached(py, || generation.finish::<Failure>(interruption()))??;
        Ok(completions.into_iter().map(completed).collect())
    }

    /// One request, step by step.
    fn stream(&self, request: Asked) -> PyRes<PyStream> {
        let mut generation = Generation::new(Arc::clone(&self.0), Limits::default());
        generation.add(request.try_into()?)?;
        Ok(PyStream(Mutex::new(generation)))
    }
}

/// The pieces of one completion as they come: (text, the whole if it is over).
#[pyclass(frozen, name = "Stream", module = "lmrs._rs")]
pub struct PyStream(Mutex<Generation>);

#[pymethods]
impl PyStream {
    /// Bytes that its keys and values take.
    #[getter]
    fn cached_bytes(&self) -> usize {
        locked(&self.0).cached_bytes()
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyRes<Option<(String, Option<Completed>)>> {
        let next = detached(py, || locked(&self.0).next::<Failure>(interruption()))??;
        Ok(next.map(|progress| (progress.piece, progress.completion.map(completed))))
    }
}

/// The probability of every token after `history`: what a request with these options draws from.
#[pyfunction]
pub fn sampling_distribution(
    logits: Vec<f32>,
    history: Vec<u32>,
    options: Asked,
) -> PyRes<Vec<(u32, f64)>> {
    let request = Request::try_from(options)?;
    request.sampling.check()?;
    Ok(request.sampling.distribution(&logits, &history)?)
}

/// What `plan` says of each judged row of each window (ids, labels; a negative label is not judged), row after row.
///
/// `shared`: the plan is causal, and what windows begin with is computed once.
#[pyfunction]
#[pyo3(signature = (plan, windows, *, vocabulary, context=None, shared=false))]
pub fn score(
    py: Python<'_>,
    plan: &PyPlan,
    windows: Vec<(Vec<i64>, Vec<i64>)>,
    vocabulary: usize,
    context: Option<usize>,
    shared: bool,
) -> PyRes<Vec<Py<PyArray1<f32>>>> {
    let window = |(read, labels): (Vec<i64>, Vec<i64>)| {
        let read = ids("tokens", &read)?;
        check_ids("tokens", &read, vocabulary, context)?;
        if labels.len() != read.len() {
            return Err(bad_argument(
                "number of labels",
                &labels.len(),
                &format!("{}, as many as tokens", read.len()),
            ));
        }
        // The op checks that a label is below the vocabulary.
        let labels = labels
            .iter()
            .map(|&l| i32::try_from(l).unwrap_or(i32::MAX))
            .collect();
        Ok(Window { ids: read, labels })
    };
    let windows: Vec<Window> = windows.into_iter().map(window).collect::<PyRes<_>>()?;
    let scores = detached(py, || {
        if shared {
            lmrs_engine::score_sharing::<Failure>(&plan.0, &windows, interruption())
        } else {
            lmrs_engine::score::<Failure>(&plan.0, &windows, interruption())
        }
    })??;
    Ok(scores
        .into_iter()
        .map(|found| found.into_pyarray(py).unbind())
        .collect())
}

/// A row a text `(ids, segments)`, of length 1 if `normalize`.
#[pyfunction]
#[pyo3(signature = (plan, texts, *, normalize, vocabulary, context=None))]
pub fn embed(
    py: Python<'_>,
    plan: &PyPlan,
    texts: Vec<(Vec<i64>, Vec<i32>)>,
    normalize: bool,
    vocabulary: usize,
    context: Option<usize>,
) -> PyRes<PyTensor> {
    let text = |(read, segments): (Vec<i64>, Vec<i32>)| {
        let read = ids("tokens", &read)?;
        check_ids("tokens", &read, vocabulary, context)?;
        if segments.len() != read.len() {
            let expected = format!("{}, as many as tokens", read.len());
            return Err(bad_argument(
                "number of segments",
                &segments.len(),
                &expected,
            ));
        }
        Ok(Segmented {
            ids: read,
            segments,
        })
    };
    let texts: Vec<Segmented> = texts.into_iter().map(text).collect::<PyRes<_>>()?;
    Ok(PyTensor(detached(py, || {
        lmrs_engine::embed::<Failure>(&plan.0, &texts, normalize, interruption())
    })??))
}
