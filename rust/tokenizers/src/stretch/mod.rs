//! Stretches of the input whose tokens depend on nothing around them.
//!
//! Normalising and cutting a long text costs more than looking up what came of the same letters before. So where it can
//! be told from a few bytes that no component looks across, the input is cut first and each stretch has its own way through
//! the pipeline, or its tokens are in the cache.

mod cut;

pub(crate) use cut::{is_blank, is_visible};

use cut::{bert, blanks, is_single, spaces};

use crate::{
    model::Model,
    normalize::Normalizer,
    pattern::Pattern,
    plain::Plain,
    split::Splitter,
    text::{Aligned, Span, Text},
    vocabulary::Vocabulary,
};

/// Where the input of a tokenizer can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretches {
    /// BERT: at white space, and around punctuation, in ASCII; elsewhere only at white space.
    Bert,
    /// Before a single space between visible ASCII characters, or letters as well.
    Spaces {
        letters: bool,
        /// Before the last of several blanks as well: those before it vanish.
        runs: bool,
        /// The stretches of a text are one word.
        one_word: bool,
    },
}

/// Letters that neither compose with a space nor become one, whatever comes before and after: no marks, no compatibility
/// forms that are written with a space.
const LETTERS: [(char, char); 16] = [
    ('À', 'Ö'),
    ('Ø', 'ö'),
    ('ø', 'ʯ'),
    ('Ά', 'Ά'),
    ('Έ', 'ϼ'),
    ('Ѐ', 'ҁ'),
    ('Ҋ', 'ԯ'),
    ('Ա', 'Ֆ'),
    ('ա', 'և'),
    ('א', 'ת'),
    ('ء', 'غ'),
    ('ف', 'ي'),
    ('ٱ', 'ۓ'),
    ('ა', 'ჺ'),
    ('Ḁ', 'ỹ'),
    ('가', '힣'),
];

/// Whether a space beside `c` stays what it is.
fn is_firm(c: char, letters: bool) -> bool {
    if c.is_ascii() {
        return is_visible(c as u8);
    }
    let within = |(first, last): &(char, char)| (*first..=*last).contains(&c);
    letters && LETTERS.iter().any(within)
}

/// Where the input of a tokenizer can be cut, and what becomes of the simplest pieces.
pub(crate) struct Cutting {
    pub(crate) at: Stretches,
    /// The space that a stretch begins with has no part in its tokens.
    pub(crate) drops_space: bool,
    pub(crate) plain: Option<Plain>,
}

impl Cutting {
    /// `None` if the input cannot be cut before it is normalised.
    pub(crate) fn of(
        normalizer: Option<&Normalizer>,
        splitter: Option<&Splitter>,
        model: &Model,
    ) -> Option<Self> {
        let at = Stretches::of(normalizer, splitter, model)?;
        let plain = Plain::of(at, normalizer, splitter);
        let drops_space =
            at != Stretches::Bert && plain.as_ref().is_some_and(|plain| !plain.has_space);
        Some(Self {
            at,
            drops_space,
            plain,
        })
    }
}

/// Normalises and cuts `start..end` of the input.
pub(crate) fn prepare<'t>(
    normalizer: Option<&Normalizer>,
    splitter: Option<&Splitter>,
    input: &'t str,
    (start, end): (usize, usize),
    goes_on: bool,
) -> Text<'t> {
    let mut aligned = Aligned::new(input.get(start..end).unwrap_or(""), start);
    match normalizer {
        Some(normalizer) if goes_on => normalizer.go_on(&mut aligned),
        Some(normalizer) => normalizer.apply(&mut aligned),
        None => {}
    }
    let whole = Span {
        start: 0,
        end: aligned.as_str().len(),
        token: None,
    };
    let spans = if whole.end > 0 {
        vec![whole]
    } else {
        Vec::new()
    };
    let mut text = Text { aligned, spans };
    if let Some(splitter) = splitter {
        splitter.apply(&mut text);
    }
    text
}

/// A token of a stretch.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    /// Bytes of the stretch.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// How many words begin between the token before and this one.
    pub(crate) begins: u32,
    /// The token's text, where it is not that of its id.
    pub(crate) literal: Option<String>,
}

