//! Stripping white space as Python does: U+001C to U+001F are white space there, and not in Unicode.

use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;

fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The `trim` filter.
pub(super) fn trim(text: &str, characters: Option<&str>) -> String {
    match characters {
        Some(characters) => text.trim_matches(|c| characters.contains(c)),
        None => text.trim_matches(is_space),
    }
    .to_owned()
}

/// Python's methods of strings, lists and dictionaries.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let bare = arguments.iter().all(Value::is_none);
    match (value.as_str(), name) {
        (Some(text), "strip") if bare => Ok(text.trim_matches(is_space).into()),
        (Some(text), "lstrip") if bare => Ok(text.trim_start_matches(is_space).into()),
        (Some(text), "rstrip") if bare => Ok(text.trim_end_matches(is_space).into()),
        _ => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}
