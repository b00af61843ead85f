//! The rules that need more than one attribute, or more than one field.

use syn::{Type, ext::IdentExt};

use crate::{
    ast::{Entity, Field, Role},
    ctxt::Ctxt,
    item::suggestion,
};

pub(crate) fn check(ctxt: &Ctxt, entity: &Entity<'_>) {
    roles(ctxt, entity);
    names(ctxt, entity);
    for field in &entity.fields {
        locality(ctxt, entity, field);
        index_of_field(ctxt, field);
        merging(ctxt, field);
        parent(ctxt, field);
        if let (Some(Role::Id), Some(key)) = (field.role, &field.serde.serialize_with) {
            ctxt.error(key, "the id must be written as it is: the engine compares it with the ids it gave");
        }
    }
    indexes(ctxt, entity);
    edit_time(ctxt, entity);
}

fn roles(ctxt: &Ctxt, entity: &Entity<'_>) {
    for role in Role::ALL {
        let mut fields = entity.fields.iter().filter(|field| field.role == Some(role));
        let first = fields.next();
        if role == Role::Id && first.is_none() && !entity.fields.is_empty() {
            ctxt.error(entity.ident, "an entity needs an id: name a field `id` or mark one with `#[sync(id)]`");
        }
        let Some(first) = first.map(Field::name) else { continue };
        for second in fields {
            let role = role.name();
            ctxt.error(second.ident, format!("more than one field with the role `{role}`; the first is `{first}`"));
        }
    }
}

fn names(ctxt: &Ctxt, entity: &Entity<'_>) {
    for (place, field) in entity.fields.iter().enumerate() {
        let wire = &field.wire;
        if let Some(first) = entity.fields[..place].iter().find(|first| first.wire == *wire) {
            ctxt.error(field.ident, format!("serde gives this field the name of `{}`: `{wire}`", first.name()));
            continue;
        }
        match (field.role, Role::ALL.into_iter().find(|role| role.wire() == wire)) {
            (Some(role), taken) if taken != Some(role) => {
                let (name, protocol) = (role.name(), role.wire());
                ctxt.error(
                    field.ident,
                    format!(
                        "the role `{name}` is called `{protocol}` on the wire, but serde names this field `{wire}`: \
                         add `#[serde(rename = \"{protocol}\")]`"
                    ),
                );
            }
            (None, Some(role)) => ctxt.error(
                field.ident,
                format!(
                    "`{wire}` is the wire name of the role `{}`; rename this field or give it the role",
                    role.name()
                ),
            ),
            _ => {}
        }
    }
}

fn locality(ctxt: &Ctxt, entity: &Entity<'_>, field: &Field<'_>) {
    if let Some(skip) = &field.serde.skip {
        let hint = if field.is_local() {
            format!("`#[sync(local)]` alone keeps it from the service; remove `#[serde({skip})]`")
        } else {
            format!("use `#[sync(local)]` instead of `#[serde({skip})]`")
        };
        ctxt.error(skip, format!("a skipped field would be lost in the local store: {hint}"));
    }
    let Some(local) = &field.sync.local else { return };
    if let Some(role) = field.role {
        ctxt.error(local, format!("a field with the role `{}` cannot be local", role.name()));
    }
    let filled_by_serde = is_option(field.ty) && field.serde.deserialize_with.is_none();
    // A skipped field is reported already, and serde fills it in.
    let defaulted = field.serde.default || entity.serde.default || field.serde.skip.is_some();
    if !defaulted && !filled_by_serde {
        ctxt.error(field.ident, "a local field is missing from what the service sends: add `#[serde(default)]`");
    }
}

/// Whether serde takes a missing field of the type for `None`; an alias of `Option` is not seen.
fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == "Option"),
        Type::Group(group) => is_option(&group.elem),
        Type::Paren(paren) => is_option(&paren.elem),
        _ => false,
    }
}

const LOCAL_INDEX: &str = "a local field has no handle to query by, so an index of it would not be used";

fn index_of_field(ctxt: &Ctxt, field: &Field<'_>) {
    let Some(index) = &field.sync.index else { return };
    if field.is_local() {
        ctxt.error(index, LOCAL_INDEX);
    } else if let Some(with) = &field.serde.serialize_with {
        ctxt.error(index, unordered(with));
    }
}

