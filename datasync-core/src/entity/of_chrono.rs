//! The dates and times of the crate chrono. Their JSON is that of the wire: RFC 3339 text, `yyyy-mm-dd`, `hh:mm:ss.fff`.

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeZone, Timelike};
use jiff::{Timestamp, civil};

use super::{FieldType, FieldValue, IndexKey, UpdatedAtField, kind};
use crate::{query::Literal, schema::FieldKind};

impl<Z: TimeZone> FieldType for DateTime<Z> {
    type Kind = kind::Timestamps;
    const KIND: FieldKind = FieldKind::Timestamp;
}

/// A time before the year −9999 or behind the year 9999 is taken for the first or last one of these years.
impl<Z: TimeZone> FieldValue for DateTime<Z> {
    fn into_literal(self) -> Literal {
        let end = if self.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
        // A leap second counts on in its nanoseconds.
        let nanoseconds = i32::try_from(self.timestamp_subsec_nanos().min(999_999_999)).unwrap_or(0);
        Literal::Timestamp(Timestamp::new(self.timestamp(), nanoseconds).unwrap_or(end))
    }
}

impl<Z: TimeZone> IndexKey for DateTime<Z> {}

impl<Z: TimeZone> UpdatedAtField for DateTime<Z> {}
impl<Z: TimeZone> UpdatedAtField for Option<DateTime<Z>> {}

impl FieldType for NaiveDate {
    type Kind = kind::Dates;
    const KIND: FieldKind = FieldKind::Date;
}

/// A date before the year −9999 or behind the year 9999 is taken for the first or last one of these years.
impl FieldValue for NaiveDate {
    fn into_literal(self) -> Literal {
        let end = if self.year() < 0 { civil::Date::MIN } else { civil::Date::MAX };
        Literal::Date(super::field::date(self.year(), self.month(), self.day()).unwrap_or(end))
    }
}

impl IndexKey for NaiveDate {}

impl FieldType for NaiveTime {
    type Kind = kind::TimesOfDay;
    const KIND: FieldKind = FieldKind::Time;
}

impl FieldValue for NaiveTime {
    fn into_literal(self) -> Literal {
        let nanosecond = self.nanosecond().min(999_999_999);
        let time = super::field::time(self.hour(), self.minute(), self.second(), nanosecond);
        Literal::Time(time.unwrap_or(civil::Time::MAX))
    }
}

impl IndexKey for NaiveTime {}
