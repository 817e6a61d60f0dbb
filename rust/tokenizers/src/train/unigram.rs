//! Training of a unigram model (Kudo, 2018): many pieces, whose probabilities expectation maximisation finds, and of which
//! those go, round by round, whose loss costs the least likelihood.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::{
    TrainOptions,
    lattice::{Lattice, Pieces},
    seeds::seeds,
};
use crate::{
    error::{Error, Result},
    parallel::in_parallel,
};

/// Pieces at the beginning.
const SEEDS: usize = 1_000_000;
/// The part of the pieces that a round keeps.
const KEEP: f64 = 0.75;
/// How often probabilities are estimated in a round.
const STEPS: usize = 2;
/// Pieces that are expected fewer times in all texts are not used.
const FEWEST: f64 = 0.5;
/// Longer words are learnt from in parts.
const LONGEST_WORD: usize = 1024;
/// Of all characters, the part that must be pieces where others can be spelled in bytes.
const COVERAGE: f64 = 0.9995;
/// Expected counts are summed as multiples of this, so that no order of summing is another sum.
const GRAIN: f64 = 1.0 / (1 << 20) as f64;

/// `<0x00>` to `<0xFF>`.
fn byte_pieces() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"))
}

/// The tokens of the model and log p of each: the special ones, the bytes if they are wanted, the pieces, likeliest first.
pub(super) fn train<E: From<Error>>(
    words: &[(String, u64)],
    options: &TrainOptions,
    byte_fallback: bool,
    mut progress: impl FnMut(usize, usize) -> std::result::Result<(), E>,
) -> std::result::Result<Vec<(String, f64)>, E> {
    let mut given: Vec<String> = options.special_tokens.clone();
    if byte_fallback {
        given.extend(byte_pieces());
    }
    // With these a text that has `<0x41>` written in it is never taken for the token of a byte.
    let always = if byte_fallback {
        "<0x123456789ABCDEF>"
    } else {
        ""
    };
    let alphabet = alphabet(words, always, if byte_fallback { COVERAGE } else { 1.0 });
    let least = given.len() + alphabet.len();
    if least > options.vocab_size {
        let problem = format!(
            "vocab_size is {}, but the special tokens and the alphabet are {least} tokens already",
            options.vocab_size
        );
        return Err(E::from(Error::Input(problem)));
    }
    let wanted = options.vocab_size - given.len();
    let words = parts(words, &alphabet);
    let mut pieces = first(&words, &alphabet, options.min_frequency.max(2)).map_err(E::from)?;

    let rounds = (pieces.texts.len() as f64 / wanted.max(1) as f64).ln() / -KEEP.ln();
    let rounds = rounds.max(0.0).ceil() as usize + 1;
    let mut round = 0;
    loop {
        for _ in 0..STEPS {
            let expected = expected(&words, &pieces).map_err(E::from)?;
            maximise(&mut pieces, &expected, alphabet.len());
            progress(round.min(rounds - 1), rounds)?;
        }
        if pieces.texts.len() <= wanted {
            break;
        }
        let size = (pieces.texts.len() as f64 * KEEP) as usize;
        pieces = prune(&words, pieces, alphabet.len(), size.max(wanted)).map_err(E::from)?;
        round += 1;
    }
    progress(rounds, rounds)?;

    let mut scored: Vec<(String, f64)> = pieces.texts.into_iter().zip(pieces.scores).collect();
    scored.retain(|(piece, score)| score.is_finite() && !given.contains(piece));
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let lowest = scored.last().map_or(0.0, |piece| piece.1);
    let special = options.special_tokens.len();
    let given = given.into_iter().enumerate().map(|(at, token)| {
        // Less likely than the six characters it is written in.
        let score = if at < special {
            0.0
        } else {
            lowest * 6.0 - 1.0
        };
        (token, score)
    });
    Ok(given.chain(scored).collect())
}

/// Those of `always`, and the most frequent characters, so many that they are the given part of the text.
fn alphabet(words: &[(String, u64)], always: &str, part: f64) -> Vec<char> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        for c in word.chars() {
            *counts.entry(c).or_insert(0) += count;
        }
    }
    let all = counts.values().sum::<u64>() as f64;
    let mut sorted: Vec<(char, u64)> = counts.into_iter().collect();
    sorted.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut seen = 0;
    let needed = sorted.into_iter().take_while(|(_, count)| {
        let more = (seen as f64) < all * part;
        seen += count;
        more
    });
    let known: BTreeSet<char> = always.chars().chain(needed.map(|(c, _)| c)).collect();
    known.into_iter().collect()
}

