//! The tokenizer: text to ids and back.

use crate::{
    added::AddedTokens,
    decode::Decoder,
    dropout::{Draws, Dropout},
    encoding::{Encoding, Padding, Truncation, pad, truncate},
    error::Result,
    load::Description,
    model::{Caches, Model},
    normalize::Normalizer,
    output::{Full, Ids, Output},
    parallel::many,
    post::Post,
    split::Splitter,
    text::{Bytes, Text},
};

/// How to encode; a plain value, so that nothing about a call is remembered by the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncodeOptions {
    /// Whether to put the model's special tokens around the text.
    pub add_special_tokens: bool,
    /// Whether special tokens written in the text are ordinary text. Set it for text that a user may write.
    pub split_special_tokens: bool,
    /// How to make the text fit; `None` leaves it as long as it is.
    pub truncation: Option<Truncation>,
    /// How to make texts equally long; `None` leaves them as they are.
    pub padding: Option<Padding>,
    /// What offsets count.
    pub offsets: Unit,
    /// Which mergers of a byte-pair model to leave out; `None` leaves out none.
    pub dropout: Option<Dropout>,
}

/// What offsets count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Unicode scalar values.
    #[default]
    Characters,
    /// Bytes of UTF-8.
    Bytes,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            add_special_tokens: true,
            split_special_tokens: false,
            truncation: None,
            padding: None,
            offsets: Unit::default(),
            dropout: None,
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
    pub(crate) caches: Caches,
    /// What all this was built from, to be written again.
    pub(crate) description: Description,
}

