//! What a step computes: the spans of one model, with what the delta of each adds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use lmrs_program::{Mixed, Ragged};
use lmrs_tensor::{Error, Result, Tensor};

use crate::batch::Packing;
use crate::cache::BatchCache;
use crate::generation::Generation;
use crate::generator::Generator;
use crate::scheduler::{Id, Span};
use crate::sequence::Sequence;

/// The spans of one model: of each of its variants those beside each other.
pub type Group = Vec<(Arc<Generator>, Vec<Span>)>;

impl Generation {
    /// The spans of each model, in the order in which the models first appear; variants of one that only add to it run with it.
    pub(crate) fn by_model(&self, spans: Vec<Span>) -> Vec<(Group, Vec<Span>)> {
        let mut groups: Vec<Group> = Vec::new();
        for span in spans {
            let Some(sequence) = self.sequences.get(&span.id) else {
                continue;
            };
            let own = &sequence.generator;
            let beside = |(known, _): &(Arc<Generator>, _)| Arc::ptr_eq(known.root(), own.root());
            let group = groups.iter_mut().find(|group| group.iter().any(beside));
            match group {
                None => groups.push(vec![(Arc::clone(own), vec![span])]),
                Some(group) => match group.iter_mut().find(|(known, _)| Arc::ptr_eq(known, own)) {
                    Some((_, spans)) => spans.push(span),
                    None => group.push((Arc::clone(own), vec![span])),
                },
            }
        }
        let whole = |group: Group| {
            let spans = group.iter().flat_map(|(_, spans)| spans).cloned().collect();
            (group, spans)
        };
        groups.into_iter().map(whole).collect()
    }

    /// The logits of the spans that end their sequence, one row each, in the order of the group.
    pub(crate) fn compute(&mut self, group: &Group, spans: &[Span]) -> Result<Tensor> {
        let lost = || Error::Internal("a span of a request that is not there".into());
        let (first, _) = group.first().ok_or_else(lost)?;
        let memory = self.encode(first, spans)?;
        for (variant, spans) in group {
            self.read_others(variant, spans)?;
        }
        let mut packing = Packing::new();
        let mut caches = Vec::with_capacity(spans.len());
        let mut parts = Vec::with_capacity(group.len());
        let mut sequences: BTreeMap<Id, &mut Sequence> =
            self.sequences.iter_mut().map(|(&id, s)| (id, s)).collect();
        for (variant, spans) in group {
            let before = packing.extent();
            for span in spans {
                let sequence = sequences.remove(&span.id).ok_or_else(lost)?;
                sequence.drafts.truncate(span.drafts);
                let drafts = sequence.drafts.clone();
                for (tokens, cache) in sequence.lines() {
                    let tokens = tokens.get(span.tokens.clone()).ok_or_else(lost)?;
                    packing.push(&[tokens, &*drafts].concat(), span.tokens.start);
                    if span.last {
                        packing.select_last(1 + drafts.len());
                    }
                    caches.push(cache);
                }
            }
            parts.push((variant, between(before, packing.extent())));
        }
        let mut cache = BatchCache(caches);
        let bindings = packing.bindings(memory)?;
        let outputs = if group.len() == 1 {
            first
                .logits
                .run(&bindings, Some(&mut cache), &self.spares)?
        } else {
            let plan = first
                .root()
                .mixed(group.iter().map(|(variant, _)| &**variant));
            let mixed = parts.into_iter().map(|(variant, rows)| Mixed {
                updates: variant.updates(),
                rows,
            });
            plan.run_mixed(
                &bindings,
                Some(&mut cache),
                &mixed.collect::<Vec<_>>(),
                &self.spares,
            )?
        };
        let mut outputs = outputs.into_iter();
        let logits = outputs.next();
        if let Some(states) = outputs.next() {
            self.remember(spans, &states)?;
        }
        logits.ok_or_else(|| Error::Internal("a program of logits without output".into()))
    }

    /// Hands each sequence the states of its tokens.
    fn remember(&mut self, spans: &[Span], states: &Tensor) -> Result<()> {
        let width = states.width().max(1);
        let mut rest = states.values::<f32>()?;
        for span in spans {
            let Some(sequence) = self.sequences.get_mut(&span.id) else {
                continue;
            };
            let rows = span.tokens.len();
            let (own, after) = rest
                .split_at_checked(sequence.count() * rows * width)
                .unwrap_or_default();
            rest = after;
            if let Some(candidates) = &mut sequence.candidates {
                candidates.remember(own, width, rows, span.last);
            }
        }
        Ok(())
    }

    /// The encoder's states for sequences that start in this step; the others have read theirs into the cache.
    fn encode(
        &mut self,
        generator: &Generator,
        spans: &[Span],
    ) -> Result<Option<(Tensor, Ragged)>> {
        let Some(encoder) = &generator.encoder else {
            return Ok(None);
        };
        let mut packing = Packing::new();
        let mut starts = vec![0];
        for span in spans {
            let Some(sequence) = self.sequences.get(&span.id) else {
                continue;
            };
            for _ in 0..sequence.count() {
                if span.tokens.start == 0 {
                    packing.push(&sequence.request.prompt, 0);
                }
                starts.push(packing.tokens());
            }
        }
        let starts = Ragged::new(&starts)?;
        if packing.sequences() == 0 {
            return Ok(Some((Tensor::zeros::<f32>([0, encoder.width]), starts)));
        }
        let states = encoder
            .plan
            .run(&packing.bindings(None)?, None, &self.spares)?
            .into_iter()
            .next();
        let states = states.ok_or_else(|| Error::Internal("an encoder without output".into()))?;
        Ok(Some((states, starts)))
    }
}

/// The rows of a part of a batch that was so large before and after.
fn between(before: [usize; 2], after: [usize; 2]) -> Vec<(&'static str, Range<usize>)> {
    let names = ["tokens", "select"].into_iter();
    let ranges = before.into_iter().zip(after);
    names
        .zip(ranges)
        .map(|(name, (start, end))| (name, start..end))
        .collect()
}
