//! One vector a text.

use lmrs_program::{Plan, Spares};
use lmrs_tensor::{Error, Result, Tensor};

use crate::batch::Packing;
use crate::score::batches;

/// A text of two kinds of tokens, as BERT knows them.
#[derive(Clone, Debug)]
pub struct Segmented {
    /// The ids.
    pub ids: Vec<u32>,
    /// As many segments.
    pub segments: Vec<i32>,
}

/// The output of `plan`, a row a text, for all `texts`: `[texts, width]`.
///
/// With `normalize` each row is divided by its Euclidean length. `between` is called after each batch.
///
/// # Errors
/// What the Program or `between` raise.
pub fn embed<E: From<Error>>(
    plan: &Plan,
    texts: &[Segmented],
    normalize: bool,
    mut between: impl FnMut() -> Result<(), E>,
) -> Result<Tensor, E> {
    let (mut values, spares) = (Vec::new(), Spares::default());
    for batch in batches(texts, |text| text.ids.len()) {
        let mut packing = Packing::new();
        for text in batch {
            packing.push(&text.ids, 0);
            packing.segment(&text.segments);
        }
        let outputs = plan.run(&packing.bindings(None)?, None, &spares)?;
        let output = outputs
            .first()
            .ok_or_else(|| Error::Internal("an encoder without output".into()))?;
        for row in output.values::<f32>()?.chunks_exact(output.width().max(1)) {
            let length = row
                .iter()
                .map(|&v| f64::from(v) * f64::from(v))
                .sum::<f64>()
                .sqrt();
            // As torch's `normalize` bounds it, so that a row of zeros stays one.
            let by = if normalize {
                1.0 / length.max(1e-12)
            } else {
                1.0
            };
            values.extend(row.iter().map(|&v| (f64::from(v) * by) as f32));
        }
        between()?;
    }
    let width = values.len() / texts.len().max(1);
    Ok(Tensor::new(values, [texts.len(), width])?)
}
