//! Beam search, as transformers' `generate` does it: `k` texts go on at once, and those that end are ranked by
//! `Σ log p / lengthᵖ`.

use std::cmp::Ordering;

use lmrs_logprob::token_logprob;
use lmrs_tensor::{Error, Result};

use crate::cache::SequenceCache;
use crate::request::Request;
use crate::sampling::Past;

/// When a search ends that has as many finished texts as beams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// At once.
    Yes,
    /// When the best of those that go on would not be better if it ended now.
    #[default]
    Heuristic,
    /// When none of those that go on can become better.
    Never,
}

/// How many texts go on at once, and which is the best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// So many; 1 or more.
    pub beams: usize,
    /// The power of the length that a text's log-probability is divided by: above 0 it is for long texts. -100 to 100.
    pub length_penalty: f64,
    /// When it ends.
    pub early_stopping: EarlyStopping,
}

impl Search {
    /// # Errors
    /// [`Error::Input`] naming the option that is out of its range, or does not go with a search.
    pub fn check(&self, request: &Request, vocabulary: usize) -> Result<()> {
        let most = vocabulary.min(256);
        if !(1..=most).contains(&self.beams) {
            return Err(Error::input("beams", &self.beams, format!("1 to {most}")));
        }
        if !(-100.0..=100.0).contains(&self.length_penalty) {
            let expected = "-100 to 100";
            return Err(Error::input(
                "length_penalty",
                &self.length_penalty,
                expected,
            ));
        }
        let apart = [
            ("temperature", request.sampling.temperature != 0.0),
            ("stop", !request.stop.is_empty()),
            ("drafts", request.drafts != 0),
            ("guidance", request.guidance.is_some()),
            ("grammar", request.grammar.is_some()),
            ("top_logprobs", request.top_logprobs != 0),
        ];
        match apart.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::input(*name, &"given", "none with beams above 1")),
            None => Ok(()),
        }
    }
}

/// A text that goes on.
pub struct Line {
    pub tokens: Vec<u32>,
    pub cache: SequenceCache,
    score: f64,
    logprobs: Vec<f32>,
}

impl Line {
    /// One that begins with `tokens`, all but the last of which `cache` holds.
    pub fn new(tokens: Vec<u32>, cache: SequenceCache) -> Self {
        Self {
            tokens,
            cache,
            score: 0.0,
            logprobs: Vec::new(),
        }
    }
}

/// A text that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Beam {
    /// What was written, an end included.
    pub tokens: Vec<u32>,
    /// The logarithm of the probability of each.
    pub logprobs: Vec<f32>,
    /// The sum of what the processors made of them, divided by the penalised length.
    pub score: f64,
}

/// A search under way.
pub struct Beams {
    search: Search,
    /// How many tokens were read, and how many may be written.
    read: usize,
    most: usize,
    pub lines: Vec<Line>,
    done: Vec<Beam>,
}

/// One more token for a line.
struct Step {
    line: usize,
    token: u32,
    score: f64,
}

fn better(a: &Step, b: &Step) -> Ordering {
    let likelier = b.score.total_cmp(&a.score);
    likelier
        .then(a.line.cmp(&b.line))
        .then(a.token.cmp(&b.token))
}

impl Beams {
    /// A search from `tokens`, which `cache` will hold; at most `most` are written.
    pub fn new(search: Search, tokens: Vec<u32>, cache: SequenceCache, most: usize) -> Self {
        let read = tokens.len();
        let line = Line {
            tokens,
            cache,
            score: 0.0,
            logprobs: Vec::new(),
        };
        Self {
            search,
            read,
            most,
            lines: vec![line],
            done: Vec::new(),
        }
    }

    /// Whether no line is left that goes on.
    pub fn is_over(&self) -> bool {
        self.lines.is_empty()
    }

    /// The finished texts, the best first; if none is, those that go on as they are.
    pub fn into_done(self) -> Vec<Beam> {
        if !self.done.is_empty() {
            return self.done;
        }
        let power = self.search.length_penalty;
        let cut = |line: Line| {
            let length = (line.logprobs.len() as f64).powf(power);
            Beam {
                tokens: line.tokens.get(self.read..).unwrap_or_default().to_vec(),
                logprobs: line.logprobs,
                score: line.score / length,
            }
        };
        let begun = self
            .lines
            .into_iter()
            .filter(|line| !line.logprobs.is_empty());
        begun.map(cut).collect()
    }

