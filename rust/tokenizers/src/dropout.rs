//! BPE-dropout: a word written in another way each time, for training (Provilkov et al., 2020).

use lmrs_philox::philox;

use crate::{
    error::{Error, Result},
    model::{Model, Scratch},
    output::Output,
    split::Splitter,
    text::Text,
    tokenizer::{EncodeOptions, Tokenizer},
};

/// Mergers of a byte-pair model that are left out at random.
///
/// Before each merger of a word every pair that could merge is left out with probability `rate`, and the first in rank of
/// the others merges; if none is left, the word ends as it is. A rate of 0 gives the usual ids, a rate of 1 characters or
/// bytes. The time for a merger grows with 1 / (1 − `rate`).
///
/// What is left out is a function of the seed, the place of the text in the call's list, and the word's number in the text:
/// draw `n` of word `w` of text `t` is word `n mod 4` of Philox at counter `(n/4, w, t, p)`, where `p` is 1 in the second
/// text of a pair and else 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// From 0 to 1.
    pub rate: f64,
    /// Another seed leaves out others.
    pub seed: u64,
}

/// The draws of a text.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    /// A pair is left out where a random word is less.
    threshold: u64,
    seed: u64,
    text: u32,
    part: u32,
}

impl EncodeOptions {
    /// The draws of a text that is the first or second (`part`) of the pair `text` of a list; none if nothing is left out.
    pub(crate) fn draws(&self, model: &Model, text: usize, part: usize) -> Result<Option<Draws>> {
        let Some(Dropout { rate, seed }) = self.dropout else {
            return Ok(None);
        };
        if !(0.0..=1.0).contains(&rate) {
            let problem = format!("dropout is {rate}, expected 0 to 1");
            return Err(Error::Input(problem));
        }
        if !matches!(model, Model::Bpe(_)) {
            let kind = model.kind();
            let problem =
                format!("dropout is {rate}, but a {kind} model has no merges to leave out");
            return Err(Error::Input(problem));
        }
        let draws = Draws {
            threshold: (rate * 4_294_967_296.0) as u64,
            seed,
            text: text as u32,
            part: part as u32,
        };
        Ok((draws.threshold > 0).then_some(draws))
    }
}

impl Draws {
    /// Whether to leave out, one answer after the other, for a word.
    fn word(self, word: u32) -> impl FnMut() -> bool {
        let mut words = [0; 4];
        let mut drawn = 0_u32;
        move || {
            if drawn.is_multiple_of(4) {
                words = philox([drawn / 4, word, self.text, self.part], self.seed);
            }
            let [next, rest @ ..] = words;
            words = [rest[0], rest[1], rest[2], next];
            drawn = drawn.wrapping_add(1);
            u64::from(next) < self.threshold
        }
    }
}

impl Tokenizer {
    /// The share of mergers that the file says is left out in training, if it does. Nothing is left out but what
    /// [`EncodeOptions`] say.
    pub fn dropout(&self) -> Option<f64> {
        match &self.tokens.model {
            Model::Bpe(bpe) => bpe.options().dropout,
            _ => None,
        }
    }

    /// Encodes what `cut` gave, with mergers left out. No cache has what is drawn.
    pub(crate) fn encode_dropping(
        &self,
        text: &Text,
        draws: Draws,
        output: &mut impl Output,
    ) -> Result<()> {
        let Model::Bpe(bpe) = &self.tokens.model else {
            return Ok(());
        };
        let splitter = self.splitter.as_ref().and_then(Splitter::byte_words);
        let bytes = splitter.filter(|_| bpe.takes_bytes());
        let all = text.aligned.as_str();
        let mut scratch = Scratch::default();
        let mut outcome = Ok(());
        let mut count = 0;
        for span in &text.spans {
            if span.token.is_some() {
                self.added_token(all, span, output);
                continue;
            }
            let mut encode = |start: usize, end: usize| {
                let word = all.get(start..end).unwrap_or("");
                let drops = draws.word(count);
                count = count.wrapping_add(1);
                match bpe.tokenize_dropping(word, bytes.is_some(), drops, &mut scratch) {
                    Ok(()) => output.word(start, word, &scratch.tokens),
                    Err(error) => outcome = Err(error),
                }
            };
            match bytes.as_ref().and_then(|bytes| bytes.words) {
                Some(words) => words.each(text.str(span), |from, to| {
                    encode(span.start + from, span.start + to);
                }),
                None => encode(span.start, span.end),
            }
        }
        outcome
    }
}
