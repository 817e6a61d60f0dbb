//! BERT's normalizer.

use std::sync::OnceLock;

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::{UnicodeNormalization, char::canonical_combining_class};

use super::{Form, lowercase};
use crate::text::Aligned;

/// What BERT does to text before cutting it.
#[allow(clippy::struct_excessive_bools)] // four independent switches of the file format
pub(crate) struct Bert {
    /// Drops control characters and writes every white space as one space.
    pub(crate) clean_text: bool,
    /// Puts spaces around CJK ideographs.
    pub(crate) handle_chinese_chars: bool,
    /// Decomposes and drops non-spacing marks.
    pub(crate) strip_accents: bool,
    /// Unicode lower case.
    pub(crate) lowercase: bool,
    pub(crate) fates: Fates,
}

/// What becomes of a character.
#[derive(Clone, Copy)]
enum Fate {
    Is(char),
    Gone,
    /// More than one character.
    Several,
    /// That depends on what is beside it, or it lies beyond the table.
    Tangled,
}

/// The fates of the characters below U+3400, by 256, told when they are first met.
pub(crate) struct Fates([OnceLock<Box<[Fate]>>; 0x34]);

impl Default for Fates {
    fn default() -> Self {
        Self([const { OnceLock::new() }; 0x34])
    }
}

impl Bert {
    /// Character by character wherever that gives what the steps give one after the other.
    pub(crate) fn apply(&self, text: &mut Aligned) {
        let kept = |byte: u8| (b' '..0x7f).contains(&byte) && !byte.is_ascii_uppercase();
        if text.as_str().bytes().all(kept) {
            return;
        }
        let is_tangled = |c| matches!(self.fate(c), Fate::Tangled);
        if text.as_str().chars().any(is_tangled) {
            return self.apply_steps(text);
        }
        text.map_chars(|c, push| match self.fate(c) {
            Fate::Is(c) => push(c),
            Fate::Gone | Fate::Tangled => {}
            Fate::Several => self.written(c).chars().for_each(push),
        });
    }

    #[inline]
    fn fate(&self, c: char) -> Fate {
        let (page, place) = (c as u32 >> 8, c as u32 & 255);
        let Some(page) = self.fates.0.get(page as usize) else {
            return Fate::Tangled;
        };
        let first = c as u32 - place;
        let judge = |code| char::from_u32(code).map_or(Fate::Gone, |c| self.judge(c));
        let page = page.get_or_init(|| (first..first + 256).map(judge).collect());
        page.get(place as usize).copied().unwrap_or(Fate::Gone)
    }

    fn judge(&self, c: char) -> Fate {
        // Marks may change places, and not all of them are dropped.
        let stays = |c: char| canonical_combining_class(c) != 0 && !is_mark(c);
        if self.strip_accents && std::iter::once(c).nfd().any(|(c, _)| stays(c)) {
            return Fate::Tangled;
        }
        let written = self.written(c);
        let mut chars = written.chars();
        match (chars.next(), chars.next()) {
            (None, _) => Fate::Gone,
            (Some(c), None) => Fate::Is(c),
            _ => Fate::Several,
        }
    }

    /// What a character becomes by itself.
    fn written(&self, c: char) -> String {
        let mut bytes = [0; 4];
        let mut text = Aligned::new(c.encode_utf8(&mut bytes), 0);
        self.apply_steps(&mut text);
        text.as_str().to_owned()
    }

    fn apply_steps(&self, text: &mut Aligned) {
        if self.clean_text && !text.as_str().bytes().all(|b| (b' '..0x7f).contains(&b)) {
            text.map_chars(|c, push| match c {
                '\0' | '\u{fffd}' => {}
                '\t' | '\n' | '\r' => push(' '),
                c if is_other(c) => {}
                c if c.is_whitespace() => push(' '),
                c => push(c),
            });
        }
        if self.handle_chinese_chars && text.as_str().chars().any(is_cjk) {
            text.map_chars(|c, push| {
                if is_cjk(c) {
                    [' ', c, ' '].into_iter().for_each(push);
                } else {
                    push(c);
                }
            });
        }
        if self.strip_accents && !text.as_str().is_ascii() {
            Form::Nfd.apply(text);
            text.retain(|c| !is_mark(c));
        }
        if self.lowercase {
            lowercase(text);
        }
    }
}

/// The blocks that BERT's authors took for Chinese: ideographs, without kana and hangul.
fn is_cjk(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x2_0000..=0x2_A6DF
            | 0x2_A700..=0x2_B73F
            | 0x2_B740..=0x2_B81F
            | 0x2_B920..=0x2_CEAF
            | 0xF900..=0xFAFF
            | 0x2_F800..=0x2_FA1F
    )
}

/// Control, format, private; letters are told first because that is quicker.
fn is_other(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    !c.is_alphabetic() && c.is_other()
}

/// Non-spacing marks; where there are none is told first.
fn is_mark(c: char) -> bool {
    let none = matches!(c, '\0'..'\u{300}' | '\u{370}'..='\u{482}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}');
    !none && c.is_mark_nonspacing()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_quickly_is_told_right() {
        for c in '\0'..=char::MAX {
            assert_eq!(is_other(c), c.is_other(), "{c:?}");
            assert_eq!(is_mark(c), c.is_mark_nonspacing(), "{c:?}");
        }
    }

    #[test]
    fn character_by_character_is_step_by_step() {
        let bert = |clean_text, handle_chinese_chars, strip_accents, lowercase| Bert {
            clean_text,
            handle_chinese_chars,
            strip_accents,
            lowercase,
            fates: Fates::default(),
        };
        let traced = |text: &Aligned| text.chars().collect::<Vec<_>>();
        for bert in [
            bert(true, true, true, true),
            bert(false, false, true, false),
            bert(true, false, false, true),
            bert(false, true, false, false),
        ] {
            for c in '\0'..=char::MAX {
                // Alone, and between marks that change places; U+302E stays.
                let alone = format!("{c}");
                let among = format!("e\u{301}\u{323}{c}\u{323}\u{301} 語{c}");
                let beside = format!("Å{c}\u{323}\u{301}\u{302e}ǅ");
                for text in [alone, among, beside] {
                    let (mut quick, mut slow) = (Aligned::new(&text, 0), Aligned::new(&text, 0));
                    bert.apply(&mut quick);
                    bert.apply_steps(&mut slow);
                    assert_eq!(traced(&quick), traced(&slow), "{text:?}");
                }
            }
        }
    }
}
