//! The words of the patterns that nearly all byte-level tokenizers use, by hand: an automaton takes ten times as long.
//!
//! Each is told by its exact spelling. All of them match every character of any text, so a text is cut from word to word.

use super::class::{Classes, LETTER, LOWER, NEWLINE, NUMBER, SPACE, UPPER};

/// A pattern whose words are found by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// GPT-2: a word may begin with a space.
    Gpt2,
    /// cl100k, Llama 3, Qwen 2: a word may begin with any sign.
    Cl100k {
        /// Of a number that is one word.
        digits: usize,
        /// White space at the end of the text is one word, even with line ends in it.
        last_run: bool,
    },
    /// o200k: and goes from capital to small letters.
    O200k,
}

impl Words {
    /// Calls `found` with the bytes of every word; together they are the text.
    #[inline(always)]
    pub(crate) fn each(self, text: &str, found: impl FnMut(usize, usize)) {
        let cutter = Cutter {
            text,
            classes: Classes::get(),
        };
        match self {
            Self::Gpt2 => cutter.each(Self::Gpt2, found, |at| cutter.gpt2(at)),
            Self::Cl100k { digits, last_run } => {
                let words = Self::Cl100k { digits, last_run };
                cutter.each(words, found, |at| cutter.cl100k(at, digits, last_run));
            }
            Self::O200k => cutter.each(Self::O200k, found, |at| cutter.o200k(at)),
        }
    }
}

#[derive(Clone, Copy)]
struct Cutter<'a> {
    text: &'a str,
    classes: &'static Classes,
}

