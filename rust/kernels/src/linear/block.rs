//! Some rows times one panel.

use super::format;
use super::input::Input;
use super::packed::{Packed, Strip};
use super::tile::{self, From, Operands};
use super::{DEPTH, Epilogue, Onto, PANEL, ROWS};
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

/// Where rows of outputs will go. They are fetched before their tile is computed: a store that misses the caches would
/// otherwise be waited for.
#[derive(Clone, Copy)]
pub(super) struct Ahead<F> {
    start: *const F,
    stride: usize,
    columns: usize,
}

impl<F> Ahead<F> {
    #[inline(always)]
    pub(super) fn fetch(self, row: usize, rows: usize) {
        for row in row..row + rows {
            for column in (0..self.columns).step_by(64 / size_of::<F>()) {
                simd::prefetch(self.start.wrapping_add(row * self.stride + column));
            }
        }
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
            // SAFETY: a row of the sums holds all strips of a panel.
            let sums = unsafe { sums.add(strip * width) };
            let columns = width.min(columns - strip * width);
            let ahead = Ahead {
                start: out
                    .row_ptr_or_start(at.0)
                    .wrapping_add(at.1 + strip * width),
                stride: out.stride(),
                columns,
            };
            match (weight.strip(panel * PANEL / width + strip), input) {
                (Strip::Full(strip), Input::Full(x)) => {
                    F::dispatch(
                        level,
                        Full {
                            x,
                            strip,
                            width,
                            columns,
                            sums,
                            ahead,
                        },
                    );
                }
                (Strip::Narrow(format, strip), Input::Words(x)) => {
                    let product = format::Product {
                        format,
                        x,
                        strip,
                        width,
                        sums,
                        ahead,
                    };
                    F::dispatch_dot(level.min(weight.level()), product);
                }
                _ => unreachable!("the input is made for its weight"),
            }
        }
        let columns = panel * PANEL..panel * PANEL + columns;
        F::dispatch(
            level,
            Finish {
                sums,
                rows,
                columns,
                out,
                at,
                epilogue,
            },
        );
    }
}

/// The product of rows with a strip of floats, into `sums` `[rows][64]`.
struct Full<'a, F> {
    x: Rows<'a, F>,
    strip: &'a [F],
    width: usize,
    columns: usize,
    sums: *mut F,
    ahead: Ahead<F>,
}

impl<F: Real> Kernel<F> for Full<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            x,
            strip,
            width,
            columns,
            sums,
            ahead,
        } = self;
        let (depth, mut k) = (x.width(), 0);
        while k < depth || k == 0 {
            let from = if k == 0 { From::Zero } else { From::Sum };
            let steps = DEPTH.min(depth - k);
            for (row, rows) in tile::heights(x.rows(), S::TILE_ROWS) {
                if k + steps == depth {
                    ahead.fetch(row, rows);
                }
                // SAFETY: A is these rows, B the strip, C their part of the sums, which the first pass initialises.
                unsafe {
                    let o = Operands {
                        a: x.start().add(row * x.stride() + k),
                        a_row: x.stride(),
                        a_step: 1,
                        b: strip.as_ptr().add(k * width),
                        b_step: width,
                        c: sums.add(row * PANEL),
                        c_row: PANEL,
                    };
                    tile::product(s, rows, columns, steps, o, from);
                }
            }
            k += DEPTH;
        }
    }
}

/// From sums to outputs.
struct Finish<'a, F> {
    /// `[rows][64]`.
    sums: *const F,
    rows: usize,
    /// Of the weight.
    columns: std::ops::Range<usize>,
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
