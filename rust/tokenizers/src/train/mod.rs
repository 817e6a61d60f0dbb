//! Training: texts become counts of words, and counts become a model.

mod lattice;
mod merges;
mod seeds;
mod unigram;

use hashbrown::HashMap;
use merges::Trained;
use serde_json::{Value, json};

use crate::{
    added::{AddedToken, AddedTokens},
    byte_level,
    error::{Error, Result},
    load,
    model::{Bpe, BpeOptions, Model, Unigram, WordPiece},
    parallel::in_parallel,
    split::{Splitter, Words},
    text::Text,
    tokenizer::Tokenizer,
    vocabulary::Vocabulary,
};

/// Before every token of a word but the first, in a `WordPiece` vocabulary.
const CONTINUING: &str = "##";

/// What to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Pairs are merged, the most frequent first (Sennrich et al., 2016); all bytes are in the vocabulary.
    ByteBpe,
    /// The same merges over characters, for a model that takes the longest token first.
    WordPiece,
    /// Pieces with probabilities, those that the texts need the most (Kudo, 2018).
    Unigram {
        /// Rare characters are spelled in bytes, for which there are 256 tokens.
        byte_fallback: bool,
    },
}

/// How large a vocabulary, and of what.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// How it is found.
    pub algorithm: Algorithm,
    /// Tokens at most, special ones included.
    pub vocab_size: usize,
    /// Pairs that are rarer than this are not merged; stretches of words that are rarer are no pieces.
    pub min_frequency: u64,
    /// These come first.
    pub special_tokens: Vec<String>,
}

/// The words of a corpus and how often each is there.
pub struct Corpus {
    /// Normalises and cuts; its model is a placeholder.
    template: Tokenizer,
    counts: HashMap<String, u64>,
}

impl Corpus {
    /// An empty corpus. `components` is a `tokenizer.json` without a model: how text is normalised and cut, and put
    /// together again.
    pub fn new(components: &[u8]) -> Result<Self> {
        let mut file: Value =
            serde_json::from_slice(components).map_err(|e| Error::invalid("", e.to_string()))?;
        let Some(file) = file.as_object_mut() else {
            return Err(Error::invalid("", "expected an object"));
        };
        let model = json!({ "type": "WordLevel", "vocab": { "": 0 }, "unk_token": "" });
        file.insert("model".to_owned(), model);
        file.remove("added_tokens");
        let post = file.remove("post_processor");
        let bytes = serde_json::to_vec(&file).map_err(|e| Error::invalid("", e.to_string()))?;
        let mut template = Tokenizer::from_json(&bytes)?;
        template.description.post_processor = post.unwrap_or_default();
        Ok(Self {
            template,
            counts: HashMap::new(),
        })
    }

