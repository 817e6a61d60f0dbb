//! Gather of table rows and its gradient.

use crate::{Real, Rows, RowsMut, team};

/// `out[i] = table[ids[i]]`.
///
/// # Panics
/// If an id is negative or not less than `table.rows()`.
pub fn gather<F: Real>(table: Rows<F>, ids: &[i32], out: RowsMut<F>) {
    assert_eq!((ids.len(), table.width()), (out.rows(), out.width()));
    team::for_rows(out, team::rows_for::<F>(table.width()), |first, mut out| {
        for i in 0..out.rows() {
            out.row_mut(i)
                .copy_from_slice(table.row(ids[first + i] as usize));
        }
    });
}

/// `dtable[ids[i]] += dy[i]`, in the order of `i`.
///
/// # Panics
/// If an id is negative or not less than `dtable.rows()`.
pub fn scatter_add<F: Real>(dy: Rows<F>, ids: &[i32], dtable: RowsMut<F>) {
    assert_eq!((ids.len(), dy.width()), (dy.rows(), dtable.width()));
    let (width, dtable) = (dy.width(), dtable.share());
    // Threads split the columns, so that rows with the same id are added in order by one of them.
    let chunk = width.div_ceil(team::threads()).next_multiple_of(16);
    team::parallel(width.div_ceil(chunk.max(1)), |index| {
        let columns = index * chunk..((index + 1) * chunk).min(width);
        for (i, &id) in ids.iter().enumerate() {
            // SAFETY: no other chunk has these columns.
            let to = unsafe { dtable.part(id as usize, columns.clone()) };
            to.iter_mut()
                .zip(&dy.row(i)[columns.clone()])
                .for_each(|(d, &g)| *d += g);
        }
    });
}
