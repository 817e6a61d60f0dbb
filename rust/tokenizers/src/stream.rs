//! Decoding ids as they come.

use crate::tokenizer::Tokenizer;

/// How a token is written depends on no more than this many before it.
const CONTEXT: usize = 8;

/// After so many ids without a complete character, none is coming.
const LONGEST_WAIT: usize = 64;

/// Turns a stream of ids into a stream of text, and never gives half a character.
///
/// What it gives, joined, is what decoding all ids at once gives, as long as the ids spell valid text.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    skip_special_tokens: bool,
    /// The ids that the next text depends on: those of the last text given, and those after it.
    window: Vec<u32>,
    /// How many of them were given in full.
    given: usize,
    /// What was given of the text of the window.
    prefix: String,
}

impl DecodeStream {
    /// A stream that starts with no text.
    pub fn new(skip_special_tokens: bool) -> Self {
        Self {
            skip_special_tokens,
            window: Vec::new(),
            given: 0,
            prefix: String::new(),
        }
    }

    /// A stream that goes on after `ids`, whose text is known already.
    pub fn after(tokenizer: &Tokenizer, ids: &[u32], skip_special_tokens: bool) -> Self {
        let seen = |id: &u32| !(skip_special_tokens && tokenizer.is_special(*id));
        let mut window: Vec<u32> = ids
            .iter()
            .rev()
            .copied()
            .filter(seen)
            .take(CONTEXT)
            .collect();
        window.reverse();
        Self {
            skip_special_tokens,
            given: window.len(),
            prefix: tokenizer.decode(&window, skip_special_tokens),
            window,
        }
    }

    /// Takes the next id; returns the text that is now certain, if there is any.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Option<String> {
        if self.skip_special_tokens && tokenizer.is_special(id) {
            return None;
        }
        self.window.push(id);
        let text = tokenizer.decode(&self.window, self.skip_special_tokens);
        let complete = !text.ends_with(char::REPLACEMENT_CHARACTER)
            || self.window.len() - self.given > LONGEST_WAIT;
        if complete {
            return self.give(tokenizer, &text);
        }
        // Every one of them may be a byte of a run that becomes text when its last character is complete.
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let new = certain
            .strip_prefix(self.prefix.as_str())
            .filter(|new| !new.is_empty())?
            .to_owned();
        self.prefix.push_str(&new);
        Some(new)
    }

    /// Returns what is left, for instance the beginning of a character that never ended, and starts anew.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Option<String> {
        let text = tokenizer.decode(&self.window, self.skip_special_tokens);
        let rest = self.give(tokenizer, &text);
        *self = Self::new(self.skip_special_tokens);
        rest
    }

    fn give(&mut self, tokenizer: &Tokenizer, text: &str) -> Option<String> {
        let new = match text.strip_prefix(self.prefix.as_str()) {
            // Nothing new, but the text of the next id may depend on this one.
            Some("") => return None,
            Some(new) => new.to_owned(),
            // The new bytes spoiled a run that was valid text so far: that is given, so only they are left.
            None => tokenizer.decode(self.window.get(self.given..)?, self.skip_special_tokens),
        };
        self.window.drain(..self.given);
        self.given = self.window.len();
        self.prefix = tokenizer.decode(&self.window, self.skip_special_tokens);
        Some(new).filter(|new| !new.is_empty())
    }
}
