//! The cases of the contract of [`Store`].
//!
//! Each makes a history with a fixed seed on the store and on the memory store, and compares every answer; a case that
//! fails is run again by its name.
#![allow(clippy::unwrap_used, reason = "a case fails where it stands")]

use std::{ops::Bound, sync::Arc};

use datasync_core::{
    memory::MemoryStore,
    row::{
        Body, Hold, LoserCause, Operation, OperationKind, Phase, Record, RecordRef, Row, RowKey, SettledLoser, Side,
    },
    store::{
        Clear, DeltaToken, Direction, Indexed, KeyRange, KeysRequest, Note, OperationsRequest, Outdated, RecordFilter,
        RowWrite, ScanRequest, ScopeKey, Store, StoreError, StoreErrorKind, TableSpec, WriteBatch,
    },
};
use futures::executor::block_on;
use jiff::Timestamp;
use uuid::Uuid;

/// Makes one test of each case of the contract.
///
/// The argument makes an empty store: a function or closure without arguments, called once for each case.
#[macro_export]
macro_rules! store_conformance {
    ($make:expr) => {
        #[test]
        fn answers_like_the_memory_store() {
            $crate::answers_like_the_memory_store($make);
        }

        #[test]
        fn tells_of_another_set_of_indexes() {
            $crate::tells_of_another_set_of_indexes($make);
        }

        #[test]
        fn goes_on_with_its_indexes_and_forgets_dropped_ones() {
            $crate::goes_on_with_its_indexes_and_forgets_dropped_ones($make);
        }

        #[test]
        fn lists_the_rows_of_all_accounts() {
            $crate::lists_the_rows_of_all_accounts($make);
        }

        #[test]
        fn is_closed_after_close() {
            $crate::is_closed_after_close($make);
        }
    };
}

/// Whatever is committed, a store answers every read as the memory store does; and a batch whose number is not the next
/// changes nothing.
///
/// # Panics
///
/// If it does not.
pub fn answers_like_the_memory_store<S: Store>(make: impl Fn() -> S) {
    for seed in [1, 2, 3] {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let (memory, store) = (MemoryStore::new(), make());
        block_on(async {
            assert!(memory.open(&specs()).await.unwrap().is_empty());
            assert!(store.open(&specs()).await.unwrap().is_empty());
            for number in 1..=60 {
                let batch = batch(&mut random, number);
                memory.commit(batch.clone()).await.unwrap();
                store.commit(batch.clone()).await.unwrap();
                let again = store.commit(batch).await.unwrap_err();
                assert_eq!(again.kind(), StoreErrorKind::Superseded);
                if number % 4 == 0 {
                    assert_eq!(everything(&memory).await, everything(&store).await, "seed {seed}, commit {number}");
                }
            }
        });
    }
}

/// A table whose rows are in other indexes than those given is named by `open` until its rows were written again.
///
/// # Panics
///
/// If it is not.
pub fn tells_of_another_set_of_indexes<S: Store>(make: impl Fn() -> S) {
    let store = make();
    block_on(async {
        let old = TableSpec { table: "notes".into(), indexes: Vec::new() };
        let new = specs().remove(0);
        assert!(store.open(&[old]).await.unwrap().is_empty());
        let record = Record { body: Body::from(&b"{}"[..]), version: None, updated_at: None, deleted: false };
        let row = Row { record: Some(record), ..Row::default() };
        let put = |index_keys| RowWrite::Put { key: RowKey::new("notes", "a"), row: row.clone(), index_keys };
        let first = WriteBatch { number: 1, rows: vec![put(Vec::new())], ..WriteBatch::default() };
        store.commit(first).await.unwrap();
        for _ in 0..2 {
            let outdated = Outdated { table: "notes".into(), done: None };
            assert_eq!(store.open(std::slice::from_ref(&new)).await.unwrap(), [outdated]);
        }
        let rows = vec![put(vec![(INDEX.into(), vec![1])])];
        let indexed = vec![Indexed { spec: new.clone(), done: None }];
        store.commit(WriteBatch { number: 2, rows, indexed, ..WriteBatch::default() }).await.unwrap();
        assert!(store.open(&[new]).await.unwrap().is_empty());
    });
}

