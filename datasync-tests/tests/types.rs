//! A value of each type of a field is found by a filter that compares with it: the JSON of the type and its constant agree.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveTime, Utc};
use datasync_core::{
    client::OfflineTable,
    entity::{Point, SyncEntity},
    error::ErrorKind,
    query::Filter,
    row::{Record, Row, RowKey},
    schema::FieldKind,
    store::{RowWrite, Store, WriteBatch},
};
use datasync_derive::{SyncEntity, SyncId};
use datasync_server::MemoryRepository;
use datasync_tests::{MemoryStore, RouterExchange, Wire, client_over, service};
use futures::executor::block_on;
use jiff::{Timestamp, civil};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime, Time};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncId)]
#[sync(crate = "datasync_core")]
struct Key(Uuid);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
struct Every {
    id: Key,
    short: i8,
    long: i64,
    unsigned: u64,
    single: f32,
    double: f64,
    decimal: Decimal,
    letter: char,
    text: String,
    stamp: Timestamp,
    date: civil::Date,
    time: civil::Time,
    #[sync(index)]
    chrono_stamp: DateTime<Utc>,
    chrono_offset: Option<DateTime<FixedOffset>>,
    #[sync(index)]
    chrono_date: NaiveDate,
    chrono_time: NaiveTime,
    #[sync(index)]
    #[serde(with = "time::serde::rfc3339")]
    time_stamp: OffsetDateTime,
    time_date: Date,
    time_time: Time,
    uuid: Uuid,
    place: Point,
}

fn every() -> Every {
    Every {
        id: Key(Uuid::nil()),
        short: -7,
        long: i64::MAX,
        unsigned: 7,
        single: 0.1,
        double: 0.1,
        decimal: "12345678901234.10".parse().unwrap(),
        letter: 'ß',
        text: "it's".to_owned(),
        stamp: "2024-02-29T12:34:56.789Z".parse().unwrap(),
        date: civil::date(2024, 2, 29),
        time: civil::time(1, 2, 3, 4_000_000),
        chrono_stamp: "2024-02-29T12:34:56.789Z".parse().unwrap(),
        chrono_offset: Some("2024-02-29T14:34:56.789+02:00".parse().unwrap()),
        chrono_date: NaiveDate::from_ymd_opt(2024, 2, 29).unwrap(),
        chrono_time: NaiveTime::from_hms_milli_opt(1, 2, 3, 4).unwrap(),
        time_stamp: OffsetDateTime::from_unix_timestamp_nanos(1_709_210_096_789_000_000).unwrap(),
        time_date: Date::from_calendar_date(2024, time::Month::February, 29).unwrap(),
        time_time: Time::from_hms_milli(1, 2, 3, 4).unwrap(),
        uuid: Uuid::from_u128(7),
        place: Point { longitude: -97.0, latitude: 38.0 },
    }
}

async fn table(store: &MemoryStore) -> OfflineTable<Every> {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 100, Wire::Extended));
    let client = client_over(store.clone(), exchange).table::<Every>().build().await.unwrap();
    client.offline_table()
}

