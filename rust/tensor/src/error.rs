//! The one error of the numeric crates. Each variant becomes one Python exception (`rust/python/src/error.rs`).

use std::path::PathBuf;

use lmrs_formats::FormatError;

/// What can go wrong below the Python surface.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is not what it claims to be.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Shapes or dtypes that an op cannot take.
    #[error("{op}: {message}")]
    Shape {
        /// The op that judged.
        op: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// A value outside its range: an id beyond the vocabulary, an option that makes no sense.
    #[error("{what} is {value}, expected {expected}")]
    Input {
        /// The name of the value.
        what: String,
        /// The value.
        value: String,
        /// The accepted range.
        expected: String,
    },
    /// Something that cannot happen did: a defect of lmrs.
    #[error("internal error: {0}")]
    Internal(String),
}

/// `Result` with the one [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Shape`] of `op`.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape {
            op,
            message: message.into(),
        }
    }

    /// An [`Error::Input`] about the value called `what`.
    pub fn input(
        what: impl Into<String>,
        value: &dyn std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Input {
            what: what.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}