fn merging(ctxt: &Ctxt, field: &Field<'_>) {
    let Some(merge) = &field.sync.merge else { return };
    match (field.role, &field.sync.local) {
        (Some(Role::Id), _) => ctxt.error(&merge.key, "the id of a row never changes, so there is nothing to merge"),
        (Some(_), _) => ctxt.error(&merge.key, "a merge rule cannot be set on a field that the service owns"),
        (None, Some(_)) => {
            ctxt.error(&merge.key, "a local field has one value only, this device's: it is never merged")
        }
        (None, None) => {}
    }
    let by_order = merge.is("max") || merge.is("min");
    let fits = merge.is("client") || merge.is("server") || (by_order && field.serde.rfc3339);
    let with = field.serde.serialize_with.as_ref().or(field.serde.deserialize_with.as_ref());
    if let (Some(with), false) = (with, fits) {
        ctxt.error(
            &merge.key,
            format!("with `#[serde({with} = …)]` the JSON of this field is not that of its type: it merges by `client` or `server`"),
        );
    }
}

fn parent(ctxt: &Ctxt, field: &Field<'_>) {
    let Some(parent) = &field.sync.parent else { return };
    if let Some(role) = field.role {
        ctxt.error(&parent.key, format!("a field with the role `{}` cannot name a parent", role.name()));
    } else if field.is_local() {
        ctxt.error(&parent.key, "a local field cannot name a parent: the service would not know of it");
    } else if let Some(with) = &field.serde.serialize_with {
        ctxt.error(
            &parent.key,
            format!("with `#[serde({with} = …)]` the JSON of this field is not the id that its type holds"),
        );
    }
}

fn edit_time(ctxt: &Ctxt, entity: &Entity<'_>) {
    let mut first: Option<String> = None;
    for field in &entity.fields {
        let Some(key) = &field.sync.edited_at else { continue };
        if let Some(first) = &first {
            ctxt.error(key, format!("more than one field with `edited_at`; the first is `{first}`"));
        }
        if let Some(role) = field.role {
            let role = role.name();
            ctxt.error(
                key,
                format!("a field with the role `{role}` is not written by the app, so it holds no time of an edit"),
            );
        } else if field.is_local() {
            ctxt.error(key, "a local field is not sent, and the service must compare the time of the edit");
        } else if let Some(with) = &field.serde.serialize_with {
            ctxt.error(key, format!("with `#[serde({with} = …)]` the JSON of this field is not that of a timestamp"));
        }
        first.get_or_insert_with(|| field.name());
    }
}

fn unordered(with: &proc_macro2::Ident) -> String {
    format!("this field cannot be indexed: with `#[serde({with} = …)]` its JSON is not that of its type")
}

fn indexes(ctxt: &Ctxt, entity: &Entity<'_>) {
    let names: Vec<String> = entity.fields.iter().map(Field::name).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut seen: Vec<Vec<String>> =
        entity.fields.iter().filter(|field| field.sync.index.is_some()).map(|field| vec![field.name()]).collect();
    for index in &entity.indexes {
        let parts: Vec<String> = index.fields.iter().map(|field| field.unraw().to_string()).collect();
        for (place, (part, ident)) in parts.iter().zip(&index.fields).enumerate() {
            match entity.fields.iter().find(|field| field.name() == *part) {
                None => ctxt.error(ident, format!("there is no field `{part}` to index{}", suggestion(part, &known))),
                Some(_) if parts[..place].contains(part) => {
                    ctxt.error(ident, format!("`{part}` is already part of this index"));
                }
                Some(field) if field.is_local() => ctxt.error(ident, LOCAL_INDEX),
                Some(field) => {
                    if let Some(with) = &field.serde.serialize_with {
                        ctxt.error(ident, unordered(with));
                    }
                }
            }
        }
        if seen.contains(&parts) {
            ctxt.error(&index.key, format!("the index of `{}` is declared twice", parts.join("`, `")));
        }
        seen.push(parts);
    }
}
