//! The generated code, and the stand-ins that take its place after a mistake.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{ext::IdentExt, spanned::Spanned};

use crate::{
    ast::{Entity, Field, Role, without_self},
    attr::{MergeAttr, MergeRule},
    case::Case,
};

/// What an entity that is right becomes.
pub(crate) fn entity(entity: &Entity<'_>) -> TokenStream {
    let Entity { ident, krate, table, fields_ident, .. } = entity;
    let handles = handles(entity);
    let schemas = entity.fields.iter().map(|field| field_schema(entity, field));
    let indexes = indexes(entity);
    let checks = checks(entity);
    let id = id_accessors(entity);
    quote! {
        #handles

        const _: () = {
            #[allow(unused_imports)]
            use #krate::__private::ProbeFallback as _;

            #checks

            #[automatically_derived]
            #[allow(deprecated)]
            impl #krate::entity::SyncEntity for #ident {
                type Fields = #fields_ident;

                const FIELDS: #fields_ident = <#ident>::FIELDS;

                const TABLE: &'static ::core::primitive::str = #table;

                const SCHEMA: #krate::schema::TableSchema = #krate::schema::TableSchema::new(
                    #table,
                    const { &[#(#schemas),*] },
                    const { &[#(#indexes),*] },
                );

                #id
            }
        };
    }
}

/// What keeps the uses of an entity with a mistake free of further errors.
pub(crate) fn stand_in(entity: &Entity<'_>) -> TokenStream {
    let Entity { ident, krate, table, fields_ident, .. } = entity;
    let handles = handles(entity);
    quote! {
        #handles

        #[automatically_derived]
        impl #krate::entity::SyncEntity for #ident {
            type Fields = #fields_ident;

            const FIELDS: #fields_ident = <#ident>::FIELDS;

            const TABLE: &'static ::core::primitive::str = #table;

            const SCHEMA: #krate::schema::TableSchema =
                #krate::schema::TableSchema::new(#table, const { &[] }, const { &[] });

            fn id(&self) -> #krate::__private::Cow<'_, ::core::primitive::str> {
                #krate::__private::Cow::Borrowed("")
            }

            fn set_id(
                &mut self,
                _: &::core::primitive::str,
            ) -> ::core::result::Result<(), #krate::entity::InvalidId> {
                ::core::result::Result::Ok(())
            }
        }
    }
}

/// The struct of the handles and the constant that holds them.
fn handles(entity: &Entity<'_>) -> TokenStream {
    let Entity { ident, vis, krate, fields_ident, .. } = entity;
    let struct_doc = format!("The typed handles of the fields of [`{ident}`].");
    let const_doc = "The typed handles of the fields, for the conditions and orders of a query.";
    // A name that occurs twice is reported by rustc at the struct itself.
    let mut fields: Vec<&Field<'_>> = Vec::new();
    for field in entity.fields.iter().filter(|field| !field.is_local()) {
        if !fields.iter().any(|first| first.ident == field.ident) {
            fields.push(field);
        }
    }
    let declarations = fields.iter().map(|field| {
        let Field { ident: name, vis, .. } = field;
        let doc = if field.wire == field.name() {
            format!("The handle of the field `{}`.", field.wire)
        } else {
            format!("The handle of the field `{}`, which is `{}` on the wire.", field.name(), field.wire)
        };
        let ty = handle_type(entity, field);
        quote! { #[doc = #doc] #vis #name: #krate::query::Field<#ident, #ty> }
    });
    let values = fields.iter().map(|field| {
        let Field { ident: name, wire, .. } = field;
        quote! { #name: #krate::query::Field::new(#wire) }
    });
    quote! {
        #[doc = #struct_doc]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #[allow(dead_code, deprecated, non_camel_case_types, non_snake_case, unreachable_pub)]
        #vis struct #fields_ident {
            #(#declarations,)*
        }

        #[automatically_derived]
        #[allow(dead_code, deprecated, unreachable_pub)]
        impl #ident {
            #[doc = #const_doc]
            #vis const FIELDS: #fields_ident = #fields_ident { #(#values,)* };
        }
    }
}

