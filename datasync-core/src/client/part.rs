//! What the rows of a query are read into: entities, or structs that hold a part of their fields.

use serde::{
    Deserializer,
    de::{DeserializeOwned, Error as _, Visitor, value::Error as AskError},
    forward_to_deserialize_any,
};

use crate::{
    client::codec,
    entity::SyncEntity,
    error::{Error, ErrorKind},
    query::QueryDescription,
    row::Record,
    schema::{ID, SERVICE_OWNED, TableSchema},
};

/// How rows become values of `P`.
pub(crate) struct Reader<P> {
    /// `None` for whole entities; else the fields of `P`, where it has any that are known.
    names: Option<Option<Names>>,
    read: fn(Names, &str, &Record) -> Result<P, Error>,
}

type Names = &'static [&'static str];

impl<P> Clone for Reader<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Reader<P> {}

impl<P> Reader<P> {
    /// Whole rows, by this function.
    pub(crate) fn whole(read: fn(Names, &str, &Record) -> Result<P, Error>) -> Reader<P> {
        Reader { names: None, read }
    }

    /// The fields of `P` alone.
    pub(crate) fn part<E: SyncEntity>() -> Reader<P>
    where
        P: DeserializeOwned,
    {
        Reader {
            names: Some(field_names::<P>()),
            read: |names, id, record| codec::decode_part(E::TABLE, names, id, record),
        }
    }

    pub(crate) fn read(&self, id: &str, record: &Record) -> Result<P, Error> {
        (self.read)(self.names.flatten().unwrap_or_default(), id, record)
    }

    /// The query for what is read; `remote` if a service answers it.
    pub(crate) fn prepare(
        &self,
        mut query: QueryDescription,
        schema: &TableSchema,
        remote: bool,
    ) -> Result<QueryDescription, Error> {
        query.select.clear();
        let Some(names) = self.names else { return Ok(query) };
        let refuse = |message| Err(Error::new(ErrorKind::InvalidQuery, message));
        let Some(names) = names else {
            return refuse(
                "a part of a row is read into a struct with named fields, none of them flattened".to_owned(),
            );
        };
        for name in names {
            let is_role = *name == ID || SERVICE_OWNED.contains(name);
            match schema.field(name) {
                Some(field) if remote && field.local => {
                    return refuse(format!("`{name}` of `{}` stays on the device: no service has it", schema.name));
                }
                None if !is_role => return refuse(format!("`{}` has no property `{name}`", schema.name)),
                _ => query.select.push((*name).to_owned()),
            }
        }
        Ok(query)
    }
}

/// The names of the fields of a struct, as serde reads them; `None` for what is no struct.
fn field_names<P: DeserializeOwned>() -> Option<Names> {
    let mut names = None;
    // It fails in any case: there is nothing to read.
    let _ = P::deserialize(Ask(&mut names));
    names
}

/// Is asked for a struct, keeps the names of its fields, and has no value.
struct Ask<'a>(&'a mut Option<Names>);

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = AskError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, AskError> {
        Err(AskError::custom("only names are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: Names, _: V) -> Result<V::Value, AskError> {
        *self.0 = Some(fields);
        Err(AskError::custom("only names are asked for"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
