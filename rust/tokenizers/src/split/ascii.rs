//! Where the words of the known patterns begin in ASCII, sixty-four bytes at once.

use super::{
    block::{Block, after, before, lowest, reached, reached_back},
    words::Words,
};

/// What the bytes of a block are, and the bytes themselves.
struct Classes<'t> {
    bytes: &'t [u8],
    letters: u64,
    digits: u64,
    spaces: u64,
    /// `' '` alone.
    blanks: u64,
    /// Neither letter, digit nor white space.
    signs: u64,
}

impl Words {
    /// The bytes behind `at` at which words begin, bit `i` for byte `at + i`, as far as that is certain; `at` must begin
    /// a word. Nothing where no word is certain to end.
    #[inline(always)]
    pub(super) fn starts(self, text: &[u8], at: usize) -> u64 {
        let Some(block) = Block::at(text, at) else {
            return 0;
        };
        let (letters, spaces) = (block.letters(), block.spaces());
        let digits = block.within((b'0', b'9'));
        let beyond = block.beyond();
        let classes = Classes {
            bytes: text.get(at..).unwrap_or(&[]),
            letters,
            digits,
            spaces,
            blanks: block.equal(b' '),
            signs: !(letters | digits | spaces | beyond),
        };
        // A contraction is known by the two bytes that follow, white space by what ends its run.
        let known = beyond.trailing_zeros();
        let ended = 64 - (!spaces & lowest(known)).leading_zeros();
        let sure = lowest(known.saturating_sub(1).min(ended + 1)) & !1;
        sure & match self {
            Self::Gpt2 => classes.gpt2(),
            Self::Cl100k { digits, .. } => classes.cl100k(newlines(&block), digits),
            Self::O200k => classes.o200k(newlines(&block), &block),
        }
    }
}

#[inline(always)]
fn newlines(block: &Block) -> u64 {
    block.equal(b'\n') | block.equal(b'\r')
}

impl Classes<'_> {
    /// Those that follow another class, but none that a space belongs to.
    #[inline(always)]
    fn begin(&self, class: u64) -> u64 {
        class & !after(class) & !after(self.blanks)
    }

    #[inline(always)]
    fn gpt2(&self) -> u64 {
        let signs = self.begin(self.signs);
        let spaces = self.spaces & (!after(self.spaces) | before(!self.spaces));
        let starts = signs | self.begin(self.letters) | self.begin(self.digits) | spaces;
        self.contractions(starts, signs, false)
    }

    #[inline(always)]
    fn cl100k(&self, newlines: u64, digits: usize) -> u64 {
        let lines = reached(newlines, newlines & after(self.signs));
        let signs = self.begin(self.signs);
        let starts = signs
            | self.letters & !after(self.letters) & !self.prefixes(signs, newlines)
            | self.numbers(digits)
            | lines_and_spaces(self.spaces & !lines, newlines & !lines);
        self.contractions(starts, signs, true)
    }

    #[inline(always)]
    fn o200k(&self, newlines: u64, block: &Block) -> u64 {
        let ends = newlines | block.equal(b'/');
        let lines = reached(ends, newlines & after(self.signs));
        let signs = self.signs & !lines;
        let signs = signs & !after(signs) & !after(self.blanks);
        let upper = block.within((b'A', b'Z'));
        let starts = signs
            | self.letters & !after(self.letters) & !self.prefixes(signs, newlines)
            | upper & after(self.letters & !upper)
            | self.numbers(3)
            | lines_and_spaces(self.spaces & !lines, newlines & !lines);
        self.suffixes(starts)
    }

    /// Behind a sign that begins a word, and behind white space that ends no line, letters go on.
    #[inline(always)]
    fn prefixes(&self, signs: u64, newlines: u64) -> u64 {
        after(signs | self.spaces & !newlines)
    }

    /// Runs of digits in words of one, or of up to three.
    #[inline(always)]
    fn numbers(&self, most: usize) -> u64 {
        if most == 1 {
            return self.digits;
        }
        let whole = self.digits & after(self.digits) & after(after(self.digits));
        let mut starts = self.digits & !after(self.digits);
        let mut all = starts;
        while starts != 0 {
            starts = starts << 3 & whole;
            all |= starts;
        }
        all
    }

    /// A contraction that `begins` a word ends it as well.
    #[inline(always)]
    fn contractions(&self, mut starts: u64, begins: u64, any_case: bool) -> u64 {
        let mut signs = begins & before(self.letters);
        while signs != 0 {
            let at = signs.trailing_zeros();
            signs &= signs - 1;
            let length = self.contraction(at as usize, any_case);
            if length > 0 {
                starts &= !(lowest(length - 1) << (at + 1));
                starts |= 1_u64.checked_shl(at + length).unwrap_or(0);
            }
        }
        starts
    }

    /// A contraction behind a letter belongs to the word, which ends behind it.
    #[inline(always)]
    fn suffixes(&self, mut starts: u64) -> u64 {
        let mut signs = self.signs & after(self.letters) & before(self.letters);
        let mut end = 0;
        while signs != 0 {
            let at = signs.trailing_zeros();
            signs &= signs - 1;
            let length = self.contraction(at as usize, true);
            // What follows a contraction is a word of its own.
            if length > 0 && at != end {
                end = at + length;
                starts &= !(lowest(length) << at);
                starts |= 1_u64.checked_shl(end).unwrap_or(0);
            }
        }
        starts
    }

    /// The bytes of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at `at`.
    #[inline(always)]
    fn contraction(&self, at: usize, any_case: bool) -> u32 {
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or(0);
        if byte(at) != b'\'' {
            return 0;
        }
        let fold = if any_case { 0x20 } else { 0 };
        match (byte(at + 1) | fold, byte(at + 2) | fold) {
            (b's' | b't' | b'm' | b'd', _) => 2,
            (b'r' | b'v', b'e') | (b'l', b'l') => 3,
            _ => 0,
        }
    }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: runs of `spaces` end behind their last line end, or leave their last character.
#[inline(always)]
fn lines_and_spaces(spaces: u64, newlines: u64) -> u64 {
    let first = spaces & !after(spaces);
    let inner = spaces & !newlines;
    let last = inner & before(!spaces);
    let behind = reached_back(inner, last) & after(newlines);
    first | last | behind
}
