//! From logits to a token: the processors of transformers' `generate`, in its order, and a seeded draw.
//!
//! A processor changes the scores of the whole vocabulary; then tokens are weighed, and a filter leaves some of them out.

mod bias;
mod draw;
mod length;
mod ngrams;
mod nucleus;
mod penalties;
mod top;
mod typical;
mod words;

use lmrs_tensor::{Error, Result};

pub(crate) use top::likeliest;

/// A token and its probability, or its weight beside that of others.
pub type Weighed = (u32, f64);

/// How tokens are chosen. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token. 0 to 100.
    pub temperature: f64,
    /// Only the so many most likely tokens, and those as likely as the last of them. 1 or more.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together reach this probability. 0 to 1.
    pub top_p: f64,
    /// Only tokens at least this fraction as likely as the likeliest. 0 to 1.
    pub min_p: f64,
    /// Only the tokens whose surprisal is nearest to the entropy and that together reach this probability. 0 to 1.
    pub typical_p: f64,
    /// The logit of a token that occurred is divided by it if positive and multiplied if negative. 0.01 to 100.
    pub repetition_penalty: f64,
    /// Taken off the logit of a token that was written. -100 to 100.
    pub presence_penalty: f64,
    /// Taken off the logit of a token as often as it was written. -100 to 100.
    pub frequency_penalty: f64,
    /// Added to the logits of tokens. -100 to 100.
    pub logit_bias: Vec<(u32, f64)>,
    /// No run of so many tokens comes twice; 0 lets them.
    pub no_repeat_ngram_size: usize,
    /// Runs of tokens that are not completed.
    pub bad_words: Vec<Vec<u32>>,
    /// No end before so many tokens are written.
    pub min_tokens: usize,
    /// What the first tokens written are, whatever the logits say.
    pub begin: Vec<u32>,
    /// Whether the last token that there is room for is an end.
    pub force_eos: bool,
    /// With the number of the token, all that a draw depends on.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            no_repeat_ngram_size: 0,
            bad_words: Vec::new(),
            min_tokens: 0,
            begin: Vec::new(),
            force_eos: false,
            seed: 0,
        }
    }
}

/// What a token follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    /// What the decoder has read and written.
    pub tokens: &'a [u32],
    /// How many of them, the last ones, were written.
    pub written: usize,
    /// How many may be written in all.
    pub max_tokens: usize,
    /// The tokens that end a text.
    pub eos: &'a [u32],
}

impl Past<'_> {
    fn written(&self) -> &[u32] {
        let read = self.tokens.len().saturating_sub(self.written);
        self.tokens.get(read..).unwrap_or_default()
    }
}

