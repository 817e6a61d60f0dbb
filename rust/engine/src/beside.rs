//! What is read beside the requests: negative prompts, and by draft models.

use std::collections::BTreeMap;
use std::sync::Arc;

use lmrs_tensor::Result;

use crate::generation::Generation;
use crate::generator::Generator;
use crate::scheduler::{Id, Span};
use crate::side::{Text, read};

impl Generation {
    /// The logits after the negative prompts of `spans` that end their sequence.
    pub(crate) fn read_others(&mut self, generator: &Generator, spans: &[Span]) -> Result<()> {
        let ends = |id: &Id| spans.iter().any(|span| span.last && span.id == *id);
        let (mut ids, mut texts): (Vec<Id>, Vec<Text>) = (Vec::new(), Vec::new());
        for (id, sequence) in self.sequences.iter_mut().filter(|(id, _)| ends(id)) {
            if let Some(guidance) = &sequence.request.guidance {
                let written = sequence.tokens.get(sequence.request.prompt.len()..);
                let text = [&*guidance.negative, written.unwrap_or_default()].concat();
                texts.push((&mut sequence.other, text));
                ids.push(*id);
            }
        }
        if texts.is_empty() {
            return Ok(());
        }
        let logits = read(generator, texts, self.limits.step_tokens, &self.spares)?;
        let rows = logits.values::<f32>()?.chunks_exact(logits.width().max(1));
        for (id, row) in ids.iter().zip(rows) {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.other_logits = row.to_vec();
            }
        }
        Ok(())
    }

    /// Guesses what follows the requests of `ids` that ask for it. A draft model that fails guesses nothing: what is chosen does not
    /// depend on it.
    pub(crate) fn draft(&mut self, ids: &[Id]) {
        let mut drafters: Vec<(Arc<Generator>, Vec<Id>)> = Vec::new();
        for id in ids {
            let Some(sequence) = self.sequences.get_mut(id) else {
                continue;
            };
            if sequence.wanted_drafts() == 0 {
                continue;
            }
            let Some(drafter) = &sequence.request.drafter else {
                sequence.look_up();
                continue;
            };
            match drafters
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, drafter))
            {
                Some((_, group)) => group.push(*id),
                None => drafters.push((Arc::clone(drafter), vec![*id])),
            }
        }
        for (drafter, group) in drafters {
            let _ = self.draft_by(&drafter, &group);
        }
        for id in ids {
            let drafts = self
                .sequences
                .get(id)
                .map_or(0, |sequence| sequence.drafts.len());
            self.scheduler.draft(*id, drafts);
        }
    }

    /// Has `drafter` guess, a token of each request at a time.
    fn draft_by(&mut self, drafter: &Generator, ids: &[Id]) -> Result<()> {
        let mut open: BTreeMap<Id, Vec<u32>> = ids.iter().map(|&id| (id, Vec::new())).collect();
        while !open.is_empty() {
            let (mut asked, mut texts): (Vec<Id>, Vec<Text>) = (Vec::new(), Vec::new());
            for (id, sequence) in &mut self.sequences {
                if let Some(guessed) = open.get(id) {
                    let text = [&*sequence.tokens, &**guessed].concat();
                    texts.push((&mut sequence.draft, text));
                    asked.push(*id);
                }
            }
            if texts.is_empty() {
                break;
            }
            let logits = read(drafter, texts, self.limits.step_tokens, &self.spares)?;
            let rows = logits.values::<f32>()?.chunks_exact(logits.width().max(1));
            for (id, row) in asked.into_iter().zip(rows) {
                let (Some(sequence), Some(mut guessed)) =
                    (self.sequences.get_mut(&id), open.remove(&id))
                else {
                    continue;
                };
                let guess = sequence.guess(row, &guessed);
                guessed.extend(guess);
                let ended = guess.is_none_or(|id| sequence.request.eos.contains(&id));
                if ended || guessed.len() >= sequence.wanted_drafts() {
                    sequence.drafts = guessed;
                } else {
                    open.insert(id, guessed);
                }
            }
        }
        Ok(())
    }
}
