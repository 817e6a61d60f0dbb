//! Unicode normal forms.

use unicode_normalization_alignments::UnicodeNormalization;

use crate::text::Aligned;

/// A Unicode normal form.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

impl Form {
    pub(crate) fn apply(self, text: &mut Aligned) {
        if text.as_str().is_ascii() {
            return;
        }
        let old = text.as_str().to_owned();
        match self {
            Self::Nfc => text.edit(old.chars().nfc()),
            Self::Nfd => text.edit(old.chars().nfd()),
            Self::Nfkc => text.edit(old.chars().nfkc()),
            Self::Nfkd => text.edit(old.chars().nfkd()),
        }
    }
}
