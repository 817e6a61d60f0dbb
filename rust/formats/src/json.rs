//! JSON objects whose keys must not repeat: in a checkpoint the second of two entries would silently win.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// A value of an object that may depend on its key.
pub(crate) trait Keyed: Sized {
    /// Reads the value that follows `key`.
    fn read<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error>;
}

impl Keyed for String {
    fn read<'de, A: MapAccess<'de>>(_: &str, map: &mut A) -> Result<Self, A::Error> {
        map.next_value()
    }
}

/// The entries of an object in file order.
pub(crate) struct Entries<T>(pub(crate) Vec<(String, T)>);

struct Each<T>(PhantomData<T>);

impl<'de, T: Keyed> Visitor<'de> for Each<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!(
                    "duplicate key {}",
                    crate::error::quoted(&key)
                )));
            }
            let value = T::read(&key, &mut map)?;
            entries.push((key, value));
        }
        Ok(Entries(entries))
    }
}

impl<'de, T: Keyed> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Each(PhantomData))
    }
}
