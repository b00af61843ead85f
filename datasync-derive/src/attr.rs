//! What `#[sync(…)]` and `#[serde(…)]` say of a struct, an enum, a field or a member.

use proc_macro2::{Ident, TokenStream};
use syn::{Attribute, ExprPath, LitStr, Path, Type, ext::IdentExt};

use crate::{
    ast::Role,
    case::Case,
    ctxt::Ctxt,
    item::{self, Args, Item, items, suggestion},
};

const CONTAINER_KEYS: [&str; 4] = ["table", "fields", "crate", "index"];
const FIELD_KEYS: [&str; 10] =
    ["id", "version", "updated_at", "deleted", "index", "local", "parent", "merge", "merge_with", "edited_at"];
/// The modules of other crates that write a time as RFC 3339 text: the JSON is that of a timestamp.
const RFC3339: [&str; 2] = ["time::serde::rfc3339", "time::serde::rfc3339::option"];
const MERGE_RULES: [&str; 6] = ["client", "server", "max", "min", "sum", "union"];
const VALUE_KEYS: [&str; 1] = ["crate"];

/// The container part of the grammar.
#[derive(Default)]
pub(crate) struct SyncContainer {
    pub(crate) table: Option<String>,
    pub(crate) fields: Option<Ident>,
    pub(crate) krate: Krate,
    pub(crate) indexes: Vec<IndexAttr>,
}

/// Where the generated code finds the framework.
#[derive(Default)]
pub(crate) enum Krate {
    #[default]
    Facade,
    At(Path),
    /// Nothing can be generated for a path that cannot be read: every line of it would be one more error.
    Unreadable,
}

/// One `index(a, b)` of a container.
pub(crate) struct IndexAttr {
    pub(crate) key: Ident,
    pub(crate) fields: Vec<Ident>,
}

/// The field part of the grammar.
#[derive(Default)]
pub(crate) struct SyncField {
    pub(crate) role: Option<Role>,
    pub(crate) index: Option<Ident>,
    pub(crate) local: Option<Ident>,
    pub(crate) parent: Option<ParentAttr>,
    pub(crate) merge: Option<MergeAttr>,
    pub(crate) edited_at: Option<Ident>,
}

/// `parent = List`: the entity whose id the field holds.
pub(crate) struct ParentAttr {
    pub(crate) key: Ident,
    pub(crate) entity: Type,
}

/// `merge = max` or `merge_with = path`.
pub(crate) struct MergeAttr {
    pub(crate) key: Ident,
    pub(crate) rule: MergeRule,
}

impl MergeAttr {
    /// Whether it is the rule of that name.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(&self.rule, MergeRule::Named(rule) if rule == name)
    }
}

pub(crate) enum MergeRule {
    /// One of [`MERGE_RULES`], as it was written.
    Named(Ident),
    With(ExprPath),
}

/// Reports a key that was there before.
struct Seen<'a> {
    ctxt: &'a Ctxt,
    names: Vec<String>,
}

impl Seen<'_> {
    fn is_new(&mut self, item: &Item) -> bool {
        let name = item.name();
        if self.names.contains(&name) {
            self.ctxt.error(&item.key, format!("duplicate sync attribute `{name}`"));
            return false;
        }
        self.names.push(name);
        true
    }
}

fn sync_items(ctxt: &Ctxt, attrs: &[Attribute]) -> Vec<Item> {
    items(attrs, "sync", |error| ctxt.push(error))
}

fn unknown(ctxt: &Ctxt, item: &Item, place: &str, known: &[&str]) {
    let name = item.name();
    let hint = match name.as_str() {
        "rename" | "rename_all" => format!(": the wire names come from `#[serde({name} = …)]`"),
        other if place == "field" && ["table", "fields", "crate"].contains(&other) => {
            ": it belongs to the struct".to_owned()
        }
        other if place == "container" && FIELD_KEYS.contains(&other) => ": it belongs to a field".to_owned(),
        other => suggestion(other, known),
    };
    ctxt.error(&item.key, format!("unknown sync {place} attribute `{name}`{hint}"));
}

fn krate(ctxt: &Ctxt, item: &Item) -> Krate {
    match item.value::<LitStr>().map(|text| text.parse_with(Path::parse_mod_style)) {
        Some(Ok(path)) => Krate::At(path),
        _ => {
            ctxt.error(item, "`crate` takes the path of the framework as a text: `crate = \"datasync\"`");
            Krate::Unreadable
        }
    }
}

