//! A plan run a stage at a time, so that the parts of a batch can go through it side by side.
//!
//! A sequence may be cut into parts whose attention reads one cache. Run one after another, all layers' keys and values are held
//! to the end; run by stages, every part is through a layer before the first goes on to the next one, and what is held at once are
//! the keys and values of one layer and, between stages, the few values that cross it.

use std::ops::Range;

use lmrs_tensor::{Result, Tensor};

use crate::fuse::Action;
use crate::plan::{Step, held, value_of};
use crate::{Bindings, Cache, Op, Plan, Program, Spares};

/// Some steps of a plan, one after another: at most one of them reads and writes a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    steps: Range<usize>,
    slot: Option<String>,
}

impl Stage {
    /// The slot that no later stage reads.
    pub fn slot(&self) -> Option<&str> {
        self.slot.as_deref()
    }

    /// Cuts `steps` between each attention and the next, where the least is held.
    pub(crate) fn of(program: &Program, steps: &[Step]) -> Vec<Self> {
        let held = held(program, steps, |_| 1);
        let slots = steps.iter().enumerate().filter_map(|(at, step)| {
            let Action::Op(node) = &step.action else {
                return None;
            };
            let Op::Attention(attention) = &node.op else {
                return None;
            };
            Some((at, attention.cache.clone()?))
        });
        let slots: Vec<_> = slots.collect();
        let mut stages = Vec::with_capacity(slots.len().max(1));
        let mut start = 0;
        for (index, (at, slot)) in slots.iter().enumerate() {
            let end = slots.get(index + 1).map_or(steps.len(), |(next, _)| {
                1 + (*at..*next).min_by_key(|&step| held[step].1).unwrap_or(*at)
            });
            stages.push(Self {
                steps: start..end,
                slot: Some(slot.clone()),
            });
            start = end;
        }
        if slots.is_empty() {
            stages.push(Self {
                steps: 0..steps.len(),
                slot: None,
            });
        }
        stages
    }
}

/// A plan under way with one part of a batch.
pub struct Run<'a> {
    plan: &'a Plan,
    bindings: &'a Bindings,
    values: Vec<Option<Tensor>>,
    stages: usize,
}

impl Plan {
    /// The stages of a run, in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// A run before its first stage.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn begin<'a>(&'a self, bindings: &'a Bindings) -> Result<Run<'a>> {
        Ok(Run {
            plan: self,
            bindings,
            values: self.program().bound(bindings)?,
            stages: 0,
        })
    }
}

impl Run<'_> {
    /// Does the next of [`Plan::stages`], if there is one.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn advance(&mut self, cache: Option<&mut dyn Cache>, spares: &Spares) -> Result<()> {
        let Some(stage) = self.plan.stages.get(self.stages) else {
            return Ok(());
        };
        self.stages += 1;
        let steps = stage.steps.clone();
        self.plan
            .compute(steps, &mut self.values, self.bindings, cache, &[], spares)
    }

    /// The program's outputs, after the last stage.
    ///
    /// # Errors
    /// [`lmrs_tensor::Error::Internal`] before it.
    pub fn outputs(self) -> Result<Vec<Tensor>> {
        let outputs = self.plan.program().outputs.iter();
        outputs.map(|&v| value_of(&self.values, v)).collect()
    }
}
