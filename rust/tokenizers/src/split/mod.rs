//! Pre-tokenizers: cut the text into the words a model sees.

mod chars;
mod delimiter;

pub(crate) use chars::is_word;
pub(crate) use delimiter::Behavior;

use crate::{
    byte_level,
    pattern::Pattern,
    text::{Origin, Text},
};

/// When `Metaspace` puts its mark before a text that does not begin with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepend {
    Always,
    /// Only at the beginning of the input.
    First,
    Never,
}

/// One step of cutting.
pub(crate) enum Splitter {
    /// At white space, and around punctuation.
    Bert,
    /// Into words, each spelled byte by byte.
    ByteLevel { prefix_space: bool, words: bool },
    /// Spaces become a visible mark, and every word begins with one.
    Metaspace {
        mark: char,
        prepend: Prepend,
        split: bool,
    },
    /// Around matches of a pattern.
    Pattern {
        pattern: Pattern,
        behavior: Behavior,
        invert: bool,
    },
    /// At a character, which is dropped.
    Delimiter(char),
    /// Around numbers.
    Digits { individual: bool },
    /// Around punctuation.
    Punctuation(Behavior),
    /// Into runs of word characters and runs of what is neither that nor space.
    Whitespace,
    /// At white space.
    WhitespaceSplit,
    /// All of these, in order.
    Sequence(Vec<Splitter>),
}

impl Splitter {
    pub(crate) fn apply(&self, text: &mut Text) {
        match self {
            Self::Bert => text.split(chars::bert),
            Self::ByteLevel {
                prefix_space,
                words,
            } => byte_level_words(text, *prefix_space, *words),
            Self::Metaspace {
                mark,
                prepend,
                split,
            } => metaspace(text, *mark, *prepend, *split),
            Self::Pattern {
                pattern,
                behavior,
                invert,
            } => {
                let mut matches = Vec::new();
                text.split(|word, ranges| {
                    matches.clear();
                    pattern.find(word, &mut matches);
                    behavior.cut(word.len(), &matches, *invert, ranges);
                });
            }
            Self::Delimiter(c) => text
                .split(|word, ranges| chars::around(word, |x| x == *c, Behavior::Removed, ranges)),
            Self::Digits { individual } => {
                let behavior = if *individual {
                    Behavior::Isolated
                } else {
                    Behavior::Contiguous
                };
                text.split(|word, ranges| chars::around(word, char::is_numeric, behavior, ranges));
            }
            Self::Punctuation(behavior) => {
                text.split(|word, ranges| {
                    chars::around(word, chars::is_punctuation, *behavior, ranges);
                });
            }
            Self::Whitespace => text.split(chars::word_runs),
            Self::WhitespaceSplit => {
                text.split(|word, ranges| {
                    chars::around(word, char::is_whitespace, Behavior::Removed, ranges);
                });
            }
            Self::Sequence(steps) => steps.iter().for_each(|step| step.apply(text)),
        }
    }
}

fn byte_level_words(text: &mut Text, prefix_space: bool, words: bool) {
    if prefix_space {
        text.rewrite(|word, origin, chars, sink| {
            if !word.starts_with(' ') {
                sink.push(' ', origin);
            }
            chars.for_each(|(c, origin)| sink.push(c, origin));
        });
    }
    if words {
        let mut matches = Vec::new();
        text.split(|word, ranges| {
            matches.clear();
            byte_level::words(word, &mut matches);
            Behavior::Isolated.cut(word.len(), &matches, false, ranges);
        });
    }
    text.rewrite(|_, _, chars, sink| {
        chars.for_each(|(c, origin)| {
            byte_level::spell(c, &mut |spelled| sink.push(spelled, origin));
        });
    });
}

fn metaspace(text: &mut Text, mark: char, prepend: Prepend, split: bool) {
    text.rewrite(|word, origin, chars, sink| {
        let wanted = match prepend {
            Prepend::Always => true,
            Prepend::First => origin.0 == 0,
            Prepend::Never => false,
        };
        if wanted && !word.starts_with([mark, ' ']) {
            sink.push(mark, origin);
        }
        chars.for_each(|(c, origin): (char, Origin)| {
            sink.push(if c == ' ' { mark } else { c }, origin);
        });
    });
    if split {
        text.split(|word, ranges| {
            chars::around(word, |c| c == mark, Behavior::MergedWithNext, ranges);
        });
    }
}
