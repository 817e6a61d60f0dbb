//! All tokens that a text begins with.

use std::collections::VecDeque;

use crate::vocabulary::Vocabulary;

/// A trie over bytes. The children of a node lie side by side, sorted by byte.
pub(crate) struct Trie {
    nodes: Vec<Node>,
    labels: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Node {
    first: u32,
    children: u16,
    /// The token that ends here, or `NONE`.
    id: u32,
}

const NONE: u32 = u32::MAX;

impl Trie {
    pub(crate) fn of(vocabulary: &Vocabulary) -> Self {
        let tokens = vocabulary
            .iter()
            .filter_map(|(_, token)| Some((token.as_bytes(), vocabulary.id(token)?)));
        Self::new(tokens.filter(|(token, _)| !token.is_empty()).collect())
    }

    /// A trie of tokens that are not empty, each with its id.
    pub(crate) fn new(mut tokens: Vec<(&[u8], u32)>) -> Self {
        tokens.sort_unstable();
        tokens.dedup();
        let node = |id| Node {
            first: 0,
            children: 0,
            id,
        };
        let mut trie = Self {
            nodes: vec![node(NONE)],
            labels: vec![0],
        };
        // Breadth first, each entry a node, its depth and the tokens below it.
        let mut open = VecDeque::from([(0usize, 0usize, tokens.as_slice())]);
        while let Some((at, depth, mut below)) = open.pop_front() {
            let first = trie.nodes.len();
            while let Some(&label) = below.first().and_then(|(token, _)| token.get(depth)) {
                let same = below.partition_point(|(token, _)| token.get(depth) == Some(&label));
                let (mut child, rest) = below.split_at(same);
                below = rest;
                let mut id = NONE;
                if let [(token, found), longer @ ..] = child
                    && token.len() == depth + 1
                {
                    (id, child) = (*found, longer);
                }
                if !child.is_empty() {
                    open.push_back((trie.nodes.len(), depth + 1, child));
                }
                trie.nodes.push(node(id));
                trie.labels.push(label);
            }
            let children = (trie.nodes.len() - first) as u16;
            if let Some(node) = trie.nodes.get_mut(at) {
                (node.first, node.children) = (first as u32, children);
            }
        }
        trie
    }

    /// Calls `found` with the length and id of every token that `text` begins with, shortest first.
    pub(crate) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut at = 0;
        for (depth, byte) in text.iter().enumerate() {
            let Some(child) = self.child(at, *byte) else {
                return;
            };
            at = child;
            if let Some(node) = self.nodes.get(at)
                && node.id != NONE
            {
                found(depth + 1, node.id);
            }
        }
    }

    fn child(&self, at: usize, byte: u8) -> Option<usize> {
        let node = self.nodes.get(at)?;
        let first = node.first as usize;
        let labels = self.labels.get(first..first + node.children as usize)?;
        labels.binary_search(&byte).ok().map(|at| first + at)
    }
}
