//! What is asked of the engine and what comes back.

use std::sync::Arc;

use lmrs_tensor::{Error, Result};

use crate::beams::{Beam, Search};
use crate::contrast::Contrast;
use crate::generator::Generator;
use crate::grammar::Grammar;
use crate::sampling::Sampling;
use crate::stop::StopStrings;

/// One text to continue (or, with an encoder, to answer).
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The ids of the prompt; what is encoded, if the model has an encoder.
    pub prompt: Vec<u32>,
    /// At most so many new tokens.
    pub max_tokens: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// The text ends before any of these.
    pub stop: StopStrings,
    /// The text ends with any of these tokens.
    pub eos: Vec<u32>,
    /// The higher, the sooner.
    pub priority: i32,
    /// How many of the likeliest tokens to tell of in the place of each.
    pub top_logprobs: usize,
    /// Whether to search for the likeliest text instead of the likeliest token after token.
    pub search: Option<Search>,
    /// Whether the next token is the one whose state is the least like earlier ones; its generator also gives the states of all
    /// tokens.
    pub contrast: Option<Contrast>,
    /// What the text must be.
    pub grammar: Option<Grammar>,
    /// How many tokens to guess ahead; they are computed together, and what is chosen is the same.
    pub drafts: usize,
    /// Who guesses; without it what followed the same tokens before.
    pub drafter: Option<Arc<Generator>>,
    /// A text to keep away from, and how far.
    pub guidance: Option<Guidance>,
}

impl Request {
    /// How many texts it may come to go on with at once.
    pub(crate) fn lines(&self) -> usize {
        let beams = self.search.map_or(1, |search| search.beams);
        self.contrast.map_or(beams, |contrast| contrast.candidates)
    }
}

/// Classifier-free guidance: what is written is what follows the prompt, less what follows another.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// The other prompt.
    pub negative: Vec<u32>,
    /// 1 leaves all as it is. 0 to 100.
    pub scale: f64,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token.
    Eos,
    /// A stop string.
    Stop,
    /// `max_tokens`, or the end of the model's context or of the cache.
    Length,
    /// Its time was over.
    Deadline,
}

impl Finish {
    /// `eos`, `stop`, `length` or `deadline`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Deadline => "deadline",
        }
    }
}

/// What the model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text of the tokens, cut before a stop string.
    pub text: String,
    /// All tokens chosen, those of an end or a stop string included.
    pub tokens: Vec<u32>,
    /// The logarithm of each token's probability, before temperature and the like.
    pub logprobs: Vec<f32>,
    /// The likeliest tokens in the place of each, if they were asked for.
    pub top: Vec<Vec<(u32, f32)>>,
    /// Why there are no more.
    pub finish: Finish,
    /// All texts that a search found, the best, which this is, first.
    pub beams: Vec<Beam>,
}

/// Fails unless there is an id, each is below `vocabulary`, and there are no more than `context`.
pub fn check_ids(what: &str, ids: &[u32], vocabulary: usize, context: Option<usize>) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::input(what, &"empty", "at least one token"));
    }
    if let Some(at) = ids.iter().position(|&id| id as usize >= vocabulary) {
        let id = ids.get(at).copied().unwrap_or_default();
        let range = format!("0 to {}", vocabulary.saturating_sub(1));
        return Err(Error::input(format!("{what}[{at}]"), &id, range));
    }
    match context {
        Some(context) if ids.len() > context => {
            let length = format!("length of {what}");
            Err(Error::input(
                length,
                &ids.len(),
                format!("at most the model's context, {context} tokens"),
            ))
        }
        _ => Ok(()),
    }
}