impl Stretches {
    fn of(
        normalizer: Option<&Normalizer>,
        splitter: Option<&Splitter>,
        model: &Model,
    ) -> Option<Self> {
        let letters = normalizer.is_none_or(keeps_letters);
        match (normalizer, splitter, model) {
            (Some(Normalizer::Bert(_)), Some(Splitter::Bert), Model::WordPiece(_)) => {
                Some(Self::Bert)
            }
            (_, Some(splitter), Model::Unigram(_) | Model::Bpe(_))
                if normalizer.is_none_or(stops_at_spaces) && cuts_at_spaces(splitter) =>
            {
                Some(Self::Spaces {
                    letters,
                    runs: normalizer.is_none_or(|normalizer| joins_blanks(normalizer, splitter)),
                    one_word: false,
                })
            }
            (Some(normalizer), None, Model::Bpe(bpe))
                if stops_at_spaces(normalizer)
                    && bpe.takes_parts()
                    && begins_tokens(mark(normalizer)?, model.vocabulary(), false) =>
            {
                let letters = letters && begins_tokens(mark(normalizer)?, model.vocabulary(), true);
                Some(Self::Spaces {
                    letters,
                    runs: false,
                    one_word: true,
                })
            }
            _ => None,
        }
    }

    pub(crate) fn is_one_word(self) -> bool {
        matches!(self, Self::Spaces { one_word: true, .. })
    }

    /// Calls `found` with the bytes of every stretch, in order; what lies between them has no tokens.
    #[inline(always)]
    pub(crate) fn each(self, text: &str, found: impl FnMut(usize, usize)) {
        match self {
            Self::Bert => bert(text.as_bytes(), found),
            Self::Spaces {
                letters,
                runs: false,
                ..
            } => spaces(text, letters, found),
            Self::Spaces { letters, .. } => blanks(text, letters, found),
        }
    }

    /// Whether the text can be cut at a space, whatever comes before and after what there is of it.
    pub(crate) fn can_cut(self, text: &str, space: usize) -> bool {
        let before = text.get(..space).and_then(|text| text.chars().next_back());
        match self {
            Self::Bert => before.is_some_and(|c| c.is_alphanumeric() || c.is_ascii_graphic()),
            Self::Spaces { letters, .. } => is_single(text, space, letters),
        }
    }
}

/// Whether the normaliser changes neither a single space between visible ASCII characters nor anything across it.
fn stops_at_spaces(normalizer: &Normalizer) -> bool {
    match normalizer {
        Normalizer::Form(_)
        | Normalizer::Lowercase
        | Normalizer::Nmt
        | Normalizer::StripAccents
        // Only ever done to the first stretch.
        | Normalizer::Prepend(_)
        | Normalizer::Strip { left: false, .. } => true,
        Normalizer::Replace { pattern, content } => match pattern {
            Pattern::Literal(literal) => {
                literal == " " || !literal.contains(' ') && !content.trim().is_empty()
            }
            Pattern::Run(_, least) => *least > 1,
            _ => false,
        },
        Normalizer::Charsmap(map) => (' '..='~').all(|c| map.keeps(c)),
        Normalizer::Sequence(steps) => steps.iter().all(stops_at_spaces),
        _ => false,
    }
}

