//! What a Program is given: sequences of ids, packed.

use lmrs_program::{Bindings, Ragged};
use lmrs_tensor::{Result, Tensor};

/// The stream of the sequences of a batch.
const TOKENS: &str = "tokens";
/// The encoder's states, and their stream.
const MEMORY: &str = "memory";

/// Sequences one after another, each with its own positions.
#[derive(Default)]
pub struct Packing {
    ids: Vec<i32>,
    positions: Vec<i32>,
    segments: Vec<i32>,
    labels: Vec<i32>,
    select: Vec<i32>,
    starts: Vec<usize>,
}

impl Packing {
    /// A batch without sequences.
    pub fn new() -> Self {
        Self {
            starts: vec![0],
            ..Self::default()
        }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens and selected rows so far.
    pub fn extent(&self) -> [usize; 2] {
        [self.ids.len(), self.select.len()]
    }

    /// Sequences so far.
    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// Appends a sequence whose first id is number `first` of its text.
    pub fn push(&mut self, ids: &[u32], first: usize) {
        self.ids.extend(ids.iter().map(|&id| id as i32));
        self.positions
            .extend((first..first + ids.len()).map(|at| at as i32));
        self.segments.resize(self.ids.len(), 0);
        self.labels.resize(self.ids.len(), -1);
        self.starts.push(self.ids.len());
    }

    /// Gives the last sequence labels.
    pub fn label(&mut self, labels: &[i32]) {
        let from = self.ids.len() - labels.len().min(self.ids.len());
        self.labels.truncate(from);
        self.labels.extend_from_slice(labels);
    }

    /// Gives the last sequence segments.
    pub fn segment(&mut self, segments: &[i32]) {
        let from = self.ids.len() - segments.len().min(self.ids.len());
        self.segments.truncate(from);
        self.segments.extend_from_slice(segments);
    }

    /// Asks for the logits of the last `count` rows.
    pub fn select_last(&mut self, count: usize) {
        let stop = self.ids.len() as i32;
        self.select.extend(stop - count as i32..stop);
    }

    /// The bindings of a run. `memory` are encoder states and where those of each sequence start.
    pub fn bindings(self, memory: Option<(Tensor, Ragged)>) -> Result<Bindings> {
        let mut bindings = Bindings::default();
        let columns = [
            ("ids", self.ids),
            ("positions", self.positions),
            ("segments", self.segments),
            ("labels", self.labels),
            ("select", self.select),
        ];
        for (name, values) in columns {
            let count = values.len();
            bindings
                .inputs
                .insert(name.to_owned(), Tensor::new(values, [count])?);
        }
        bindings
            .streams
            .insert(TOKENS.to_owned(), Ragged::new(&self.starts)?);
        if let Some((states, starts)) = memory {
            bindings.inputs.insert(MEMORY.to_owned(), states);
            bindings.streams.insert(MEMORY.to_owned(), starts);
        }
        Ok(bindings)
    }
}
