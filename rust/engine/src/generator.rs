//! A model that writes, as the step loop needs it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lmrs_kernels::attention::KvType;
use lmrs_program::{Dim, Op, Plan, Site, Updates};
use lmrs_tensor::{Error, Result};

use crate::request::{Request, check_ids};
use crate::scheduler::Limits;
use crate::text::Detokenizer;

/// A model that writes.
pub struct Generator {
    /// Logits of selected rows: `ids` and so on, for an encoder-decoder `memory` too, to `[selected, vocabulary]`.
    pub logits: Plan,
    /// The encoder, if there is one, and the token with which the decoder starts.
    pub encoder: Option<Encoder>,
    /// Ids are below it.
    pub vocabulary: usize,
    /// The most tokens a sequence may have.
    pub context: Option<usize>,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Writes the text; without it completions have tokens only.
    pub detokenizer: Option<Arc<dyn Detokenizer>>,
    /// The model that it only adds to, so that its rows may be computed with that one's.
    pub variant: Option<Variant>,
    /// Plans for rows of several such variants.
    pub variants: Variants,
}

/// What a model adds to another.
pub struct Variant {
    /// The other.
    pub base: Arc<Generator>,
    /// What it adds.
    pub updates: Updates,
}

impl Variant {
    /// That of `logits` to `base`; `None` if it differs in more than low-rank updates.
    pub fn between(base: &Arc<Generator>, logits: &Plan, kv: KvType) -> Option<Self> {
        let alike = base.encoder.is_none() && base.variant.is_none() && base.kv == kv;
        let updates = alike.then(|| Updates::between(&base.logits, logits))??;
        let base = Arc::clone(base);
        Some(Self { base, updates })
    }
}

/// The plans of a model that let rows add something, by where they may.
#[derive(Default)]
pub struct Variants(Mutex<VecDeque<(BTreeSet<Site>, Arc<Plan>)>>);

/// Variants that are trained alike share a plan, so that there are few.
const PLANS: usize = 8;

/// The first half of an encoder-decoder.
pub struct Encoder {
    /// `ids` to states `[tokens, width]`.
    pub plan: Plan,
    /// The width of the states.
    pub width: usize,
    /// The token with which the decoder starts.
    pub start: u32,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Generator");
        shown
            .field("vocabulary", &self.vocabulary)
            .finish_non_exhaustive()
    }
}

impl Generator {
    /// The model that this one only adds to, or itself.
    pub(crate) fn root(self: &Arc<Self>) -> &Arc<Self> {
        self.variant.as_ref().map_or(self, |variant| &variant.base)
    }

    /// What it adds to that.
    pub(crate) fn updates(&self) -> Option<&Updates> {
        self.variant.as_ref().map(|variant| &variant.updates)
    }

    /// The plan in which rows may add what any of `variants` does.
    pub(crate) fn mixed<'a>(&self, variants: impl Iterator<Item = &'a Self>) -> Arc<Plan> {
        let updates = variants.filter_map(Self::updates);
        let sites: BTreeSet<Site> = updates.flat_map(Updates::sites).collect();
        let mut plans = self
            .variants
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = plans.iter().find(|(known, _)| sites.is_subset(known)) {
            return Arc::clone(plan);
        }
        let plan = Arc::new(self.logits.mixed(&sites));
        plans.push_front((sites, Arc::clone(&plan)));
        plans.truncate(PLANS);
        plan
    }

    /// Fails if `request` is not one that this model can answer within `limits`; else the most tokens that its decoder may come
    /// to: to the end of the context, or of the cache.
    ///
    /// # Errors
    /// [`Error::Input`] naming the part of the request that is out of its range.
    pub fn check(&self, request: &Request, limits: Limits) -> Result<usize> {
        check_ids("prompt", &request.prompt, self.vocabulary, self.context)?;
        request.sampling.check(self.vocabulary)?;
        if request.max_tokens == 0 {
            return Err(Error::input("max_tokens", &0, "1 or more"));
        }
        if request.top_logprobs > self.vocabulary {
            let range = format!("0 to {}", self.vocabulary);
            return Err(Error::input("top_logprobs", &request.top_logprobs, range));
        }
        if let Some(search) = &request.search {
            search.check(request, self.vocabulary)?;
        }
        if let Some(contrast) = &request.contrast {
            contrast.check(limits.sequences.min(self.vocabulary))?;
            let apart = [
                ("beams", request.search.is_some()),
                ("guidance", request.guidance.is_some()),
                ("grammar", request.grammar.is_some()),
                ("temperature", request.sampling.temperature != 0.0),
                ("draft_tokens", request.drafts != 0),
                ("an encoder", self.encoder.is_some()),
            ];
            if let Some((name, _)) = apart.iter().find(|(_, given)| *given) {
                return Err(Error::input(*name, &"given", "none with penalty_alpha"));
            }
        }
        if let Some(guidance) = &request.guidance {
            let other = "negative prompt";
            check_ids(other, &guidance.negative, self.vocabulary, self.context)?;
            if !(0.0..=100.0).contains(&guidance.scale) {
                return Err(Error::input("guidance", &guidance.scale, "0 to 100"));
            }
            if self.encoder.is_some() {
                let expected = "none with an encoder-decoder";
                return Err(Error::input("guidance", &guidance.scale, expected));
            }
        }
        if let Some(drafter) = &request.drafter
            && (drafter.vocabulary != self.vocabulary || drafter.encoder.is_some())
        {
            let expected = format!("a decoder of {} tokens, like the model's", self.vocabulary);
            let vocabulary = drafter.vocabulary;
            return Err(Error::input(
                "vocabulary of the draft model",
                &vocabulary,
                expected,
            ));
        }
        if self.detokenizer.is_none() && !request.stop.is_empty() {
            return Err(Error::input(
                "stop",
                &"given",
                "a tokenizer to find it with, or no stop string",
            ));
        }
        let beams = request.lines();
        if beams > limits.sequences {
            let expected = format!("at most the engine's sequences, {}", limits.sequences);
            return Err(Error::input("beams", &beams, expected));
        }
        let (prompt, room) = (request.prompt.len(), limits.cached_tokens / beams);
        if prompt >= room {
            let expected = format!("fewer than the cache has room for, {room} tokens");
            return Err(Error::input("length of prompt", &prompt, expected));
        }
        // The last token is not cached.
        let room = room + 1 - self.encoder.as_ref().map_or(0, |_| prompt);
        let most = self.context.map_or(room, |context| context.min(room));
        // A negative prompt grows by the same tokens.
        let other = request.guidance.as_ref().map_or(0, |g| g.negative.len());
        Ok(most.saturating_sub(other.saturating_sub(prompt)))
    }

    /// Memory that the keys and values of one token take, in bytes: of a cache that is full to the end of its blocks.
    pub fn bytes_per_token(&self) -> usize {
        let program = self.logits.program();
        let cached = program.nodes.iter().filter_map(|node| match &node.op {
            Op::Attention(attention) if attention.cache.is_some() => {
                let keys = node.inputs.get(1).copied().flatten()?;
                match program.meta(keys).dims.last() {
                    Some(Dim::Known(width)) => Some((attention.kv_heads, *width)),
                    _ => None,
                }
            }
            _ => None,
        });
        let bytes = |(heads, width): (usize, usize)| match self.kv {
            KvType::Exact => 2 * 4 * width,
            KvType::Bf16 => 2 * 2 * width,
            KvType::Int8 => 2 * (width + 4 * heads),
        };
        cached.map(bytes).sum()
    }
}
