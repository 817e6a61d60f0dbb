//! Log-probabilities of given tokens.

use std::collections::BTreeMap;

use lmrs_kernels::attention::KvType;
use lmrs_program::{Plan, Spares};
use lmrs_tensor::{Error, Result};

use crate::cache::SequenceCache;
use crate::parts::{self, Text};
use crate::prefix::{Piece, pieces};
use crate::window::Window;

/// Tokens in a batch of whole sequences; one longer than that travels alone.
const BATCH_TOKENS: usize = 1024;

/// What a causal `plan` says of the judged rows of each window, one after another. What windows begin with is computed once,
/// which changes no bit.
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
    let texts = batch.iter().map(|(_, piece)| {
        let window = windows.get(piece.window).ok_or_else(lost)?;
        let labels = window.labels.get(piece.ids.clone()).ok_or_else(lost)?;
        Ok(Text {
            ids: window.ids.get(piece.ids.clone()).ok_or_else(lost)?,
            first: piece.ids.start,
            labels: if piece.last { labels } else { &[] },
            cache: match piece.parent {
                Some(parent) => before.get(&parent).ok_or_else(lost)?.clone(),
                None => SequenceCache::new(KvType::Exact),
            },
            lasting: !piece.last,
            scores: Vec::new(),
        })
    });
    let mut texts = texts.collect::<Result<Vec<_>>>()?;
    parts::compute(plan, &mut texts, spares)?;
    for ((number, piece), text) in batch.iter().zip(texts) {
        if piece.last {
            *scores.get_mut(piece.window).ok_or_else(lost)? = text.scores;
        } else {
            after.insert(*number, text.cache);
        }
    }
    Ok(())
}

/// Splits `items` into runs of at most [`BATCH_TOKENS`] tokens.
fn batches<T>(items: &[T], tokens: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
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