/// A table whose rows are in its indexes up to a place is named with that place while the same indexes are wanted, and from
/// the beginning when others are; what leads to no row any more is not found under any name.
///
/// # Panics
///
/// If it is not so.
pub fn goes_on_with_its_indexes_and_forgets_dropped_ones<S: Store>(make: impl Fn() -> S) {
    let store = make();
    let spec = |index: &str| TableSpec { table: "notes".into(), indexes: vec![index.into()] };
    let (old, new, other) = (spec("old(a:text)"), spec("new(b:text)"), spec("other(c:text)"));
    let record = Record { body: Body::from(&b"{}"[..]), version: None, updated_at: None, deleted: false };
    let row = Row { record: Some(record), ..Row::default() };
    let put = |id: &str, spec: &TableSpec| {
        let index_keys = spec.indexes.iter().map(|index| (Arc::clone(index), vec![7])).collect();
        RowWrite::Put { key: RowKey::new("notes", id), row: row.clone(), index_keys }
    };
    let outdated = |done: Option<&str>| vec![Outdated { table: "notes".into(), done: done.map(Into::into) }];
    block_on(async {
        let commit = |number, rows: Vec<RowWrite>, indexed: Vec<Indexed>| {
            store.commit(WriteBatch { number, rows, indexed, ..WriteBatch::default() })
        };
        let count = async |spec: &TableSpec| {
            let index = spec.indexes.first().cloned();
            let count = store.count(&ScanRequest { index, ..whole("notes") }).await;
            count.or_else(|error| if error.kind() == StoreErrorKind::Unsupported { Ok(0) } else { Err(error) }).unwrap()
        };
        assert!(store.open(std::slice::from_ref(&old)).await.unwrap().is_empty());
        commit(1, vec![put("a", &old), put("b", &old), put("c", &old)], Vec::new()).await.unwrap();
        assert_eq!(store.open(std::slice::from_ref(&new)).await.unwrap(), outdated(None));
        let half = Indexed { spec: new.clone(), done: Some("b".into()) };
        commit(2, vec![put("a", &new), put("b", &new)], vec![half]).await.unwrap();
        assert_eq!(store.open(std::slice::from_ref(&new)).await.unwrap(), outdated(Some("b")));
        assert_eq!((count(&old).await, count(&new).await), (1, 2), "each row is where it was last put");
        assert_eq!(store.open(std::slice::from_ref(&other)).await.unwrap(), outdated(None), "others are wanted");
        assert_eq!(store.open(std::slice::from_ref(&new)).await.unwrap(), outdated(Some("b")), "and the same again");
        commit(3, vec![put("c", &new)], vec![Indexed { spec: new.clone(), done: None }]).await.unwrap();
        assert!(store.open(std::slice::from_ref(&new)).await.unwrap().is_empty());
        assert_eq!((count(&old).await, count(&new).await), (0, 3));
        // An index of the old name begins empty.
        assert_eq!(store.open(std::slice::from_ref(&old)).await.unwrap(), outdated(None));
        assert_eq!((count(&old).await, count(&new).await), (0, 3));
    });
}

