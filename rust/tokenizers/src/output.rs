//! Where tokens go while a text is encoded: ids alone, or with all that is known about them.

use crate::{
    encoding::Encoding,
    model::{Cached, Long, Short, Token},
    stretch::Piece,
    text::{Aligned, Characters},
    tokenizer::Unit,
};

pub(crate) trait Output {
    /// The tokens of a word that begins at byte `start` of the normalised text.
    fn word(&mut self, start: usize, word: &str, tokens: &[Token]);

    /// As `word`, from a cache; `begins` is 0 for more tokens of the word before.
    fn short<const N: usize>(&mut self, start: usize, entry: &Short<N>, begins: u32);

    /// The tokens of a stretch that begins at byte `start` of the input; `after` more words begin after the last.
    fn stretch(&mut self, start: usize, pieces: &[Piece], after: u32);

    /// As `stretch`, from a cache.
    fn long(&mut self, start: usize, entry: &Long);
}

/// The ids alone.
#[derive(Default)]
pub(crate) struct Ids {
    buffer: Vec<u32>,
    count: usize,
}

impl Ids {
    /// Room for the tokens of a text of so many bytes, if it is like most.
    pub(crate) fn for_text(bytes: usize) -> Self {
        Self {
            buffer: vec![0; bytes / 3 + 8],
            count: 0,
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u32> {
        self.buffer.truncate(self.count);
        self.buffer
    }

    #[cold]
    fn grow(&mut self) {
        let len = self.buffer.len() * 2 + 16;
        self.buffer.resize(len, 0);
    }

    fn push(&mut self, id: u32) {
        if self.count == self.buffer.len() {
            self.grow();
        }
        if let Some(slot) = self.buffer.get_mut(self.count) {
            *slot = id;
        }
        self.count += 1;
    }

    /// All of `ids` is written and only its tokens are counted: no loop, no branch on how many there are.
    #[inline(always)]
    fn extend<const N: usize>(&mut self, ids: [u32; N], count: u8) {
        loop {
            let room = self.buffer.get_mut(self.count..);
            if let Some(room) = room.and_then(|room| room.first_chunk_mut::<N>()) {
                *room = ids;
                self.count += count as usize;
                return;
            }
            self.grow();
        }
    }
}

impl Output for Ids {
    fn word(&mut self, _: usize, _: &str, tokens: &[Token]) {
        for token in tokens {
            self.push(token.id);
        }
    }

    #[inline(always)]
    fn short<const N: usize>(&mut self, _: usize, entry: &Short<N>, _: u32) {
        self.extend(entry.ids, entry.count);
    }

    fn stretch(&mut self, _: usize, pieces: &[Piece], _: u32) {
        for piece in pieces {
            self.push(piece.id);
        }
    }

    fn long(&mut self, _: usize, entry: &Long) {
        self.extend(entry.ids, entry.count);
    }
}

/// Everything.
pub(crate) struct Full<'t> {
    encoding: Encoding,
    input: &'t str,
    offsets: Offsets<'t>,
    /// How many words have begun.
    words: u32,
}

/// How bytes of the normalised text become characters of the input.
enum Offsets<'t> {
    /// They are the same.
    Ascii,
    /// The text is the input, and bytes are what counts: those of whole characters.
    Bytes(&'t str),
    /// The text is the input; characters are counted on the way.
    Counted {
        text: &'t [u8],
        byte: usize,
        characters: u32,
    },
    /// The text was rewritten.
    Traced(&'t Aligned<'t>, Characters),
}

impl<'t> Full<'t> {
    /// For the tokens of `input`, or of `text` where it was normalised to that.
    pub(crate) fn new(input: &'t str, text: Option<&'t Aligned<'t>>, unit: Unit) -> Self {
        let offsets = if let Some(text) = text.filter(|text| !text.is_input()) {
            let characters = match unit {
                Unit::Characters => Characters::of(input),
                Unit::Bytes => Characters::bytes(),
            };
            Offsets::Traced(text, characters)
        } else if input.is_ascii() {
            Offsets::Ascii
        } else if unit == Unit::Bytes {
            Offsets::Bytes(input)
        } else {
            Offsets::Counted {
                text: input.as_bytes(),
                byte: 0,
                characters: 0,
            }
        };
        let mut encoding = Encoding::default();
        let tokens = input.len() / 3 + 8;
        encoding.ids.reserve(tokens);
        encoding.offsets.reserve(tokens);
        encoding.word_ids.reserve(tokens);
        Self {
            encoding,
            input,
            offsets,
            words: 0,
        }
    }

