//! The unigram model as `SentencePiece` computes it (Kudo, 2018): sums are kept in single precision over the whole text,
//! so that the same of two nearly equal paths wins, and symbols of the user's choice outweigh what they are made of.

use super::{
    ByteTokens, Scratch, Token,
    trie::Trie,
    viterbi::{Search, backwards},
};
use crate::vocabulary::Vocabulary;

/// How much less likely than the rarest piece an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What a piece is to the search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Piece {
    /// log p.
    Scored(f32),
    /// Taken wherever it stands, if at all possible.
    UserDefined,
    /// Never found in a text.
    Apart,
}

pub(crate) struct SentencePiece {
    vocabulary: Vocabulary,
    trie: Trie,
    pieces: Vec<Piece>,
    /// What the search adds for each id; -∞ for what is never found.
    scores: Vec<f32>,
    unknown: u32,
    unknown_score: f32,
    bytes: Option<ByteTokens>,
}

impl SentencePiece {
    /// `pieces` has an entry for each id of `vocabulary`.
    pub(crate) fn new(
        vocabulary: Vocabulary,
        pieces: Vec<Piece>,
        unknown: u32,
        byte_fallback: bool,
    ) -> Self {
        let scored = || {
            pieces.iter().filter_map(|piece| match piece {
                Piece::Scored(score) => Some(*score),
                _ => None,
            })
        };
        let highest = scored().fold(f32::NEG_INFINITY, f32::max);
        let lowest = scored().fold(f32::INFINITY, f32::min);
        let scores = pieces
            .iter()
            .zip(0..)
            .map(|(piece, id)| match piece {
                Piece::Scored(score) => *score,
                Piece::UserDefined => {
                    let bytes = vocabulary.token(id).map_or(0, str::len);
                    (f64::from(bytes as f32 * highest) - 0.1) as f32
                }
                Piece::Apart => f32::NEG_INFINITY,
            })
            .collect();
        Self {
            trie: Trie::of(&vocabulary),
            scores,
            unknown,
            unknown_score: lowest - UNKNOWN_PENALTY,
            bytes: byte_fallback.then(|| ByteTokens::of(&vocabulary)),
            pieces,
            vocabulary,
        }
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(crate) fn unknown(&self) -> u32 {
        self.unknown
    }

    pub(crate) fn spells_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// Pieces and log p, by id; 0 for those that have none.
    pub(crate) fn scored(&self) -> impl Iterator<Item = (&str, f64)> {
        self.pieces.iter().zip(0..).map(|(piece, id)| {
            let score = match piece {
                Piece::Scored(score) => f64::from(*score),
                _ => 0.0,
            };
            (self.vocabulary.token(id).unwrap_or(""), score)
        })
    }

    pub(super) fn tokenize(&self, text: &str, scratch: &mut Scratch) {
        let Scratch {
            tokens,
            sentencepiece: best,
            ..
        } = scratch;
        let search = Search {
            trie: &self.trie,
            scores: &self.scores,
            never: f32::NEG_INFINITY,
            unknown: Some(self.unknown),
            unknown_score: self.unknown_score,
        };
        // There is an unknown piece for every character.
        let _ = search.run(text, best);
        for (start_at, end, id) in backwards(best) {
            let literal = id == self.unknown;
            let spelled = text
                .get(start_at..end)
                .filter(|_| literal)
                .and_then(|text| self.bytes.as_ref()?.spell(text).map(Iterator::collect));
            match (spelled, tokens.last_mut()) {
                (Some(ids), _) => {
                    let ids: Vec<u32> = ids;
                    tokens.extend(ids.into_iter().rev().map(|id| Token {
                        id,
                        start: start_at,
                        end,
                        literal: false,
                    }));
                }
                // Neighbouring unknown characters are one piece.
                (None, Some(last)) if literal && last.literal => last.start = start_at,
                _ => tokens.push(Token {
                    id,
                    start: start_at,
                    end,
                    literal,
                }),
            }
        }
        tokens.reverse();
    }
}