/// The keys of a table come in the order of accounts and ids, whatever other tables there are, and those of rows without a
/// record with them.
///
/// # Panics
///
/// If they do not.
pub fn lists_the_rows_of_all_accounts<S: Store>(make: impl Fn() -> S) {
    let store = make();
    block_on(async {
        store.open(&specs()).await.unwrap();
        let request = |table: &str, after, limit| KeysRequest { table: table.into(), after, limit };
        assert!(store.keys(&request("notes", None, 3)).await.unwrap().is_empty());
        let mut keys = Vec::new();
        for account in ["", "a", "a\0", "b"] {
            for table in ["", "note", "notes", "notes\0", "z"] {
                // Not every account has rows of every table.
                for id in IDS.iter().filter(|id| (account.len() + table.len() + id.len()) % 3 > 0) {
                    keys.push(RowKey { account: account.into(), table: table.into(), id: (*id).into() });
                }
            }
        }
        keys.sort();
        let record = Record { body: Body::from(&b"{}"[..]), version: None, updated_at: None, deleted: false };
        let put = |(turn, key): (usize, &RowKey)| {
            let record = (turn % 2 == 0).then(|| record.clone());
            let row = Row { record, operations: vec![operation(turn as u64 + 1)], ..Row::default() };
            RowWrite::Put { key: key.clone(), row, index_keys: Vec::new() }
        };
        let rows = keys.iter().enumerate().map(put).collect();
        store.commit(WriteBatch { number: 1, rows, ..WriteBatch::default() }).await.unwrap();
        for table in ["", "note", "notes", "notes\0", "other", "z"] {
            let wanted: Vec<RowKey> = keys.iter().filter(|key| *key.table == *table).cloned().collect();
            assert_eq!(store.keys(&request(table, None, usize::MAX)).await.unwrap(), wanted, "{table:?}");
            let mut paged = Vec::new();
            loop {
                let page = store.keys(&request(table, paged.last().cloned(), 2)).await.unwrap();
                assert!(page.len() <= 2);
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
            }
            assert_eq!(paged, wanted, "{table:?}");
        }
    });
}

/// After `close` every call fails with `Closed`, and a second `close` is no error.
///
/// # Panics
///
/// If it is not so.
pub fn is_closed_after_close<S: Store>(make: impl Fn() -> S) {
    let store = make();
    block_on(async {
        store.open(&specs()).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(store.head().await.unwrap_err().kind(), StoreErrorKind::Closed);
        let batch = WriteBatch { number: 1, ..WriteBatch::default() };
        assert_eq!(store.commit(batch).await.unwrap_err().kind(), StoreErrorKind::Closed);
        store.close().await.unwrap();
    });
}

/// A small generator with a fixed seed: what fails can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

const IDS: [&str; 9] = ["a", "a\0", "a\u{1}", "aa", "b", "\u{ff}", "é", "\u{10ffff}", "~"];
const TABLES: [&str; 2] = ["notes", "notes\0"];
const NOTES: [&str; 5] = ["", "a", "a/b", "a0", "é"];
const INDEX: &str = "rank(rank:i64)";

fn specs() -> Vec<TableSpec> {
    TABLES.iter().map(|table| TableSpec { table: (*table).into(), indexes: vec![INDEX.into()] }).collect()
}

fn operation(place: u64) -> Operation {
    Operation {
        place,
        key: Uuid::from_u128(u128::from(place)),
        kind: OperationKind::Replace,
        phase: Phase::New,
        hold: Hold::Ready,
        version: Some("v".to_owned()),
        frozen: None,
        frozen_base: None,
        fingerprint: 7,
        schema: 1,
        edited: None,
        attempts: 0,
        rounds: 0,
    }
}

