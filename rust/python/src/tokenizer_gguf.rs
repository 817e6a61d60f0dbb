//! GGUF metadata as the tokenizer's values.

use std::collections::BTreeMap;

use lmrs_formats::gguf::Value;
use lmrs_tokenizers::{Error, GgufTokenizer, TokenType};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Puts the texts, flags and integers whose names begin with `prefix` into `into`, without it.
pub fn scalars(
    metadata: &BTreeMap<String, Value>,
    prefix: &str,
    into: &Bound<'_, PyDict>,
) -> PyResult<()> {
    for (key, value) in metadata {
        let Some(name) = key.strip_prefix(prefix) else {
            continue;
        };
        match value {
            Value::String(text) => into.set_item(name, text)?,
            Value::Bool(flag) => into.set_item(name, flag)?,
            value => integer(value).map_or(Ok(()), |number| into.set_item(name, number))?,
        }
    }
    Ok(())
}

fn integer(value: &Value) -> Option<i64> {
    Some(match *value {
        Value::U8(number) => number.into(),
        Value::I8(number) => number.into(),
        Value::U16(number) => number.into(),
        Value::I16(number) => number.into(),
        Value::U32(number) => number.into(),
        Value::I32(number) => number.into(),
        Value::U64(number) => i64::try_from(number).ok()?,
        Value::I64(number) => number,
        _ => return None,
    })
}

/// The values that the tokenizer needs, each of the type it must have.
pub fn gguf_tokenizer(metadata: &BTreeMap<String, Value>) -> Result<GgufTokenizer, Error> {
    let wrong = |name: &str, expected: &str| Error::Invalid {
        place: format!("tokenizer.ggml.{name}"),
        problem: format!("expected {expected}"),
    };
    let find = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    let text = |name: &str| match find(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(name, "a string")),
    };
    let flag = |name: &str| match find(name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(wrong(name, "true or false")),
    };
    let id = |name: &str| {
        let id = find(name).map(|value| integer(value).and_then(|id| u32::try_from(id).ok()));
        id.map(|id| id.ok_or_else(|| wrong(name, "a token id")))
            .transpose()
    };
    let list = |name: &str| match find(name) {
        None => Ok(&[][..]),
        Some(Value::Array(items)) => Ok(items.as_slice()),
        Some(_) => Err(wrong(name, "a list")),
    };
    let texts = |name: &str| {
        let item = |item: &Value| match item {
            Value::String(text) => Ok(text.clone()),
            _ => Err(wrong(name, "strings")),
        };
        list(name)?.iter().map(item).collect::<Result<Vec<_>, _>>()
    };
    let score = |item: &Value| match item {
        Value::F32(score) => Ok(*score),
        _ => Err(wrong("scores", "32-bit floats")),
    };
    let token_type = |item: &Value| {
        let token_type = integer(item).and_then(TokenType::from_number);
        token_type.ok_or_else(|| wrong("token_type", "integers from 1 to 6"))
    };
    Ok(GgufTokenizer {
        model: text("model")?
            .ok_or_else(|| wrong("model", "the name of a tokenizer; the file has none"))?,
        pre: text("pre")?,
        tokens: texts("tokens")?,
        scores: list("scores")?
            .iter()
            .map(score)
            .collect::<Result<_, _>>()?,
        token_types: list("token_type")?
            .iter()
            .map(token_type)
            .collect::<Result<_, _>>()?,
        merges: texts("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        unknown: id("unknown_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}
