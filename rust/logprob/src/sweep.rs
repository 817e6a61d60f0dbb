//! A pass over the logits of every row, none of which is kept.

use lmrs_kernels::linear::fold;
use lmrs_kernels::softmax::{CHUNK, softcap};
use lmrs_kernels::{Real, Rows, team};

use crate::Head;

/// Chunks of the vocabulary a thread takes between two joins: enough that the shares of threads are even.
const SHARE: usize = 8;

impl<F: Real> Head<'_, F> {
    /// Reads the logits of each row of `x` once.
    ///
    /// `step(state, row, first, logits)` takes the logits `first..` of a row into the state of its chunk of the vocabulary,
    /// which starts as `fresh`; `join(first, states)` gets the states of all rows for the chunk that starts at `first`, the
    /// chunks in order. A few chunks are under way at a time, so the memory is that of `8·threads` states a row.
    pub(crate) fn sweep<A: Clone + Send>(
        &self,
        x: Rows<F>,
        fresh: &A,
        step: impl Fn(&mut A, usize, usize, &[F]) + Sync,
        mut join: impl FnMut(usize, &[A]),
    ) {
        let (rows, vocabulary) = (x.rows(), self.weight.outputs());
        if rows == 0 {
            return;
        }
        let wave = SHARE * team::threads() * CHUNK;
        let mut states = Vec::new();
        for start in (0..vocabulary).step_by(wave) {
            let end = vocabulary.min(start + wave);
            states.clear();
            states.resize((end - start).div_ceil(CHUNK) * rows, fresh.clone());
            fold(
                x,
                self.weight,
                self.bias,
                start..end,
                CHUNK,
                &mut states,
                |states, tile| {
                    let mut capped = Vec::new();
                    for (i, state) in states.iter_mut().enumerate() {
                        let mut logits = tile.values.row(i);
                        if let Some(cap) = self.softcap {
                            capped.clear();
                            capped.extend_from_slice(logits);
                            softcap(&mut capped, cap);
                            logits = &capped;
                        }
                        step(state, tile.first_row + i, tile.first_column, logits);
                    }
                },
            );
            for (index, states) in states.chunks_exact(rows).enumerate() {
                join(start + index * CHUNK, states);
            }
        }
    }
}
