//! Decoders: turn tokens back into text.

use crate::{byte_level, pattern::Pattern};

/// One step of decoding: tokens in, tokens out. The text is what is left, joined.
pub(crate) enum Decoder {
    /// Takes GPT-2's spelling of bytes back.
    ByteLevel,
    /// Joins pieces to words.
    WordPiece { prefix: String, cleanup: bool },
    /// Marks become spaces, but for the one at the very beginning.
    Metaspace { mark: char, keep_first: bool },
    /// `<0x41>` becomes `A`.
    ByteFallback,
    /// All tokens become one.
    Fuse,
    /// Replaces every match.
    Replace { pattern: Pattern, content: String },
    /// Drops up to so many of a character at both ends of each token.
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    /// Word-end marks become spaces.
    Bpe { suffix: String },
    /// A run of equal tokens is one, and the blank is none: what a speech model writes (Graves et al., 2006).
    Ctc {
        blank: String,
        space: String,
        cleanup: bool,
    },
    /// All of these, in order.
    Sequence(Vec<Decoder>),
}

impl Decoder {
    pub(crate) fn apply(&self, mut tokens: Vec<String>) -> Vec<String> {
        match self {
            Self::ByteLevel => vec![byte_level_text(&tokens)],
            Self::WordPiece { prefix, cleanup } => {
                for (at, token) in tokens.iter_mut().enumerate() {
                    if at > 0 {
                        *token = match token.strip_prefix(prefix.as_str()) {
                            Some(rest) => rest.to_owned(),
                            None => format!(" {token}"),
                        };
                    }
                    if *cleanup {
                        *token = clean_up(token);
                    }
                }
                tokens
            }
            Self::Metaspace { mark, keep_first } => {
                for (at, token) in tokens.iter_mut().enumerate() {
                    let space = if at == 0 && !keep_first { "" } else { " " };
                    *token = token.replace(*mark, space);
                }
                tokens
            }
            Self::ByteFallback => byte_fallback(tokens),
            Self::Fuse => vec![tokens.concat()],
            Self::Replace { pattern, content } => {
                let mut matches = Vec::new();
                for token in &mut tokens {
                    matches.clear();
                    pattern.find(token, &mut matches);
                    for &(start, end) in matches.iter().rev() {
                        token.replace_range(start..end, content);
                    }
                }
                tokens
            }
            Self::Strip {
                content,
                start,
                stop,
            } => {
                for token in &mut tokens {
                    *token = strip(token, *content, *start, *stop).to_owned();
                }
                tokens
            }
            Self::Bpe { suffix } => {
                let last = tokens.len().saturating_sub(1);
                for (at, token) in tokens.iter_mut().enumerate() {
                    *token = token.replace(suffix.as_str(), if at == last { "" } else { " " });
                }
                tokens
            }
            Self::Ctc {
                blank,
                space,
                cleanup,
            } => {
                tokens.dedup();
                for token in &mut tokens {
                    // An empty blank or space is found between all characters, as the reference finds it.
                    *token = token.replace(blank.as_str(), "");
                    if *cleanup {
                        *token = clean_up(token).replace(space.as_str(), " ");
                    }
                }
                tokens.retain(|token| !token.is_empty());
                tokens
            }
            Self::Sequence(steps) => steps.iter().fold(tokens, |tokens, step| step.apply(tokens)),
        }
    }
}

impl Decoder {
    /// The bytes that a token is in the middle of a text; None if that depends on others.
    pub(crate) fn bytes(&self, token: Vec<u8>) -> Option<Vec<u8>> {
        let text = String::from_utf8_lossy(&token);
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = text.chars().map(byte_level::byte).collect();
                Some(bytes.unwrap_or(token))
            }
            Self::ByteFallback => Some(fallback_byte(&text).map_or(token, |byte| vec![byte])),
            Self::Metaspace { .. } | Self::Replace { .. } => {
                // A token before it, so that it is not the first.
                let tokens = vec!["a".to_owned(), text.into_owned()];
                self.apply(tokens).pop().map(String::into_bytes)
            }
            Self::Fuse | Self::Strip { .. } => Some(token),
            Self::WordPiece { .. } | Self::Bpe { .. } | Self::Ctc { .. } => None,
            Self::Sequence(steps) => steps
                .iter()
                .try_fold(token, |token, step| step.bytes(token)),
        }
    }
}

/// The byte of a token like `<0x41>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(Some(hex).filter(|hex| hex.len() == 2)?, 16).ok()
}

/// A token that is not spelled in bytes stands for itself.
fn byte_level_text(tokens: &[String]) -> String {
    let mut bytes = Vec::with_capacity(tokens.iter().map(String::len).sum());
    for token in tokens {
        let start = bytes.len();
        for c in token.chars() {
            if let Some(byte) = byte_level::byte(c) {
                bytes.push(byte);
            } else {
                bytes.truncate(start);
                bytes.extend(token.as_bytes());
                break;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A run of byte tokens becomes the text it spells, or one U+FFFD a byte if it spells none.
fn byte_fallback(tokens: Vec<String>) -> Vec<String> {
    let mut text = Vec::with_capacity(tokens.len());
    let mut run = Vec::new();
    let flush = |run: &mut Vec<u8>, text: &mut Vec<String>| {
        let count = run.len();
        match String::from_utf8(std::mem::take(run)) {
            Ok(spelled) if count > 0 => text.push(spelled),
            Ok(_) => {}
            Err(_) => text.extend(std::iter::repeat_n(
                char::REPLACEMENT_CHARACTER.to_string(),
                count,
            )),
        }
    };
    for token in tokens {
        if let Some(byte) = fallback_byte(&token) {
            run.push(byte);
        } else {
            flush(&mut run, &mut text);
            text.push(token);
        }
    }
    flush(&mut run, &mut text);
    text
}

/// English clean-up, in this order; each rule sees what the ones before left.
fn clean_up(token: &str) -> String {
    const RULES: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    RULES.iter().fold(token.to_owned(), |text, (from, to)| {
        if text.contains(from) {
            text.replace(from, to)
        } else {
            text
        }
    })
}

fn strip(token: &str, content: char, start: usize, stop: usize) -> &str {
    let mut rest = token;
    for _ in 0..start {
        match rest.strip_prefix(content) {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    for _ in 0..stop {
        match rest.strip_suffix(content) {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    rest
}
