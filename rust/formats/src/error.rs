//! What can be wrong with a file.

use std::fmt;

/// The kinds of file this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A safetensors file.
    Safetensors,
    /// A `*.safetensors.index.json`.
    ShardIndex,
    /// A GGUF file.
    Gguf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::ShardIndex => "shard index",
            Self::Gguf => "GGUF",
        })
    }
}

/// A file that is not what it claims to be. The path is not known here; whoever opened the file adds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file ends before something it promised.
    #[error(
        "{format}: {what} needs {need} bytes but {have} are left: the file is truncated or its header lies"
    )]
    Truncated {
        /// The kind of file.
        format: Format,
        /// The field, key or tensor that was being read.
        what: String,
        /// The bytes it takes.
        need: u64,
        /// The bytes there are.
        have: u64,
    },
    /// A value that the format forbids.
    #[error("{format}: {what} is {got}, expected {expected}")]
    Invalid {
        /// The kind of file.
        format: Format,
        /// The field, key or tensor.
        what: String,
        /// The value found.
        got: String,
        /// What the format asks for.
        expected: String,
    },
    /// More than any real checkpoint needs, refused before memory is spent on it.
    #[error("{format}: {what} takes {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The kind of file.
        format: Format,
        /// The field, key or tensor.
        what: String,
        /// The size declared.
        size: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// A tensor stored in a way that is not decoded.
    #[error("{what} is stored as {encoding}, which is not read; readable are {readable}")]
    Unsupported {
        /// The tensor.
        what: String,
        /// How it is stored.
        encoding: &'static str,
        /// The encodings that are read.
        readable: String,
    },
    /// A pickle: reading one can run any code.
    #[error(
        "{evidence}: a pickle can run any code when it is read, so lmrs does not read it. Convert it once where you \
         trust it: `safetensors.torch.save_file(torch.load(path, weights_only=True), \"model.safetensors\")`, or \
         `model.save_pretrained(directory)` in transformers"
    )]
    Pickle {
        /// How it was recognised.
        evidence: String,
    },
    /// Neither safetensors nor GGUF.
    #[error("begins with {head}, which is neither safetensors nor GGUF")]
    Unknown {
        /// The first bytes.
        head: String,
    },
}

/// `Result` with [`FormatError`].
pub type Result<T, E = FormatError> = std::result::Result<T, E>;

impl FormatError {
    /// An [`FormatError::Invalid`].
    pub fn invalid(
        format: Format,
        what: impl Into<String>,
        got: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            format,
            what: what.into(),
            got: got.to_string(),
            expected: expected.into(),
        }
    }
}

/// A name from a file as a message shows it: quoted, escaped, and cut when it is longer than a line.
pub(crate) fn quoted(name: &str) -> String {
    const SHOWN: usize = 96;
    match name.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", name.get(..cut).unwrap_or_default()),
        None => format!("{name:?}"),
    }
}
