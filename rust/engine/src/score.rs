//! Log-probabilities of given tokens.

use std::collections::BTreeMap;
use std::ops::Range;

use lmrs_kernels::attention::KvType;
use lmrs_program::{Plan, Spares};
use lmrs_tensor::{Error, Result, Tensor};

use crate::batch::Packing;
use crate::cache::{BatchCache, SequenceCache};
use crate::prefix::{Piece, pieces};

/// Tokens in a batch of whole sequences; one longer than that travels alone.
pub const BATCH_TOKENS: usize = 1024;

/// `ids` to read and what each row should predict: `labels[i]` is judged by row `i`; negative: not judged.
#[derive(Clone, Debug)]
pub struct Window {
    /// The ids.
    pub ids: Vec<u32>,
    /// As many labels.
    pub labels: Vec<i32>,
}

/// What `plan` says of the judged rows of each window, one after another.
///
/// `plan` gives `[tokens, n]`, `n` numbers a row: `log p(label)` in nats is the first. `between` is called after each batch and may end the work.
///
/// # Errors
/// What the Program or `between` raise.
pub fn score<E: From<Error>>(
    plan: &Plan,
    windows: &[Window],
    mut between: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Vec<f32>>, E> {
    let mut scores = Vec::with_capacity(windows.len());
    let spares = Spares::default();
    for batch in batches(windows, |window| window.ids.len()) {
        let mut packing = Packing::new();
        for window in batch {
            packing.push(&window.ids, 0);
            packing.label(&window.labels);
        }
        let rows: Vec<_> = packing.rows().collect();
        let outputs = plan.run(&packing.bindings(None)?, None, &spares)?;
        let (values, width) = table(&outputs)?;
        for (window, rows) in batch.iter().zip(rows) {
            scores.push(judged(&window.labels, values, rows, width));
        }
        between()?;
    }
    Ok(scores)
}

/// [`score`] for a causal `plan`, to the bit, where what windows begin with is computed once.
///
/// The keys and values of what is shared are kept while a run of windows of about [`BATCH_TOKENS`] rows is computed.
///
/// # Errors
/// What the Program or `between` raise.
pub fn score_sharing<E: From<Error>>(
    plan: &Plan,
    windows: &[Window],
    mut between: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Vec<f32>>, E> {
    let mut scores = vec![Vec::new(); windows.len()];
    let spares = Spares::default();
    let pieces = pieces(windows);
    let numbered: Vec<(usize, &Piece)> = pieces.iter().enumerate().collect();
    let trees: Vec<_> = numbered.chunk_by(|_, (_, next)| next.depth > 0).collect();
    for trees in batches(&trees, |tree| tree.iter().map(|(_, p)| p.ids.len()).sum()) {
        let mut kept = BTreeMap::new();
        let deepest = trees.iter().copied().flatten().map(|(_, p)| p.depth).max();
        for depth in 0..=deepest.unwrap_or(0) {
            let level = trees.iter().copied().flatten();
            let level: Vec<_> = level.filter(|(_, p)| p.depth == depth).copied().collect();
            let mut fresh = BTreeMap::new();
            for batch in batches(&level, |(_, piece)| piece.ids.len()) {
                run_pieces(
                    plan,
                    windows,
                    batch,
                    (&kept, &mut fresh),
                    &spares,
                    &mut scores,
                )?;
                between()?;
            }
            kept = fresh;
        }
    }
    Ok(scores)
}

/// Runs pieces of one depth behind those `before` them, and keeps what the next depth needs in `after`.
fn run_pieces(
    plan: &Plan,
    windows: &[Window],
    batch: &[(usize, &Piece)],
    (before, after): (
        &BTreeMap<usize, SequenceCache>,
        &mut BTreeMap<usize, SequenceCache>,
    ),
    spares: &Spares,
    scores: &mut [Vec<f32>],
) -> Result<()> {
    let lost = || Error::Internal("a piece of a window that is not there".into());
    let mut packing = Packing::new();
    let mut caches = Vec::with_capacity(batch.len());
    for (_, piece) in batch {
        let window = windows.get(piece.window).ok_or_else(lost)?;
        packing.push(
            window.ids.get(piece.ids.clone()).ok_or_else(lost)?,
            piece.ids.start,
        );
        if piece.last {
            packing.label(window.labels.get(piece.ids.clone()).ok_or_else(lost)?);
        }
        caches.push(match piece.parent {
            Some(parent) => before.get(&parent).ok_or_else(lost)?.clone(),
            None => SequenceCache::new(KvType::Exact),
        });
    }
    let rows: Vec<_> = packing.rows().collect();
    let mut cache = BatchCache(caches.iter_mut().collect());
    let outputs = plan.run(&packing.bindings(None)?, Some(&mut cache), spares)?;
    let (values, width) = table(&outputs)?;
    for (((number, piece), rows), cache) in batch.iter().zip(rows).zip(caches) {
        let window = windows.get(piece.window).ok_or_else(lost)?;
        if piece.last {
            let labels = window.labels.get(piece.ids.clone()).ok_or_else(lost)?;
            *scores.get_mut(piece.window).ok_or_else(lost)? = judged(labels, values, rows, width);
        } else {
            after.insert(*number, cache);
        }
    }
    Ok(())
}

/// What a program of scores put out, and how many numbers a row has.
fn table(outputs: &[Tensor]) -> Result<(&[f32], usize)> {
    let output = outputs
        .first()
        .ok_or_else(|| Error::Internal("a program of scores without output".into()))?;
    Ok((output.values::<f32>()?, output.width()))
}

/// The rows of `values` that have a label, one after another.
fn judged(labels: &[i32], values: &[f32], rows: Range<usize>, width: usize) -> Vec<f32> {
    let rows = values.get(rows.start * width..rows.end * width);
    let rows = rows.unwrap_or_default().chunks_exact(width.max(1));
    let judged = labels.iter().zip(rows).filter(|&(&label, _)| label >= 0);
    judged.flat_map(|(_, row)| row).copied().collect()
}

/// Splits `items` into runs of at most [`BATCH_TOKENS`] tokens.
pub(crate) fn batches<T>(items: &[T], tokens: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut total = 0;
        let within = rest.iter().take_while(|item| {
            total += tokens(item);
            total <= BATCH_TOKENS
        });
        let count = within.count().max(1).min(rest.len());
        let (batch, after) = rest.split_at_checked(count)?;
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}
