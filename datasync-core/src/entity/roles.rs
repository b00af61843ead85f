//! The types of the fields that hold what the service says of a row.

use jiff::Timestamp;

/// A type that can hold the version of a row: `String` or `Option<String>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the version of a synchronized entity",
    label = "a version is a `String` or an `Option<String>`"
)]
pub trait VersionField {}
impl VersionField for String {}
impl VersionField for Option<String> {}

/// A type that can hold the time of the last change on the service.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the `updatedAt` of a synchronized entity",
    label = "this is a `jiff::Timestamp`, a `String` or an `Option` of one"
)]
pub trait UpdatedAtField {}
impl UpdatedAtField for Timestamp {}
impl UpdatedAtField for String {}
impl UpdatedAtField for Option<Timestamp> {}
impl UpdatedAtField for Option<String> {}

/// A type that can hold the mark of a deleted row: `bool` or `Option<bool>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the `deleted` of a synchronized entity",
    label = "this is a `bool` or an `Option<bool>`"
)]
pub trait DeletedField {}
impl DeletedField for bool {}
impl DeletedField for Option<bool> {}