impl SyncContainer {
    pub(crate) fn of_struct(ctxt: &Ctxt, attrs: &[Attribute]) -> SyncContainer {
        let mut sync = SyncContainer::default();
        let mut seen = Seen { ctxt, names: Vec::new() };
        for item in sync_items(ctxt, attrs) {
            match item.name().as_str() {
                "index" => sync.indexes.extend(index(ctxt, &item)),
                name if CONTAINER_KEYS.contains(&name) && !seen.is_new(&item) => {}
                "table" => match item.text() {
                    Some(table) if !table.is_empty() => sync.table = Some(table),
                    _ => ctxt.error(&item, "`table` takes a name as a text: `table = \"todoitem\"`"),
                },
                "fields" => match item.value() {
                    Some(fields) => sync.fields = Some(fields),
                    None => ctxt.error(&item, "`fields` takes the name of a struct: `fields = TodoColumns`"),
                },
                "crate" => sync.krate = krate(ctxt, &item),
                _ => unknown(ctxt, &item, "container", &CONTAINER_KEYS),
            }
        }
        sync
    }

    /// Of an enum or an id.
    pub(crate) fn of_value(ctxt: &Ctxt, attrs: &[Attribute], what: &str) -> SyncContainer {
        let mut sync = SyncContainer::default();
        let mut seen = Seen { ctxt, names: Vec::new() };
        for item in sync_items(ctxt, attrs) {
            match item.name().as_str() {
                "crate" if seen.is_new(&item) => sync.krate = krate(ctxt, &item),
                "crate" => {}
                _ => unknown(ctxt, &item, what, &VALUE_KEYS),
            }
        }
        sync
    }
}

fn index(ctxt: &Ctxt, item: &Item) -> Option<IndexAttr> {
    let names: Option<Vec<Ident>> = match &item.args {
        Args::List(list) => item::split(list.stream())
            .into_iter()
            .map(|name| syn::parse2(name.into_iter().collect::<TokenStream>()).ok())
            .collect(),
        Args::None | Args::Value(_) => None,
    };
    match names {
        Some(fields) if !fields.is_empty() => Some(IndexAttr { key: item.key.clone(), fields }),
        _ => {
            ctxt.error(item, "an index of a struct takes the names of its fields: `index(list_id, position)`");
            None
        }
    }
}

impl SyncField {
    pub(crate) fn new(ctxt: &Ctxt, attrs: &[Attribute]) -> SyncField {
        let mut sync = SyncField::default();
        let mut seen = Seen { ctxt, names: Vec::new() };
        for item in sync_items(ctxt, attrs) {
            let name = item.name();
            if !FIELD_KEYS.contains(&name.as_str()) {
                unknown(ctxt, &item, "field", &FIELD_KEYS);
                continue;
            }
            if !seen.is_new(&item) {
                continue;
            }
            match name.as_str() {
                "parent" => match item.value() {
                    Some(entity) => sync.parent = Some(ParentAttr { key: item.key, entity }),
                    None => ctxt.error(&item, "`parent` takes the entity whose id this field holds: `parent = List`"),
                },
                "merge" | "merge_with" => {
                    let rule = merge_rule(ctxt, &item);
                    match (&sync.merge, rule) {
                        (Some(_), Some(_)) => ctxt.error(
                            &item.key,
                            "a field merges in one way: by `merge` or by `merge_with`, and this one has both",
                        ),
                        (None, Some(rule)) => sync.merge = Some(MergeAttr { key: item.key, rule }),
                        (_, None) => {}
                    }
                }
                _ => sync.word(ctxt, item, &name),
            }
        }
        sync
    }

    /// Takes a key that has no value.
    fn word(&mut self, ctxt: &Ctxt, item: Item, name: &str) {
        if name == "index" && matches!(item.args, Args::List(_)) {
            return ctxt.error(
                &item,
                "`index` of a field takes no arguments; for several fields use `#[sync(index(a, b))]` on the struct",
            );
        }
        item::word(ctxt, &item);
        match (name, Role::ALL.into_iter().find(|role| role.name() == name)) {
            ("index", _) => self.index = Some(item.key),
            ("local", _) => self.local = Some(item.key),
            ("edited_at", _) => self.edited_at = Some(item.key),
            (_, role) => match self.role {
                Some(first) => ctxt.error(
                    &item.key,
                    format!("a field has at most one role; this one has the role `{}`", first.name()),
                ),
                None => self.role = role,
            },
        }
    }
}

fn merge_rule(ctxt: &Ctxt, item: &Item) -> Option<MergeRule> {
    if item.name() == "merge_with" {
        let path = item.value().map(MergeRule::With);
        if path.is_none() {
            ctxt.error(item, "`merge_with` takes the path of a function: `merge_with = merge_tags`");
        }
        return path;
    }
    let Some(rule) = item.value::<Ident>() else {
        ctxt.error(item, "`merge` takes a rule: `merge = max`; a function is `merge_with = path`");
        return None;
    };
    let name = rule.to_string();
    if !MERGE_RULES.contains(&name.as_str()) {
        let hint = suggestion(&name, &MERGE_RULES);
        ctxt.error(&rule, format!("unknown merge rule `{name}`{hint}"));
        return None;
    }
    Some(MergeRule::Named(rule))
}

