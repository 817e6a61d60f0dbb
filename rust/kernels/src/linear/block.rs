//! Some rows times one panel.

use std::ops::Range;

use super::format;
use super::input::Input;
use super::packed::{Packed, Strip};
use super::tile::{self, FETCH, From, Operands};
use super::{DEPTH, Epilogue, Onto, PANEL, ROWS, walk};
use crate::simd::{self, Kernel, Level, Simd};
use crate::view::Shared;
use crate::{Real, Rows};

/// At most [`ROWS`] rows times one panel.
pub(super) struct Block<'a, F> {
    pub input: Input<'a, F>,
    pub weight: &'a Packed<F>,
    pub panel: usize,
    pub out: Shared<'a, F>,
    /// Row and column of `out` where the block goes.
    pub at: (usize, usize),
    pub epilogue: &'a Epilogue<'a, F>,
}

/// Where the outputs of a strip go, and what happens to them before.
#[derive(Clone, Copy)]
pub(super) struct Outputs<'a, F> {
    out: Shared<'a, F>,
    /// Row and column of `out` where the first goes.
    at: (usize, usize),
    /// Of the weight: the first, and how many there are.
    columns: (usize, usize),
    epilogue: &'a Epilogue<'a, F>,
    level: Level,
}

impl<F: Real> Outputs<'_, F> {
    /// Fetches rows before their tile is computed: a store that misses the caches would otherwise be waited for.
    #[inline(always)]
    pub(super) fn fetch(&self, row: usize, rows: usize) {
        let start = self.out.row_ptr_or_start(self.at.0 + row);
        for row in 0..rows {
            for column in (0..self.columns.1).step_by(64 / size_of::<F>()) {
                simd::prefetch(start.wrapping_add(row * self.out.stride() + self.at.1 + column));
            }
        }
    }

    /// Writes `rows` rows from `row` on, whose sums are `[rows][64]`, and of them those columns of the strip that there are.
    ///
    /// # Safety
    /// The sums are initialised.
    #[inline(always)]
    pub(super) unsafe fn write(
        &self,
        sums: *const F,
        (row, rows): (usize, usize),
        columns: Range<usize>,
    ) {
        let columns = columns.start..columns.end.min(self.columns.1);
        let finish = Finish {
            sums,
            rows,
            columns: self.columns.0 + columns.start..self.columns.0 + columns.end,
            out: self.out,
            at: (self.at.0 + row, self.at.1 + columns.start),
            epilogue: self.epilogue,
        };
        // Not a part of the kernel that calls it: what an epilogue can be would be compiled into each.
        F::dispatch(self.level, finish);
    }
}

#[repr(align(64))]
struct Sums<F>([F; ROWS * PANEL]);

impl<F: Real> Block<'_, F> {
    pub(super) fn run(self, level: Level) {
        let Self {
            input,
            weight,
            panel,
            out,
            at,
            epilogue,
        } = self;
        let mut sums = std::mem::MaybeUninit::<Sums<F>>::uninit();
        let sums = sums.as_mut_ptr().cast::<F>();
        let (rows, columns) = (input.rows(), PANEL.min(weight.outputs() - panel * PANEL));
        assert!(rows <= ROWS, "{rows} rows in a block");
        let width = weight.strip_width();
        for strip in 0..columns.div_ceil(width) {
            let column = strip * width;
            let outputs = Outputs {
                out,
                at: (at.0, at.1 + column),
                columns: (panel * PANEL + column, width.min(columns - column)),
                epilogue,
                level,
            };
            match (weight.strip(panel * PANEL / width + strip), input) {
                (Strip::Full(strip), Input::Full(x)) => {
                    let full = Full {
                        x,
                        strip,
                        width,
                        sums,
                        outputs,
                    };
                    F::dispatch(level, full);
                }
                (Strip::Narrow(format, strip), Input::Words(x)) => {
                    let product = format::Product {
                        format,
                        operands: walk::Operands { x, strip, width },
                        sums,
                        outputs,
                    };
                    F::dispatch_dot(level.min(weight.level()), product);
                }
                _ => unreachable!("the input is made for its weight"),
            }
        }
    }
}

/// The product of rows with a strip of floats; `sums` has room for `[rows][64]`.
struct Full<'a, F> {
    x: Rows<'a, F>,
    strip: &'a [F],
    width: usize,
    sums: *mut F,
    outputs: Outputs<'a, F>,
}

impl<F: Real> Kernel<F> for Full<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            x,
            strip,
            width,
            sums,
            outputs,
        } = self;
        let (depth, columns) = (x.width(), outputs.columns.1);
        for steps in walk::passes(depth, DEPTH) {
            for (row, m) in tile::heights(x.rows(), S::TILE_ROWS) {
                let last = steps.end == depth;
                if last {
                    outputs.fetch(row, m);
                }
                let kept = if DEPTH < depth { row } else { 0 };
                // SAFETY: A is these rows, B the strip, C their part of the sums, which the first pass initialises.
                unsafe {
                    let sums = sums.add(kept * PANEL);
                    let o = Operands {
                        a: x.start().add(row * x.stride() + steps.start),
                        a_row: x.stride(),
                        a_step: 1,
                        b: strip.as_ptr().add(steps.start * width),
                        b_step: width,
                        ahead: FETCH * width,
                        c: sums,
                        c_row: PANEL,
                    };
                    let from = From::pass(&steps);
                    tile::product(s, m, columns, steps.len(), o, from);
                    if last {
                        outputs.write(sums, (row, m), 0..columns);
                    }
                }
            }
        }
    }
}

/// From sums to outputs.
struct Finish<'a, F> {
    /// `[rows][64]`.
    sums: *const F,
    rows: usize,
    /// Of the weight.
    columns: Range<usize>,
    out: Shared<'a, F>,
    at: (usize, usize),
    epilogue: &'a Epilogue<'a, F>,
}

impl<F: Real> Kernel<F> for Finish<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            sums,
            rows,
            columns,
            out,
            at: (first, start),
            epilogue,
        } = self;
        // Masked stores are slow on some CPUs: whole vectors go without.
        let load = |from: *const F, n: usize| {
            // SAFETY: `n` elements can be read, as the callers below say.
            unsafe {
                if n == S::LANES {
                    s.load(from)
                } else {
                    s.load_part(from, n)
                }
            }
        };
        let scale = s.splat(epilogue.scale);
        for i in 0..rows {
            let mut at = 0;
            while at < columns.len() {
                let (n, column) = (S::LANES.min(columns.len() - at), columns.start + at);
                // SAFETY: `n` columns from `column` exist in the row, the bias and the residual; no other chunk has them.
                unsafe {
                    let mut y = load(sums.add(i * PANEL + at), n);
                    if let Some(bias) = epilogue.bias {
                        y = s.add(y, load(bias.as_ptr().add(column), n));
                    }
                    if let Some(kind) = epilogue.activation {
                        y = kind.lanes(s, y);
                    }
                    let to = out.row_ptr(first + i).add(start + at);
                    y = match epilogue.onto {
                        Onto::Zero => s.mul(scale, y),
                        Onto::Output => s.fma(scale, y, load(to, n)),
                        Onto::Rows(onto) => {
                            s.fma(scale, y, load(onto.row(first + i).as_ptr().add(column), n))
                        }
                    };
                    if n == S::LANES {
                        s.store(to, y);
                    } else {
                        s.store_part(to, y, n);
                    }
                }
                at += n;
            }
        }
    }
}
