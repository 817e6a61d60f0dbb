//! Stop strings in text that comes in pieces.

use lmrs_engine::{Pieces, StopStrings, Text};
use proptest::prelude::*;

/// Token `i` is the `i`-th of these texts.
struct Words(Vec<String>);

impl Pieces for Words {
    fn push(&mut self, id: u32) -> Option<String> {
        self.0.get(id as usize).cloned()
    }

    fn finish(&mut self) -> Option<String> {
        None
    }
}

/// What is given out for each of `words`, then at the end; and the whole.
fn given(words: &[String], stop: &[String]) -> (Vec<String>, String) {
    let pieces = Box::new(Words(words.to_vec()));
    let mut text = Text::new(Some(pieces), StopStrings::new(stop.to_vec()).unwrap());
    let mut given = Vec::new();
    for id in 0..words.len() as u32 {
        given.push(text.push(id).to_owned());
        if text.stopped() {
            break;
        }
    }
    given.push(text.finish().to_owned());
    (given, text.into_string())
}

proptest! {
    #[test]
    fn the_text_ends_before_the_first_stop_string(
        words in prop::collection::vec("[abcdéß語🦀]{0,4}", 0..20),
        stop in prop::collection::vec("[abcdé語]{1,4}", 0..4),
    ) {
        let (given, whole) = given(&words, &stop);
        // A stop string counts as soon as a token completes it; of those completed together the first to start.
        let mut text = String::new();
        let started = words.iter().find_map(|word| {
            text.push_str(word);
            stop.iter().filter_map(|s| text.find(s)).min()
        });
        text.truncate(started.unwrap_or(text.len()));
        prop_assert_eq!(given.concat(), &text[..]);
        prop_assert_eq!(whole, text);
    }
}

#[test]
fn what_may_begin_a_stop_string_is_held_back() {
    let words = ["one", " <", "en", " two <", "end", ">", " three"].map(String::from);
    let (given, whole) = given(&words, &["<end>".into()]);
    assert_eq!(given, ["one", " ", "", "<en two ", "", "", ""]);
    assert_eq!(whole, "one <en two ");
}
