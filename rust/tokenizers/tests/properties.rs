//! The models against slow oracles, and what holds for every tokenizer and text.

use std::collections::HashMap;

use lmrs_testing::tokenizers::{FIXTURES, fixture};
use lmrs_tokenizers::{DecodeStream, EncodeOptions, Tokenizer, Truncation, Unit};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixtures() -> Vec<Tokenizer> {
    FIXTURES
        .map(|name| Tokenizer::from_json(&fixture(name)).unwrap())
        .into()
}

fn plain() -> EncodeOptions {
    EncodeOptions {
        add_special_tokens: false,
        ..EncodeOptions::default()
    }
}

fn tokenizer(model: &Value) -> Tokenizer {
    Tokenizer::from_json(json!({ "model": model }).to_string().as_bytes()).unwrap()
}

/// A word and the merges of a BPE over `abc`, each of two tokens that are there before it.
fn bpe() -> impl Strategy<Value = (Vec<(String, String)>, String)> {
    let picks = prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        0..12,
    );
    (picks, "[abc]{0,40}|[abc]{30,200}").prop_map(|(picks, word)| {
        let mut tokens = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let mut merges = Vec::new();
        for (left, right) in picks {
            let pair = (left.get(&tokens).clone(), right.get(&tokens).clone());
            let joined = format!("{}{}", pair.0, pair.1);
            if joined.len() <= 8 && !tokens.contains(&joined) {
                tokens.push(joined);
                merges.push(pair);
            }
        }
        (merges, word)
    })
}

/// Merges the best pair, leftmost first, by looking at all of them every time.
fn merge_slowly(word: &str, merges: &[(String, String)]) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let rank = |at: usize| {
            let pair = (parts.get(at)?, parts.get(at + 1)?);
            merges
                .iter()
                .position(|(left, right)| (left, right) == pair)
        };
        let Some((_, at)) = (0..parts.len())
            .filter_map(|at| Some((rank(at)?, at)))
            .min()
        else {
            return parts;
        };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
}

/// The best score of any way to write `text` with `scores`; unknown characters cost 10 below the worst token.
fn best_score(text: &str, scores: &HashMap<String, f64>) -> f64 {
    let unknown = scores.values().copied().fold(f64::INFINITY, f64::min) - 10.0;
    let Some(first) = text.chars().next() else {
        return 0.0;
    };
    let known = (1..=text.len())
        .filter(|&end| text.is_char_boundary(end))
        .filter_map(|end| Some(scores.get(&text[..end])? + best_score(&text[end..], scores)));
    let rest = &text[first.len_utf8()..];
    let skip = if scores.contains_key(&first.to_string()) {
        f64::NEG_INFINITY
    } else {
        unknown + best_score(rest, scores)
    };
    known.fold(skip, f64::max)
}