impl Tokenizer {
    /// Encodes a text, or a pair of texts.
    pub fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        let mut encoding = self.encode_unpadded(0, text, pair, options)?;
        if let Some(padding) = &options.padding {
            pad(std::slice::from_mut(&mut encoding), padding)?;
        }
        Ok(encoding)
    }

    /// The encoding of the text, or the pair of texts, that is number `number` of a list.
    fn encode_unpadded(
        &self,
        number: usize,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        // What is trimmed are characters, so bytes are told afterwards.
        let trims = self.post.as_ref().is_some_and(Post::trims);
        let unit = if trims {
            Unit::Characters
        } else {
            options.offsets
        };
        let texts: Vec<&str> = std::iter::once(text).chain(pair).collect();
        let mut parts = Vec::with_capacity(2);
        for (at, text) in texts.iter().enumerate() {
            let draws = options.draws(&self.tokens.model, number, at)?;
            let mut part = self.encode_one(text, options.split_special_tokens, unit, draws)?;
            part.set_type(at as u32);
            parts.push(part);
        }
        let mut encoding = self.arrange(parts, options)?;
        if unit != options.offsets {
            encoding.count_bytes(&texts.into_iter().map(Bytes::of).collect::<Vec<_>>());
        }
        Ok(encoding)
    }

    /// The ids of [`Tokenizer::encode`] alone, which take less time.
    pub fn encode_ids(&self, text: &str, options: &EncodeOptions) -> Result<Vec<u32>> {
        let mut encoding = self.ids_unpadded(0, text, None, options)?;
        if let Some(padding) = &options.padding {
            pad(std::slice::from_mut(&mut encoding), padding)?;
        }
        Ok(encoding.ids)
    }

    /// As `encode_unpadded`, but the encoding has ids and nothing else.
    fn ids_unpadded(
        &self,
        number: usize,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
    ) -> Result<Encoding> {
        let mut parts = Vec::with_capacity(2);
        for (at, text) in std::iter::once(text).chain(pair).enumerate() {
            let draws = options.draws(&self.tokens.model, number, at)?;
            let mut output = Ids::for_text(text.len());
            if let Some(spans) = self.stretches(text, options.split_special_tokens, draws)? {
                self.encode_stretches(text, &spans, &mut output)?;
            } else {
                let cut = self.cut(text, options.split_special_tokens);
                self.encode_cut(&cut, draws, &mut output)?;
            }
            parts.push(Encoding {
                ids: output.finish(),
                ..Encoding::default()
            });
        }
        self.arrange(parts, options)
    }

    /// Makes the texts fit and puts special tokens around them.
    fn arrange(&self, mut parts: Vec<Encoding>, options: &EncodeOptions) -> Result<Encoding> {
        if let Some(truncation) = &options.truncation {
            let post = self.post.as_ref().filter(|_| options.add_special_tokens);
            let added = post.map_or(0, |post| post.added(parts.len()));
            truncate(&mut parts, added, truncation)?;
        }
        for (at, part) in parts.iter_mut().enumerate() {
            part.set_text(at);
        }
        if let Some(post) = &self.post {
            parts = post.apply(parts, options.add_special_tokens, &self.tokens);
        }
        let mut parts = parts.into_iter();
        let mut all = parts.next().unwrap_or_default();
        parts.for_each(|part| all.append(part));
        Ok(all)
    }

    /// Encodes many texts, on as many threads as there are processors; with `pairs`, each behind its text.
    pub fn encode_batch(
        &self,
        texts: &[&str],
        pairs: Option<&[&str]>,
        options: &EncodeOptions,
    ) -> Result<Vec<Encoding>> {
        many(texts, pairs, options, |at, text, pair| {
            self.encode_unpadded(at, text, pair, options)
        })
    }

    /// The ids of many texts, one behind the other, and where each text begins and the last one ends.
    pub fn encode_rows(
        &self,
        texts: &[&str],
        pairs: Option<&[&str]>,
        options: &EncodeOptions,
    ) -> Result<(Vec<u32>, Vec<i64>)> {
        let encodings = many(texts, pairs, options, |at, text, pair| {
            self.ids_unpadded(at, text, pair, options)
        })?;
        let mut ids = Vec::with_capacity(encodings.iter().map(Encoding::len).sum());
        let mut starts = Vec::with_capacity(encodings.len() + 1);
        starts.push(0);
        for encoding in encodings {
            ids.extend(encoding.ids);
            starts.push(ids.len() as i64);
        }
        Ok((ids, starts))
    }

    /// How many tokens a text has.
    pub fn count(&self, text: &str, options: &EncodeOptions) -> Result<usize> {
        Ok(self.encode_ids(text, options)?.len())
    }

    /// The longest beginning of `text` that ends where a token ends, between two characters, and has no more than `count`
    /// tokens itself.
    pub fn truncate_to<'a>(
        &self,
        text: &'a str,
        count: usize,
        options: &EncodeOptions,
    ) -> Result<&'a str> {
        let options = EncodeOptions {
            offsets: Unit::Bytes,
            truncation: None,
            padding: None,
            ..*options
        };
        let encoding = self.encode(text, None, &options)?;
        if encoding.len() <= count {
            return Ok(text);
        }
        let around = encoding
            .special_tokens_mask
            .iter()
            .filter(|mask| **mask == 1);
        let around = around.count();
        let own = |(_, mask): &(_, &u8)| **mask == 0;
        let offsets: Vec<(u32, u32)> = encoding
            .offsets
            .iter()
            .zip(&encoding.special_tokens_mask)
            .filter(own)
            .map(|(offsets, _)| *offsets)
            .collect();
        let mut keep = count.saturating_sub(around).min(offsets.len());
        let mut step = 1;
        while keep > 0 {
            let end = offsets.get(keep - 1).map_or(0, |(_, end)| *end);
            // The next token may be the rest of the same character.
            let whole = offsets.get(keep).is_none_or(|(start, _)| *start >= end);
            if whole {
                let beginning = text.get(..end as usize).unwrap_or("");
                // Cutting here can cut words in another way: " \n" is one word, but not before a word.
                if self.count(beginning, &options)? <= count {
                    return Ok(beginning);
                }
                step *= 2;
            }
            keep = keep.saturating_sub(step);
        }
        Ok("")
    }

    fn encode_one(
        &self,
        input: &str,
        ignore_special: bool,
        unit: Unit,
        draws: Option<Draws>,
    ) -> Result<Encoding> {
        if let Some(spans) = self.stretches(input, ignore_special, draws)? {
            let mut output = Full::new(input, None, unit);
            self.encode_stretches(input, &spans, &mut output)?;
            return Ok(output.finish());
        }
        let cut = self.cut(input, ignore_special);
        let mut output = Full::new(input, Some(&cut.aligned), unit);
        self.encode_cut(&cut, draws, &mut output)?;
        Ok(output.finish())
    }

    fn encode_cut(&self, cut: &Text, draws: Option<Draws>, output: &mut impl Output) -> Result<()> {
        match draws {
            Some(draws) => self.encode_dropping(cut, draws, output),
            None => self.encode_words(cut, output),
        }
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

    /// The bytes that each of the ids below `vocabulary` adds to the middle of a text; none for special tokens and ids that no
    /// token has. None if what a token adds depends on its neighbours.
    pub fn token_bytes(&self, vocabulary: usize) -> Option<Vec<Vec<u8>>> {
        let decoder = self.decoder.as_ref()?;
        let bytes = |id: u32| match self.tokens.token(id) {
            Some(token) if !self.is_special(id) => decoder.bytes(token.as_bytes().to_vec()),
            _ => Some(Vec::new()),
        };
        (0..vocabulary as u32).map(bytes).collect()
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
