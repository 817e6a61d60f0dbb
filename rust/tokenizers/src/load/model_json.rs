//! The model of a `tokenizer.json`: its large tables are read without a tree of values.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use crate::{
    error::{Error, Result},
    model::{Bpe, BpeOptions, Model, Unigram, WordLevel, WordPiece},
    vocabulary::Vocabulary,
};

/// All fields that any kind of model has.
#[derive(Deserialize)]
pub(super) struct ModelJson<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    vocab: Tokens<'a>,
    #[serde(borrow)]
    merges: Option<Merges<'a>>,
    unk_token: Option<String>,
    unk_id: Option<usize>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    dropout: Option<f64>,
}

/// Tokens with ids, or with scores by position.
enum Tokens<'a> {
    Ids(Vec<(Text<'a>, u32)>),
    Scores(Vec<(Text<'a>, f64)>),
}

/// Pairs of tokens, written `"a b"` or `["a", "b"]`.
struct Merges<'a>(Vec<(Text<'a>, Text<'a>)>);

impl ModelJson<'_> {
    pub(super) fn build(self) -> Result<Model> {
        let kind = match (&self.kind, &self.vocab) {
            (Some(kind), _) => kind.as_str(),
            // Files of the first versions do not say.
            (None, Tokens::Scores(_)) => "Unigram",
            (None, _) if self.merges.is_some() => "BPE",
            _ => "WordPiece",
        };
        match kind {
            "BPE" => self.bpe().map(Model::Bpe),
            "WordPiece" => self.wordpiece().map(Model::WordPiece),
            "Unigram" => self.unigram().map(Model::Unigram),
            "WordLevel" => self.wordlevel().map(Model::WordLevel),
            other => Err(Error::Unsupported {
                place: "model.type".to_owned(),
                name: other.to_owned(),
                supported: "BPE, Unigram, WordLevel, WordPiece".to_owned(),
            }),
        }
    }

    fn bpe(self) -> Result<Bpe> {
        if let Some(dropout) = self.dropout.filter(|rate| !(0.0..=1.0).contains(rate)) {
            let problem = format!("{dropout} is no share of the mergers, expected 0 to 1");
            return Err(Error::invalid("model.dropout", problem));
        }
        let vocabulary = ids(self.vocab)?;
        let merges = self.merges.ok_or_else(|| missing("merges"))?.0;
        let merges = merges
            .iter()
            .map(|(left, right)| (left.as_ref(), right.as_ref()));
        let options = BpeOptions {
            unknown: self.unk_token,
            prefix: self.continuing_subword_prefix.unwrap_or_default(),
            suffix: self.end_of_word_suffix.unwrap_or_default(),
            fuse_unknown: self.fuse_unk.unwrap_or_default(),
            byte_fallback: self.byte_fallback.unwrap_or_default(),
            ignore_merges: self.ignore_merges.unwrap_or_default(),
            dropout: self.dropout,
        };
        Bpe::new("model.merges", vocabulary, merges, options)
    }

    fn wordpiece(self) -> Result<WordPiece> {
        WordPiece::new(
            "model.unk_token",
            ids(self.vocab)?,
            &self.unk_token.ok_or_else(|| missing("unk_token"))?,
            &self
                .continuing_subword_prefix
                .ok_or_else(|| missing("continuing_subword_prefix"))?,
            self.max_input_chars_per_word
                .ok_or_else(|| missing("max_input_chars_per_word"))?,
        )
    }

    fn wordlevel(self) -> Result<WordLevel> {
        let unknown = self.unk_token.ok_or_else(|| missing("unk_token"))?;
        Ok(WordLevel::new(ids(self.vocab)?, &unknown))
    }

    fn unigram(self) -> Result<Unigram> {
        match self.vocab {
            Tokens::Scores(tokens) => Unigram::new(
                "model.vocab",
                &tokens,
                self.unk_id,
                self.byte_fallback.unwrap_or_default(),
            ),
            Tokens::Ids(_) => Err(Error::invalid(
                "model.vocab",
                "expected a list of tokens and scores, found tokens and ids",
            )),
        }
    }
}

fn missing(name: &str) -> Error {
    Error::invalid("model", format!("the field `{name}` is missing"))
}

fn ids(tokens: Tokens<'_>) -> Result<Vocabulary> {
    match tokens {
        Tokens::Ids(pairs) => Vocabulary::from_pairs("model.vocab", &pairs),
        Tokens::Scores(_) => Err(Error::invalid(
            "model.vocab",
            "expected tokens with ids, found a list",
        )),
    }
}

/// A string that is copied only if it has escapes.
struct Text<'a>(Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Read)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Tokens<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Tokens<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tokens with ids, or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Tokens<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Tokens::Ids(pairs))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Tokens<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    pairs.push(pair);
                }
                Ok(Tokens::Scores(pairs))
            }
        }
        deserializer.deserialize_any(Table)
    }
}

/// A pair, or nothing for the line `#version`.
struct Merge<'a>(Option<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Two;
        impl<'de> Visitor<'de> for Two {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("two tokens, in a list or with a space between")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Merge<'de>, A::Error> {
                let (left, right) = (seq.next_element()?, seq.next_element()?);
                let (Some(left), Some(right)) = (left, right) else {
                    return Err(de::Error::invalid_length(0, &self));
                };
                Ok(Merge(Some((left, right))))
            }

            fn visit_borrowed_str<E: de::Error>(
                self,
                line: &'de str,
            ) -> std::result::Result<Merge<'de>, E> {
                line_of(line, Cow::Borrowed)
            }

            fn visit_str<E: de::Error>(self, line: &str) -> std::result::Result<Merge<'de>, E> {
                line_of(line, |token| Cow::Owned(token.to_owned()))
            }
        }
        deserializer.deserialize_any(Two)
    }
}

fn line_of<'l, 'a, E: de::Error>(
    line: &'l str,
    keep: impl Fn(&'l str) -> Cow<'a, str>,
) -> std::result::Result<Merge<'a>, E> {
    if line.starts_with("#version") {
        return Ok(Merge(None));
    }
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => {
            Ok(Merge(Some((Text(keep(left)), Text(keep(right))))))
        }
        _ => Err(E::custom(format!(
            "merges: expected two tokens with a space between, found {line:?}"
        ))),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merges<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let merges = Vec::<Merge>::deserialize(deserializer)?;
        Ok(Self(
            merges.into_iter().filter_map(|merge| merge.0).collect(),
        ))
    }
}
