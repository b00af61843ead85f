//! The items between the parentheses of an attribute.
//!
//! They are split at the commas before anything is parsed, so that a mistake in one item never hides the next one.

use std::fmt::Write;

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, LitStr, Meta, ext::IdentExt, parse::Parse};

use crate::ctxt::Ctxt;

/// `key`, `key = value` or `key(list)`.
pub(crate) struct Item {
    pub(crate) key: Ident,
    pub(crate) args: Args,
}

pub(crate) enum Args {
    None,
    Value(TokenStream),
    List(Group),
}

impl Item {
    pub(crate) fn name(&self) -> String {
        self.key.unraw().to_string()
    }

    /// The value after `=`, if there is one of that type.
    pub(crate) fn value<T: Parse>(&self) -> Option<T> {
        match &self.args {
            Args::Value(tokens) => syn::parse2(tokens.clone()).ok(),
            Args::None | Args::List(_) => None,
        }
    }

    pub(crate) fn text(&self) -> Option<String> {
        self.value::<LitStr>().map(|text| text.value())
    }
}

impl ToTokens for Item {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.key.to_tokens(tokens);
        match &self.args {
            Args::None => {}
            Args::Value(value) => value.to_tokens(tokens),
            Args::List(list) => list.to_tokens(tokens),
        }
    }
}

/// The items of every attribute of that name; what cannot be read as an item goes to `malformed`.
pub(crate) fn items(attrs: &[Attribute], name: &str, mut malformed: impl FnMut(syn::Error)) -> Vec<Item> {
    let mut items = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(name)) {
        match &attr.meta {
            Meta::List(list) => {
                for tokens in split(list.tokens.clone()) {
                    match item(tokens) {
                        Ok(item) => items.push(item),
                        Err(error) => malformed(error),
                    }
                }
            }
            other => malformed(syn::Error::new_spanned(other, format!("expected `#[{name}(…)]`"))),
        }
    }
    items
}

/// The pieces between the commas; an empty piece is left out.
pub(crate) fn split(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut pieces = vec![Vec::new()];
    for token in tokens {
        if matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',') {
            pieces.push(Vec::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(token);
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Reads one piece.
pub(crate) fn item(tokens: Vec<TokenTree>) -> syn::Result<Item> {
    let mut tokens = tokens.into_iter();
    let key = match tokens.next() {
        Some(TokenTree::Ident(key)) => key,
        other => return Err(syn::Error::new_spanned(other, "expected the name of an attribute")),
    };
    let args = match tokens.next() {
        None => Args::None,
        Some(TokenTree::Punct(equals)) if equals.as_char() == '=' => {
            let value: TokenStream = tokens.by_ref().collect();
            if value.is_empty() {
                return Err(syn::Error::new_spanned(equals, format!("expected a value after `{key} =`")));
            }
            Args::Value(value)
        }
        Some(TokenTree::Group(list)) if list.delimiter() == Delimiter::Parenthesis => Args::List(list),
        Some(other) => return Err(syn::Error::new_spanned(other, format!("expected `=`, `(` or `,` after `{key}`"))),
    };
    match tokens.next() {
        None => Ok(Item { key, args }),
        Some(rest) => Err(syn::Error::new_spanned(rest, "expected `,`")),
    }
}

/// Takes a word that has no value, and says so if it has one.
pub(crate) fn word(ctxt: &Ctxt, item: &Item) {
    if !matches!(item.args, Args::None) {
        ctxt.error(item, format!("`{}` takes no value", item.name()));
    }
}

/// `, did you mean …` where a known name is near, else the list of them.
pub(crate) fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, name)) = nearest {
        return format!(", did you mean `{name}`?");
    }
    let mut list = String::from(", expected ");
    for (place, name) in known.iter().enumerate() {
        let before = match place {
            0 if known.len() > 1 => "one of ",
            0 => "",
            _ => ", ",
        };
        // Writing to a `String` does not fail.
        let _ = write!(list, "{before}`{name}`");
    }
    list
}
