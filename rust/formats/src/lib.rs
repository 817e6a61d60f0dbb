//! safetensors, GGUF and shard indexes: parse, write and dequantise, trusting nothing
#![forbid(unsafe_code)]

/// placeholder until the parsers land
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub String);
