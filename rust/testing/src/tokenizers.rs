//! The small tokenizer files that are committed.

use std::path::Path;

/// One of each kind of pipeline.
pub const FIXTURES: [&str; 6] = [
    "byte_bpe",
    "roberta",
    "wordpiece",
    "unigram",
    "spm_bpe",
    "clip",
];

/// The `tokenizer.json` of that name.
///
/// # Panics
/// If there is none.
pub fn fixture(name: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers");
    let path = directory.join(format!("{name}.json"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
