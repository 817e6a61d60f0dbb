//! Rust errors become Python exceptions here, once.

use std::time::{Duration, Instant};

use lmrs_tensor::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The exception class `lmrs.errors.<name>` raised with `message`.
fn raise(name: &'static str, message: String) -> PyErr {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Python::attach(|py| {
        let class = MODULE
            .get_or_try_init(py, || py.import("lmrs.errors").map(Bound::unbind))
            .and_then(|module| module.bind(py).getattr(name))
            .and_then(|class| class.cast_into::<PyType>().map_err(PyErr::from));
        class.map_or_else(
            |import_failed| import_failed,
            |class| PyErr::from_type(class, message),
        )
    })
}

/// An error of the numeric crates on its way to Python.
pub struct Failure(PyErr);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let class = match &error {
            Error::Format { .. } => "FormatError",
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "MissingFileError"
            }
            Error::Io { .. } => "FileError",
            Error::Shape { .. } => "ShapeError",
            Error::Input { .. } => "InputError",
            Error::Internal(_) => "InternalError",
        };
        Self(raise(class, error.to_string()))
    }
}

impl From<lmrs_tokenizers::Error> for Failure {
    fn from(error: lmrs_tokenizers::Error) -> Self {
        let class = match &error {
            lmrs_tokenizers::Error::Input(_) => "InputError",
            _ => "TokenizerError",
        };
        Self(raise(class, error.to_string()))
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

/// The result of every method of the module.
pub type PyRes<T> = Result<T, Failure>;

/// An `InputError` about the argument called `what`.
pub fn bad_argument(what: &str, value: &dyn std::fmt::Display, expected: &str) -> Failure {
    Error::input(what, value, expected).into()
}

/// An `InputError` about the environment.
pub fn bad_setting(error: &dyn std::fmt::Display) -> Failure {
    Failure(raise("InputError", error.to_string()))
}

/// To be called between the steps of long work without the GIL: raises what a signal handler raised (Ctrl-C). It asks
/// Python only every 50 ms, so that steps need not be long.
pub fn interruption() -> impl FnMut() -> PyRes<()> {
    let mut asked = Instant::now();
    move || {
        if asked.elapsed() < Duration::from_millis(50) {
            return Ok(());
        }
        asked = Instant::now();
        Python::attach(|py| py.check_signals().map_err(Failure::from))
    }
}

/// Runs `work` without the GIL. A panic becomes `lmrs.InternalError`: nothing escapes as `PanicException`.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyRes<T> {
    py.detach(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)))
        .map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Error::Internal(text.unwrap_or_else(|| "panic".to_owned())).into()
        })
}
