//! The way of a text through the pipeline to its tokens.

use crate::{
    dropout::Draws,
    error::{Error, Result},
    model::{AT_ONCE, Cache, Key, Model, Scratch, Token},
    output::Output,
    split::{Splitter, Words},
    stretch::{Cutting, Piece, Stretches, prepare},
    text::{Span, Text},
    tokenizer::Tokenizer,
};

/// Longer texts would not fit the 32-bit offsets once every byte is spelled out.
const MAX_TEXT: usize = 1 << 30;

impl Tokenizer {
    /// The added tokens of a text and what lies between, if that can be cut further before it is normalised.
    ///
    /// With `draws` it is not: a word's number in the text has to be known.
    pub(crate) fn stretches(
        &self,
        input: &str,
        ignore_special: bool,
        draws: Option<Draws>,
    ) -> Result<Option<Vec<Span>>> {
        if input.len() > MAX_TEXT {
            return Err(Error::Text(format!(
                "the text has {} bytes, more than {MAX_TEXT}",
                input.len()
            )));
        }
        Ok(self
            .cutting()
            .filter(|_| draws.is_none())
            .and_then(|_| self.tokens.added.extract_raw(input, ignore_special)))
    }

    pub(crate) fn cutting(&self) -> Option<&Cutting> {
        let known = self.caches.cutting.get_or_init(|| {
            let (normalizer, splitter) = (self.normalizer.as_ref(), self.splitter.as_ref());
            Cutting::of(normalizer, splitter, &self.tokens.model)
        });
        known.as_ref()
    }

    /// Encodes what `stretches` gave.
    pub(crate) fn encode_stretches(
        &self,
        input: &str,
        spans: &[Span],
        output: &mut impl Output,
    ) -> Result<()> {
        let Some(cutting) = self.cutting() else {
            return Ok(());
        };
        self.caches.with(|cache| {
            let mut work = StretchWork {
                tokenizer: self,
                cutting,
                input,
                cache,
                output,
                scratch: Scratch::default(),
                word: String::new(),
                pieces: Vec::new(),
                outcome: Ok(()),
            };
            for span in spans {
                if span.token.is_some() {
                    self.added_token(input, span, work.output);
                } else {
                    let text = input.get(span.start..span.end).unwrap_or("");
                    let mut waiting = Waiting::default();
                    cutting.at.each(text, |start, end| {
                        let range = (span.start + start, span.start + end);
                        waiting.push(range, |ranges| work.look_up(span.start, ranges));
                    });
                    work.look_up(span.start, waiting.rest());
                }
            }
            work.outcome
        })
    }

    pub(crate) fn added_token(&self, text: &str, span: &Span, output: &mut impl Output) {
        let word = text.get(span.start..span.end).unwrap_or("");
        let id = span.token.unwrap_or(0);
        let token = Token {
            id,
            start: 0,
            end: word.len(),
            literal: self.tokens.token(id) != Some(word),
        };
        output.word(span.start, word, &[token]);
    }

    /// Normalises a text and cuts it, all but what `encode_words` cuts itself.
    pub(crate) fn cut<'t>(&self, input: &'t str, ignore_special: bool) -> Text<'t> {
        let mut text = self
            .tokens
            .added
            .extract(input, self.normalizer.as_ref(), ignore_special);
        if let Some(splitter) = &self.splitter {
            match splitter.byte_words() {
                Some(words) if self.tokens.model.takes_bytes() => words.apply(&mut text),
                _ => splitter.apply(&mut text),
            }
        }
        text
    }

    /// Encodes what `cut` gave.
    pub(crate) fn encode_words(&self, text: &Text, output: &mut impl Output) -> Result<()> {
        let model = &self.tokens.model;
        let splitter = self.splitter.as_ref().and_then(Splitter::byte_words);
        let bytes = splitter.filter(|_| model.takes_bytes());
        let words = bytes.as_ref().and_then(|bytes| bytes.words);
        self.caches.with(|cache| {
            let mut work = WordWork {
                model,
                bytes: bytes.is_some(),
                text: text.aligned.as_str(),
                cache,
                output,
                scratch: Scratch::default(),
                outcome: Ok(()),
            };
            for span in &text.spans {
                if span.token.is_some() {
                    self.added_token(work.text, span, work.output);
                } else if let Some(words) = words {
                    work.words(span.start, span.end, words);
                } else {
                    work.word(span.start, span.end);
                }
            }
            work.outcome
        })
    }
}

