//! Row-major views of slices.

use std::ops::Range;

/// `rows` rows of `width` elements, `stride` elements apart.
///
/// A stride of 0 repeats one row, which is how a bias or a norm weight is broadcast.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, F> {
    data: &'a [F],
    rows: usize,
    width: usize,
    stride: usize,
}

/// Like [`Rows`], to be written. Rows never overlap: the stride is at least the width.
#[derive(Debug)]
pub struct RowsMut<'a, F> {
    data: &'a mut [F],
    rows: usize,
    width: usize,
    stride: usize,
}

/// Panics unless the last of `rows` rows ends inside `length`.
fn check(length: usize, rows: usize, width: usize, stride: usize) {
    let needed = rows
        .checked_sub(1)
        .map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(width));
    assert!(
        needed.is_some_and(|needed| needed <= length),
        "{rows} rows of {width}, {stride} apart, do not fit in {length} elements"
    );
}

impl<'a, F> Rows<'a, F> {
    /// Contiguous rows.
    ///
    /// # Panics
    /// If `data` holds fewer than `rows * width` elements.
    pub fn new(data: &'a [F], rows: usize, width: usize) -> Self {
        Self::strided(data, rows, width, width)
    }

    /// Rows that start `stride` elements apart.
    ///
    /// # Panics
    /// If `data` is too short or `0 < stride < width`.
    pub fn strided(data: &'a [F], rows: usize, width: usize, stride: usize) -> Self {
        assert!(
            stride == 0 || stride >= width,
            "stride {stride} is less than width {width}"
        );
        check(data.len(), rows, width, stride);
        Self {
            data,
            rows,
            width,
            stride,
        }
    }

    /// One row read `rows` times.
    pub fn broadcast(row: &'a [F], rows: usize) -> Self {
        Self {
            data: row,
            rows,
            width: row.len(),
            stride: 0,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &'a [F] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        &self.data[index * self.stride..][..self.width]
    }

    /// A run of rows.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        let data = if rows.is_empty() {
            &[]
        } else {
            &self.data[rows.start * self.stride..]
        };
        Self {
            data,
            rows: rows.len(),
            ..*self
        }
    }

    /// A run of columns.
    pub fn columns(&self, columns: Range<usize>) -> Self {
        assert!(
            columns.start <= columns.end && columns.end <= self.width,
            "columns {columns:?} of {}",
            self.width
        );
        let data = if self.rows == 0 {
            &[]
        } else {
            &self.data[columns.start..]
        };
        Self {
            data,
            width: columns.len(),
            ..*self
        }
    }

    /// All rows as one slice when nothing lies between them.
    pub fn contiguous(&self) -> Option<&'a [F]> {
        (self.stride == self.width || self.rows <= 1).then(|| &self.data[..self.rows * self.width])
    }
}

impl<'a, F> RowsMut<'a, F> {
    /// Contiguous rows.
    ///
    /// # Panics
    /// If `data` holds fewer than `rows * width` elements.
    pub fn new(data: &'a mut [F], rows: usize, width: usize) -> Self {
        Self::strided(data, rows, width, width)
    }

    /// Rows that start `stride` elements apart.
    ///
    /// # Panics
    /// If `data` is too short or `stride < width`.
    pub fn strided(data: &'a mut [F], rows: usize, width: usize, stride: usize) -> Self {
        assert!(
            stride >= width,
            "stride {stride} is less than width {width}"
        );
        check(data.len(), rows, width, stride);
        Self {
            data,
            rows,
            width,
            stride,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &[F] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        &self.data[index * self.stride..][..self.width]
    }

    /// Row `index`, to be written.
    pub fn row_mut(&mut self, index: usize) -> &mut [F] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        &mut self.data[index * self.stride..][..self.width]
    }

    /// A shorter-lived view of the same rows.
    pub fn reborrow(&mut self) -> RowsMut<'_, F> {
        RowsMut {
            data: self.data,
            rows: self.rows,
            width: self.width,
            stride: self.stride,
        }
    }

    /// The same rows, to be read.
    pub fn as_rows(&self) -> Rows<'_, F> {
        Rows {
            data: self.data,
            rows: self.rows,
            width: self.width,
            stride: self.stride,
        }
    }

    /// A run of rows.
    pub fn slice(self, rows: Range<usize>) -> Self {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        let data = if rows.is_empty() {
            &mut []
        } else {
            &mut self.data[rows.start * self.stride..]
        };
        Self {
            data,
            rows: rows.len(),
            width: self.width,
            stride: self.stride,
        }
    }

    /// A run of columns.
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(
            columns.start <= columns.end && columns.end <= self.width,
            "columns {columns:?} of {}",
            self.width
        );
        let data = if self.rows == 0 {
            &mut []
        } else {
            &mut self.data[columns.start..]
        };
        Self {
            data,
            rows: self.rows,
            width: columns.len(),
            stride: self.stride,
        }
    }
}
