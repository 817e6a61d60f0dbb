//! What a text must be: a regular expression, a JSON schema or a grammar, by llguidance.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use lmrs_tensor::{Error, Result};

/// The longest description, in bytes.
const LONGEST: usize = 64 << 10;

/// The most brackets within brackets: descriptions are read by recursion.
const DEEPEST: usize = 64;

/// A stack that so many brackets do not fill.
const STACK: usize = 32 << 20;

/// How a text is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// A regular expression of the whole text.
    Regex,
    /// A JSON schema.
    JsonSchema,
    /// A grammar in Lark's notation.
    Lark,
}

impl Notation {
    /// `regex`, `json_schema` or `lark`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "regex" => Some(Self::Regex),
            "json_schema" => Some(Self::JsonSchema),
            "lark" => Some(Self::Lark),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Regex => "regex",
            Self::JsonSchema => "json_schema",
            Self::Lark => "lark",
        }
    }
}

/// Compiles descriptions for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// `words` are the bytes of each token, none if it stands for no text; with `eos` a text ends.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no end, or the words cannot be arranged.
    pub fn new(words: &[Vec<u8>], eos: &[u32]) -> Result<Self> {
        let Some(&end) = eos.first().filter(|&&end| (end as usize) < words.len()) else {
            let expected = "an end-of-sequence token, for a text that is complete to end with";
            return Err(Error::input("eos_token_id", &"none", expected));
        };
        let failed = |what: String| Error::input("vocabulary", &what, "words that a trie can hold");
        let made = catch_unwind(AssertUnwindSafe(|| {
            let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), words);
            let trie = trie.with_eos_tokens(eos);
            let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new(&environment, InferenceCapabilities::default(), &[])
        }));
        let mut factory = match made {
            Ok(made) => made.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed("not one".into())),
        };
        factory.quiet();
        // Of llguidance's own limits those that bound time stand; a state takes one or two kilobytes.
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: 20_000,
            max_grammar_size: 100_000,
            precompute_large_lexemes: false,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }

    /// Reads a description.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not one, or takes more than the limits of time and memory.
    pub fn compile(&self, notation: Notation, description: &str) -> Result<Grammar> {
        let wrong = |what: &str| {
            let shown: String = what.chars().take(300).collect();
            Error::input(
                notation.name(),
                &shown,
                "a description that can be followed",
            )
        };
        if description.len() > LONGEST {
            return Err(wrong(&format!("longer than {LONGEST} bytes")));
        }
        if depth(description) > DEEPEST {
            return Err(wrong(&format!("more than {DEEPEST} brackets deep")));
        }
        let read = || {
            let grammar = match notation {
                Notation::Regex => TopLevelGrammar::from_regex(description),
                Notation::Lark => TopLevelGrammar::from_lark(description.to_owned()),
                Notation::JsonSchema => {
                    TopLevelGrammar::from_json_schema(serde_json::from_str(description)?)
                }
            };
            self.factory.create_parser(grammar)
        };
        let parser = thread::scope(|scope| {
            let builder = thread::Builder::new().stack_size(STACK);
            let thread = builder.spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(read)));
            thread.ok().and_then(|thread| thread.join().ok())
        });
        let Some(Ok(parser)) = parser else {
            return Err(wrong("not to be read"));
        };
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(wrong(&error)),
            None => Ok(Grammar(Arc::new(Mutex::new(matcher)))),
        }
    }
}

/// How deep the brackets of `text` go, quoted or not.
fn depth(text: &str) -> usize {
    let (mut deepest, mut depth) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A description that was read.
#[derive(Clone)]
pub struct Grammar(Arc<Mutex<Matcher>>);

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// The beginning of a text. It shares nothing that grows, so that no text depends on others.
    pub(crate) fn start(&self) -> Match {
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Match(Mutex::new(matcher.deep_clone()))
    }
}

/// How far a text has come.
pub struct Match(Mutex<Matcher>);

impl Match {
    /// Which tokens may follow.
    pub fn allowed(&self) -> Result<Vec<bool>> {
        let mut matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mask = matcher.compute_mask_or_eos().map_err(|e| failed(&e))?;
        Ok((0..mask.len()).map(|at| mask.get(at)).collect())
    }

    /// Takes the next token; whether the text is complete and nothing can follow.
    pub fn push(&mut self, token: u32) -> Result<bool> {
        let matcher = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        matcher.consume_token(token).map_err(|e| failed(&e))?;
        Ok(matcher.is_stopped())
    }
}

fn failed(error: &impl ToString) -> Error {
    let said: String = error.to_string().chars().take(300).collect();
    Error::input("grammar", &said, "one whose steps stay within their limits")
}
