//! From logits to a token: the processors of transformers' `generate`, in its order, and a seeded draw.

use lmrs_kernels::dropout::philox;
use lmrs_tensor::{Error, Result};

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
    /// The logit of a token that occurred is divided by it if positive and multiplied if negative. 0.01 to 100.
    pub repetition_penalty: f64,
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
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// # Errors
    /// [`Error::Input`] naming the first option out of its range; a NaN is out of every range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::input(name, &value, format!("{low} to {high}")));
            }
        }
        match self.top_k {
            Some(k @ 0) => Err(Error::input("top_k", &k, "1 or more")),
            _ => Ok(()),
        }
    }

    /// The token after `history`, the `step`-th this request draws, from its `logits`.
    ///
    /// # Errors
    /// [`Error::Input`] if a logit is not a number, or none is finite.
    pub fn choose(&self, logits: &[f32], history: &[u32], step: u32) -> Result<u32> {
        if self.temperature == 0.0 && self.repetition_penalty == 1.0 {
            return Ok(likeliest(logits)? as u32);
        }
        let kept = self.distribution(logits, history)?;
        let mut point = uniform(self.seed, step);
        for &(token, p) in &kept {
            point -= p;
            if point < 0.0 {
                return Ok(token);
            }
        }
        // The probabilities may sum to a rounding error less than the point.
        kept.last()
            .map(|&(token, _)| token)
            .ok_or_else(|| Error::Internal("a distribution over no token".into()))
    }

    /// The tokens that may follow `history`, by id, each with its probability.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub fn distribution(&self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f64)>> {
        likeliest(logits)?;
        let mut scores: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
        if self.repetition_penalty != 1.0 {
            for &token in history {
                // From the logit, not the score: a token that occurred twice is penalised once.
                let Some(&logit) = logits.get(token as usize) else {
                    continue;
                };
                let (logit, penalty) = (f64::from(logit), self.repetition_penalty);
                if let Some(score) = scores.get_mut(token as usize) {
                    *score = if logit < 0.0 {
                        logit * penalty
                    } else {
                        logit / penalty
                    };
                }
            }
        }
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if self.temperature == 0.0 {
            let at = scores.iter().position(|&s| s == top).unwrap_or(0);
            return Ok(vec![(at as u32, 1.0)]);
        }
        let floor = self.top_k.map_or(f64::NEG_INFINITY, |k| kth(&scores, k));
        let weigh = |(token, &score): (usize, &f64)| {
            let weight = ((score - top) / self.temperature).exp();
            (score >= floor && weight > 0.0).then_some((token as u32, weight))
        };
        let mut kept: Vec<(u32, f64)> = scores.iter().enumerate().filter_map(weigh).collect();
        if self.top_p < 1.0 {
            nucleus(&mut kept, self.top_p);
        }
        kept.retain(|&(_, weight)| weight >= self.min_p);
        let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
        Ok(kept
            .into_iter()
            .map(|(token, weight)| (token, weight / total))
            .collect())
    }
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> Result<usize> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let broken = logits.iter().any(|l| l.is_nan()) || !top.is_finite();
    match logits.iter().position(|&l| l == top) {
        Some(at) if !broken => Ok(at),
        _ => Err(Error::input(
            "a logit of the model",
            &"not a finite number",
            "weights and inputs that give finite logits",
        )),
    }
}

/// The `k`-th largest, counted from 1; the smallest if there are fewer.
fn kth(scores: &[f64], k: usize) -> f64 {
    if k >= scores.len() {
        return f64::NEG_INFINITY;
    }
    let mut order = scores.to_vec();
    *order
        .select_nth_unstable_by(k.saturating_sub(1), |a, b| b.total_cmp(a))
        .1
}

/// Keeps the heaviest until they hold `mass` of the whole, at least one.
fn nucleus(kept: &mut Vec<(u32, f64)>, mass: f64) {
    let heavier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let weight = |part: &[(u32, f64)]| part.iter().map(|&(_, weight)| weight).sum::<f64>();
    let limit = mass * weight(kept);
    // Halves the range in which the last one to keep is; those before it are heavier and weigh `before`.
    let (mut order, mut before) = (kept.clone(), 0.0);
    let mut range = order.as_mut_slice();
    while range.len() > 1 {
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, heavier);
        let (head, tail) = range.split_at_mut(middle);
        let reached = before + weight(head);
        range = if reached < limit {
            before = reached;
            tail
        } else {
            head
        };
    }
    if let Some(&last) = range.first() {
        kept.retain(|token| heavier(token, &last).is_le());
    }
}

/// A number in [0, 1) that depends on the seed and the step alone.
fn uniform(seed: u64, step: u32) -> f64 {
    let [high, low, ..] = philox([step, 0, 0, 0], seed);
    let bits = u64::from(high) << 21 | u64::from(low) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