fn batch(random: &mut Random, number: u64) -> WriteBatch {
    let mut batch = WriteBatch { number, id: Uuid::from_u128(u128::from(number)), ..WriteBatch::default() };
    let mut used = Vec::new();
    for turn in 0..random.next(4) {
        let key = RowKey::new(TABLES[random.next(2)], IDS[random.next(IDS.len())]);
        if used.contains(&key) {
            continue;
        }
        used.push(key.clone());
        batch.rows.push(if random.next(4) == 0 {
            RowWrite::Remove { key }
        } else {
            let body = Body::from(format!("{{\"n\":{number}}}").into_bytes());
            let record = Record { body, version: None, updated_at: Some(Timestamp::UNIX_EPOCH), deleted: false };
            let has_record = random.next(5) > 0;
            let operations = (0..random.next(3)).map(|more| operation(number * 100 + turn as u64 * 10 + more as u64));
            let row = Row {
                record: has_record.then_some(record),
                operations: operations.collect(),
                revision: number,
                ..Row::default()
            };
            let rank = [&[0][..], &[0, 0], &[1, 255], &[255, 255], &[]][random.next(5)].to_vec();
            // Entries of rows without a record are links: no scan shows them.
            let mut index_keys = vec![(INDEX.into(), rank)];
            if random.next(3) == 0 {
                index_keys.push((INDEX.into(), vec![0, 7]));
            }
            RowWrite::Put { key, row, index_keys: if has_record { index_keys } else { index_keys.split_off(1) } }
        });
    }
    let scope =
        ScopeKey { account: "".into(), table: TABLES[random.next(2)].into(), scope: IDS[random.next(3)].into() };
    match random.next(4) {
        0 => batch.tokens.push((scope, Some(DeltaToken(number.to_string().into())))),
        1 => batch.tokens.push((scope, None)),
        2 => batch.add_losers.push(SettledLoser {
            id: Uuid::from_u128(u128::from(number)),
            key: RowKey::new("notes", "a"),
            side: Side::Local,
            body: Body::from(&b"{}"[..]),
            version: None,
            at: Timestamp::UNIX_EPOCH,
            schema: 2,
            cause: LoserCause::Vanished,
        }),
        _ => batch.remove_losers.push(Uuid::from_u128(random.next(number as usize + 1) as u128)),
    }
    let note = NOTES[random.next(NOTES.len())];
    match random.next(4) {
        0 => batch.notes.push((note.into(), None)),
        1 => {}
        _ => batch.notes.push((note.into(), Some(Note(number.to_be_bytes().to_vec())))),
    }
    if random.next(12) == 0 {
        let table = (random.next(3) > 0).then(|| TABLES[random.next(2)].into());
        batch.clear.push(Clear { account: "".into(), table });
    }
    batch
}

/// Everything that a store answers, as text.
async fn everything(store: &dyn Store) -> String {
    let mut all = format!("{:?}", store.head().await.unwrap());
    for table in TABLES {
        let keys: Vec<RowKey> = IDS.iter().map(|id| RowKey::new(table, *id)).collect();
        all += &format!("{:?}", store.get(&keys).await.unwrap());
        for index in [None, Some(Arc::from(INDEX))] {
            for direction in [Direction::Forward, Direction::Backward] {
                for mut ranges in ranges() {
                    if direction == Direction::Backward {
                        ranges.reverse();
                    }
                    let index = index.clone();
                    let mut request = ScanRequest { index, ranges, direction, ..whole(table) };
                    for filter in [None, Some(Arc::new(Odd) as Arc<dyn RecordFilter>)] {
                        request.filter = filter;
                        request.after = None;
                        let (counted, mut brought) = (store.count(&request).await.unwrap(), 0);
                        loop {
                            let page = store.scan(&request).await.unwrap();
                            all += &format!("{:?}", page.records);
                            brought += page.records.len() as u64;
                            assert!(page.records.len() <= request.limit);
                            match page.next {
                                Some(next) => request.after = Some(next),
                                None => break,
                            }
                        }
                        all += &format!("{counted}");
                        if request.index.is_some() {
                            let (mut found, mut whole) = (0, ScanRequest { after: None, ..request.clone() });
                            loop {
                                let entries = store.entries(&whole).await.unwrap();
                                assert!(entries.len() <= whole.limit);
                                found += entries.len() as u64;
                                all += &format!("{:?}", entries.iter().map(|at| (&at.key, &at.id)).collect::<Vec<_>>());
                                let Some(last) = entries.last() else { break };
                                whole.after = Some(last.clone());
                            }
                            assert!(found == counted || (request.filter.is_some() && found > counted), "{request:?}");
                        }
                        // An index, without a filter, counts entries: also those of rows without a record.
                        let entries = request.index.is_some() && request.filter.is_none();
                        assert!(counted == brought || (entries && counted > brought), "{request:?}");
                    }
                }
            }
        }
        all += &format!("{:?}", store.scopes("", table).await.unwrap());
        for scope in store.scopes("", table).await.unwrap() {
            all += store.delta_token(&scope).await.unwrap().unwrap().0.as_ref();
        }
        let tables = Some(vec![Arc::from(table)]);
        let request = OperationsRequest { account: "".into(), tables, after: 150, limit: 5 };
        all += &format!("{:?}", store.operations(&request).await.unwrap());
    }
    let request = OperationsRequest { account: "".into(), tables: None, after: 0, limit: usize::MAX };
    all += &format!("{:?}", store.operations(&request).await.unwrap());
    let keys = NOTES.map(Arc::from);
    all += &format!(
        "{:?}",
        store.notes(&keys).await.unwrap().into_iter().map(|note| note.map(|note| note.0)).collect::<Vec<_>>()
    );
    for (prefix, after) in [("", None), ("a", None), ("a", Some("a")), ("a/", None), ("", Some("a0")), ("b", Some("a"))]
    {
        all += &format!("{:?}", store.list_notes(prefix, after, 3).await.unwrap());
    }
    all + &format!("{:?}", store.losers("", Some(Uuid::from_u128(3)), 4).await.unwrap())
}

