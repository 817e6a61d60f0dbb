//! The Program: a flat list of ops in single-assignment form.

use std::fmt;
use std::sync::Arc;

use lmrs_kernels::linear::Compute;
use lmrs_tensor::{DType, Error, Result, Tensor};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::op::{Cache, Call, Held, Op};
use crate::panels::Panels;
use crate::plan::value_of;
use crate::{Dim, Meta, Ragged, Spares};

/// The number of a value in its program: inputs, parameters and results of nodes are numbered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value given at run time, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its name: `ids`, `positions`, …
    pub name: String,
    /// Its number.
    pub value: ValueId,
}

/// A weight: its path in the model and its data.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The canonical path: `blocks.0.attn.q.weight`.
    pub path: String,
    /// The weight.
    pub tensor: Tensor,
    /// Its number.
    pub value: ValueId,
}

impl PartialEq for Parameter {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
            && self.value == other.value
            && self.tensor.shape() == other.tensor.shape()
    }
}

/// One op of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// To what; absent optional inputs are `None`.
    pub inputs: Vec<Option<ValueId>>,
    /// The names of the streams it reads.
    pub streams: Vec<String>,
    /// The number of the result.
    pub output: ValueId,
    /// The path of the module that asked for it.
    pub path: String,
}

impl Node {
    /// The result, given the values so far.
    pub(crate) fn run(
        &self,
        values: &[Option<Tensor>],
        bindings: &Bindings,
        cache: Option<&mut dyn Cache>,
        panels: Option<&Panels>,
        spares: &Spares,
    ) -> Result<Tensor> {
        let inputs: SmallVec<[_; 4]> = self
            .inputs
            .iter()
            .map(|v| v.and_then(|v| values[v.index()].clone()))
            .collect();
        let streams = bindings.streams(&self.streams)?;
        let mut call = Call {
            streams: &streams,
            cache: cache.map(|c| &mut *c as &mut dyn Cache),
            randomness: None,
            compute: Compute::F32,
            held: panels.map(|panels| Held {
                panels,
                inputs: &self.inputs,
            }),
            spares,
            needs: &[],
        };
        Ok(self.op.operation().forward(&mut call, &inputs)?.output)
    }
}

/// A flat SSA list of ops. Two programs are equal if they do the same with weights of the same paths and shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// The values given at run time.
    pub inputs: Vec<Input>,
    /// The weights.
    pub parameters: Vec<Parameter>,
    /// The ops, each after those it depends on.
    pub nodes: Vec<Node>,
    /// The values asked for.
    pub outputs: Vec<ValueId>,
    metas: Vec<Meta>,
}

/// What a run is given: named inputs, streams, and the state beside the graph.
#[derive(Default)]
pub struct Bindings {
    /// Tensors by input name.
    pub inputs: FxHashMap<String, Tensor>,
    /// Ragged streams by name.
    pub streams: FxHashMap<String, Ragged>,
}

impl Bindings {
    /// The streams called `names`, in that order.
    pub fn streams(&self, names: &[String]) -> Result<SmallVec<[Ragged; 2]>> {
        let find = |name: &String| {
            self.streams
                .get(name)
                .cloned()
                .ok_or_else(|| Error::input("stream", name, "a stream bound to this run"))
        };
        names.iter().map(find).collect()
    }
}

impl Program {
    fn value(&mut self, meta: Meta) -> ValueId {
        self.metas.push(meta);
        ValueId(self.metas.len() as u32 - 1)
    }

    /// The input `name`, declared at its first mention.
    pub fn input(&mut self, name: &str, dtype: DType, rows: &str, width: Option<usize>) -> ValueId {
        if let Some(known) = self.inputs.iter().find(|i| i.name == name) {
            return known.value;
        }
        let dims = std::iter::once(Dim::Named(Arc::from(rows)))
            .chain(width.map(Dim::Known))
            .collect();
        let value = self.value(Meta { dtype, dims });
        self.inputs.push(Input {
            name: name.to_owned(),
            value,
        });
        value
    }

    /// A leaf holding `tensor`, declared at its first mention: one number for one tensor, so ties stay ties.
    pub fn parameter(&mut self, path: &str, tensor: &Tensor) -> ValueId {
        if let Some(known) = self
            .parameters
            .iter()
            .find(|p| p.tensor.id() == tensor.id())
        {
            return known.value;
        }
        let value = self.value(Meta::of(tensor));
        self.parameters.push(Parameter {
            path: path.to_owned(),
            tensor: tensor.clone(),
            value,
        });
        value
    }

