//! Pages of changes: rows that leave, what the service has forgotten, and what a caller may not learn.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use datasync_core::{
    clock::Clock,
    query::Expr,
    schema::{FieldKind, FieldSchema, TableSchema},
};
use datasync_server::{AccessControl, DatasyncService, MemoryRepository, RedbDatabase, Repository, TableOptions};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

const FIELDS: &[FieldSchema] = &[
    FieldSchema::new("id", FieldKind::Text, false),
    FieldSchema::new("owner", FieldKind::Text, true),
    FieldSchema::new("rank", FieldKind::I64, false),
];

/// A clock that a test moves.
#[derive(Clone, Debug, Default)]
struct Moved {
    millis: Arc<AtomicI64>,
    random: Arc<AtomicU64>,
}

impl Moved {
    fn days(&self, days: i64) {
        self.millis.fetch_add(days * 86_400_000, Ordering::SeqCst);
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + self.millis.fetch_add(1, Ordering::SeqCst)).unwrap()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

/// Everybody sees his own rows; `all` sees everything, and `rich` his own above a rank.
#[derive(Debug)]
struct Owners;

impl AccessControl for Owners {
    fn caller(&self, headers: &HeaderMap) -> Arc<str> {
        headers.get("x-caller").and_then(|caller| caller.to_str().ok()).unwrap_or("all").into()
    }

    fn view(&self, caller: &str) -> Option<Expr> {
        match caller {
            "all" => None,
            "rich" => "OWNER eq 'rich' and rank ge 50".parse().ok(),
            caller => format!("owner eq '{caller}'").parse().ok(),
        }
    }
}

/// A service over one table.
struct Service {
    router: Router,
    clock: Moved,
}

impl Service {
    fn new(repository: impl Repository, soft_delete: bool) -> Service {
        let clock = Moved::default();
        let notes = TableOptions::new(TableSchema::new("notes", FIELDS, &[])).soft_delete(soft_delete);
        let notes = notes.page_size(1_000).access(Owners);
        let router = DatasyncService::builder().clock(clock.clone()).table(notes, repository).build().unwrap();
        Service { router, clock }
    }

