//! What becomes of the text that a pattern matched.

/// Where matched text goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// It is dropped.
    Removed,
    /// Each match is a word.
    Isolated,
    /// Neighbouring matches are one word.
    Contiguous,
    /// A match ends the word before it.
    MergedWithPrevious,
    /// A match begins the word after it.
    MergedWithNext,
}

impl Behavior {
    /// Cuts `0..len` around `matches`; with `invert`, around what lies between them.
    pub(crate) fn cut(
        self,
        len: usize,
        matches: &[(usize, usize)],
        invert: bool,
        ranges: &mut Vec<(usize, usize)>,
    ) {
        let first = ranges.len();
        let mut before = false;
        let mut piece = |start: usize, end: usize, matched: bool| {
            if start == end {
                return;
            }
            let last = if ranges.len() > first {
                ranges.last_mut()
            } else {
                None
            };
            match (self, last) {
                (Self::Removed, _) if matched => {}
                (Self::Contiguous, Some(last)) if matched == before => last.1 = end,
                (Self::MergedWithPrevious, Some(last)) if matched && !before => last.1 = end,
                (Self::MergedWithNext, Some(last)) if !matched && before => last.1 = end,
                _ => ranges.push((start, end)),
            }
            before = matched;
        };
        let mut at = 0;
        for &(start, end) in matches {
            piece(at, start, invert);
            piece(start, end, !invert);
            at = end;
        }
        piece(at, len, invert);
    }
}

#[cfg(test)]
mod tests {
    use super::Behavior;

    #[test]
    fn the_five_behaviours() {
        let text = "the-final--countdown";
        let matches: Vec<_> = text
            .match_indices('-')
            .map(|(at, _)| (at, at + 1))
            .collect();
        let cut = |behavior: Behavior| {
            let mut ranges = Vec::new();
            behavior.cut(text.len(), &matches, false, &mut ranges);
            ranges
                .iter()
                .map(|&(s, e)| &text[s..e])
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(cut(Behavior::Removed), "the final countdown");
        assert_eq!(cut(Behavior::Isolated), "the - final - - countdown");
        assert_eq!(cut(Behavior::Contiguous), "the - final -- countdown");
        assert_eq!(cut(Behavior::MergedWithPrevious), "the- final- - countdown");
        assert_eq!(cut(Behavior::MergedWithNext), "the -final - -countdown");
    }
}
