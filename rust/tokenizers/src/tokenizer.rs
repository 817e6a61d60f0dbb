//! The tokenizer: text to ids and back.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{
    added::AddedTokens,
    decode::Decoder,
    encoding::{Encoding, Truncation, truncate},
    error::{Error, Result},
    model::{Model, Scratch},
    normalize::Normalizer,
    post::Post,
    split::Splitter,
    text::Text,
};

/// Longer texts would not fit the 32-bit offsets once every byte is spelled out.
const MAX_TEXT: usize = 1 << 30;

/// How to encode; a plain value, so that nothing about a call is remembered by the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether to put the model's special tokens around the text.
    pub add_special_tokens: bool,
    /// Whether special tokens written in the text are ordinary text. Set it for text that a user may write.
    pub split_special_tokens: bool,
    /// How to make the text fit; `None` leaves it as long as it is.
    pub truncation: Option<Truncation>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            add_special_tokens: true,
            split_special_tokens: false,
            truncation: None,
        }
    }
}

/// The model's tokens and the added ones.
pub(crate) struct Tokens {
    pub(crate) model: Model,
    pub(crate) added: AddedTokens,
}

impl Tokens {
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        self.added
            .token(id)
            .or_else(|| self.model.vocabulary().token(id))
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.added
            .id(token)
            .or_else(|| self.model.vocabulary().id(token))
    }
}

/// A tokenizer. It never changes, and any number of threads may use it at once.
pub struct Tokenizer {
    pub(crate) tokens: Tokens,
    pub(crate) normalizer: Option<Normalizer>,
    pub(crate) splitter: Option<Splitter>,
    pub(crate) post: Option<Post>,
    pub(crate) decoder: Option<Decoder>,
}

