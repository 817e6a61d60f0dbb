//! The two loops under the simple kernels: a function of lanes over rows, and a sum of such a function over rows.

use crate::simd::{self, Kernel, Simd};
use crate::team;
use crate::view::Shared;
use crate::{Real, Rows, RowsMut};

/// `O` outputs from `I` inputs, lane by lane.
pub(crate) trait Lanewise<F: Real, const I: usize, const O: usize>:
    Copy + Send + Sync
{
    /// The function. Implementations are `#[inline(always)]`.
    fn at<S: Simd<F>>(self, s: S, inputs: [S::V; I]) -> [S::V; O];
}

struct Map<F, Op, const I: usize, const O: usize> {
    op: Op,
    inputs: [*const F; I],
    outputs: [*mut F; O],
    length: usize,
}

impl<F: Real, Op: Lanewise<F, I, O>, const I: usize, const O: usize> Kernel<F>
    for Map<F, Op, I, O>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            op,
            inputs,
            outputs,
            length,
        } = self;
        let mut at = 0;
        while at + S::LANES <= length {
            // SAFETY: `map` passes pointers valid for `length` elements.
            unsafe {
                let mut x = [s.splat(F::ZERO); I];
                for i in 0..I {
                    x[i] = s.load(inputs[i].add(at));
                }
                let y = op.at(s, x);
                for o in 0..O {
                    s.store(outputs[o].add(at), y[o]);
                }
            }
            at += S::LANES;
        }
        if at < length {
            let rest = length - at;
            // SAFETY: as above; only `rest` elements are touched.
            unsafe {
                let mut x = [s.splat(F::ZERO); I];
                for i in 0..I {
                    x[i] = s.load_part(inputs[i].add(at), rest);
                }
                let y = op.at(s, x);
                for o in 0..O {
                    s.store_part(outputs[o].add(at), y[o], rest);
                }
            }
        }
    }
}

/// Elements of contiguous rows handled by one call.
const SEGMENT: usize = 4096;

/// `outputs = op(inputs)` for rows of one shape.
pub(crate) fn map<F: Real, const I: usize, const O: usize>(
    op: impl Lanewise<F, I, O>,
    inputs: [Rows<F>; I],
    outputs: [RowsMut<F>; O],
) {
    map_shared(op, inputs, outputs.map(RowsMut::share), []);
}

/// `outputs = op(inputs, updated)`, where the last `U` inputs are also the first outputs' old values.
pub(crate) fn update<F: Real, const I: usize, const U: usize, const N: usize>(
    op: impl Lanewise<F, N, U>,
    inputs: [Rows<F>; I],
    updated: [RowsMut<F>; U],
) {
    let updated = updated.map(RowsMut::share);
    map_shared(op, inputs, updated, updated);
}

fn map_shared<F: Real, const I: usize, const U: usize, const N: usize, const O: usize>(
    op: impl Lanewise<F, N, O>,
    inputs: [Rows<F>; I],
    outputs: [Shared<F>; O],
    old: [Shared<F>; U],
) {
    const { assert!(I + U == N) };
    let (rows, width) = (outputs[0].rows(), outputs[0].width());
    assert!(
        inputs
            .iter()
            .all(|x| (x.rows(), x.width()) == (rows, width)),
        "inputs and outputs have one shape"
    );
    assert!(
        outputs
            .iter()
            .all(|y| (y.rows(), y.width()) == (rows, width)),
        "outputs have one shape"
    );
    let flat = rows > 1
        && inputs.iter().all(|x| x.stride() == width)
        && outputs.iter().all(|y| y.stride() == width);
    let (rows, width, segment) = if flat {
        (1, rows * width, SEGMENT)
    } else {
        (rows, width, width)
    };
    let level = simd::current();
    let work = |row: usize, from: usize, length: usize| {
        let mut sources = [std::ptr::null(); N];
        for (source, x) in sources.iter_mut().zip(&inputs) {
            *source = x.row(row)[..].as_ptr().wrapping_add(from);
        }
        for (source, y) in sources[I..].iter_mut().zip(&old) {
            *source = y.row_ptr(row).wrapping_add(from).cast_const();
        }
        let kernel = Map {
            op,
            inputs: sources,
            outputs: outputs.map(|y| y.row_ptr(row).wrapping_add(from)),
            length,
        };
        F::dispatch(level, kernel);
    };
    if width == 0 {
        return;
    }
    if flat || rows == 1 {
        let segment = if rows == 1 { SEGMENT } else { segment };
        team::parallel(width.div_ceil(segment), |chunk| {
            let from = chunk * segment;
            work(0, from, segment.min(width - from));
        });
    } else {
        let block = team::rows_for::<F>(width);
        team::parallel(rows.div_ceil(block), |chunk| {
            for row in chunk * block..((chunk + 1) * block).min(rows) {
                work(row, 0, width);
            }
        });
    }
}

/// A term of a sum over rows.
pub(crate) trait Term<F: Real>: Copy + Send + Sync {
    /// The term of row `row`. Implementations are `#[inline(always)]`.
    fn at<S: Simd<F>>(self, s: S, row: usize, x: S::V, y: S::V) -> S::V;
}

/// Rows summed before the sum joins the total: bounds rounding without depending on threads.
const BLOCK: usize = 64;

struct Columns<'a, F, T> {
    term: T,
    x: Rows<'a, F>,
    y: Rows<'a, F>,
    out: *mut F,
}

impl<F: Real, T: Term<F>> Kernel<F> for Columns<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self { term, x, y, out } = self;
        let mut column = 0;
        while column < x.width() {
            let n = S::LANES.min(x.width() - column);
            let mut total = s.splat(F::ZERO);
            let mut first = 0;
            while first < x.rows() {
                let last = (first + BLOCK).min(x.rows());
                let mut sum = s.splat(F::ZERO);
                for row in first..last {
                    // SAFETY: `n` elements from `column` lie in the row.
                    let (a, b) = unsafe {
                        let (a, b) = (
                            x.row(row).as_ptr().add(column),
                            y.row(row).as_ptr().add(column),
                        );
                        (s.load_part(a, n), s.load_part(b, n))
                    };
                    sum = s.add(sum, term.at(s, row, a, b));
                }
                total = s.add(total, sum);
                first = last;
            }
            // SAFETY: `out` is as wide as the rows.
            unsafe { s.store_part(out.add(column), total, n) };
            column += n;
        }
    }
}

/// `out[j] = Σ_row term(x[row, j], y[row, j])`.
pub(crate) fn column_sums<F: Real>(term: impl Term<F>, x: Rows<F>, y: Rows<F>, out: &mut [F]) {
    assert_eq!((x.rows(), x.width()), (y.rows(), y.width()));
    assert_eq!(x.width(), out.len());
    let level = simd::current();
    let width = out.len();
    let out = RowsMut::new(out, 1, width).share();
    // A cache line of every row at least; wide rows are split further so that every thread has some.
    let chunk = 64;
    team::parallel(width.div_ceil(chunk), |index| {
        let columns = index * chunk..((index + 1) * chunk).min(width);
        let out = out.row_ptr(0).wrapping_add(columns.start);
        F::dispatch(
            level,
            Columns {
                term,
                x: x.columns(columns.clone()),
                y: y.columns(columns),
                out,
            },
        );
    });
}
