//! What the engine, the planner and a service know of a table: its fields and indexes.

use std::borrow::Cow;

/// The wire name of the id of a row.
pub const ID: &str = "id";
/// The wire name of the version that the service gives to a row.
pub const VERSION: &str = "version";
/// The wire name of the time at which the service last changed a row.
pub const UPDATED_AT: &str = "updatedAt";
/// The wire name of the mark of a row that the service has soft-deleted.
pub const DELETED: &str = "deleted";

/// The fields that the service owns, apart from [`ID`]: a client never decides their values.
pub const SERVICE_OWNED: [&str; 3] = [VERSION, UPDATED_AT, DELETED];

/// A text that is part of a program, or was made while it runs.
pub type Name = Cow<'static, str>;

/// A table: its name on the wire and in the store, its fields and its indexes.
///
/// `#[derive(SyncEntity)]` makes one as a constant; tools may build one at run time.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    /// The table's name on the wire and in the store.
    pub name: Name,
    /// The fields in the order of their declaration, with the roles first found among them.
    pub fields: Cow<'static, [FieldSchema]>,
    /// The indexes that local queries may use.
    pub indexes: Cow<'static, [IndexSchema]>,
}

impl TableSchema {
    /// A table as a constant.
    #[must_use]
    pub const fn new(
        name: &'static str,
        fields: &'static [FieldSchema],
        indexes: &'static [IndexSchema],
    ) -> TableSchema {
        TableSchema { name: Cow::Borrowed(name), fields: Cow::Borrowed(fields), indexes: Cow::Borrowed(indexes) }
    }

    /// The field of that wire name, compared exactly.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The wire names of the fields that stay on the device.
    pub fn local_fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|field| field.local).map(|field| field.name.as_ref())
    }

    /// A number that changes when a name, a kind or the locality of a field changes.
    ///
    /// It is stored with every operation, so that a later release can tell which shape its bytes have.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |text: &str| {
            for byte in text.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        add(&self.name);
        for field in self.fields.iter() {
            add(&field.name);
            add(field.kind.name());
            add(if field.nullable { "?" } else { "" });
            add(if field.local { "local" } else { "" });
        }
        hash
    }
}

/// One field of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldSchema {
    /// The name in JSON and in queries.
    pub name: Name,
    /// What kind of value it holds.
    pub kind: FieldKind,
    /// Whether it may be null or missing.
    pub nullable: bool,
    /// Whether it stays on this device and is never sent.
    pub local: bool,
}

impl FieldSchema {
    /// A field that is sent, as a constant.
    #[must_use]
    pub const fn new(name: &'static str, kind: FieldKind, nullable: bool) -> FieldSchema {
        FieldSchema { name: Cow::Borrowed(name), kind, nullable, local: false }
    }

    /// A field that stays on this device, as a constant.
    #[must_use]
    pub const fn local(name: &'static str, kind: FieldKind, nullable: bool) -> FieldSchema {
        FieldSchema { name: Cow::Borrowed(name), kind, nullable, local: true }
    }
}

/// The kind of a field: how its JSON is compared, ordered and indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// `true` or `false`.
    Bool,
    /// A whole number of up to 64 bits.
    I64,
    /// A floating-point number.
    F64,
    /// A decimal number, kept to the digit.
    Decimal,
    /// A text.
    Text,
    /// One of these names, ordered as they are listed.
    Enum(Cow<'static, [Name]>),
    /// A point in time, as RFC 3339 text; compared at its milliseconds.
    Timestamp,
    /// A date without a time, `yyyy-mm-dd`.
    Date,
    /// A time of day, `hh:mm:ss.fff`.
    Time,
    /// A UUID, compared without regard to case.
    Uuid,
    /// Bytes, as base64 text.
    Bytes,
    /// A GeoJSON point.
    Point,
    /// Anything else: it can only be tested for null.
    Json,
}

impl FieldKind {
    /// A short lower-case name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            FieldKind::Bool => "bool",
            FieldKind::I64 => "i64",
            FieldKind::F64 => "f64",
            FieldKind::Decimal => "decimal",
            FieldKind::Text => "text",
            FieldKind::Enum(_) => "enum",
            FieldKind::Timestamp => "timestamp",
            FieldKind::Date => "date",
            FieldKind::Time => "time",
            FieldKind::Uuid => "uuid",
            FieldKind::Bytes => "bytes",
            FieldKind::Point => "point",
            FieldKind::Json => "json",
        }
    }
}

/// An index over one or more fields of a table, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSchema {
    /// The index's name, unique in its table.
    pub name: Name,
    /// The wire names of its fields.
    pub fields: Cow<'static, [Name]>,
}

impl IndexSchema {
    /// An index as a constant.
    #[must_use]
    pub const fn new(name: &'static str, fields: &'static [Name]) -> IndexSchema {
        IndexSchema { name: Cow::Borrowed(name), fields: Cow::Borrowed(fields) }
    }
}