/// Words that are cut and not yet looked up.
#[derive(Default)]
struct Waiting {
    ranges: [(usize, usize); AT_ONCE],
    count: usize,
}

impl Waiting {
    /// One more; as many as there is room for go to `look_up`.
    #[inline(always)]
    fn push(&mut self, range: (usize, usize), look_up: impl FnOnce(&[(usize, usize)])) {
        if let Some(slot) = self.ranges.get_mut(self.count) {
            *slot = range;
            self.count += 1;
        }
        if self.count == AT_ONCE {
            look_up(&self.ranges);
            self.count = 0;
        }
    }

    fn rest(&self) -> &[(usize, usize)] {
        self.ranges.get(..self.count).unwrap_or(&[])
    }
}

/// What is needed to encode the words of a text.
struct WordWork<'a, O> {
    model: &'a Model,
    /// Whether the model is given words as they are, to spell them byte by byte.
    bytes: bool,
    text: &'a str,
    cache: &'a mut Cache,
    output: &'a mut O,
    scratch: Scratch,
    outcome: Result<()>,
}

impl<O: Output> WordWork<'_, O> {
    /// Encodes the words of `start..end`.
    fn words(&mut self, start: usize, end: usize, words: Words) {
        let mut waiting = Waiting::default();
        let span = self.text.get(start..end).unwrap_or("");
        words.each(span, |from, to| {
            waiting.push((start + from, start + to), |words| self.look_up(words));
        });
        self.look_up(waiting.rest());
    }

    #[inline(never)]
    fn look_up(&mut self, words: &[(usize, usize)]) {
        if self.cache.is_far() {
            let text = self.text.as_bytes();
            let keys = words
                .iter()
                .filter_map(|(start, end)| Key::of(text, *start, *end));
            self.cache.fetch(keys);
        }
        for (start, end) in words {
            self.word(*start, *end);
        }
    }

    #[inline(always)]
    fn word(&mut self, start: usize, end: usize) {
        let key = Key::of(self.text.as_bytes(), start, end);
        if let Some(key) = key
            && let Some(entry) = self.cache.short(key)
        {
            return self.output.short(start, entry, 1);
        }
        self.long_word(start, end, key);
    }

    #[inline(never)]
    fn long_word(&mut self, start: usize, end: usize, key: Option<Key>) {
        if let Some(key) = key {
            if let Some(entry) = self.cache.many(key) {
                return self.output.short(start, entry, 1);
            }
            if let Some(entry) = self.cache.long(key) {
                return self.output.long(start, entry);
            }
        }
        let word = self.text.get(start..end).unwrap_or("");
        if self.bytes {
            self.model.tokenize_bytes(word, &mut self.scratch);
        } else if let Err(error) = self.model.tokenize(word, &mut self.scratch) {
            self.outcome = Err(error);
            return;
        }
        if let Some(key) = key {
            self.cache.insert_word(key, &self.scratch.tokens);
        }
        self.output.word(start, word, &self.scratch.tokens);
    }
}

/// What is needed to encode the stretches of a text.
struct StretchWork<'a, O> {
    tokenizer: &'a Tokenizer,
    cutting: &'a Cutting,
    input: &'a str,
    cache: &'a mut Cache,
    output: &'a mut O,
    scratch: Scratch,
    /// The word of a plain stretch.
    word: String,
    /// The tokens of a stretch.
    pieces: Vec<Piece>,
    outcome: Result<()>,
}

