//! The contract of a repository: the file answers as the memory does, and keeps what it has answered.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use datasync_core::{
    clock::Clock,
    query::{Evaluator, QueryDescription},
    row::{Body, Record},
    schema::{FieldKind, FieldSchema, TableSchema},
};
use datasync_server::{
    Action, Change, ChangesQuery, Forget, Idempotency, MemoryRepository, Place, RedbDatabase, Repository, RowQuery,
    View, WriteOutcome,
};
use futures::{FutureExt, executor::block_on, future::BoxFuture, future::join_all};
use jiff::Timestamp;
use uuid::Uuid;

const FIELDS: &[FieldSchema] =
    &[FieldSchema::new("id", FieldKind::Text, false), FieldSchema::new("n", FieldKind::I64, false)];

/// Random numbers in a fixed order, so that two repositories give the same versions.
#[derive(Clone, Debug)]
struct Seeded(Arc<AtomicU64>);

impl Seeded {
    fn new() -> Seeded {
        Seeded(Arc::new(AtomicU64::new(1)))
    }
}

impl Clock for Seeded {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn sleep(&self, _: std::time::Duration) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }

    fn random(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

fn schema() -> TableSchema {
    TableSchema::new("notes", FIELDS, &[])
}

fn change(id: &str, n: u64, action: fn(Record) -> Action, now: i64) -> Change {
    let body = Body::from(format!(r#"{{"id":"{id}","n":{n}}}"#).into_bytes());
    let record = Record { body, version: None, updated_at: None, deleted: n % 7 == 3 };
    let now = Timestamp::from_millisecond(now).unwrap();
    Change { id: id.into(), action: action(record), expected: None, now, key: None, forget: None }
}

fn query(text: &str, include_deleted: bool, limit: usize) -> RowQuery {
    let description: QueryDescription = text.parse().unwrap();
    let evaluator = Evaluator::new(&description, &schema()).unwrap();
    RowQuery { description, evaluator, include_deleted, limit }
}

/// Everything that a repository answers.
async fn everything(repository: &dyn Repository, latest: i64) -> String {
    let mut all = String::new();
    let stamp = |millis| Timestamp::from_millisecond(millis).unwrap().to_string();
    let (some, later) = (stamp(latest / 2), stamp(latest / 2 + 20));
    let filters = [
        String::new(),
        "$filter=n gt 50".to_owned(),
        format!("$filter=updatedAt ge {some}&$orderby=updatedAt,id"),
        format!("$filter=updatedAt ge {some} and updatedAt lt {later} and id gt 'id-3'&$orderby=id"),
        format!("$filter=updatedAt lt {some} and updatedAt ge {later}"),
        "$orderby=updatedAt desc".to_owned(),
        "$orderby=updatedAt,n desc".to_owned(),
        "$orderby=n desc,id&$skip=2&$count=true".to_owned(),
        "$filter=id gt 'id-3' and id le 'id-7'&$count=true".to_owned(),
        "$filter=id gt 'id-7' and id lt 'id-3'".to_owned(),
        "$filter=id eq 'id-4' or n lt 3&$skip=1".to_owned(),
    ];
    for text in &filters {
        for (include_deleted, limit) in [(true, 3), (false, 3), (true, 1000), (false, 0)] {
            let found = repository.query(query(text, include_deleted, limit)).await.unwrap();
            all += &format!("{text} {found:?}\n");
        }
    }
    for (view, begun) in [(None, 0), (Some("$filter=n gt 20"), 0), (Some("$filter=n lt 90 and deleted eq false"), 90)] {
        let fields = ["n", "deleted"].into_iter().map(str::to_owned).collect();
        let view = view.map(|view| View { evaluator: query(view, true, 0).evaluator, fields });
        let mut since: Option<Place> = None;
        loop {
            let evaluator = query("$filter=n lt 60 and n gt 20", true, 0).evaluator;
            let wanted = ChangesQuery { since, begun, evaluator, view: view.clone(), limit: 4 };
            let found = repository.changes(wanted).await.unwrap();
            all += &format!("{found:?}\n");
            since = found.place;
            if !found.more {
                break;
            }
        }
    }
    for n in 0..12 {
        all += &format!("{:?}\n", repository.read(&format!("id-{n}")).await.unwrap());
        all += &format!("{:?}\n", repository.effect("me", Uuid::from_u128(n)).await.unwrap());
    }
    all
}

#[test]
fn the_file_answers_as_the_memory_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service.redb");
    let memory = MemoryRepository::with_clock(Seeded::new());
    let mut database = RedbDatabase::open_with(&path, Seeded::new()).unwrap();
    let mut file = database.table("notes");
    let mut random = 1_u64;
    let mut now = 1_000_000;
    block_on(async {
        for turn in 0..400_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = random >> 33;
            let id = format!("id-{}", pick % 12);
            // Time stands still, runs, and goes back.
            now += [0, 0, 1, 7, -3][(pick % 5) as usize];
            let action =
                [Action::Create, Action::Replace, Action::Replace, |_| Action::Remove][(pick / 16 % 4) as usize];
            let mut change = change(&id, pick % 100, action, now);
            if pick.is_multiple_of(3) {
                let key = Uuid::from_u128(u128::from(pick % 12));
                let caller = if pick.is_multiple_of(2) { "me" } else { "you" };
                change.key = Some(Idempotency { caller: caller.into(), key, request: 7, status: 200 });
            }
            if pick.is_multiple_of(5) {
                let there = memory.read(&id).await.unwrap();
                let version = there.and_then(|row| row.record.version).filter(|_| pick.is_multiple_of(2));
                change.expected = Some(version.unwrap_or_else(|| "other".to_owned()));
            }
            if pick % 4 != 1 {
                let before = Timestamp::from_millisecond(now - 100).unwrap();
                change.forget = Some(Forget { before, tombstones: pick % 4 == 2 });
            }
            let (one, other) = (memory.write(change.clone()).await.unwrap(), file.write(change).await.unwrap());
            assert_eq!(one, other, "{turn}");
            if turn % 50 == 49 {
                assert_eq!(everything(&memory, now).await, everything(&file, now).await, "{turn}");
            }
        }
        let (before, epoch) = (everything(&file, now).await, file.epoch().await.unwrap());
        drop((file, database));
        database = RedbDatabase::open(&path).unwrap();
        file = database.table("notes");
        assert_eq!(everything(&file, now).await, before, "closed and opened again");
        assert_eq!(file.epoch().await.unwrap(), epoch);
        assert_eq!(database.table("others").query(query("", true, 9)).await.unwrap().rows.len(), 0);
        database.renew_epoch().unwrap();
        assert_ne!(file.epoch().await.unwrap(), epoch);
    });
}

#[test]
fn i10_two_attempts_at_the_same_moment_make_a_change_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = RedbDatabase::open(folder.path().join("service.redb")).unwrap();
    for repository in [Box::new(database.table("notes")) as Box<dyn Repository>, Box::new(MemoryRepository::new())] {
        block_on(async {
            let mut change = change("a", 1, Action::Create, 1);
            change.key = Some(Idempotency { caller: "".into(), key: Uuid::from_u128(1), request: 1, status: 201 });
            let outcomes = join_all((0..8).map(|_| repository.write(change.clone()))).await;
            let done = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Done(_));
            let outcomes: Vec<WriteOutcome> = outcomes.into_iter().map(Result::unwrap).collect();
            assert_eq!(outcomes.iter().filter(|outcome| done(outcome)).count(), 1);
            assert!(outcomes.iter().all(|o| done(o) || matches!(o, WriteOutcome::Replayed(_))));
        });
    }
}

