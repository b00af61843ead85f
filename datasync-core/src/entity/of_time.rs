//! The dates and times of the crate time. The JSON of its `Date` and `Time` is that of the wire; that of an `OffsetDateTime`
//! is so with `#[serde(with = "time::serde::rfc3339")]` only, and without it is compared with nothing.

use jiff::{Timestamp, civil};
use time::{Date, OffsetDateTime, Time};

use super::{FieldType, FieldValue, IndexKey, UpdatedAtField, kind};
use crate::{
    query::{Literal, Operand, Rfc3339, UpdatedAt},
    schema::FieldKind,
};

impl FieldType for Date {
    type Kind = kind::Dates;
    const KIND: FieldKind = FieldKind::Date;
}

/// A date behind the year 9999 is taken for its last day.
impl FieldValue for Date {
    fn into_literal(self) -> Literal {
        let (year, month, day) = self.to_calendar_date();
        let end = if year < 0 { civil::Date::MIN } else { civil::Date::MAX };
        Literal::Date(super::field::date(year, u8::from(month).into(), day.into()).unwrap_or(end))
    }
}

impl IndexKey for Date {}

impl FieldType for Time {
    type Kind = kind::TimesOfDay;
    const KIND: FieldKind = FieldKind::Time;
}

impl FieldValue for Time {
    fn into_literal(self) -> Literal {
        let (hour, minute, second, nanosecond) = self.as_hms_nano();
        let time = super::field::time(hour.into(), minute.into(), second.into(), nanosecond);
        Literal::Time(time.unwrap_or(civil::Time::MAX))
    }
}

impl IndexKey for Time {}

impl FieldType for Rfc3339<OffsetDateTime> {
    type Kind = kind::Timestamps;
    const KIND: FieldKind = FieldKind::Timestamp;
}

impl FieldType for Rfc3339<Option<OffsetDateTime>> {
    type Kind = kind::Timestamps;
    const KIND: FieldKind = FieldKind::Timestamp;
    const NULLABLE: bool = true;
}

impl IndexKey for Rfc3339<OffsetDateTime> {}
impl IndexKey for Rfc3339<Option<OffsetDateTime>> {}

impl UpdatedAtField for Rfc3339<OffsetDateTime> {}
impl UpdatedAtField for Rfc3339<Option<OffsetDateTime>> {}

/// A time behind the year 9999 is taken for its end.
fn literal(time: OffsetDateTime) -> Literal {
    let end = if time.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Literal::Timestamp(Timestamp::from_nanosecond(time.unix_timestamp_nanos()).unwrap_or(end))
}

impl<E, T> Operand<E, UpdatedAt<Rfc3339<T>>> for OffsetDateTime {
    type Node = Literal;

    fn into_node(self) -> Literal {
        literal(self)
    }
}

impl<E> Operand<E, Rfc3339<OffsetDateTime>> for OffsetDateTime {
    type Node = Literal;

    fn into_node(self) -> Literal {
        literal(self)
    }
}

impl<E> Operand<E, Rfc3339<Option<OffsetDateTime>>> for OffsetDateTime {
    type Node = Literal;

    fn into_node(self) -> Literal {
        literal(self)
    }
}

impl<E> Operand<E, Rfc3339<Option<OffsetDateTime>>> for Option<OffsetDateTime> {
    type Node = Literal;

    fn into_node(self) -> Literal {
        self.map_or(Literal::Null, literal)
    }
}