/// The words cut where a character is none of the alphabet, and where they are too long.
fn parts(words: &[(String, u64)], alphabet: &[char]) -> Vec<(String, u64)> {
    let mut all = Vec::with_capacity(words.len());
    for (word, count) in words {
        for run in word.split(|c| alphabet.binary_search(&c).is_err()) {
            let mut rest = run;
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.floor_char_boundary(LONGEST_WORD));
                all.push((part.to_owned(), *count));
                rest = after;
            }
        }
    }
    all
}

/// The alphabet and the stretches of the words; each as probable as the part of the text it covers.
fn first(words: &[(String, u64)], alphabet: &[char], least: u64) -> Result<Pieces> {
    let mut counts: HashMap<char, u64> = alphabet.iter().map(|c| (*c, 0)).collect();
    for (word, count) in words {
        for c in word.chars() {
            counts.entry(c).and_modify(|sum| *sum += count);
        }
    }
    let single = alphabet
        .iter()
        .map(|c| (c.to_string(), counts.get(c).copied().unwrap_or(0).max(1)));
    let longer = seeds(words, least, SEEDS)?;
    let cover = |(piece, count): (String, u64)| {
        let length = piece.chars().count() as f64;
        (piece, length * count as f64)
    };
    let (texts, covers): (Vec<String>, Vec<f64>) = single.chain(longer).map(cover).unzip();
    let all = covers.iter().sum::<f64>().ln();
    let scores = covers.iter().map(|cover| cover.ln() - all).collect();
    Ok(Pieces::new(texts, scores))
}

/// A sum for each piece over all words, in parallel; `add` gets a word, how often it is there, and the sums.
fn sums(
    words: &[(String, u64)],
    pieces: &Pieces,
    add: impl Fn(&mut Lattice, &str, u64, &mut [u64]) + Sync,
) -> Result<Vec<u64>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let groups: Vec<_> = words.chunks(words.len().div_ceil(threads).max(1)).collect();
    let bytes = words.iter().map(|(word, _)| word.len()).sum();
    let tables = in_parallel(&groups, bytes, |_, group| {
        let mut table = vec![0; pieces.texts.len()];
        let mut lattice = Lattice::default();
        for (word, count) in *group {
            lattice.fill(word, pieces, false);
            add(&mut lattice, word, *count, &mut table);
        }
        Ok(table)
    })?;
    let mut all = vec![0u64; pieces.texts.len()];
    for table in tables {
        let slots = all.iter_mut().zip(table);
        slots.for_each(|(sum, part)| *sum = sum.saturating_add(part));
    }
    Ok(all)
}

/// How often each piece is expected in the texts, over all ways to write them.
fn expected(words: &[(String, u64)], pieces: &Pieces) -> Result<Vec<f64>> {
    let sums = sums(words, pieces, |lattice, word, count, table| {
        lattice.posteriors(word, |id, probability| {
            if let Some(sum) = table.get_mut(id as usize) {
                *sum = sum.saturating_add((probability * count as f64 / GRAIN).round() as u64);
            }
        });
    })?;
    Ok(sums.into_iter().map(|sum| sum as f64 * GRAIN).collect())
}

/// log p = ψ(expected) - ψ(Σ expected): the mean under a Dirichlet prior, which is hard on rare pieces. The first
/// `alphabet` pieces are never given up.
fn maximise(pieces: &mut Pieces, expected: &[f64], alphabet: usize) {
    let counted = |(id, expected): (usize, &f64)| {
        let kept = id < alphabet || *expected >= FEWEST;
        if kept { expected.max(FEWEST) } else { 0.0 }
    };
    let counts: Vec<f64> = expected.iter().enumerate().map(counted).collect();
    let all = digamma(counts.iter().sum());
    for (score, count) in pieces.scores.iter_mut().zip(counts) {
        *score = if count > 0.0 {
            digamma(count) - all
        } else {
            f64::NEG_INFINITY
        };
    }
}

