//! Guesses at what follows by what followed the same tokens before: Saxena, 2023, "Prompt Lookup Decoding".

/// The longest run of last tokens that is looked for.
const LONGEST: usize = 3;

/// At most `count` tokens that followed the latest earlier place where `tokens` hold their own last ones, the more of these the
/// better; none if there is no such place.
pub fn guesses(tokens: &[u32], count: usize) -> Vec<u32> {
    for length in (1..=LONGEST.min(tokens.len().saturating_sub(1))).rev() {
        let (before, _) = tokens.split_at(tokens.len() - 1);
        let tail = tokens.get(tokens.len() - length..).unwrap_or_default();
        let found = before.windows(length).rposition(|run| run == tail);
        if let Some(at) = found {
            let from = at + length;
            return tokens
                .get(from..(from + count).min(tokens.len()))
                .unwrap_or_default()
                .to_vec();
        }
    }
    Vec::new()
}
