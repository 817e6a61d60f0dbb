//! Fields of a JSON file that know their own name.

use serde_json::Value;

use crate::error::{Error, Result};

/// A value and where it stands in its file, for example `pre_tokenizer.pretokenizers[1].pattern`.
pub(super) struct Field<'a> {
    pub(super) place: String,
    pub(super) value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) fn new(place: &str, value: &'a Value) -> Self {
        Self {
            place: place.to_owned(),
            value,
        }
    }

    /// The field `name`, if it is there and not null.
    pub(super) fn find(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Self {
            place: format!("{}.{name}", self.place),
            value,
        })
    }

    pub(super) fn get(&self, name: &str) -> Result<Self> {
        self.find(name)
            .ok_or_else(|| Error::invalid(&self.place, format!("the field `{name}` is missing")))
    }

    fn expected(&self, what: &str) -> Error {
        let mut found = self.value.to_string();
        if found.len() > 60 {
            found.truncate(found.floor_char_boundary(57));
            found.push_str("...");
        }
        Error::invalid(&self.place, format!("expected {what}, found {found}"))
    }

    pub(super) fn str(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.expected("a string"))
    }

    pub(super) fn char(&self) -> Result<char> {
        let mut chars = self.str()?.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => Err(self.expected("one character")),
        }
    }

    pub(super) fn bool(&self) -> Result<bool> {
        self.value
            .as_bool()
            .ok_or_else(|| self.expected("true or false"))
    }

    pub(super) fn u32(&self) -> Result<u32> {
        let number = self
            .value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| self.expected("an integer from 0 to 4294967295"))
    }

    pub(super) fn list(&self) -> Result<Vec<Self>> {
        let list = self
            .value
            .as_array()
            .ok_or_else(|| self.expected("a list"))?;
        Ok(list
            .iter()
            .enumerate()
            .map(|(at, value)| Self {
                place: format!("{}[{at}]", self.place),
                value,
            })
            .collect())
    }

    /// A flag that may be left out.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        self.find(name).map_or(Ok(default), |field| field.bool())
    }

    /// The name of the component.
    pub(super) fn kind(&self) -> Result<&'a str> {
        self.get("type")?.str()
    }

    pub(super) fn unsupported(&self, name: &str, supported: &str) -> Error {
        Error::Unsupported {
            place: self.place.clone(),
            name: name.to_owned(),
            supported: supported.to_owned(),
        }
    }
}
