//! Causal texts through a plan in parts, a layer at a time.

use std::ops::Range;

use lmrs_program::{Plan, Spares};
use lmrs_tensor::{Error, Result};

use crate::batch::Packing;
use crate::cache::{BatchCache, SequenceCache};
use crate::window::{judged, table};

/// Tokens that go through a layer together: enough for products at their full rate, few enough that a layer's values are small.
const PART_TOKENS: usize = 128;

/// A text, or a piece of one, while it is computed.
pub struct Text<'a> {
    /// What is read.
    pub ids: &'a [u32],
    /// How many ids of its text are before it.
    pub first: usize,
    /// As many labels as ids; none if no row is judged.
    pub labels: &'a [i32],
    /// The keys and values before it.
    pub cache: SequenceCache,
    /// Whether its own are kept.
    pub lasting: bool,
    /// What the plan says of its judged rows.
    pub scores: Vec<f32>,
}

fn lost() -> Error {
    Error::Internal("a part of a text that is not there".into())
}

/// Computes `texts` in parts of [`PART_TOKENS`] rows. All parts are through a layer before one goes on to the next: what crosses it
/// is held of all, but its keys and values only until then, and what it computes with only of one part.
pub fn compute(plan: &Plan, texts: &mut [Text<'_>], spares: &Spares) -> Result<()> {
    let parts = parts(texts);
    let bindings = parts.iter().map(|part| {
        let mut packing = Packing::new();
        for (index, rows) in part {
            let text = texts.get(*index).ok_or_else(lost)?;
            let ids = text.ids.get(rows.clone()).ok_or_else(lost)?;
            packing.push(ids, text.first + rows.start);
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
            let ended = texts.iter_mut().filter(|text| !text.lasting);
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
    Ok(())
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
