//! One row for each sequence.

use crate::{Real, Rows, RowsMut};

/// How the rows of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The mean of the rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// The largest value of each column; the first such row receives the gradient.
    Max,
}

/// `out[s]` from rows `starts[s]..starts[s + 1]` of `x`. An empty sequence gives zeros.
pub fn pool<F: Real>(kind: Pool, x: Rows<F>, starts: &[usize], mut out: RowsMut<F>) {
    for (s, bounds) in starts.windows(2).enumerate() {
        let y = out.row_mut(s);
        let rows = x.slice(bounds[0]..bounds[1]);
        y.fill(F::ZERO);
        if rows.rows() == 0 {
            continue;
        }
        match kind {
            Pool::First => y.copy_from_slice(rows.row(0)),
            Pool::Last => y.copy_from_slice(rows.row(rows.rows() - 1)),
            Pool::Mean => {
                for i in 0..rows.rows() {
                    y.iter_mut().zip(rows.row(i)).for_each(|(y, &x)| *y += x);
                }
                let n = F::of(rows.rows() as f64);
                for y in y {
                    *y = *y / n;
                }
            }
            Pool::Max => {
                y.copy_from_slice(rows.row(0));
                for i in 1..rows.rows() {
                    y.iter_mut()
                        .zip(rows.row(i))
                        .for_each(|(y, &x)| *y = if *y > x || y.is_nan() { *y } else { x });
                }
            }
        }
    }
}

/// The gradient of [`pool`].
pub fn pool_backward<F: Real>(
    kind: Pool,
    x: Rows<F>,
    starts: &[usize],
    dy: Rows<F>,
    mut dx: RowsMut<F>,
) {
    for i in 0..dx.rows() {
        dx.row_mut(i).fill(F::ZERO);
    }
    for (s, bounds) in starts.windows(2).enumerate() {
        let g = dy.row(s);
        let (start, end) = (bounds[0], bounds[1]);
        if start == end {
            continue;
        }
        match kind {
            Pool::First => dx.row_mut(start).copy_from_slice(g),
            Pool::Last => dx.row_mut(end - 1).copy_from_slice(g),
            Pool::Mean => {
                let n = F::of((end - start) as f64);
                for i in start..end {
                    dx.row_mut(i)
                        .iter_mut()
                        .zip(g)
                        .for_each(|(d, &g)| *d = g / n);
                }
            }
            Pool::Max => {
                for (j, &g) in g.iter().enumerate() {
                    let mut best = start;
                    for i in start + 1..end {
                        if x.row(i)[j] > x.row(best)[j] {
                            best = i;
                        }
                    }
                    dx.row_mut(best)[j] = g;
                }
            }
        }
    }
}
