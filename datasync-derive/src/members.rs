//! `#[derive(SyncEnum)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Ident, Path};

use crate::{
    attr::{Krate, SerdeContainer, SerdeField, SyncContainer},
    ctxt::Ctxt,
    item::items,
};

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let ctxt = Ctxt::default();
    let sync = SyncContainer::of_value(&ctxt, &input.attrs, "enum");
    let members = members(&ctxt, input);
    let generic = !input.generics.params.is_empty() || input.generics.where_clause.is_some();
    if generic {
        ctxt.error(&input.generics.params, "a synchronized enum cannot have generic parameters");
    }
    let krate = match sync.krate {
        Krate::Facade => syn::parse_quote!(::datasync),
        Krate::At(path) => path,
        Krate::Unreadable => return ctxt.into_tokens(),
    };
    if ctxt.is_empty() {
        return expand(&input.ident, &krate, &members);
    }
    let errors = ctxt.into_tokens();
    let stand_in = (!generic).then(|| stand_in(&input.ident, &krate));
    quote!(#errors #stand_in)
}

/// The members with their names in JSON, in the order that they are compared by.
fn members<'a>(ctxt: &Ctxt, input: &'a DeriveInput) -> Vec<(&'a Ident, String)> {
    let serde = SerdeContainer::new(ctxt, &input.attrs, "enum");
    let Data::Enum(data) = &input.data else {
        ctxt.error(&input.ident, "`SyncEnum` can only be derived for an enum");
        return Vec::new();
    };
    if data.variants.is_empty() {
        ctxt.error(&input.ident, "an enum without members has no values to compare");
    }
    let mut members: Vec<(&Ident, String)> = Vec::new();
    for variant in &data.variants {
        for item in items(&variant.attrs, "sync", |error| ctxt.push(error)) {
            ctxt.error(item.key, "a member of an enum has no sync attributes");
        }
        if !matches!(variant.fields, Fields::Unit) {
            ctxt.error(
                &variant.fields,
                "a member of a synchronized enum has no fields: its JSON is its name, and that is what is compared",
            );
        }
        let attrs = SerdeField::new(ctxt, &variant.attrs, "member");
        if let Some(skip) = &attrs.skip {
            ctxt.error(skip, "a skipped member cannot be stored or sent, and so cannot be compared");
        }
        let wire = attrs.wire_name(&variant.ident, |name| serde.rename_all.variant(name));
        match members.iter().find(|(_, name)| *name == wire) {
            Some((first, _)) => {
                ctxt.error(&variant.ident, format!("serde gives this member the name of `{first}`: `{wire}`"));
            }
            None => members.push((&variant.ident, wire)),
        }
    }
    members
}

fn expand(ident: &Ident, krate: &Path, members: &[(&Ident, String)]) -> TokenStream {
    let variants = members.iter().map(|(variant, _)| variant);
    let names: Vec<&str> = members.iter().map(|(_, name)| name.as_str()).collect();
    quote! {
        const _: () = {
            #[automatically_derived]
            impl #krate::entity::FieldType for #ident {
                type Kind = #krate::entity::kind::Members<#ident>;
                const KIND: #krate::schema::FieldKind = #krate::schema::FieldKind::Enum(
                    #krate::__private::Cow::Borrowed(const { &[#(#krate::__private::Cow::Borrowed(#names)),*] }),
                );
            }

            #[automatically_derived]
            #[allow(deprecated)]
            impl #krate::entity::FieldValue for #ident {
                fn into_literal(self) -> #krate::query::Literal {
                    #krate::query::Literal::Text(<::std::string::String as ::core::convert::From<&::core::primitive::str>>::from(match self {
                        #(#ident::#variants => #names,)*
                    }))
                }
            }

            #[automatically_derived]
            impl #krate::entity::IndexKey for #ident {}
        };
    }
}

/// What keeps the uses of an enum with a mistake free of further errors.
fn stand_in(ident: &Ident, krate: &Path) -> TokenStream {
    quote! {
        const _: () = {
            #[automatically_derived]
            impl #krate::entity::FieldType for #ident {
                type Kind = #krate::entity::kind::Members<#ident>;
                const KIND: #krate::schema::FieldKind = #krate::schema::FieldKind::Json;
            }

            #[automatically_derived]
            impl #krate::entity::FieldValue for #ident {
                fn into_literal(self) -> #krate::query::Literal {
                    #krate::query::Literal::Null
                }
            }

            #[automatically_derived]
            impl #krate::entity::IndexKey for #ident {}
        };
    }
}
