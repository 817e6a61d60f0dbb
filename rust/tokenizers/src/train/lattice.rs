//! All ways to write a word as pieces.

use crate::model::Trie;

/// Pieces, and log p of each; -∞ for one that is no longer used.
pub(super) struct Pieces {
    pub(super) texts: Vec<String>,
    pub(super) scores: Vec<f64>,
    trie: Trie,
}

impl Pieces {
    pub(super) fn new(texts: Vec<String>, scores: Vec<f64>) -> Self {
        let found = (0..).zip(&texts).map(|(id, text)| (text.as_bytes(), id));
        Self {
            trie: Trie::new(found.collect()),
            texts,
            scores,
        }
    }

    pub(super) fn score(&self, id: u32) -> f64 {
        let score = self.scores.get(id as usize);
        score.copied().unwrap_or(f64::NEG_INFINITY)
    }
}

/// A piece where it stands, in bytes of the word.
#[derive(Clone, Copy)]
struct Edge {
    start: u32,
    end: u32,
    id: u32,
    score: f64,
}

/// The pieces that stand in a word, by where they begin. Every character must be a piece.
#[derive(Default)]
pub(super) struct Lattice {
    edges: Vec<Edge>,
    /// log Σ p of the ways from the beginning to a byte.
    before: Vec<f64>,
    /// From a byte to the end.
    after: Vec<f64>,
    /// log p of the best way to a byte, and its last edge.
    best: Vec<(f64, u32)>,
    path: Vec<u32>,
}

/// log(eᵃ + eᵇ)
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

fn read(values: &[f64], at: u32) -> f64 {
    let value = values.get(at as usize);
    value.copied().unwrap_or(f64::NEG_INFINITY)
}

impl Lattice {
    /// Finds the pieces of a word; without the one that is the whole word, if so asked.
    pub(super) fn fill(&mut self, word: &str, pieces: &Pieces, in_parts: bool) {
        self.edges.clear();
        for (start, _) in word.char_indices() {
            let rest = word.as_bytes().get(start..).unwrap_or(&[]);
            pieces.trie.prefixes(rest, |len, id| {
                let score = pieces.score(id);
                let whole = in_parts && len == word.len();
                if score > f64::NEG_INFINITY && !whole {
                    self.edges.push(Edge {
                        start: start as u32,
                        end: (start + len) as u32,
                        id,
                        score,
                    });
                }
            });
        }
    }

    /// Calls `found` with every piece of the word that `fill` was given and how probable it is there.
    pub(super) fn posteriors(&mut self, word: &str, mut found: impl FnMut(u32, f64)) {
        let Self {
            edges,
            before,
            after,
            ..
        } = self;
        for (values, at) in [(&mut *before, 0), (&mut *after, word.len())] {
            values.clear();
            values.resize(word.len() + 1, f64::NEG_INFINITY);
            values
                .get_mut(at)
                .into_iter()
                .for_each(|value| *value = 0.0);
        }
        for edge in &*edges {
            let sum = read(before, edge.start) + edge.score;
            if let Some(to) = before.get_mut(edge.end as usize) {
                *to = log_add(*to, sum);
            }
        }
        for edge in edges.iter().rev() {
            let sum = read(after, edge.end) + edge.score;
            if let Some(to) = after.get_mut(edge.start as usize) {
                *to = log_add(*to, sum);
            }
        }
        let all = read(after, 0);
        for edge in &*edges {
            let through = read(before, edge.start) + edge.score + read(after, edge.end) - all;
            found(edge.id, through.exp());
        }
    }

    /// The most probable way to write the word that `fill` was given, last piece first; nothing if there is none.
    pub(super) fn best(&mut self, word: &str) -> &[u32] {
        let Self {
            edges, best, path, ..
        } = self;
        path.clear();
        best.clear();
        best.resize(word.len() + 1, (f64::NEG_INFINITY, 0));
        best.first_mut().into_iter().for_each(|first| first.0 = 0.0);
        for (at, edge) in (0..).zip(&*edges) {
            let here = best.get(edge.start as usize).map_or(0.0, |best| best.0);
            if let Some(to) = best.get_mut(edge.end as usize)
                && here + edge.score > to.0
            {
                *to = (here + edge.score, at);
            }
        }
        let mut end = word.len();
        while end > 0
            && let Some((score, at)) = best.get(end)
            && *score > f64::NEG_INFINITY
            && let Some(edge) = edges.get(*at as usize)
        {
            path.push(edge.id);
            end = edge.start as usize;
        }
        path
    }
}
