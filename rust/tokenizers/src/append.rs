//! Encoding text as it comes.

use crate::{
    error::Result,
    model::Model,
    normalize::Normalizer,
    split::Splitter,
    stretch::Stretches,
    tokenizer::{EncodeOptions, Tokenizer},
};

/// Turns a stream of text into a stream of ids: all together they are those of the whole text at once, without special
/// tokens around it, wherever the text was cut.
///
/// Ids are given once no text to come can change them. That is known at spaces, for byte-level models, BERT's, and those
/// whose pre-tokenizer cuts there; with other pipelines all ids come with [`EncodeStream::finish`].
#[derive(Clone, Debug)]
pub struct EncodeStream {
    options: EncodeOptions,
    /// What was given last, for what comes begins in the middle of a text, and what is not given yet.
    text: String,
    given: usize,
    /// Up to here there is no place to cut.
    searched: usize,
}

/// What is known of a tokenizer's added tokens.
struct Added<'a> {
    /// These take the space after them.
    greedy: Vec<&'a str>,
}

impl EncodeStream {
    /// A stream that begins with no text; with `split_special_tokens`, special tokens in the text are ordinary text.
    pub fn new(split_special_tokens: bool) -> Self {
        Self {
            options: EncodeOptions {
                add_special_tokens: false,
                split_special_tokens,
                ..EncodeOptions::default()
            },
            text: String::new(),
            given: 0,
            searched: 0,
        }
    }

    /// Takes more text; returns the ids that are now certain.
    pub fn push(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        self.text.push_str(text);
        let Some((stretches, added)) = tokenizer.appends() else {
            return Ok(Vec::new());
        };
        // What comes after the last character is not known.
        let new = self.text.get(self.searched..).unwrap_or("");
        let cut = new
            .rmatch_indices(' ')
            .map(|(at, _)| self.searched + at)
            .find(|&space| {
                let before = self.text.get(..space).unwrap_or("");
                let taken = added.greedy.iter().any(|token| before.ends_with(token));
                space > self.given && !taken && stretches.can_cut(&self.text, space)
            });
        self.searched = self
            .text
            .floor_char_boundary(self.text.len().saturating_sub(1));
        match cut {
            Some(cut) => self.give(tokenizer, cut),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the ids of what is left, and starts anew.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let ids = self.give(tokenizer, self.text.len())?;
        (self.given, self.searched) = (0, 0);
        self.text.clear();
        Ok(ids)
    }

    fn give(&mut self, tokenizer: &Tokenizer, end: usize) -> Result<Vec<u32>> {
        let context = self.text.get(..self.given).unwrap_or("");
        let text = self.text.get(..end).unwrap_or("");
        let known = tokenizer.encode_ids(context, &self.options)?.len();
        let mut ids = tokenizer.encode_ids(text, &self.options)?;
        ids.drain(..known.min(ids.len()));
        let begin = self.given;
        self.text.drain(..begin);
        self.given = end - begin;
        self.searched = self.searched.saturating_sub(begin);
        Ok(ids)
    }
}

impl Tokenizer {
    /// Where a text can be cut, if it can before the rest is known.
    fn appends(&self) -> Option<(Stretches, Added<'_>)> {
        let added = &self.tokens.added;
        if added.are_normalized() {
            return None;
        }
        let mut greedy = Vec::new();
        for (_, token) in added.records() {
            if token.content.contains(char::is_whitespace) {
                return None;
            }
            if token.rstrip {
                greedy.push(token.content.as_str());
            }
        }
        let stretches = match self.cutting() {
            Some(cutting) => cutting.at,
            None if self.words_begin_with_spaces() => Stretches::Bert,
            None => return None,
        };
        Some((stretches, Added { greedy }))
    }

    /// Whether a space behind what is none begins a word, and nothing looks across its beginning.
    fn words_begin_with_spaces(&self) -> bool {
        let plain = |normalizer: &Normalizer| matches!(normalizer, Normalizer::Form(_));
        let words = self.splitter.as_ref().and_then(Splitter::byte_words);
        self.normalizer.as_ref().is_none_or(plain)
            && matches!(&self.tokens.model, Model::Bpe(bpe) if bpe.takes_bytes())
            && words.is_some_and(|words| words.words.is_some() && words.begin_with_spaces())
    }
}
