//! What the engine, the planner and a service know of a table: its fields and indexes.

use std::{borrow::Cow, fmt};

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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

    /// A table that is made at run time.
    ///
    /// ```
    /// use datasync_core::schema::{FieldKind, FieldSchema, IndexSchema, TableSchema};
    ///
    /// let names = ["id".to_owned(), "title".to_owned()];
    /// let fields = names.map(|name| FieldSchema::of(name, FieldKind::Text, false));
    /// let films = TableSchema::of("films", fields, [IndexSchema::of("by_title", ["title"])]);
    /// assert_eq!(films.fields.len(), 2);
    /// ```
    #[must_use]
    pub fn of(
        name: impl Into<Name>,
        fields: impl Into<Vec<FieldSchema>>,
        indexes: impl Into<Vec<IndexSchema>>,
    ) -> TableSchema {
        TableSchema { name: name.into(), fields: Cow::Owned(fields.into()), indexes: Cow::Owned(indexes.into()) }
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

    /// The wire name of the field that holds the time of the last edit, if the table has one.
    #[must_use]
    pub fn edited_field(&self) -> Option<&str> {
        self.fields.iter().find(|field| field.edited_at).map(|field| field.name.as_ref())
    }

    /// A number that changes when a name, a kind or the locality of a field changes. Parents and rules of merging do not
    /// count: they say nothing of the shape of a row.
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
///
/// ```
/// use datasync_core::schema::{FieldKind, FieldSchema, MergeRule};
///
/// const FIELDS: &[FieldSchema] = &[
///     FieldSchema::new("id", FieldKind::Text, false),
///     FieldSchema::new("listId", FieldKind::Text, true).parent("list"),
///     FieldSchema::new("rating", FieldKind::I64, false).merge(MergeRule::Max),
///     FieldSchema::new("changed", FieldKind::Timestamp, false).edited_at(),
///     FieldSchema::local("scroll", FieldKind::I64, true),
/// ];
/// assert_eq!(FIELDS[1].parent.as_deref(), Some("list"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldSchema {
    /// The name in JSON and in queries.
    pub name: Name,
    /// What kind of value it holds.
    pub kind: FieldKind,
    /// Whether it may be null or missing.
    pub nullable: bool,
    /// Whether it stays on this device and is never sent.
    pub local: bool,
    /// The table whose row this field names by its id: a foreign key.
    pub parent: Option<Name>,
    /// How the field merges when both sides changed it; `None` for the table's fallback.
    pub merge: Option<MergeRule>,
    /// Whether it holds the time of the last edit, which `last-writer-wins` compares.
    pub edited_at: bool,
}

impl FieldSchema {
    /// A field that is sent, as a constant.
    #[must_use]
    pub const fn new(name: &'static str, kind: FieldKind, nullable: bool) -> FieldSchema {
        FieldSchema {
            name: Cow::Borrowed(name),
            kind,
            nullable,
            local: false,
            parent: None,
            merge: None,
            edited_at: false,
        }
    }

    /// A field that is sent, made at run time.
    #[must_use]
    pub fn of(name: impl Into<Name>, kind: FieldKind, nullable: bool) -> FieldSchema {
        FieldSchema { name: name.into(), ..FieldSchema::new("", kind, nullable) }
    }

    /// A field that stays on this device, as a constant.
    #[must_use]
    pub const fn local(name: &'static str, kind: FieldKind, nullable: bool) -> FieldSchema {
        let mut field = FieldSchema::new(name, kind, nullable);
        field.local = true;
        field
    }

    /// The same field as a foreign key: it holds the id of a row of `table`.
    #[must_use]
    pub const fn parent(mut self, table: &'static str) -> FieldSchema {
        // A constant function cannot drop what was there: nothing, in a constant.
        std::mem::forget(self.parent.replace(Cow::Borrowed(table)));
        self
    }

    /// The same field with a rule for the case that both sides changed it.
    #[must_use]
    pub const fn merge(mut self, rule: MergeRule) -> FieldSchema {
        self.merge = Some(rule);
        self
    }

    /// The same field as the one that holds the time of the last edit.
    #[must_use]
    pub const fn edited_at(mut self) -> FieldSchema {
        self.edited_at = true;
        self
    }
}

/// What becomes of a field that both sides changed, in a merge by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeRule {
    /// This device's value stays.
    Client,
    /// The service's value is taken.
    Server,
    /// The greater value, in the order of the field's kind.
    Max,
    /// The smaller value, in the order of the field's kind.
    Min,
    /// The base and what each side added to it.
    Sum,
    /// The elements that either side has, less those that one of them took away.
    Union,
    /// What a function of the app makes of the three values.
    With(MergeFunction),
}

/// A function of the app that merges a field: `fn(base: Option<T>, local: T, service: T) -> T` over JSON text.
///
/// `#[sync(merge_with = path)]` makes one of a function with types.
#[derive(Clone, Copy)]
pub struct MergeFunction(MergeJson);

/// A [`MergeFunction`] without its wrapper: base, local and service value as JSON texts, and the merged one.
pub type MergeJson = fn(Option<&str>, &str, &str) -> Result<String, serde_json::Error>;

impl MergeFunction {
    /// A rule from a function over JSON texts.
    #[must_use]
    pub const fn new(function: MergeJson) -> MergeFunction {
        MergeFunction(function)
    }

    /// Merges three values; `base` is `None` where the service had no such row, or no value for the field.
    ///
    /// # Errors
    ///
    /// A text that is not the JSON of the function's type, or a result that cannot be written as JSON.
    pub fn call(self, base: Option<&str>, local: &str, service: &str) -> Result<String, serde_json::Error> {
        (self.0)(base, local, service)
    }
}

impl fmt::Debug for MergeFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergeFunction")
    }
}

impl Eq for MergeFunction {}

impl PartialEq for MergeFunction {
    fn eq(&self, other: &MergeFunction) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
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
    /// Whether its values are numbers.
    #[must_use]
    pub const fn is_number(&self) -> bool {
        matches!(self, FieldKind::I64 | FieldKind::F64 | FieldKind::Decimal)
    }

    /// Whether its values have an order, so that one of two is the greater one: all but bytes, points and JSON.
    #[must_use]
    pub const fn is_ordered(&self) -> bool {
        !matches!(self, FieldKind::Bytes | FieldKind::Point | FieldKind::Json)
    }

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
#[non_exhaustive]
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

    /// An index that is made at run time.
    #[must_use]
    pub fn of(name: impl Into<Name>, fields: impl IntoIterator<Item = impl Into<Name>>) -> IndexSchema {
        IndexSchema { name: name.into(), fields: fields.into_iter().map(Into::into).collect() }
    }
}
