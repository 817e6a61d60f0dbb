//! Cuts that look at one character at a time.

use std::sync::LazyLock;

use unicode_categories::UnicodeCategories;

use super::Behavior;

/// The punctuation below U+3400, a bit a character.
static PUNCTUATION: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let mut bits = vec![0; 0x3400 / 64];
    for c in ('\0'..'\u{3400}').filter(|c| c.is_ascii_punctuation() || c.is_punctuation()) {
        if let Some(bits) = bits.get_mut(c as usize / 64) {
            *bits |= 1 << (c as u32 % 64);
        }
    }
    bits
});

pub(crate) fn is_punctuation(c: char) -> bool {
    if let Some(bits) = PUNCTUATION.get(c as usize / 64) {
        return bits >> (c as u32 % 64) & 1 == 1;
    }
    // Ideographs and Korean syllables are told first.
    let none = matches!(c, '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}');
    !none && c.is_punctuation()
}

/// Cuts around every character for which `matches` holds.
pub(crate) fn around(
    word: &str,
    matches: impl Fn(char) -> bool,
    behavior: Behavior,
    ranges: &mut Vec<(usize, usize)>,
) {
    let found: Vec<_> = word
        .char_indices()
        .filter(|&(_, c)| matches(c))
        .map(|(at, c)| (at, at + c.len_utf8()))
        .collect();
    behavior.cut(word.len(), &found, false, ranges);
}

/// Drops white space; every punctuation character is a word.
pub(crate) fn bert(word: &str, ranges: &mut Vec<(usize, usize)>) {
    let mut start = 0;
    for (at, c) in word.char_indices() {
        let space = c.is_whitespace();
        if space || is_punctuation(c) {
            let end = at + c.len_utf8();
            ranges.push((start, at));
            if !space {
                ranges.push((at, end));
            }
            start = end;
        }
    }
    ranges.push((start, word.len()));
}

/// Runs of word characters, and runs of what is neither a word character nor white space.
pub(crate) fn word_runs(word: &str, ranges: &mut Vec<(usize, usize)>) {
    #[derive(PartialEq, Clone, Copy)]
    enum Class {
        Word,
        Space,
        Other,
    }
    let mut run = (Class::Space, 0);
    for (at, c) in word.char_indices() {
        let class = if is_word(c) {
            Class::Word
        } else if c.is_whitespace() {
            Class::Space
        } else {
            Class::Other
        };
        if class != run.0 {
            if run.0 != Class::Space {
                ranges.push((run.1, at));
            }
            run = (class, at);
        }
    }
    if run.0 != Class::Space {
        ranges.push((run.1, word.len()));
    }
}

/// Cuts after every `length` characters.
pub(crate) fn fixed_length(word: &str, length: usize, ranges: &mut Vec<(usize, usize)>) {
    let mut start = 0;
    for (at, _) in word.char_indices().step_by(length.max(1)).skip(1) {
        ranges.push((start, at));
        start = at;
    }
    ranges.push((start, word.len()));
}

/// A word character in the sense of `\w`.
pub(crate) fn is_word(c: char) -> bool {
    regex_syntax::is_word_character(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_quickly_is_told_right() {
        for c in '\0'..=char::MAX {
            let slowly = c.is_ascii_punctuation() || c.is_punctuation();
            assert_eq!(is_punctuation(c), slowly, "{c:?}");
        }
    }
}
