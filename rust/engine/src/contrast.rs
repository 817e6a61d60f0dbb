//! Contrastive search (Su et al., 2022): of the likeliest tokens, the one whose state is the least like those before it.
//!
//! Each of the `k` likeliest tokens is a line that is computed with the others; the next token is the one with the largest
//! `(1 − α)·p(token) − α·max cos(state, earlier state)`, and the lines after it begin from its keys and values.

use lmrs_tensor::{Error, Result};

use crate::beams::Line;
use crate::cache::SequenceCache;
use crate::sequence::Chosen;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast {
    /// How much likeness weighs. 0 to 1.
    pub alpha: f64,
    /// How many tokens are tried. 1 or more.
    pub candidates: usize,
}

impl Contrast {
    /// # Errors
    /// [`Error::Input`] naming what is out of its range.
    pub fn check(&self, most: usize) -> Result<()> {
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(Error::input("penalty_alpha", &self.alpha, "0 to 1"));
        }
        if !(1..=most).contains(&self.candidates) {
            let range = format!("1 to the engine's sequences, {most}, with penalty_alpha");
            return Err(Error::input("top_k", &self.candidates, range));
        }
        Ok(())
    }
}

/// The tokens that are tried, on their way.
pub struct Candidates {
    contrast: Contrast,
    /// The states of all tokens that are certain, each of length 1, one after another.
    seen: Vec<f64>,
    /// The tokens that are tried, with their probabilities, and a line for each; none while the prompt is read.
    tried: Vec<(Chosen, f64)>,
    pub lines: Vec<Line>,
    /// The states of the last tokens of the lines.
    states: Vec<Vec<f64>>,
}

impl Candidates {
    pub fn new(contrast: Contrast) -> Self {
        Self {
            contrast,
            seen: Vec::new(),
            tried: Vec::new(),
            lines: Vec::new(),
            states: Vec::new(),
        }
    }

    /// How many lines there are at most.
    pub fn most(&self) -> usize {
        self.contrast.candidates
    }

    /// Forgets what will be computed again.
    pub fn release(&mut self) {
        self.seen.clear();
        self.states.clear();
    }

    /// Takes in the states `[lines · rows, width]` of the last computed `rows` tokens of each line.
    pub fn remember(&mut self, states: &[f32], width: usize, rows: usize, ends: bool) {
        let lines = self.lines.len().max(1);
        let tried = !self.lines.is_empty() && ends;
        let length = (rows * width).max(1);
        for (number, states) in states.chunks_exact(length).take(lines).enumerate() {
            for (row, state) in states.chunks_exact(width.max(1)).enumerate() {
                let unit = unit(state);
                if tried && row + 1 == rows {
                    self.states.push(unit);
                } else if number == 0 {
                    self.seen.extend(unit);
                }
            }
        }
    }

    /// The token to take of those that were tried, its line, and which it is; `None` if none were tried yet.
    pub fn decide(&mut self) -> Option<(Chosen, Line, usize)> {
        let alpha = self.contrast.alpha;
        let width = self.states.first().map_or(1, Vec::len).max(1);
        let score = |(state, (_, p)): (&Vec<f64>, &(Chosen, f64))| {
            let likeness =
                |earlier: &[f64]| earlier.iter().zip(state).map(|(a, b)| a * b).sum::<f64>();
            let most = self
                .seen
                .chunks_exact(width)
                .map(likeness)
                .fold(f64::NEG_INFINITY, f64::max);
            (1.0 - alpha) * p - alpha * most
        };
        let scores: Vec<f64> = self.states.iter().zip(&self.tried).map(score).collect();
        let best =
            scores
                .iter()
                .enumerate()
                .fold(None, |best: Option<(usize, f64)>, (at, &score)| {
                    best.filter(|(_, most)| *most >= score)
                        .or(Some((at, score)))
                });
        let (best, _) = best?;
        if best >= self.lines.len() {
            return None;
        }
        let (chosen, _) = self.tried.swap_remove(best);
        self.seen.extend(self.states.swap_remove(best));
        let line = self.lines.swap_remove(best);
        self.tried.clear();
        self.states.clear();
        self.lines.clear();
        Some((chosen, line, best))
    }

    /// Tries `likeliest` tokens, each with its probability, after `tokens`, whose keys and values `cache` holds.
    pub fn fork(&mut self, likeliest: Vec<(Chosen, f64)>, tokens: &[u32], cache: &SequenceCache) {
        self.lines = likeliest
            .iter()
            .map(|(chosen, _)| Line::new([tokens, &[chosen.id]].concat(), cache.clone()))
            .collect();
        self.tried = likeliest;
        self.states.clear();
    }
}

/// A state of length 1.
fn unit(state: &[f32]) -> Vec<f64> {
    let square = |&v: &f32| f64::from(v) * f64::from(v);
    let length = state.iter().map(square).sum::<f64>().sqrt();
    state.iter().map(|&v| f64::from(v) / length).collect()
}
