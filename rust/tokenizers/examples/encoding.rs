//! Megabytes a second of a tokenizer over files: `cargo run --release -p lmrs-tokenizers --example encoding TOKENIZER.json TEXT...`.
//!
//! Each text is cut into documents of about 4 KB. "fresh" is one pass of a tokenizer that has seen nothing, "warm" the
//! best of three more passes.

use std::{hint::black_box, path::Path, time::Instant};

use lmrs_tokenizers::{BertVocab, EncodeOptions, Tokenizer};

fn load(path: &str) -> Tokenizer {
    let bytes = std::fs::read(path).expect("a readable file");
    let tokenizer = if Path::new(path)
        .extension()
        .is_some_and(|kind| kind == "txt")
    {
        Tokenizer::from_bert_vocab(&bytes, &BertVocab::default())
    } else {
        Tokenizer::from_json(&bytes)
    };
    tokenizer.expect("a tokenizer")
}

fn documents(text: &str) -> Vec<&str> {
    let mut rest = text;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let near = rest.floor_char_boundary(4000.min(rest.len()));
        let end = rest[near..]
            .find('\n')
            .map_or(rest.len(), |at| near + at + 1);
        let (document, after) = rest.split_at(end);
        all.push(document);
        rest = after;
    }
    all
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("a tokenizer");
    let options = EncodeOptions {
        add_special_tokens: false,
        ..EncodeOptions::default()
    };
    let start = Instant::now();
    drop(load(&path));
    println!("load {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    for file in arguments {
        let text = std::fs::read_to_string(&file).expect("a text");
        let texts = documents(&text);
        let megabytes = text.len() as f64 / 1e6;
        let rate = |work: &dyn Fn(&str)| {
            let start = Instant::now();
            for text in &texts {
                work(text);
            }
            megabytes / start.elapsed().as_secs_f64()
        };
        let tokenizer = load(&path);
        let ids = |text: &str| drop(black_box(tokenizer.encode_ids(text, &options)));
        let full = |text: &str| drop(black_box(tokenizer.encode(text, None, &options)));
        let fresh = rate(&ids);
        let warm = (0..3).map(|_| rate(&ids)).fold(0.0, f64::max);
        let offsets = (0..3).map(|_| rate(&full)).fold(0.0, f64::max);
        println!(
            "{file}: fresh {fresh:.0}, warm {warm:.0}, with offsets {offsets:.0} MB/s ({megabytes:.1} MB)"
        );
    }
}
