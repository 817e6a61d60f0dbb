//! `tokenizer.json`, the format of the Hugging Face tokenizers library.

use serde::Deserialize;
use serde_json::Value;

use super::{describe::Description, model_json::ModelJson};
use crate::{
    added::AddedToken,
    error::{Error, Result},
    tokenizer::Tokenizer,
};

/// `truncation` and `padding` are not read: they are options of a call, not of a tokenizer.
#[derive(Deserialize)]
struct File<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedJson>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    #[serde(borrow)]
    model: ModelJson<'a>,
}

#[derive(Deserialize)]
struct AddedJson {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. The caller names the file in errors, with [`Error::in_file`].
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let file: File =
            serde_json::from_slice(bytes).map_err(|e| Error::invalid("", e.to_string()))?;
        if let Some(version) = file.version.filter(|version| version != "1.0") {
            return Err(Error::Unsupported {
                place: "version".to_owned(),
                name: version,
                supported: "1.0".to_owned(),
            });
        }
        let model = file.model.build()?;
        let added = file
            .added_tokens
            .into_iter()
            .map(|AddedJson { id, token }| (token, Some(id)));
        let description = Description {
            normalizer: file.normalizer.unwrap_or_default(),
            pre_tokenizer: file.pre_tokenizer.unwrap_or_default(),
            post_processor: file.post_processor.unwrap_or_default(),
            decoder: file.decoder.unwrap_or_default(),
            beyond: None,
        };
        Self::describe(model, "added_tokens", added, description)
    }
}
