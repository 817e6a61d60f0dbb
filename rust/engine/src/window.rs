//! A text and what each of its rows should predict.

use std::ops::Range;

use lmrs_tensor::{Error, Result, Tensor};

/// `ids` to read and what each row should predict: `labels[i]` is judged by row `i`; negative: not judged.
#[derive(Clone, Debug)]
pub struct Window {
    /// The ids.
    pub ids: Vec<u32>,
    /// As many labels.
    pub labels: Vec<i32>,
}

/// What a program of scores put out, and how many numbers a row has.
pub fn table(outputs: &[Tensor]) -> Result<(&[f32], usize)> {
    let output = outputs
        .first()
        .ok_or_else(|| Error::Internal("a program of scores without output".into()))?;
    Ok((output.values::<f32>()?, output.width()))
}

/// The rows of `values` that have a label, one after another.
pub fn judged(labels: &[i32], values: &[f32], rows: Range<usize>, width: usize) -> Vec<f32> {
    let rows = values.get(rows.start * width..rows.end * width);
    let rows = rows.unwrap_or_default().chunks_exact(width.max(1));
    let judged = labels.iter().zip(rows).filter(|&(&label, _)| label >= 0);
    judged.flat_map(|(_, row)| row).copied().collect()
}
