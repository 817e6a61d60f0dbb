//! Post-processors: put special tokens around texts, and trim offsets.

use crate::{byte_level, encoding::Encoding, tokenizer::Tokens};

/// A token that a post-processor adds.
#[derive(Clone)]
pub(crate) struct Special {
    pub(crate) id: u32,
    pub(crate) token: String,
}

/// A place in a template.
pub(crate) enum Piece {
    /// The first text (0) or the second (1), with its type id.
    Text(usize, u32),
    /// Tokens with their type id.
    Special(Vec<Special>, u32),
}

/// What happens to encoded texts before they are returned.
pub(crate) enum Post {
    /// Templates for one text and for two.
    Template {
        single: Vec<Piece>,
        pair: Vec<Piece>,
    },
    /// Special tokens as BERT has them: `cls A sep`, `cls A sep B sep`.
    Bert { cls: Special, sep: Special },
    /// Special tokens as `RoBERTa` has them: `cls A sep`, `cls A sep sep B sep`.
    Roberta {
        cls: Special,
        sep: Special,
        trim: Option<Trim>,
    },
    /// Takes spaces out of the offsets.
    ByteLevel(Option<Trim>),
    /// All of these, in order.
    Sequence(Vec<Post>),
}

/// Offsets leave out the spaces that tokens begin and end with.
#[derive(Clone, Copy)]
pub(crate) struct Trim {
    /// One space at the very beginning was put there by the tokenizer and has no offset to lose.
    pub(crate) prefix_space: bool,
}

impl Post {
    /// Whether offsets are changed.
    pub(crate) fn trims(&self) -> bool {
        match self {
            Self::Roberta { trim, .. } | Self::ByteLevel(trim) => trim.is_some(),
            Self::Sequence(steps) => steps.iter().any(Self::trims),
            Self::Template { .. } | Self::Bert { .. } => false,
        }
    }

    /// How many tokens are added around `texts` texts.
    pub(crate) fn added(&self, texts: usize) -> usize {
        match self {
            Self::Template { single, pair } => (if texts > 1 { pair } else { single })
                .iter()
                .map(|piece| match piece {
                    Piece::Text(..) => 0,
                    Piece::Special(tokens, _) => tokens.len(),
                })
                .sum(),
            Self::Bert { .. } => texts + 1,
            Self::Roberta { .. } => 2 * texts,
            Self::ByteLevel(_) => 0,
            Self::Sequence(steps) => steps.iter().map(|step| step.added(texts)).sum(),
        }
    }

    /// Whether this adds tokens or orders the texts, and so must see them as they are.
    pub(crate) fn arranges(&self) -> bool {
        match self {
            Self::ByteLevel(_) => false,
            Self::Sequence(steps) => steps.iter().any(Self::arranges),
            _ => true,
        }
    }

    pub(crate) fn apply(
        &self,
        mut parts: Vec<Encoding>,
        add_special: bool,
        tokens: &Tokens,
    ) -> Vec<Encoding> {
        match self {
            Self::Template { single, pair } => {
                let template = if parts.len() > 1 { pair } else { single };
                arrange(template, &parts, add_special, tokens)
            }
            Self::Bert { cls, sep } => {
                if add_special {
                    for (at, part) in parts.iter_mut().enumerate() {
                        let (before, type_id) = if at == 0 { (Some(cls), 0) } else { (None, 1) };
                        surround(part, before, sep, type_id, tokens);
                    }
                }
                parts
            }
            Self::Roberta { cls, sep, trim } => {
                for (at, part) in parts.iter_mut().enumerate() {
                    if let Some(trim) = trim {
                        trim.apply(part, tokens);
                    }
                    part.set_type(0);
                    if add_special {
                        part.overflowing.iter_mut().for_each(|cut| cut.set_type(0));
                    }
                    if add_special {
                        surround(part, Some(if at == 0 { cls } else { sep }), sep, 0, tokens);
                    }
                }
                parts
            }
            Self::ByteLevel(trim) => {
                for part in &mut parts {
                    if let Some(trim) = trim {
                        trim.apply(part, tokens);
                    }
                }
                parts
            }
            Self::Sequence(steps) => steps
                .iter()
                .fold(parts, |parts, step| step.apply(parts, add_special, tokens)),
        }
    }
}

fn arrange(
    template: &[Piece],
    parts: &[Encoding],
    add_special: bool,
    tokens: &Tokens,
) -> Vec<Encoding> {
    template
        .iter()
        .filter_map(|piece| match piece {
            Piece::Text(at, type_id) => {
                let mut part = parts.get(*at)?.clone();
                part.set_type(*type_id);
                Some(part)
            }
            Piece::Special(specials, type_id) => add_special.then(|| {
                let mut part = Encoding::default();
                for special in specials {
                    add(&mut part, special, tokens);
                }
                part.set_type(*type_id);
                part
            }),
        })
        .collect()
}

fn surround(
    part: &mut Encoding,
    before: Option<&Special>,
    after: &Special,
    type_id: u32,
    tokens: &Tokens,
) {
    let mut text = std::mem::take(part);
    let mut overflowing = std::mem::take(&mut text.overflowing);
    for cut in &mut overflowing {
        surround(cut, before, after, type_id, tokens);
    }
    if let Some(special) = before {
        add(part, special, tokens);
    }
    part.set_type(type_id);
    part.append(text);
    add(part, after, tokens);
    if let Some(last) = part.type_ids.last_mut() {
        *last = type_id;
    }
    part.overflowing = overflowing;
}

fn add(part: &mut Encoding, special: &Special, tokens: &Tokens) {
    if tokens.token(special.id) != Some(&special.token) {
        part.literals.push((part.len(), special.token.clone()));
    }
    part.push(special.id, (0, 0), None, true);
}

impl Trim {
    fn apply(self, part: &mut Encoding, tokens: &Tokens) {
        let is_space = |c: &char| *c == byte_level::SPACE || c.is_whitespace();
        let mut literals = part.literals.iter().peekable();
        for (at, (id, (start, end))) in part.ids.iter().zip(&mut part.offsets).enumerate() {
            let literal = literals.next_if(|(place, _)| *place == at);
            let token = literal.map_or_else(|| tokens.token(*id).unwrap_or(""), |(_, text)| text);
            let mut leading = token.chars().take_while(is_space).count() as u32;
            let trailing = token.chars().rev().take_while(is_space).count() as u32;
            if leading == 1 && self.prefix_space && (at == 0 || *start == 0) {
                leading = 0;
            }
            *start = (*start + leading).min(*end);
            if *end >= trailing {
                *end = (*end - trailing).max(*start);
            }
        }
        for cut in &mut part.overflowing {
            self.apply(cut, tokens);
        }
    }
}
