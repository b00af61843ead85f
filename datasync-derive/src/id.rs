//! `#[derive(SyncId)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Fields, Member, Type, spanned::Spanned};

use crate::{
    attr::{Krate, SyncContainer},
    ctxt::Ctxt,
    item::items,
};

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let ctxt = Ctxt::default();
    let sync = SyncContainer::of_value(&ctxt, &input.attrs, "id");
    if !input.generics.params.is_empty() || input.generics.where_clause.is_some() {
        ctxt.error(&input.generics.params, "a type of ids cannot have generic parameters");
    }
    let krate = match sync.krate {
        Krate::Facade => syn::parse_quote!(::datasync),
        Krate::At(path) => path,
        Krate::Unreadable => return ctxt.into_tokens(),
    };
    let inner = inner(&ctxt, input);
    let (Some((member, ty)), true) = (inner, ctxt.is_empty()) else { return ctxt.into_tokens() };
    let ident = &input.ident;
    let span = ty.span();
    let id_text = quote_spanned!(span=> <#ty as #krate::entity::EntityId>::id_text);
    let from_text = quote_spanned!(span=> <#ty as #krate::entity::EntityId>::from_text);
    let field_type = quote!(<#ty as #krate::entity::FieldType>);
    quote! {
        const _: () = {
            #[automatically_derived]
            impl #krate::entity::RowId for #ident {
                fn as_text(&self) -> #krate::__private::Cow<'_, ::core::primitive::str> {
                    #id_text(&self.#member)
                }
            }

            #[automatically_derived]
            impl #krate::entity::EntityId for #ident {
                fn from_text(id: &::core::primitive::str) -> ::core::option::Option<Self> {
                    let inner = #from_text(id)?;
                    ::core::option::Option::Some(#ident { #member: inner })
                }
            }

            #[automatically_derived]
            impl #krate::entity::FieldType for #ident {
                type Kind = #field_type::Kind;
                const KIND: #krate::schema::FieldKind = #field_type::KIND;
            }

            #[automatically_derived]
            impl #krate::entity::FieldValue for #ident {
                fn into_literal(self) -> #krate::query::Literal {
                    #krate::entity::FieldValue::into_literal(self.#member)
                }
            }

            #[automatically_derived]
            impl #krate::entity::IndexKey for #ident {}
        };
    }
}

/// The only field of the struct and its type.
fn inner<'i>(ctxt: &Ctxt, input: &'i DeriveInput) -> Option<(Member, &'i Type)> {
    let wrong = || {
        ctxt.error(
            &input.ident,
            "`SyncId` can only be derived for a struct around one `String` or `Uuid`: `struct ListId(String);`",
        );
        None
    };
    let Data::Struct(data) = &input.data else { return wrong() };
    let (Some(member), Some(field), 1) = (data.fields.members().next(), data.fields.iter().next(), data.fields.len())
    else {
        return wrong();
    };
    for item in items(&field.attrs, "sync", |error| ctxt.push(error)) {
        ctxt.error(item.key, "the field of an id has no sync attributes");
    }
    let mut serde = items(&input.attrs, "serde", |_| {}).into_iter();
    let as_its_field = serde.any(|item| ["transparent", "into"].contains(&item.name().as_str()));
    if matches!(data.fields, Fields::Named(_)) && !as_its_field {
        ctxt.error(&input.ident, "the JSON of an id is a text: add `#[serde(transparent)]`");
    }
    Some((member, &field.ty))
}
