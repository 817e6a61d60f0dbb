//! Texts that are read whole, beside those that are written: for their vectors, or for how likely they are.
//!
//! Texts of several calls that want the same of the same model are packed into one batch, and a batch is a step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use lmrs_kernels::attention::KvType;
use lmrs_program::{Plan, Spares};
use lmrs_tensor::Result;

use crate::batch::Packing;
use crate::cache::SequenceCache;
use crate::parts::{self, Text};
use crate::scheduler::Id;
use crate::window::{Window, table};

/// A text of two kinds of tokens, as BERT knows them.
#[derive(Clone, Debug)]
pub struct Segmented {
    /// The ids.
    pub ids: Vec<u32>,
    /// As many segments.
    pub segments: Vec<i32>,
}

/// What is read, and what for.
#[derive(Clone, Debug)]
pub enum Texts {
    /// A row a text that the plan gives; of length 1 if `normalize`.
    Pooled {
        /// What is read.
        texts: Vec<Segmented>,
        /// Whether rows are divided by their Euclidean length.
        normalize: bool,
    },
    /// What a causal plan says of the rows that have a label: `n` numbers each, `log p(label)` in nats the first.
    Judged(Vec<Window>),
}

impl Texts {
    fn count(&self) -> usize {
        match self {
            Self::Pooled { texts, .. } => texts.len(),
            Self::Judged(windows) => windows.len(),
        }
    }

    fn ids(&self, at: usize) -> &[u32] {
        let ids = match self {
            Self::Pooled { texts, .. } => texts.get(at).map(|text| &text.ids),
            Self::Judged(windows) => windows.get(at).map(|window| &window.ids),
        };
        ids.map_or(&[], Vec::as_slice)
    }

    fn push(&self, at: usize, packing: &mut Packing) {
        packing.push(self.ids(at), 0);
        if let Self::Pooled { texts, .. } = self {
            packing.segment(texts.get(at).map_or(&[], |text| &text.segments));
        }
    }
}

/// What a call gets: numbers for each of its texts.
pub type Answer = Result<Vec<Vec<f32>>>;

/// A call.
pub struct Reading {
    /// Its name.
    pub id: Id,
    /// What runs.
    pub plan: Arc<Plan>,
    /// What is read.
    pub texts: Texts,
    /// Who waits for the answer.
    pub reply: SyncSender<Answer>,
    /// What was found so far, in order.
    pub found: Vec<Vec<f32>>,
}

/// Calls that are not answered yet.
#[derive(Default)]
pub struct Readings(VecDeque<Reading>);

/// Texts of one call that a batch has: which call, and which of its texts.
type Share = (usize, std::ops::Range<usize>);

impl Readings {
    /// Takes in a call.
    pub fn push(&mut self, reading: Reading) {
        self.0.push_back(reading);
    }

    /// Forgets a call.
    pub fn remove(&mut self, id: Id) {
        self.0.retain(|reading| reading.id != id);
    }

    /// Calls that wait for an answer.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Computes one batch of about `most` tokens, and answers the calls that it completes. A call that fails takes no other with it.
    pub fn step(&mut self, most: usize, spares: &Spares) {
        let shares = self.shares(most);
        let ran = self.run(&shares, spares);
        if ran.is_err() && shares.len() > 1 {
            // From the last, for a call that fails is gone.
            for share in shares.into_iter().rev() {
                let alone = [share];
                let ran = self.run(&alone, spares);
                self.store(&alone, ran);
            }
        } else {
            self.store(&shares, ran);
        }
        self.answer();
        // The next batch is of those that wait the longest.
        self.0.rotate_left(usize::from(self.0.len() > 1));
    }