#[test]
fn i10_a_key_is_remembered_for_thirty_days() {
    let day = 24 * 3_600_000;
    let folder = tempfile::tempdir().unwrap();
    let database = RedbDatabase::open(folder.path().join("service.redb")).unwrap();
    for repository in [Box::new(database.table("notes")) as Box<dyn Repository>, Box::new(MemoryRepository::new())] {
        block_on(async {
            let keyed = |n: u128, now: i64| {
                let key = Idempotency { caller: "".into(), key: Uuid::from_u128(n), request: 1, status: 201 };
                Change { key: Some(key), ..change(&format!("id-{n}"), 1, Action::Create, now) }
            };
            repository.write(keyed(1, 0)).await.unwrap();
            repository.write(keyed(2, 29 * day)).await.unwrap();
            assert!(repository.effect("", Uuid::from_u128(1)).await.unwrap().is_some(), "{repository:?}");
            repository.write(keyed(3, 31 * day)).await.unwrap();
            assert!(repository.effect("", Uuid::from_u128(1)).await.unwrap().is_none(), "{repository:?}");
            assert!(repository.effect("", Uuid::from_u128(2)).await.unwrap().is_some(), "{repository:?}");
        });
    }
}

#[test]
fn a_file_of_something_else_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "not a database, but some text that somebody may want to keep").unwrap();
    let error = RedbDatabase::open(&text).unwrap_err().to_string();
    assert!(error.contains("choose another path"), "{error}");
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("not a database"));

    let other = folder.path().join("other.redb");
    {
        let database = redb::Database::create(&other).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(redb::TableDefinition::<&[u8], &[u8]>::new("theirs")).unwrap();
        write.commit().unwrap();
    }
    let error = RedbDatabase::open(&other).unwrap_err().to_string();
    assert!(error.contains("choose another path"), "{error}");

    let ours = folder.path().join("ours.redb");
    let open = RedbDatabase::open(&ours).unwrap();
    let error = RedbDatabase::open(&ours).unwrap_err().to_string();
    assert!(error.contains("open in another process"), "{error}");
    drop(open);
    assert!(RedbDatabase::open(&ours).is_ok());
}
