//! Texts that must be something: they are, whatever the model would say.

mod common;

use std::sync::Arc;

use common::{VOCABULARY, generator};
use lmrs_engine::{
    Completion, Finish, Generation, Generator, Grammars, Limits, Notation, Request, Sampling,
};
use lmrs_tensor::Error;
use proptest::prelude::*;

const END: u32 = 89;

/// The letters of the test's detokenizer, and an end; byte tokens stand for nothing here.
fn grammars() -> Grammars {
    let word = |id: u32| match id {
        END | 90.. => vec![],
        _ => vec![b'a' + (id % 26) as u8],
    };
    let words: Vec<Vec<u8>> = (0..VOCABULARY as u32).map(word).collect();
    Grammars::new(&words, &[END]).unwrap()
}

fn write(generator: &Arc<Generator>, requests: &[Request], limits: Limits) -> Vec<Completion> {
    let mut generation = Generation::new(limits);
    for request in requests {
        generation.add(generator, request.clone()).unwrap();
    }
    generation.finish::<Error>(|| Ok(())).unwrap()
}

proptest! {
    #![proptest_config(lmrs_testing::cases(16))]

    #[test]
    fn every_text_is_what_it_must_be(
        prompt in prop::collection::vec(0..VOCABULARY as u32, 1..20),
        hot in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let generator = generator();
        let grammar = grammars().compile(Notation::Regex, "(ab|cd)+x(y|z){2}").unwrap();
        let request = Request {
            prompt,
            max_tokens: 40,
            sampling: Sampling { temperature: if hot { 1.0 } else { 0.0 }, seed, ..Sampling::default() },
            eos: vec![END],
            grammar: Some(grammar),
            ..Request::default()
        };
        let free = Request { grammar: None, ..request.clone() };
        let found = write(&generator, &[free.clone(), request.clone(), free], Limits::default()).remove(1);
        prop_assert_eq!(&found, &write(&generator, &[request], Limits { step_tokens: 2, ..Limits::default() })[0]);
        let text = found.text.as_str();
        if found.finish == Finish::Length {
            prop_assert!(text.starts_with("ab") || text.starts_with("cd"), "{text}");
        } else {
            let (pairs, tail) = text.split_once('x').unwrap();
            prop_assert!(pairs.as_bytes().chunks(2).all(|pair| pair == b"ab" || pair == b"cd"), "{text}");
            prop_assert!(tail.len() == 2 && tail.bytes().all(|b| b == b'y' || b == b'z'), "{text}");
        }
    }
}

#[test]
fn lark_too() {
    let grammar = grammars()
        .compile(
            Notation::Lark,
            "start: \"a\" inner \"z\"\ninner: \"b\" inner \"b\" | \"m\"",
        )
        .unwrap();
    let request = Request {
        prompt: vec![3],
        max_tokens: 40,
        eos: vec![END],
        grammar: Some(grammar),
        ..Request::default()
    };
    let text = &write(&generator(), &[request], Limits::default())[0].text;
    let (before, after) = text.split_once('m').unwrap_or((text, ""));
    assert!(
        before.starts_with('a') && before[1..].bytes().all(|b| b == b'b'),
        "{text}"
    );
    let end = after.strip_suffix('z').unwrap_or(after);
    assert!(
        end.bytes().all(|b| b == b'b') && end.len() < before.len(),
        "{text}"
    );
}

#[test]
fn hostile_descriptions_are_refused() {
    let grammars = grammars();
    let nested = "(".repeat(100_000);
    let schema = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    for (notation, description) in [
        (Notation::Regex, nested.as_str()),
        (Notation::Regex, "(?<=x)*"),
        (Notation::Regex, "("),
        (Notation::JsonSchema, "{"),
        (Notation::JsonSchema, &schema),
        (Notation::JsonSchema, r##"{"$ref": "#/none"}"##),
        (Notation::Lark, "start: nowhere"),
        (Notation::Lark, &"a".repeat(70_000)),
    ] {
        let refused = grammars.compile(notation, description);
        let shown: String = description.chars().take(40).collect();
        assert!(refused.is_err(), "{shown}");
    }
    assert!(Grammars::new(&[b"a".to_vec()], &[]).is_err());
}
