//! One request on its way: what it has read and written.

use std::sync::Arc;

use lmrs_logprob::token_logprob;
use lmrs_tensor::{Error, Result};

use crate::beams::Beams;
use crate::cache::SequenceCache;
use crate::contrast::Candidates;
use crate::generator::Generator;
use crate::grammar::{Grammar, Match};
use crate::lookup;
use crate::request::{Completion, Finish, Request};
use crate::sampling::{Past, guided, likeliest};
use crate::side::Side;
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

/// What a step added to a request.
#[derive(Default)]
pub struct Written {
    /// Each new token and the text that became certain with it.
    pub tokens: Vec<(Chosen, String)>,
    /// Why no more follow.
    pub finish: Option<Finish>,
}

/// A request and what has come of it.
pub struct Sequence {
    pub generator: Arc<Generator>,
    pub request: Request,
    /// What the decoder has seen and will see: the prompt (or the start token) and the tokens chosen. With beams, the prompt.
    pub tokens: Vec<u32>,
    pub new: usize,
    pub cache: SequenceCache,
    /// What may follow `tokens`, to be computed with their last.
    pub drafts: Vec<u32>,
    /// What a draft model has read.
    pub draft: Side,
    /// What was read of the negative prompt and the tokens chosen, and the logits after it.
    pub other: Side,
    pub other_logits: Vec<f32>,
    pub beams: Option<Beams>,
    pub candidates: Option<Candidates>,
    grammar: Option<Match>,
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
        let cache = SequenceCache::new(generator.kv);
        let room = request.max_tokens.min(most - tokens.len().min(most));
        let search = request.search.filter(|search| search.beams > 1);
        let drafter = request.drafter.as_ref().unwrap_or(&generator);
        Self {
            text: Text::new(pieces, request.stop.clone()),
            beams: search.map(|search| Beams::new(search, tokens.clone(), cache.clone(), room)),
            candidates: request.contrast.map(Candidates::new),
            grammar: request.grammar.as_ref().map(Grammar::start),
            draft: Side::new(drafter.kv),
            other: Side::new(generator.kv),
            other_logits: Vec::new(),
            drafts: Vec::new(),
            cache,
            tokens,
            most,
            new: 0,
            logprobs: Vec::new(),
            top: Vec::new(),
            generator,
            request,
        }
    }

    /// Each text that goes on, and its cache.
    pub fn lines(&mut self) -> Vec<(&[u32], &mut SequenceCache)> {
        let beams = self.beams.as_mut().map(|beams| &mut beams.lines);
        let tried = self.candidates.as_mut().map(|tried| &mut tried.lines);
        match beams.or(tried.filter(|lines| !lines.is_empty())) {
            Some(lines) => lines
                .iter_mut()
                .map(|line| (&*line.tokens, &mut line.cache))
                .collect(),
            None => vec![(&*self.tokens, &mut self.cache)],
        }
    }

    /// How many texts go on.
    pub fn count(&self) -> usize {
        let tried = self.candidates.as_ref().map(|tried| tried.lines.len());
        let beams = self.beams.as_ref().map(|beams| beams.lines.len());
        beams.or(tried.filter(|&lines| lines > 0)).unwrap_or(1)
    }

    /// Memory of keys and values.
    pub fn bytes(&self) -> usize {
        let tried = self.candidates.iter().flat_map(|tried| &tried.lines);
        let lines = self
            .beams
            .iter()
            .flat_map(|beams| &beams.lines)
            .chain(tried);
        let lines: usize = lines.map(|line| line.cache.bytes()).sum();
        self.cache.bytes() + self.draft.bytes() + self.other.bytes() + lines
    }

    /// Gives up what it holds in the cache.
    pub fn release(&mut self) {
        let empty = || SequenceCache::new(self.generator.kv);
        self.cache = empty();
        if let Some(tried) = &mut self.candidates {
            tried.release();
        }
        let tried = self
            .candidates
            .iter_mut()
            .flat_map(|tried| &mut tried.lines);
        let beams = self.beams.iter_mut().flat_map(|beams| &mut beams.lines);
        for line in beams.chain(tried) {
            line.cache = empty();
        }
        self.drafts.clear();
        self.draft = Side::new(self.draft.kind());
        self.other = Side::new(self.generator.kv);
    }

    /// Goes on by `logits`, a row for the last token and a row for each draft that was computed with it, or a row a line.
    pub fn advance(&mut self, logits: &[f32], width: usize) -> Result<Written> {
        if let Some(beams) = &mut self.beams {
            beams.advance(logits, width, &self.request)?;
            let finish = beams.is_over().then_some(Finish::Eos);
            return Ok(Written {
                tokens: Vec::new(),
                finish,
            });
        }
        if logits.is_empty() {
            return Err(Error::Internal("a sequence without logits".into()));
        }
        if self.candidates.is_some() {
            return self.contrast(logits, width);
        }
        let mut written = Written::default();
        let drafts = std::mem::take(&mut self.drafts);
        for (at, row) in logits.chunks_exact(width.max(1)).enumerate() {
            let chosen = self.choose(row)?;
            let guessed = drafts.get(at) == Some(&chosen.id);
            let (piece, finish) = self.extend(&chosen)?;
            written.tokens.push((chosen, piece));
            written.finish = finish;
            if finish.is_some() || !guessed {
                break;
            }
        }
        if !drafts.is_empty() {
            self.cache.truncate(self.tokens.len() - 1);
        }
        Ok(written)
    }

    /// Takes one of the tokens that were tried, if any were, and tries those that may follow it.
    fn contrast(&mut self, logits: &[f32], width: usize) -> Result<Written> {
        let mut written = Written::default();
        let decided = self.candidates.as_mut().and_then(Candidates::decide);
        let mut row = 0;
        if let Some((chosen, line, at)) = decided {
            (self.cache, row) = (line.cache, at);
            let (piece, finish) = self.extend(&chosen)?;
            written.tokens.push((chosen, piece));
            written.finish = finish;
        }
        let logits = logits.chunks_exact(width.max(1)).nth(row);
        let logits = logits.ok_or_else(|| Error::Internal("a line without logits".into()))?;
        let most = self.candidates.as_ref().map_or(0, Candidates::most);
        let tried = self
            .request
            .sampling
            .likeliest(logits, &self.past(), most)?;
        let tell = |(id, p)| {
            let chosen = Chosen {
                id,
                logprob: token_logprob(logits, id as usize),
                top: likeliest(logits, self.request.top_logprobs),
            };
            (chosen, p)
        };
        let tried = tried.into_iter().map(tell).collect();
        if let (None, Some(candidates)) = (written.finish, &mut self.candidates) {
            candidates.fork(tried, &self.tokens, &self.cache);
        }
        Ok(written)
    }

    /// How many guesses at what follows are of use.
    pub fn wanted_drafts(&self) -> usize {
        if self.beams.is_some()
            || self.request.guidance.is_some()
            || self.generator.encoder.is_some()
        {
            return 0;
        }
        let context = self
            .request
            .drafter
            .as_ref()
            .and_then(|drafter| drafter.context);
        let most = self.most.min(context.unwrap_or(usize::MAX));
        let room = self.request.max_tokens.saturating_sub(self.new);
        let room = room.min(most.saturating_sub(self.tokens.len()));
        self.request.drafts.min(room.saturating_sub(1))
    }

    /// Guesses at what follows by what is there.
    pub fn look_up(&mut self) {
        self.drafts = lookup::guesses(&self.tokens, self.wanted_drafts());
    }

    /// What the draft model would choose after `guessed`, by its `logits`.
    pub fn guess(&self, logits: &[f32], guessed: &[u32]) -> Option<u32> {
        let tokens = [&*self.tokens, guessed].concat();
        let past = Past {
            tokens: &tokens,
            written: self.new + guessed.len(),
            ..self.past()
        };
        self.request.sampling.choose(logits, &past, None).ok()
    }

    fn past(&self) -> Past<'_> {
        Past {
            tokens: &self.tokens,
            written: self.new,
            max_tokens: self.request.max_tokens,
            eos: &self.request.eos,
        }
    }

    /// The next token.
    fn choose(&self, logits: &[f32]) -> Result<Chosen> {
        let Request {
            sampling,
            top_logprobs,
            guidance,
            ..
        } = &self.request;
        let allowed = self.grammar.as_ref().map(Match::allowed).transpose()?;
        let steered = guidance
            .as_ref()
            .map(|guidance| guided(logits, &self.other_logits, guidance.scale));
        let scores = steered.as_deref().unwrap_or(logits);
        let id = sampling.choose(scores, &self.past(), allowed.as_deref())?;
        Ok(Chosen {
            id,
            logprob: token_logprob(logits, id as usize),
            top: likeliest(logits, *top_logprobs),
        })
    }

    /// Appends a token; the new text, and why it is the last if it is.
    fn extend(&mut self, chosen: &Chosen) -> Result<(String, Option<Finish>)> {
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
        let complete = match &mut self.grammar {
            Some(grammar) if !ended => grammar.push(token)?,
            _ => false,
        };
        let finish = if ended {
            Some(Finish::Eos)
        } else if self.text.stopped() || complete {
            Some(Finish::Stop)
        } else if self.new >= self.request.max_tokens || self.tokens.len() >= self.most {
            Some(Finish::Length)
        } else {
            None
        };
        if finish.is_some() {
            piece.push_str(self.text.finish());
        }
        Ok((piece, finish))
    }

    /// The text that was held back, when no token follows.
    pub fn rest(&mut self) -> String {
        self.text.finish().to_owned()
    }

    /// The whole, which ends because of `finish`.
    pub fn complete(mut self, finish: Finish) -> Completion {
        let beams = self.beams.take().map(Beams::into_done).unwrap_or_default();
        if let Some(best) = beams.first() {
            let ended = best
                .tokens
                .last()
                .is_some_and(|last| self.request.eos.contains(last));
            let written = best
                .tokens
                .split_at(best.tokens.len() - usize::from(ended))
                .0;
            for &token in written {
                self.text.push(token);
            }
            self.text.finish();
            return Completion {
                tokens: best.tokens.clone(),
                logprobs: best.logprobs.clone(),
                text: self.text.into_string(),
                top: self.top,
                finish: match finish {
                    Finish::Eos if !ended => Finish::Length,
                    finish => finish,
                },
                beams,
            };
        }
        let tokens = self.tokens.split_off(self.tokens.len() - self.new);
        Completion {
            text: self.text.into_string(),
            tokens,
            logprobs: self.logprobs,
            top: self.top,
            finish,
            beams,
        }
    }
}
