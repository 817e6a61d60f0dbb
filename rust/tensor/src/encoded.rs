//! A matrix that stays in a mapped file, in the file's own encoding; its rows are decoded when they are asked for.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use lmrs_formats::{Encoding, decode};

use crate::{Mapping, Rows};

/// Where a row of the matrix lies in the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// It is a stored row.
    Stored,
    /// It is a stored column.
    Transposed,
    /// It is a stored row, and of each run of `2·half` rows the even ones come before the odd ones.
    Unpaired { half: usize },
}

/// A matrix `[rows, width]` of float32 in a mapped file, stored there in any readable encoding.
#[derive(Clone, Debug)]
pub struct Encoded {
    map: Arc<Mapping>,
    bytes: Range<usize>,
    encoding: Encoding,
    /// Columns of the matrix as it is stored.
    stored_width: usize,
    order: Order,
    rows: Range<usize>,
    width: usize,
}

impl Encoded {
    /// The `bytes` of `map`, which are `rows` rows of `width` elements in `encoding`. `None` if they are not, if a row
    /// does not fill whole blocks, or if `encoding` is not one of [`Encoding::READABLE`].
    pub fn new(
        map: &Arc<Mapping>,
        bytes: Range<usize>,
        encoding: Encoding,
        [rows, width]: [usize; 2],
    ) -> Option<Self> {
        let found = map.bytes().get(bytes.clone())?.len();
        let fits = encoding.bytes(width)?.checked_mul(rows)? == found;
        (fits && Encoding::READABLE.contains(&encoding)).then(|| Self {
            map: Arc::clone(map),
            bytes,
            encoding,
            stored_width: width,
            order: Order::Stored,
            rows: 0..rows,
            width,
        })
    }

    /// The file.
    pub(crate) fn map(&self) -> &Mapping {
        &self.map
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows `rows` of it.
    ///
    /// # Panics
    /// If there are no such rows.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows(),
            "rows {rows:?}"
        );
        let first = self.rows.start;
        let rows = first + rows.start..first + rows.end;
        Self {
            rows,
            ..self.clone()
        }
    }

    /// Its transpose; `None` for one whose rows are out of order or a part of what is stored.
    pub fn transposed(&self) -> Option<Self> {
        let order = match self.order {
            Order::Stored => Order::Transposed,
            Order::Transposed => Order::Stored,
            Order::Unpaired { .. } => return None,
        };
        (self.rows() == self.stored_rows()).then(|| Self {
            order,
            rows: 0..self.width,
            width: self.rows(),
            ..self.clone()
        })
    }

    /// Of each of `heads` runs of rows, the even ones before the odd ones; `None` if that does not divide them or the
    /// rows are not as they are stored.
    pub fn unpaired(&self, heads: usize) -> Option<Self> {
        let half = self.rows().checked_div(heads.checked_mul(2)?)?;
        let whole = self.order == Order::Stored && self.rows() == self.stored_rows();
        (whole && half * 2 * heads == self.rows()).then(|| Self {
            order: Order::Unpaired { half },
            ..self.clone()
        })
    }

    /// Writes the rows from `first` on to `out`, as many as it holds.
    ///
    /// # Panics
    /// If `out` is not a number of rows, or there are no such rows.
    pub fn read(&self, first: usize, out: &mut [f32]) {
        let count = out.len().checked_div(self.width).unwrap_or(0);
        let from = self.rows.start + first;
        assert!(
            count * self.width == out.len() && from + count <= self.rows.end,
            "{} elements from row {first} of [{}, {}]",
            out.len(),
            self.rows(),
            self.width
        );
        match self.order {
            Order::Stored => self.decode(from * self.stored_width, out),
            Order::Unpaired { half } => {
                for (row, out) in (from..).zip(out.chunks_exact_mut(self.width)) {
                    let (run, at) = (row / (2 * half), row % (2 * half));
                    let stored = run * 2 * half + at % half * 2 + at / half;
                    self.decode(stored * self.stored_width, out);
                }
            }
            Order::Transposed => self.read_columns(from..from + count, out),
        }
    }

    fn read_columns(&self, columns: Range<usize>, out: &mut [f32]) {
        let block = self.encoding.block_elements();
        let (first, last) = (
            columns.start / block * block,
            columns.end.next_multiple_of(block),
        );
        if self.encoding == Encoding::F32 && columns.len() == 1 {
            // One row of a weight that GPT-2 keeps transposed.
            let bytes = self.map.bytes().get(self.bytes.clone());
            let (elements, _) = bytes.unwrap_or_default().as_chunks::<4>();
            let column = elements.iter().skip(columns.start);
            for (value, bytes) in out.iter_mut().zip(column.step_by(self.stored_width)) {
                *value = f32::from_le_bytes(*bytes);
            }
            return;
        }
        let mut part = vec![0.0; last - first];
        for k in 0..self.width {
            self.decode(k * self.stored_width + first, &mut part);
            let values = part.iter().skip(columns.start - first);
            for (row, &value) in out.chunks_exact_mut(self.width).zip(values) {
                row[k] = value;
            }
        }
    }

    /// Decodes the elements from number `first` of the stored matrix on; both ends lie between blocks.
    fn decode(&self, first: usize, out: &mut [f32]) {
        let at = |elements| self.encoding.bytes(elements).unwrap_or(usize::MAX);
        let start = self.bytes.start.saturating_add(at(first));
        let end = start.saturating_add(at(out.len()));
        let bytes = self.map.bytes().get(start..end).unwrap_or_default();
        let decoded = decode(self.encoding, bytes, out);
        assert!(
            decoded.is_some(),
            "the encoding and the extents were checked"
        );
    }

    fn stored_rows(&self) -> usize {
        match self.order {
            Order::Transposed => self.stored_width,
            Order::Stored | Order::Unpaired { .. } => {
                let row = self.encoding.bytes(self.stored_width).unwrap_or(0);
                self.bytes.len().checked_div(row).unwrap_or(0)
            }
        }
    }

    /// The bytes of all elements if they are stored one after another as float32.
    pub(crate) fn plain(&self) -> Option<(&Arc<Mapping>, Range<usize>)> {
        let plain = self.order == Order::Stored && self.encoding == Encoding::F32;
        let at = |row| self.bytes.start + row * self.width * size_of::<f32>();
        plain.then(|| (&self.map, at(self.rows.start)..at(self.rows.end)))
    }
}

impl fmt::Display for Encoded {
    /// Which part of the file it is, and how it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, encoding, order, rows) =
            (&self.bytes, self.encoding.name(), self.order, &self.rows);
        write!(f, "{bytes:?} {encoding} {order:?} {rows:?}")
    }
}

impl Rows for Encoded {
    fn count(&self) -> usize {
        self.rows()
    }

    fn width(&self) -> usize {
        self.width
    }

    fn read(&self, first: usize, out: &mut [f32]) {
        Self::read(self, first, out);
    }

    fn encoded(&self) -> Option<&Encoded> {
        Some(self)
    }
}