/// Keeps the alphabet and, up to `size` in all, the pieces that are missed the most: what the likelihood of the texts
/// would lose if the piece were written as others, with the counts of the most probable ways to write the words.
fn prune(
    words: &[(String, u64)],
    mut pieces: Pieces,
    alphabet: usize,
    size: usize,
) -> Result<Pieces> {
    let counts = sums(words, &pieces, |lattice, word, count, table| {
        for id in lattice.best(word) {
            if let Some(sum) = table.get_mut(*id as usize) {
                *sum += count;
            }
        }
    })?;
    let all = counts.iter().sum::<u64>() as f64;
    let count = |id: u32| counts.get(id as usize).map_or(0.0, |count| *count as f64);
    let used: Vec<u32> = (alphabet as u32..pieces.texts.len() as u32)
        .filter(|id| count(*id) > 0.0)
        .collect();
    let groups: Vec<&[u32]> = used.chunks(1 << 12).collect();
    let losses = in_parallel(&groups, used.len() * 8, |_, group| {
        let mut lattice = Lattice::default();
        let loss = |id: &u32| {
            let text = pieces.texts.get(*id as usize).map_or("", String::as_str);
            lattice.fill(text, &pieces, true);
            let others = lattice.best(text);
            let own = count(*id);
            let total = (all + own * (others.len() as f64 - 1.0)).ln();
            let alone = own.ln() - all.ln();
            let written: f64 = others
                .iter()
                .map(|id| (count(*id) + own).ln() - total)
                .sum();
            (own * (alone - written), *id)
        };
        Ok(group.iter().map(loss).collect::<Vec<_>>())
    })?;
    let mut losses: Vec<(f64, u32)> = losses.into_iter().flatten().collect();
    losses.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    losses.truncate(size.saturating_sub(alphabet));
    let mut kept: Vec<u32> = losses.into_iter().map(|(_, id)| id).collect();
    kept.sort_unstable();
    let ids = (0..alphabet as u32).chain(kept);
    let (texts, scores) = ids
        .map(|id| {
            let text = pieces.texts.get_mut(id as usize);
            (
                text.map(std::mem::take).unwrap_or_default(),
                pieces.score(id),
            )
        })
        .unzip();
    Ok(Pieces::new(texts, scores))
}

/// ψ(x) for x > 0: by ψ(x) = ψ(x + 1) - 1/x up to where the asymptotic series is exact to 10⁻¹².
fn digamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 10.0 {
        sum -= 1.0 / x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series =
        square * (1.0 / 12.0 - square * (1.0 / 120.0 - square * (1.0 / 252.0 - square / 240.0)));
    sum + x.ln() - 0.5 / x - series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digamma_is_right() {
        // Known values: ψ(1) = -γ, ψ(½) = -γ - 2 ln 2, ψ(100).
        for (x, known) in [
            (1.0, -0.577_215_664_901_532_9),
            (0.5, -1.963_510_026_021_423_5),
            (100.0, 4.600_161_852_738_087),
        ] {
            assert!((digamma(x) - known).abs() < 1e-11, "{x}: {}", digamma(x));
        }
    }

    #[test]
    fn seeds_are_the_stretches_counted_one_by_one() {
        let words: Vec<(String, u64)> = [
            ("banana", 3),
            ("bandana", 1),
            ("ananas", 2),
            ("aaaa", 1),
            ("é", 9),
        ]
        .map(|(word, count)| (word.to_owned(), count))
        .into();
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for (word, count) in &words {
            let starts: Vec<usize> = word
                .char_indices()
                .map(|(at, _)| at)
                .chain([word.len()])
                .collect();
            for (at, from) in starts.iter().enumerate() {
                for to in starts.iter().skip(at + 2) {
                    *counts.entry(&word[*from..*to]).or_insert(0) += count;
                }
            }
        }
        // Those that are always followed by the same character are in a longer one.
        let longest = |text: &str| {
            let is_longer = |(other, count): (&&str, &u64)| {
                other.len() > text.len() && other.starts_with(text) && *count == counts[text]
            };
            !counts.iter().any(is_longer)
        };
        let mut want: Vec<(String, u64)> = counts
            .iter()
            .filter(|(text, count)| **count >= 2 && longest(text))
            .map(|(text, count)| ((*text).to_owned(), *count))
            .collect();
        let mut got = seeds(&words, 2, 1000).unwrap();
        got.sort();
        want.sort();
        assert_eq!(got, want);
    }
}
