//! Which pairs to merge: always the most frequent one, and of equals the one whose tokens came first.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeSet, BinaryHeap},
};

use hashbrown::HashMap;

use super::{Algorithm, CONTINUING, TrainOptions};
use crate::{
    byte_level,
    error::{Error, Result},
};

type Pair = (u32, u32);

/// Tokens with their ids, and the pairs that were merged, in order.
pub(super) struct Trained {
    pub(super) tokens: Vec<(String, u32)>,
    pub(super) merges: Vec<Pair>,
}

/// A pair, how often it was there when it was put in the queue, and in which words.
struct Candidate {
    count: i64,
    pair: Pair,
    words: Vec<u32>,
}

impl Candidate {
    fn key(&self) -> (i64, Reverse<Pair>) {
        (self.count, Reverse(self.pair))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The tokens found so far.
struct Tokens {
    ids: HashMap<String, u32>,
    tokens: Vec<(String, u32)>,
}

impl Tokens {
    /// The id of a token, which is new if it is not there.
    fn id(&mut self, token: &str) -> u32 {
        if let Some(id) = self.ids.get(token) {
            return *id;
        }
        let id = self.tokens.len() as u32;
        self.tokens.push((token.to_owned(), id));
        self.ids.insert(token.to_owned(), id);
        id
    }

    fn text(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("", |(token, _)| token)
    }
}

/// All words, one behind the other; a word shrinks where it lies.
struct Corpus {
    symbols: Vec<u32>,
    /// Where each word begins, how many symbols it has, and how often it is there.
    words: Vec<(u32, u32, i64)>,
}

/// Merges until the vocabulary is full or no pair is frequent enough. `words` are sorted.
pub(super) fn train<E: From<Error>>(
    words: &[(String, u64)],
    options: &TrainOptions,
    mut progress: impl FnMut(usize, usize) -> std::result::Result<(), E>,
) -> std::result::Result<Trained, E> {
    let prefix = match options.algorithm {
        Algorithm::WordPiece => CONTINUING,
        _ => "",
    };
    let mut tokens = Tokens {
        ids: HashMap::new(),
        tokens: Vec::new(),
    };
    for token in &options.special_tokens {
        tokens.id(token);
    }
    let mut alphabet: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars()).collect();
    if options.algorithm == Algorithm::ByteBpe {
        alphabet.extend((0..=u8::MAX).map(byte_level::char_of));
    }
    for c in alphabet {
        tokens.id(c.encode_utf8(&mut [0; 4]));
    }
    let mut corpus = Corpus::of(words, prefix, &mut tokens).map_err(E::from)?;
    if tokens.tokens.len() > options.vocab_size {
        let problem = format!(
            "vocab_size is {}, but the special tokens and the alphabet are {} tokens already",
            options.vocab_size,
            tokens.tokens.len()
        );
        return Err(E::from(Error::Input(problem)));
    }
    let mut counts: HashMap<Pair, i64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
    for (at, word) in (0..).zip(&corpus.words) {
        for pair in corpus.word(*word).windows(2) {
            if let &[left, right] = pair {
                *counts.entry((left, right)).or_insert(0) += word.2;
                note(&mut places, (left, right), at);
            }
        }
    }
    let mut queue = BinaryHeap::with_capacity(places.len());
    let mut merges = Vec::new();
    let mut changes = Vec::new();
    let count = |counts: &HashMap<Pair, i64>, pair: &Pair| counts.get(pair).copied().unwrap_or(0);
    loop {
        queue.extend(places.drain().filter_map(|(pair, words)| {
            let count = count(&counts, &pair);
            (count > 0).then_some(Candidate { count, pair, words })
        }));
        if tokens.tokens.len() >= options.vocab_size {
            break;
        }
        let Some(mut best) = queue.pop() else { break };
        let now = count(&counts, &best.pair);
        if best.count != now {
            best.count = now;
            if now > 0 {
                queue.push(best);
            }
            continue;
        }
        if best.count < 1 || (best.count as u64) < options.min_frequency {
            break;
        }
        let (left, right) = best.pair;
        let rest = tokens.text(right);
        let rest = rest.strip_prefix(prefix).unwrap_or(rest);
        let joined = format!("{}{rest}", tokens.text(left));
        let id = tokens.id(&joined);
        merges.push(best.pair);
        for at in best.words {
            let frequency = corpus.merge(at, best.pair, id, &mut changes);
            for (pair, change) in changes.drain(..) {
                *counts.entry(pair).or_insert(0) += change * frequency;
                if change > 0 {
                    note(&mut places, pair, at);
                }
            }
        }
        if merges.len().is_multiple_of(64) {
            progress(tokens.tokens.len(), options.vocab_size)?;
        }
    }
    progress(tokens.tokens.len(), options.vocab_size)?;
    Ok(Trained {
        tokens: tokens.tokens,
        merges,
    })
}

/// A word is noted once for a pair: all its changes come one after another.
fn note(places: &mut HashMap<Pair, Vec<u32>>, pair: Pair, word: u32) {
    let words = places.entry(pair).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

impl Corpus {
    fn of(words: &[(String, u64)], prefix: &str, tokens: &mut Tokens) -> Result<Self> {
        let mut symbols = Vec::new();
        let mut all = Vec::with_capacity(words.len());
        let mut key = String::new();
        for (word, count) in words {
            let start = symbols.len();
            for (at, c) in word.chars().enumerate() {
                key.clear();
                if at > 0 {
                    key.push_str(prefix);
                }
                key.push(c);
                symbols.push(tokens.id(&key));
            }
            let (Ok(from), Ok(len)) = (u32::try_from(start), u32::try_from(symbols.len() - start))
            else {
                return Err(Error::Input(
                    "the different words have more than 2^32 characters together".to_owned(),
                ));
            };
            all.push((from, len, i64::try_from(*count).unwrap_or(i64::MAX)));
        }
        Ok(Self {
            symbols,
            words: all,
        })
    }

    fn word(&self, (start, len, _): (u32, u32, i64)) -> &[u32] {
        let start = start as usize;
        self.symbols.get(start..start + len as usize).unwrap_or(&[])
    }

    /// Merges a pair wherever it is in a word, left to right; says which pairs are gone and which are new, and returns how
    /// often the word is there.
    fn merge(
        &mut self,
        word: u32,
        (left, right): Pair,
        id: u32,
        changes: &mut Vec<(Pair, i64)>,
    ) -> i64 {
        let Some((start, len, count)) = self.words.get_mut(word as usize) else {
            return 0;
        };
        let range = *start as usize..*start as usize + *len as usize;
        let Some(symbols) = self.symbols.get_mut(range) else {
            return 0;
        };
        let (mut read, mut kept) = (0usize, 0usize);
        while let Some(&symbol) = symbols.get(read) {
            let next = symbols.get(read + 1).copied();
            let found = symbol == left && next == Some(right);
            if found {
                if let Some(&before) = kept.checked_sub(1).and_then(|at| symbols.get(at)) {
                    changes.push(((before, left), -1));
                    changes.push(((before, id), 1));
                }
                if let Some(&after) = symbols.get(read + 2) {
                    changes.push(((right, after), -1));
                    changes.push(((id, after), 1));
                }
            }
            if let Some(place) = symbols.get_mut(kept) {
                *place = if found { id } else { symbol };
            }
            kept += 1;
            read += if found { 2 } else { 1 };
        }
        *len = kept as u32;
        *count
    }
}
