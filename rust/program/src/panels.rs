//! The weights of a plan as products take them, packed once.

use std::any::Any;
use std::sync::Arc;

use lmrs_kernels::Real;
use lmrs_kernels::linear::{Packed, Weights};
use lmrs_tensor::{DType, Element, Error, Life, Result, Tensor};

use crate::ops::linear;
use crate::{Node, Op, Program, ValueId};

/// How a plan holds the weights of its linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    /// Of the layers.
    pub layers: Weights,
    /// Of the head, whose rounding goes straight into the logits.
    pub head: Weights,
}

/// Panels of some type of element.
type Erased = Arc<dyn Any + Send + Sync>;

/// Panels by the number of their weight. Plans of one model share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panels {
    of: Vec<Option<Erased>>,
    bytes: usize,
}

impl Panels {
    /// Packs the weights of the linear layers and of the head of `program`. An error names a weight that `precision` cannot hold.
    pub(crate) fn of(program: &Program, precision: Precision) -> Result<Self> {
        let mut panels = Self {
            of: vec![None; program.values()],
            bytes: 0,
        };
        for node in &program.nodes {
            for (index, weights) in products(node, precision) {
                let weight = node.inputs.get(index).copied().flatten();
                let parameter =
                    weight.and_then(|w| program.parameters.iter().find(|p| p.value == w));
                let Some(parameter) = parameter else { continue };
                if panels.of[parameter.value.index()].is_none() {
                    check(&parameter.path, &parameter.tensor, weights)?;
                    panels.pack(parameter.value, &parameter.tensor, weights)?;
                }
            }
        }
        Ok(panels)
    }

    fn pack(&mut self, value: ValueId, weight: &Tensor, weights: Weights) -> Result<()> {
        let (panels, bytes): (Erased, _) = if weight.dtype() == DType::F64 {
            let packed = linear::panels::<f64>(weight, Weights::F32, Life::Holders)?;
            (Arc::clone(&packed) as _, packed.bytes())
        } else {
            let packed = linear::panels::<f32>(weight, weights, Life::Holders)?;
            (Arc::clone(&packed) as _, packed.bytes())
        };
        self.of[value.index()] = Some(panels);
        self.bytes += bytes;
        Ok(())
    }

    /// The panels of `weight`, if it was packed.
    pub(crate) fn get<T: Real + Element>(&self, weight: ValueId) -> Option<Arc<Packed<T>>> {
        let panels = self.of.get(weight.index())?.clone()?;
        panels.downcast().ok()
    }

    /// Memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Checks that panels can hold each weight: one that is too large would be written as no number.
pub(crate) fn check(path: &str, weight: &Tensor, weights: Weights) -> Result<()> {
    let most = weights.largest();
    if most == f32::MAX || weight.dtype() == DType::F64 {
        return Ok(());
    }
    let mut row = vec![0.0_f32; weight.width()];
    for index in 0..weight.rows() {
        weight.read_rows(index, &mut row)?;
        if let Some(w) = row.iter().find(|w| w.is_finite() && w.abs() > most) {
            let expected = format!("at most {most} for {weights:?}");
            return Err(Error::input(format!("a weight of {path}"), w, expected));
        }
    }
    Ok(())
}

/// The inputs of `node` that are weights of a product, and how they are held.
pub(crate) fn products(node: &Node, precision: Precision) -> Vec<(usize, Weights)> {
    let head = node.path.rsplit('.').next() == Some("head");
    match node.op {
        Op::Linear(_) if !head => vec![(1, precision.layers)],
        Op::Linear(_) | Op::TokenLogprob(_) | Op::CrossEntropy(_) => vec![(1, precision.head)],
        // What was trained beside a layer is small, and stays as it was trained.
        Op::LowRank(_) => vec![(2, Weights::F32), (3, Weights::F32)],
        _ => Vec::new(),
    }
}
