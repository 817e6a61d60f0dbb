//! Low-rank updates: `y = base + scale·(x·Aᵀ)·Bᵀ` (Hu et al. 2021), its gradients, and merging into the weight.
//!
//! The matrices come packed, since a pair is used far more often than it changes; only training takes them as they are.
#![forbid(unsafe_code)]

mod many;
mod merge;
mod svd;

pub use many::{Group, add_each};
pub use merge::{Merge, merge, unmerge};
pub use svd::{Svd, svd};

use lmrs_kernels::linear::{
    Compute, Epilogue, Onto, Packed, Weight, gradient_input, gradient_weight, matmul,
};
use lmrs_kernels::{Real, Rows, RowsMut};

/// A low-rank pair on its way forward.
pub struct LowRank<'a, F> {
    /// The down-projection `[r, i]`, packed.
    pub a: &'a Packed<F>,
    /// The up-projection `[o, r]`, packed.
    pub b: &'a Packed<F>,
    /// `alpha / rank`.
    pub scale: F,
}

impl<F: Real> LowRank<'_, F> {
    /// `y = base + scale·(x·Aᵀ)·Bᵀ`; returns `x·Aᵀ` `[T, r]`, which the gradients need.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn add(&self, x: Rows<F>, base: Rows<F>, y: RowsMut<F>) -> Vec<F> {
        let rank = self.a.outputs();
        let down = product(x, self.a);
        let down_rows = Rows::new(&down, x.rows(), rank);
        matmul(down_rows, self.b, y, &self.onto(base));
        down
    }

    fn onto<'a>(&self, base: Rows<'a, F>) -> Epilogue<'a, F> {
        Epilogue {
            scale: self.scale,
            onto: Onto::Rows(base),
            ..Epilogue::default()
        }
    }
}

/// The same pair on its way back.
pub struct Trained<'a, F> {
    /// What its products are computed in.
    pub compute: Compute,
    /// The down-projection `[r, i]`.
    pub a: Rows<'a, F>,
    /// The up-projection `[o, r]`.
    pub b: Rows<'a, F>,
    /// `alpha / rank`.
    pub scale: F,
}

/// Where the gradients of a low-rank update go; those that are asked for.
pub struct Gradients<'a, F> {
    /// `scale·(dy·B)·A`, `[T, i]`.
    pub x: Option<RowsMut<'a, F>>,
    /// `scale·(dy·B)ᵀ·x`, `[r, i]`.
    pub a: Option<RowsMut<'a, F>>,
    /// `scale·dyᵀ·(x·Aᵀ)`, `[o, r]`.
    pub b: Option<RowsMut<'a, F>>,
}

impl<F: Real> Trained<'_, F> {
    /// The gradients, given `dy` `[T, o]` and what [`LowRank::add`] returned.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn gradients(&self, x: Rows<F>, down: &[F], dy: Rows<F>, grads: Gradients<F>) {
        let (rows, rank, compute) = (x.rows(), self.b.width(), self.compute);
        let scaled = |value: &mut F| *value = *value * self.scale;
        if grads.x.is_some() || grads.a.is_some() {
            let mut up = vec![F::ZERO; rows * rank];
            let to = RowsMut::new(&mut up, rows, rank);
            gradient_input(compute, dy, Weight::Plain(self.b), to);
            up.iter_mut().for_each(scaled);
            let up = Rows::new(&up, rows, rank);
            if let Some(da) = grads.a {
                gradient_weight(compute, up, x, da);
            }
            if let Some(dx) = grads.x {
                gradient_input(compute, up, Weight::Plain(self.a), dx);
            }
        }
        if let Some(db) = grads.b {
            let mut down = down.to_vec();
            down.iter_mut().for_each(scaled);
            gradient_weight(compute, dy, Rows::new(&down, rows, rank), db);
        }
    }
}

/// `x·Wᵀ`.
fn product<F: Real>(x: Rows<F>, weight: &Packed<F>) -> Vec<F> {
    let mut out = vec![F::ZERO; x.rows() * weight.outputs()];
    let rows = RowsMut::new(&mut out, x.rows(), weight.outputs());
    matmul(x, weight, rows, &Epilogue::default());
    out
}