/// The type of the field, or that of its JSON where it is known to be another one.
fn written_type(entity: &Entity<'_>, field: &Field<'_>) -> TokenStream {
    let krate = &entity.krate;
    let ty = without_self(field.ty, entity.ident);
    if field.serde.rfc3339 { quote_spanned!(field.ty.span()=> #krate::query::Rfc3339<#ty>) } else { ty }
}

/// The type of a handle: that of the field, but for an id, for a time that the engine knows better, and where serde writes
/// another JSON than that of the type.
fn handle_type(entity: &Entity<'_>, field: &Field<'_>) -> TokenStream {
    let krate = &entity.krate;
    let ty = written_type(entity, field);
    match (field.role, &field.serde.serialize_with) {
        (Some(Role::Id), _) => quote!(#krate::query::Id<#ty>),
        (Some(Role::UpdatedAt), _) => quote!(#krate::query::UpdatedAt<#ty>),
        (_, Some(_)) => quote!(#krate::__private::Opaque),
        (_, None) => ty,
    }
}

fn field_schema(entity: &Entity<'_>, field: &Field<'_>) -> TokenStream {
    let krate = &entity.krate;
    let wire = &field.wire;
    let constructor = if field.is_local() { quote!(local) } else { quote!(new) };
    let ty = handle_type(entity, field);
    let probe = quote!(<#krate::__private::Probe<#ty>>);
    let parent = field.sync.parent.as_ref().map(|parent| {
        let span = parent.entity.span();
        let entity = without_self(&parent.entity, entity.ident);
        let table = quote_spanned!(span=> <#entity as #krate::entity::SyncEntity>::TABLE);
        quote!(.parent(#table))
    });
    let merge = field.sync.merge.as_ref().map(|merge| {
        let rule = merge_rule(entity, field, merge);
        quote!(.merge(#rule))
    });
    let edited_at = field.sync.edited_at.as_ref().map(|_| quote!(.edited_at()));
    quote! {
        #krate::schema::FieldSchema::#constructor(#wire, #probe::KIND, #probe::NULLABLE) #parent #merge #edited_at
    }
}

fn merge_rule(entity: &Entity<'_>, field: &Field<'_>, merge: &MergeAttr) -> TokenStream {
    let krate = &entity.krate;
    match &merge.rule {
        MergeRule::Named(name) => {
            let variant = Ident::new(&Case::Pascal.field(&name.to_string()), Span::call_site());
            quote!(#krate::schema::MergeRule::#variant)
        }
        MergeRule::With(path) => {
            let ty = without_self(field.ty, entity.ident);
            let path = without_self(path, entity.ident);
            quote! {
                #krate::schema::MergeRule::With(#krate::schema::MergeFunction::new(|base, local, service| {
                    #krate::__private::merge_json::<#ty>(#path, base, local, service)
                }))
            }
        }
    }
}

fn indexes(entity: &Entity<'_>) -> Vec<TokenStream> {
    let krate = &entity.krate;
    let find = |ident: &Ident| entity.fields.iter().find(|field| field.ident.unraw() == ident.unraw());
    let of_fields =
        entity.fields.iter().filter(|field| field.sync.index.is_some()).map(|field| vec![field.wire.as_str()]);
    let of_struct = entity
        .indexes
        .iter()
        .map(|index| index.fields.iter().filter_map(find).map(|field| field.wire.as_str()).collect::<Vec<_>>());
    of_fields
        .chain(of_struct)
        .map(|wires| {
            let name = wires.join(",");
            quote! {
                #krate::schema::IndexSchema::new(
                    #name,
                    const { &[#(#krate::__private::Cow::Borrowed(#wires)),*] },
                )
            }
        })
        .collect()
}

/// The facts about types, each asked where the type is written.
fn checks(entity: &Entity<'_>) -> TokenStream {
    let krate = &entity.krate;
    let mut checks = TokenStream::new();
    for field in &entity.fields {
        let ty = written_type(entity, field);
        let span = field.ty.span();
        let mut requires = |name: &str| {
            let name = Ident::new(name, span);
            checks.extend(quote_spanned! {span=>
                const _: fn() = || {
                    fn check<T: ?::core::marker::Sized + #krate::entity::#name>() {}
                    check::<#ty>();
                };
            });
        };
        match field.role {
            Some(Role::Version) => requires("VersionField"),
            Some(Role::UpdatedAt) => requires("UpdatedAtField"),
            Some(Role::Deleted) => requires("DeletedField"),
            // The accessors of the id ask already.
            Some(Role::Id) | None => {}
        }
        let indexed = field.sync.index.is_some()
            || entity.indexes.iter().any(|index| index.fields.iter().any(|name| name.unraw() == field.ident.unraw()));
        if indexed {
            requires("IndexKey");
        }
        if field.sync.merge.as_ref().is_some_and(|merge| merge.is("union")) {
            requires("MergeByUnion");
        }
        checks.extend(facts(entity, field));
    }
    checks
}

/// The facts about the kind of a field.
fn facts(entity: &Entity<'_>, field: &Field<'_>) -> TokenStream {
    let krate = &entity.krate;
    let ty = handle_type(entity, field);
    let probe = quote!(<#krate::__private::Probe<#ty>>);
    let of_kind = |fact: TokenStream| {
        quote!({
            const KIND: &#krate::schema::FieldKind = &#probe::KIND;
            #fact
        })
    };
    let kind = quote!(#krate::schema::FieldKind);
    let mut facts = Vec::new();
    if field.serde.skip_serializing_if && field.role.is_none() && !field.is_local() {
        facts.push((
            quote!(#probe::NULLABLE),
            "a field that serde may leave out must be an `Option`: to a query a missing value is null",
        ));
    }
    if field.sync.merge.as_ref().is_some_and(|merge| merge.is("max") || merge.is("min")) {
        facts.push((
            of_kind(quote!(KIND.is_ordered())),
            "`merge = max` and `merge = min` need values with an order, as numbers, texts, dates or a `SyncEnum`: use \
             `client`, `server`, `union` for a sequence, or `merge_with = path`",
        ));
    }
    if field.sync.merge.as_ref().is_some_and(|merge| merge.is("sum")) {
        facts.push((
            of_kind(quote!(KIND.is_number())),
            "`merge = sum` adds up what both sides added to a number, and this field holds none: use `client`, `server`, \
             `max`, `min` or `merge_with = path`",
        ));
    }
    if field.sync.parent.is_some() {
        facts.push((
            of_kind(quote!(::core::matches!(KIND, #kind::Text | #kind::Uuid))),
            "a field with a `parent` holds the id of a row: it is a `String`, a `Uuid` or another type of id, or an `Option` \
             of one",
        ));
    }
    if field.sync.edited_at.is_some() {
        facts.push((
            of_kind(quote!(::core::matches!(KIND, #kind::Timestamp))),
            "`edited_at` marks the time of the last edit: the field is a `jiff::Timestamp` or an `Option` of one",
        ));
    }
    let asserts = facts
        .into_iter()
        .map(|(fact, message)| quote_spanned!(field.ty.span()=> const _: () = ::core::assert!(#fact, #message);));
    asserts.collect()
}

fn id_accessors(entity: &Entity<'_>) -> TokenStream {
    let krate = &entity.krate;
    entity
        .fields
        .iter()
        .find(|field| field.role == Some(Role::Id))
        .map(|field| {
            let name = field.ident;
            let span = field.ty.span();
            let ty = without_self(field.ty, entity.ident);
            let id_text = quote_spanned!(span=> <#ty as #krate::entity::EntityId>::id_text);
            let parse_id = quote_spanned!(span=> <#ty as #krate::entity::EntityId>::parse_id);
            quote! {
                fn id(&self) -> #krate::__private::Cow<'_, ::core::primitive::str> {
                    #id_text(&self.#name)
                }

                fn set_id(
                    &mut self,
                    id: &::core::primitive::str,
                ) -> ::core::result::Result<(), #krate::entity::InvalidId> {
                    self.#name = #parse_id(id)?;
                    ::core::result::Result::Ok(())
                }
            }
        })
        .unwrap_or_default()
}