    async fn send(&self, method: &str, path: &str, caller: &str, body: Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("x-caller", caller);
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Creates the row, or replaces it.
    async fn put(&self, id: &str, owner: &str, rank: i64) {
        let row = json!({ "id": id, "owner": owner, "rank": rank });
        let path = format!("/tables/notes/{id}?__includedeleted=true");
        let (status, _) = self.send("PUT", &path, "all", row.clone()).await;
        if status == 404 {
            assert_eq!(self.send("POST", "/tables/notes", "all", row).await.0, 201);
        }
    }

    async fn delete(&self, id: &str) {
        let (status, _) = self.send("DELETE", &format!("/tables/notes/{id}"), "all", Value::Null).await;
        assert!([204, 404, 410].contains(&status), "{status}");
    }

    /// One page.
    async fn page(&self, caller: &str, filter: &str, top: u32, token: &str) -> Value {
        let filter = filter.replace(' ', "%20");
        let path = format!("/tables/notes?$filter={filter}&$top={top}&__delta={token}");
        let (status, page) = self.send("GET", &path, caller, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        page
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// What the stubs of a page say, as (id, has a version, deleted).
fn stubs(page: &Value) -> Vec<(String, bool, bool)> {
    let stubs = page["delta"]["stubs"].as_array().cloned().unwrap_or_default();
    stubs.iter().map(|stub| (text(&stub["id"]), stub["version"].is_string(), stub["deleted"] == true)).collect()
}

fn token(page: &Value) -> String {
    text(&page["delta"]["token"])
}

#[tokio::test]
async fn a_row_that_leaves_the_filter_leaves_a_stub() {
    let service = Service::new(MemoryRepository::new(), true);
    for rank in 0..6 {
        service.put(&rank.to_string(), "all", rank).await;
    }
    let first = service.page("all", "rank lt 4", 100, "").await;
    assert_eq!(first["items"].as_array().unwrap().len(), 4);
    assert!(stubs(&first).is_empty(), "who holds nothing has nothing to let go: {first}");
    service.put("1", "all", 9).await;
    service.put("5", "all", 8).await;
    service.put("4", "all", 0).await;
    service.delete("2").await;
    service.delete("1").await;
    let page = service.page("all", "rank lt 4", 100, &token(&first)).await;
    let ids: Vec<String> = page["items"].as_array().unwrap().iter().map(|item| text(&item["id"])).collect();
    assert_eq!(ids, ["4", "2"], "a tombstone that matches is an item");
    assert_eq!(stubs(&page), [("5".to_owned(), true, false), ("1".to_owned(), true, true)]);
    let again = service.page("all", "rank lt 4", 100, &token(&page)).await;
    assert_eq!((again["items"].as_array().unwrap().len(), stubs(&again).len()), (0, 0), "told once");
}

#[tokio::test]
async fn a_row_that_is_removed_for_good_leaves_a_stub() {
    let service = Service::new(MemoryRepository::new(), false);
    for id in ["a", "b", "c"] {
        service.put(id, "all", 1).await;
    }
    let first = service.page("all", "rank eq 1", 100, "").await;
    for id in ["a", "b"] {
        service.delete(id).await;
    }
    service.put("b", "all", 1).await;
    let page = service.page("all", "rank eq 1", 100, &token(&first)).await;
    assert_eq!(stubs(&page), [("a".to_owned(), false, true)]);
    assert_eq!(page["items"][0]["id"], "b", "it has come back");
    let other = service.page("all", "rank eq 1", 100, "").await;
    assert!(stubs(&other).is_empty(), "what was gone before the pull began is nothing to it");
}

#[tokio::test]
async fn what_was_never_in_the_callers_view_is_in_no_stub() {
    for soft_delete in [true, false] {
        let service = Service::new(MemoryRepository::new(), soft_delete);
        service.put("mine", "me", 1).await;
        service.put("given", "me", 1).await;
        service.put("gone", "me", 1).await;
        service.put("theirs", "you", 1).await;
        let first = service.page("me", "rank eq 1", 100, "").await;
        assert_eq!(first["items"].as_array().unwrap().len(), 3);
        // Given away, and changed again while it is another's.
        service.put("given", "you", 1).await;
        service.put("given", "you", 2).await;
        // In my view it left the filter, and then my view.
        service.put("mine", "me", 2).await;
        service.put("mine", "you", 2).await;
        service.put("gone", "you", 1).await;
        service.delete("gone").await;
        service.put("theirs", "you", 2).await;
        service.put("secret", "you", 1).await;
        service.put("shortly", "you", 1).await;
        service.delete("theirs").await;
        service.delete("shortly").await;
        let page = service.page("me", "rank eq 1", 100, &token(&first)).await;
        let left: BTreeSet<String> = stubs(&page).into_iter().map(|(id, ..)| id).collect();
        assert_eq!(left, ["given", "gone", "mine"].map(str::to_owned).into(), "soft delete: {soft_delete}");
        assert!(stubs(&page).iter().all(|(_, version, deleted)| !version && !deleted), "{page}");
        assert!(page["items"].as_array().unwrap().is_empty());
        // A departure is told although the row has since moved on to a later place.
        let one = service.page("you", "rank ge 0", 1, "").await;
        service.put("secret", "me", 1).await;
        for turn in 0..3 {
            service.put("secret", "me", turn).await;
        }
        let mut next = token(&one);
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            let page = service.page("you", "rank ge 0", 1, &next).await;
            seen.extend(stubs(&page).into_iter().map(|(id, ..)| id));
            next = token(&page);
        }
        assert!(seen.contains("secret"), "{seen:?}");
    }
}

#[tokio::test]
async fn i27_a_token_of_another_filter_view_or_epoch_begins_again() {
    let rows = MemoryRepository::new();
    let service = Service::new(rows.clone(), true);
    service.put("a", "me", 1).await;
    let backup = rows.snapshot();
    service.put("b", "me", 1).await;
    let first = token(&service.page("me", "rank eq 1", 100, "").await);
    let restart = async |caller: &str, filter: &str| {
        let page = service.page(caller, filter, 100, &first).await;
        (page["delta"]["restart"].clone(), page["items"].as_array().unwrap().len())
    };
    assert_eq!(restart("me", "rank eq 1").await, (Value::Null, 0));
    assert_eq!(restart("me", "rank  eq 1").await, (Value::Null, 0), "the same filter, spelled otherwise");
    assert_eq!(restart("me", "rank lt 9").await, ("expired".into(), 2));
    assert_eq!(restart("all", "rank eq 1").await, ("expired".into(), 2));
    rows.restore(&backup);
    assert_eq!(restart("me", "rank eq 1").await, ("restored".into(), 1));
    let path = format!("/tables/notes?__delta={}", &first[1..]);
    assert_eq!(service.send("GET", &path, "me", Value::Null).await.0, 400);
}

#[tokio::test]
async fn i27_what_is_forgotten_makes_the_tokens_before_it_expire_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let database = RedbDatabase::open(folder.path().join("service.redb")).unwrap();
    let memory = MemoryRepository::new();
    for (service, soft_delete) in [
        (Service::new(memory, true), true),
        (Service::new(MemoryRepository::new(), false), false),
        (Service::new(database.table("soft"), true), true),
        (Service::new(database.table("hard"), false), false),
    ] {
        for id in ["a", "b", "c"] {
            service.put(id, "all", 1).await;
        }
        let before = token(&service.page("all", "rank ge 0", 100, "").await);
        service.delete("a").await;
        let after = token(&service.page("all", "rank ge 0", 100, "").await);
        // A first pull of which one page was read: it began after the deletion.
        let begun = token(&service.page("all", "rank ge 0", 1, "").await);
        service.clock.days(89);
        service.put("d", "all", 1).await;
        let told = service.page("all", "rank ge 0", 100, &before).await;
        assert_eq!(told["delta"]["restart"], Value::Null, "remembered for 90 days");
        service.clock.days(2);
        for turn in 0..4 {
            service.put("e", "all", turn).await;
        }
        let (status, _) = service.send("GET", "/tables/notes/a?__includedeleted=true", "all", Value::Null).await;
        assert_eq!(status, 404, "the row is gone for good");
        assert_eq!(service.page("all", "rank ge 0", 100, &before).await["delta"]["restart"], "expired");
        let live = service.page("all", "rank ge 0", 100, &before).await["items"].as_array().unwrap().len();
        assert_eq!(live, 4, "from the start");
        for good in [after, begun] {
            let page = service.page("all", "rank ge 0", 100, &good).await;
            assert_eq!(page["delta"]["restart"], Value::Null, "soft delete: {soft_delete}");
        }
        // A row that only says that it is deleted is a row like others where deletions are not soft.
        if !soft_delete {
            let row = json!({ "id": "e", "rank": 1, "deleted": true });
            assert_eq!(service.send("PUT", "/tables/notes/e", "all", row).await.0, 200);
            service.clock.days(100);
            for turn in 0..9 {
                service.put("f", "all", turn).await;
            }
            assert_eq!(service.send("GET", "/tables/notes/e", "all", Value::Null).await.0, 200);
        }
    }
}

#[tokio::test]
async fn without_extensions_nothing_is_forgotten() {
    let clock = Moved::default();
    let notes = TableOptions::new(TableSchema::new("notes", FIELDS, &[])).soft_delete(true);
    let builder = DatasyncService::builder().clock(clock.clone()).extensions(false);
    let service = Service { router: builder.table(notes, MemoryRepository::new()).build().unwrap(), clock };
    service.put("a", "all", 1).await;
    service.delete("a").await;
    service.clock.days(1_000);
    for turn in 0..9 {
        service.put("b", "all", turn).await;
    }
    let (status, _) = service.send("GET", "/tables/notes/a?__includedeleted=true", "all", Value::Null).await;
    assert_eq!(status, 200);
}

/// A device that pulls a page now and then.
struct Device {
    caller: &'static str,
    filter: &'static str,
    token: String,
    rows: BTreeMap<String, String>,
}

impl Device {
    /// Whether there is more.
    async fn pull(&mut self, service: &Service, top: u32, ever_seen: &BTreeSet<(String, &str)>) -> bool {
        let page = service.page(self.caller, self.filter, top, &self.token).await;
        if !page["delta"]["restart"].is_null() {
            self.rows.clear();
        }
        for (id, ..) in stubs(&page) {
            assert!(ever_seen.contains(&(id.clone(), self.caller)), "{} must not know of {id}", self.caller);
            self.rows.remove(&id);
        }
        for item in page["items"].as_array().unwrap() {
            match item["deleted"] == true {
                true => drop(self.rows.remove(item["id"].as_str().unwrap())),
                false => drop(self.rows.insert(text(&item["id"]), text(&item["version"]))),
            }
        }
        self.token = token(&page);
        page["delta"]["more"] == true
    }
}

/// Rows are created, changed, given away and deleted at random while devices with filters and views pull pages of random
/// sizes, and the service forgets. In the end each device has what a query answers, and none was told of a row that
/// its caller never saw.
#[tokio::test]
async fn i12_devices_hold_what_they_may_see_whatever_happens_while_they_page() {
    const CALLERS: [&str; 4] = ["all", "me", "you", "rich"];
    let folder = tempfile::tempdir().unwrap();
    let database = RedbDatabase::open(folder.path().join("service.redb")).unwrap();
    let mut restarts = 0;
    for seed in 0..24_u64 {
        let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        let soft_delete = seed % 2 == 0;
        let service = match seed {
            // A file is slow where each change is a commit of its own.
            3 | 8 => Service::new(database.table(&format!("notes-{seed}")), soft_delete),
            _ => Service::new(MemoryRepository::new(), soft_delete),
        };
        let device = |caller, filter| Device { caller, filter, token: String::new(), rows: BTreeMap::new() };
        let mut devices: Vec<Device> = CALLERS
            .into_iter()
            .flat_map(|caller| [device(caller, "rank lt 70"), device(caller, "rank ge 0")])
            .collect();
        let mut ever_seen = BTreeSet::new();
        for _ in 0..300 {
            let id = format!("row-{:02}", next(20));
            match next(12) {
                0..5 => {
                    let (owner, rank) = (CALLERS[next(4) as usize], next(100) as i64);
                    ever_seen.insert((id.clone(), "all"));
                    if owner != "rich" || rank >= 50 {
                        ever_seen.insert((id.clone(), owner));
                    }
                    service.put(&id, owner, rank).await;
                }
                5 => service.delete(&id).await,
                6 if next(4) == 0 => service.clock.days(next(60) as i64),
                _ => {
                    let device = &mut devices[next(8) as usize];
                    let before = device.token.clone();
                    device.pull(&service, next(5) as u32 + 1, &ever_seen).await;
                    let begun = |token: &str| token.rsplit('.').next().map(str::to_owned);
                    restarts += usize::from(!before.is_empty() && begun(&before) != begun(&device.token));
                }
            }
        }
        for device in &mut devices {
            while device.pull(&service, 3, &ever_seen).await {}
            let path = format!("/tables/notes?$filter={}&$top=1000", device.filter.replace(' ', "%20"));
            let (_, answer) = service.send("GET", &path, device.caller, Value::Null).await;
            let live = answer["items"].as_array().unwrap().iter().filter(|item| item["deleted"] != true);
            let expected: BTreeMap<String, String> =
                live.map(|row| (text(&row["id"]), text(&row["version"]))).collect();
            assert_eq!(device.rows, expected, "seed {seed}: {} {}", device.caller, device.filter);
        }
    }
    assert!(restarts > 0, "no history was long enough for the service to forget something");
}
