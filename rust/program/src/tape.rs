//! The tape: a Program that computes as it is written, and is walked backwards for gradients.

use lmrs_kernels::linear::Compute;
use lmrs_tensor::{DType, Error, Result, Tensor};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::op::{Call, Op, Saved};
use crate::ops::dropout::Randomness;
use crate::{Meta, Program, Ragged, Spares, ValueId};

/// An input of a node as the way back finds it.
enum Past {
    /// Absent, or not read again.
    Gone,
    Here(Tensor),
    /// Cheaper to compute again than to keep.
    Again(ValueId),
}

/// What one node of the tape remembers for the way back.
struct Step {
    inputs: Vec<Past>,
    output: Option<Tensor>,
    kept: Vec<Tensor>,
    streams: Vec<Ragged>,
    needs: Vec<bool>,
}

/// How ops are computed.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Seed and step of dropout, which does nothing without.
    pub randomness: Option<Randomness>,
    /// What the operands of `linear`, `low_rank` and the head are rounded to, on the way back too.
    pub compute: Compute,
    /// Where values get their memory.
    pub spares: Spares,
}

/// Computes ops and notes those a gradient has to pass through. What no trainable weight feeds is not noted and
/// its values are not kept.
pub struct Tape {
    program: Program,
    steps: Vec<Step>,
    index: FxHashMap<u64, ValueId>,
    /// The nodes whose values are computed again.
    again: FxHashMap<ValueId, usize>,
    traced: FxHashSet<u64>,
    setting: Setting,
}

impl Tape {
    /// A tape for the gradients of `trainable`.
    pub fn new(trainable: &[Tensor], setting: Setting) -> Self {
        let traced = trainable.iter().map(Tensor::id).collect();
        Self {
            program: Program::default(),
            steps: Vec::new(),
            index: FxHashMap::default(),
            again: FxHashMap::default(),
            traced,
            setting,
        }
    }

    /// The ops noted so far.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Computes `op`, noting it if one of its inputs is, or comes from, a trainable weight.
    pub fn apply(
        &mut self,
        op: Op,
        inputs: Vec<Option<Tensor>>,
        streams: Vec<(String, Ragged)>,
    ) -> Result<Tensor> {
        let needs: Vec<bool> = inputs
            .iter()
            .map(|t| t.as_ref().is_some_and(|t| self.traced.contains(&t.id())))
            .collect();
        let keep = needs.contains(&true);
        let (names, streams): (Vec<String>, Vec<Ragged>) = streams.into_iter().unzip();
        let forward = evaluate(&op, &inputs, &streams, &needs, &self.setting)?;
        if keep {
            let values = inputs
                .iter()
                .map(|t| t.as_ref().map(|t| self.leaf(t)))
                .collect();
            let operation = op.operation();
            let reads = operation.reads(&inputs, &needs);
            let past = |(input, read): (Option<Tensor>, bool)| match input.filter(|_| read) {
                None => Past::Gone,
                Some(input) => match self.index.get(&input.id()) {
                    Some(value) if self.again.contains_key(value) => Past::Again(*value),
                    _ => Past::Here(input),
                },
            };
            let past = inputs.into_iter().zip(reads).map(past).collect();
            let (output_read, cheap) = (operation.reads_output(), operation.is_cheap());
            // Here every extent is known, also those that a Program can only name.
            let meta = Meta::of(&forward.output);
            let output = self.program.append(op, values, names, "", meta);
            self.traced.insert(forward.output.id());
            self.index.insert(forward.output.id(), output);
            if cheap {
                self.again.insert(output, self.steps.len());
            }
            self.steps.push(Step {
                inputs: past,
                output: output_read.then(|| forward.output.clone()),
                kept: forward.kept,
                streams,
                needs,
            });
        }
        Ok(forward.output)
    }

    fn leaf(&mut self, tensor: &Tensor) -> ValueId {
        let program = &mut self.program;
        *self
            .index
            .entry(tensor.id())
            .or_insert_with(|| program.parameter("", tensor))
    }

