//! The most likely way to write a text as pieces (Viterbi).

use std::ops::Add;

use super::trie::Trie;

/// The best way to write the text up to some byte.
#[derive(Clone, Copy)]
pub(super) struct Best<S> {
    score: S,
    /// Where its last piece starts; `NOWHERE` where nothing ends.
    start: u32,
    id: u32,
}

const NOWHERE: u32 = u32::MAX;

/// Pieces and what each adds to the score of a text; no score is taken that is not above `never`.
pub(super) struct Search<'a, S> {
    pub(super) trie: &'a Trie,
    pub(super) scores: &'a [S],
    pub(super) never: S,
    /// Stands for a character that is no piece by itself, if there is one.
    pub(super) unknown: Option<u32>,
    pub(super) unknown_score: S,
}

impl<S: Copy + Default + PartialOrd + Add<Output = S>> Search<'_, S> {
    /// Fills `best[end]` for every character boundary `end`; an error is a character that cannot be written.
    pub(super) fn run(&self, text: &str, best: &mut Vec<Best<S>>) -> Result<(), char> {
        best.clear();
        let none = Best {
            score: S::default(),
            start: NOWHERE,
            id: 0,
        };
        best.resize(text.len() + 1, none);
        for (at, c) in text.char_indices() {
            let here = best.get(at).map_or_else(S::default, |best| best.score);
            let mut single = false;
            let mut offer = |len: usize, id: u32, score: S| {
                let score = score + here;
                if let Some(target) = best.get_mut(at + len)
                    && (target.start == NOWHERE || score > target.score)
                {
                    *target = Best {
                        score,
                        start: at as u32,
                        id,
                    };
                }
            };
            let rest = text.as_bytes().get(at..).unwrap_or(&[]);
            self.trie.prefixes(rest, |len, id| {
                let score = self.scores.get(id as usize).copied();
                if let Some(score) = score.filter(|score| *score > self.never) {
                    single |= len == c.len_utf8();
                    offer(len, id, score);
                }
            });
            if !single {
                offer(c.len_utf8(), self.unknown.ok_or(c)?, self.unknown_score);
            }
        }
        Ok(())
    }
}

/// The pieces of the best way, last one first: where each starts and ends, and its id.
pub(super) fn backwards<S>(best: &[Best<S>]) -> impl Iterator<Item = (usize, usize, u32)> {
    let mut end = best.len().saturating_sub(1);
    std::iter::from_fn(move || {
        let last = best.get(end).filter(|last| last.start != NOWHERE)?;
        let piece = (last.start as usize, end, last.id);
        end = last.start as usize;
        Some(piece)
    })
}
