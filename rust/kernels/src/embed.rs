//! Gather of table rows and its gradient.

use crate::{Real, Rows, RowsMut};

/// `out[i] = table[ids[i]]`.
///
/// # Panics
/// If an id is negative or not less than `table.rows()`.
pub fn gather<F: Real>(table: Rows<F>, ids: &[i32], mut out: RowsMut<F>) {
    for (i, &id) in ids.iter().enumerate() {
        out.row_mut(i).copy_from_slice(table.row(id as usize));
    }
}

/// `dtable[ids[i]] += dy[i]`, in the order of `i`.
///
/// # Panics
/// If an id is negative or not less than `dtable.rows()`.
pub fn scatter_add<F: Real>(dy: Rows<F>, ids: &[i32], mut dtable: RowsMut<F>) {
    for (i, &id) in ids.iter().enumerate() {
        for (d, &g) in dtable.row_mut(id as usize).iter_mut().zip(dy.row(i)) {
            *d += g;
        }
    }
}
