//! Keys and values of the sequences that are running.

use lmrs_kernels::attention::KvStore;
use lmrs_program::Cache;
use lmrs_tensor::{Error, Result};
use rustc_hash::FxHashMap;

/// The keys and values of one sequence, by slot. Dropping it frees them.
#[derive(Default)]
pub struct SequenceCache(FxHashMap<String, KvStore<f32>>);

/// The caches of the sequences of one step, in the order of the batch.
pub struct BatchCache<'a>(pub Vec<&'a mut SequenceCache>);

fn missing(slot: &str, sequence: usize) -> Error {
    Error::Internal(format!("no cache for {slot} of sequence {sequence}"))
}

impl Cache for BatchCache<'_> {
    fn store(&self, slot: &str, sequence: usize) -> Result<&KvStore<f32>> {
        let store = self.0.get(sequence).and_then(|cache| cache.0.get(slot));
        store.ok_or_else(|| missing(slot, sequence))
    }

    fn store_mut(
        &mut self,
        slot: &str,
        sequence: usize,
        shape: (usize, usize),
    ) -> Result<&mut KvStore<f32>> {
        let slots = &mut self
            .0
            .get_mut(sequence)
            .ok_or_else(|| missing(slot, sequence))?
            .0;
        if !slots.contains_key(slot) {
            slots.insert(slot.to_owned(), KvStore::new(shape.0, shape.1));
        }
        slots.get_mut(slot).ok_or_else(|| missing(slot, sequence))
    }
}
