//! The tokens of words seen before, in a fixed number of bytes.

use std::sync::{Mutex, OnceLock, TryLockError};

use bytemuck::Zeroable;

use super::Token;
use crate::stretch::{Cutting, Piece};

/// Tables of what was met last, each word in the place that its hash gives it.
pub(crate) struct Cache {
    /// The small one stays near the core; what it loses is found in the large one.
    near: Vec<Short<FEW>>,
    far: Vec<[Short<FEW>; 2]>,
    /// Words of as few bytes, but of more tokens.
    many: Vec<[Short<MANY>; 2]>,
    long: Vec<[Long; 2]>,
    /// How many words were not near since it was last asked.
    far_off: usize,
}

/// The tokens of a word of up to 15 bytes, at most `N` side by side.
#[derive(Clone, Copy, Zeroable)]
#[repr(align(32))]
pub(crate) struct Short<const N: usize> {
    /// The bytes of the word, zeros, and in the last byte how many they are. Zero where there is no word yet.
    key: u128,
    pub(crate) ids: [u32; N],
    /// Where each token ends in the word, marked; it starts where the one before ended.
    ends: [u8; N],
    pub(crate) count: u8,
}

/// Tokens for which an entry takes 32 bytes, and those for which it takes 64: most words of languages that a vocabulary
/// was not made for have more than three.
pub(crate) const FEW: usize = 3;
pub(crate) const MANY: usize = 8;

/// The tokens of a stretch of up to 31 bytes.
#[derive(Clone, Copy, Zeroable)]
#[repr(align(128))]
pub(crate) struct Long {
    key: [u128; 2],
    pub(crate) ids: [u32; Long::MOST],
    /// Bytes of the stretch.
    starts: [u8; Long::MOST],
    /// Marked.
    ends: [u8; Long::MOST],
    /// A bit for each token that begins a word, the first lowest.
    pub(crate) begins: u16,
    pub(crate) count: u8,
}

/// Set beside the end of a token whose text is that of the input, not that of its id.
const LITERAL: u8 = 0x80;

/// A token as a cache has it.
#[derive(Clone, Copy)]
pub(crate) struct Cached {
    pub(crate) id: u32,
    /// Bytes of the word or stretch.
    pub(crate) start: u8,
    pub(crate) end: u8,
    pub(crate) literal: bool,
}

impl<const N: usize> Short<N> {
    fn of(key: u128, tokens: impl ExactSizeIterator<Item = (u32, u8)>) -> Self {
        let mut entry = Self {
            key,
            count: tokens.len() as u8,
            ..Self::zeroed()
        };
        for ((slot, last), (id, end)) in entry.ids.iter_mut().zip(&mut entry.ends).zip(tokens) {
            (*slot, *last) = (id, end);
        }
        entry
    }

    #[inline(always)]
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Cached> {
        let tokens = self.ids.iter().zip(&self.ends);
        let mut start = 0;
        tokens.take(self.count as usize).map(move |(&id, &end)| {
            let (end, literal) = (end & !LITERAL, end & LITERAL != 0);
            let start = std::mem::replace(&mut start, end);
            Cached {
                id,
                start,
                end,
                literal,
            }
        })
    }
}

impl Long {
    const MOST: usize = 14;

    pub(crate) fn tokens(&self) -> impl Iterator<Item = Cached> {
        let tokens = self.ids.iter().zip(self.starts.iter().zip(&self.ends));
        tokens
            .take(self.count as usize)
            .map(|(&id, (&start, &end))| Cached {
                id,
                start,
                end: end & !LITERAL,
                literal: end & LITERAL != 0,
            })
    }
}

/// So many words are cut before they are looked up.
pub(crate) const AT_ONCE: usize = 32;

/// Entries, or pairs of them, by their logarithm: 256 KiB, 4 MiB, 8 MiB and 2 MiB, of which memory is only what was written.
const NEAR: u32 = 13;
const FAR: u32 = 16;
const OF_MANY: u32 = 16;
const LONG: u32 = 13;

/// The low bytes of a key, by how many.
const KEEP: [u128; 16] = {
    let mut keep = [0; 16];
    let mut bytes = 1;
    while bytes < 16 {
        keep[bytes] = u128::MAX >> (128 - 8 * bytes);
        bytes += 1;
    }
    keep
};