    /// Counts the words of `texts`, on as many threads as there are processors.
    pub fn add(&mut self, texts: &[&str]) -> Result<()> {
        // A table for each text would cost more than it holds: neighbours share one.
        const BYTES_A_TABLE: usize = 1 << 18;
        let mut groups: Vec<&[&str]> = Vec::new();
        let mut rest = texts;
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take_while(|text| {
                    let room = bytes < BYTES_A_TABLE;
                    bytes += text.len();
                    room
                })
                .count();
            let (group, after) = rest.split_at(count);
            groups.push(group);
            rest = after;
        }
        let bytes = texts.iter().map(|text| text.len()).sum();
        let template = &self.template;
        let tables = in_parallel(&groups, bytes, |_, group| {
            let mut table: HashMap<String, u64> = HashMap::new();
            for text in *group {
                words(template, text, |word| {
                    if let Some(count) = table.get_mut(word) {
                        *count += 1;
                    } else {
                        table.insert(word.to_owned(), 1);
                    }
                });
            }
            Ok(table)
        })?;
        for table in tables {
            if self.counts.is_empty() {
                self.counts = table;
                continue;
            }
            for (word, count) in table {
                *self.counts.entry(word).or_insert(0) += count;
            }
        }
        Ok(())
    }

    /// How many different words there are.
    pub fn distinct_words(&self) -> usize {
        self.counts.len()
    }

    /// Finds the vocabulary. `progress` is told now and then how much is done, of how much: tokens where pairs are merged,
    /// else rounds. An error from it ends the work.
    pub fn train<E: From<Error>>(
        self,
        options: &TrainOptions,
        progress: impl FnMut(usize, usize) -> std::result::Result<(), E>,
    ) -> std::result::Result<Tokenizer, E> {
        let raw = self.template.splitter.as_ref().and_then(cutter).is_some();
        let mut words: Vec<(String, u64)> = if raw {
            let spelled = |word: &str| word.bytes().map(byte_level::char_of).collect();
            let counts = self.counts.into_iter();
            counts
                .map(|(word, count)| (spelled(&word), count))
                .collect()
        } else {
            self.counts.into_iter().collect()
        };
        // Nothing may depend on the order of a table.
        words.sort_unstable();
        let model = model(&words, options, progress)?;
        let special = options.special_tokens.iter();
        let added = special.map(|token| (AddedToken::special(token), None));
        load::build(model, added, self.template.description).map_err(E::from)
    }
}

/// The model that sorted words with their counts make.
fn model<E: From<Error>>(
    words: &[(String, u64)],
    options: &TrainOptions,
    progress: impl FnMut(usize, usize) -> std::result::Result<(), E>,
) -> std::result::Result<Model, E> {
    let special = &options.special_tokens;
    let unknown = special
        .iter()
        .position(|token| token.contains("UNK") || token.contains("unk"));
    if let Algorithm::Unigram { byte_fallback } = options.algorithm {
        if unknown.is_none() {
            let problem = "special_tokens have no unknown token such as \"<unk>\"".to_owned();
            return Err(E::from(Error::Input(problem)));
        }
        let tokens = unigram::train(words, options, byte_fallback, progress)?;
        let model = Unigram::new("vocab", &tokens, unknown, byte_fallback);
        return Ok(Model::Unigram(model?));
    }
    let Trained { tokens, merges } = merges::train(words, options, progress)?;
    let vocabulary = Vocabulary::from_pairs("vocabulary", &tokens)?;
    if options.algorithm == Algorithm::WordPiece {
        let unknown = unknown.and_then(|at| special.get(at));
        let unknown = unknown.map_or("[UNK]", String::as_str);
        let model = WordPiece::new("special_tokens", vocabulary, unknown, CONTINUING, 100);
        return Ok(Model::WordPiece(model?));
    }
    let text = |id: u32| tokens.get(id as usize).map_or("", |token| token.0.as_str());
    let pairs = merges
        .iter()
        .map(|(left, right)| (text(*left), text(*right)));
    let model = Bpe::new("merges", vocabulary, pairs, BpeOptions::default());
    Ok(Model::Bpe(model?))
}

/// The words that a splitter finds by itself, when what comes after only spells them byte by byte.
fn cutter(splitter: &Splitter) -> Option<Words> {
    let bytes = splitter.byte_words()?;
    bytes.words.filter(|_| bytes.is_plain())
}

/// Calls `found` for each word of a text as the model would see it; raw where `cutter` cuts.
fn words(template: &Tokenizer, input: &str, mut found: impl FnMut(&str)) {
    let none = AddedTokens::default();
    let mut text: Text = none.extract(input, template.normalizer.as_ref(), true);
    if let Some(splitter) = &template.splitter {
        if let Some(words) = cutter(splitter) {
            for span in &text.spans {
                let section = text.str(span);
                words.each(section, |start, end| {
                    found(section.get(start..end).unwrap_or(""));
                });
            }
            return;
        }
        splitter.apply(&mut text);
    }
    for span in &text.spans {
        found(text.str(span));
    }
}
