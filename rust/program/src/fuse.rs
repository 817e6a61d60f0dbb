//! Which ops of a program are computed together. Every rewrite leaves the bits of every value as they are.
//!
//! - Linear layers beside each other that read the same rows (q, k, v; gate, up) share one parallel region.
//! - An activation of a linear layer, or an addition to it, happens before its result is written.

use std::collections::BTreeSet;

use lmrs_kernels::activation::Activation as Kind;
use lmrs_kernels::linear::{Epilogue, Onto, Product, matmuls};
use lmrs_kernels::{Real, RowsMut};
use lmrs_tensor::{Element, Result, Tensor};
use smallvec::SmallVec;

use crate::mixed::Site;
use crate::ops::{float, linear, view};
use crate::panels::Panels;
use crate::{Node, Op, Program, Spares, ValueId};

/// What one step of a plan does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// One node, as it stands.
    Op(Box<Node>),
    /// Linear layers over the same rows.
    Products { x: ValueId, parts: Vec<Part> },
    /// What groups of rows add to values.
    Updates(Vec<Site>),
}

/// One linear layer: `onto + activation(x·Wᵀ + b)`.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    weight: ValueId,
    bias: Option<ValueId>,
    activation: Option<Kind>,
    onto: Option<ValueId>,
    output: ValueId,
}

impl Action {
    /// The values it computes.
    pub(crate) fn writes(&self) -> Vec<ValueId> {
        match self {
            Self::Op(node) => vec![node.output],
            Self::Products { parts, .. } => parts.iter().map(|part| part.output).collect(),
            Self::Updates(_) => Vec::new(),
        }
    }

    /// The values it reads.
    pub(crate) fn reads(&self) -> Vec<ValueId> {
        match self {
            Self::Op(node) => node.inputs.iter().copied().flatten().collect(),
            Self::Products { x, parts } => {
                let others = parts.iter().flat_map(|p| [Some(p.weight), p.bias, p.onto]);
                std::iter::once(*x).chain(others.flatten()).collect()
            }
            Self::Updates(sites) => sites.iter().flat_map(|s| [s.value, s.x]).collect(),
        }
    }
}

/// The steps of `program`, fused; what is added at `sites` comes before anything reads it.
pub(crate) fn fused(program: &Program, sites: &BTreeSet<Site>) -> Vec<Action> {
    let uses = program.uses();
    let once = |value: ValueId| uses.get(value.index()) == Some(&1);
    let mut actions: Vec<Action> = Vec::new();
    let mut open: Vec<Site> = Vec::new();
    for node in &program.nodes {
        let product = product(node);
        let joins = matches!(
            (&product, actions.last()),
            (Some((x, _)), Some(Action::Products { x: same, .. })) if x == same
        );
        if !joins && !open.is_empty() {
            actions.push(Action::Updates(std::mem::take(&mut open)));
        }
        open.extend(sites.iter().filter(|site| site.value == node.output));
        if absorbed(program, &mut actions, node, &once) {
            continue;
        }
        let Some((x, part)) = product else {
            actions.push(Action::Op(Box::new(node.clone())));
            continue;
        };
        match actions.last_mut() {
            Some(Action::Products { parts, .. }) if joins => parts.push(part),
            _ => actions.push(Action::Products {
                x,
                parts: vec![part],
            }),
        }
    }
    if !open.is_empty() {
        actions.push(Action::Updates(open));
    }
    actions
}

fn product(node: &Node) -> Option<(ValueId, Part)> {
    let (Op::Linear(_), [Some(x), Some(weight), bias @ ..]) = (&node.op, node.inputs.as_slice())
    else {
        return None;
    };
    let part = Part {
        weight: *weight,
        bias: bias.first().copied().flatten(),
        activation: None,
        onto: None,
        output: node.output,
    };
    Some((*x, part))
}

/// Whether `node` became the epilogue of a linear layer in the last action, whose result nothing else reads.
fn absorbed(
    program: &Program,
    actions: &mut [Action],
    node: &Node,
    once: &impl Fn(ValueId) -> bool,
) -> bool {
    let Some(Action::Products { x, parts }) = actions.last_mut() else {
        return false;
    };
    // What the layers of this action write is not there yet while they are computed.
    let written: Vec<ValueId> = parts.iter().map(|part| part.output).collect();
    match (&node.op, node.inputs.as_slice()) {
        (Op::Activation(activation), [Some(input)]) => {
            let part = parts.iter_mut().find(|p| p.output == *input);
            let Some(part) =
                part.filter(|p| once(*input) && p.onto.is_none() && p.activation.is_none())
            else {
                return false;
            };
            part.activation = Some(activation.kind);
            part.output = node.output;
            true
        }
        (Op::Add(_), [Some(a), Some(b)]) => {
            let same_shape = program.meta(*a).dims == program.meta(*b).dims;
            for (mine, other) in [(*b, *a), (*a, *b)] {
                let part = parts.iter_mut().find(|p| p.output == mine);
                let Some(part) = part.filter(|p| once(mine) && p.onto.is_none()) else {
                    continue;
                };
                if same_shape && mine != *x && !written.contains(&other) {
                    part.onto = Some(other);
                    part.output = node.output;
                    return true;
                }
            }
            false
        }
        _ => false,
    }
}

/// Computes the products; each value by its number.
pub(crate) fn products(
    x: &Tensor,
    parts: &[Part],
    value: impl Fn(ValueId) -> Result<Tensor>,
    panels: &Panels,
    spares: &Spares,
) -> Result<SmallVec<[(ValueId, Tensor); 4]>> {
    float!(x, T => typed::<T>(x, parts, value, panels, spares))
}

fn typed<T: Real + Element>(
    x: &Tensor,
    parts: &[Part],
    value: impl Fn(ValueId) -> Result<Tensor>,
    panels: &Panels,
    spares: &Spares,
) -> Result<SmallVec<[(ValueId, Tensor); 4]>> {
    let operands = parts.iter().map(|part| {
        let packed = match panels.get(part.weight) {
            Some(packed) => packed,
            None => linear::packed::<T>(&value(part.weight)?)?,
        };
        let bias = part.bias.map(&value).transpose()?;
        Ok((packed, bias, part.onto.map(&value).transpose()?))
    });
    let operands: SmallVec<[_; 4]> = operands.collect::<Result<_>>()?;
    let sizes = operands
        .iter()
        .map(|(packed, ..)| x.rows() * packed.outputs());
    let mut buffers: SmallVec<[Vec<T>; 4]> = sizes.map(|size| spares.buffer(size)).collect();
    let products = parts.iter().zip(&operands).zip(&mut buffers);
    let products = products.map(|((part, (packed, bias, onto)), buffer)| {
        Ok(Product {
            x: view::<T>(x)?,
            weight: packed,
            out: RowsMut::new(buffer, x.rows(), packed.outputs()),
            epilogue: Epilogue {
                bias: bias.as_ref().map(Tensor::values).transpose()?,
                activation: part.activation,
                onto: onto
                    .as_ref()
                    .map_or(Ok(Onto::Zero), |t| view(t).map(Onto::Rows))?,
                ..Epilogue::default()
            },
        })
    });
    matmuls(products.collect::<Result<SmallVec<[_; 4]>>>()?);
    let outputs = parts.iter().zip(&operands).zip(buffers);
    outputs
        .map(|((part, (packed, ..)), buffer)| {
            Ok((
                part.output,
                spares.tensor(buffer, [x.rows(), packed.outputs()])?,
            ))
        })
        .collect()
}