    /// The texts of the next batch: of the first call, and of others with the same plan. None takes more than half of what is left
    /// while another waits behind it.
    fn shares(&self, most: usize) -> Vec<Share> {
        let Some(first) = self.0.front() else {
            return Vec::new();
        };
        let same = |reading: &Reading| Arc::ptr_eq(&reading.plan, &first.plan);
        let mut behind = self.0.iter().filter(|reading| same(reading)).count();
        let (mut shares, mut left) = (Vec::new(), most);
        for (call, reading) in self.0.iter().enumerate().filter(|(_, r)| same(r)) {
            behind -= 1;
            let (start, mut taken) = (reading.found.len(), 0);
            let room = if behind > 0 { left.div_ceil(2) } else { left };
            let fits = (start..reading.texts.count()).take_while(|&at| {
                taken += reading.texts.ids(at).len();
                taken <= room
            });
            let mut stop = start + fits.count();
            if shares.is_empty() {
                // A text longer than a batch travels alone.
                stop = stop.max((start + 1).min(reading.texts.count()));
            }
            if stop > start {
                left =
                    left.saturating_sub((start..stop).map(|at| reading.texts.ids(at).len()).sum());
                shares.push((call, start..stop));
            }
        }
        shares
    }

    /// What is found of each text of a batch.
    fn run(&self, shares: &[Share], spares: &Spares) -> Answer {
        let mut of = Vec::new();
        for (call, texts) in shares {
            if let Some(reading) = self.0.get(*call) {
                of.extend(texts.clone().map(|at| (reading, at)));
            }
        }
        let Some((first, _)) = of.first() else {
            return Ok(Vec::new());
        };
        if matches!(first.texts, Texts::Judged(_)) {
            return judge(&of, spares);
        }
        let mut packing = Packing::new();
        for (reading, at) in &of {
            reading.texts.push(*at, &mut packing);
        }
        let outputs = first.plan.run(&packing.bindings(None)?, None, spares)?;
        let (values, width) = table(&outputs)?;
        let each = of.into_iter().enumerate();
        let found = each.map(|(number, (reading, _))| {
            let row = values.get(number * width..(number + 1) * width);
            let normalize = matches!(
                reading.texts,
                Texts::Pooled {
                    normalize: true,
                    ..
                }
            );
            scaled(row.unwrap_or_default(), normalize)
        });
        Ok(found.collect())
    }

    fn store(&mut self, shares: &[Share], ran: Answer) {
        match ran {
            Ok(found) => {
                let mut found = found.into_iter();
                for (call, texts) in shares {
                    if let Some(reading) = self.0.get_mut(*call) {
                        reading.found.extend(found.by_ref().take(texts.len()));
                    }
                }
            }
            Err(error) => {
                let failed = shares.first().and_then(|(call, _)| self.0.remove(*call));
                if let Some(reading) = failed {
                    // Nobody may be there any more.
                    let _ = reading.reply.try_send(Err(error));
                }
            }
        }
    }

    /// Answers the calls that are complete.
    fn answer(&mut self) {
        self.0.retain_mut(|reading| {
            let complete = reading.found.len() >= reading.texts.count();
            if complete {
                let _ = reading
                    .reply
                    .try_send(Ok(std::mem::take(&mut reading.found)));
            }
            !complete
        });
    }
}

/// What a causal plan says of windows, each by its call and its number there.
fn judge(of: &[(&Reading, usize)], spares: &Spares) -> Answer {
    let texts = of.iter().filter_map(|&(reading, at)| match &reading.texts {
        Texts::Judged(windows) => windows.get(at),
        Texts::Pooled { .. } => None,
    });
    let texts = texts.map(|window| Text {
        ids: &window.ids,
        first: 0,
        labels: &window.labels,
        cache: SequenceCache::new(KvType::Exact),
        lasting: false,
        scores: Vec::new(),
    });
    let mut texts: Vec<_> = texts.collect();
    if let Some((first, _)) = of.first() {
        parts::compute(&first.plan, &mut texts, spares)?;
    }
    Ok(texts.into_iter().map(|text| text.scores).collect())
}

fn scaled(row: &[f32], normalize: bool) -> Vec<f32> {
    if !normalize {
        return row.to_vec();
    }
    let square = |&v: &f32| f64::from(v) * f64::from(v);
    // As torch's `normalize` bounds it, so that a row of zeros stays one.
    let by = 1.0 / row.iter().map(square).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|&v| (f64::from(v) * by) as f32).collect()
}
