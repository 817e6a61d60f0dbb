//! The LSTM with projection and clipping (Sak et al. 2014) that `ELMo` is made of.
//!
//! The rows of a ragged batch are taken in the order of time: step `t` is one product for all sequences that are longer than
//! `t`. Sequences stand longest first, so those of a step are the first of the step before.

mod cell;

use crate::linear::{Compute, Epilogue, Onto, Packed, gradient_weight, matmul};
use crate::{Real, Rows, RowsMut, elementwise, team};

/// The rows of a batch in the order an LSTM reads them.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The row of the batch of each row of a step, step after step.
    rows: Vec<usize>,
    /// Where each step starts in `rows`, and the end.
    steps: Vec<usize>,
    /// The sequences, longest first.
    sequences: Vec<usize>,
}

impl Schedule {
    /// For sequences `starts[s]..starts[s + 1]`, read from their last row to their first if `reverse`.
    pub fn new(starts: &[usize], reverse: bool) -> Self {
        let length = |s: usize| starts[s + 1] - starts[s];
        let mut sequences: Vec<usize> = (0..starts.len().saturating_sub(1)).collect();
        sequences.sort_by_key(|&s| std::cmp::Reverse(length(s)));
        let longest = sequences.first().map_or(0, |&s| length(s));
        let (mut rows, mut steps) = (Vec::new(), vec![0]);
        for t in 0..longest {
            let active = sequences.iter().take_while(|&&s| length(s) > t);
            rows.extend(active.map(|&s| {
                if reverse {
                    starts[s + 1] - 1 - t
                } else {
                    starts[s] + t
                }
            }));
            steps.push(rows.len());
        }
        Self {
            rows,
            steps,
            sequences,
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    fn steps(&self) -> usize {
        self.steps.len() - 1
    }

    fn step(&self, t: usize) -> std::ops::Range<usize> {
        self.steps[t]..self.steps[t + 1]
    }

    /// `x`, whose rows are those of the batch, in the order of time.
    ///
    /// # Panics
    /// If it has another number of rows.
    pub fn gather<F: Real>(&self, x: Rows<F>) -> Vec<F> {
        assert_eq!(x.rows(), self.rows(), "rows of the batch");
        gathered(x, &self.rows)
    }

    /// The inverse of [`Self::gather`].
    ///
    /// # Panics
    /// If `out` has another number of rows.
    pub fn scatter<F: Real>(&self, values: &[F], mut out: RowsMut<F>) {
        assert_eq!(out.rows(), self.rows(), "rows of the batch");
        let width = out.width();
        for (from, &to) in self.rows.iter().enumerate() {
            out.row_mut(to)
                .copy_from_slice(&values[from * width..][..width]);
        }
    }

    /// The state before each row, in the order of time: `first` `[sequences, width]` (0 if `None`) before the first step,
    /// then what `values` has for the step before.
    fn previous<F: Real>(&self, values: &[F], first: Option<Rows<F>>, width: usize) -> Vec<F> {
        let mut previous = match first {
            Some(first) => gathered(first, &self.sequences[..self.first_step()]),
            None => vec![F::ZERO; self.first_step() * width],
        };
        for t in 1..self.steps() {
            let from = self.steps[t - 1] * width;
            previous.extend_from_slice(&values[from..][..self.step(t).len() * width]);
        }
        previous
    }

    fn first_step(&self) -> usize {
        self.steps.get(1).copied().unwrap_or(0)
    }
}

fn gathered<F: Real>(x: Rows<F>, rows: &[usize]) -> Vec<F> {
    rows.iter().flat_map(|&row| x.row(row)).copied().collect()
}

/// Bounds that values are cut to, from both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clip<F> {
    /// Of the cell, before its tanh.
    pub cell: Option<F>,
    /// Of the output.
    pub output: Option<F>,
}

/// `i, f, g, o = x·Wxᵀ + h·Whᵀ + b`; `c ← σ(f)·c + σ(i)·tanh(g)`, clipped; `h ← (σ(o)·tanh(c))·Wpᵀ`, clipped.
#[derive(Clone, Copy)]
pub struct Lstm<'a, F> {
    /// Wx `[4·cells, inputs]`, gates in the order i, f, g, o.
    pub input: &'a Packed<F>,
    /// Wh `[4·cells, outputs]`.
    pub state: &'a Packed<F>,
    /// b `[4·cells]`.
    pub bias: Option<&'a [F]>,
    /// Wp `[outputs, cells]`; without it the outputs are the cells'.
    pub projection: Option<&'a Packed<F>>,
    /// Bounds.
    pub clip: Clip<F>,
}

/// The states that sequences start from, each a row a sequence.
#[derive(Clone, Copy)]
pub struct Start<'a, F> {
    /// `[sequences, outputs]`.
    pub hidden: Option<Rows<'a, F>>,
    /// `[sequences, cells]`.
    pub cell: Option<Rows<'a, F>>,
}

