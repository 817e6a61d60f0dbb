//! Layer norm and root-mean-square norm, forward and backward.

use crate::{Real, Rows, RowsMut};

/// `y = (x − mean) / √(var + eps) · weight + bias` for each row, `var` the biased variance (Ba et al. 2016).
pub fn layer_norm<F: Real>(
    x: Rows<F>,
    weight: &[F],
    bias: Option<&[F]>,
    eps: F,
    mut out: RowsMut<F>,
) {
    for i in 0..x.rows() {
        let (row, y) = (x.row(i), out.row_mut(i));
        let (mean, inverse) = moments(row, eps);
        for j in 0..row.len() {
            let b = bias.map_or(F::ZERO, |b| b[j]);
            y[j] = (row[j] - mean) * inverse * weight[j] + b;
        }
    }
}

fn moments<F: Real>(row: &[F], eps: F) -> (F, F) {
    let n = F::of(row.len() as f64);
    let mean = row.iter().fold(F::ZERO, |s, &v| s + v) / n;
    let var = row
        .iter()
        .fold(F::ZERO, |s, &v| s + (v - mean) * (v - mean))
        / n;
    (mean, F::ONE / (var + eps).sqrt())
}

/// Gradients of [`layer_norm`]; the statistics are computed again from `x`.
pub fn layer_norm_backward<F: Real>(
    x: Rows<F>,
    weight: &[F],
    eps: F,
    dy: Rows<F>,
    mut dx: RowsMut<F>,
    mut dweight: Option<&mut [F]>,
    mut dbias: Option<&mut [F]>,
) {
    if let Some(d) = &mut dweight {
        d.fill(F::ZERO);
    }
    if let Some(d) = &mut dbias {
        d.fill(F::ZERO);
    }
    for i in 0..x.rows() {
        let (row, g, out) = (x.row(i), dy.row(i), dx.row_mut(i));
        let (mean, inverse) = moments(row, eps);
        let n = F::of(row.len() as f64);
        let (mut sum, mut dot) = (F::ZERO, F::ZERO);
        for j in 0..row.len() {
            let unit = (row[j] - mean) * inverse;
            sum += g[j] * weight[j];
            dot += g[j] * weight[j] * unit;
            if let Some(d) = &mut dweight {
                d[j] += g[j] * unit;
            }
            if let Some(d) = &mut dbias {
                d[j] += g[j];
            }
        }
        for j in 0..row.len() {
            let unit = (row[j] - mean) * inverse;
            out[j] = inverse * (g[j] * weight[j] - sum / n - unit * dot / n);
        }
    }
}

/// `y = x / √(mean(x²) + eps) · weight` for each run of `weight.len()` elements of a row (Zhang & Sennrich 2019).
///
/// A weight shorter than the row norms each head by itself (q and k norms).
pub fn rms_norm<F: Real>(x: Rows<F>, weight: &[F], eps: F, mut out: RowsMut<F>) {
    for i in 0..x.rows() {
        for (row, y) in x
            .row(i)
            .chunks_exact(weight.len())
            .zip(out.row_mut(i).chunks_exact_mut(weight.len()))
        {
            let inverse = inverse_rms(row, eps);
            for j in 0..row.len() {
                y[j] = row[j] * inverse * weight[j];
            }
        }
    }
}

fn inverse_rms<F: Real>(row: &[F], eps: F) -> F {
    let square = row.iter().fold(F::ZERO, |s, &v| s + v * v) / F::of(row.len() as f64);
    F::ONE / (square + eps).sqrt()
}

/// Gradients of [`rms_norm`].
pub fn rms_norm_backward<F: Real>(
    x: Rows<F>,
    weight: &[F],
    eps: F,
    dy: Rows<F>,
    mut dx: RowsMut<F>,
    mut dweight: Option<&mut [F]>,
) {
    let group = weight.len();
    if let Some(d) = &mut dweight {
        d.fill(F::ZERO);
    }
    for i in 0..x.rows() {
        let groups = x
            .row(i)
            .chunks_exact(group)
            .zip(dy.row(i).chunks_exact(group));
        for ((row, g), out) in groups.zip(dx.row_mut(i).chunks_exact_mut(group)) {
            let inverse = inverse_rms(row, eps);
            let mut dot = F::ZERO;
            for j in 0..group {
                dot += g[j] * weight[j] * row[j];
                if let Some(d) = &mut dweight {
                    d[j] += g[j] * row[j] * inverse;
                }
            }
            let mean = dot * inverse * inverse / F::of(group as f64);
            for j in 0..group {
                out[j] = inverse * (g[j] * weight[j] - row[j] * mean);
            }
        }
    }
}
