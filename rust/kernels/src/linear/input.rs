//! The rows of a product's input as its weights take them.

use super::bytes;
use super::format::{Room, with_room};
use super::packed::Packed;
use crate::simd::{self, Dot, DotKernel, prefetch};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// Inputs that share a scale in weights of four bits; narrow rows are padded with zeros to whole groups.
pub(super) const GROUP: usize = 32;

/// Rows that a thread narrows at a time.
const ROWS: usize = 8;
/// Elements below which they are narrowed by the caller: a region costs more.
const ALONE: usize = 1 << 15;

/// Rows in floats, or in words.
#[derive(Clone, Copy)]
pub(super) enum Input<'a, F> {
    Full(Rows<'a, F>),
    Words(Rows<'a, u32>),
}

impl<F> Input<'_, F> {
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Full(x) => x.rows(),
            Self::Words(x) => x.rows(),
        }
    }

    pub(super) fn slice(&self, rows: std::ops::Range<usize>) -> Self {
        match self {
            Self::Full(x) => Self::Full(x.slice(rows)),
            Self::Words(x) => Self::Words(x.slice(rows)),
        }
    }
}

/// The inputs of several products, each set of rows once for each coding.
pub(super) struct Inputs<'a, F> {
    /// For each product.
    inputs: Vec<(Rows<'a, F>, Option<Place>)>,
    words: usize,
}

/// Where narrowed rows lie.
#[derive(Clone, Copy)]
struct Place {
    coding: Coding,
    start: usize,
}

impl<'a, F: Real> Inputs<'a, F> {
    pub(super) fn of<'w>(products: impl Iterator<Item = (Rows<'a, F>, &'w Packed<F>)>) -> Self {
        let mut all = Self {
            inputs: Vec::new(),
            words: 0,
        };
        for (x, weight) in products {
            let place = weight.format().map(|format| all.place(x, format.coding()));
            all.inputs.push((x, place));
        }
        all
    }

    fn place(&mut self, x: Rows<'a, F>, coding: Coding) -> Place {
        let known = self.inputs.iter().find_map(|&(other, place)| {
            place.filter(|place| place.coding == coding && same(x, other))
        });
        known.unwrap_or_else(|| {
            let start = self.words;
            self.words += x.rows() * coding.words(x.width());
            Place { coding, start }
        })
    }

    /// How many words [`Self::narrow`] needs.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// Narrows the rows into `words`.
    pub(super) fn narrow<'b>(&'b self, words: &'b mut [u32]) -> Narrowed<'a, 'b, F> {
        let mut done = 0;
        for &(x, place) in &self.inputs {
            let Some(place) = place.filter(|place| place.start == done) else {
                continue;
            };
            let width = place.coding.words(x.width());
            let to = &mut words[place.start..][..x.rows() * width];
            done += to.len();
            place.coding.narrow(x, RowsMut::new(to, x.rows(), width));
        }
        Narrowed {
            inputs: &self.inputs,
            words,
        }
    }
}

fn same<F>(a: Rows<F>, b: Rows<F>) -> bool {
    let shape = |x: Rows<F>| (x.start(), x.rows(), x.width(), x.stride());
    shape(a) == shape(b)
}

/// The inputs of several products, narrowed.
pub(super) struct Narrowed<'a, 'b, F> {
    inputs: &'b [(Rows<'a, F>, Option<Place>)],
    words: &'b [u32],
}

impl<'a: 'b, 'b, F: Real> Narrowed<'a, 'b, F> {
    /// The input of product `index`.
    pub(super) fn input(&self, index: usize) -> Input<'b, F> {
        let (x, place) = self.inputs[index];
        match place {
            None => Input::Full(x),
            Some(Place { coding, start }) => {
                let width = coding.words(x.width());
                Input::Words(Rows::new(&self.words[start..], x.rows(), width))
            }
        }
    }
}

/// What narrow weights take their input as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Words of two bfloat16.
    Pairs,
    /// [`bytes::turned`].
    Turned,
    /// [`bytes::grouped`].
    Grouped,
}

impl Coding {
    /// Words of a row.
    pub(super) fn words(self, inputs: usize) -> usize {
        match self {
            Self::Pairs => inputs.next_multiple_of(GROUP) / 2,
            Self::Turned => bytes::turned_words(inputs),
            Self::Grouped => bytes::grouped_words(inputs),
        }
    }

    /// Writes `x` as words.
    pub(super) fn narrow<F: Real>(self, x: Rows<F>, to: RowsMut<u32>) {
        let (rows, level, to) = (x.rows(), simd::current(), to.share());
        let rows_of = |first: usize, last: usize| {
            with_room(x.width(), |room| {
                let narrow = Narrow {
                    coding: self,
                    x: x.slice(first..last),
                    room,
                    to,
                    first,
                };
                F::dispatch_dot(level, narrow);
            });
        };
        if rows * x.width() < ALONE {
            rows_of(0, rows);
        } else {
            team::parallel(rows.div_ceil(ROWS), |chunk| {
                rows_of(chunk * ROWS, rows.min((chunk + 1) * ROWS));
            });
        }
    }
}

/// Narrows rows into those of `to` from `first` on.
struct Narrow<'a, F> {
    coding: Coding,
    x: Rows<'a, F>,
    room: Room<'a, F>,
    to: Shared<'a, u32>,
    first: usize,
}

impl<F: Real> DotKernel<F> for Narrow<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let width = self.x.width();
        for i in 0..self.x.rows() {
            // SAFETY: rows are narrowed once each.
            let to = unsafe { self.to.row(self.first + i) };
            assert_eq!(to.len(), self.coding.words(width));
            if i + 1 < self.x.rows() {
                // A turn reads a row in sixteen places at once, which the CPU does not foresee.
                for line in self.x.row(i + 1).chunks(64 / size_of::<F>()) {
                    prefetch(line.as_ptr());
                }
            }
            let row = whole(self.x.row(i), self.room.padded);
            match self.coding {
                Coding::Pairs => pairs(s, row, to),
                Coding::Turned => bytes::turned(s, row, self.room.turned, to),
                Coding::Grouped => bytes::grouped(s, row, to),
            }
        }
    }
}

/// A row in whole groups: itself, or `room` with zeros after its end.
#[inline(always)]
pub(super) fn whole<'a, F: Real>(row: &'a [F], room: &'a mut [F]) -> &'a [F] {
    if row.len() == room.len() {
        return row;
    }
    room[..row.len()].copy_from_slice(row);
    room[row.len()..].fill(F::ZERO);
    room
}

#[inline(always)]
fn pairs<F: Real, S: Dot<F>>(s: S, row: &[F], to: &mut [u32]) {
    let to = to.as_mut_ptr().cast::<u16>();
    for at in (0..row.len()).step_by(S::LANES) {
        // SAFETY: both hold whole vectors.
        unsafe { s.store_bf16(to.add(at), s.load(row.as_ptr().add(at))) };
    }
}
