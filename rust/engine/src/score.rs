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
/// Tokens that go through a layer together: enough for products at their full rate, few enough that a layer's values are small.
const PART_TOKENS: usize = 128;

/// `ids` to read and what each row should predict: `labels[i]` is judged by row `i`; negative: not judged.
#[derive(Clone, Debug)]
pub struct Window {
    /// The ids.
    pub ids: Vec<u32>,
    /// As many labels.
    pub labels: Vec<i32>,
}

/// What a causal `plan` says of the judged rows of each window, one after another.
///
/// `plan` gives `[tokens, n]`, `n` numbers a row: `log p(label)` in nats is the first. What windows begin with is computed once;
/// its keys and values are kept while a run of windows of about [`BATCH_TOKENS`] rows is computed. `between` is called after
/// each batch and may end the work.
///
/// # Errors
/// What the Program or `between` raise.
pub fn score<E: From<Error>>(
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
                let texts = batch.iter().map(|&(number, piece)| {
                    let window = windows.get(piece.window).ok_or_else(lost)?;
                    Text::of(number, piece, window, &kept)
                });
                let texts = texts.collect::<Result<Vec<_>>>()?;
                for text in run_texts(plan, texts, &spares)? {
                    if text.piece.last {
                        *scores.get_mut(text.piece.window).ok_or_else(lost)? = text.scores;
                    } else {
                        fresh.insert(text.number, text.cache);
                    }
                }
                between()?;
            }
            kept = fresh;
        }
    }
    Ok(scores)
}

fn lost() -> Error {
    Error::Internal("a piece of a window that is not there".into())
}

/// A piece while it is computed.
struct Text<'a> {
    number: usize,
    piece: &'a Piece,
    ids: &'a [u32],
    /// As many as ids; none of a piece that others go on from.
    labels: &'a [i32],
    cache: SequenceCache,
    scores: Vec<f32>,
}

impl<'a> Text<'a> {
    /// Piece `number` behind its parent, which is among those `before` it.
    fn of(
        number: usize,
        piece: &'a Piece,
        window: &'a Window,
        before: &BTreeMap<usize, SequenceCache>,
    ) -> Result<Self> {
        let labels = if piece.last {
            window.labels.get(piece.ids.clone()).ok_or_else(lost)?
        } else {
            &[]
        };
        let cache = match piece.parent {
            Some(parent) => before.get(&parent).ok_or_else(lost)?.clone(),
            None => SequenceCache::new(KvType::Exact),
        };
        Ok(Self {
            number,
            piece,
            ids: window.ids.get(piece.ids.clone()).ok_or_else(lost)?,
            labels,
            cache,
            scores: Vec::new(),
        })
    }
}

/// Computes `texts` in parts of [`PART_TOKENS`] rows. All parts are through a layer before one goes on to the next: what crosses it
/// is held of all, but its keys and values only until then, and what it computes with only of one part.
fn run_texts<'a>(plan: &Plan, mut texts: Vec<Text<'a>>, spares: &Spares) -> Result<Vec<Text<'a>>> {
    let parts = parts(&texts);
    let bindings = parts.iter().map(|part| {
        let mut packing = Packing::new();
        for (index, rows) in part {
            let text = texts.get(*index).ok_or_else(lost)?;
            packing.push(
                text.ids.get(rows.clone()).ok_or_else(lost)?,
                text.piece.ids.start + rows.start,
            );
            packing.label(text.labels.get(rows.clone()).unwrap_or_default());
        }
        packing.bindings(None)
    });
    let bindings = bindings.collect::<Result<Vec<_>>>()?;
    let runs = bindings.iter().map(|bindings| plan.begin(bindings));
    let mut runs = runs.collect::<Result<Vec<_>>>()?;
    for stage in plan.stages() {
        for (run, part) in runs.iter_mut().zip(&parts) {
            let (first, count) = (part.first().map_or(0, |(index, _)| *index), part.len());
            let here = texts.iter_mut().skip(first).take(count);
            let mut cache = BatchCache(here.map(|text| &mut text.cache).collect());
            run.advance(Some(&mut cache), spares)?;
        }
        if let Some(slot) = stage.slot() {
            let ended = texts.iter_mut().filter(|text| text.piece.last);
            ended.for_each(|text| text.cache.forget(slot));
        }
    }
    for (run, part) in runs.into_iter().zip(&parts) {
        let outputs = run.outputs()?;
        let (values, width) = table(&outputs)?;
        let mut start = 0;
        for (index, rows) in part {
            let text = texts.get_mut(*index).ok_or_else(lost)?;
            let labels = text.labels.get(rows.clone()).unwrap_or_default();
            let here = start..start + rows.len();
            start = here.end;
            text.scores.extend(judged(labels, values, here, width));
        }
    }
    Ok(texts)
}

/// The rows of `texts` that are computed together: of texts one after another, each by its number.
fn parts(texts: &[Text<'_>]) -> Vec<Vec<(usize, Range<usize>)>> {
    let (mut parts, mut part, mut taken) = (Vec::new(), Vec::new(), 0);
    for (index, text) in texts.iter().enumerate() {
        let mut at = 0;
        loop {
            let rows = at..text.ids.len().min(at + PART_TOKENS - taken);
            at = rows.end;
            taken += rows.len();
            part.push((index, rows));
            if taken == PART_TOKENS {
                parts.push(std::mem::take(&mut part));
                taken = 0;
            }
            if at == text.ids.len() {
                break;
            }
        }
    }
    parts.extend((!part.is_empty()).then_some(part));
    parts
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
