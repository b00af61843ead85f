//! A JSON object, as far as its members.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::row::Body;

/// From so many members on each is found by its name: as many may come as fit into an answer, and all of them are looked for.
const MANY: usize = 32;

/// A JSON object whose values are kept as the text that came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<'a> {
    /// In the order in which they came; one that was removed has no value.
    members: Vec<(String, Option<&'a RawValue>)>,
    /// Where each of many members is.
    places: HashMap<String, usize>,
}

impl<'a> Object<'a> {
    pub(crate) fn parse(body: &'a Body) -> Result<Object<'a>, serde_json::Error> {
        serde_json::from_slice(body.as_bytes())
    }

    /// The value of a field; `None` if it is missing or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|value| value.get() != "null")
    }

    /// The value of a field as it is written, a null too; `None` if it is missing.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.members[self.place(name)?].1
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().filter_map(|(name, value)| Some((name.as_str(), (*value)?)))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members().map(|(name, _)| name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.members.iter_mut().filter(|(name, _)| !keep(name)).for_each(|(_, value)| *value = None);
    }

    pub(crate) fn set(&mut self, name: &str, value: Option<&'a RawValue>) {
        match self.place(name) {
            Some(place) => self.members[place].1 = value,
            None if value.is_some() => self.push(name.to_owned(), value),
            None => {}
        }
    }

    pub(crate) fn to_body(&self) -> Body {
        let mut bytes = Vec::new();
        // Texts that were parsed from JSON are JSON again.
        if serde_json::to_writer(&mut bytes, self).is_err() {
            bytes.clear();
        }
        Body::from(bytes)
    }

    fn place(&self, name: &str) -> Option<usize> {
        match self.members.len() {
            ..MANY => self.members.iter().position(|(key, _)| key == name),
            _ => self.places.get(name).copied(),
        }
    }

    fn push(&mut self, name: String, value: Option<&'a RawValue>) {
        self.members.push((name, value));
        if self.members.len() >= MANY {
            let unplaced = self.members.iter().enumerate().skip(self.places.len());
            self.places.extend(unplaced.map(|(place, (name, _))| (name.clone(), place)));
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    match object.place(&name) {
                        Some(place) => object.members[place].1 = Some(value),
                        None => object.push(name, Some(value)),
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members())
    }
}
