//! One request on its way: what it has read and written.

use std::sync::Arc;

use lmrs_logprob::token_logprob;
use lmrs_tensor::Result;

use crate::cache::SequenceCache;
use crate::generator::Generator;
use crate::request::{Completion, Finish, Request};
use crate::sampling::{Past, likeliest};
use crate::text::Text;

/// A token that was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// The logarithm of its probability, before temperature and the like.
    pub logprob: f32,
    /// The likeliest tokens in its place, the likeliest first; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// A request and what has come of it.
pub struct Sequence {
    pub generator: Arc<Generator>,
    pub request: Request,
    /// What the decoder has seen and will see: the prompt (or the start token) and the tokens chosen.
    pub tokens: Vec<u32>,
    pub new: usize,
    pub cache: SequenceCache,
    /// The most tokens it may come to.
    most: usize,
    logprobs: Vec<f32>,
    top: Vec<Vec<(u32, f32)>>,
    text: Text,
}

impl Sequence {
    /// Of a request that `generator` has checked; it ends when the decoder has `most` tokens.
    pub fn new(generator: Arc<Generator>, request: Request, most: usize) -> Self {
        let (tokens, read): (_, &[u32]) = match &generator.encoder {
            Some(encoder) => (vec![encoder.start], &[]),
            None => (request.prompt.clone(), &request.prompt),
        };
        let pieces = generator.detokenizer.as_ref().map(|d| d.after(read));
        Self {
            text: Text::new(pieces, request.stop.clone()),
            cache: SequenceCache::new(generator.kv),
            tokens,
            most,
            new: 0,
            logprobs: Vec::new(),
            top: Vec::new(),
            generator,
            request,
        }
    }

    /// The next token.
    pub fn choose(&self, logits: &[f32]) -> Result<Chosen> {
        let Request {
            sampling,
            top_logprobs,
            ..
        } = &self.request;
        let past = Past {
            tokens: &self.tokens,
            written: self.new,
            max_tokens: self.request.max_tokens,
            eos: &self.request.eos,
        };
        let id = sampling.choose(logits, &past, None)?;
        Ok(Chosen {
            id,
            logprob: token_logprob(logits, id as usize),
            top: likeliest(logits, *top_logprobs),
        })
    }

    /// Appends a token; the new text, and why it is the last if it is.
    pub fn extend(&mut self, chosen: &Chosen) -> (String, Option<Finish>) {
        let token = chosen.id;
        self.tokens.push(token);
        self.new += 1;
        self.logprobs.push(chosen.logprob);
        if self.request.top_logprobs > 0 {
            self.top.push(chosen.top.clone());
        }
        let ended = self.request.eos.contains(&token);
        let mut piece = if ended {
            String::new()
        } else {
            self.text.push(token).to_owned()
        };
        let finish = if ended {
            Some(Finish::Eos)
        } else if self.text.stopped() {
            Some(Finish::Stop)
        } else if self.new >= self.request.max_tokens || self.tokens.len() >= self.most {
            Some(Finish::Length)
        } else {
            None
        };
        if finish.is_some() {
            piece.push_str(self.text.finish());
        }
        (piece, finish)
    }

    /// The text that was held back, when no token follows.
    pub fn rest(&mut self) -> String {
        self.text.finish().to_owned()
    }

    /// The whole, which ends because of `finish`.
    pub fn complete(mut self, finish: Finish) -> Completion {
        let tokens = self.tokens.split_off(self.tokens.len() - self.new);
        Completion {
            text: self.text.into_string(),
            tokens,
            logprobs: self.logprobs,
            top: self.top,
            finish,
        }
    }
}
