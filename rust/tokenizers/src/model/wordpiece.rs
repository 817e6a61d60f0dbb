//! `WordPiece`: the longest token first, from left to right (Wu et al., 2016).

use super::{Scratch, Token, trie::Trie};
use crate::{
    error::{Error, Result},
    vocabulary::Vocabulary,
};

pub(crate) struct WordPiece {
    vocabulary: Vocabulary,
    /// What a word may begin with, and what may follow, without the prefix.
    first: Trie,
    next: Trie,
    unknown: u32,
    /// Before every token of a word but the first.
    prefix: String,
    /// Longer words are unknown.
    max_chars: usize,
}

impl WordPiece {
    pub(crate) fn new(
        place: &str,
        vocabulary: Vocabulary,
        unknown: &str,
        prefix: &str,
        max_chars: usize,
    ) -> Result<Self> {
        let unknown = vocabulary.id(unknown).ok_or_else(|| {
            Error::invalid(
                place,
                format!("the unknown token {unknown:?} is not in the vocabulary"),
            )
        })?;
        let tokens = || vocabulary.iter().map(|(id, token)| (token.as_bytes(), id));
        let whole = tokens().filter(|(token, _)| !token.is_empty()).collect();
        let rest =
            tokens().filter_map(|(token, id)| Some((token.strip_prefix(prefix.as_bytes())?, id)));
        let rest = rest.filter(|(token, _)| !token.is_empty()).collect();
        Ok(Self {
            first: Trie::new(whole),
            next: Trie::new(rest),
            vocabulary,
            unknown,
            prefix: prefix.to_owned(),
            max_chars,
        })
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What comes before every token of a word but the first.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Longer words are unknown.
    pub(crate) fn max_chars(&self) -> usize {
        self.max_chars
    }

    pub(crate) fn unknown(&self) -> u32 {
        self.unknown
    }

    pub(super) fn tokenize(&self, word: &str, scratch: &mut Scratch) {
        let tokens = &mut scratch.tokens;
        // A character is at most four bytes: most words need not be counted.
        let fits = word.len() <= self.max_chars
            || word.chars().take(self.max_chars.saturating_add(1)).count() <= self.max_chars;
        let mut start = 0;
        // Most words are tokens, and one look-up finds that sooner than a walk through the trie.
        if let Some(id) = self
            .vocabulary
            .id(word)
            .filter(|_| fits && !word.is_empty())
        {
            start = word.len();
            tokens.push(Token {
                id,
                start: 0,
                end: start,
                literal: false,
            });
        }
        while fits && start < word.len() {
            let trie = if start == 0 { &self.first } else { &self.next };
            let rest = word.as_bytes().get(start..).unwrap_or(&[]);
            let Some((len, id)) = trie.longest(rest) else {
                break;
            };
            tokens.push(Token {
                id,
                start,
                end: start + len,
                literal: false,
            });
            start += len;
        }
        if start < word.len() {
            tokens.clear();
            tokens.push(Token {
                id: self.unknown,
                start: 0,
                end: word.len(),
                literal: false,
            });
        }
    }
}
