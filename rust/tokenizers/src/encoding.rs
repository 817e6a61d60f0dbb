//! What encoding a text gives.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    text::Bytes,
};

/// The tokens of a text, or of a pair of texts.
///
/// All vectors have one entry a token. Offsets count characters (Unicode scalar values) of the text the token is from, or
/// its bytes if that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// What each token stands for, `start..end`; `(0, 0)` for tokens that no text stands behind.
    pub offsets: Vec<(u32, u32)>,
    /// Which segment each token belongs to, as BERT's segment embeddings want it.
    pub type_ids: Vec<u32>,
    /// 1 for tokens added around the text and for padding, 0 for the text's own.
    pub special_tokens_mask: Vec<u8>,
    /// Which word of its text each token belongs to; `None` for tokens added around the text.
    pub word_ids: Vec<Option<u32>>,
    /// What truncation cut off, in stretches of the same length, each with the tokens added around it.
    pub overflowing: Vec<Encoding>,
    /// Tokens whose text is not that of their id, by position: unknown words, added tokens with white space around.
    pub(crate) literals: Vec<(usize, String)>,
    /// Where the texts lie, in order.
    pub(crate) texts: Vec<(u32, Range<usize>)>,
    /// How many tokens at the beginning, and at the end, are padding.
    pub(crate) padding: (usize, usize),
}

/// Which of two texts loses tokens when they are too long together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The longer one, until both are as long as each other; then both.
    #[default]
    LongestFirst,
    /// The first.
    OnlyFirst,
    /// The second.
    OnlySecond,
}

/// Which end of a text that is too long is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

/// How to make a text fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens to keep, with the tokens added around the text.
    pub max_length: usize,
    /// Which text is cut.
    pub strategy: Strategy,
    /// Which end is cut off.
    pub side: Side,
    /// How many tokens neighbouring stretches of a text have in common.
    pub stride: usize,
}

/// How to make texts equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Tokens that each text has at least; `None` takes the longest of the batch.
    pub length: Option<usize>,
    /// The length is rounded up to a multiple of this.
    pub multiple: usize,
    /// Which end is filled up.
    pub side: Side,
    /// What it is filled with.
    pub id: u32,
    /// The segment of the padding.
    pub type_id: u32,
}

impl Encoding {
    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn push(&mut self, id: u32, offsets: (u32, u32), word: Option<u32>, special: bool) {
        self.ids.push(id);
        self.offsets.push(offsets);
        self.type_ids.push(0);
        self.special_tokens_mask.push(u8::from(special));
        self.word_ids.push(word);
    }

    pub(crate) fn set_type(&mut self, type_id: u32) {
        self.type_ids.fill(type_id);
    }

    /// All of this is text number `text`.
    pub(crate) fn set_text(&mut self, text: usize) {
        self.texts = vec![(text as u32, 0..self.len())];
        for part in &mut self.overflowing {
            part.set_text(text);
        }
    }

    /// Offsets that count characters of `texts` count bytes from now on.
    pub(crate) fn count_bytes(&mut self, texts: &[Bytes]) {
        for (text, range) in &self.texts {
            let Some(bytes) = texts.get(*text as usize) else {
                continue;
            };
            for (start, end) in self.offsets.get_mut(range.clone()).into_iter().flatten() {
                (*start, *end) = (bytes.at(*start), bytes.at(*end));
            }
        }
        for part in &mut self.overflowing {
            part.count_bytes(texts);
        }
    }

    /// 1 for each token, 0 for padding.
    pub fn attention_mask(&self) -> Vec<u32> {
        let (before, after) = self.padding;
        let mut mask = vec![0; before];
        mask.resize(self.len() - after, 1);
        mask.resize(self.len(), 0);
        mask
    }

    /// Which text each token is of, 0 or 1; `None` for tokens that are of none.
    pub fn sequence_ids(&self) -> Vec<Option<u32>> {
        let mut ids = vec![None; self.len()];
        for (text, range) in &self.texts {
            if let Some(ids) = ids.get_mut(range.clone()) {
                ids.fill(Some(*text));
            }
        }
        ids
    }

    /// Puts `other` behind this. What was cut off one is put together with the other, and with all that was cut off it.
    pub(crate) fn append(&mut self, mut other: Self) {
        let mut overflowing = Vec::new();
        let cut = std::mem::take(&mut other.overflowing);
        for before in std::mem::take(&mut self.overflowing) {
            for after in std::iter::once(&other).chain(&cut) {
                let mut whole = before.clone();
                whole.append(after.clone());
                overflowing.push(whole);
            }
        }
        for after in cut {
            let mut whole = self.clone();
            whole.append(after);
            overflowing.push(whole);
        }
        self.extend(other);
        self.overflowing = overflowing;
    }

    fn extend(&mut self, other: Self) {
        let shift = self.len();
        let literals = other.literals.into_iter();
        self.literals
            .extend(literals.map(|(at, text)| (at + shift, text)));
        let texts = other.texts.into_iter();
        self.texts
            .extend(texts.map(|(text, range)| (text, range.start + shift..range.end + shift)));
        self.ids.extend(other.ids);
        self.offsets.extend(other.offsets);
        self.type_ids.extend(other.type_ids);
        self.special_tokens_mask.extend(other.special_tokens_mask);
        self.word_ids.extend(other.word_ids);
    }

