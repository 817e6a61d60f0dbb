//! Keys and values of prompts that were read before, for requests that begin alike.

use std::sync::{Arc, Weak};

use crate::cache::SequenceCache;
use crate::generator::Generator;

/// A prefix is kept in multiples of so many tokens, a block of the cache: no block of it is ever written again.
const GRAIN: usize = 64;

/// The most prefixes kept; each is compared with every prompt.
const MOST: usize = 256;

/// What was read of texts, the blocks shared with those who read them. Tokens are compared one by one, not by a hash: two
/// prompts are alike only if they are equal.
#[derive(Default)]
pub struct Prefixes {
    entries: Vec<Entry>,
    tokens: usize,
    bytes: usize,
    clock: u64,
}

struct Entry {
    /// Which model read it; one that is gone leaves nothing that can be found.
    reader: Weak<Generator>,
    tokens: Vec<u32>,
    cache: SequenceCache,
    bytes: usize,
    used: u64,
}

impl Prefixes {
    /// What `generator` has read of the beginning of `tokens`, and how many those are; never all of them.
    pub fn find(
        &mut self,
        generator: &Arc<Generator>,
        tokens: &[u32],
    ) -> Option<(usize, SequenceCache)> {
        let before_last = tokens.len().saturating_sub(1);
        let common = |entry: &Entry| {
            let pairs = entry.tokens.iter().zip(tokens.iter().take(before_last));
            pairs.take_while(|(a, b)| a == b).count() / GRAIN * GRAIN
        };
        let ours = |entry: &&mut Entry| std::ptr::eq(entry.reader.as_ptr(), Arc::as_ptr(generator));
        let best = self.entries.iter_mut().filter(ours);
        let (length, entry) = best
            .map(|entry| (common(entry), entry))
            .max_by_key(|(length, _)| *length)?;
        if length == 0 {
            return None;
        }
        self.clock += 1;
        entry.used = self.clock;
        Some((length, entry.cache.prefix(length)))
    }

    /// Keeps what `generator` read of `tokens`, which `cache` holds.
    pub fn keep(&mut self, generator: &Arc<Generator>, tokens: &[u32], cache: &SequenceCache) {
        let whole = tokens.len() / GRAIN * GRAIN;
        let Some(tokens) = tokens.get(..whole).filter(|tokens| !tokens.is_empty()) else {
            return;
        };
        self.clock += 1;
        let reader = Arc::downgrade(generator);
        let ours = |entry: &Entry| Weak::ptr_eq(&entry.reader, &reader);
        let covers = |entry: &&mut Entry| ours(entry) && entry.tokens.starts_with(tokens);
        if let Some(entry) = self.entries.iter_mut().find(covers) {
            entry.used = self.clock;
            return;
        }
        self.entries
            .retain(|entry| !(ours(entry) && tokens.starts_with(&entry.tokens)));
        let cache = cache.prefix(whole);
        self.entries.push(Entry {
            reader,
            tokens: tokens.to_vec(),
            bytes: cache.bytes(),
            cache,
            used: self.clock,
        });
        self.count();
    }

    /// Lets go of those unused the longest until they hold at most `tokens`, and of those whose model is gone.
    pub fn shrink(&mut self, tokens: usize) {
        self.entries.retain(|entry| entry.reader.strong_count() > 0);
        self.count();
        while self.tokens > tokens || self.entries.len() > MOST {
            let oldest = self.entries.iter().enumerate();
            let Some((at, _)) = oldest.min_by_key(|(_, entry)| entry.used) else {
                return;
            };
            self.entries.swap_remove(at);
            self.count();
        }
    }

    /// Memory held; blocks shared with a sequence that runs count for both.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&mut self) {
        self.tokens = self.entries.iter().map(|entry| entry.tokens.len()).sum();
        self.bytes = self.entries.iter().map(|entry| entry.bytes).sum();
    }
}
