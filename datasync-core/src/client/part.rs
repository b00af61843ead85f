//! What the rows of a query are read into: entities, JSON, or structs that hold a part of their fields.

use std::sync::Arc;

use serde::{
    Deserializer,
    de::{DeserializeOwned, Error as _, Visitor, value::Error as AskError},
    forward_to_deserialize_any,
};

use crate::{
    client::codec,
    error::{Error, ErrorKind},
    query::QueryDescription,
    row::Record,
    schema::{ID, SERVICE_OWNED, TableSchema},
};

/// How rows become values of `P`.
pub(crate) struct Reader<P> {
    wanted: Wanted,
    /// The fields that are read; empty for all.
    select: Vec<String>,
    read: Arc<Read<P>>,
}

/// What reads a row, or only these fields of it.
type Read<P> = dyn Fn(&[String], &str, &Record) -> Result<P, Error> + Send + Sync;

/// Which fields are read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// All of them.
    All,
    /// Those that the query names, if it names any.
    Selected,
    /// Those of a type, where it has any that are known.
    Of(Option<&'static [&'static str]>),
}

impl<P> Clone for Reader<P> {
    fn clone(&self) -> Self {
        Reader { wanted: self.wanted, select: self.select.clone(), read: Arc::clone(&self.read) }
    }
}

impl<P> Reader<P> {
    /// Rows by this function.
    pub(crate) fn new(
        wanted: Wanted,
        read: impl Fn(&[String], &str, &Record) -> Result<P, Error> + Send + Sync + 'static,
    ) -> Reader<P> {
        Reader { wanted, select: Vec::new(), read: Arc::new(read) }
    }

    /// The fields of `P` alone.
    pub(crate) fn part(table: &Arc<str>) -> Reader<P>
    where
        P: DeserializeOwned,
    {
        let table = Arc::clone(table);
        let read = move |names: &[String], id: &str, record: &Record| codec::decode_part(&table, names, id, record);
        Reader::new(Wanted::Of(field_names::<P>()), read)
    }

    pub(crate) fn read(&self, id: &str, record: &Record) -> Result<P, Error> {
        (self.read)(&self.select, id, record)
    }

    /// The query for what is read; `remote` if a service answers it.
    pub(crate) fn prepare(
        &mut self,
        mut query: QueryDescription,
        schema: &TableSchema,
        remote: bool,
    ) -> Result<QueryDescription, Error> {
        query.select = match self.wanted {
            Wanted::All => Vec::new(),
            Wanted::Selected => query.select,
            Wanted::Of(names) => selected(names, schema, remote)?,
        };
        self.select.clone_from(&query.select);
        Ok(query)
    }
}

/// The names of the fields of a type, if the table has them all.
fn selected(names: Option<&[&str]>, schema: &TableSchema, remote: bool) -> Result<Vec<String>, Error> {
    let refuse = |message| Err(Error::new(ErrorKind::InvalidQuery, message));
    let Some(names) = names else {
        return refuse("a part of a row is read into a struct with named fields, none of them flattened".to_owned());
    };
    for name in names {
        let is_role = *name == ID || SERVICE_OWNED.contains(name);
        match schema.field(name) {
            Some(field) if remote && field.local => {
                return refuse(format!("`{name}` of `{}` stays on the device: no service has it", schema.name));
            }
            None if !is_role => return refuse(format!("`{}` has no property `{name}`", schema.name)),
            _ => {}
        }
    }
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

/// The names of the fields of a struct, as serde reads them; `None` for what is no struct.
fn field_names<P: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let mut names = None;
    // It fails in any case: there is nothing to read.
    let _ = P::deserialize(Ask(&mut names));
    names
}

/// Is asked for a struct, keeps the names of its fields, and has no value.
struct Ask<'a>(&'a mut Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = AskError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, AskError> {
        Err(AskError::custom("only names are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, AskError> {
        *self.0 = Some(fields);
        Err(AskError::custom("only names are asked for"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
