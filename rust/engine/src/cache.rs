//! Keys and values of the sequences that are running.

use lmrs_kernels::attention::{KvStore, KvType};
use lmrs_program::Cache;
use lmrs_tensor::{Error, Result};
use rustc_hash::FxHashMap;

/// The keys and values of one sequence, by slot. Dropping it frees them; a clone shares what is there already.
#[derive(Clone)]
pub struct SequenceCache {
    kind: KvType,
    slots: FxHashMap<String, KvStore<f32>>,
}

impl SequenceCache {
    /// Nothing yet; what comes is kept as `kind`.
    pub fn new(kind: KvType) -> Self {
        Self {
            kind,
            slots: FxHashMap::default(),
        }
    }

    /// What is held of the first `tokens` tokens; the blocks are shared.
    pub fn prefix(&self, tokens: usize) -> Self {
        let mut prefix = self.clone();
        prefix.truncate(tokens);
        prefix
    }

    /// Forgets all tokens from number `tokens` on. Only of a decoder alone: what a decoder read of an encoder is in slots, too.
    pub fn truncate(&mut self, tokens: usize) {
        for store in self.slots.values_mut() {
            store.truncate(tokens);
        }
    }

    /// Forgets all of `slot`.
    pub fn forget(&mut self, slot: &str) {
        self.slots.remove(slot);
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        self.slots.values().map(KvStore::bytes).sum()
    }
}

/// The caches of the sequences of one step, in the order of the batch.
pub struct BatchCache<'a>(pub Vec<&'a mut SequenceCache>);

fn missing(slot: &str, sequence: usize) -> Error {
    Error::Internal(format!("no cache for {slot} of sequence {sequence}"))
}

impl Cache for BatchCache<'_> {
    fn store(&self, slot: &str, sequence: usize) -> Result<&KvStore<f32>> {
        let store = self.0.get(sequence).and_then(|cache| cache.slots.get(slot));
        store.ok_or_else(|| missing(slot, sequence))
    }

    fn store_mut(
        &mut self,
        slot: &str,
        sequence: usize,
        shape: (usize, usize),
    ) -> Result<&mut KvStore<f32>> {
        let cache = self.0.get_mut(sequence);
        let SequenceCache { kind, slots } = cache.ok_or_else(|| missing(slot, sequence))?;
        if !slots.contains_key(slot) {
            slots.insert(slot.to_owned(), KvStore::new(shape.0, shape.1, *kind));
        }
        slots.get_mut(slot).ok_or_else(|| missing(slot, sequence))
    }
}
