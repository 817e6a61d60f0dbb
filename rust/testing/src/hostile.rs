//! Texts that a search could stumble over.

/// Texts that repeat one of these.
const REPEATED: [&str; 54] = [
    "a",
    "A",
    "1",
    " ",
    "\n",
    "\t",
    "\r\n",
    "!",
    "'",
    "/",
    "_",
    "-",
    "\0",
    "\u{7f}",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "é",
    "É",
    "語",
    "ば",
    "한",
    "\u{301}",
    "e\u{301}",
    "\u{300}\u{301}",
    "\u{1100}\u{1161}",
    "\u{200d}",
    "😀",
    "👨\u{200d}",
    "🇩",
    "ﬁ",
    "ß",
    "ſ",
    "ǅ",
    "ʰ",
    "'s",
    "'ſ",
    " a",
    "  a",
    " \n",
    "\n ",
    " !",
    "a b",
    "ab",
    "aB",
    "Ab",
    "語A",
    "the ",
    "don't ",
    "<",
    "<mask",
    "[UNK",
    "▁",
    "\u{600}",
];

/// Repetition with something else at the end: what a look-ahead or a search from the end stumbles over.
const ENDS: [(&str, &str); 6] = [
    (" ", "x"),
    ("\n", " x"),
    ("a", "!"),
    ("語", "A"),
    ("A", "語"),
    ("\u{301}", "x"),
];

/// How many letters there are in texts that repeat nothing.
const LETTERS: [u64; 3] = [2, 3, 26];

/// `bytes` of letters without a pattern: one word that repeats nothing.
fn noise(bytes: usize, letters: u64) -> String {
    let mut state = 1u64;
    let letter = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + ((state >> 33) % letters) as u8)
    };
    (0..bytes).map(letter).collect()
}

/// How many texts there are.
pub const COUNT: usize = REPEATED.len() + ENDS.len() + LETTERS.len();

/// Text `number` of them, `bytes` long or a little more.
///
/// # Panics
/// If there is no such number.
pub fn text(number: usize, bytes: usize) -> String {
    let repeated = |piece: &str, end: &str| piece.repeat(bytes / piece.len()) + end;
    if let Some(piece) = REPEATED.get(number) {
        return repeated(piece, "");
    }
    if let Some((piece, end)) = ENDS.get(number - REPEATED.len()) {
        return repeated(piece, end);
    }
    noise(bytes, LETTERS[number - REPEATED.len() - ENDS.len()])
}
