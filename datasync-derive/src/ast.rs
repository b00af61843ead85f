//! A struct as the derive sees it: roles and wire names resolved.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Data, DeriveInput, Fields, Path, Type, Visibility, ext::IdentExt};

use crate::{
    attr::{IndexAttr, Krate, SerdeContainer, SerdeField, SyncContainer, SyncField},
    ctxt::Ctxt,
};

/// What a field is to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Id,
    Version,
    UpdatedAt,
    Deleted,
}

impl Role {
    pub(crate) const ALL: [Role; 4] = [Role::Id, Role::Version, Role::UpdatedAt, Role::Deleted];

    /// The name in an attribute, and of a field that has the role without one.
    pub(crate) fn name(self) -> &'static str {
        self.names().0
    }

    /// The name that the protocol gives to the field.
    pub(crate) fn wire(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Role::Id => ("id", "id"),
            Role::Version => ("version", "version"),
            Role::UpdatedAt => ("updated_at", "updatedAt"),
            Role::Deleted => ("deleted", "deleted"),
        }
    }
}

pub(crate) struct Entity<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) vis: &'a Visibility,
    pub(crate) krate: Path,
    pub(crate) table: String,
    /// The name of the struct of handles.
    pub(crate) fields_ident: Ident,
    pub(crate) fields: Vec<Field<'a>>,
    pub(crate) indexes: Vec<IndexAttr>,
    pub(crate) serde: SerdeContainer,
}

pub(crate) struct Field<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) vis: &'a Visibility,
    pub(crate) ty: &'a Type,
    pub(crate) wire: String,
    pub(crate) role: Option<Role>,
    pub(crate) sync: SyncField,
    pub(crate) serde: SerdeField,
}

impl Field<'_> {
    /// The name in Rust, without `r#`.
    pub(crate) fn name(&self) -> String {
        self.ident.unraw().to_string()
    }

    pub(crate) fn is_local(&self) -> bool {
        self.sync.local.is_some()
    }
}

impl<'a> Entity<'a> {
    /// `None` where there is nothing that a stand-in could be made of.
    pub(crate) fn new(ctxt: &Ctxt, input: &'a DeriveInput) -> Option<Entity<'a>> {
        let sync = SyncContainer::of_struct(ctxt, &input.attrs);
        let serde = SerdeContainer::new(ctxt, &input.attrs, "entity");
        let generic = !input.generics.params.is_empty() || input.generics.where_clause.is_some();
        if generic {
            ctxt.error(&input.generics.params, "a synchronized entity cannot have generic parameters");
        }
        let fields = match &input.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) => Some(fields),
                Fields::Unnamed(_) | Fields::Unit => None,
            },
            Data::Enum(_) | Data::Union(_) => None,
        };
        if fields.is_none() {
            ctxt.error(&input.ident, "`SyncEntity` can only be derived for a struct with named fields");
        }
        let fields: Vec<Field<'a>> = fields
            .into_iter()
            .flat_map(|fields| &fields.named)
            .filter_map(|field| Some(read_field(ctxt, field, field.ident.as_ref()?, &serde)))
            .collect();
        let krate = match sync.krate {
            Krate::Facade => syn::parse_quote!(::datasync),
            Krate::At(path) => path,
            Krate::Unreadable => return None,
        };
        let name = input.ident.unraw().to_string();
        let entity = Entity {
            ident: &input.ident,
            vis: &input.vis,
            krate,
            table: sync.table.unwrap_or_else(|| name.to_lowercase()),
            fields_ident: sync.fields.unwrap_or_else(|| Ident::new(&format!("{name}Fields"), input.ident.span())),
            fields,
            indexes: sync.indexes,
            serde,
        };
        (!generic).then_some(entity)
    }
}

fn read_field<'a>(ctxt: &Ctxt, field: &'a syn::Field, ident: &'a Ident, container: &SerdeContainer) -> Field<'a> {
    let sync = SyncField::new(ctxt, &field.attrs);
    let serde = SerdeField::new(ctxt, &field.attrs, "field");
    let by_name = || {
        let name = ident.unraw().to_string();
        Role::ALL.into_iter().find(|role| role.name() == name && sync.local.is_none())
    };
    Field {
        ident,
        vis: &field.vis,
        ty: &field.ty,
        wire: serde.wire_name(ident, |name| container.rename_all.field(name)),
        role: sync.role.or_else(by_name),
        sync,
        serde,
    }
}

/// A type or a path as it is written outside of the struct: there `Self` is something else.
pub(crate) fn without_self(ty: &impl ToTokens, entity: &Ident) -> TokenStream {
    fn replace(tokens: TokenStream, entity: &Ident) -> TokenStream {
        tokens
            .into_iter()
            .map(|token| match token {
                TokenTree::Ident(ident) if ident == "Self" => {
                    let mut entity = entity.clone();
                    entity.set_span(ident.span());
                    TokenTree::Ident(entity)
                }
                TokenTree::Group(group) => {
                    let mut inner = Group::new(group.delimiter(), replace(group.stream(), entity));
                    inner.set_span(group.span());
                    TokenTree::Group(inner)
                }
                other => other,
            })
            .collect()
    }
    replace(ty.to_token_stream(), entity)
}
