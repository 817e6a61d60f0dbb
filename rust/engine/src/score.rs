//! Log-probabilities of given tokens.

use lmrs_program::Plan;
use lmrs_tensor::{Error, Result};

use crate::batch::Packing;

/// Tokens in a batch of whole sequences; one longer than that travels alone.
pub const BATCH_TOKENS: usize = 2048;

/// `ids` to read and what each row should predict: `labels[i]` is judged by row `i`; negative: not judged.
#[derive(Clone, Debug)]
pub struct Window {
    /// The ids.
    pub ids: Vec<u32>,
    /// As many labels.
    pub labels: Vec<i32>,
}

/// `log p(label)` in nats of the judged rows of each window.
///
/// `plan` gives `[tokens, 1]`. `between` is called after each batch and may end the work.
///
/// # Errors
/// What the Program or `between` raise.
pub fn score<E: From<Error>>(
    plan: &Plan,
    windows: &[Window],
    mut between: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Vec<f32>>, E> {
    let mut scores = Vec::with_capacity(windows.len());
    for batch in batches(windows, |window| window.ids.len()) {
        let mut packing = Packing::new();
        for window in batch {
            packing.push(&window.ids, 0);
            packing.label(&window.labels);
        }
        let rows: Vec<_> = packing.rows().collect();
        let outputs = plan.run(&packing.bindings(None)?, None)?;
        let output = outputs
            .first()
            .ok_or_else(|| Error::Internal("a program of scores without output".into()))?;
        let values = output.values::<f32>()?;
        for (window, rows) in batch.iter().zip(rows) {
            let judged = window
                .labels
                .iter()
                .zip(values.get(rows).unwrap_or_default());
            scores.push(
                judged
                    .filter(|&(&label, _)| label >= 0)
                    .map(|(_, &p)| p)
                    .collect(),
            );
        }
        between()?;
    }
    Ok(scores)
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
