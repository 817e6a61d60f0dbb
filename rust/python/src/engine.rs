//! Generation, scoring and embedding: one line a method.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lmrs_engine::{
    Completion, Detokenizer, Encoder, Generator, Id, Limits, Past, Pieces, Progress, Request,
    Segmented, Service, Texts, Variant, Variants, Window, check_ids,
};
use lmrs_kernels::attention::KvType;
use lmrs_tensor::Tensor;
use lmrs_tokenizers::{DecodeStream, Tokenizer};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use crate::error::{Failure, PyRes, bad_argument, detached, interruption};
use crate::plan::PyPlan;
use crate::request::{Asked, ids};
use crate::tensor::PyTensor;
use crate::tokenizer::PyTokenizer;

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

type Likeliest = Vec<(u32, f32)>;
/// Tokens, their log-probabilities and the score of a text that a search found.
type Found = (Vec<u32>, Vec<f32>, f64);
type Completed = (
    String,
    Vec<u32>,
    Vec<f32>,
    Vec<Likeliest>,
    &'static str,
    Vec<Found>,
);

fn completed(completion: Completion) -> Completed {
    let Completion {
        text,
        tokens,
        logprobs,
        top,
        finish,
        beams,
    } = completion;
    let beams = beams.into_iter().map(|b| (b.tokens, b.logprobs, b.score));
    (text, tokens, logprobs, top, finish.name(), beams.collect())
}

/// A model that writes.
#[pyclass(frozen, name = "Generator", module = "lmrs._rs")]
pub struct PyGenerator(pub Arc<Generator>);

#[pymethods]
impl PyGenerator {
    /// `encoder` is the plan of the encoder, the width of its states, and the token that starts the decoder; `kv_dtype` is
    /// `f32`, `bf16` or `int8`. A model that only adds low-rank updates to `base` runs in one batch with it.
    #[new]
    #[pyo3(signature = (logits, *, tokenizer, vocabulary, context=None, encoder=None, kv_dtype="f32", base=None))]
    fn new(
        logits: &PyPlan,
        tokenizer: Option<PyRef<'_, PyTokenizer>>,
        vocabulary: usize,
        context: Option<usize>,
        encoder: Option<(PyRef<'_, PyPlan>, usize, u32)>,
        kv_dtype: &str,
        base: Option<PyRef<'_, Self>>,
    ) -> PyRes<Self> {
        let kv = KvType::named(kv_dtype)
            .ok_or_else(|| bad_argument("kv_dtype", &kv_dtype, "f32, bf16 or int8"))?;
        let detokenizer =
            tokenizer.map(|t| Arc::new(Native(Arc::clone(&t.0))) as Arc<dyn Detokenizer>);
        let encoder = encoder.map(|(plan, width, start)| Encoder {
            plan: (*plan.0).clone(),
            width,
            start,
        });
        Ok(Self(Arc::new(Generator {
            variant: base.and_then(|base| match encoder {
                None => Variant::between(&base.0, &logits.0, kv),
                Some(_) => None,
            }),
            variants: Variants::default(),
            logits: (*logits.0).clone(),
            encoder,
            vocabulary,
            context,
            kv,
            detokenizer,
        })))
    }

    /// Whether it runs in one batch with the model that it adds to.
    #[getter]
    fn is_variant(&self) -> bool {
        self.0.variant.is_some()
    }

    /// Memory that the keys and values of a token take.
    #[getter]
    fn bytes_per_token(&self) -> usize {
        self.0.bytes_per_token()
    }
}

/// Of a request: its id, new text, the token chosen (id, log-probability, the likeliest), the whole if it is over, or the
/// exception it ended with.
type Happened = (
    Id,
    String,
    Option<(u32, f32, Likeliest)>,
    Option<Completed>,
    Option<Py<PyAny>>,
);

/// A long-lived engine on a thread of its own.
#[pyclass(frozen, name = "Service", module = "lmrs._rs")]
pub struct PyService(Service);

#[pymethods]
impl PyService {
    #[new]
    #[pyo3(signature = (*, step_tokens, sequences, cached_tokens, share_prefixes))]
    fn new(
        step_tokens: usize,
        sequences: usize,
        cached_tokens: usize,
        share_prefixes: bool,
    ) -> PyRes<Self> {
        Ok(Self(Service::start(Limits {
            step_tokens,
            sequences,
            cached_tokens,
            share_prefixes,
        })?))
    }

