//! What a unigram model may begin with: the stretches of words that are there more than once.

use std::collections::BTreeMap;

use crate::{error::Result, parallel::in_parallel};

/// Characters of the longest piece.
pub(super) const LONGEST: usize = 16;

/// All words, one behind the other.
struct Words {
    chars: Vec<char>,
    /// Where the word of each character ends, and how often it is there.
    ends: Vec<(u32, u64)>,
}

impl Words {
    fn of(words: &[(String, u64)]) -> Self {
        let mut all = Self {
            chars: Vec::new(),
            ends: Vec::new(),
        };
        for (word, count) in words {
            all.chars.extend(word.chars());
            let end = all.chars.len();
            all.ends.resize(end, (end as u32, *count));
        }
        all
    }

    /// The rest of the word from a character on, as far as a piece reaches.
    fn rest(&self, at: u32) -> &[char] {
        let start = at as usize;
        let end = self.ends.get(start).map_or(start, |end| end.0 as usize);
        let end = end.min(start + LONGEST);
        self.chars.get(start..end).unwrap_or(&[])
    }
}

/// A node of the tree of all rests, while it is walked in order.
struct Node {
    depth: usize,
    count: u64,
}

/// Stretches of two characters and more that are in the words at least `least` times, and how often; at most `most`, those
/// that cover the most text. Of stretches that are always the beginning of a longer one only the longest is given.
///
/// The rests of all words in order are the leaves of their suffix tree, whose inner nodes are told by how much of two
/// neighbours is equal (Abouelhoda et al., 2004). Sorting looks at no more than a piece, so long runs cost no more.
pub(super) fn seeds(
    words: &[(String, u64)],
    least: u64,
    most: usize,
) -> Result<Vec<(String, u64)>> {
    let words = Words::of(words);
    let mut starts: BTreeMap<char, Vec<u32>> = BTreeMap::new();
    for (at, c) in (0..).zip(&words.chars) {
        starts.entry(*c).or_default().push(at);
    }
    let groups: Vec<Vec<u32>> = starts.into_values().collect();
    let found = in_parallel(&groups, words.chars.len(), |_, group| {
        Ok(of_group(&words, group.clone(), least))
    })?;
    let mut all: Vec<(u32, usize, u64)> = found.into_iter().flatten().collect();
    let cover = |depth: usize, count: u64| count.saturating_mul(depth as u64);
    let text = |at: u32, depth: usize| words.rest(at).get(..depth).unwrap_or(&[]);
    all.sort_unstable_by(|a, b| {
        cover(b.1, b.2)
            .cmp(&cover(a.1, a.2))
            .then_with(|| text(a.0, a.1).cmp(text(b.0, b.1)))
    });
    all.truncate(most);
    let owned = |(at, depth, count)| (text(at, depth).iter().collect(), count);
    Ok(all.into_iter().map(owned).collect())
}

/// The stretches that begin with one character: where one is, its characters, and how often it is there.
fn of_group(words: &Words, mut group: Vec<u32>, least: u64) -> Vec<(u32, usize, u64)> {
    group.sort_unstable_by(|a, b| words.rest(*a).cmp(words.rest(*b)));
    let mut found = Vec::new();
    let mut open: Vec<Node> = Vec::new();
    let mut before = None;
    // A rest of nothing closes all nodes.
    for at in group.into_iter().map(Some).chain([None]) {
        let rest = at.map_or(&[][..], |at| words.rest(at));
        let equal = before.map_or(0, |before| {
            let pairs = words.rest(before).iter().zip(rest);
            pairs.take_while(|(a, b)| a == b).count()
        });
        let mut below = 0;
        while let Some(node) = open.pop_if(|node| node.depth > equal) {
            below += node.count;
            if node.depth > 1 && below >= least {
                found.extend(before.map(|before| (before, node.depth, below)));
            }
            if open.last().is_some_and(|parent| parent.depth >= equal) {
                open.last_mut()
                    .into_iter()
                    .for_each(|parent| parent.count += std::mem::take(&mut below));
            }
        }
        let count = at.and_then(|at| words.ends.get(at as usize));
        for (depth, count) in [(equal, below), (rest.len(), count.map_or(0, |end| end.1))] {
            match open.last_mut() {
                Some(node) if node.depth == depth => node.count += count,
                _ if depth > 0 && count > 0 => open.push(Node { depth, count }),
                _ => {}
            }
        }
        before = at;
    }
    found
}
