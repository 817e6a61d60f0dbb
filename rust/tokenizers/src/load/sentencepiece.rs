//! `SentencePiece`'s `.model`: pieces with scores, and how text is normalised, in one protocol buffer.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use serde_json::{Value, json};

use super::{
    describe::{self, Description},
    sentencepiece_file::{File, Kind},
};
use crate::{
    added::AddedToken,
    error::{Error, Result},
    model::{Bpe, BpeOptions, Model, Piece, SentencePiece},
    normalize::{Charsmap, Normalizer, Rules},
    post::Special,
    split::Splitter,
    tokenizer::Tokenizer,
    vocabulary::Vocabulary,
};

const MARK: &str = "▁";

/// Which ends of every text get the model's own token; a `.model` does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// `bos_piece` before each text.
    pub bos: bool,
    /// `eos_piece` after each text.
    pub eos: bool,
}

impl Tokenizer {
    /// Reads a `.model`, and which of its pieces are `unk`, `bos`, `eos` and `pad`.
    ///
    /// Control symbols written in a text are found, as in every tokenizer; with `split_special_tokens` they are plain
    /// text, as in `SentencePiece` itself.
    pub fn from_sentencepiece(
        bytes: &[u8],
        ends: Ends,
    ) -> Result<(Self, BTreeMap<&'static str, String>)> {
        let file = File::parse(bytes)?;
        let vocabulary = file.vocabulary()?;
        let user_defined: Vec<u32> = file.ids(Kind::UserDefined).collect();
        let symbols = (!user_defined.is_empty())
            .then(|| {
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(user_defined.iter().filter_map(|id| vocabulary.token(*id)))
                    .map_err(|e| Error::invalid("pieces", e.to_string()))
            })
            .transpose()?;
        let rules = Rules {
            charsmap: (!file.charsmap.is_empty())
                .then(|| Charsmap::parse("normalizer_spec.precompiled_charsmap", file.charsmap))
                .transpose()?,
            symbols: symbols.clone(),
            prefix: file.dummy_prefix,
            as_suffix: file.whitespace_as_suffix,
            trim: file.remove_extra_whitespaces,
            escape: file.escape_whitespaces,
        };
        let model = match file.model_type {
            1 => Model::SentencePiece(file.unigram(vocabulary)),
            2 => Model::Bpe(file.bpe(vocabulary)?),
            other => {
                let name = match other {
                    3 => "WORD".to_owned(),
                    4 => "CHAR".to_owned(),
                    other => other.to_string(),
                };
                return Err(Error::Unsupported {
                    place: "trainer_spec.model_type".to_owned(),
                    name,
                    supported: "UNIGRAM, BPE".to_owned(),
                });
            }
        };
        let added: Vec<_> = file.added().collect();
        let description = file.description(ends)?;
        let mut tokenizer = Self::describe(model, "pieces", added.into_iter(), description)?;
        // The description says it in the terms of another library; these are the model's own.
        tokenizer.normalizer = Some(Normalizer::SentencePiece(Box::new(rules)));
        tokenizer.splitter = match (&tokenizer.tokens.model, symbols) {
            (Model::Bpe(_), Some(automaton)) => Some(Splitter::Symbols {
                automaton,
                ids: user_defined,
            }),
            _ => None,
        };
        let roles = file.roles.iter();
        Ok((
            tokenizer,
            roles
                .map(|(role, piece)| (*role, (*piece).to_owned()))
                .collect(),
        ))
    }
}