/// What serde does with a whole struct or enum.
#[derive(Default)]
pub(crate) struct SerdeContainer {
    pub(crate) rename_all: Case,
    pub(crate) default: bool,
}

/// What serde does with a field or a member.
#[derive(Default)]
pub(crate) struct SerdeField {
    pub(crate) rename: Option<String>,
    pub(crate) default: bool,
    /// `skip`, `skip_serializing` or `skip_deserializing`.
    pub(crate) skip: Option<Ident>,
    pub(crate) skip_serializing_if: bool,
    /// `with` or `serialize_with`: the JSON is not that of the type.
    pub(crate) serialize_with: Option<Ident>,
    /// `with` or `deserialize_with`: serde then wants a default even for an `Option`.
    pub(crate) deserialize_with: Option<Ident>,
    /// `with` is one of [`RFC3339`].
    pub(crate) rfc3339: bool,
}

/// serde reports its own malformed attributes.
fn serde_items(attrs: &[Attribute]) -> Vec<Item> {
    items(attrs, "serde", |_| {})
}

/// The name for both directions of `rename` or `rename_all`.
fn one_name(ctxt: &Ctxt, item: &Item, what: &str) -> Option<String> {
    let Args::List(list) = &item.args else { return item.text() };
    let mut serialize = None;
    let mut deserialize = None;
    for item in item::split(list.stream()).into_iter().filter_map(|tokens| item::item(tokens).ok()) {
        match item.name().as_str() {
            "serialize" => serialize = item.text(),
            "deserialize" => deserialize = item.text(),
            _ => {}
        }
    }
    if serialize.is_none() || serialize != deserialize {
        ctxt.error(item, format!("a synchronized {what} must have one name for both directions"));
    }
    serialize.or(deserialize)
}

impl SerdeContainer {
    pub(crate) fn new(ctxt: &Ctxt, attrs: &[Attribute], what: &str) -> SerdeContainer {
        let mut serde = SerdeContainer::default();
        for item in serde_items(attrs) {
            let reason = match item.name().as_str() {
                "rename_all" => {
                    let part = if what == "entity" { "field" } else { "enum" };
                    serde.rename_all =
                        one_name(ctxt, &item, part).and_then(|rule| Case::parse(&rule)).unwrap_or_default();
                    continue;
                }
                "default" => {
                    serde.default = true;
                    continue;
                }
                "transparent" => "its JSON would be that of its only field",
                "untagged" => "its JSON would not name it",
                "tag" | "content" => "it adds a field that the schema does not know",
                "from" | "try_from" | "into" => "its JSON would be that of another type",
                "remote" => "it stands for another type",
                "deny_unknown_fields" if what == "entity" => "a service may send fields that this build does not know",
                _ => continue,
            };
            ctxt.error(&item.key, format!("a synchronized {what} cannot have `#[serde({})]`: {reason}", item.name()));
        }
        serde
    }
}

impl SerdeField {
    pub(crate) fn new(ctxt: &Ctxt, attrs: &[Attribute], what: &str) -> SerdeField {
        let mut serde = SerdeField::default();
        for item in serde_items(attrs) {
            match item.name().as_str() {
                "rename" => serde.rename = one_name(ctxt, &item, what),
                "default" => serde.default = true,
                "skip" | "skip_serializing" | "skip_deserializing" => serde.skip = Some(item.key),
                "skip_serializing_if" => serde.skip_serializing_if = true,
                "with" => {
                    let path = item.text().unwrap_or_default();
                    serde.rfc3339 = RFC3339.contains(&path.trim_start_matches("::"));
                    serde.deserialize_with = Some(item.key.clone());
                    serde.serialize_with = (!serde.rfc3339).then_some(item.key);
                }
                "serialize_with" => serde.serialize_with = Some(item.key),
                "deserialize_with" => serde.deserialize_with = Some(item.key),
                "flatten" => ctxt.error(
                    &item.key,
                    "a synchronized field cannot have `#[serde(flatten)]`: the schema would not know the names inside",
                ),
                _ => {}
            }
        }
        serde
    }

    /// The name in JSON.
    pub(crate) fn wire_name(&self, ident: &Ident, by_rule: impl FnOnce(&str) -> String) -> String {
        self.rename.clone().unwrap_or_else(|| by_rule(&ident.unraw().to_string()))
    }
}
