//! Text as it grows: whole characters, stop strings across token boundaries.

use lmrs_engine::{Detokenizer, StopStrings, Text};
use lmrs_tensor::Result;
use proptest::prelude::*;

/// A token is a byte.
struct Bytes;

impl Detokenizer for Bytes {
    fn decode(&self, ids: &[u32]) -> Result<String> {
        let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The pieces of `bytes` as text after `prompt`, and the whole.
fn pieces(prompt: &[u8], bytes: &[u8], stop: &[&str]) -> (Vec<String>, String) {
    let stop = StopStrings::new(stop.iter().map(ToString::to_string).collect()).unwrap();
    let prompt: Vec<u32> = prompt.iter().map(|&b| b.into()).collect();
    let mut text = Text::after(&prompt, stop);
    let mut pieces = Vec::new();
    for &byte in bytes {
        pieces.push(text.push(byte.into(), &Bytes).unwrap().to_owned());
        if text.stopped() {
            break;
        }
    }
    pieces.push(text.finish(&Bytes).unwrap().to_owned());
    (pieces, text.into_string())
}

proptest! {
    #[test]
    fn pieces_are_the_text_up_to_the_first_stop(
        prompt in "[abé]{0,6}",
        text in "[abcdéß語🦀]{0,40}",
        stop in prop::collection::vec("[abcdé語]{1,4}", 0..4),
    ) {
        let stop: Vec<&str> = stop.iter().map(String::as_str).collect();
        let (pieces, whole) = pieces(prompt.as_bytes(), text.as_bytes(), &stop);
        // The text stops as soon as any of them is complete, before the one that started first.
        let started = |prefix: &str| stop.iter().filter_map(|s| prefix.find(s)).min();
        let end = text.char_indices().find_map(|(at, c)| started(&text[..at + c.len_utf8()]));
        let end = end.unwrap_or(text.len());
        prop_assert_eq!(&whole, &text[..end]);
        prop_assert_eq!(pieces.concat(), whole);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let (pieces, whole) = pieces(b"", &bytes, &[]);
        prop_assert_eq!(pieces.concat(), whole);
    }
}

#[test]
fn what_may_begin_a_stop_string_is_held_back() {
    let (pieces, whole) = pieces(b"", b"one <en two <end>", &["<end>"]);
    let given: Vec<_> = pieces
        .iter()
        .map(String::as_str)
        .filter(|p| !p.is_empty())
        .collect();
    assert_eq!(given, ["o", "n", "e", " ", "<en ", "t", "w", "o", " "]);
    assert_eq!(whole, "one <en two ");
}

#[test]
fn bytes_that_never_become_a_character_are_not_held_for_ever() {
    let (pieces, _) = pieces(b"", &[0xFF; 40], &[]);
    assert!(pieces.iter().take(30).any(|p| !p.is_empty()));
}

#[test]
fn a_character_begun_in_the_prompt_is_given_whole() {
    let (_, whole) = pieces(&[b'a', 0xC3], &[0xA9, b'b'], &[]);
    assert_eq!(whole, "éb");
}