/// Whether several blanks between firm characters give what the last one alone does, were it a space. Asked of a
/// normaliser that `stops_at_spaces` and a splitter that `cuts_at_spaces`.
fn joins_blanks(normalizer: &Normalizer, splitter: &Splitter) -> bool {
    let Normalizer::Sequence(steps) = normalizer else {
        return false;
    };
    let known = steps.iter().all(|step| match step {
        Normalizer::Charsmap(map) => ['\t', '\n'].into_iter().all(|c| map.writes_space(c)),
        Normalizer::Nmt
        | Normalizer::Form(_)
        | Normalizer::Lowercase
        | Normalizer::Strip { left: false, .. } => true,
        Normalizer::Replace { pattern, .. } => matches!(pattern, Pattern::Run(' ', 2)),
        _ => false,
    });
    let mapped = matches!(
        steps.first(),
        Some(Normalizer::Charsmap(_) | Normalizer::Nmt)
    );
    let joined = matches!(splitter, Splitter::Sequence(_))
        || steps
            .iter()
            .any(|step| matches!(step, Normalizer::Replace { .. }));
    // What becomes of these becomes of any.
    known && mapped && joined && {
        let words = |run: &str| {
            let text = format!("a{run}b");
            let text = prepare(
                Some(normalizer),
                Some(splitter),
                &text,
                (0, text.len()),
                true,
            );
            let words: Vec<_> = text
                .spans
                .iter()
                .map(|span| text.str(span).to_owned())
                .collect();
            let last = text.spans.last().copied().filter(|_| words.len() == 2)?;
            let (from, _) = text.aligned.origin_of(last.start, last.end)?;
            Some((words, from as usize + 1 - run.len()))
        };
        let one = words(" ");
        let runs = ["\n", "\t", "  ", " \n ", "\n\n\t", "\t  "];
        one.is_some() && runs.into_iter().all(|run| words(run) == one)
    }
}

/// Whether the normaliser leaves letters what they are beside a space. Asked of one that `stops_at_spaces`.
fn keeps_letters(normalizer: &Normalizer) -> bool {
    match normalizer {
        Normalizer::Charsmap(map) => {
            let mut letters = LETTERS.iter().flat_map(|(first, last)| *first..=*last);
            letters.all(|c| map.writes_no_space(c))
        }
        Normalizer::Sequence(steps) => steps.iter().all(keeps_letters),
        _ => true,
    }
}

/// Whether every space begins a word.
fn cuts_at_spaces(splitter: &Splitter) -> bool {
    match splitter {
        Splitter::Metaspace { split, .. } => *split,
        Splitter::Sequence(steps) => {
            matches!(steps.as_slice(), [Splitter::WhitespaceSplit, last] if cuts_at_spaces(last))
        }
        _ => false,
    }
}

/// What a normaliser that does nothing else writes for a space.
fn mark(normalizer: &Normalizer) -> Option<&str> {
    match normalizer {
        Normalizer::Sequence(steps) => match steps.as_slice() {
            [step] | [Normalizer::Prepend(_), step] => mark(step),
            _ => None,
        },
        Normalizer::Replace {
            pattern: Pattern::Literal(literal),
            content,
        } if literal == " " && content.chars().count() == 1 => Some(content),
        _ => None,
    }
}

/// Whether the mark is a token and no token has it behind a firm character: then nothing merges across.
fn begins_tokens(mark: &str, vocabulary: &Vocabulary, letters: bool) -> bool {
    let begins = |token: &str| {
        let mut places = token.match_indices(mark);
        places.all(|(at, _)| {
            let before = token.get(..at).and_then(|token| token.chars().next_back());
            !before.is_some_and(|c| is_firm(c, letters))
        })
    };
    vocabulary.id(mark).is_some() && vocabulary.iter().all(|(_, token)| begins(token))
}

#[cfg(test)]
mod tests {
    use unicode_normalization_alignments::{
        UnicodeNormalization,
        char::{canonical_combining_class, is_combining_mark},
    };
    use unicode_segmentation::UnicodeSegmentation;

    use super::*;

    #[test]
    fn a_space_beside_a_firm_letter_stays_what_it_is() {
        for c in LETTERS.iter().flat_map(|(first, last)| *first..=*last) {
            let around = format!("a {c} a");
            assert_eq!(around.graphemes(true).count(), 5, "{c:?}");
            let written: Vec<char> = c.to_string().nfkd().map(|(c, _)| c).collect();
            assert!(!written.iter().any(|c| c.is_whitespace()), "{c:?}");
            let first = written.first().copied().unwrap_or(' ');
            assert_eq!(canonical_combining_class(first), 0, "{c:?}");
            assert!(!is_combining_mark(c) && !is_combining_mark(first), "{c:?}");
            let composed: String = around.nfkc().map(|(c, _)| c).collect();
            assert!(
                composed.starts_with("a ") && composed.ends_with(" a"),
                "{c:?}"
            );
        }
    }
}