proptest! {
    #![proptest_config(lmrs_testing::cases(256))]

    #[test]
    fn bpe_is_bpe((merges, word) in bpe()) {
        let mut vocab = json!({ "a": 0, "b": 1, "c": 2 });
        for (left, right) in &merges {
            vocab[format!("{left}{right}")] = json!(vocab.as_object().unwrap().len());
        }
        let tokenizer = tokenizer(&json!({ "type": "BPE", "vocab": vocab, "merges": merges }));
        let encoding = tokenizer.encode(&word, None, &plain()).unwrap();
        prop_assert_eq!(tokenizer.tokens(&encoding), merge_slowly(&word, &merges));
    }

    #[test]
    fn unigram_finds_the_best_score(
        pieces in prop::collection::hash_map("[abé]{1,3}", -9.0..-0.1f64, 1..8),
        word in "[abéx]{0,9}",
    ) {
        let mut vocab = vec![json!(["<unk>", 0.0])];
        vocab.extend(pieces.iter().map(|(piece, score)| json!([piece, score])));
        let mut scores = pieces.clone();
        scores.insert("<unk>".to_owned(), 0.0);
        let tokenizer = tokenizer(&json!({ "type": "Unigram", "vocab": vocab, "unk_id": 0 }));
        let encoding = tokenizer.encode(&word, None, &plain()).unwrap();
        let unknown = pieces.values().copied().fold(0.0, f64::min) - 10.0;
        let found: f64 = tokenizer.tokens(&encoding).iter().zip(&encoding.ids).map(|(token, id)| match id {
            0 => unknown * token.chars().count() as f64,
            _ => pieces[*token],
        }).sum();
        prop_assert!((found - best_score(&word, &scores)).abs() < 1e-9);
        prop_assert_eq!(tokenizer.tokens(&encoding).concat(), word);
    }

    #[test]
    fn bytes_come_back(text in any::<String>()) {
        // GPT-2's own spelling of the 256 bytes, without merges.
        let vocab: HashMap<char, u8> = (0..=255u8).map(|byte| (spelled(byte), byte)).collect();
        let vocab = serde_json::to_vec(&vocab).unwrap();
        let tokenizer = Tokenizer::from_gpt2_vocab(&vocab, b"", &[]).unwrap();
        let encoding = tokenizer.encode(&text, None, &plain()).unwrap();
        let bytes: Vec<u8> = encoding.ids.iter().map(|id| *id as u8).collect();
        prop_assert_eq!(&bytes, text.as_bytes());
        prop_assert_eq!(tokenizer.decode(&encoding.ids, false), text.clone());
        for ((start, end), at) in encoding.offsets.iter().zip(0..) {
            let before = text.as_bytes()[..at].iter().filter(|byte| **byte & 0xc0 != 0x80).count();
            prop_assert!(*end == start + 1 && (*start as usize) <= before && before <= *end as usize);
        }
    }

    #[test]
    fn every_tokenizer_keeps_its_promises(text in any::<String>(), most in 4..20usize) {
        for tokenizer in fixtures() {
            let encoding = tokenizer.encode(&text, None, &EncodeOptions::default()).unwrap();
            let characters = text.chars().count() as u32;
            prop_assert!(encoding.offsets.iter().all(|(start, end)| start <= end && *end <= characters));
            prop_assert!(encoding.offsets.iter().filter(|offset| **offset != (0, 0)).is_sorted_by_key(|(start, _)| start));
            prop_assert!(encoding.ids.iter().all(|id| tokenizer.id_to_token(*id).is_some()));
            prop_assert!(encoding.word_ids.iter().flatten().is_sorted());

            let bytes = tokenizer.encode(&text, None, &EncodeOptions { offsets: Unit::Bytes, ..EncodeOptions::default() }).unwrap();
            let starts: Vec<u32> = text.char_indices().map(|(at, _)| at as u32).chain([text.len() as u32]).collect();
            let counted = encoding.offsets.iter().map(|(start, end)| (starts[*start as usize], starts[*end as usize]));
            prop_assert!(bytes.offsets.iter().copied().eq(counted));

            let truncation = Some(Truncation { max_length: most, strategy: lmrs_tokenizers::Strategy::default(), side: lmrs_tokenizers::Side::default(), stride: 0 });
            let short = tokenizer.encode(&text, None, &EncodeOptions { truncation, ..EncodeOptions::default() }).unwrap();
            prop_assert_eq!(short.len(), encoding.len().min(most));

            let mut stream = DecodeStream::new(false);
            let mut streamed: String = encoding.ids.iter().filter_map(|id| stream.push(&tokenizer, *id)).collect();
            streamed.extend(stream.finish(&tokenizer));
            prop_assert_eq!(streamed, tokenizer.decode(&encoding.ids, false));
        }
    }

    #[test]
    fn damaged_files_do_not_panic(which in 0..FIXTURES.len(), cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut raw = fixture(FIXTURES[which]);
        for (at, byte) in cuts {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&raw) {
            let _ = tokenizer.encode("some text é 😀 <mask> word", Some("b"), &EncodeOptions::default());
            tokenizer.decode(&[0, 1, 500, u32::MAX], true);
        }
    }
}

/// As in GPT-2's `encoder.py`: printable Latin-1 stands for itself, the rest is shifted behind U+00FF in order.
fn spelled(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !plain(*other)).count() as u32;
    char::from_u32(0x100 + before).unwrap()
}
