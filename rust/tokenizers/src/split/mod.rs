//! Pre-tokenizers: cut the text into the words a model sees.

mod ascii;
pub(crate) mod block;
mod chars;
mod class;
mod delimiter;
mod patterns;
mod scripts;
mod words;

pub(crate) use chars::is_word;
pub(crate) use delimiter::Behavior;
pub(crate) use words::Words;

use aho_corasick::AhoCorasick;

use crate::{
    byte_level,
    pattern::Pattern,
    text::{Origin, Span, Text},
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
    /// Where the script changes.
    Scripts,
    /// Around a model's own symbols, longest first; each is the token of its id.
    Symbols {
        automaton: AhoCorasick,
        ids: Vec<u32>,
    },
    /// After every so many characters.
    FixedLength(usize),
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
            Self::Scripts => text.split(scripts::runs),
            Self::Symbols { automaton, ids } => symbols(text, automaton, ids),
            Self::FixedLength(length) => {
                text.split(|word, ranges| chars::fixed_length(word, *length, ranges));
            }
            Self::Sequence(steps) => steps.iter().for_each(|step| step.apply(text)),
        }
    }
}

/// What comes before words are spelled byte by byte.
pub(crate) struct ByteWords<'a> {
    steps: &'a [Splitter],
    prefix_space: bool,
    /// How the text is cut in the end; it is not if there is none.
    pub(crate) words: Option<Words>,
}

impl ByteWords<'_> {
    /// Whether the words are all there is: nothing is cut before, nothing added.
    pub(crate) fn is_plain(&self) -> bool {
        self.steps.is_empty() && !self.prefix_space
    }

    /// Whether what is cut before looks at one character at a time, so that a space behind what is none begins a word.
    pub(crate) fn begin_with_spaces(&self) -> bool {
        let alone = |step: &Splitter| matches!(step, Splitter::Digits { .. });
        self.steps.iter().all(alone) && (self.steps.is_empty() || !self.prefix_space)
    }
}

impl Splitter {
    /// The cuts without the spelling, for a model that takes bytes; `None` if this does not end in spelling.
    pub(crate) fn byte_words(&self) -> Option<ByteWords<'_>> {
        let (steps, last) = match self {
            Self::Sequence(steps) => {
                let (last, steps) = steps.split_last()?;
                (steps, last)
            }
            last => (&[][..], last),
        };
        let Self::ByteLevel {
            prefix_space,
            words,
        } = *last
        else {
            return None;
        };
        if let [
            steps @ ..,
            Self::Pattern {
                pattern: Pattern::Words(words),
                behavior: Behavior::Isolated,
                invert: false,
            },
        ] = steps
            && !prefix_space
        {
            return Some(ByteWords {
                steps,
                prefix_space,
                words: Some(*words),
            });
        }
        Some(ByteWords {
            steps,
            prefix_space,
            words: words.then_some(Words::Gpt2),
        })
    }
}

impl ByteWords<'_> {
    /// All steps but the last cut.
    pub(crate) fn apply(&self, text: &mut Text) {
        self.steps.iter().for_each(|step| step.apply(text));
        prefix_space(text, self.prefix_space);
    }
}

fn prefix_space(text: &mut Text, wanted: bool) {
    if wanted {
        text.rewrite(|word, origin, chars, sink| {
            if !word.starts_with(' ') {
                sink.push(' ', origin);
            }
            chars.for_each(|(c, origin)| sink.push(c, origin));
        });
    }
}

fn byte_level_words(text: &mut Text, prefix: bool, words: bool) {
    prefix_space(text, prefix);
    if words {
        text.split(|word, ranges| {
            Words::Gpt2.each(word, |start, end| ranges.push((start, end)));
        });
    }
    text.rewrite(|_, _, chars, sink| {
        chars.for_each(|(c, origin)| {
            byte_level::spell(c, &mut |spelled| sink.push(spelled, origin));
        });
    });
}

fn symbols(text: &mut Text, automaton: &AhoCorasick, ids: &[u32]) {
    let mut spans = Vec::with_capacity(text.spans.len());
    for span in &text.spans {
        if span.token.is_some() {
            spans.push(*span);
            continue;
        }
        let mut push = |start: usize, end: usize, token: Option<u32>| {
            if start < end {
                let (start, end) = (span.start + start, span.start + end);
                spans.push(Span { start, end, token });
            }
        };
        let word = text.str(span);
        let mut at = 0;
        for found in automaton.find_iter(word) {
            push(at, found.start(), None);
            let id = ids.get(found.pattern().as_usize()).copied();
            push(found.start(), found.end(), id);
            at = found.end();
        }
        push(at, word.len(), None);
    }
    text.spans = spans;
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
