//! A Program made ready to run many times.

use std::collections::BTreeSet;
use std::ops::Range;

use lmrs_tensor::{Error, Result, Tensor};

use crate::fuse::{self, Action};
use crate::mixed::{self, Mixed, Site};
use crate::op::Cache;
use crate::panels::{Panels, Precision};
use crate::{Bindings, Dim, Program, Spares, Stage, ValueId};

/// The steps of a [`Program`], fused, with the place of every value's last use and the weights packed. It gives what the
/// program gives, bit for bit where weights are held as they are.
#[derive(Clone, Debug)]
pub struct Plan {
    program: Program,
    steps: Vec<Step>,
    pub(crate) stages: Vec<Stage>,
    panels: Panels,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) action: Action,
    /// The values of and before this step that nothing reads after it.
    pub(crate) last: Vec<ValueId>,
}

impl Plan {
    /// The plan of `program`, its weights packed.
    ///
    /// # Errors
    /// [`lmrs_tensor::Error::Shape`] if a weight is not of floats.
    pub fn new(program: Program, precision: Precision) -> Result<Self> {
        let panels = Panels::of(&program, precision)?;
        Ok(Self::arranged(program, panels, &BTreeSet::new()))
    }

    /// The same plan for [`Self::run_mixed`], where groups of rows may add something at `sites`.
    #[must_use]
    pub fn mixed(&self, sites: &BTreeSet<Site>) -> Self {
        Self::arranged(self.program.clone(), self.panels.clone(), sites)
    }

    fn arranged(program: Program, panels: Panels, sites: &BTreeSet<Site>) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        let mut needed = vec![false; program.values()];
        for output in &program.outputs {
            needed[output.index()] = true;
        }
        for action in fuse::fused(&program, sites).into_iter().rev() {
            let mut last = Vec::new();
            for value in action.writes().into_iter().chain(action.reads()) {
                if !std::mem::replace(&mut needed[value.index()], true) {
                    last.push(value);
                }
            }
            steps.push(Step { action, last });
        }
        steps.reverse();
        Self {
            stages: Stage::of(&program, &steps),
            program,
            steps,
            panels,
        }
    }

    pub(crate) fn panels(&self) -> &Panels {
        &self.panels
    }

    /// The program this is a plan of.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Memory that the packed weights take, in bytes; plans of one model share what they have in common.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// Memory that the values of a run take at once at most, in bytes, if each stream has as many rows as `rows` says.
    pub fn working_bytes(&self, rows: impl Fn(&str) -> usize) -> usize {
        let held = held(&self.program, &self.steps, rows);
        held.into_iter().map(|(most, _)| most).max().unwrap_or(0)
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Runs the plan and returns the program's outputs. Values get their memory from `spares` and leave it there.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn run(
        &self,
        bindings: &Bindings,
        cache: Option<&mut dyn Cache>,
        spares: &Spares,
    ) -> Result<Vec<Tensor>> {
        self.run_mixed(bindings, cache, &[], spares)
    }

    /// [`Self::run`], where the rows of each of `groups` are those that the group's own program gives, to the bit. The groups are
    /// all rows, in order, and add only at sites that [`Self::mixed`] was given.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_mixed(
        &self,
        bindings: &Bindings,
        cache: Option<&mut dyn Cache>,
        groups: &[Mixed],
        spares: &Spares,
    ) -> Result<Vec<Tensor>> {
        let mut values = self.program.bound(bindings)?;
        let all = 0..self.steps.len();
        self.compute(all, &mut values, bindings, cache, groups, spares)?;
        let outputs = self.program.outputs.iter();
        outputs.map(|&v| value_of(&values, v)).collect()
    }

    /// Does `steps`; those before them are done.
    pub(crate) fn compute(
        &self,
        steps: Range<usize>,
        values: &mut [Option<Tensor>],
        bindings: &Bindings,
        mut cache: Option<&mut dyn Cache>,
        groups: &[Mixed],
        spares: &Spares,
    ) -> Result<()> {
        for step in &self.steps[steps] {
            match &step.action {
                Action::Op(node) => {
                    let cache = cache.as_mut().map(|c| &mut **c as &mut dyn Cache);
                    let output = node.run(values, bindings, cache, Some(&self.panels), spares)?;
                    values[node.output.index()] = Some(output);
                }
                Action::Products { x, parts } => {
                    let value = |v: ValueId| value_of(values, v);
                    for (at, output) in
                        fuse::products(&value(*x)?, parts, value, &self.panels, spares)?
                    {
                        values[at.index()] = Some(output);
                    }
                }
                Action::Updates(sites) => {
                    for &site in sites {
                        let operands = (value_of(values, site.value)?, value_of(values, site.x)?);
                        let output = mixed::updated(&self.program, site, groups, operands, spares)?;
                        values[site.value.index()] = Some(output);
                    }
                }
            }
            for value in &step.last {
                values[value.index()] = None;
            }
        }
        Ok(())
    }
}

/// Bytes that the values of a run take during and after each step, if each stream has as many rows as `rows` says.
pub(crate) fn held(
    program: &Program,
    steps: &[Step],
    rows: impl Fn(&str) -> usize,
) -> Vec<(usize, usize)> {
    let bytes = |value: &ValueId| {
        let meta = program.meta(*value);
        let extent = |dim: &Dim| match dim {
            Dim::Known(extent) => *extent,
            Dim::Named(stream) => rows(stream),
        };
        meta.dims.iter().map(extent).product::<usize>() * meta.dtype.size()
    };
    let (mut live, mut computed) = (0_usize, vec![false; program.values()]);
    let step = |step: &Step| {
        for value in step.action.writes() {
            computed[value.index()] = true;
            live += bytes(&value);
        }
        let most = live;
        let left = step.last.iter().filter(|value| computed[value.index()]);
        live -= left.map(bytes).sum::<usize>();
        (most, live)
    };
    steps.iter().map(step).collect()
}

/// A value that was computed before.
pub(crate) fn value_of(values: &[Option<Tensor>], v: ValueId) -> Result<Tensor> {
    values[v.index()]
        .clone()
        .ok_or_else(|| Error::Internal(format!("{v:?} was not computed")))
}
