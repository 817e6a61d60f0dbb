//! Finding where a text can be cut.

use super::is_firm;
use crate::split::block::{self, Block, after, before, lowest};

/// ASCII that is seen.
const VISIBLE: (u8, u8) = (b'!', b'~');

pub(crate) fn is_visible(byte: u8) -> bool {
    (VISIBLE.0..=VISIBLE.1).contains(&byte)
}

/// What may become a space.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n')
}

/// Whether a space has firm characters on both sides.
#[inline(always)]
pub(super) fn is_single(text: &str, space: usize, letters: bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(&before), Some(&after)) = (
        space.checked_sub(1).and_then(|at| bytes.get(at)),
        bytes.get(space + 1),
    ) else {
        return false;
    };
    if before.is_ascii() && after.is_ascii() {
        return is_visible(before) && is_visible(after);
    }
    let (before, after) = text.split_at_checked(space).unwrap_or_default();
    let (before, after) = (before.chars().next_back(), after.chars().nth(1));
    letters
        && [before, after]
            .into_iter()
            .all(|c| c.is_some_and(|c| is_firm(c, letters)))
}

/// What BERT's clean-up makes a space.
fn is_bert_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[inline(always)]
pub(super) fn bert(text: &[u8], mut found: impl FnMut(usize, usize)) {
    let byte = |at: usize| text.get(at).copied().unwrap_or(b' ');
    let mut at = 0;
    while at < text.len() {
        if byte(at).is_ascii()
            && let Some(block) = Block::at(text, at)
        {
            let words = BertWords::of(&block);
            let (first, mut starts) = (at, words.starts);
            while starts != 0 {
                let bit = starts.trailing_zeros();
                starts &= starts - 1;
                let length = (!(words.alphanumeric >> bit)).trailing_zeros().max(1);
                let start = first + bit as usize;
                found(start, start + length as usize);
            }
            at = first + words.certain as usize;
            if words.goes_on && at > first {
                continue;
            }
        }
        let start = at;
        let first = byte(at);
        at += 1;
        if is_bert_blank(first) {
            continue;
        }
        if first.is_ascii_alphanumeric() {
            while byte(at).is_ascii_alphanumeric() {
                at += 1;
            }
        }
        // Anything else beside a word may belong to it, or vanish.
        if !is_visible(first) || !(is_visible(byte(at)) || is_bert_blank(byte(at))) {
            while !is_bert_blank(byte(at)) {
                at += 1;
            }
        }
        found(start, at);
    }
}

/// The words of a block for BERT. No word must lie across its beginning.
struct BertWords {
    alphanumeric: u64,
    starts: u64,
    /// All words before this byte are among them.
    certain: u32,
    /// The next byte is not what stands in the way.
    goes_on: bool,
}

impl BertWords {
    #[inline(always)]
    fn of(block: &Block) -> Self {
        let visible = block.within(VISIBLE);
        let alphanumeric = block.letters() | block.within((b'0', b'9'));
        let blank = block.equal(b' ') | block.within((b'\t', b'\n')) | block.equal(b'\r');
        let known = (visible | blank).trailing_ones();
        let mut starts = visible & !(alphanumeric & after(alphanumeric)) & lowest(known);
        let mut certain = known;
        // What comes behind the last word is not known.
        if known > 0 && visible >> (known - 1) & 1 == 1 {
            certain = 63 - starts.leading_zeros().min(63);
            starts &= lowest(certain);
        }
        Self {
            alphanumeric,
            starts,
            certain,
            goes_on: known == 64,
        }
    }
}

#[inline(always)]
pub(super) fn spaces(text: &str, letters: bool, mut found: impl FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    let (mut start, mut at) = (0, 0);
    while let Some(block) = Block::at(bytes, at) {
        let (visible, beyond) = (block.within(VISIBLE), block.beyond());
        let certain = after(visible) & before(visible);
        // Between letters, or at an edge of the block.
        let open = after(beyond) | before(beyond) | 1 | 1 << 63;
        let mut spaces = block.equal(b' ') & (certain | open);
        while spaces != 0 {
            let bit = spaces.trailing_zeros();
            spaces &= spaces - 1;
            let space = at + bit as usize;
            if certain >> bit & 1 == 1 || is_single(text, space, letters) {
                found(start, space);
                start = space;
            }
        }
        at += block::BYTES;
    }
    for (at, &byte) in bytes.iter().enumerate().skip(at) {
        if byte == b' ' && is_single(text, at, letters) {
            found(start, at);
            start = at;
        }
    }
    if start < text.len() {
        found(start, text.len());
    }
}

/// As `spaces`, but between blanks lies nothing.
#[inline(always)]
pub(super) fn blanks(text: &str, letters: bool, mut found: impl FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    // No blank between `start` and `at` is a place to cut.
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        let block = Block::at(bytes, at).filter(|_| bytes.get(at).is_some_and(u8::is_ascii));
        let (mut ends, mut begins) = block.as_ref().map_or((0, 0), blank_runs);
        let (old, first) = (start, at);
        while begins != 0 {
            let (end, begin) = (ends.trailing_zeros(), begins.trailing_zeros());
            ends &= ends - 1;
            begins &= begins - 1;
            at = first + begin as usize;
            found(start, first + end as usize);
            start = at - 1;
        }
        if start > old {
            continue;
        }
        let rest = text.get(at..).unwrap_or("");
        let Some(run) = rest.find(is_blank) else {
            break;
        };
        let behind = rest.get(run..).unwrap_or("").trim_start_matches(is_blank);
        let end = at + run;
        at = bytes.len() - behind.len();
        let left = text.get(..end).and_then(|text| text.chars().next_back());
        let firm = |c: Option<char>| c.is_some_and(|c| is_firm(c, letters));
        if firm(left) && firm(behind.chars().next()) {
            found(start, end);
            start = at - 1;
        }
    }
    if start < bytes.len() {
        found(start, bytes.len());
    }
}

/// Where runs of blanks between visible characters begin and end in a block, each with the other.
#[inline(always)]
fn blank_runs(block: &Block) -> (u64, u64) {
    let visible = block.within(VISIBLE);
    let blank = block.equal(b' ') | block.within((b'\t', b'\n'));
    let known = lowest((visible | blank).trailing_ones());
    if blank & 1 == 1 {
        // Before the first run may be anything.
        return (0, 0);
    }
    (
        blank & after(visible) & known,
        visible & after(blank) & known,
    )
}
