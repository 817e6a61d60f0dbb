//! Low-rank updates: `y += scale·(x·Aᵀ)·Bᵀ` (Hu et al. 2021), its gradients, and merging into the weight.
#![forbid(unsafe_code)]

use lmrs_kernels::linear::{Epilogue, Onto, Packed, gradient_weight, matmul};
use lmrs_kernels::{Real, Rows, RowsMut};

/// A low-rank pair, packed for both directions: `a [r, i]`, `b [o, r]`.
pub struct LowRank<'a, F> {
    /// The down-projection.
    pub a: Rows<'a, F>,
    /// The up-projection.
    pub b: Rows<'a, F>,
    /// `alpha / rank`.
    pub scale: F,
}

/// The gradients of a low-rank update.
pub struct Gradients<'a, F> {
    /// `scale·(dy·B)·A`, `[T, i]`.
    pub x: RowsMut<'a, F>,
    /// `scale·(dy·B)ᵀ·x`, `[r, i]`.
    pub a: RowsMut<'a, F>,
    /// `scale·dyᵀ·(x·Aᵀ)`, `[o, r]`.
    pub b: RowsMut<'a, F>,
}

impl<F: Real> LowRank<'_, F> {
    /// `scale·x·Aᵀ` `[T, r]`.
    fn down(&self, x: Rows<F>) -> Vec<F> {
        let rank = self.a.rows();
        let mut down = vec![F::ZERO; x.rows() * rank];
        let out = RowsMut::new(&mut down, x.rows(), rank);
        let epilogue = Epilogue {
            scale: self.scale,
            ..Epilogue::default()
        };
        matmul(x, &Packed::new(self.a), out, &epilogue);
        down
    }

    /// `y += scale·(x·Aᵀ)·Bᵀ`.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn add(&self, x: Rows<F>, y: RowsMut<F>) {
        let down = self.down(x);
        let down = Rows::new(&down, x.rows(), self.a.rows());
        let epilogue = Epilogue {
            onto: Onto::Output,
            ..Epilogue::default()
        };
        matmul(down, &Packed::new(self.b), y, &epilogue);
    }

    /// The gradients, given `dy` `[T, o]`.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn backward(&self, x: Rows<F>, dy: Rows<F>, grads: Gradients<F>) {
        let (rows, rank) = (x.rows(), self.a.rows());
        let scaled = Epilogue {
            scale: self.scale,
            ..Epilogue::default()
        };
        let mut up = vec![F::ZERO; rows * rank];
        matmul(
            dy,
            &Packed::transposed(self.b),
            RowsMut::new(&mut up, rows, rank),
            &scaled,
        );
        let up = Rows::new(&up, rows, rank);
        gradient_weight(up, x, grads.a);
        matmul(
            up,
            &Packed::transposed(self.a),
            grads.x,
            &Epilogue::default(),
        );
        let down = self.down(x);
        gradient_weight(dy, Rows::new(&down, rows, rank), grads.b);
    }

    /// `W + scale·B·A`, the weight that does the same without the update; `W` and the result are `[o, i]`.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn merge(&self, weight: Rows<F>, mut merged: RowsMut<F>) {
        let epilogue = Epilogue {
            scale: self.scale,
            onto: Onto::Rows(weight),
            ..Epilogue::default()
        };
        matmul(
            self.b,
            &Packed::transposed(self.a),
            merged.reborrow(),
            &epilogue,
        );
    }
}
