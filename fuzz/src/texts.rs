//! Texts and options of a call.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use lmrs_tokenizers::{
    Dropout, EncodeOptions, Padding, Side, Strategy, Tokenizer, Truncation, Unit,
};

use crate::{FIXTURES, promises};

static SOUND: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let load = |text: &&str| Tokenizer::from_json(text.as_bytes()).expect("a fixture loads");
    FIXTURES.iter().map(load).collect()
});

/// Texts for a tokenizer that is sound.
#[derive(Arbitrary, Debug)]
pub struct Texts {
    tokenizer: u8,
    /// Each repeated so often.
    parts: Vec<(String, u8)>,
    pair: Option<String>,
    options: [u8; 6],
    dropout: Option<(u8, u64)>,
    ids: Vec<u16>,
}

impl Texts {
    /// Encodes the text and decodes the ids.
    pub fn run(self) {
        let tokenizer = &SOUND[self.tokenizer as usize % SOUND.len()];
        let text: String = self
            .parts
            .iter()
            .map(|(part, times)| part.repeat(*times as usize % 16))
            .collect();
        promises(tokenizer, &text);
        let [most, stride, side, length, flags, unit] = self.options;
        let side = if side % 2 == 0 {
            Side::Left
        } else {
            Side::Right
        };
        let options = EncodeOptions {
            add_special_tokens: flags & 1 == 0,
            split_special_tokens: flags & 2 == 0,
            truncation: (flags & 4 == 0).then_some(Truncation {
                max_length: most as usize,
                stride: stride as usize,
                strategy: [
                    Strategy::LongestFirst,
                    Strategy::OnlyFirst,
                    Strategy::OnlySecond,
                ][unit as usize % 3],
                side,
            }),
            padding: None::<Padding>,
            offsets: if length % 2 == 0 {
                Unit::Bytes
            } else {
                Unit::Characters
            },
            dropout: self.dropout.map(|(rate, seed)| Dropout {
                rate: f64::from(rate) / 128.0,
                seed,
            }),
        };
        if let Ok(encoding) = tokenizer.encode(&text, self.pair.as_deref(), &options)
            && options.truncation.is_some()
        {
            assert!(encoding.len() <= most as usize);
        }
        let ids: Vec<u32> = self.ids.iter().map(|id| u32::from(*id)).collect();
        let whole = tokenizer.decode(&ids, false);
        assert!(whole.len() < 1 << 20);
        let cut = tokenizer.truncate_to(&text, most as usize, &EncodeOptions::default());
        assert!(cut.is_ok_and(|cut| text.starts_with(cut)));
    }
}
