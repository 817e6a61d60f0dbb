//! What the fuzz targets try. A case is built from the fuzzer's bytes, so that most of what is tried has the shape of the
//! real thing; `run` panics where a promise is broken.
#![forbid(unsafe_code)]

mod files;
mod json;
mod texts;

pub use files::File;
pub use json::Json;
pub use texts::Texts;

use lmrs_tokenizers::{EncodeOptions, Tokenizer, Unit};

const FIXTURES: [&str; 6] = [
    include_str!("../../tests/fixtures/tokenizers/byte_bpe.json"),
    include_str!("../../tests/fixtures/tokenizers/roberta.json"),
    include_str!("../../tests/fixtures/tokenizers/wordpiece.json"),
    include_str!("../../tests/fixtures/tokenizers/unigram.json"),
    include_str!("../../tests/fixtures/tokenizers/spm_bpe.json"),
    include_str!("../../tests/fixtures/tokenizers/clip.json"),
];

/// What holds for every tokenizer and text.
fn promises(tokenizer: &Tokenizer, text: &str) {
    let options = EncodeOptions {
        offsets: Unit::Bytes,
        ..EncodeOptions::default()
    };
    let Ok(encoding) = tokenizer.encode(text, None, &options) else {
        return;
    };
    assert_eq!(
        tokenizer.encode_ids(text, &options).ok().as_ref(),
        Some(&encoding.ids)
    );
    for (start, end) in &encoding.offsets {
        assert!(
            start <= end && text.get(*start as usize..*end as usize).is_some(),
            "{start}..{end}"
        );
    }
    let again = tokenizer.encode(text, None, &options);
    assert_eq!(
        again.as_ref(),
        Ok(&encoding),
        "the cache gives what the model gave"
    );
    tokenizer.decode(&encoding.ids, true);
}