impl Tokenizer {
    /// Encodes a text, or a pair of texts.
    pub fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        let mut scratch = Scratch::default();
        let mut parts = Vec::with_capacity(2);
        for (at, text) in std::iter::once(text).chain(pair).enumerate() {
            let mut part = self.encode_one(text, options.split_special_tokens, &mut scratch)?;
            part.set_type(at as u32);
            parts.push(part);
        }
        if let Some(truncation) = &options.truncation {
            let post = self.post.as_ref().filter(|_| options.add_special_tokens);
            let added = post.map_or(0, |post| post.added(parts.len()));
            truncate(&mut parts, added, truncation)?;
        }
        if let Some(post) = &self.post {
            parts = post.apply(parts, options.add_special_tokens, &self.tokens);
        }
        let mut parts = parts.into_iter();
        let mut all = parts.next().unwrap_or_default();
        parts.for_each(|part| all.append(part));
        Ok(all)
    }

    /// Encodes many texts, on as many threads as there are processors.
    pub fn encode_batch(&self, texts: &[&str], options: &EncodeOptions) -> Result<Vec<Encoding>> {
        // Threads live for the call only: nothing is left over that a fork could find half-dead.
        const BYTES_A_THREAD: usize = 1 << 15;
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = processors.min(bytes / BYTES_A_THREAD).min(texts.len());
        if threads <= 1 {
            return texts
                .iter()
                .map(|text| self.encode(text, None, options))
                .collect();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some(text) = texts.get(at)
            {
                done.push((at, self.encode(text, None, options)));
            }
            done
        };
        let mut all: Vec<(usize, Result<Encoding>)> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for other in others {
                match other.join() {
                    Ok(done) => all.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all
        });
        all.sort_unstable_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, encoding)| encoding).collect()
    }

    fn encode_one(
        &self,
        input: &str,
        ignore_special: bool,
        scratch: &mut Scratch,
    ) -> Result<Encoding> {
        if input.len() > MAX_TEXT {
            return Err(Error::Text(format!(
                "the text has {} bytes, more than {MAX_TEXT}",
                input.len()
            )));
        }
        let mut text = self
            .tokens
            .added
            .extract(input, self.normalizer.as_ref(), ignore_special);
        if let Some(splitter) = &self.splitter {
            splitter.apply(&mut text);
        }
        self.encode_words(&text, &Characters::of(input), scratch)
    }

    fn encode_words(
        &self,
        text: &Text,
        characters: &Characters,
        scratch: &mut Scratch,
    ) -> Result<Encoding> {
        let mut encoding = Encoding::default();
        for (word_id, span) in text.spans.iter().enumerate() {
            let word = text.str(span);
            let word_id = Some(word_id as u32);
            let offsets = |start: usize, end: usize| {
                let origin = text.aligned.origin_of(span.start + start, span.start + end);
                characters.range(origin.unwrap_or((start as u32, end as u32)))
            };
            if let Some(id) = span.token {
                if self.tokens.token(id) != Some(word) {
                    encoding.literals.push((encoding.len(), word.to_owned()));
                }
                encoding.push(id, offsets(0, word.len()), word_id, false);
                continue;
            }
            self.tokens.model.tokenize(word, scratch)?;
            for token in &scratch.tokens {
                if token.literal {
                    let text = word.get(token.start..token.end).unwrap_or("");
                    encoding.literals.push((encoding.len(), text.to_owned()));
                }
                encoding.push(token.id, offsets(token.start, token.end), word_id, false);
            }
        }
        Ok(encoding)
    }

    /// The text of each token of an encoding, as the model knows it.
    pub fn tokens<'a>(&'a self, encoding: &'a Encoding) -> Vec<&'a str> {
        let mut tokens: Vec<&str> = encoding
            .ids
            .iter()
            .map(|id| self.tokens.token(*id).unwrap_or(""))
            .collect();
        for (at, text) in &encoding.literals {
            if let Some(token) = tokens.get_mut(*at) {
                *token = text;
            }
        }
        tokens
    }

    /// The text of ids. An id that no token has, as the padding rows of an embedding have them, is no text.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let tokens = ids
            .iter()
            .filter(|id| !(skip_special_tokens && self.is_special(**id)))
            .filter_map(|id| self.tokens.token(*id))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        match &self.decoder {
            Some(decoder) => decoder.apply(tokens).concat(),
            None => tokens.join(" "),
        }
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.tokens
            .token(id)
            .is_some_and(|token| self.tokens.added.is_special(token))
    }

    /// The token of an id.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.tokens.token(id)
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokens.id(token)
    }

    /// How many tokens there are, with the added ones.
    pub fn vocab_size(&self) -> usize {
        let vocabulary = self.tokens.model.vocabulary();
        let new = self
            .tokens
            .added
            .iter()
            .filter(|(_, token)| vocabulary.id(token).is_none());
        vocabulary.len() + new.count()
    }

    /// The id of the model's own unknown token.
    pub fn unknown_id(&self) -> Option<u32> {
        self.tokens.model.unknown()
    }

    /// What kind of model this is: `BPE`, `WordPiece` or `Unigram`.
    pub fn kind(&self) -> &'static str {
        self.tokens.model.kind()
    }

    /// The ids of all special tokens, sorted.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = &self.tokens.added;
        let mut ids: Vec<u32> = added
            .iter()
            .filter(|(_, token)| added.is_special(token))
            .map(|(id, _)| id)
            .collect();
        ids.sort_unstable();
        ids
    }
}

/// Byte offsets to character offsets.
struct Characters(Option<Vec<u32>>);

impl Characters {
    fn of(text: &str) -> Self {
        if text.is_ascii() {
            return Self(None);
        }
        let mut starts = Vec::with_capacity(text.len() + 1);
        for (number, c) in text.chars().enumerate() {
            starts.resize(starts.len() + c.len_utf8(), number as u32);
        }
        starts.push(starts.last().map_or(0, |last| last + 1));
        Self(Some(starts))
    }

    fn range(&self, (start, end): (u32, u32)) -> (u32, u32) {
        let Some(starts) = &self.0 else {
            return (start, end);
        };
        match (starts.get(start as usize), starts.get(end as usize)) {
            (Some(start), Some(end)) => (*start, *end),
            _ => (start, end),
        }
    }
}
