//! Runs of tokens that must not be written.

use lmrs_tensor::{Error, Result};

use super::{forbid as forbid_token, outside};

/// More tokens of bad words than anyone needs; each is looked at for every token.
const MOST: usize = 1 << 16;

/// Fails for an empty word, a token that is not below `vocabulary`, or too many tokens in all.
pub fn check(words: &[Vec<u32>], vocabulary: usize) -> Result<()> {
    let tokens: usize = words.iter().map(Vec::len).sum();
    if tokens > MOST {
        let expected = format!("at most {MOST}");
        return Err(Error::input(
            "number of tokens of bad_words",
            &tokens,
            expected,
        ));
    }
    for (at, word) in words.iter().enumerate() {
        if word.is_empty() {
            let name = format!("bad_words[{at}]");
            return Err(Error::input(name, &"empty", "at least one token"));
        }
        if let Some(id) = word.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(outside(&format!("bad_words[{at}]"), Some(id), vocabulary));
        }
    }
    Ok(())
}

/// Forbids the last token of each word that `tokens` end in the rest of.
pub fn forbid(scores: &mut [f64], tokens: &[u32], words: &[Vec<u32>]) {
    for word in words {
        if let Some((&last, before)) = word.split_last()
            && tokens.ends_with(before)
        {
            forbid_token(scores, last);
        }
    }
}
