//! The simplest stretches, whose words can be told without the normaliser and the splitter.

use crate::{
    normalize::Normalizer,
    pattern::Pattern,
    split::Splitter,
    stretch::{Stretches, is_blank, is_visible, prepare},
};

/// What becomes of a stretch that needs neither the normaliser nor the splitter to say so: of visible ASCII behind the
/// space that begins it, or of letters and digits where there is no such space.
pub(crate) struct Plain {
    /// What the space becomes, or what is put in its place, and the bytes of the stretch that this stands for.
    mark: String,
    origin: (usize, usize),
    /// The stretch begins with the space.
    pub(crate) has_space: bool,
    lowercase: bool,
}

impl Plain {
    pub(crate) fn of(
        stretches: Stretches,
        normalizer: Option<&Normalizer>,
        splitter: Option<&Splitter>,
    ) -> Option<Self> {
        if let (Stretches::Bert, Some(Normalizer::Bert(bert))) = (stretches, normalizer) {
            return Some(Self {
                mark: String::new(),
                origin: (0, 0),
                has_space: false,
                lowercase: bert.lowercase,
            });
        }
        if !normalizer.is_none_or(keeps_visible) {
            return None;
        }
        // What becomes of one such stretch becomes of all.
        let text = prepare(normalizer, splitter, " a", (0, 2), true);
        let [span] = text.spans.as_slice() else {
            return None;
        };
        let mark = text.str(span).strip_suffix('a')?;
        let mark_end = span.start + mark.len();
        let (from, _) = text.aligned.origin_of(span.start, mark_end)?;
        Some(Self {
            mark: mark.to_owned(),
            // Either the space's own place or that of the first character, in a stretch without the space.
            origin: (0, 1),
            has_space: from == 0,
            lowercase: false,
        })
    }

    /// Writes the word that `stretch` is, if it is plain.
    pub(crate) fn word(&self, stretch: &str, word: &mut String) -> bool {
        let rest = if self.has_space {
            stretch.strip_prefix(is_blank).unwrap_or("")
        } else {
            stretch
        };
        let plain = if self.mark.is_empty() {
            stretch.bytes().all(|byte| byte.is_ascii_alphanumeric())
        } else {
            !rest.is_empty() && rest.bytes().all(is_visible)
        };
        if plain {
            word.clear();
            word.push_str(&self.mark);
            word.push_str(rest);
            if self.lowercase {
                word.make_ascii_lowercase();
            }
        }
        plain
    }

    /// The bytes of the stretch that bytes of the word stand for.
    pub(crate) fn origin(&self, start: usize, end: usize) -> (usize, usize) {
        let mark = self.mark.len();
        if mark == 0 {
            return (start, end);
        }
        let from = if start < mark {
            self.origin.0
        } else {
            start - mark + usize::from(self.has_space)
        };
        let to = if end <= mark {
            self.origin.1
        } else {
            end - mark + usize::from(self.has_space)
        };
        (from, to)
    }
}

/// Whether the normaliser leaves visible ASCII as it is. Asked of one that `stops_at_spaces`.
fn keeps_visible(normalizer: &Normalizer) -> bool {
    match normalizer {
        Normalizer::Lowercase => false,
        Normalizer::Replace { pattern, .. } => match pattern {
            Pattern::Literal(literal) => literal == " ",
            Pattern::Run(c, least) => *c == ' ' && *least > 1,
            _ => false,
        },
        Normalizer::Sequence(steps) => steps.iter().all(keeps_visible),
        _ => true,
    }
}
