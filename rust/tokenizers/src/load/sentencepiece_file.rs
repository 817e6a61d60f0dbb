//! The protocol buffer that a `SentencePiece` model is.

use std::collections::BTreeMap;

use super::protobuf::{Message, Wire};
use crate::error::{Error, Result};

/// Longer pieces would make the search quadratic in the text.
const MAX_PIECE: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

pub(super) struct Entry<'a> {
    pub(super) piece: &'a str,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// The fields that matter, with the format's own defaults.
#[allow(clippy::struct_excessive_bools)] // the file format's own record
pub(super) struct File<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) model_type: u64,
    pub(super) byte_fallback: bool,
    pub(super) whitespace_as_suffix: bool,
    /// `unk`, `bos`, `eos` and `pad`, by the pieces that have these roles.
    pub(super) roles: BTreeMap<&'static str, &'a str>,
    pub(super) charsmap: &'a [u8],
    pub(super) dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl<'a> File<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut file = Self {
            entries: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            whitespace_as_suffix: false,
            roles: [
                ("unk", "<unk>"),
                ("bos", "<s>"),
                ("eos", "</s>"),
                ("pad", "<pad>"),
            ]
            .into(),
            charsmap: &[],
            dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        let mut message = Message::new("", bytes);
        while let Some((number, value)) = message.next()? {
            match (number, value) {
                (1, Wire::Bytes(bytes)) => file.entries.push(Entry::parse(bytes)?),
                (2, Wire::Bytes(bytes)) => file.trainer(bytes)?,
                (3, Wire::Bytes(bytes)) => file.normalizer(bytes)?,
                (5, Wire::Bytes(bytes)) => denormalizer(bytes)?,
                (1..=3 | 5, _) => {
                    return Err(Error::invalid("", format!("field {number} is no message")));
                }
                _ => {}
            }
        }
        file.check()?;
        let entries = &file.entries;
        file.roles.retain(|role, piece| {
            let kind = if *role == "unk" {
                Kind::Unknown
            } else {
                Kind::Control
            };
            entries
                .iter()
                .any(|entry| entry.piece == *piece && entry.kind == kind)
        });
        Ok(file)
    }

    pub(super) fn ids(&self, kind: Kind) -> impl Iterator<Item = u32> {
        let all = self.entries.iter().zip(0..);
        all.filter(move |(entry, _)| entry.kind == kind)
            .map(|(_, id)| id)
    }

    fn trainer(&mut self, bytes: &'a [u8]) -> Result<()> {
        let mut message = Message::new("trainer_spec", bytes);
        while let Some((number, value)) = message.next()? {
            match (number, value) {
                (3, Wire::Varint(kind)) => self.model_type = kind,
                (24, Wire::Varint(flag)) => self.whitespace_as_suffix = flag != 0,
                (35, Wire::Varint(flag)) => self.byte_fallback = flag != 0,
                (45..=48, Wire::Bytes(bytes)) => {
                    let role = ["unk", "bos", "eos", "pad"].get(number as usize - 45);
                    let piece = utf8("trainer_spec", bytes)?;
                    self.roles.extend(role.map(|role| (*role, piece)));
                }
                (3 | 24 | 35 | 45..=48, _) => return Err(mistyped("trainer_spec", number)),
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, bytes: &'a [u8]) -> Result<()> {
        let mut message = Message::new("normalizer_spec", bytes);
        while let Some((number, value)) = message.next()? {
            match (number, value) {
                (2, Wire::Bytes(map)) => self.charsmap = map,
                (3, Wire::Varint(flag)) => self.dummy_prefix = flag != 0,
                (4, Wire::Varint(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Wire::Varint(flag)) => self.escape_whitespaces = flag != 0,
                (2..=5, _) => return Err(mistyped("normalizer_spec", number)),
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let mut unknown = 0;
        for (at, entry) in self.entries.iter().enumerate() {
            let problem = match entry {
                Entry { piece: "", .. } => "the piece is empty".to_owned(),
                Entry { piece, .. } if piece.len() > MAX_PIECE => {
                    format!("a piece has {} bytes, more than {MAX_PIECE}", piece.len())
                }
                Entry { score, .. } if !score.is_finite() => {
                    format!("the score is {score}, expected a finite number")
                }
                Entry {
                    piece,
                    kind: Kind::Byte,
                    ..
                } if !self.byte_fallback => {
                    format!("{piece:?} is a byte, but trainer_spec.byte_fallback is false")
                }
                Entry {
                    piece,
                    kind: Kind::Byte,
                    ..
                } if !is_byte(piece) => {
                    format!("{piece:?} is a byte, expected <0x00> to <0xFF>")
                }
                Entry {
                    kind: Kind::Unknown,
                    ..
                } => {
                    unknown += 1;
                    continue;
                }
                _ => continue,
            };
            return Err(Error::invalid(format!("pieces[{at}]"), problem));
        }
        if unknown != 1 {
            return Err(Error::invalid(
                "pieces",
                format!("{unknown} pieces are of type UNKNOWN, expected one"),
            ));
        }
        let bytes = self.ids(Kind::Byte).count();
        if self.byte_fallback && bytes != 256 {
            return Err(Error::invalid(
                "pieces",
                format!("{bytes} pieces are of type BYTE, but byte_fallback needs 256"),
            ));
        }
        Ok(())
    }
}

impl<'a> Entry<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut entry = Self {
            piece: "",
            score: 0.0,
            kind: Kind::Normal,
        };
        let mut message = Message::new("pieces", bytes);
        while let Some((number, value)) = message.next()? {
            match (number, value) {
                (1, Wire::Bytes(bytes)) => entry.piece = utf8("pieces", bytes)?,
                (2, Wire::Fixed32(score)) => entry.score = f32::from_le_bytes(score),
                (3, Wire::Varint(kind)) => entry.kind = Kind::of(kind)?,
                (1..=3, _) => return Err(mistyped("pieces", number)),
                _ => {}
            }
        }
        Ok(entry)
    }
}

impl Kind {
    fn of(number: u64) -> Result<Self> {
        Ok(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            other => {
                return Err(Error::invalid(
                    "pieces",
                    format!("the type of a piece is {other}, expected 1 to 6"),
                ));
            }
        })
    }
}

fn is_byte(piece: &str) -> bool {
    let digits = piece
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|hex| {
        hex.len() == 2
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    })
}

/// Text that is changed after decoding cannot be given back as it was.
fn denormalizer(bytes: &[u8]) -> Result<()> {
    let mut message = Message::new("denormalizer_spec", bytes);
    while let Some((number, value)) = message.next()? {
        if let (2, Wire::Bytes([_, ..])) = (number, value) {
            return Err(Error::Unsupported {
                place: "denormalizer_spec".to_owned(),
                name: "precompiled_charsmap".to_owned(),
                supported: "none".to_owned(),
            });
        }
    }
    Ok(())
}

fn utf8<'a>(place: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| Error::invalid(place, format!("not UTF-8: {e}")))
}

fn mistyped(place: &str, number: u64) -> Error {
    Error::invalid(
        place,
        format!("not a SentencePiece model: field {number} is of another type"),
    )
}
