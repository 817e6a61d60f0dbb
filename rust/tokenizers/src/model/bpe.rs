//! Byte-pair encoding: the characters of a word are merged pair by pair, best rank first (Sennrich et al., 2016).

use hashbrown::HashMap;

use super::{
    ByteTokens, Token,
    merge::{Merger, NEVER, Symbol},
};
use crate::{
    byte_level,
    error::{Error, Result},
    vocabulary::Vocabulary,
};

/// What a BPE model does beside merging.
#[derive(Default)]
pub(crate) struct BpeOptions {
    /// Stands for characters that the vocabulary lacks.
    pub(crate) unknown: Option<String>,
    /// Before every token of a word but the first.
    pub(crate) prefix: String,
    /// After the last token of a word.
    pub(crate) suffix: String,
    /// Neighbouring unknown characters are one token.
    pub(crate) fuse_unknown: bool,
    /// Unknown characters are spelled in bytes if the vocabulary has those.
    pub(crate) byte_fallback: bool,
    /// A word that is a token is not merged but taken.
    pub(crate) ignore_merges: bool,
    /// The share of mergers that the model's training left out. Encoding leaves out what its caller says.
    pub(crate) dropout: Option<f64>,
}

/// By `pair_key`: the rank, and what the pair becomes.
type Merges = HashMap<u64, Merger>;

/// A pair as one number, which hashes in half the time of two.
fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

pub(crate) struct Bpe {
    vocabulary: Vocabulary,
    merges: Merges,
    /// The ids of the characters below U+0200, which spell all bytes.
    chars: Box<[Option<u32>; 0x200]>,
    options: BpeOptions,
    unknown: Option<u32>,
    bytes: Option<ByteTokens>,
    /// The ids of the spelled bytes, if all are in the vocabulary and every word can be written in them.
    spelled: Option<Spelled>,
}

/// Words in bytes.
struct Spelled {
    ids: Box<[u32; 256]>,
    /// What each two bytes become, the first the higher part of the place: most look-ups are of these.
    mergers: Box<[Merger]>,
}

impl Spelled {
    fn spell(&self, word: &str, symbols: &mut Vec<Symbol>) {
        symbols.extend(word.bytes().map(|byte| Symbol {
            id: self.ids.get(byte as usize).copied().unwrap_or(0),
            len: 1,
        }));
    }
}