impl<O: Output> StretchWork<'_, O> {
    /// Encodes stretches of the text that begins at `first`.
    #[inline(never)]
    fn look_up(&mut self, first: usize, ranges: &[(usize, usize)]) {
        if self.cache.is_far() {
            let keys = ranges.iter().filter_map(|(start, end)| {
                Key::of(self.input.as_bytes(), self.begin(first, *start), *end)
            });
            self.cache.fetch(keys);
        }
        let begins = u32::from(!self.cutting.at.is_one_word());
        for (start, end) in ranges {
            let start = self.begin(first, *start);
            // The beginning of a text may be marked, so only what follows is the same everywhere.
            let anywhere = self.cutting.at == Stretches::Bert || start > first;
            let key = Key::of(self.input.as_bytes(), start, *end).filter(|_| anywhere);
            if let Some(key) = key
                && let Some(entry) = self.cache.short(key)
            {
                self.output.short(start, entry, begins);
            } else {
                self.long_stretch(first, start, *end, key);
            }
        }
    }

    /// Where the tokens of the stretch at `start` begin.
    #[inline(always)]
    fn begin(&self, first: usize, start: usize) -> usize {
        start + usize::from(start > first && self.cutting.drops_space)
    }

    #[inline(never)]
    fn long_stretch(&mut self, first: usize, start: usize, end: usize, key: Option<Key>) {
        let one_word = self.cutting.at.is_one_word();
        if let Some(key) = key {
            if let Some(entry) = self.cache.many(key) {
                return self.output.short(start, entry, u32::from(!one_word));
            }
            if let Some(entry) = self.cache.long(key) {
                return self.output.long(start, entry);
            }
        }
        let goes_on = start > first;
        let anywhere = self.cutting.at == Stretches::Bert || goes_on;
        self.pieces.clear();
        let mut begins = 0;
        let model = &self.tokenizer.tokens.model;
        let text = self.input.get(start..end).unwrap_or("");
        let plain = self.cutting.plain.as_ref().filter(|_| anywhere);
        if let Some(plain) = plain.filter(|plain| plain.word(text, &mut self.word)) {
            begins = u32::from(!one_word);
            if let Err(error) = model.tokenize(&self.word, &mut self.scratch) {
                self.outcome = Err(error);
                return;
            }
            self.pieces.extend(pieces_of(
                &self.scratch,
                &self.word,
                &mut begins,
                |from, to| plain.origin(from, to),
            ));
        } else {
            let (normalizer, splitter) = (&self.tokenizer.normalizer, &self.tokenizer.splitter);
            let (normalizer, splitter) = (normalizer.as_ref(), splitter.as_ref());
            let normal = prepare(normalizer, splitter, self.input, (start, end), goes_on);
            for span in &normal.spans {
                begins += u32::from(!(one_word && goes_on));
                let word = normal.str(span);
                if let Err(error) = model.tokenize(word, &mut self.scratch) {
                    self.outcome = Err(error);
                    return;
                }
                self.pieces
                    .extend(pieces_of(&self.scratch, word, &mut begins, |from, to| {
                        let (from, to) = (span.start + from, span.start + to);
                        let origin = normal.aligned.origin_of(from, to);
                        origin.map_or((from, to), |(from, to)| {
                            (from as usize - start, to as usize - start)
                        })
                    }));
            }
        }
        if let Some(key) = key.filter(|_| begins == 0) {
            self.cache.insert_stretch(key, text, &self.pieces, one_word);
        }
        self.output.stretch(start, &self.pieces, begins);
    }
}

/// The tokens of a word; `origin` says which bytes of the stretch bytes of the word stand for.
fn pieces_of(
    scratch: &Scratch,
    word: &str,
    begins: &mut u32,
    origin: impl Fn(usize, usize) -> (usize, usize),
) -> impl Iterator<Item = Piece> {
    scratch.tokens.iter().map(move |token| {
        let (start, end) = origin(token.start, token.end);
        let text = || word.get(token.start..token.end).unwrap_or("").to_owned();
        Piece {
            id: token.id,
            start,
            end,
            begins: std::mem::take(begins),
            literal: token.literal.then(text),
        }
    })
}