    /// Every line's next tokens by its `logits`, a row a line.
    ///
    /// # Errors
    /// As [`crate::Sampling::choose`].
    pub fn advance(&mut self, logits: &[f32], width: usize, request: &Request) -> Result<()> {
        let beams = self.search.beams;
        let mut steps = self.candidates(logits, width, request)?;
        steps.sort_unstable_by(better);
        steps.truncate(kept(beams, request));
        let written = self.lines.first().map_or(0, |line| line.tokens.len()) + 1 - self.read;
        let last = written >= self.most;
        let ends = |step: &Step| last || request.eos.contains(&step.token);
        let length = (written as f64).powf(self.search.length_penalty);
        let rows: Vec<&[f32]> = logits.chunks_exact(width.max(1)).collect();
        for step in steps.iter().take(beams).filter(|step| ends(step)) {
            let line = self.lines.get(step.line).ok_or_else(lost)?;
            let grown = grown(line, step, &rows);
            self.done.push(Beam {
                tokens: grown.0.get(self.read..).unwrap_or_default().to_vec(),
                logprobs: grown.1,
                score: step.score / length,
            });
        }
        self.done.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.done.truncate(beams);
        let mut lines = Vec::with_capacity(beams);
        for step in steps.iter().filter(|step| !ends(step)).take(beams) {
            let line = self.lines.get(step.line).ok_or_else(lost)?;
            let (tokens, logprobs) = grown(line, step, &rows);
            lines.push(Line {
                tokens,
                cache: line.cache.clone(),
                score: step.score,
                logprobs,
            });
        }
        self.lines = lines;
        if !self.may_improve(written) {
            self.lines.clear();
        }
        Ok(())
    }

    /// The likeliest tokens of each line: as many as could be taken of one.
    fn candidates(&self, logits: &[f32], width: usize, request: &Request) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (number, (line, row)) in self
            .lines
            .iter()
            .zip(logits.chunks_exact(width.max(1)))
            .enumerate()
        {
            let past = Past {
                tokens: &line.tokens,
                written: line.tokens.len() - self.read,
                max_tokens: self.most,
                eos: &request.eos,
            };
            let scores = request.sampling.log_scores(row, &past)?;
            let mut own: Vec<Step> = (0_u32..)
                .zip(scores)
                .filter(|(_, score)| score.is_finite())
                .map(|(token, score)| Step {
                    line: number,
                    token,
                    score: line.score + score,
                })
                .collect();
            let count = kept(self.search.beams, request);
            if count < own.len() {
                own.select_nth_unstable_by(count, better);
                own.truncate(count);
            }
            steps.extend(own);
        }
        Ok(steps)
    }

    /// Whether a line could still end up among the finished texts, `written` tokens long as they are now.
    fn may_improve(&self, written: usize) -> bool {
        let Some(best) = self.lines.first() else {
            return false;
        };
        let Search {
            beams,
            length_penalty,
            early_stopping,
        } = self.search;
        let Some(worst) = self.done.last().filter(|_| self.done.len() == beams) else {
            return true;
        };
        let length = match early_stopping {
            EarlyStopping::Yes => return false,
            EarlyStopping::Never if length_penalty > 0.0 => self.most,
            _ => written,
        };
        best.score / (length as f64).powf(length_penalty) > worst.score
    }
}

/// How many candidates are looked at, so that enough are left when those that end are taken out.
fn kept(beams: usize, request: &Request) -> usize {
    beams * (1 + request.eos.len()).max(2)
}

/// The tokens of `line` and their log-probabilities after `step`.
fn grown(line: &Line, step: &Step, rows: &[&[f32]]) -> (Vec<u32>, Vec<f32>) {
    let row = rows.get(step.line).copied().unwrap_or_default();
    let logprob = token_logprob(row, step.token as usize);
    let tokens = line.tokens.iter().copied().chain([step.token]).collect();
    let logprobs = line.logprobs.iter().copied().chain([logprob]).collect();
    (tokens, logprobs)
}

fn lost() -> Error {
    Error::Internal("a line of a search is not there".into())
}