/// Every byte a high bit.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The same byte eight times.
const fn splat(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// The high bit of every byte of `word` that is in `low..=high`, all ASCII.
#[inline(always)]
const fn within(word: u64, low: u8, high: u8) -> u64 {
    let seven = word & !HIGH;
    let from = seven.wrapping_add(splat(0x80 - low));
    let beyond = seven.wrapping_add(splat(0x7f - high));
    from & !beyond & !word & HIGH
}

impl Cutter<'_> {
    /// Words that begin in ASCII by the block, the others one by one.
    #[inline(always)]
    fn each(
        &self,
        words: Words,
        mut found: impl FnMut(usize, usize),
        next: impl Fn(usize) -> usize,
    ) {
        let bytes = self.text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let mut starts = if self.byte(at + 1).is_ascii() {
                words.starts(bytes, at)
            } else {
                0
            };
            if starts == 0 {
                let end = next(at);
                found(at, end);
                at = end;
                continue;
            }
            let block = at;
            while starts != 0 {
                let end = block + starts.trailing_zeros() as usize;
                starts &= starts - 1;
                found(at, end);
                at = end;
            }
        }
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn class(&self, at: usize) -> (u8, usize) {
        self.classes.at(self.text, at)
    }

    /// The end of the run of characters from `at` whose class passes.
    #[inline(always)]
    fn run(&self, mut at: usize, passes: impl Fn(u8) -> bool) -> usize {
        while at < self.text.len() {
            let (class, len) = self.class(at);
            if !passes(class) {
                break;
            }
            at += len;
        }
        at
    }

    /// As `run`, eight bytes at a time while `ascii` marks all of them.
    #[inline(always)]
    fn wide_run(&self, mut at: usize, ascii: impl Fn(u64) -> u64, bit: u8) -> usize {
        let bytes = self.text.as_bytes();
        while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*chunk);
            let count = (ascii(word) ^ HIGH).trailing_zeros() as usize / 8;
            at += count;
            if count == 8 {
                continue;
            }
            if word >> (8 * count) & 0x80 == 0 {
                return at;
            }
            // Beyond ASCII: on by characters, and back here when ASCII goes on.
            loop {
                let (class, len) = self.class(at);
                if class & bit == 0 {
                    return at;
                }
                at += len;
                if self.byte(at) < 0x80 {
                    break;
                }
            }
        }
        self.run(at, |class| class & bit != 0)
    }

    #[inline(always)]
    fn letters(&self, at: usize) -> usize {
        self.wide_run(at, |word| within(word | splat(0x20), b'a', b'z'), LETTER)
    }

    #[inline(always)]
    fn upper(&self, at: usize) -> usize {
        self.wide_run(at, |word| within(word, b'A', b'Z'), UPPER)
    }

    #[inline(always)]
    fn lower(&self, at: usize) -> usize {
        self.wide_run(at, |word| within(word, b'a', b'z'), LOWER)
    }

    #[inline(always)]
    fn others(&self, at: usize) -> usize {
        self.run(at, |class| class & (LETTER | NUMBER | SPACE) == 0)
    }

    fn digits(&self, mut at: usize, most: usize) -> usize {
        for _ in 0..most {
            let (class, len) = self.class(at);
            if class & NUMBER == 0 {
                break;
            }
            at += len;
        }
        at
    }

    /// The end of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at `at`; `at` if there is none.
    fn contraction(&self, at: usize, any_case: bool) -> usize {
        if self.byte(at) != b'\'' {
            return at;
        }
        let fold = if any_case { 0x20 } else { 0 };
        match (self.byte(at + 1) | fold, self.byte(at + 2) | fold) {
            (b's' | b't' | b'm' | b'd', _) => at + 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => at + 3,
            // The long s is an s in another case.
            (0xe5 | 0xc5, 0xbf) if any_case && self.text.get(at + 1..at + 3) == Some("ſ") => {
                at + 3
            }
            _ => at,
        }
    }

    /// `\s+(?!\S)|\s+`: a run leaves its last character to the word that follows.
    fn spaces(&self, start: usize) -> usize {
        let (mut at, mut last) = (start, start);
        loop {
            let (class, len) = self.class(at);
            if class & SPACE == 0 {
                break;
            }
            last = at;
            at += len;
        }
        if at < self.text.len() && last > start {
            last
        } else {
            at
        }
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`; with `last_run`, `\s+$` goes first.
    fn lines(&self, start: usize, last_run: bool) -> usize {
        let (mut at, mut last, mut line) = (start, start, start);
        loop {
            let (class, len) = self.class(at);
            if class & SPACE == 0 {
                break;
            }
            last = at;
            at += len;
            if class & NEWLINE != 0 {
                line = at;
            }
        }
        if at == self.text.len() && (last_run || line == start) {
            at
        } else if line > start {
            line
        } else if last > start {
            last
        } else {
            at
        }
    }

    #[inline(always)]
    fn gpt2(&self, start: usize) -> usize {
        let first = self.byte(start);
        let at = start + usize::from(first == b' ');
        let (class, len) = self.class(at);
        if class & LETTER != 0 {
            return self.letters(at + len);
        }
        if first == b'\'' {
            let end = self.contraction(start, false);
            if end > start {
                return end;
            }
        }
        if class & NUMBER != 0 {
            self.run(at + len, |class| class & NUMBER != 0)
        } else if len == 0 || class & SPACE != 0 {
            self.spaces(start)
        } else {
            self.others(at + len)
        }
    }

    #[inline(always)]
    fn cl100k(&self, start: usize, most: usize, last_run: bool) -> usize {
        let (class, len) = self.class(start);
        if class & LETTER != 0 {
            return self.letters(start + len);
        }
        let contraction = self.contraction(start, true);
        if contraction > start {
            return contraction;
        }
        if class & NUMBER != 0 {
            return self.digits(start, most);
        }
        let (second, second_len) = self.class(start + len);
        if class & NEWLINE == 0 && second & LETTER != 0 {
            return self.letters(start + len + second_len);
        }
        self.signs_or_lines(
            start,
            class,
            len,
            second,
            |class, _| class & NEWLINE != 0,
            last_run,
        )
    }

    /// ` ?[^\s\p{L}\p{N}]+[\r\n]*`, where `goes_on` says what may follow the signs, or else white space.
    #[inline(always)]
    fn signs_or_lines(
        &self,
        start: usize,
        class: u8,
        len: usize,
        second: u8,
        goes_on: impl Fn(u8, u8) -> bool,
        last_run: bool,
    ) -> usize {
        let other = |class: u8| class & (LETTER | NUMBER | SPACE) == 0;
        let after = start + len;
        let spaced = self.byte(start) == b' ' && after < self.text.len() && other(second);
        if class & SPACE != 0 && !spaced {
            return self.lines(start, last_run);
        }
        let mut at = self.others(after);
        while at < self.text.len() && goes_on(self.class(at).0, self.byte(at)) {
            at += 1;
        }
        at
    }

    #[inline(always)]
    fn o200k(&self, start: usize) -> usize {
        let (class, len) = self.class(start);
        let first = start + len;
        let prefix = class & (LETTER | NUMBER | NEWLINE) == 0;
        let word = if class & LETTER != 0 {
            self.capitalised(start).or_else(|| self.capitals(start))
        } else if prefix && self.class(first).0 & (UPPER | LOWER) != 0 {
            // A mark can be the sign before a word or begin it; the former is tried first.
            let mark = class & UPPER != 0;
            let here = || if mark { self.capitalised(start) } else { None };
            self.capitalised(first)
                .or_else(here)
                .or_else(|| self.capitals(first))
        } else if class & UPPER != 0 {
            self.capitalised(start)
        } else {
            None
        };
        if let Some(end) = word {
            return self.contraction(end, true);
        }
        if class & NUMBER != 0 {
            return self.digits(start, 3);
        }
        let second = self.class(first).0;
        self.signs_or_lines(
            start,
            class,
            len,
            second,
            |class, byte| class & NEWLINE != 0 || byte == b'/',
            false,
        )
    }

    /// `U*L+`: capitals, then at least one small letter; a letter without case is both.
    #[inline(always)]
    fn capitalised(&self, start: usize) -> Option<usize> {
        let capitals = self.upper(start);
        let end = self.lower(capitals);
        if end > capitals {
            return Some(end);
        }
        // Capitals give back until what they gave begins with a letter without case.
        let run = self.text.get(start..capitals)?;
        if run.is_ascii() {
            return None;
        }
        let both = |c: &char| self.classes.of(*c) & LOWER != 0;
        let (at, c) = run.char_indices().rev().find(|(_, c)| both(c))?;
        Some(start + at + c.len_utf8())
    }

    /// `U+`.
    #[inline(always)]
    fn capitals(&self, start: usize) -> Option<usize> {
        Some(self.upper(start)).filter(|end| *end > start)
    }
}