/// What a forward pass leaves, in the order of time.
#[derive(Clone, Debug)]
pub struct Trace<F> {
    /// The gates after their functions, `[T, 4·cells]`.
    pub gates: Vec<F>,
    /// The cells, `[T, cells]`.
    pub cells: Vec<F>,
}

impl<F: Real> Lstm<'_, F> {
    /// Writes the outputs `[T, outputs]` of the rows of `x` `[T, inputs]`.
    ///
    /// A row depends on the rows of its sequence before it alone, bit for bit.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn forward(
        &self,
        schedule: &Schedule,
        x: Rows<F>,
        start: Start<F>,
        out: RowsMut<F>,
    ) -> Trace<F> {
        let (rows, cells, outputs) = (schedule.rows(), self.input.outputs() / 4, out.width());
        let x_timed = schedule.gather(x);
        let mut gates = vec![F::ZERO; rows * 4 * cells];
        let epilogue = Epilogue {
            bias: self.bias,
            ..Epilogue::default()
        };
        matmul(
            Rows::new(&x_timed, rows, x.width()),
            self.input,
            RowsMut::new(&mut gates, rows, 4 * cells),
            &epilogue,
        );
        let onto = Epilogue {
            onto: Onto::Output,
            ..Epilogue::default()
        };
        let (mut memory, mut hidden) = (vec![F::ZERO; rows * cells], vec![F::ZERO; rows * outputs]);
        let mut raw = vec![F::ZERO; schedule.first_step() * cells];
        let first = schedule.sequences.get(..schedule.first_step());
        let first = |state: Option<Rows<F>>| Some(gathered(state?, first?));
        let (first_hidden, first_cell) = (first(start.hidden), first(start.cell));
        for t in 0..schedule.steps() {
            let (begin, n) = (schedule.steps[t], schedule.step(t).len());
            let (hidden_before, hidden_now) = hidden.split_at_mut(begin * outputs);
            let (memory_before, memory_now) = memory.split_at_mut(begin * cells);
            let (previous, previous_cell) = if t == 0 {
                (first_hidden.as_deref(), first_cell.as_deref())
            } else {
                let before = schedule.steps[t - 1];
                let (h, c) = (before * outputs, before * cells);
                (Some(&hidden_before[h..]), Some(&memory_before[c..]))
            };
            let gates = &mut gates[begin * 4 * cells..][..n * 4 * cells];
            let mut gates = RowsMut::new(gates, n, 4 * cells);
            if let Some(previous) = previous {
                let previous = Rows::new(previous, n, outputs);
                matmul(previous, self.state, gates.reborrow(), &onto);
            }
            let raw = &mut raw[..n * cells];
            cell::forward(cell::Forward {
                gates,
                previous: previous_cell.map(|cell| Rows::new(cell, n, cells)),
                cell: RowsMut::new(memory_now, n, cells),
                raw: RowsMut::new(raw, n, cells),
                clip: self.clip.cell,
            });
            let out = &mut hidden_now[..n * outputs];
            match self.projection {
                Some(projection) => matmul(
                    Rows::new(raw, n, cells),
                    projection,
                    RowsMut::new(out, n, outputs),
                    &Epilogue::default(),
                ),
                None => out.copy_from_slice(raw),
            }
            if let Some(clip) = self.clip.output {
                cell::clip(RowsMut::new(out, n, outputs), clip);
            }
        }
        schedule.scatter(&hidden, out);
        Trace {
            gates,
            cells: memory,
        }
    }
}

/// The weights of an [`Lstm`] packed transposed, for the way back.
#[derive(Clone, Copy)]
pub struct Transposed<'a, F> {
    /// Wx.
    pub input: &'a Packed<F>,
    /// Wh.
    pub state: &'a Packed<F>,
    /// Wp.
    pub projection: Option<&'a Packed<F>>,
    /// As on the way forward; where a value was cut it has no gradient.
    pub clip: Clip<F>,
}

/// What the way back reads beside the weights.
#[derive(Clone, Copy)]
pub struct Passed<'a, F> {
    /// The input `[T, inputs]`.
    pub x: Rows<'a, F>,
    /// The outputs `[T, outputs]`.
    pub out: Rows<'a, F>,
    /// The states the sequences started from.
    pub start: Start<'a, F>,
    /// The gates, `[T, 4·cells]` in the order of time.
    pub gates: &'a [F],
    /// The cells, `[T, cells]` in the order of time.
    pub cells: &'a [F],
}

/// The gradients of an LSTM; shapes as what they are gradients of.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as in Lstm and Start")]
pub struct Gradients<F> {
    pub x: Vec<F>,
    pub input: Vec<F>,
    pub state: Vec<F>,
    pub bias: Vec<F>,
    pub projection: Vec<F>,
    pub hidden: Vec<F>,
    pub cell: Vec<F>,
}

