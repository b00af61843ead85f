//! The decimal numbers of the crate rust_decimal.
//!
//! Their JSON is a text, which keeps every digit and which the originals read. A service that writes them as JSON numbers is
//! read by way of an `f64`, unless the app turns on that crate's `serde-with-arbitrary-precision`.

use rust_decimal::Decimal;

use super::{FieldType, FieldValue, kind};
use crate::{query::Literal, schema::FieldKind};

impl FieldType for Decimal {
    type Kind = kind::Decimals;
    const KIND: FieldKind = FieldKind::Decimal;
}

impl FieldValue for Decimal {
    fn into_literal(self) -> Literal {
        Literal::Decimal(self.to_string())
    }
}