    pub(crate) fn finish(mut self) -> Encoding {
        let tokens = self.encoding.ids.len();
        self.encoding.type_ids = vec![0; tokens];
        self.encoding.special_tokens_mask = vec![0; tokens];
        self.encoding
    }

    #[inline(always)]
    fn push(&mut self, id: u32, start: usize, end: usize) {
        let offsets = self.offsets.of(start, end);
        self.encoding.ids.push(id);
        self.encoding.offsets.push(offsets);
        let word = self.words.saturating_sub(1);
        self.encoding.word_ids.push(Some(word));
    }
}

impl Full<'_> {
    /// A token of what begins at byte `start`.
    #[inline(always)]
    fn cached(&mut self, start: usize, token: Cached) {
        let (from, to) = (start + token.start as usize, start + token.end as usize);
        if token.literal {
            let text = self.input.get(from..to).unwrap_or("");
            let at = self.encoding.ids.len();
            self.encoding.literals.push((at, text.to_owned()));
        }
        self.push(token.id, from, to);
    }
}

impl Offsets<'_> {
    #[inline(always)]
    fn of(&mut self, start: usize, end: usize) -> (u32, u32) {
        match self {
            Self::Ascii => (start as u32, end as u32),
            Self::Bytes(text) => (
                text.floor_char_boundary(start) as u32,
                text.ceil_char_boundary(end) as u32,
            ),
            Self::Counted {
                text,
                byte,
                characters,
            } => {
                let begins = |byte: u8| byte & 0xc0 != 0x80;
                let between = |from: usize, to: usize| -> u32 {
                    let bytes = text.get(from..to).unwrap_or(&[]);
                    bytes.iter().map(|byte| u32::from(begins(*byte))).sum()
                };
                let mut count = |to: usize| {
                    // Tokens that share a character begin where the one before began.
                    *characters = if to < *byte {
                        *characters - between(to, *byte)
                    } else {
                        *characters + between(*byte, to)
                    };
                    *byte = to;
                    *characters
                };
                let before = count(start);
                // A token that starts inside a character has all of it.
                let inside = text.get(start).is_some_and(|byte| !begins(*byte));
                (before - u32::from(inside), count(end))
            }
            Self::Traced(text, characters) => {
                let origin = text.origin_of(start, end);
                characters.range(origin.unwrap_or((start as u32, end as u32)))
            }
        }
    }
}

impl Output for Full<'_> {
    fn word(&mut self, start: usize, word: &str, tokens: &[Token]) {
        self.words += 1;
        for token in tokens {
            if token.literal {
                let text = word.get(token.start..token.end).unwrap_or("");
                let at = self.encoding.ids.len();
                self.encoding.literals.push((at, text.to_owned()));
            }
            self.push(token.id, start + token.start, start + token.end);
        }
    }

    #[inline(always)]
    fn short<const N: usize>(&mut self, start: usize, entry: &Short<N>, begins: u32) {
        self.words += begins;
        for token in entry.tokens() {
            self.cached(start, token);
        }
    }

    fn stretch(&mut self, start: usize, pieces: &[Piece], after: u32) {
        for piece in pieces {
            self.words += piece.begins;
            if let Some(text) = &piece.literal {
                let at = self.encoding.ids.len();
                self.encoding.literals.push((at, text.clone()));
            }
            self.push(piece.id, start + piece.start, start + piece.end);
        }
        self.words += after;
    }

    fn long(&mut self, start: usize, entry: &Long) {
        for (at, token) in entry.tokens().enumerate() {
            self.words += u32::from(entry.begins >> at & 1);
            self.cached(start, token);
        }
    }
}
