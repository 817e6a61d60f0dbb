//! `model.safetensors.index.json`: which shard holds each tensor.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

use crate::error::quoted;
use crate::json::Entries;
use crate::safetensors::Header;
use crate::{Format, FormatError, Result, identify};

/// The longest index accepted.
const LIMIT: usize = 100_000_000;

fn invalid(what: impl Into<String>, got: impl std::fmt::Display, expected: &str) -> FormatError {
    FormatError::invalid(Format::ShardIndex, what, got, expected)
}

/// A shard index whose file names are safe to join to the directory it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    shard_of: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

impl ShardIndex {
    /// Reads an index.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] if a tensor is listed twice or a shard is not a plain file name beside the index;
    /// [`FormatError::Pickle`] for an index of pickles.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > LIMIT {
            return Err(FormatError::TooLarge {
                format: Format::ShardIndex,
                what: "the index".to_owned(),
                size: json.len() as u64,
                limit: LIMIT as u64,
            });
        }
        let index: Index = serde_json::from_slice(json)
            .map_err(|e| invalid("the index", e, "{\"weight_map\": {tensor: file}}"))?;
        for (name, file) in &index.weight_map.0 {
            let plain = !file.contains(['/', '\\', ':', '\0']) && !file.starts_with('.');
            if file.is_empty() || !plain {
                return Err(invalid(
                    format!("the shard of tensor {}", quoted(name)),
                    quoted(file),
                    "a file name in the index's own directory",
                ));
            }
            match identify(file, b"") {
                Ok(Format::Safetensors) => (),
                Err(pickle @ FormatError::Pickle { .. }) => return Err(pickle),
                _ => {
                    return Err(invalid(
                        format!("the shard of tensor {}", quoted(name)),
                        quoted(file),
                        "a *.safetensors file",
                    ));
                }
            }
        }
        Ok(Self {
            shard_of: index.weight_map.0.into_iter().collect(),
        })
    }

    /// The file names of the shards, in order, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.shard_of.values().map(String::as_str).collect()
    }

    /// Checks that the shard called `file`, whose header is given, holds the tensors this index puts there and no
    /// other: a tensor in two shards would make the answer depend on which is read.
    pub fn check(&self, file: &str, header: &Header) -> Result<()> {
        for t in &header.tensors {
            let listed = self.shard_of.get(&t.name);
            if listed.is_none_or(|shard| shard != file) {
                return Err(invalid(
                    format!("tensor {} in {}", quoted(&t.name), quoted(file)),
                    listed.map_or("not listed".to_owned(), |s| {
                        format!("listed in {}", quoted(s))
                    }),
                    "each tensor in the one shard that lists it",
                ));
            }
        }
        let held: BTreeSet<&str> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        let lost = (self.shard_of.iter())
            .find(|(name, shard)| *shard == file && !held.contains(name.as_str()));
        match lost {
            Some((name, _)) => Err(invalid(
                format!("tensor {}", quoted(name)),
                format!("not in {}", quoted(file)),
                "every tensor where the index puts it",
            )),
            None => Ok(()),
        }
    }
}
