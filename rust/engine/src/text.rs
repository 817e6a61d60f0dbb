//! Text that grows token by token and ends before a stop string.

use crate::stop::{Found, StopStrings};

/// Turns ids into text.
pub trait Detokenizer: Send + Sync {
    /// The text of the ids that will follow `prompt`.
    fn after(&self, prompt: &[u32]) -> Box<dyn Pieces>;
}

/// The text of ids as they come, in whole characters.
pub trait Pieces: Send + Sync {
    /// Takes the next id; the text that is now certain.
    fn push(&mut self, id: u32) -> Option<String>;

    /// The rest, once no id follows.
    fn finish(&mut self) -> Option<String>;
}

/// The text of a completion; what may be the beginning of a stop string is held back.
pub struct Text {
    pieces: Option<Box<dyn Pieces>>,
    written: String,
    given: usize,
    stop: StopStrings,
    stopped: bool,
}

impl Text {
    /// The text of `pieces`, none without them.
    pub fn new(pieces: Option<Box<dyn Pieces>>, stop: StopStrings) -> Self {
        Self {
            pieces,
            written: String::new(),
            given: 0,
            stop,
            stopped: false,
        }
    }

    /// Appends a token and returns what can be given out.
    pub fn push(&mut self, id: u32) -> &str {
        let piece = self.pieces.as_mut().and_then(|pieces| pieces.push(id));
        let open = self.append(&piece.unwrap_or_default());
        self.give(open)
    }

    /// What was held back, once no token follows.
    pub fn finish(&mut self) -> &str {
        if !self.stopped {
            let piece = self.pieces.as_mut().and_then(|pieces| pieces.finish());
            self.append(&piece.unwrap_or_default());
        }
        self.give(self.written.len())
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text given out so far.
    pub fn into_string(mut self) -> String {
        self.written.truncate(self.given);
        self.written
    }

    /// Where what must be held back starts.
    fn append(&mut self, piece: &str) -> usize {
        self.written.push_str(piece);
        match self
            .stop
            .find(self.written.get(self.given..).unwrap_or_default())
        {
            Found::Open(at) => self.given + at,
            Found::Stop(at) => {
                self.written.truncate(self.given + at);
                self.stopped = true;
                self.written.len()
            }
        }
    }

    fn give(&mut self, until: usize) -> &str {
        let from = std::mem::replace(&mut self.given, until);
        self.written.get(from..until).unwrap_or_default()
    }
}
