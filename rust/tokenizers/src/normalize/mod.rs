//! Normalizers: rewrite the text before it is cut, keeping track of where each character came from.

mod bert;
mod charsmap;
mod forms;
mod sentencepiece;

pub(crate) use bert::{Bert, Fates};
pub(crate) use charsmap::Charsmap;
pub(crate) use forms::Form;
pub(crate) use sentencepiece::Rules;

use unicode_normalization_alignments::char::is_combining_mark;

use crate::{byte_level, pattern::Pattern, text::Aligned};

/// One step of normalisation.
pub(crate) enum Normalizer {
    /// Clean-up, accents and case as BERT does them.
    Bert(Box<Bert>),
    /// A Unicode normal form.
    Form(Form),
    /// Unicode lower case.
    Lowercase,
    /// Control characters go, and all kinds of space become one: what `SentencePiece`'s `nmt` rules do.
    Nmt,
    /// Drops combining marks.
    StripAccents,
    /// Drops white space at the ends.
    Strip { left: bool, right: bool },
    /// Puts a string before a text that is not empty.
    Prepend(String),
    /// Replaces every match.
    Replace { pattern: Pattern, content: String },
    /// The compiled character map of a `SentencePiece` model.
    Charsmap(Charsmap),
    /// All that a `SentencePiece` model does to a text, in its own order.
    SentencePiece(Box<Rules>),
    /// Writes every byte as a visible character.
    ByteLevel,
    /// All of these, in order.
    Sequence(Vec<Normalizer>),
}

impl Normalizer {
    /// As `apply`, for a text that goes on after another: nothing is put before it.
    pub(crate) fn go_on(&self, text: &mut Aligned) {
        match self {
            Self::Prepend(_) => {}
            Self::Sequence(steps) => steps.iter().for_each(|step| step.go_on(text)),
            step => step.apply(text),
        }
    }

    pub(crate) fn apply(&self, text: &mut Aligned) {
        match self {
            Self::Bert(bert) => bert.apply(text),
            Self::Form(form) => form.apply(text),
            Self::Lowercase => lowercase(text),
            Self::Nmt => nmt(text),
            Self::StripAccents => text.retain(|c| !is_combining_mark(c)),
            Self::Strip { left, right } => strip(text, *left, *right),
            Self::Prepend(prefix) => text.prepend(prefix),
            Self::Replace { pattern, content } => {
                let mut matches = Vec::new();
                pattern.find(text.as_str(), &mut matches);
                text.replace(&matches, content);
            }
            Self::Charsmap(charsmap) => charsmap.apply(text),
            Self::SentencePiece(rules) => rules.apply(text),
            Self::ByteLevel => text.map_chars(|c, push| byte_level::spell(c, push)),
            Self::Sequence(steps) => steps.iter().for_each(|step| step.apply(text)),
        }
    }
}

fn lowercase(text: &mut Aligned) {
    let unchanged = |c: char| c.is_ascii() && !c.is_ascii_uppercase();
    if !text.as_str().chars().all(unchanged) {
        text.map_chars(|c, push| c.to_lowercase().for_each(push));
    }
}

fn nmt(text: &mut Aligned) {
    text.retain(|c| {
        !matches!(c, '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{8f}' | '\u{9f}')
    });
    let is_space = |c: char| {
        matches!(
            c,
            '\t' | '\n' | '\u{c}' | '\r' | '\u{1680}' | '\u{200b}'
                ..='\u{200f}' | '\u{2028}' | '\u{2029}' | '▁' | '\u{feff}' | '\u{fffd}'
        )
    };
    if text.as_str().chars().any(is_space) {
        text.map_chars(|c, push| push(if is_space(c) { ' ' } else { c }));
    }
}

fn strip(text: &mut Aligned, left: bool, right: bool) {
    let full = text.as_str();
    let start = if left {
        full.len() - full.trim_start().len()
    } else {
        0
    };
    let end = if right {
        full.trim_end().len()
    } else {
        full.len()
    };
    if (start, end) == (0, full.len()) {
        return;
    }
    let mut at = 0;
    text.map_chars(|c, push| {
        if at >= start && at < end {
            push(c);
        }
        at += c.len_utf8();
    });
}