    /// Hands in a request, to be ended after `seconds`; its id.
    #[pyo3(signature = (generator, request, seconds=None))]
    fn submit(&self, generator: &PyGenerator, request: Asked, seconds: Option<f64>) -> PyRes<Id> {
        let span = |seconds| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| bad_argument("timeout", &seconds, "seconds, 0 or more"))
        };
        let span = seconds.map(span).transpose()?;
        let deadline = span.and_then(|span| Instant::now().checked_add(span));
        Ok(self.0.submit(&generator.0, request.try_into()?, deadline)?)
    }

    /// Ends a request.
    fn cancel(&self, id: Id) {
        self.0.cancel(id);
    }

    /// What happened, waiting for it at most `seconds`; None once closed.
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyRes<Option<Vec<Happened>>> {
        let patience = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let happened = detached(py, || self.0.wait(patience))?;
        let told = |progress: Progress| {
            let chosen = progress.chosen.map(|c| (c.id, c.logprob, c.top));
            let (completion, error) = match progress.outcome {
                None => (None, None),
                Some(Ok(completion)) => (Some(completed(completion)), None),
                Some(Err(error)) => {
                    let raised = PyErr::from(Failure::from(error));
                    (None, Some(raised.into_value(py).into_any()))
                }
            };
            (progress.id, progress.piece, chosen, completion, error)
        };
        Ok(happened.map(|happened| happened.into_iter().map(told).collect()))
    }

    /// What `plan` says of each judged row of each window (ids, labels; a negative label is not judged), row after row.
    #[pyo3(signature = (plan, windows, *, vocabulary, context=None))]
    fn score(
        &self,
        py: Python<'_>,
        plan: &PyPlan,
        windows: Labelled,
        vocabulary: usize,
        context: Option<usize>,
    ) -> PyRes<Vec<Py<PyArray1<f32>>>> {
        let texts = Texts::Judged(checked_windows(windows, vocabulary, context)?);
        let found = detached(py, || {
            self.0.read::<Failure>(&plan.0, texts, interruption())
        })??;
        Ok(arrays(py, found))
    }

    /// A row a text `(ids, segments)`, of length 1 if `normalize`.
    #[pyo3(signature = (plan, texts, *, normalize, vocabulary, context=None))]
    fn embed(
        &self,
        py: Python<'_>,
        plan: &PyPlan,
        texts: Vec<(Vec<i64>, Vec<i32>)>,
        normalize: bool,
        vocabulary: usize,
        context: Option<usize>,
    ) -> PyRes<PyTensor> {
        let texts = Texts::Pooled {
            texts: checked_texts(texts, vocabulary, context)?,
            normalize,
        };
        let rows = detached(py, || {
            self.0.read::<Failure>(&plan.0, texts, interruption())
        })??;
        let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
        Ok(PyTensor(Tensor::new(rows.concat(), shape)?))
    }

    /// Requests that run, requests that wait, bytes of their keys and values, bytes of prefixes, steps, tokens.
    fn load(&self) -> (usize, usize, usize, usize, u64, u64) {
        let load = self.0.load();
        (
            load.running,
            load.waiting,
            load.cached_bytes,
            load.prefix_bytes,
            load.steps,
            load.tokens,
        )
    }

    /// Ends it.
    fn close(&self) {
        self.0.close();
    }
}

/// The probability of every token after the prompt of `options` and what was `written`: what such a request draws from.
#[pyfunction]
pub fn sampling_distribution(
    logits: Vec<f32>,
    written: Vec<u32>,
    options: Asked,
) -> PyRes<Vec<(u32, f64)>> {
    let request = Request::try_from(options)?;
    request.sampling.check(logits.len())?;
    let past = Past {
        tokens: &[&*request.prompt, &*written].concat(),
        written: written.len(),
        max_tokens: request.max_tokens,
        eos: &request.eos,
    };
    Ok(request.sampling.distribution(&logits, &past, None)?)
}

type Labelled = Vec<(Vec<i64>, Vec<i64>)>;

fn checked_windows(
    windows: Labelled,
    vocabulary: usize,
    context: Option<usize>,
) -> PyRes<Vec<Window>> {
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
    windows.into_iter().map(window).collect()
}

fn checked_texts(
    texts: Vec<(Vec<i64>, Vec<i32>)>,
    vocabulary: usize,
    context: Option<usize>,
) -> PyRes<Vec<Segmented>> {
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
    texts.into_iter().map(text).collect()
}

fn arrays(py: Python<'_>, found: Vec<Vec<f32>>) -> Vec<Py<PyArray1<f32>>> {
    let found = found.into_iter();
    found.map(|row| row.into_pyarray(py).unbind()).collect()
}

/// What a causal `plan` says of each judged row of each window, as [`PyService::score`] does, on the caller's thread: what windows begin
/// with is computed once.
#[pyfunction]
#[pyo3(signature = (plan, windows, *, vocabulary, context=None))]
pub fn score(
    py: Python<'_>,
    plan: &PyPlan,
    windows: Labelled,
    vocabulary: usize,
    context: Option<usize>,
) -> PyRes<Vec<Py<PyArray1<f32>>>> {
    let windows = checked_windows(windows, vocabulary, context)?;
    let found = detached(py, || {
        lmrs_engine::score_sharing::<Failure>(&plan.0, &windows, interruption())
    })??;
    Ok(arrays(py, found))
}
