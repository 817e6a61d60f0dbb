//! Unigram language model: the most likely way to write a word as tokens (Kudo, 2018), by the Viterbi algorithm.

use super::{
    ByteTokens, Scratch, Token,
    trie::Trie,
    viterbi::{Search, backwards},
};
use crate::{
    error::{Error, Result},
    vocabulary::Vocabulary,
};

/// How much less likely than the rarest token an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Longer tokens would make the search quadratic in the text.
const MAX_TOKEN: usize = 1024;

pub(crate) struct Unigram {
    vocabulary: Vocabulary,
    trie: Trie,
    /// log p of each id.
    scores: Vec<f64>,
    unknown: Option<u32>,
    unknown_score: f64,
    bytes: Option<ByteTokens>,
}

impl Unigram {
    pub(crate) fn new(
        place: &str,
        tokens: &[(impl AsRef<str>, f64)],
        unknown: Option<usize>,
        byte_fallback: bool,
    ) -> Result<Self> {
        if let Some(unknown) = unknown.filter(|&unknown| unknown >= tokens.len()) {
            return Err(Error::invalid(
                place,
                format!("unk_id {unknown} is outside the {} tokens", tokens.len()),
            ));
        }
        if let Some(token) = tokens
            .iter()
            .map(|(token, _)| token.as_ref())
            .find(|token| token.len() > MAX_TOKEN)
        {
            return Err(Error::invalid(
                place,
                format!("a token has {} bytes, more than {MAX_TOKEN}", token.len()),
            ));
        }
        let vocabulary =
            Vocabulary::from_list(place, tokens.iter().map(|(token, _)| token.as_ref()))?;
        let lowest = tokens
            .iter()
            .map(|(_, score)| *score)
            .fold(f64::INFINITY, f64::min);
        Ok(Self {
            trie: Trie::of(&vocabulary),
            scores: tokens.iter().map(|(_, score)| *score).collect(),
            unknown: unknown.map(|unknown| unknown as u32),
            unknown_score: lowest - UNKNOWN_PENALTY,
            bytes: byte_fallback.then(|| ByteTokens::of(&vocabulary)),
            vocabulary,
        })
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokens and log p, by id.
    pub(crate) fn scored(&self) -> impl Iterator<Item = (&str, f64)> {
        let token = |id| self.vocabulary.token(id).unwrap_or("");
        self.scores
            .iter()
            .zip(0..)
            .map(move |(score, id)| (token(id), *score))
    }

    pub(crate) fn spells_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    pub(crate) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    pub(super) fn tokenize(&self, word: &str, scratch: &mut Scratch) -> Result<()> {
        let Scratch {
            tokens,
            unigram: best,
            ..
        } = scratch;
        let search = Search {
            trie: &self.trie,
            scores: &self.scores,
            never: f64::NEG_INFINITY,
            unknown: self.unknown,
            unknown_score: self.unknown_score,
        };
        search.run(word, best).map_err(|c| {
            Error::Text(format!(
                "{c:?} is not in the vocabulary, and there is no unknown token"
            ))
        })?;
        // Neighbouring unknown characters become one.
        for (start, end, id) in backwards(best) {
            let literal = Some(id) == self.unknown;
            match tokens.last_mut() {
                Some(last) if literal && last.literal => last.start = start,
                _ => tokens.push(Token {
                    id,
                    start,
                    end,
                    literal,
                }),
            }
        }
        tokens.reverse();
        self.resolve(word, tokens);
        Ok(())
    }

    /// Unknown stretches are looked up as a whole, and spelled in bytes where the model can.
    fn resolve(&self, word: &str, tokens: &mut Vec<Token>) {
        if !tokens.iter().any(|token| token.literal) {
            return;
        }
        let found = std::mem::take(tokens);
        for mut token in found {
            let text = word.get(token.start..token.end).unwrap_or("");
            if token.literal {
                if let Some(id) = self.vocabulary.id(text) {
                    (token.id, token.literal) = (id, false);
                } else if let Some(ids) = self.bytes.as_ref().and_then(|bytes| bytes.spell(text)) {
                    tokens.extend(ids.map(|id| Token {
                        id,
                        literal: false,
                        ..token
                    }));
                    continue;
                }
            }
            tokens.push(token);
        }
    }
}
