//! All tokens that a text begins with.

use std::collections::VecDeque;

use crate::vocabulary::Vocabulary;

/// A trie over bytes as a double array (Aoe, 1989): the child of a node lies at its base, exclusive-or the byte.
pub(crate) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy)]
struct Node {
    base: u32,
    /// Whose child this is; `NONE` where no node lies.
    parent: u32,
    /// The token that ends here, or `NONE`.
    id: u32,
}

/// A token and its id.
type Entry<'a> = (&'a [u8], u32);

const NONE: u32 = u32::MAX;

/// Children of one node lie in one block.
const BLOCK: usize = 256;

/// So often a node's children are tried in the first block that has room, before it is given up.
const TRIES: usize = 16;

impl Trie {
    pub(crate) fn of(vocabulary: &Vocabulary) -> Self {
        let tokens = vocabulary
            .iter()
            .filter_map(|(_, token)| Some((token.as_bytes(), vocabulary.id(token)?)));
        Self::new(tokens.filter(|(token, _)| !token.is_empty()).collect())
    }

    /// A trie of tokens that are not empty, each with its id.
    pub(crate) fn new(mut tokens: Vec<Entry>) -> Self {
        tokens.sort_unstable();
        tokens.dedup();
        let mut room = Room {
            nodes: Vec::new(),
            open: 0,
        };
        room.add_block();
        room.put(0, NONE - 1, NONE);
        // Breadth first, each entry a node, its depth and the tokens below it.
        let mut waiting = VecDeque::from([(0u32, 0usize, tokens.as_slice())]);
        let mut children: Vec<(u8, u32, &[Entry])> = Vec::new();
        while let Some((at, depth, mut below)) = waiting.pop_front() {
            children.clear();
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
                children.push((label, id, child));
            }
            let base = room.base_for(&children);
            if let Some(node) = room.nodes.get_mut(at as usize) {
                node.base = base;
            }
            for &(label, id, child) in &children {
                let place = base ^ u32::from(label);
                room.put(place, at, id);
                if !child.is_empty() {
                    waiting.push_back((place, depth + 1, child));
                }
            }
        }
        Self { nodes: room.nodes }
    }

    /// Calls `found` with the length and id of every token that `text` begins with, shortest first.
    #[inline]
    pub(crate) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut at = 0;
        let mut base = self.nodes.first().map_or(0, |root| root.base);
        for (depth, byte) in text.iter().enumerate() {
            let place = base ^ u32::from(*byte);
            let Some(node) = self.nodes.get(place as usize) else {
                return;
            };
            if node.parent != at {
                return;
            }
            (at, base) = (place, node.base);
            if node.id != NONE {
                found(depth + 1, node.id);
            }
        }
    }

    /// The longest token that `text` begins with: its length and id.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut last = None;
        self.prefixes(text, |len, id| last = Some((len, id)));
        last
    }
}

/// The double array while it is filled.
struct Room {
    nodes: Vec<Node>,
    /// Places before this one are taken, or were given up.
    open: usize,
}

impl Room {
    fn add_block(&mut self) {
        let free = Node {
            base: 0,
            parent: NONE,
            id: NONE,
        };
        self.nodes.resize(self.nodes.len() + BLOCK, free);
    }

    fn put(&mut self, place: u32, parent: u32, id: u32) {
        if let Some(node) = self.nodes.get_mut(place as usize) {
            (node.parent, node.id) = (parent, id);
        }
    }

    fn is_free(&self, place: u32) -> bool {
        let node = self.nodes.get(place as usize);
        node.is_some_and(|node| node.parent == NONE)
    }

    /// A base with which all children fall on free places.
    fn base_for<T>(&mut self, children: &[(u8, u32, T)]) -> u32 {
        let Some(first) = children.first().map(|child| u32::from(child.0)) else {
            return 0;
        };
        while self.open < self.nodes.len() && !self.is_free(self.open as u32) {
            self.open += 1;
        }
        let mut tries = 0;
        let mut place = self.open;
        loop {
            if place == self.nodes.len() {
                self.add_block();
            }
            let base = place as u32 ^ first;
            if self.is_free(place as u32) {
                if children
                    .iter()
                    .all(|child| self.is_free(base ^ u32::from(child.0)))
                {
                    return base;
                }
                tries += 1;
                if tries == TRIES {
                    self.open = self.open / BLOCK * BLOCK + BLOCK;
                }
            }
            place += 1;
        }
    }
}