#[test]
fn a_value_of_each_type_is_found_by_its_constant_and_by_what_lies_below_it() {
    block_on(async {
        let table = table(&MemoryStore::new()).await;
        let row = table.insert(every()).await.unwrap().into_inner();
        assert_ne!(row.id, Key(Uuid::nil()), "a nil id becomes a UUIDv7");
        assert_eq!(table.get(&row.id).await.unwrap().unwrap(), row, "it comes back as it was");
        type F = <Every as SyncEntity>::Fields;
        let half_past = |time: &str| time.parse::<DateTime<Utc>>().unwrap();
        let conditions: Vec<Box<dyn Fn(F) -> Filter<Every>>> = vec![
            Box::new(move |f| f.id.eq(Key(row.id.0))),
            Box::new(|f| f.short.eq(-7).and(f.short.lt(-6))),
            Box::new(|f| f.long.eq(i64::MAX).and(f.long.gt(i64::MAX - 1))),
            Box::new(|f| f.unsigned.eq(7).and(f.unsigned.lt(u64::MAX))),
            Box::new(|f| f.double.eq(0.1).and(f.double.gt(0.09))),
            Box::new(|f| f.single.eq(0.1).and(f.single.lt(0.11))),
            Box::new(|f| f.decimal.eq("12345678901234.1".parse::<Decimal>().unwrap())),
            Box::new(|f| f.decimal.gt("12345678901234.09".parse::<Decimal>().unwrap())),
            Box::new(|f| f.letter.eq('ß').and(f.text.eq("it's"))),
            Box::new(|f| f.stamp.eq(every().stamp).and(f.stamp.le(every().stamp))),
            Box::new(|f| f.date.eq(every().date).and(f.date.gt(civil::date(2024, 2, 28)))),
            Box::new(|f| f.time.eq(every().time).and(f.time.gt(civil::time(1, 2, 3, 3_000_000)))),
            Box::new(|f| f.chrono_stamp.eq(every().chrono_stamp)),
            Box::new(move |f| f.chrono_stamp.gt(half_past("2024-02-29T12:30:00Z"))),
            Box::new(|f| f.chrono_offset.eq(every().chrono_offset).and(f.chrono_offset.eq(f.chrono_stamp))),
            Box::new(|f| f.chrono_date.eq(every().chrono_date).and(f.chrono_date.day().eq(29))),
            Box::new(|f| f.chrono_time.eq(every().chrono_time).and(f.chrono_time.hour().eq(1))),
            Box::new(|f| f.time_stamp.eq(every().time_stamp).and(f.time_stamp.eq(f.stamp))),
            Box::new(|f| f.time_date.eq(every().time_date).and(f.time_date.eq(f.chrono_date))),
            Box::new(|f| f.time_time.eq(every().time_time).and(f.time_time.eq(f.time))),
            Box::new(|f| f.uuid.eq(Uuid::from_u128(7)).and(f.uuid.gt(Uuid::from_u128(6)))),
            Box::new(|f| f.place.distance(every().place).lt(0.001).and(f.place.is_not_null())),
        ];
        for condition in conditions {
            let query = table.query().filter(condition);
            let text = format!("{query:?}");
            assert_eq!(query.count().await.unwrap(), 1, "{text}");
        }
    });
}

#[test]
fn times_out_of_range_are_taken_for_the_ends_of_it() {
    let far = DateTime::<Utc>::MAX_UTC;
    let filter = Every::FIELDS.chrono_stamp.lt(far).to_string();
    assert!(filter.contains("cast(9999-12-30T22:00:00.999Z,Edm.DateTimeOffset)"), "{filter}");
    let filter = Every::FIELDS.chrono_date.gt(NaiveDate::MIN).to_string();
    assert!(filter.contains("-009999-01-01"), "{filter}");
    let leap = NaiveTime::from_hms_milli_opt(23, 59, 59, 1_500).unwrap();
    assert!(Every::FIELDS.chrono_time.le(leap).to_string().contains("cast(23:59:59.999,Edm.TimeOfDay)"));
}

#[test]
fn a_row_whose_id_the_type_spells_otherwise_is_an_error_that_says_what_to_do() {
    block_on(async {
        let store = MemoryStore::new();
        let table = table(&store).await;
        let kept = table.insert(every()).await.unwrap().into_inner();
        let id = "0192AAAA-0000-7000-8000-0000000000FF";
        let body = serde_json::to_string(&Every { id: Key(id.parse().unwrap()), ..kept }).unwrap().into_bytes().into();
        let record = Record { body, version: None, updated_at: None, deleted: false };
        let row = Row { record: Some(record), ..Row::default() };
        let number = store.head().await.unwrap().number + 1;
        let mut batch = WriteBatch { number, ..WriteBatch::default() };
        batch.rows.push(RowWrite::Put { key: RowKey::new("every", id), row, index_keys: Vec::new() });
        store.commit(batch).await.unwrap();
        let error = table.query().to_vec().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEntity);
        assert!(error.to_string().contains(id) && error.to_string().contains("a `String` for its ids"), "{error}");
        assert_eq!(Every::SCHEMA.field("uuid").unwrap().kind, FieldKind::Uuid);
    });
}