    /// Keeps the first `count` tokens, or the last; what is cut off goes to `overflowing` in stretches as long, each
    /// beginning with the `stride` tokens that the one before ended with.
    fn keep(&mut self, count: usize, side: Side, stride: usize) -> Result<()> {
        let len = self.len();
        if count >= len {
            return Ok(());
        }
        if count == 0 {
            let all = std::mem::take(self);
            self.overflowing.push(all);
            return Ok(());
        }
        let step = count.checked_sub(stride).filter(|step| *step > 0);
        let Some(step) = step else {
            return Err(Error::Input(format!(
                "stride is {stride}, expected less than the {count} tokens that are kept of a text"
            )));
        };
        let pieces = (len - count).div_ceil(step);
        let mut stretches = (0..=pieces).map(|piece| match side {
            Side::Right => (piece * step, (piece * step + count).min(len)),
            Side::Left => {
                let end = len - piece * step;
                (end.saturating_sub(count), end)
            }
        });
        let (start, end) = stretches.next().unwrap_or((0, len));
        let overflowing = stretches
            .map(|(start, end)| self.stretch(start, end))
            .collect();
        *self = self.stretch(start, end);
        self.overflowing = overflowing;
        Ok(())
    }

    fn stretch(&self, start: usize, end: usize) -> Self {
        fn cut<T: Copy>(all: &[T], start: usize, end: usize) -> Vec<T> {
            all.get(start..end).unwrap_or(&[]).to_vec()
        }
        let literals = self.literals.iter();
        Self {
            ids: cut(&self.ids, start, end),
            offsets: cut(&self.offsets, start, end),
            type_ids: cut(&self.type_ids, start, end),
            special_tokens_mask: cut(&self.special_tokens_mask, start, end),
            word_ids: cut(&self.word_ids, start, end),
            overflowing: Vec::new(),
            literals: literals
                .filter(|(at, _)| (start..end).contains(at))
                .map(|(at, text)| (at - start, text.clone()))
                .collect(),
            texts: Vec::new(),
            padding: (0, 0),
        }
    }

    /// Fills up to `length` tokens, and so what was cut off.
    fn pad(&mut self, length: usize, padding: &Padding) {
        for part in &mut self.overflowing {
            part.pad(length, padding);
        }
        let missing = length.saturating_sub(self.len());
        if missing == 0 {
            return;
        }
        let mut fill = Self::default();
        for _ in 0..missing {
            fill.push(padding.id, (0, 0), None, true);
        }
        fill.set_type(padding.type_id);
        let overflowing = std::mem::take(&mut self.overflowing);
        match padding.side {
            Side::Right => {
                self.padding.1 += missing;
                self.extend(fill);
            }
            Side::Left => {
                fill.padding = (self.padding.0 + missing, self.padding.1);
                fill.extend(std::mem::take(self));
                *self = fill;
            }
        }
        self.overflowing = overflowing;
    }
}

/// Makes all texts as long as the padding says.
pub(crate) fn pad(encodings: &mut [Encoding], padding: &Padding) -> Result<()> {
    const MOST: usize = 1 << 28;
    let longest = || encodings.iter().map(Encoding::len).max().unwrap_or(0);
    let length = padding.length.unwrap_or_else(longest);
    let length = length
        .checked_next_multiple_of(padding.multiple.max(1))
        .filter(|length| length.saturating_mul(encodings.len()) <= MOST);
    let Some(length) = length else {
        return Err(Error::Input(format!(
            "{} texts would be padded to more than {MOST} tokens",
            encodings.len()
        )));
    };
    for encoding in encodings {
        encoding.pad(length, padding);
    }
    Ok(())
}

/// Shortens the texts so that they and `added` more tokens fit.
pub(crate) fn truncate(
    parts: &mut [Encoding],
    added: usize,
    truncation: &Truncation,
) -> Result<()> {
    let Truncation {
        max_length,
        strategy,
        side,
        stride,
    } = *truncation;
    let Some(room) = max_length.checked_sub(added) else {
        return Err(Error::Input(format!(
            "max_length is {max_length}, but {added} tokens are added around the text"
        )));
    };
    let total: usize = parts.iter().map(Encoding::len).sum();
    if total <= room {
        return Ok(());
    }
    let excess = total - room;
    match (strategy, parts) {
        (_, parts) if room == 0 => {
            for part in parts {
                part.keep(0, side, stride)?;
            }
        }
        (Strategy::LongestFirst, [first, second]) => {
            let (short, long) = (first.len().min(second.len()), first.len().max(second.len()));
            let (mut a, mut b) = (short, long.min(short.max(room.saturating_sub(short))));
            if a + b > room {
                (a, b) = (room / 2, room / 2 + room % 2);
            }
            if first.len() > second.len() {
                (a, b) = (b, a);
            }
            first.keep(a, side, stride)?;
            second.keep(b, side, stride)?;
        }
        (Strategy::LongestFirst | Strategy::OnlyFirst, [only]) => {
            only.keep(room, side, stride)?;
        }
        (Strategy::OnlyFirst, [target, _]) | (Strategy::OnlySecond, [_, target]) => {
            if target.len() <= excess {
                return Err(Error::Input(format!(
                    "{excess} tokens must go, but the text to cut has only {}",
                    target.len()
                )));
            }
            target.keep(target.len() - excess, side, stride)?;
        }
        _ => return Err(Error::Input("there is no second text to cut".to_owned())),
    }
    Ok(())
}
