//! `ChatTemplate`: messages to text.

use std::sync::Arc;

use lmrs_tokenizers::ChatTemplate;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::{PyRes, detached};
use crate::tokenizer::utf8;

/// A compiled chat template.
#[pyclass(frozen, name = "ChatTemplate", module = "lmrs._rs")]
pub struct PyChatTemplate(ChatTemplate);

#[pymethods]
impl PyChatTemplate {
    #[new]
    fn new(source: &Bound<'_, PyString>) -> PyRes<Self> {
        let clock = |format: &str| {
            Python::attach(|py| {
                let now = py
                    .import("datetime")?
                    .getattr("datetime")?
                    .call_method0("now")?;
                now.call_method1("strftime", (format,))?.extract::<String>()
            })
            .unwrap_or_default()
        };
        Ok(Self(ChatTemplate::new(utf8(source)?, Arc::new(clock))?))
    }

    /// The text, and the characters that generation blocks wrote.
    fn render_with_generations(
        &self,
        py: Python<'_>,
        variables: &Bound<'_, PyString>,
    ) -> PyRes<(String, Vec<(usize, usize)>)> {
        let variables = utf8(variables)?;
        Ok(detached(py, || self.0.render_with_generations(variables))??)
    }

    /// Renders with a JSON object of variables.
    fn render(&self, py: Python<'_>, variables: &Bound<'_, PyString>) -> PyRes<String> {
        let variables = utf8(variables)?;
        Ok(detached(py, || self.0.render(variables))??)
    }
}