impl Sampling {
    /// # Errors
    /// [`Error::Input`] naming the first option out of its range; a NaN is out of every range, as is a token that is not below
    /// `vocabulary`.
    pub fn check(&self, vocabulary: usize) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        for (name, value, low, high) in ranges {
            in_range(name, value, low, high)?;
        }
        if let Some(k @ 0) = self.top_k {
            return Err(Error::input("top_k", &k, "1 or more"));
        }
        bias::check(&self.logit_bias, vocabulary)?;
        words::check(&self.bad_words, vocabulary)?;
        match self.begin.iter().position(|&id| id as usize >= vocabulary) {
            Some(at) => Err(outside(
                &format!("begin[{at}]"),
                self.begin.get(at),
                vocabulary,
            )),
            None => Ok(()),
        }
    }

    /// Whether the likeliest token of the model is always taken.
    fn is_plain(&self) -> bool {
        let Self { seed, .. } = *self;
        *self
            == Self {
                seed,
                ..Self::default()
            }
    }

    /// The token after `past`, by its `logits`. Of `allowed`, if there is one, only tokens that are true in it.
    ///
    /// # Errors
    /// [`Error::Input`] if a logit is not a number, none is finite, or no token is left.
    pub fn choose(&self, logits: &[f32], past: &Past, allowed: Option<&[bool]>) -> Result<u32> {
        if self.is_plain() && allowed.is_none() {
            return Ok(top::first_largest(logits)? as u32);
        }
        let kept = self.distribution(logits, past, allowed)?;
        let token = draw::draw(&kept, self.seed, past.written as u32);
        token.ok_or_else(|| Error::Internal("a distribution over no token".into()))
    }

    /// The tokens that may follow `past`, by id, each with its probability.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub fn distribution(
        &self,
        logits: &[f32],
        past: &Past,
        allowed: Option<&[bool]>,
    ) -> Result<Vec<Weighed>> {
        let scores = self.scores(logits, past, allowed)?;
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if self.temperature == 0.0 {
            let at = scores.iter().position(|&s| s == top).unwrap_or(0);
            return Ok(vec![(at as u32, 1.0)]);
        }
        let floor = self
            .top_k
            .map_or(f64::NEG_INFINITY, |k| top::kth(&scores, k));
        let weigh = |(token, &score): (usize, &f64)| {
            let weight = ((score - top) / self.temperature).exp();
            (score >= floor && weight > 0.0).then_some((token as u32, weight))
        };
        let mut kept: Vec<Weighed> = scores.iter().enumerate().filter_map(weigh).collect();
        if self.top_p < 1.0 {
            nucleus::keep(&mut kept, self.top_p);
        }
        kept.retain(|&(_, weight)| weight >= self.min_p);
        if self.typical_p < 1.0 {
            typical::keep(&mut kept, self.typical_p);
        }
        let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
        Ok(kept
            .into_iter()
            .map(|(token, weight)| (token, weight / total))
            .collect())
    }

    /// The `most` likeliest tokens after `past`, the likeliest first, each with its probability after the processors.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub(crate) fn likeliest(
        &self,
        logits: &[f32],
        past: &Past,
        most: usize,
    ) -> Result<Vec<Weighed>> {
        let scores = top::log_softmax(self.scores(logits, past, None)?);
        let mut order: Vec<Weighed> = scores
            .iter()
            .enumerate()
            .filter(|(_, score)| score.is_finite())
            .map(|(token, &score)| (token as u32, score))
            .collect();
        order.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
        order.truncate(most);
        Ok(order
            .into_iter()
            .map(|(token, score)| (token, score.exp()))
            .collect())
    }

    /// The scores before temperature; at least one is finite.
    fn scores(&self, logits: &[f32], past: &Past, allowed: Option<&[bool]>) -> Result<Vec<f64>> {
        top::first_largest(logits)?;
        let scores = logits.iter().map(|&l| f64::from(l)).collect();
        self.processed(scores, past, allowed)
    }

    /// What the processors make of log-probabilities, which is what a beam search adds up.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub(crate) fn log_scores(&self, logits: &[f32], past: &Past) -> Result<Vec<f64>> {
        top::first_largest(logits)?;
        let scores: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
        self.processed(top::log_softmax(scores), past, None)
    }

    fn processed(
        &self,
        mut scores: Vec<f64>,
        past: &Past,
        allowed: Option<&[bool]>,
    ) -> Result<Vec<f64>> {
        bias::add(&mut scores, &self.logit_bias);
        penalties::repetition(&mut scores, past.tokens, self.repetition_penalty);
        penalties::occurrence(
            &mut scores,
            past.written(),
            (self.presence_penalty, self.frequency_penalty),
        );
        ngrams::forbid(&mut scores, past.tokens, self.no_repeat_ngram_size);
        words::forbid(&mut scores, past.tokens, &self.bad_words);
        length::forbid_ends(&mut scores, past, self.min_tokens);
        length::force(&mut scores, past, &self.begin, self.force_eos);
        if let Some(allowed) = allowed {
            let allowed = allowed.iter().copied().chain(std::iter::repeat(false));
            for (score, _) in scores
                .iter_mut()
                .zip(allowed)
                .filter(|(_, allowed)| !allowed)
            {
                *score = f64::NEG_INFINITY;
            }
        }
        if scores.iter().all(|&score| score == f64::NEG_INFINITY) {
            return Err(Error::input(
                "what the options of the request leave",
                &"no token",
                "at least one that may follow",
            ));
        }
        Ok(scores)
    }
}

/// Classifier-free guidance (Sanchez et al., 2023): `s·log p(token | text) + (1 − s)·log p(token | other text)`.
pub(crate) fn guided(logits: &[f32], other: &[f32], scale: f64) -> Vec<f32> {
    let log = |row: &[f32]| top::log_softmax(row.iter().map(|&l| f64::from(l)).collect());
    let pairs = log(logits).into_iter().zip(log(other));
    pairs
        .map(|(own, other)| (scale * (own - other) + other) as f32)
        .collect()
}

/// Gives a token no chance.
fn forbid(scores: &mut [f64], token: u32) {
    if let Some(score) = scores.get_mut(token as usize) {
        *score = f64::NEG_INFINITY;
    }
}

fn in_range(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::input(name, &value, format!("{low} to {high}")))
    }
}

fn outside(name: &str, id: Option<&u32>, vocabulary: usize) -> Error {
    let range = format!("0 to {}", vocabulary.saturating_sub(1));
    Error::input(name, &id.copied().unwrap_or_default(), range)
}