    /// Appends an op.
    ///
    /// # Errors
    /// [`Error::Shape`] if the op does not take these inputs; the program is unchanged.
    pub fn push(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        streams: Vec<String>,
        path: &str,
    ) -> Result<ValueId> {
        let metas: Vec<_> = inputs.iter().map(|v| v.map(|v| self.meta(v))).collect();
        let meta = op.operation().infer(&metas)?;
        Ok(self.append(op, inputs, streams, path, meta))
    }

    /// Appends an op whose output is known to be `meta`.
    pub(crate) fn append(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        streams: Vec<String>,
        path: &str,
        meta: Meta,
    ) -> ValueId {
        let output = self.value(meta);
        self.nodes.push(Node {
            op,
            inputs,
            streams,
            output,
            path: path.to_owned(),
        });
        output
    }

    /// What is known of a value.
    ///
    /// # Panics
    /// If `value` is of another program.
    pub fn meta(&self, value: ValueId) -> &Meta {
        &self.metas[value.index()]
    }

    /// How many values there are.
    pub fn values(&self) -> usize {
        self.metas.len()
    }

    /// Runs the program and returns its outputs. A value is dropped after its last use.
    ///
    /// # Errors
    /// [`Error::Input`] if an input or a stream is not bound; [`Error::Shape`] if one does not fit.
    pub fn run(
        &self,
        bindings: &Bindings,
        mut cache: Option<&mut dyn Cache>,
    ) -> Result<Vec<Tensor>> {
        let (mut values, spares) = (self.bound(bindings)?, Spares::default());
        let mut uses = self.uses();
        for node in &self.nodes {
            let cache = cache.as_mut().map(|c| &mut **c as &mut dyn Cache);
            let output = node.run(&values, bindings, cache, None, &spares)?;
            values[node.output.index()] = Some(output);
            for value in node.inputs.iter().flatten() {
                uses[value.index()] -= 1;
                if uses[value.index()] == 0 {
                    values[value.index()] = None;
                }
            }
        }
        self.outputs.iter().map(|&v| value_of(&values, v)).collect()
    }

    /// The values before the first node: inputs, checked, and weights.
    pub(crate) fn bound(&self, bindings: &Bindings) -> Result<Vec<Option<Tensor>>> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.metas.len()];
        for input in &self.inputs {
            let tensor = bindings.inputs.get(&input.name).ok_or_else(|| {
                Error::input("program input", &input.name, "a tensor bound to this run")
            })?;
            self.check(input, tensor)?;
            values[input.value.index()] = Some(tensor.clone());
        }
        for parameter in &self.parameters {
            values[parameter.value.index()] = Some(parameter.tensor.clone());
        }
        Ok(values)
    }

    /// How often each value is read; an output counts as read once more.
    pub(crate) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.metas.len()];
        let read = self
            .nodes
            .iter()
            .flat_map(|n| n.inputs.iter().flatten())
            .chain(&self.outputs);
        read.for_each(|v| uses[v.index()] += 1);
        uses
    }

    fn check(&self, input: &Input, tensor: &Tensor) -> Result<()> {
        let declared = self.meta(input.value);
        let fits = |(dim, &extent): (&Dim, &usize)| {
            matches!(dim, Dim::Named(_)) || *dim == Dim::Known(extent)
        };
        let shape = tensor.shape();
        let same = declared.dims.len() == shape.len() && declared.dims.iter().zip(shape).all(fits);
        if same && declared.dtype == tensor.dtype() {
            return Ok(());
        }
        Err(Error::shape(
            "program",
            format!(
                "input {} is {}, expected {declared}",
                input.name,
                Meta::of(tensor)
            ),
        ))
    }
}

impl fmt::Display for Program {
    /// One line a node: `%12 = linear(%11, blocks.0.attn.q.weight)  float32 [tokens, 576]  # blocks.0.attn.q`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: FxHashMap<ValueId, &str> = FxHashMap::default();
        names.extend(self.inputs.iter().map(|i| (i.value, i.name.as_str())));
        names.extend(self.parameters.iter().map(|p| (p.value, p.path.as_str())));
        let name = |v: &ValueId| {
            names
                .get(v)
                .map_or_else(|| format!("%{}", v.0), ToString::to_string)
        };
        for node in &self.nodes {
            let inputs: Vec<_> = node
                .inputs
                .iter()
                .map(|v| v.as_ref().map_or_else(|| "-".into(), name))
                .collect();
            let meta = self.meta(node.output);
            let op = node.op.name();
            writeln!(
                f,
                "%{} = {op}({})  {meta}  # {}",
                node.output.0,
                inputs.join(", "),
                node.path
            )?;
        }
        let outputs: Vec<_> = self.outputs.iter().map(name).collect();
        write!(f, "return {}", outputs.join(", "))
    }
}