impl Bpe {
    /// A model whose merges are listed, best first.
    pub(crate) fn new<'a>(
        place: &str,
        vocabulary: Vocabulary,
        merges: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        options: BpeOptions,
    ) -> Result<Self> {
        let mut table = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        let mut before = 0;
        for (rank, (left, right)) in merges.enumerate() {
            let place = || format!("{place}[{rank}]");
            let id = |token: &str| {
                vocabulary.id(token).ok_or_else(|| {
                    Error::invalid(
                        place(),
                        format!("{token:?} of merge {left:?} {right:?} is not in the vocabulary"),
                    )
                })
            };
            let rest = right.get(options.prefix.len()..).ok_or_else(|| {
                Error::invalid(
                    place(),
                    format!("{right:?} is shorter than the prefix {:?}", options.prefix),
                )
            })?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(rest);
            // In most files tokens are numbered in the order of their mergers.
            let expected = vocabulary
                .token(before + 1)
                .filter(|_| vocabulary.is_unique());
            let merged = if expected == Some(&joined) {
                before + 1
            } else {
                id(&joined)?
            };
            before = merged;
            table.insert(pair_key(id(left)?, id(right)?), (rank as u32, merged));
        }
        Ok(Self::build(vocabulary, table, options))
    }

    /// A model whose tokens have scores, as `SentencePiece` makes them: the pair whose merger scores best goes first, and
    /// tokens with a score of -∞ are never made.
    pub(crate) fn from_scores(vocabulary: Vocabulary, scores: &[f32], options: BpeOptions) -> Self {
        let score = |id: u32| {
            scores
                .get(id as usize)
                .copied()
                .unwrap_or(f32::NEG_INFINITY)
        };
        let mut order: Vec<u32> = vocabulary
            .iter()
            .map(|(id, _)| id)
            .filter(|id| score(*id) > f32::NEG_INFINITY)
            .collect();
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        let mut table = HashMap::new();
        let mut rank = 0;
        let mut best = f32::INFINITY;
        for id in order {
            if score(id) < best {
                best = score(id);
                rank += 1;
            }
            let token = vocabulary.token(id).unwrap_or("");
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(left), Some(right)) = (vocabulary.id(left), vocabulary.id(right)) {
                    table.entry(pair_key(left, right)).or_insert((rank, id));
                }
            }
        }
        Self::build(vocabulary, table, options)
    }

    fn build(vocabulary: Vocabulary, merges: Merges, options: BpeOptions) -> Self {
        let mut chars = Box::new([None; 0x200]);
        for (c, id) in ('\0'..).zip(chars.iter_mut()) {
            *id = vocabulary.id(c.encode_utf8(&mut [0; 4]));
        }
        let mut spelled = Box::new([0; 256]);
        let mut plain = options.prefix.is_empty() && options.suffix.is_empty();
        for (byte, slot) in (0..=u8::MAX).zip(spelled.iter_mut()) {
            let id = chars.get(byte_level::char_of(byte) as usize);
            match id.copied().flatten() {
                Some(id) => *slot = id,
                None => plain = false,
            }
        }
        Self {
            spelled: plain.then(|| Spelled {
                mergers: byte_mergers(&spelled, &merges),
                ids: spelled,
            }),
            merges,
            chars,
            unknown: options
                .unknown
                .as_deref()
                .and_then(|token| vocabulary.id(token)),
            bytes: options.byte_fallback.then(|| ByteTokens::of(&vocabulary)),
            vocabulary,
            options,
        }
    }

    pub(crate) fn options(&self) -> &BpeOptions {
        &self.options
    }

    /// All pairs that merge, best first.
    pub(crate) fn merges(&self) -> Vec<(u32, u32)> {
        let mut merges: Vec<_> = self
            .merges
            .iter()
            .map(|(&pair, &(rank, id))| (rank, id, pair))
            .collect();
        merges.sort_unstable();
        let pair = |(.., pair): (u32, u32, u64)| ((pair >> 32) as u32, pair as u32);
        merges.into_iter().map(pair).collect()
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    pub(super) fn tokenize(&self, word: &str, scratch: &mut super::Scratch) -> Result<()> {
        let super::Scratch {
            tokens, bpe, key, ..
        } = scratch;
        if self.options.ignore_merges
            && let Some(id) = self.vocabulary.id(word)
        {
            tokens.push(Token {
                id,
                start: 0,
                end: word.len(),
                literal: false,
            });
            return Ok(());
        }
        bpe.symbols.clear();
        self.spell(word, &mut bpe.symbols, key)?;
        let pair = |_, left, right| self.pair(left, right).unwrap_or(NEVER);
        self.merge(bpe, pair, tokens);
        Ok(())
    }

    /// Whether the tokens of a word are those of its parts, wherever no merger spans two of them.
    pub(crate) fn takes_parts(&self) -> bool {
        let BpeOptions {
            prefix,
            suffix,
            ignore_merges,
            ..
        } = &self.options;
        prefix.is_empty() && suffix.is_empty() && !ignore_merges
    }

    pub(crate) fn takes_bytes(&self) -> bool {
        self.spelled.is_some()
    }

    pub(super) fn tokenize_bytes(&self, word: &str, scratch: &mut super::Scratch) {
        let super::Scratch {
            tokens, bpe, key, ..
        } = scratch;
        if self.options.ignore_merges {
            key.clear();
            key.extend(word.bytes().map(byte_level::char_of));
            if let Some(id) = self.vocabulary.id(key) {
                tokens.push(Token {
                    id,
                    start: 0,
                    end: word.len(),
                    literal: false,
                });
                return;
            }
        }
        bpe.symbols.clear();
        let Some(spelled) = &self.spelled else {
            return;
        };
        spelled.spell(word, &mut bpe.symbols);
        let bytes = word.as_bytes();
        let pair = |at: usize, _, _| {
            let two = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
            let place = two.map_or(0, |two| u16::from_be_bytes(*two) as usize);
            spelled.mergers.get(place).copied().unwrap_or(NEVER)
        };
        self.merge(bpe, pair, tokens);
    }

    /// As `tokenize`, or as `tokenize_bytes` of a word in `bytes`, but what `drops` says is left out (`merge_dropping`). A
    /// word that is a token is merged like all others.
    pub(crate) fn tokenize_dropping(
        &self,
        word: &str,
        bytes: bool,
        drops: impl FnMut() -> bool,
        scratch: &mut super::Scratch,
    ) -> Result<()> {
        let super::Scratch {
            tokens, bpe, key, ..
        } = scratch;
        tokens.clear();
        bpe.symbols.clear();
        match &self.spelled {
            Some(spelled) if bytes => spelled.spell(word, &mut bpe.symbols),
            _ => self.spell(word, &mut bpe.symbols, key)?,
        }
        bpe.merge_dropping(|left, right| self.pair(left, right), drops);
        tokens.extend(bpe.tokens());
        Ok(())
    }

    fn pair(&self, left: u32, right: u32) -> Option<Merger> {
        self.merges.get(&pair_key(left, right)).copied()
    }

    fn merge(
        &self,
        scratch: &mut super::merge::Scratch,
        first: impl Fn(usize, u32, u32) -> Merger,
        tokens: &mut Vec<Token>,
    ) {
        scratch.merge(first, |left, right| self.pair(left, right));
        tokens.extend(scratch.tokens());
    }

    /// The ids that merging starts from.
    fn spell(&self, word: &str, symbols: &mut Vec<Symbol>, key: &mut String) -> Result<()> {
        let mut unknown: Option<(u32, usize)> = None;
        for (at, c) in word.char_indices() {
            let len = c.len_utf8();
            let prefix = if at > 0 {
                self.options.prefix.as_str()
            } else {
                ""
            };
            let suffix = if at + len == word.len() {
                self.options.suffix.as_str()
            } else {
                ""
            };
            let plain = prefix.is_empty() && suffix.is_empty();
            let short = if plain {
                self.chars.get(c as usize)
            } else {
                None
            };
            let id = if let Some(id) = short {
                *id
            } else {
                key.clear();
                key.push_str(prefix);
                key.push(c);
                key.push_str(suffix);
                self.vocabulary.id(key)
            };
            if let Some(id) = id {
                if let Some((id, len)) = unknown.take() {
                    push(symbols, id, len);
                }
                push(symbols, id, len);
                continue;
            }
            if short.is_some() {
                key.clear();
                key.push(c);
            }
            if let Some(ids) = self.bytes.as_ref().and_then(|bytes| bytes.spell(key)) {
                ids.for_each(|id| push(symbols, id, 1));
                continue;
            }
            let Some(token) = &self.options.unknown else {
                continue;
            };
            let id = self.unknown.ok_or_else(|| {
                Error::Text(format!(
                    "{c:?} is not in the vocabulary, and neither is the unknown token {token:?}"
                ))
            })?;
            unknown = match unknown {
                Some((id, before)) if self.options.fuse_unknown => Some((id, before + len)),
                Some((before, before_len)) => {
                    push(symbols, before, before_len);
                    Some((id, len))
                }
                None => Some((id, len)),
            };
        }
        if let Some((id, len)) = unknown {
            push(symbols, id, len);
        }
        Ok(())
    }
}

fn byte_mergers(ids: &[u32; 256], merges: &Merges) -> Box<[Merger]> {
    let mut mergers = vec![NEVER; 1 << 16];
    for (place, slot) in mergers.iter_mut().enumerate() {
        if let (Some(left), Some(right)) = (ids.get(place >> 8), ids.get(place & 255))
            && let Some(merger) = merges.get(&pair_key(*left, *right))
        {
            *slot = *merger;
        }
    }
    mergers.into()
}

fn push(symbols: &mut Vec<Symbol>, id: u32, len: usize) {
    symbols.push(Symbol {
        id,
        len: len as u32,
    });
}