/// All records of a table, two by two.
fn whole(table: &str) -> ScanRequest {
    ScanRequest {
        account: "".into(),
        table: table.into(),
        index: None,
        ranges: vec![(Bound::Unbounded, Bound::Unbounded)],
        direction: Direction::Forward,
        after: None,
        limit: 2,
        filter: None,
    }
}

/// Keeps the records with an odd number in their body.
#[derive(Debug)]
struct Odd;

impl RecordFilter for Odd {
    fn keeps(&self, _: &str, record: RecordRef<'_>) -> Result<bool, StoreError> {
        let mut digits = record.body.iter().filter(|byte| byte.is_ascii_digit());
        Ok(digits.next_back().is_some_and(|digit| digit % 2 == 1))
    }
}

fn ranges() -> Vec<Vec<KeyRange>> {
    let keys = [vec![], vec![0], vec![0, 0], vec![b'a'], vec![0xff]];
    let mut ranges = vec![vec![], vec![(Bound::Unbounded, Bound::Unbounded)]];
    for one in &keys {
        for other in &keys {
            ranges.push(vec![(Bound::Included(one.clone()), Bound::Included(other.clone()))]);
            ranges.push(vec![(Bound::Excluded(one.clone()), Bound::Excluded(other.clone()))]);
        }
        ranges.push(vec![(Bound::Included(one.clone()), Bound::Unbounded)]);
    }
    // Several: all keys one by one, what lies between them, and both with one that is empty.
    ranges.push(keys.iter().map(|key| (Bound::Included(key.clone()), Bound::Included(key.clone()))).collect());
    let pairs = keys.iter().zip(&keys[1..]);
    ranges.push(pairs.map(|(low, high)| (Bound::Excluded(low.clone()), Bound::Excluded(high.clone()))).collect());
    let mut ids = IDS.map(|id| id.as_bytes().to_vec());
    ids.sort_unstable();
    let pairs = ids.iter().zip(&ids[1..]).step_by(2);
    let mut between: Vec<KeyRange> =
        pairs.map(|(low, high)| (Bound::Included(low.clone()), Bound::Excluded(high.clone()))).collect();
    between.insert(1, (Bound::Excluded(ids[1].clone()), Bound::Excluded(ids[1].clone())));
    ranges.push(between);
    ranges
}
