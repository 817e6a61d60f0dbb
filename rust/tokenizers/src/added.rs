//! Added tokens: found in the text before the model sees it.

use aho_corasick::{AhoCorasick, MatchKind};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    normalize::Normalizer,
    split::is_word,
    text::{Aligned, Span, Text},
    vocabulary::Vocabulary,
};

/// A token that stands outside the model, with its five flags.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the file format's own record
pub(crate) struct AddedToken {
    pub(crate) content: String,
    /// Found only where no word character touches it.
    #[serde(default)]
    pub(crate) single_word: bool,
    /// Takes the white space before it.
    #[serde(default)]
    pub(crate) lstrip: bool,
    /// Takes the white space after it.
    #[serde(default)]
    pub(crate) rstrip: bool,
    /// Looked for in the normalised text, in its normalised form.
    pub(crate) normalized: bool,
    /// Left out of decoded text on request.
    #[serde(default)]
    pub(crate) special: bool,
}

impl AddedToken {
    /// A special token that is matched as written.
    pub(crate) fn special(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }
}

struct Entry {
    token: AddedToken,
    /// The content as the normaliser leaves it.
    normal: String,
}

/// All added tokens of a tokenizer.
#[derive(Default)]
pub(crate) struct AddedTokens {
    ids: HashMap<String, u32>,
    entries: HashMap<u32, Entry>,
    special: HashSet<String>,
    raw: Option<Finder>,
    normalized: Option<Finder>,
}

struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl AddedTokens {
    /// Gives each token its id: that of the model if it has one, else the next free one. `stated` is the id the file
    /// says; it must be the same.
    pub(crate) fn new(
        place: &str,
        tokens: impl Iterator<Item = (AddedToken, Option<u32>)>,
        vocabulary: &Vocabulary,
        normalizer: Option<&Normalizer>,
    ) -> Result<Self> {
        let mut added = Self::default();
        let mut next = vocabulary.len() as u32;
        for (at, (token, stated)) in tokens.enumerate() {
            if token.content.is_empty() {
                continue;
            }
            let known = added
                .ids
                .get(&token.content)
                .copied()
                .or_else(|| vocabulary.id(&token.content));
            let id = known.unwrap_or(next);
            if let Some(stated) = stated.filter(|&stated| stated != id) {
                return Err(Error::invalid(
                    format!("{place}[{at}]"),
                    format!(
                        "token {:?} has id {stated}, but its place in the vocabulary makes it {id}",
                        token.content
                    ),
                ));
            }
            if known.is_none() {
                next += 1;
            }
            let normal = match normalizer {
                Some(normalizer) if token.normalized => {
                    let mut text = Aligned::new(&token.content, 0);
                    normalizer.apply(&mut text);
                    text.as_str().to_owned()
                }
                _ => token.content.clone(),
            };
            added.ids.insert(token.content.clone(), id);
            if token.special {
                added.special.insert(token.content.clone());
            }
            added.entries.insert(id, Entry { token, normal });
        }
        added.raw = added.finder(place, false)?;
        added.normalized = added.finder(place, true)?;
        Ok(added)
    }

    fn finder(&self, place: &str, normalized: bool) -> Result<Option<Finder>> {
        let mut ids: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.token.normalized == normalized && !entry.normal.is_empty())
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() {
            return Ok(None);
        }
        ids.sort_unstable();
        let patterns = ids
            .iter()
            .filter_map(|id| Some(self.entries.get(id)?.normal.as_str()));
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns)
            .map_err(|e| Error::invalid(place, e.to_string()))?;
        Ok(Some(Finder { automaton, ids }))
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The token as the decoder must see it.
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        self.entries.get(&id).map(|entry| entry.normal.as_str())
    }

    pub(crate) fn is_special(&self, token: &str) -> bool {
        self.special.contains(token)
    }

    /// Ids and tokens, by id.
    pub(crate) fn records(&self) -> Vec<(u32, &AddedToken)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(id, entry)| (*id, &entry.token))
            .collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Ids and contents, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.entries
            .iter()
            .map(|(id, entry)| (*id, entry.token.content.as_str()))
    }

    /// Whether some are looked for in normalised text.
    pub(crate) fn are_normalized(&self) -> bool {
        self.normalized.is_some()
    }

    /// Cuts out the added tokens of a text that is not normalised; `None` if some are looked for in normalised text.
    pub(crate) fn extract_raw(&self, input: &str, ignore_special: bool) -> Option<Vec<Span>> {
        if self.normalized.is_some() {
            return None;
        }
        let mut spans = Vec::new();
        self.cut(self.raw.as_ref(), input, ignore_special, &mut spans);
        Some(spans)
    }

    /// Normalises `input` and cuts out the added tokens: those matched as written first, the others after.
    /// With `ignore_special`, special tokens are ordinary text.
    pub(crate) fn extract<'a>(
        &self,
        input: &'a str,
        normalizer: Option<&Normalizer>,
        ignore_special: bool,
    ) -> Text<'a> {
        let mut outer = Vec::new();
        self.cut(self.raw.as_ref(), input, ignore_special, &mut outer);
        let sections = outer
            .into_iter()
            .map(|span| {
                let mut text =
                    Aligned::new(input.get(span.start..span.end).unwrap_or(""), span.start);
                let mut spans = Vec::new();
                if span.token.is_some() {
                    spans.push(Span {
                        start: 0,
                        end: span.end - span.start,
                        token: span.token,
                    });
                } else {
                    if let Some(normalizer) = normalizer {
                        normalizer.apply(&mut text);
                    }
                    self.cut(
                        self.normalized.as_ref(),
                        text.as_str(),
                        ignore_special,
                        &mut spans,
                    );
                }
                (text, spans)
            })
            .collect();
        Text::join(input, sections)
    }

    fn cut(
        &self,
        finder: Option<&Finder>,
        text: &str,
        ignore_special: bool,
        spans: &mut Vec<Span>,
    ) {
        let mut at = 0;
        let mut push = |start: usize, end: usize, token: Option<u32>| {
            if start < end {
                spans.push(Span { start, end, token });
            }
        };
        for found in finder
            .into_iter()
            .flat_map(|finder| finder.automaton.find_iter(text))
        {
            let Some((id, entry)) = finder
                .and_then(|finder| finder.ids.get(found.pattern().as_usize()))
                .and_then(|id| Some((*id, self.entries.get(id)?)))
            else {
                continue;
            };
            let (mut start, mut end) = (found.start(), found.end());
            let (before, after) = (
                text.get(..start).unwrap_or(""),
                text.get(end..).unwrap_or(""),
            );
            if ignore_special && entry.token.special {
                continue;
            }
            let touched = before.chars().next_back().is_some_and(is_word)
                || after.chars().next().is_some_and(is_word);
            if entry.token.single_word && touched {
                continue;
            }
            if entry.token.lstrip {
                let free = text.get(at..start).unwrap_or("");
                start = at.max(start - (free.len() - free.trim_end().len()));
            }
            if entry.token.rstrip {
                end += after.len() - after.trim_start().len();
            }
            push(at, start, None);
            push(start, end, Some(id));
            at = at.max(end);
        }
        push(at, text.len(), None);
    }
}
