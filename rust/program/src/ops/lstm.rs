//! A long short-term memory with projection and clipping (Sak et al. 2014) over each sequence.

use lmrs_kernels::lstm::{Clip, Lstm as Cells, Passed, Schedule, Start, Trace, Transposed};
use lmrs_kernels::{Real, Rows, RowsMut};
use lmrs_tensor::{Element, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::linear::{packed, packed_transpose};
use super::pool::stream;
use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, optional, required};
use crate::{Meta, meta};

const NAME: &str = "lstm";
/// Places of the inputs after x.
const INPUT: usize = 1;
const STATE: usize = 2;
const BIAS: usize = 3;
const PROJECTION: usize = 4;
const HIDDEN: usize = 5;
const CELL: usize = 6;

/// `lstm(x, input weight, state weight, [bias], [projection], [hidden], [cell])` over the stream of x's sequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lstm {
    /// Whether sequences are read from their last row to their first.
    pub reverse: bool,
    /// What the cell is clipped to.
    pub cell_clip: Option<f64>,
    /// What the output is clipped to.
    pub output_clip: Option<f64>,
    /// Whether the cells follow the outputs as further columns.
    pub memory: bool,
}

impl Operation for Lstm {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        for (name, clip) in [
            ("cell_clip", self.cell_clip),
            ("output_clip", self.output_clip),
        ] {
            if let Some(clip) = clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
                return Err(Error::input(name, &clip, "a number above 0"));
            }
        }
        let (gates, width) = required(NAME, inputs, INPUT)?.weight(NAME, "input weight")?;
        let (rows, outputs) = required(NAME, inputs, STATE)?.weight(NAME, "state weight")?;
        meta::expect_equal(NAME, "width of x", &x.width(NAME, "x")?, &width)?;
        if !gates.is_multiple_of(4) {
            let said = format!("input weight has {gates} rows, expected four gates of as many");
            return Err(Error::shape(NAME, said));
        }
        meta::expect_equal(NAME, "rows of state weight", &rows, &gates)?;
        let cells = gates / 4;
        if let Some(bias) = optional(inputs, BIAS) {
            let length = bias.vector(NAME, "bias")?;
            meta::expect_equal(NAME, "length of bias", &length, &gates)?;
        }
        match optional(inputs, PROJECTION) {
            Some(projection) => {
                let shape = projection.weight(NAME, "projection")?;
                let shown = |(rows, width)| format!("[{rows}, {width}]");
                let (got, want) = (shown(shape), shown((outputs, cells)));
                meta::expect_equal(NAME, "shape of projection", &got, &want)?;
            }
            None => meta::expect_equal(NAME, "width of state weight", &outputs, &cells)?,
        }
        for (name, at, width) in [("hidden", HIDDEN, outputs), ("cell", CELL, cells)] {
            if let Some(state) = optional(inputs, at) {
                let what = format!("width of {name}");
                meta::expect_equal(NAME, &what, &state.width(NAME, name)?, &width)?;
            }
        }
        for input in inputs.iter().flatten() {
            meta::expect_equal(NAME, "dtype of an input", &input.dtype, &x.dtype)?;
        }
        let columns = outputs + if self.memory { cells } else { 0 };
        Ok(Meta::matrix(x.dtype, x.rows(), columns))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let x = required(NAME, inputs, 0)?;
        let starts = stream(NAME, call.streams, x.rows())?.starts();
        let schedule = Schedule::new(starts, self.reverse);
        float!(x, T => {
            let (input, state) = (packed::<T>(required(NAME, inputs, INPUT)?)?, packed(required(NAME, inputs, STATE)?)?);
            let projection = optional(inputs, PROJECTION).map(packed).transpose()?;
            let cells = Cells {
                input: &input,
                state: &state,
                bias: optional(inputs, BIAS).map(Tensor::values).transpose()?,
                projection: projection.as_deref(),
                clip: self.clip(),
            };
            let (outputs, width) = (state.inputs(), input.outputs() / 4);
            let columns = outputs + if self.memory { width } else { 0 };
            let mut output = call.spares.buffer::<T>(x.rows() * columns);
            let out = RowsMut::strided(&mut output, x.rows(), outputs, columns);
            let start = started(inputs, starts.len() - 1)?;
            let Trace { gates, cells } = cells.forward(&schedule, view(x)?, start, out);
            if self.memory {
                let all = RowsMut::new(&mut output, x.rows(), columns);
                schedule.scatter(&cells, all.columns(outputs..columns));
            }
            let kept = if call.needs.contains(&true) {
                vec![Tensor::new(gates, [x.rows(), 4 * width])?, Tensor::new(cells, [x.rows(), width])?]
            } else {
                Vec::new()
            };
            Ok(Forward { output: call.spares.tensor(output, [x.rows(), columns])?, kept })
        })
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        (0..inputs.len()).map(|index| index != BIAS).collect()
    }

    fn reads_output(&self) -> bool {
        true
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (inputs, x) = (saved.inputs, required(NAME, saved.inputs, 0)?);
        let starts = stream(NAME, saved.streams, x.rows())?.starts();
        let schedule = Schedule::new(starts, self.reverse);
        let (Some(output), [gates, cells]) = (saved.output, saved.kept) else {
            return Err(Error::Internal("lstm kept no states".into()));
        };
        float!(x, T => {
            let (weights, states) = (required(NAME, inputs, INPUT)?, required(NAME, inputs, STATE)?);
            let (input, state) = (packed_transpose::<T>(weights)?, packed_transpose(states)?);
            let projection = optional(inputs, PROJECTION).map(packed_transpose).transpose()?;
            let back = Transposed { input: &input, state: &state, projection: projection.as_deref(), clip: self.clip() };
            let outputs = states.width();
            let passed = Passed {
                x: view(x)?,
                out: view(output)?.columns(0..outputs),
                start: started(inputs, starts.len() - 1)?,
                gates: gates.values()?,
                cells: cells.values()?,
            };
            let dy = view(grad)?;
            let dcells = self.memory.then(|| dy.columns(outputs..dy.width()));
            let found = back.gradients(&schedule, passed, dy.columns(0..outputs), dcells);
            let wants = |index: usize| saved.needs.get(index) == Some(&true);
            let parts = [found.x, found.input, found.state, found.bias, found.projection, found.hidden, found.cell];
            let tensor = |(index, values): (usize, Vec<T>)| {
                let shape = match inputs.get(index).and_then(Option::as_ref) {
                    Some(input) => input.shape().to_vec(),
                    None => vec![values.len()],
                };
                wants(index).then(|| Tensor::new(values, shape)).transpose()
            };
            parts.into_iter().enumerate().take(saved.needs.len()).map(tensor).collect()
        })
    }
}

impl Lstm {
    fn clip<F: Real>(&self) -> Clip<F> {
        Clip {
            cell: self.cell_clip.map(F::of),
            output: self.output_clip.map(F::of),
        }
    }
}

/// The states the sequences start from.
fn started<T: Real + Element>(inputs: &[Option<Tensor>], sequences: usize) -> Result<Start<'_, T>> {
    let state = |name: &str, index: usize| -> Result<Option<Rows<'_, T>>> {
        let Some(state) = optional(inputs, index) else {
            return Ok(None);
        };
        meta::expect_equal(NAME, &format!("rows of {name}"), &state.rows(), &sequences)?;
        view(state).map(Some)
    };
    Ok(Start {
        hidden: state("hidden", HIDDEN)?,
        cell: state("cell", CELL)?,
    })
}