impl File<'_> {
    fn unknown(&self) -> u32 {
        self.ids(Kind::Unknown).next().unwrap_or(0)
    }

    fn vocabulary(&self) -> Result<Vocabulary> {
        let pairs: Vec<(String, u32)> = self
            .entries
            .iter()
            .zip(0..)
            .map(|(entry, id)| (entry.piece.to_owned(), id))
            .collect();
        Vocabulary::from_pairs("pieces", &pairs)
    }

    fn unigram(&self, vocabulary: Vocabulary) -> SentencePiece {
        let pieces = self
            .entries
            .iter()
            .map(|entry| match entry.kind {
                Kind::Normal => Piece::Scored(entry.score),
                Kind::UserDefined => Piece::UserDefined,
                Kind::Unknown | Kind::Control | Kind::Unused | Kind::Byte => Piece::Apart,
            })
            .collect();
        SentencePiece::new(vocabulary, pieces, self.unknown(), self.byte_fallback)
    }

    fn bpe(&self, vocabulary: Vocabulary) -> Result<Bpe> {
        let mut scores = Vec::with_capacity(self.entries.len());
        let mut buffer = [0; 4];
        for (at, entry) in self.entries.iter().enumerate() {
            let refused = |name: String| Error::Unsupported {
                place: format!("pieces[{at}]"),
                name,
                supported: "pieces of used characters, and no others".to_owned(),
            };
            match entry.kind {
                Kind::Unused => return Err(refused(format!("UNUSED piece {:?}", entry.piece))),
                Kind::Normal => {
                    let mut chars = entry.piece.chars();
                    if let Some(c) =
                        chars.find(|c| vocabulary.id(c.encode_utf8(&mut buffer)).is_none())
                    {
                        return Err(refused(format!(
                            "{:?} of the character {c:?}, which is no piece",
                            entry.piece
                        )));
                    }
                    scores.push(entry.score);
                }
                _ => scores.push(f32::NEG_INFINITY),
            }
        }
        let options = BpeOptions {
            unknown: vocabulary.token(self.unknown()).map(str::to_owned),
            fuse_unknown: true,
            byte_fallback: self.byte_fallback,
            ..BpeOptions::default()
        };
        Ok(Bpe::from_scores(vocabulary, &scores, options))
    }

    /// Control symbols, and the user's, which the model itself finds as well.
    fn added(&self) -> impl Iterator<Item = (AddedToken, Option<u32>)> {
        self.entries.iter().filter_map(|entry| {
            let token = AddedToken::special(entry.piece);
            matches!(entry.kind, Kind::Control | Kind::Unknown).then_some((token, None))
        })
    }

    fn description(&self, ends: Ends) -> Result<Description> {
        let special = |wanted: bool, role: &str| {
            let Some(piece) = self.roles.get(role).filter(|_| wanted) else {
                return if wanted {
                    Err(Error::invalid(
                        format!("trainer_spec.{role}_piece"),
                        "no such piece, but it is to be added to every text",
                    ))
                } else {
                    Ok(None)
                };
            };
            let id = self.entries.iter().position(|entry| entry.piece == *piece);
            Ok(id.map(|id| Special {
                id: id as u32,
                token: (*piece).to_owned(),
            }))
        };
        let (bos, eos) = (special(ends.bos, "bos")?, special(ends.eos, "eos")?);
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            let map = base64::prelude::BASE64_STANDARD.encode(self.charsmap);
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": map }));
        }
        if self.remove_extra_whitespaces {
            let replace = |regex: &str, content: &str| json!({ "type": "Replace", "pattern": { "Regex": regex }, "content": content });
            steps.push(replace(r"\A +| +\z", ""));
            steps.push(replace(" {2,}", " "));
        }
        if self.dummy_prefix {
            steps.push(json!({ "type": "Prepend", "prepend": MARK }));
        }
        steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": MARK }));
        let beyond = [
            (self.whitespace_as_suffix, "treat_whitespace_as_suffix"),
            (!self.escape_whitespaces, "escape_whitespaces = false"),
            (
                self.ids(Kind::UserDefined).next().is_some(),
                "USER_DEFINED pieces",
            ),
            (self.ids(Kind::Unused).next().is_some(), "UNUSED pieces"),
        ];
        Ok(Description {
            normalizer: json!({ "type": "Sequence", "normalizers": steps }),
            pre_tokenizer: Value::Null,
            post_processor: describe::around(bos.as_ref(), eos.as_ref()),
            decoder: describe::pieces_to_text(self.dummy_prefix && !self.whitespace_as_suffix),
            beyond: beyond
                .into_iter()
                .find_map(|(asked, name)| asked.then_some(name)),
        })
    }
}
