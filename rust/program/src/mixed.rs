//! Rows that name different low-rank updates, in one run of the program that all of them update.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use lmrs_kernels::RowsMut;
use lmrs_kernels::linear::Packed;
use lmrs_lowrank::{Group, LowRank, add_each};
use lmrs_tensor::{DType, Error, Result, Tensor};
use rustc_hash::FxHashMap;

use crate::ops::view;
use crate::{Dim, Node, Op, Plan, Program, Spares, ValueId};

/// A value of a program that updates add to, and the one that they multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub(crate) value: ValueId,
    pub(crate) x: ValueId,
}

#[derive(Clone, Debug)]
struct Update {
    a: Arc<Packed<f32>>,
    b: Arc<Packed<f32>>,
    scale: f32,
}

/// All that a program adds to another: one low-rank update at each of some sites.
#[derive(Clone, Debug)]
pub struct Updates(BTreeMap<Site, Update>);

/// A run of rows and what it adds, if anything.
#[derive(Clone, Debug)]
pub struct Mixed<'a> {
    /// The updates.
    pub updates: Option<&'a Updates>,
    /// Its rows, by the name of the stream that they are counted in.
    pub rows: Vec<(&'static str, Range<usize>)>,
}

impl Updates {
    /// What `tuned` adds to `base`. `None` if it differs in anything else: it then needs runs of its own.
    pub fn between(base: &Plan, tuned: &Plan) -> Option<Self> {
        let (theirs, ours) = (base.program(), tuned.program());
        let mut same = Matching::of(theirs, ours)?;
        let mut found = BTreeMap::new();
        let mut left = theirs.nodes.iter();
        for node in &ours.nodes {
            if let Some((site, update)) = same.update(theirs, tuned, node) {
                found.insert(site, update).is_none().then_some(())?;
                continue;
            }
            let next = left.as_slice().first();
            // Outside training it hands on what it is given.
            if matches!(node.op, Op::Dropout(_)) && next.is_none_or(|next| next.op != node.op) {
                let given = same.get(node.inputs.first().copied().flatten()?)?;
                same.of.insert(node.output, given);
                continue;
            }
            same.node(left.next()?, node)?;
        }
        let outputs = theirs.outputs.iter().copied().map(Some);
        let whole = left.next().is_none() && ours.outputs.iter().map(|&v| same.get(v)).eq(outputs);
        whole.then_some(Self(found))
    }

    /// Where they are.
    pub fn sites(&self) -> BTreeSet<Site> {
        self.0.keys().copied().collect()
    }
}

/// The values of one program by those of another.
struct Matching {
    of: FxHashMap<ValueId, ValueId>,
    updated: BTreeSet<ValueId>,
}

impl Matching {
    /// Of inputs, by name, and of weights that are one tensor.
    fn of(base: &Program, tuned: &Program) -> Option<Self> {
        let weights: FxHashMap<u64, ValueId> = base
            .parameters
            .iter()
            .map(|parameter| (parameter.tensor.id(), parameter.value))
            .collect();
        let shared = tuned
            .parameters
            .iter()
            .filter_map(|parameter| Some((parameter.value, *weights.get(&parameter.tensor.id())?)));
        let mut of: FxHashMap<_, _> = shared.collect();
        for input in &tuned.inputs {
            let same = base.inputs.iter().find(|other| other.name == input.name)?;
            of.insert(input.value, same.value);
        }
        let updated = BTreeSet::new();
        Some(Self { of, updated })
    }

    fn get(&self, value: ValueId) -> Option<ValueId> {
        self.of.get(&value).copied()
    }

    /// The update that `node` is, of a value that nothing but it reads from now on.
    fn update(&mut self, base: &Program, tuned: &Plan, node: &Node) -> Option<(Site, Update)> {
        let (Op::LowRank(op), [Some(old), Some(x), Some(a), Some(b)]) =
            (&node.op, node.inputs.as_slice())
        else {
            return None;
        };
        if self.get(*a).is_some() || self.get(*b).is_some() {
            return None;
        }
        let (value, x) = (self.get(*old)?, self.get(*x)?);
        let meta = base.meta(value);
        let of_rows = matches!(meta.dims.first(), Some(Dim::Named(_)));
        if !of_rows || meta.dtype != DType::F32 || !self.updated.insert(value) {
            return None;
        }
        let update = Update {
            a: tuned.panels().get(*a)?,
            b: tuned.panels().get(*b)?,
            scale: op.scale as f32,
        };
        self.of.remove(old);
        self.of.insert(node.output, value);
        Some((Site { value, x }, update))
    }

    /// Notes that `ours` is `theirs`, if it is.
    fn node(&mut self, theirs: &Node, ours: &Node) -> Option<()> {
        let inputs = ours.inputs.iter().map(|input| match input {
            None => Some(None),
            Some(value) => self.get(*value).map(Some),
        });
        let equal = theirs.op == ours.op
            && theirs.streams == ours.streams
            && inputs.eq(theirs.inputs.iter().copied().map(Some));
        equal.then(|| self.of.insert(ours.output, theirs.output))?;
        Some(())
    }
}

/// The value of `site` with each group's update added to its rows.
pub(crate) fn updated(
    program: &Program,
    site: Site,
    groups: &[Mixed],
    (base, x): (Tensor, Tensor),
    spares: &Spares,
) -> Result<Tensor> {
    let Some(Dim::Named(stream)) = program.meta(site.value).dims.first() else {
        return Err(Error::Internal("an update of a value without rows".into()));
    };
    let pair = |group: &Mixed| {
        let update = group.updates?.0.get(&site)?;
        Some((Arc::clone(&update.a), Arc::clone(&update.b), update.scale))
    };
    let held: Vec<_> = groups.iter().map(pair).collect();
    if held.iter().all(Option::is_none) {
        return Ok(base);
    }
    let pairs: Vec<Option<LowRank<f32>>> = held
        .iter()
        .map(|held| {
            let (a, b, scale) = held.as_ref()?;
            Some(LowRank {
                a,
                b,
                scale: *scale,
            })
        })
        .collect();
    let (mut parts, mut at) = (Vec::with_capacity(groups.len()), 0);
    for (group, update) in groups.iter().zip(&pairs) {
        let rows = group.rows.iter().find(|(name, _)| *name == stream.as_ref());
        let rows = rows.map_or(at..at, |(_, rows)| rows.clone());
        if rows.start != at {
            return Err(Error::Internal(format!(
                "rows of {stream} that no group has"
            )));
        }
        at = rows.end;
        if !rows.is_empty() {
            parts.push(Group {
                rows,
                update: update.as_ref(),
            });
        }
    }
    if at != base.rows() {
        return Err(Error::Internal(format!(
            "rows of {stream} that no group has"
        )));
    }
    let mut y = spares.buffer(base.len());
    let out = RowsMut::new(&mut y, base.rows(), base.width());
    add_each(&parts, view(&x)?, view(&base)?, out);
    spares.tensor(y, base.shape())
}
