//! The character map inside `SentencePiece` models.
//!
//! The map is a double-array trie (Darts) over UTF-8 bytes whose values point into a string of replacements, each ended
//! by a zero byte: `u32 size of the trie in bytes, trie as u32 units, replacements`, little-endian.

use unicode_segmentation::UnicodeSegmentation;

use crate::{
    error::{Error, Result},
    text::Aligned,
};

/// Rules for more bytes are not looked for: a broken trie could lead on for ever.
const MAX_RULE: usize = 256;

/// Longer grapheme clusters are looked up character by character.
const MAX_CLUSTER: usize = 6;

/// A broken trie could have its units lead to each other for ever.
const MAX_ENTRIES: usize = 1 << 10;

pub(crate) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
    /// The ASCII characters that stay as they are, whatever stands beside them.
    kept: [bool; 128],
}

impl Charsmap {
    pub(crate) fn parse(place: &str, bytes: &[u8]) -> Result<Self> {
        let invalid = |problem: &str| Error::invalid(place, format!("character map: {problem}"));
        let (size, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or_else(|| invalid("shorter than its header"))?;
        let size = u32::from_le_bytes(*size) as usize / 4 * 4;
        let (units, replacements) = rest.split_at_checked(size).ok_or_else(|| {
            invalid(&format!(
                "the trie should have {size} bytes, {} are left",
                rest.len()
            ))
        })?;
        if units.is_empty() {
            return Err(invalid("the trie is empty"));
        }
        let (units, _) = units.as_chunks::<4>();
        let mut map = Self {
            kept: [false; 128],
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: String::from_utf8(replacements.to_vec())
                .map_err(|_| invalid("the replacements are not UTF-8"))?,
        };
        // A carriage return and a line feed are one cluster.
        map.kept = std::array::from_fn(|byte| byte as u8 != b'\r' && map.keeps(byte as u8 as char));
        Ok(map)
    }

    pub(crate) fn apply(&self, text: &mut Aligned) {
        let kept = |byte: u8| self.kept.get(byte as usize).copied().unwrap_or(false);
        if text.as_str().bytes().all(kept) {
            return;
        }
        let mut edits = Vec::with_capacity(text.as_str().len());
        let mut changed = false;
        if text.as_str().is_ascii() && !text.as_str().contains('\r') {
            for c in text.as_str().chars() {
                changed |= self.alone(c, &mut edits);
            }
        } else {
            for cluster in text.as_str().graphemes(true) {
                if cluster.len() < MAX_CLUSTER
                    && let Some(new) = self.replacement(cluster)
                {
                    push(&mut edits, cluster.chars().count(), new);
                    changed = true;
                    continue;
                }
                for c in cluster.chars() {
                    changed |= self.alone(c, &mut edits);
                }
            }
        }
        if changed {
            text.edit(edits.into_iter());
        }
    }

    /// The edit of a character that is a cluster, or goes its own way; whether there is anything to edit.
    fn alone(&self, c: char, edits: &mut Vec<(char, isize)>) -> bool {
        let kept = self.kept.get(c as usize).copied().unwrap_or(false);
        let mut buffer = [0; 4];
        let key = &*c.encode_utf8(&mut buffer);
        let new = if kept { None } else { self.replacement(key) };
        match new {
            Some(new) => push(edits, 1, new),
            None => edits.push((c, 0)),
        }
        new.is_some()
    }

    /// Whether a character stays as it is.
    pub(crate) fn keeps(&self, c: char) -> bool {
        let mut buffer = [0; 4];
        let text = &*c.encode_utf8(&mut buffer);
        self.replacement(text).is_none_or(|new| new == text)
    }

    /// Whether a character becomes a space.
    pub(crate) fn writes_space(&self, c: char) -> bool {
        self.replacement(c.encode_utf8(&mut [0; 4])) == Some(" ")
    }

    /// Whether no entry that begins with `c` stands for nothing or for something with white space.
    pub(crate) fn writes_no_space(&self, c: char) -> bool {
        let mut buffer = [0; 4];
        let mut nodes = vec![0];
        for byte in c.encode_utf8(&mut buffer).bytes() {
            nodes = nodes
                .into_iter()
                .filter_map(|node| self.step(node, byte))
                .collect();
        }
        let mut left = MAX_ENTRIES;
        while let Some(node) = nodes.pop() {
            left -= 1;
            let written = self.written(node);
            if left == 0
                || written.is_some_and(|new| new.is_empty() || new.contains(char::is_whitespace))
            {
                return false;
            }
            nodes.extend((1..=u8::MAX).filter_map(|byte| self.step(node, byte)));
        }
        true
    }

    /// The unit that a byte leads to.
    fn step(&self, unit: usize, byte: u8) -> Option<usize> {
        let node = unit ^ offset(*self.units.get(unit)?) ^ byte as usize;
        let label = self.units.get(node)? & (1 << 31 | 0xff);
        (label == u32::from(byte)).then_some(node)
    }

    /// What stands for the entry that ends at a unit.
    fn written(&self, unit: usize) -> Option<&str> {
        let value = *self.units.get(unit)?;
        if value >> 8 & 1 == 0 {
            return None;
        }
        let leaf = self.units.get(unit ^ offset(value))? & ((1 << 31) - 1);
        self.replacements.get(leaf as usize..)?.split('\0').next()
    }

    /// The longest entry that `text` begins with, in bytes, and what stands for it.
    pub(crate) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (at, byte) in text.bytes().take(MAX_RULE).enumerate() {
            node ^= byte as usize;
            let Some(unit) = self.units.get(node).copied() else {
                break;
            };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            let has_leaf = unit >> 8 & 1 == 1;
            if has_leaf && text.is_char_boundary(at + 1) {
                found = self.units.get(node).map(|leaf| (at + 1, *leaf));
            }
        }
        let (length, leaf) = found?;
        let value = leaf & ((1 << 31) - 1);
        let new = self
            .replacements
            .get(value as usize..)?
            .split('\0')
            .next()?;
        Some((length, new))
    }

    /// What the shortest entry that `key` begins with is replaced by.
    fn replacement(&self, key: &str) -> Option<&str> {
        let mut node = offset(*self.units.first()?);
        for byte in key.bytes().take_while(|&byte| byte != 0) {
            node ^= byte as usize;
            let unit = *self.units.get(node)?;
            // The label has the leaf bit beside the byte: a leaf never matches.
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                return None;
            }
            node ^= offset(unit);
            let has_leaf = unit >> 8 & 1 == 1;
            if has_leaf {
                let value = *self.units.get(node)? & ((1 << 31) - 1);
                return self.replacements.get(value as usize..)?.split('\0').next();
            }
        }
        None
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

/// Replaces the next `old` characters by `new`.
fn push(edits: &mut Vec<(char, isize)>, old: usize, new: &str) {
    let start = edits.len();
    edits.extend(new.chars().map(|c| (c, 0)));
    let count = edits.len() - start;
    if count > old {
        edits
            .iter_mut()
            .rev()
            .take(count - old)
            .for_each(|(_, change)| *change = 1);
    } else if let Some((_, change)) = edits.last_mut() {
        *change -= (old - count) as isize;
    }
}
