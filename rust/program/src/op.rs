//! What an op is: it judges shapes (`infer`), computes (`forward`) and differentiates (`backward`).

use std::fmt;
use std::sync::Arc;

use crate::ops::dropout::Randomness;
use lmrs_kernels::Real;
use lmrs_kernels::attention::KvStore;
use lmrs_kernels::linear::{Compute, Packed};
use lmrs_tensor::{Element, Error, Life, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::panels::Panels;
use crate::{Meta, Ragged, Spares, ValueId, ops};

/// Where attention keeps keys and values between steps. The engine owns it; a program only names slots.
pub trait Cache {
    /// The keys and values of `slot` for the `sequence`-th sequence of the batch.
    fn store(&self, slot: &str, sequence: usize) -> Result<&KvStore<f32>>;

    /// The same, to append to. A slot seen for the first time is made for `shape`: key heads and their width.
    fn store_mut(
        &mut self,
        slot: &str,
        sequence: usize,
        shape: (usize, usize),
    ) -> Result<&mut KvStore<f32>>;
}

/// What surrounds one execution of an op.
pub struct Call<'a> {
    /// The streams the op names, in its order.
    pub streams: &'a [Ragged],
    /// Keys and values of earlier steps, if the run has any.
    pub cache: Option<&'a mut (dyn Cache + 'a)>,
    /// Seed and step of random ops; `None` outside training, where dropout does nothing.
    pub randomness: Option<Randomness>,
    /// What products of weights are computed in, where the panels of a plan do not say it.
    pub compute: Compute,
    /// What was packed of the inputs before.
    pub(crate) held: Option<Held<'a>>,
    /// Where outputs get their memory.
    pub spares: &'a Spares,
    /// Which inputs `backward` will be asked for, so that `forward` keeps what it needs; empty if it will not be called.
    pub needs: &'a [bool],
}

/// What a plan has packed of a node's inputs.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a> {
    pub panels: &'a Panels,
    pub inputs: &'a [Option<ValueId>],
}

impl Call<'_> {
    /// The panels of `weight`, the `index`-th input: those of the plan, else of its values as they are.
    pub fn packed<T: Real + Element>(
        &self,
        index: usize,
        weight: &Tensor,
    ) -> Result<Arc<Packed<T>>> {
        let held = self.held.and_then(|held| {
            let value = held.inputs.get(index).copied().flatten()?;
            held.panels.get(value)
        });
        let own = || ops::linear::panels(weight, self.compute.weights(), Life::Storage);
        held.map_or_else(own, Ok)
    }
}

/// The result of `forward`.
pub struct Forward {
    /// The value.
    pub output: Tensor,
    /// What `backward` wants beside inputs and output (the log-sum-exp of attention).
    pub kept: Vec<Tensor>,
}

impl From<Tensor> for Forward {
    fn from(output: Tensor) -> Self {
        let kept = Vec::new();
        Self { output, kept }
    }
}

/// What `backward` gets of what `forward` saw and made.
pub struct Saved<'a> {
    /// The inputs of `forward` that the op reads again, the others `None`.
    pub inputs: &'a [Option<Tensor>],
    /// Its output, if the op reads it again.
    pub output: Option<&'a Tensor>,
    /// What it kept.
    pub kept: &'a [Tensor],
    /// The streams it ran with.
    pub streams: &'a [Ragged],
    /// The randomness it ran with.
    pub randomness: Option<Randomness>,
    /// What its products were computed in.
    pub compute: Compute,
    /// Which inputs need a gradient; the others may be left `None`.
    pub needs: &'a [bool],
    /// Where gradients get their memory.
    pub spares: &'a Spares,
}

/// One op. Optional inputs stand in their place as `None`, so an input is known by its position.
pub trait Operation: fmt::Debug {
    /// Judges dtypes, shapes and attributes and says what comes out.
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta>;

    /// Computes. `infer` has accepted the inputs.
    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward>;

    /// Which inputs `backward` reads when it is asked for the gradients `needs`: a tape lets go of the others.
    fn reads(&self, inputs: &[Option<Tensor>], _needs: &[bool]) -> Vec<bool> {
        vec![true; inputs.len()]
    }

    /// Whether `backward` reads the output.
    fn reads_output(&self) -> bool {
        false
    }

    /// Whether the output takes little time to compute again from the inputs, all of which `backward` reads: a tape then
    /// does so instead of keeping it.
    fn is_cheap(&self) -> bool {
        false
    }

    /// The gradient of each input, given `grad`, that of the output.
    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// The `index`-th input, which the op cannot do without.
pub fn required<'a, T>(op: &'static str, inputs: &'a [Option<T>], index: usize) -> Result<&'a T> {
    inputs
        .get(index)
        .and_then(Option::as_ref)
        .ok_or_else(|| Error::shape(op, format!("input {index} is missing")))
}

/// The `index`-th input if it was given.
pub fn optional<T>(inputs: &[Option<T>], index: usize) -> Option<&T> {
    inputs.get(index).and_then(Option::as_ref)
}

/// Lists the ops once: the enum, its names, and the way from a name and JSON attributes to an op.
macro_rules! operations {
    ($($module:ident :: $variant:ident),* $(,)?) => {
        /// Any op, with its attributes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[allow(missing_docs, reason = "each variant is documented by its struct")]
        pub enum Op {
            $($variant(ops::$module::$variant)),*
        }

        impl Op {
            /// The names of all ops.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($module)),*];

            /// The op called `name` with the attributes in the JSON object `attributes`.
            ///
            /// # Errors
            /// [`Error::Input`] if there is no such op or an attribute is unknown, missing or of the wrong type.
            pub fn parse(name: &str, attributes: &str) -> Result<Self> {
                let wrong = |e: serde_json::Error| {
                    Error::input(format!("attributes of {name}"), &attributes, e.to_string())
                };
                match name {
                    $(stringify!($module) => serde_json::from_str(attributes).map(Self::$variant).map_err(wrong),)*
                    _ => Err(Error::input("op", &name, format!("one of {}", Self::NAMES.join(", ")))),
                }
            }

            /// The name of the op.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($module)),*
                }
            }

            /// The op's behaviour.
            pub fn operation(&self) -> &dyn Operation {
                match self {
                    $(Self::$variant(op) => op),*
                }
            }
        }
    };
}

operations! {
    activation::Activation,
    add::Add,
    attention::Attention,
    char_conv::CharConv,
    columns::Columns,
    concat::Concat,
    cross_entropy::CrossEntropy,
    dropout::Dropout,
    embed::Embed,
    gated::Gated,
    inverse_norm::InverseNorm,
    kron::Kron,
    layer_norm::LayerNorm,
    linear::Linear,
    low_rank::LowRank,
    lstm::Lstm,
    mul::Mul,
    pool::Pool,
    rms_norm::RmsNorm,
    rope::Rope,
    rows::Rows,
    scale::Scale,
    stack::Stack,
    sum::Sum,
    token_logprob::TokenLogprob,
    transpose::Transpose,
}
