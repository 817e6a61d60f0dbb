//! Other texts that are read beside a request's own: by a draft model, or of a negative prompt.

use lmrs_kernels::attention::KvType;
use lmrs_program::Spares;
use lmrs_tensor::{Error, Result, Tensor};

use crate::batch::Packing;
use crate::cache::{BatchCache, SequenceCache};
use crate::generator::Generator;

/// What was read of one.
pub struct Side {
    kind: KvType,
    cache: SequenceCache,
    seen: Vec<u32>,
}

impl Side {
    /// Nothing yet; what comes is kept as `kv`.
    pub fn new(kv: KvType) -> Self {
        Self {
            kind: kv,
            cache: SequenceCache::new(kv),
            seen: Vec::new(),
        }
    }

    /// How keys and values are kept.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Goes back to what it has in common with `tokens`, their last one left out; how much that is.
    fn agree(&mut self, tokens: &[u32]) -> usize {
        let pairs = self
            .seen
            .iter()
            .zip(tokens.split_last().map_or(&[][..], |(_, t)| t));
        let common = pairs.take_while(|(a, b)| a == b).count();
        self.seen.truncate(common);
        self.cache.truncate(common);
        common
    }
}

/// A side and the tokens of its text, those it has read already included.
pub type Text<'a> = (&'a mut Side, Vec<u32>);

/// Reads each text to its end, in batches of at most `most` rows or one text; the logits after each, a row a text.
pub fn read(
    generator: &Generator,
    mut texts: Vec<Text>,
    most: usize,
    spares: &Spares,
) -> Result<Tensor> {
    let lost = || Error::Internal("a text beside a request is not there".into());
    let mut values = Vec::new();
    let mut at = 0;
    while at < texts.len() {
        let (mut packing, mut caches, mut rows) = (Packing::new(), Vec::new(), 0);
        for (side, tokens) in texts.iter_mut().skip(at) {
            let done = side.agree(tokens);
            let left = tokens.len() - done;
            if rows > 0 && rows + left > most {
                break;
            }
            // A long text alone is read in chunks, all but the last without logits.
            let next = done + left.min(most.saturating_sub(rows).max(1));
            packing.push(tokens.get(done..next).ok_or_else(lost)?, done);
            side.seen
                .extend_from_slice(tokens.get(done..next).ok_or_else(lost)?);
            rows += next - done;
            caches.push(&mut side.cache);
            if next < tokens.len() {
                break;
            }
            packing.select_last(1);
            at += 1;
        }
        let outputs = generator.logits.run(
            &packing.bindings(None)?,
            Some(&mut BatchCache(caches)),
            spares,
        )?;
        let logits = outputs.into_iter().next().ok_or_else(lost)?;
        values.extend_from_slice(logits.values::<f32>()?);
    }
    let width = values.len() / texts.len().max(1);
    Tensor::new(values, [texts.len(), width])
}