/// The bytes of `text` from `at`, the first in the lowest place; zeros after the end.
#[inline(always)]
fn load(text: &[u8], at: usize) -> u128 {
    let rest = text.get(at..).unwrap_or(&[]);
    if let Some(chunk) = rest.first_chunk::<16>() {
        u128::from_le_bytes(*chunk)
    } else {
        let mut padded = [0; 16];
        padded
            .iter_mut()
            .zip(rest)
            .for_each(|(to, from)| *to = *from);
        u128::from_le_bytes(padded)
    }
}

#[inline(always)]
fn mix(key: u128) -> u64 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let product =
        u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd6e8_feb8_6659_fd93);
    (product as u64) ^ (product >> 64) as u64
}

/// A word that fits the cache, as its tables know it.
#[derive(Clone, Copy)]
pub(crate) struct Key([u128; 2]);

impl Key {
    /// The key of `text[start..end]`, if it is short enough.
    #[inline(always)]
    pub(crate) fn of(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let len = end - start;
        if let Some(keep) = KEEP.get(len) {
            return Some(Self([load(text, start) & keep | (len as u128) << 120, 0]));
        }
        let keep = KEEP.get(len.checked_sub(16)?)?;
        let rest = load(text, start + 16) & keep | (len as u128) << 120;
        Some(Self([load(text, start), rest]))
    }

    #[inline(always)]
    fn is_short(self) -> bool {
        self.0[1] == 0
    }
}

fn place(hash: u64, bits: u32) -> usize {
    (hash >> (64 - bits)) as usize
}

