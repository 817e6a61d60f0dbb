//! Token ↔ id, in one buffer.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};

/// The tokens of a model, by id and by text.
///
/// All texts lie in one string; the table holds ids only. The hash is seeded, so a file cannot be made to collide.
pub(crate) struct Vocabulary {
    text: String,
    /// Where the token of each id lies in `text`; `None` for an id that no token has.
    spans: Vec<Option<(u32, u32)>>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    unique: bool,
}

impl Vocabulary {
    /// Tokens with explicit ids, as a JSON object has them. Each id may be given once.
    pub(crate) fn from_pairs(place: &str, pairs: &[(impl AsRef<str>, u32)]) -> Result<Self> {
        // Ids index vectors here and rows of the embedding elsewhere: a far-off id is a broken file, not a big one.
        let limit = pairs.len().saturating_mul(2).saturating_add(65_536);
        let rows = pairs
            .iter()
            .map(|(_, id)| *id as usize + 1)
            .max()
            .unwrap_or(0);
        if rows > limit {
            let culprit = pairs.iter().find(|(_, id)| *id as usize >= limit);
            let token = culprit.map_or("", |(token, _)| token.as_ref());
            return Err(Error::invalid(
                place,
                format!(
                    "token {token:?} has id {}, far beyond the {} tokens",
                    rows - 1,
                    pairs.len()
                ),
            ));
        }
        let mut vocabulary = Self::empty(
            pairs.iter().map(|(token, _)| token.as_ref().len()).sum(),
            rows,
        );
        for (token, id) in pairs {
            let token = token.as_ref();
            let span = vocabulary.append(place, token)?;
            match vocabulary.spans.get_mut(*id as usize) {
                Some(slot @ None) => *slot = Some(span),
                _ => {
                    return Err(Error::invalid(
                        place,
                        format!("id {id} of token {token:?} is given twice"),
                    ));
                }
            }
            if let Some(other) = vocabulary.insert(token, *id) {
                return Err(Error::invalid(
                    place,
                    format!("token {token:?} is given twice, with ids {other} and {id}"),
                ));
            }
        }
        Ok(vocabulary)
    }

    /// Tokens whose ids are their positions. A token given twice is found under its last position.
    pub(crate) fn from_list<'a>(
        place: &str,
        tokens: impl ExactSizeIterator<Item = &'a str>,
    ) -> Result<Self> {
        let mut vocabulary = Self::empty(0, 0);
        if u32::try_from(tokens.len()).is_err() {
            return Err(Error::invalid(place, "more than 2^32 tokens"));
        }
        for (id, token) in tokens.enumerate() {
            let span = vocabulary.append(place, token)?;
            vocabulary.spans.push(Some(span));
            vocabulary.unique &= vocabulary.insert(token, id as u32).is_none();
        }
        Ok(vocabulary)
    }

    fn empty(bytes: usize, rows: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            spans: vec![None; rows],
            index: HashTable::with_capacity(rows),
            hasher: DefaultHashBuilder::default(),
            unique: true,
        }
    }

    fn append(&mut self, place: &str, token: &str) -> Result<(u32, u32)> {
        let start = self.text.len();
        self.text.push_str(token);
        match (u32::try_from(start), u32::try_from(self.text.len())) {
            (Ok(start), Ok(end)) => Ok((start, end)),
            _ => Err(Error::invalid(
                place,
                "the tokens are longer than 4 GiB together",
            )),
        }
    }

    /// Lets `token` be found as `id`; returns the id it had before.
    fn insert(&mut self, token: &str, id: u32) -> Option<u32> {
        let Self {
            text,
            spans,
            index,
            hasher,
            ..
        } = self;
        let hash = hasher.hash_one(token);
        if let Some(found) =
            index.find_mut(hash, |&other| lookup(text, spans, other) == Some(token))
        {
            Some(std::mem::replace(found, id))
        } else {
            index.insert_unique(hash, id, |&other| {
                hasher.hash_one(lookup(text, spans, other).unwrap_or(""))
            });
            None
        }
    }

    /// The id of a token.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(token);
        self.index
            .find(hash, |&id| {
                lookup(&self.text, &self.spans, id) == Some(token)
            })
            .copied()
    }

    /// The token of an id.
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        lookup(&self.text, &self.spans, id)
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether every token has one id.
    pub(crate) fn is_unique(&self) -> bool {
        self.unique
    }

    /// Ids and tokens, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.spans.len() as u32).filter_map(|id| Some((id, self.token(id)?)))
    }
}

fn lookup<'a>(text: &'a str, spans: &[Option<(u32, u32)>], id: u32) -> Option<&'a str> {
    let (start, end) = (*spans.get(id as usize)?)?;
    text.get(start as usize..end as usize)
}
