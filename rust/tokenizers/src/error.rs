//! The one error of this crate.

use thiserror::Error;

/// What can go wrong while loading or using a tokenizer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Error {
    /// A field of a tokenizer file is missing, malformed or contradicts another.
    #[error("{place}: {problem}")]
    Invalid {
        /// File and field, for example `tokenizer.json: model.merges[3]`.
        place: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A file asks for a component that this crate does not have.
    #[error("{place}: `{name}` is not supported (supported: {supported})")]
    Unsupported {
        /// File and field.
        place: String,
        /// What the file asks for.
        name: String,
        /// What could stand there instead.
        supported: String,
    },
    /// Text that this tokenizer cannot take.
    #[error("{0}")]
    Text(String),
    /// Options that make no sense.
    #[error("{0}")]
    Input(String),
    /// A chat template does not parse, fails, or asks for more than its limits allow.
    #[error("chat template: {0}")]
    Template(String),
}

impl Error {
    pub(crate) fn invalid(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            place: place.into(),
            problem: problem.into(),
        }
    }

    /// Names the file that a field belongs to.
    #[must_use]
    pub fn in_file(self, file: &str) -> Self {
        match self {
            Self::Invalid { place, problem } => Self::Invalid {
                place: join(file, &place),
                problem,
            },
            Self::Unsupported {
                place,
                name,
                supported,
            } => Self::Unsupported {
                place: join(file, &place),
                name,
                supported,
            },
            other => other,
        }
    }
}

fn join(file: &str, place: &str) -> String {
    if place.is_empty() {
        file.to_owned()
    } else {
        format!("{file}: {place}")
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