impl Cache {
    fn new() -> Self {
        Self {
            // Pages of zeros come from the system when they are first touched.
            near: bytemuck::zeroed_vec(1 << NEAR),
            far: bytemuck::zeroed_vec(1 << FAR),
            many: bytemuck::zeroed_vec(1 << OF_MANY),
            long: bytemuck::zeroed_vec(1 << LONG),
            far_off: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn short(&mut self, Key([key, rest]): Key) -> Option<&Short<FEW>> {
        if rest != 0 {
            return None;
        }
        let hash = mix(key);
        let near = self.near.get_mut(place(hash, NEAR))?;
        if near.key != key {
            self.far_off += 1;
            *near = *self
                .far
                .get(place(hash, FAR))?
                .iter()
                .find(|far| far.key == key)?;
        }
        Some(near)
    }

    /// Whether many of the last words were far, so that the next ones are better fetched.
    #[inline(always)]
    pub(crate) fn is_far(&mut self) -> bool {
        std::mem::take(&mut self.far_off) > AT_ONCE / 3
    }

    /// Has the memory of all these words' entries read at once, so that look-ups one by one do not each wait for theirs.
    pub(crate) fn fetch(&self, keys: impl Iterator<Item = Key>) {
        let mut seen = 0;
        for Key([key, _]) in keys {
            let hash = mix(key);
            let far = self.far.get(place(hash, FAR));
            let many = self.many.get(place(hash, OF_MANY));
            seen ^= far.map_or(0, |[new, _]| new.key as u64);
            seen ^= many.map_or(0, |[new, old]| (new.key ^ old.key) as u64);
        }
        std::hint::black_box(seen);
    }

    /// As `short`, for words of more tokens.
    #[inline(always)]
    pub(crate) fn many(&self, Key([key, rest]): Key) -> Option<&Short<MANY>> {
        let entries = self.many.get(place(mix(key), OF_MANY))?;
        entries.iter().find(|entry| rest == 0 && entry.key == key)
    }

    pub(crate) fn long(&self, Key(key): Key) -> Option<&Long> {
        let hash = mix(key[0] ^ u128::from(mix(key[1])));
        let entries = self.long.get(place(hash, LONG))?;
        entries.iter().find(|entry| entry.key == key)
    }

    /// Remembers the tokens of a word that lie side by side.
    pub(crate) fn insert_word(&mut self, key: Key, tokens: &[Token]) {
        let mut end = 0;
        let tiled = tokens.iter().all(|token| {
            let fits = token.start == end && !token.literal;
            end = token.end;
            fits
        });
        if !tiled {
            return;
        }
        if tokens.len() > MANY || !key.is_short() {
            let pieces = tokens
                .iter()
                .enumerate()
                .map(|(at, token)| (token.id, token.start, token.end as u8, at == 0));
            self.insert_long(key, pieces);
            return;
        }
        self.insert_short(key, tokens.iter().map(|token| (token.id, token.end as u8)));
    }

    fn insert_short(
        &mut self,
        Key([key, _]): Key,
        tokens: impl ExactSizeIterator<Item = (u32, u8)>,
    ) {
        let hash = mix(key);
        if tokens.len() <= FEW {
            push(&mut self.far, place(hash, FAR), Short::of(key, tokens));
        } else {
            push(&mut self.many, place(hash, OF_MANY), Short::of(key, tokens));
        }
    }

    /// Remembers the tokens of a stretch, if their text is that of their ids or that of the stretch.
    pub(crate) fn insert_stretch(
        &mut self,
        key: Key,
        stretch: &str,
        pieces: &[Piece],
        one_word: bool,
    ) {
        let strange = |piece: &Piece| {
            let literal = piece.literal.as_deref();
            piece.begins > 1
                || literal.is_some_and(|text| stretch.get(piece.start..piece.end) != Some(text))
        };
        if pieces.iter().any(strange) {
            return;
        }
        let marked = |piece: &Piece| {
            let mark = if piece.literal.is_some() { LITERAL } else { 0 };
            piece.end as u8 | mark
        };
        let mut end = 0;
        let mut is_word = pieces.len() <= MANY && !pieces.is_empty();
        for (at, piece) in pieces.iter().enumerate() {
            is_word &= piece.start == end && (piece.begins == 1) == (at == 0 && !one_word);
            end = piece.end;
        }
        if is_word && key.is_short() {
            let tokens = pieces.iter().map(|piece| (piece.id, marked(piece)));
            self.insert_short(key, tokens);
            return;
        }
        let pieces = pieces
            .iter()
            .map(|piece| (piece.id, piece.start, marked(piece), piece.begins == 1));
        self.insert_long(key, pieces);
    }

    fn insert_long(
        &mut self,
        Key(key): Key,
        pieces: impl ExactSizeIterator<Item = (u32, usize, u8, bool)>,
    ) {
        if pieces.len() > Long::MOST {
            return;
        }
        let mut entry = Long {
            key,
            count: pieces.len() as u8,
            ..Long::zeroed()
        };
        let slots = entry
            .ids
            .iter_mut()
            .zip(&mut entry.starts)
            .zip(&mut entry.ends);
        for (at, ((id, start, end, begins), slot)) in pieces.zip(slots).enumerate() {
            *slot.0.0 = id;
            (*slot.0.1, *slot.1) = (start as u8, end);
            entry.begins |= u16::from(begins) << at;
        }
        let hash = mix(key[0] ^ u128::from(mix(key[1])));
        push(&mut self.long, place(hash, LONG), entry);
    }
}

/// Puts an entry before that which was the newest of its place.
fn push<T>(table: &mut [[T; 2]], place: usize, entry: T) {
    if let Some([new, old]) = table.get_mut(place) {
        *old = std::mem::replace(new, entry);
    }
}

/// The caches of a tokenizer, one for each call that runs at the same time, up to a number.
///
/// Nobody waits for one: a call takes the first that is free, so a fork finds at worst some that stay taken.
pub(crate) struct Caches {
    free: [Mutex<Option<Box<Cache>>>; 16],
    /// Where the input can be cut, once that is known.
    pub(crate) cutting: OnceLock<Option<Cutting>>,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            free: std::array::from_fn(|_| Mutex::new(None)),
            cutting: OnceLock::new(),
        }
    }
}

impl Caches {
    /// Runs `work` with a cache of its own.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Cache) -> R) -> R {
        let free = self.free.iter().find_map(|slot| match slot.try_lock() {
            Ok(slot) => Some(slot),
            // An entry is written as a whole: what a panic left behind is sound.
            Err(TryLockError::Poisoned(slot)) => Some(slot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        match free {
            Some(mut slot) => work(slot.get_or_insert_with(|| Box::new(Cache::new()))),
            None => work(&mut Cache::new()),
        }
    }
}
