//! Runs of steps that may be computed some rows at a time, so that what lives only within a run takes little memory.
//!
//! The rows of a feed-forward are four times as wide as those around it, and nothing but its own end reads them. A row of
//! what such steps write depends on that row of what they read alone, and no kernel's bits depend on the rows beside one,
//! so a run in blocks gives what it gives at once.

use std::ops::Range;
use std::sync::Arc;

use crate::fuse::Action;
use crate::{Dim, Op, Program, ValueId};
use lmrs_tensor::DType;

/// Rows computed at a time: enough that reading the weights again for each block costs little.
pub(crate) const ROWS: usize = 256;

/// Consecutive steps.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub steps: Range<usize>,
    /// What they read of before and write for after them, by rows; `None` if they are not to be divided.
    pub rows: Option<ByRows>,
}

/// The values of a run that have a row for each row of a stream, and are not its own.
#[derive(Clone, Debug)]
pub(crate) struct ByRows {
    /// Computed before the run.
    pub reads: Vec<ValueId>,
    /// Computed in it, and read nowhere else.
    pub within: Vec<ValueId>,
    /// Computed in it, and read after it or put out: `[rows, width]`.
    pub keeps: Vec<(ValueId, usize)>,
}

/// Divides the steps `actions`, the values in `last[i]` being read for the last time by step `i`.
pub(crate) fn runs(program: &Program, actions: &[&Action], last: &[&[ValueId]]) -> Vec<Run> {
    let mut found: Vec<(Range<usize>, Option<Arc<str>>)> = Vec::new();
    for (at, action) in actions.iter().enumerate() {
        let stream = by_row(program, action);
        match found.last_mut() {
            Some((range, same)) if *same == stream => range.end = at + 1,
            _ => found.push((at..at + 1, stream)),
        }
    }
    let by_rows = |range: &Range<usize>, stream: &Arc<str>| {
        let (inside, last) = (&actions[range.clone()], &last[range.clone()]);
        let writes: Vec<ValueId> = inside.iter().flat_map(|action| action.writes()).collect();
        let ended: Vec<ValueId> = last.iter().copied().flatten().copied().collect();
        let mut reads: Vec<ValueId> = inside.iter().flat_map(|action| action.reads()).collect();
        reads.retain(|v| {
            !writes.contains(v) && program.meta(*v).rows() == Dim::Named(stream.clone())
        });
        reads.sort_unstable();
        reads.dedup();
        let kept = writes.iter().filter(|value| !ended.contains(value));
        let keeps = kept.map(|&value| Some((value, width(program, value)?)));
        let keeps: Vec<_> = keeps.collect::<Option<_>>()?;
        let within: Vec<_> = writes
            .iter()
            .copied()
            .filter(|value| ended.contains(value))
            .collect();
        // Where all is kept, blocks would save nothing.
        (!within.is_empty() && !reads.is_empty()).then_some(ByRows {
            reads,
            within,
            keeps,
        })
    };
    let runs = found.into_iter().map(|(steps, stream)| {
        let rows = stream.and_then(|stream| by_rows(&steps, &stream));
        Run { steps, rows }
    });
    runs.collect()
}

/// The width of a value that is float32 rows.
fn width(program: &Program, value: ValueId) -> Option<usize> {
    let meta = program.meta(value);
    match (meta.dtype, meta.dims.as_slice()) {
        (DType::F32, [Dim::Named(_), Dim::Known(width)]) => Some(*width),
        _ => None,
    }
}

/// The stream whose rows the action takes one by one; `None` if a row depends on others.
fn by_row(program: &Program, action: &Action) -> Option<Arc<str>> {
    let alone = match action {
        Action::Products { .. } => true,
        Action::Op(node) => {
            node.streams.is_empty()
                && matches!(
                    node.op,
                    Op::Activation(_)
                        | Op::Add(_)
                        | Op::Columns(_)
                        | Op::Concat(_)
                        | Op::Gated(_)
                        | Op::LayerNorm(_)
                        | Op::Linear(_)
                        | Op::Mul(_)
                        | Op::RmsNorm(_)
                        | Op::Rope(_)
                        | Op::Scale(_)
                )
        }
    };
    let stream = |value: &ValueId| match program.meta(*value).rows() {
        Dim::Named(stream) => Some(stream),
        Dim::Known(_) => None,
    };
    let writes = action.writes();
    let first = writes.first().and_then(stream)?;
    let same = writes
        .iter()
        .all(|value| stream(value).as_ref() == Some(&first));
    let others = action
        .reads()
        .iter()
        .filter_map(stream)
        .all(|read| read == first);
    (alone && same && others).then_some(first)
}
