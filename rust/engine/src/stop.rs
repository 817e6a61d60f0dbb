//! When a text ends: stop strings, found in the text as it grows, wherever token boundaries fall.

use lmrs_tensor::{Error, Result};

/// More stop strings than anyone needs; each is searched for at every token.
const MOST: usize = 64;

/// The strings before which a text ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopStrings(Vec<String>);

/// What is known of text that has not been given out yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A stop string starts at this byte: the text ends there.
    Stop(usize),
    /// No stop string; from this byte on the text may be the beginning of one.
    Open(usize),
}

impl StopStrings {
    /// # Errors
    /// [`Error::Input`] if one is empty or there are more than 64.
    pub fn new(strings: Vec<String>) -> Result<Self> {
        if strings.len() > MOST {
            return Err(Error::input(
                "number of stop strings",
                &strings.len(),
                format!("at most {MOST}"),
            ));
        }
        if let Some(at) = strings.iter().position(String::is_empty) {
            return Err(Error::input(
                format!("stop[{at}]"),
                &"empty",
                "at least one character",
            ));
        }
        Ok(Self(strings))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks for the earliest stop string in `text`.
    pub fn find(&self, text: &str) -> Found {
        if let Some(at) = self
            .0
            .iter()
            .filter_map(|stop| text.find(stop.as_str()))
            .min()
        {
            return Found::Stop(at);
        }
        let open = text.char_indices().map(|(at, _)| at).find(|&at| {
            let tail = text.get(at..).unwrap_or_default();
            self.0.iter().any(|stop| stop.starts_with(tail))
        });
        Found::Open(open.unwrap_or(text.len()))
    }
}
