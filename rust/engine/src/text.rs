//! Text that grows token by token.

use lmrs_tensor::Result;

use crate::stop::{Found, StopStrings};

/// Turns ids into text. A byte sequence that is not a character yet decodes to U+FFFD.
pub trait Detokenizer: Send + Sync {
    /// The text of `ids`, special tokens left out.
    fn decode(&self, ids: &[u32]) -> Result<String>;
}

/// How many tokens before the first new one are decoded with it: a tokenizer that writes the space before a word into
/// the word needs to see that there was a word before.
const CONTEXT: usize = 4;

/// Tokens that one character can be spread over; what is still not a character then never will be.
const LONGEST_CHARACTER: usize = 4;

/// The text of a completion: whole characters only, held back while it may be the beginning of a stop string.
#[derive(Debug)]
pub struct Text {
    ids: Vec<u32>,
    /// Ids from here on are decoded together …
    from: usize,
    /// … and the text of those up to here is in `written` already.
    read: usize,
    written: String,
    given: usize,
    stop: StopStrings,
    stopped: bool,
}

impl Text {
    /// The text that will follow `prompt`.
    pub fn after(prompt: &[u32], stop: StopStrings) -> Self {
        let tail = prompt.len().saturating_sub(CONTEXT);
        let ids = prompt.get(tail..).unwrap_or_default().to_vec();
        Self {
            from: 0,
            read: ids.len(),
            ids,
            written: String::new(),
            given: 0,
            stop,
            stopped: false,
        }
    }

    /// Appends a token and returns what can be given out.
    pub fn push(&mut self, id: u32, detokenizer: &dyn Detokenizer) -> Result<&str> {
        self.ids.push(id);
        let whole = detokenizer.decode(self.ids.get(self.from..).unwrap_or_default())?;
        let waiting = self.ids.len() - self.read;
        if waiting > LONGEST_CHARACTER || !whole.ends_with(char::REPLACEMENT_CHARACTER) {
            self.take(&whole, detokenizer)?;
        }
        let open = match self
            .stop
            .find(self.written.get(self.given..).unwrap_or_default())
        {
            Found::Open(at) => self.given + at,
            Found::Stop(at) => {
                self.written.truncate(self.given + at);
                self.stopped = true;
                self.written.len()
            }
        };
        Ok(self.give(open))
    }

    /// What was held back, once no token follows.
    pub fn finish(&mut self, detokenizer: &dyn Detokenizer) -> Result<&str> {
        if !self.stopped {
            let whole = detokenizer.decode(self.ids.get(self.from..).unwrap_or_default())?;
            self.take(&whole, detokenizer)?;
            if let Found::Stop(at) = self
                .stop
                .find(self.written.get(self.given..).unwrap_or_default())
            {
                self.written.truncate(self.given + at);
            }
        }
        Ok(self.give(self.written.len()))
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text so far, without what is held back.
    pub fn into_string(mut self) -> String {
        self.written.truncate(self.given);
        self.written
    }

    /// Appends what `whole`, the text of `ids[from..]`, has beyond the text of `ids[from..read]`.
    fn take(&mut self, whole: &str, detokenizer: &dyn Detokenizer) -> Result<()> {
        let known = detokenizer.decode(self.ids.get(self.from..self.read).unwrap_or_default())?;
        // What was an incomplete character in the prompt may have become one: only what agrees is known.
        let same = known.chars().zip(whole.chars()).take_while(|(a, b)| a == b);
        let same = same.map(|(a, _)| a.len_utf8()).sum();
        let new = whole.get(same..).unwrap_or_default();
        if !new.is_empty() {
            self.written.push_str(new);
            (self.from, self.read) = (self.read, self.ids.len());
        }
        Ok(())
    }

    fn give(&mut self, until: usize) -> &str {
        let from = std::mem::replace(&mut self.given, until);
        self.written.get(from..until).unwrap_or_default()
    }
}
