//! Writing `tokenizer.json`.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use crate::{
    added::AddedToken,
    error::{Error, Result},
    model::{Bpe, Model, Unigram},
    tokenizer::Tokenizer,
    vocabulary::Vocabulary,
};

#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: Value,
    padding: Value,
    added_tokens: Vec<AddedJson<'a>>,
    normalizer: &'a Value,
    pre_tokenizer: &'a Value,
    post_processor: &'a Value,
    decoder: &'a Value,
    model: ModelJson<'a>,
}

#[derive(Serialize)]
struct AddedJson<'a> {
    id: u32,
    #[serde(flatten)]
    token: &'a AddedToken,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum ModelJson<'a> {
    #[serde(rename = "BPE")]
    Bpe {
        dropout: Option<f64>,
        unk_token: Option<&'a str>,
        continuing_subword_prefix: Option<&'a str>,
        end_of_word_suffix: Option<&'a str>,
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        vocab: Ids<'a>,
        merges: Vec<(&'a str, &'a str)>,
    },
    WordPiece {
        unk_token: &'a str,
        continuing_subword_prefix: &'a str,
        max_input_chars_per_word: usize,
        vocab: Ids<'a>,
    },
    WordLevel {
        vocab: Ids<'a>,
        unk_token: &'a str,
    },
    Unigram {
        unk_id: Option<u32>,
        vocab: Vec<(&'a str, f64)>,
        byte_fallback: bool,
    },
}

/// A vocabulary as a table from tokens to ids, by id. A token that two ids have is found under the one that counts.
struct Ids<'a>(&'a Vocabulary);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter() {
            if self.0.id(token) == Some(id) {
                map.serialize_entry(token, &id)?;
            }
        }
        map.end()
    }
}

impl Tokenizer {
    /// Writes a `tokenizer.json`, which Hugging Face's library reads too.
    ///
    /// What came from a `SentencePiece` model is written in that library's terms: there, characters are normalised a
    /// grapheme at a time, not by the longest rule, and log-probabilities are added in double precision.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let description = &self.description;
        if let Some(beyond) = description.beyond {
            return Err(Error::Unsupported {
                place: "tokenizer.json".to_owned(),
                name: beyond.to_owned(),
                supported: "what the format has a component for".to_owned(),
            });
        }
        let file = File {
            version: "1.0",
            truncation: Value::Null,
            padding: Value::Null,
            added_tokens: self
                .tokens
                .added
                .records()
                .into_iter()
                .map(|(id, token)| AddedJson { id, token })
                .collect(),
            normalizer: &description.normalizer,
            pre_tokenizer: &description.pre_tokenizer,
            post_processor: &description.post_processor,
            decoder: &description.decoder,
            model: model(&self.tokens.model),
        };
        serde_json::to_vec(&file).map_err(|e| Error::invalid("tokenizer.json", e.to_string()))
    }
}

fn model(model: &Model) -> ModelJson<'_> {
    match model {
        Model::Bpe(bpe) => bpe_json(bpe),
        Model::WordPiece(wordpiece) => ModelJson::WordPiece {
            unk_token: wordpiece
                .vocabulary()
                .token(wordpiece.unknown())
                .unwrap_or(""),
            continuing_subword_prefix: wordpiece.prefix(),
            max_input_chars_per_word: wordpiece.max_chars(),
            vocab: Ids(wordpiece.vocabulary()),
        },
        Model::WordLevel(wordlevel) => ModelJson::WordLevel {
            vocab: Ids(wordlevel.vocabulary()),
            unk_token: wordlevel.unknown_token(),
        },
        Model::Unigram(unigram) => unigram_json(unigram),
        Model::SentencePiece(pieces) => ModelJson::Unigram {
            unk_id: Some(pieces.unknown()),
            vocab: pieces.scored().collect(),
            byte_fallback: pieces.spells_bytes(),
        },
    }
}

fn unigram_json(unigram: &Unigram) -> ModelJson<'_> {
    ModelJson::Unigram {
        unk_id: unigram.unknown(),
        vocab: unigram.scored().collect(),
        byte_fallback: unigram.spells_bytes(),
    }
}

fn bpe_json(bpe: &Bpe) -> ModelJson<'_> {
    let options = bpe.options();
    let vocabulary = bpe.vocabulary();
    let some = |text: &'_ str| !text.is_empty();
    ModelJson::Bpe {
        dropout: options.dropout,
        unk_token: options.unknown.as_deref(),
        continuing_subword_prefix: Some(options.prefix.as_str()).filter(|text| some(text)),
        end_of_word_suffix: Some(options.suffix.as_str()).filter(|text| some(text)),
        fuse_unk: options.fuse_unknown,
        byte_fallback: options.byte_fallback,
        ignore_merges: options.ignore_merges,
        vocab: Ids(vocabulary),
        merges: bpe
            .merges()
            .into_iter()
            .filter_map(|(left, right)| Some((vocabulary.token(left)?, vocabulary.token(right)?)))
            .collect(),
    }
}
