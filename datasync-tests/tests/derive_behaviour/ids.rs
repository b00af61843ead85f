//! Ids that are texts, UUIDs and types of their own.

use datasync_core::{
    entity::{EntityId, RowId, SyncEntity},
    query::{Field, Id},
    schema::{FieldKind, FieldSchema},
};
use datasync_derive::{SyncEntity, SyncId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::field;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncId)]
#[sync(crate = "datasync_core")]
struct ShelfId(Uuid);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, SyncId)]
#[serde(transparent)]
#[sync(crate = "datasync_core")]
struct BookId {
    text: String,
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Shelf {
    id: ShelfId,
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Book {
    #[sync(index)]
    id: BookId,
    #[sync(index, parent = Shelf)]
    shelf: Option<ShelfId>,
    #[sync(parent = Self)]
    sequel_of: Option<BookId>,
}

#[derive(Clone, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Plain {
    id: Uuid,
}

const UUID: Uuid = Uuid::from_u128(0x0192_3c5a_0000_7000_8000_0000_0000_00ff);
const TEXT: &str = "01923c5a-0000-7000-8000-0000000000ff";

#[test]
fn an_id_is_its_text_and_an_empty_or_nil_one_is_not_given_yet() {
    let mut plain = Plain { id: Uuid::nil() };
    assert_eq!(plain.id(), "");
    plain.set_id(TEXT).unwrap();
    assert_eq!((plain.id, &*plain.id()), (UUID, TEXT));
    let mut shelf = Shelf { id: ShelfId(Uuid::nil()) };
    assert_eq!(shelf.id(), "");
    shelf.set_id(TEXT).unwrap();
    assert_eq!((&shelf.id, &*shelf.id()), (&ShelfId(UUID), TEXT));
    let mut book = Book { id: BookId { text: String::new() }, shelf: None, sequel_of: None };
    assert_eq!(book.id(), "");
    book.set_id("x").unwrap();
    assert_eq!(book.id(), "x");
}

#[test]
fn an_id_that_the_type_would_spell_otherwise_is_refused() {
    let mut plain = Plain { id: UUID };
    for id in ["x", "", "01923C5A-0000-7000-8000-0000000000FF", "01923c5a00007000800000000000000000ff"] {
        let error = plain.set_id(id).unwrap_err();
        assert!(error.to_string().contains("lower case with dashes"), "{error}");
    }
    assert_eq!(plain.id, UUID, "it is as it was");
}

#[test]
fn ids_are_texts_on_the_wire_and_foreign_keys_have_the_kind_of_what_they_wrap() {
    assert_eq!(field::<Plain>("id"), FieldSchema::new("id", FieldKind::Text, false));
    assert_eq!(field::<Book>("id").kind, FieldKind::Text);
    assert_eq!(field::<Book>("shelf").kind, FieldKind::Uuid);
    assert_eq!(field::<Book>("sequel_of").kind, FieldKind::Text);
    assert_eq!(field::<Book>("sequel_of").parent.as_deref(), Some("book"));
    let _: Field<Book, Id<BookId>> = Book::FIELDS.id;
    assert_eq!(serde_json::to_string(&BookId { text: "x".into() }).unwrap(), r#""x""#);
}

#[test]
fn a_filter_takes_ids_in_every_form() {
    assert_eq!(Plain::FIELDS.id.eq(UUID).to_string(), format!("(id eq '{TEXT}')"));
    assert_eq!(Shelf::FIELDS.id.eq(ShelfId(UUID)).to_string(), format!("(id eq '{TEXT}')"));
    assert_eq!(Shelf::FIELDS.id.gt("a").to_string(), "(id gt 'a')");
    let key = Book::FIELDS.shelf.eq(ShelfId(UUID)).and(Book::FIELDS.sequel_of.eq(Book::FIELDS.id));
    assert_eq!(key.to_string(), format!("((shelf eq cast({TEXT},Edm.Guid)) and (sequel_of eq id))"));
    let some = Book::FIELDS.id.is_in([BookId { text: "a".into() }, BookId { text: "b'".into() }]);
    assert_eq!(some.to_string(), "id in ('a','b''')");
    assert_eq!(ShelfId::from_text(TEXT), Some(ShelfId(UUID)));
    assert_eq!((&&ShelfId(UUID)).as_text(), TEXT);
}