impl<F: Real> Transposed<'_, F> {
    /// The gradients, given those of the outputs `[T, outputs]` and of the cells `[T, cells]`.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn gradients(
        &self,
        schedule: &Schedule,
        passed: Passed<F>,
        dout: Rows<F>,
        dcells: Option<Rows<F>>,
    ) -> Gradients<F> {
        let (rows, outputs) = (schedule.rows(), passed.out.width());
        let cells = self.state.inputs() / 4;
        let sequences = schedule.sequences.len();
        let hidden = schedule.gather(passed.out);
        let mut dhidden = schedule.gather(dout);
        let dcells = dcells.map(|dcells| schedule.gather(dcells));
        let previous_cell = schedule.previous(passed.cells, passed.start.cell, cells);
        let mut dgates = vec![F::ZERO; rows * 4 * cells];
        let mut raw = vec![F::ZERO; rows * cells];
        let mut draw = vec![F::ZERO; schedule.first_step() * cells];
        // Row `i` is of the `i`-th longest sequence, whatever the step.
        let mut carry = vec![F::ZERO; sequences * cells];
        let mut dfirst = vec![F::ZERO; schedule.first_step() * outputs];
        let onto = Epilogue {
            onto: Onto::Output,
            ..Epilogue::default()
        };
        for t in (0..schedule.steps()).rev() {
            let (begin, n) = (schedule.steps[t], schedule.step(t).len());
            let (before, now) = dhidden.split_at_mut(begin * outputs);
            let now = &mut now[..n * outputs];
            if let Some(clip) = self.clip.output {
                let cut = now.iter_mut().zip(&hidden[begin * outputs..]);
                cut.filter(|(_, h)| **h >= clip || **h <= -clip)
                    .for_each(|(d, _)| *d = F::ZERO);
            }
            let draw = match self.projection {
                Some(projection) => {
                    let draw = &mut draw[..n * cells];
                    let out = RowsMut::new(draw, n, cells);
                    matmul(
                        Rows::new(now, n, outputs),
                        projection,
                        out,
                        &Epilogue::default(),
                    );
                    &*draw
                }
                None => &*now,
            };
            let part = |values, width: usize| Rows::new(from_row(values, begin, width), n, width);
            let dgates = &mut dgates[begin * 4 * cells..][..n * 4 * cells];
            cell::backward(cell::Backward {
                gates: part(passed.gates, 4 * cells),
                cell: part(passed.cells, cells),
                previous: part(&previous_cell, cells),
                draw: Rows::new(draw, n, cells),
                dcell: dcells.as_deref().map(|dcells| part(dcells, cells)),
                carry: RowsMut::new(&mut carry, n, cells),
                dgates: RowsMut::new(dgates, n, 4 * cells),
                raw: RowsMut::new(&mut raw[begin * cells..], n, cells),
                clip: self.clip.cell,
            });
            let to = if t == 0 {
                &mut dfirst[..]
            } else {
                &mut before[schedule.steps[t - 1] * outputs..]
            };
            let to = RowsMut::new(to, n, outputs);
            matmul(Rows::new(dgates, n, 4 * cells), self.state, to, &onto);
        }
        let timed_x = schedule.gather(passed.x);
        let previous = schedule.previous(&hidden, passed.start.hidden, outputs);
        let dgates = Rows::new(&dgates, rows, 4 * cells);
        let weight = |dy: Rows<F>, x: &[F], width: usize| {
            let mut dw = vec![F::ZERO; dy.width() * width];
            let out = RowsMut::new(&mut dw, dy.width(), width);
            gradient_weight(Compute::F32, dy, Rows::new(x, rows, width), out);
            dw
        };
        let inputs = passed.x.width();
        let mut timed = vec![F::ZERO; rows * inputs];
        let out = RowsMut::new(&mut timed, rows, inputs);
        matmul(dgates, self.input, out, &Epilogue::default());
        let mut dx = vec![F::ZERO; rows * inputs];
        schedule.scatter(&timed, RowsMut::new(&mut dx, rows, inputs));
        let mut bias = vec![F::ZERO; 4 * cells];
        elementwise::sum_rows(dgates, &mut bias);
        let to_sequences = |values: &[F], width: usize| {
            let mut out = vec![F::ZERO; sequences * width];
            for (from, &to) in values.chunks_exact(width.max(1)).zip(&schedule.sequences) {
                out[to * width..][..width].copy_from_slice(from);
            }
            out
        };
        Gradients {
            x: dx,
            input: weight(dgates, &timed_x, inputs),
            state: weight(dgates, &previous, outputs),
            bias,
            projection: if self.projection.is_some() {
                weight(Rows::new(&dhidden, rows, outputs), &raw, cells)
            } else {
                Vec::new()
            },
            hidden: to_sequences(&dfirst, outputs),
            cell: to_sequences(&carry, cells),
        }
    }
}

fn from_row<F>(values: &[F], row: usize, width: usize) -> &[F] {
    &values[row * width..]
}

/// Rows of a cell that one thread takes.
fn block<F>(cells: usize) -> usize {
    team::rows_for::<F>(8 * cells)
}