    /// The gradient of the scalar `loss` with respect to each of `wrt`; `None` where `loss` does not depend on it.
    /// Consumes what the tape kept: a second call is an error.
    pub fn backward(&mut self, loss: &Tensor, wrt: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        if loss.len() != 1 {
            return Err(Error::shape(
                "backward",
                format!(
                    "the loss has shape {:?}, expected one element",
                    loss.shape()
                ),
            ));
        }
        let one = match loss.dtype() {
            DType::F64 => Tensor::new(vec![1.0_f64], loss.shape())?,
            _ => Tensor::new(vec![1.0_f32], loss.shape())?,
        };
        if !self.traced.contains(&loss.id()) {
            return Ok(vec![None; wrt.len()]);
        }
        let mut grads: FxHashMap<ValueId, Tensor> = FxHashMap::default();
        grads.insert(self.leaf(loss), one);
        let mut computed: FxHashMap<ValueId, Tensor> = FxHashMap::default();
        while let Some(step) = self.steps.pop() {
            let Some(node) = self.program.nodes.pop() else {
                break;
            };
            // Whoever read it came before.
            computed.remove(&node.output);
            let Some(grad) = grads.remove(&node.output) else {
                continue;
            };
            let inputs = self.recalled(step.inputs, &mut computed)?;
            let saved = Saved {
                inputs: &inputs,
                output: step.output.as_ref(),
                kept: &step.kept,
                streams: &step.streams,
                randomness: self.setting.randomness,
                compute: self.setting.compute,
                needs: &step.needs,
                spares: &self.setting.spares,
            };
            let parts = node.op.operation().backward(&saved, &grad)?;
            for ((value, needed), part) in node.inputs.iter().zip(&step.needs).zip(parts) {
                if let (Some(value), true, Some(part)) = (value, needed, part) {
                    let total = match grads.remove(value) {
                        Some(sofar) => {
                            crate::ops::add::sum_of(&self.setting.spares, &sofar, &part)?
                        }
                        None => part,
                    };
                    grads.insert(*value, total);
                }
            }
        }
        self.again.clear();
        let find = |t: &Tensor| self.index.get(&t.id()).and_then(|v| grads.get(v)).cloned();
        Ok(wrt.iter().map(find).collect())
    }

    /// The inputs of a node, those that were not kept computed again.
    fn recalled(
        &self,
        inputs: Vec<Past>,
        computed: &mut FxHashMap<ValueId, Tensor>,
    ) -> Result<Vec<Option<Tensor>>> {
        let recall = |past| match past {
            Past::Gone => Ok(None),
            Past::Here(tensor) => Ok(Some(tensor)),
            Past::Again(value) => self.recomputed(value, computed).map(Some),
        };
        inputs.into_iter().map(recall).collect()
    }

    fn recomputed(
        &self,
        value: ValueId,
        computed: &mut FxHashMap<ValueId, Tensor>,
    ) -> Result<Tensor> {
        if let Some(tensor) = computed.get(&value) {
            return Ok(tensor.clone());
        }
        let at = self.again.get(&value).copied();
        let (Some(step), Some(node)) = (
            at.and_then(|at| self.steps.get(at)),
            at.and_then(|at| self.program.nodes.get(at)),
        ) else {
            return Err(Error::Internal(format!("{value:?} was not kept")));
        };
        let past = step.inputs.iter().map(|past| match past {
            Past::Gone => Past::Gone,
            Past::Here(tensor) => Past::Here(tensor.clone()),
            Past::Again(value) => Past::Again(*value),
        });
        let inputs = self.recalled(past.collect(), computed)?;
        let (op, streams) = (&node.op, &step.streams);
        let tensor = evaluate(op, &inputs, streams, &[], &self.setting)?.output;
        computed.insert(value, tensor.clone());
        Ok(tensor)
    }
}

/// Computes `op` on tensors at hand, with no cache and no recording.
///
/// # Errors
/// Those of the op, and [`Error::Input`] for 64-bit numbers where operands are rounded.
pub fn evaluate(
    op: &Op,
    inputs: &[Option<Tensor>],
    streams: &[Ragged],
    needs: &[bool],
    setting: &Setting,
) -> Result<crate::Forward> {
    let wide = |input: &Tensor| input.dtype() == DType::F64;
    if setting.compute != Compute::F32 && inputs.iter().flatten().any(wide) {
        let expected = "float32, which products in bf16 round";
        return Err(Error::input(
            format!("dtype of the inputs of {}", op.name()),
            &"float64",
            expected,
        ));
    }
    let metas: Vec<Option<Meta>> = inputs.iter().map(|t| t.as_ref().map(Meta::of)).collect();
    op.operation()
        .infer(&metas.iter().map(Option::as_ref).collect::<Vec<_>>())?;
    op.operation().forward(
        &mut Call {
            streams,
            cache: None,
            randomness: setting.randomness,
            compute: setting.compute,
            held: None,
            spares: &setting.spares,
            needs,
        },
        inputs,
    )
}
