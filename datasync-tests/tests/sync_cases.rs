//! What the originals' clients do, case by case, and where ours does it better: each difference has a name and a reason.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use datasync_core::{
    client::{DatasyncClient, OfflineTable, PendingState, PurgeOptions, Tables},
    config::ConflictPolicy,
    error::ErrorKind,
    memory::MemoryStore,
    row::OperationKind,
    store::{ScopeKey, Store},
};
use datasync_derive::SyncEntity;
use datasync_http::{HttpRequest, HttpTransport, Method};
use datasync_server::{Action, Change, DatasyncService, MemoryRepository, Repository, TableOptions};
use datasync_tests::{Fault, Note, RouterExchange, Wire, client, local_rows, note_of, notes, service, service_rows};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The cases, or `None` with a word about it.
fn cases(name: &str) -> Option<Value> {
    let Some(folder) = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from) else {
        println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
        return None;
    };
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// The names of what is done differently; a test that meets none of one fails, so that no name outlives its reason.
struct Differences {
    known: &'static [(&'static str, &'static str)],
    met: BTreeSet<&'static str>,
}

impl Differences {
    fn new(known: &'static [(&'static str, &'static str)]) -> Differences {
        Differences { known, met: BTreeSet::new() }
    }

    fn expect(&mut self, name: &str) {
        let found = self.known.iter().find(|(known, _)| *known == name);
        self.met.insert(found.unwrap_or_else(|| panic!("`{name}` differs and is not listed")).0);
    }

    fn end(self) {
        let unmet: Vec<_> = self.known.iter().filter(|(name, _)| !self.met.contains(name)).collect();
        assert!(unmet.is_empty(), "listed, but no longer different: {unmet:?}");
    }
}

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    exchange: RouterExchange,
    rows: MemoryRepository,
    store: MemoryStore,
}

async fn world(wire: Wire, policy: ConflictPolicy) -> World {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let store = MemoryStore::new();
    let client = client(store.clone(), &exchange, policy).await;
    World { table: notes(&client), client, exchange, rows, store }
}

fn kind(name: &str) -> OperationKind {
    match name.split(' ').next().unwrap() {
        "Add" | "Insert" => OperationKind::Insert,
        "Replace" | "Update" => OperationKind::Replace,
        "Delete" => OperationKind::Delete,
        other => panic!("an operation `{other}`"),
    }
}

impl World {
    /// Queues an operation of this kind for the row.
    async fn queue(&self, kind: OperationKind, id: &str) {
        if kind != OperationKind::Insert {
            self.table.insert(note_of(id, "base")).await.unwrap();
            self.table.push_items().await.unwrap();
        }
        self.write(kind, id, "mine").await.unwrap();
    }

    async fn write(&self, kind: OperationKind, id: &str, title: &str) -> Result<(), ErrorKind> {
        let done = match kind {
            OperationKind::Insert => self.table.insert(note_of(id, title)).await.map(drop),
            OperationKind::Delete => self.table.delete(id).await.map(drop),
            _ => self.table.replace(note_of(id, title)).await.map(drop),
        };
        done.map_err(|error| error.kind())
    }

    async fn pending(&self, id: &str) -> Option<(OperationKind, PendingState)> {
        let pending = self.client.pending().await.unwrap();
        pending.into_iter().find(|change| &*change.id == id).map(|change| (change.kind, change.state))
    }

    /// Somebody writes the row on the service, or removes it for good.
    async fn elsewhere(&self, id: &str, title: Option<&str>) {
        let body = format!(r#"{{"id":"{id}","title":"{}","rank":0}}"#, title.unwrap_or_default());
        let record = datasync_core::row::Record {
            body: body.into_bytes().into(),
            version: None,
            updated_at: None,
            deleted: false,
        };
        let there = self.rows.read(id).await.unwrap().is_some();
        let action = match title {
            None => Action::Remove,
            Some(_) if there => Action::Replace(record),
            Some(_) => Action::Create(record),
        };
        let change =
            Change { id: id.into(), action, expected: None, now: jiff::Timestamp::UNIX_EPOCH, key: None, forget: None };
        self.rows.write(change).await.unwrap();
    }
}

async fn collapse_follows_the_matrices(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("azure: Delete then Insert", "the row comes back as a replace, as in CT: no edit is refused"),
        ("azure: Insert (state Attempted/Failed) then Delete", "the delete is queued behind the insert in doubt"),
    ]);
    for of in ["ct", "azure"] {
        for case in cases["collapse"][of]["rows"].as_array().unwrap() {
            let (old, new) = (case["old"].as_str().unwrap(), case["new"].as_str().unwrap());
            let name = format!("{of}: {old} then {new}");
            let world = world(wire, ConflictPolicy::Park).await;
            world.queue(kind(old), "a").await;
            if old.contains("Attempted") {
                world.exchange.fault(|request| request.method == Method::Post, Fault::AnswerLost);
                world.table.push_items().await.unwrap();
            }
            let done = world.write(kind(new), "a", "newer").await;
            let result = match (done, world.pending("a").await) {
                (Err(_), _) => "error".to_owned(),
                (Ok(()), None) => "none".to_owned(),
                (Ok(()), Some((kind, _))) => format!("{kind:?}"),
            };
            let expected = case["result"].as_str().unwrap().replace("Add", "Insert").replace("Update", "Replace");
            if result != expected {
                differences.expect(&name);
            }
        }
    }
    differences.end();
}

/// What became of an operation, and whether the one behind it was sent.
async fn push_with(world: &World, op: OperationKind, response: &str) -> (&'static str, bool) {
    world.queue(op, "a").await;
    let changes = |request: &HttpRequest| request.method != Method::Get;
    match (response, op) {
        ("409" | "412", _) => world.elsewhere("a", Some("theirs")).await,
        ("404", OperationKind::Replace | OperationKind::Delete) => world.elsewhere("a", None).await,
        ("410", _) => {
            let there = world.rows.read("a").await.unwrap().unwrap();
            let record = datasync_core::row::Record { deleted: true, ..there.record };
            let now = jiff::Timestamp::UNIX_EPOCH;
            let change = Change {
                id: "a".into(),
                action: Action::Replace(record),
                expected: None,
                now,
                key: None,
                forget: None,
            };
            world.rows.write(change).await.unwrap();
        }
        ("network error / timeout" | "network error" | "timeout", _) => {
            world.exchange.fault(changes, Fault::AnswerLost);
        }
        ("201" | "200", _) | ("204", OperationKind::Delete) => {}
        (status, _) => world.exchange.fault(changes, Fault::Status(status.parse().unwrap())),
    }
    world.table.insert(note_of("other", "x")).await.unwrap();
    let pushed = world.table.push_items().await;
    let went_on = world.pending("other").await.is_none();
    match (pushed, world.pending("a").await) {
        (_, None) => ("completed", went_on),
        (Err(_), Some(_)) => ("stopped", went_on),
        (Ok(_), Some(_)) => ("kept", went_on),
    }
}

async fn answers_to_a_push_have_the_effects_of_the_originals(wire: Wire) {
    // In a batch every operation shares the fate of the request, which the originals do not have.
    if wire.extended() {
        return;
    }
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("ct: Add 204", "the row is read by id; the push goes on and is saved"),
        ("ct: any 401", "the push ends: what follows would be refused too; the queue stays as it was"),
        ("ct: any network error / timeout", "what was answered is saved, the operation waits, the push goes on"),
        ("azure: any network error", "the operation waits, in doubt, and the push goes on"),
        ("azure: any timeout", "the operation waits, in doubt, and the push goes on"),
    ]);
    for of in ["ct", "azure"] {
        for case in cases["push_outcomes"][of].as_array().unwrap() {
            let (op, response) = (case["op"].as_str().unwrap(), case["response"].to_string().replace('"', ""));
            // Cancellation is I22, which has its own test; a row without its record cannot be: they are one commit (I1).
            if response == "token cancelled" || response == "local row missing" {
                continue;
            }
            let every = [OperationKind::Insert, OperationKind::Replace, OperationKind::Delete];
            let ops = if op == "any" { every.to_vec() } else { vec![kind(op)] };
            let responses = match response.as_str() {
                "5xx" => vec!["500", "503"],
                "400/403/404/405/5xx" => vec!["400", "403", "405", "500"],
                response => vec![response],
            };
            for op_kind in ops {
                for response in &responses {
                    let world = world(wire, ConflictPolicy::Park).await;
                    let before = local_rows(&world.table).await;
                    let (result, went_on) = push_with(&world, op_kind, response).await;
                    let expected = match case["result"].as_str().unwrap() {
                        "completed" => "completed",
                        "exception" | "exception to the caller" | "aborted" => "stopped",
                        _ => "kept",
                    };
                    let same = result == expected && Some(went_on) == case["pushContinues"].as_bool();
                    if !same {
                        differences.expect(&format!("{of}: {op} {}", case["response"].to_string().replace('"', "")));
                    }
                    assert!(before.is_empty(), "each case begins with nothing");
                }
            }
        }
    }
    differences.end();
}

async fn conflicts_are_resolved_as_in_ct_but_never_without_a_version(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("Add ClientWins", "the second request carries the version just learnt (I18)"),
        ("Replace ClientWins", "the second request carries the version just learnt (I18)"),
        ("Delete ClientWins", "the second request carries the version just learnt (I18)"),
        ("Delete ServerWins", "the service's row is back at once, not when a later pull happens to bring it"),
        ("any ClientWins", "after a bounded number of rounds it is parked, with a version: never sent unconditionally"),
        ("any throws", "the conflict is parked and the rest of the queue is sent"),
    ]);
    for case in cases["conflict_resolution_ct"].as_array().unwrap() {
        let (op, resolver) = (case["op"].as_str().unwrap(), case["resolver"].as_str().unwrap());
        let policy = match resolver {
            "ClientWins" => ConflictPolicy::ClientWins,
            "ServerWins" => ConflictPolicy::ServerWins,
            "result Default" => ConflictPolicy::Park,
            // A merged entity, and a resolver that fails: `a_resolver_in_code_merges_and_its_failure_parks`.
            "throws" => {
                differences.expect("any throws");
                continue;
            }
            _ => continue,
        };
        let op_kind = if op == "any" { OperationKind::Replace } else { kind(op) };
        let world = world(wire, policy).await;
        let versions = Arc::new(Mutex::new(Vec::new()));
        world.queue(op_kind, "a").await;
        world.elsewhere("a", Some("theirs")).await;
        let (seen, rows, again) = (Arc::clone(&versions), world.rows.clone(), case["queue"].is_string());
        world.exchange.before(move |request| {
            if request.method == Method::Get {
                return;
            }
            seen.lock().unwrap().push(request.headers.iter().any(|(name, _)| name == "if-match"));
            if again {
                // A third write before each attempt.
                let record = futures::executor::block_on(rows.read("a")).unwrap().unwrap().record;
                let now = jiff::Timestamp::UNIX_EPOCH;
                let change = Change {
                    id: "a".into(),
                    action: Action::Replace(record),
                    expected: None,
                    now,
                    key: None,
                    forget: None,
                };
                futures::executor::block_on(rows.write(change)).unwrap();
            }
        });
        let report = world.table.push_items().await.unwrap();
        let versions = versions.lock().unwrap().clone();
        let here = world.table.get("a").await.unwrap().map(|note| note.title);
        match (policy, op_kind) {
            (ConflictPolicy::ClientWins, _) if again => {
                assert!(matches!(world.pending("a").await, Some((_, PendingState::Conflict(_)))), "parked");
                assert!(versions.len() > 1 && versions.len() < 10 && versions.iter().all(|version| *version));
                differences.expect("any ClientWins");
            }
            (ConflictPolicy::ClientWins, op_kind) => {
                assert_eq!(versions.last(), Some(&true), "the second request names what it overwrites");
                assert!(world.pending("a").await.is_none());
                assert_eq!(here.as_deref(), (op_kind != OperationKind::Delete).then_some("mine"));
                differences.expect(&format!("{op} ClientWins"));
            }
            (ConflictPolicy::ServerWins, op_kind) => {
                assert_eq!((versions.len(), world.pending("a").await), (1, None), "one request");
                assert_eq!(here.as_deref(), Some("theirs"));
                if op_kind == OperationKind::Delete {
                    differences.expect("Delete ServerWins");
                }
            }
            (ConflictPolicy::Park, _) => {
                assert_eq!((report.conflicts, here.as_deref()), (1, Some("mine")));
            }
            (other, _) => panic!("CT has no {other:?}"),
        }
    }
    differences.end();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core")]
#[serde(rename_all = "camelCase")]
struct Movie {
    id: String,
    title: String,
    duration: i64,
    rating: String,
    release_date: String,
    best_picture_winner: bool,
    year: i64,
}

async fn the_complex_situation_of_ct(wire: Wire) {
    let (Some(cases), Some(data)) = (cases("sync_cases.json"), cases("movies.json")) else { return };
    let steps = cases["pull_integration_ct"]["cases"].as_array().unwrap();
    let steps = &steps.iter().find(|case| case["steps"].is_array()).unwrap()["steps"];
    let rows = MemoryRepository::new();
    rows.seed(data["movies"].clone()).unwrap();
    let builder = DatasyncService::builder().extensions(wire.extended());
    let router = builder.table(TableOptions::of::<Movie>(), rows.clone()).build().unwrap();
    let transport = HttpTransport::builder("http://service").exchange(RouterExchange::new(router)).build().unwrap();
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport).table::<Movie>();
    let client = builder.build().await.unwrap();
    let table = client.offline_table::<Movie>();

    let pulled = table.pull_items(table.query()).await.unwrap();
    assert_eq!(Some(pulled.inserted), steps[0]["expected"]["additions"].as_u64());
    let mut added: Movie = serde_json::from_value(data["extraMovies"]["BlackPanther"].clone()).unwrap_or(Movie {
        id: String::new(),
        title: "Black Panther".to_owned(),
        duration: 134,
        rating: "PG13".to_owned(),
        release_date: "2018-02-16".to_owned(),
        best_picture_winner: true,
        year: 2018,
    });
    added.id = "added-here".to_owned();
    table.insert(added).await.unwrap();
    let long = table.query().filter(|movie| movie.duration.gt(180)).to_vec().await.unwrap();
    assert_eq!(Some(long.len() as u64), steps[2]["count"].as_u64());
    for movie in long {
        table.delete(&movie.id).await.unwrap();
    }
    let unrated = table.query().filter(|movie| movie.rating.eq("Unrated")).to_vec().await.unwrap();
    assert_eq!(Some(unrated.len() as u64), steps[3]["count"].as_u64());
    for movie in unrated {
        let title = format!("{:>45}", movie.title);
        table.replace(Movie { rating: "NC17".to_owned(), title, ..movie }).await.unwrap();
    }
    assert_eq!(Some(client.pending().await.unwrap().len() as u64), steps[4]["queue"]["total"].as_u64());
    let pushed = client.push_tables(Tables::all()).await.unwrap();
    assert_eq!(Some(pushed.pushed), steps[5]["expected"]["completedOperations"].as_u64());
    assert!(client.pending().await.unwrap().is_empty());

    let pulled = table.pull_items(table.query()).await.unwrap();
    assert_eq!(pulled.inserted + pulled.removed, 0);
    // Difference: what was pushed comes back there as 73 replacements; a version that is here already changes nothing.
    assert_eq!((steps[6]["expected"]["replacements"].as_u64(), pulled.updated), (Some(73), 0));
    assert_eq!(table.count().await.unwrap(), rows.rows().len() as u64);
}

async fn purges_keep_what_was_not_sent_and_forget_tokens_with_their_rows(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let cases = cases["purge_azure"]["cases"].as_array().unwrap().clone();
    let mut differences = Differences::new(&[
        ("the token of another query id is kept", "a token whose rows are gone would hide them for ever (I20)"),
        ("timestampUpdatePolicy", "there is none: tokens go with their rows, so that a later pull brings them back"),
    ]);
    for case in cases {
        let options = &case["options"];
        if options["timestampUpdatePolicy"].is_string() {
            differences.expect("timestampUpdatePolicy");
            continue;
        }
        let world = world(wire, ConflictPolicy::Park).await;
        for number in 0..10 {
            world.elsewhere(&format!("row-{number}"), Some("theirs")).await;
        }
        world.table.pull_items(world.table.query()).await.unwrap();
        for number in 0..10 {
            world.write(OperationKind::Replace, &format!("row-{number}"), "mine").await.unwrap();
        }
        let scope = ScopeKey { account: "".into(), table: "note".into(), scope: "".into() };
        let token = world.store.delta_token(&scope).await.unwrap();
        assert!(token.is_some());
        if options["discardPendingOperations"] != true {
            let error = world.table.purge_items(PurgeOptions::default()).await.unwrap_err();
            assert_eq!((error.kind(), error.pending().len()), (ErrorKind::Pending, 10));
            assert_eq!(world.store.delta_token(&scope).await.unwrap(), token);
            assert_eq!(world.table.count().await.unwrap(), 10);
            continue;
        }
        world.table.purge_items(PurgeOptions::default().force()).await.unwrap();
        assert_eq!(world.table.count().await.unwrap(), 0);
        assert!(world.client.pending().await.unwrap().is_empty());
        assert!(world.store.delta_token(&scope).await.unwrap().is_none());
        if case["expected"].as_str().unwrap().to_lowercase().contains("kept") {
            differences.expect("the token of another query id is kept");
        }
        world.table.pull_items(world.table.query()).await.unwrap();
        assert_eq!(local_rows(&world.table).await, service_rows(&world.rows));
    }
    differences.end();
}

async fn pulls_do_what_those_of_ct_do(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("PullAsync_List_Works_InitialSync", "the pages follow a keyset or the service's order, and never `$skip`"),
        ("PullAsync_List_FailedRequest", "a failed request is an error of the pull, not a count in its report"),
        ("PullAsync_List_PendingRequests", "pending changes are pushed first, and whatever becomes of them it goes on"),
    ]);
    for case in cases["pull_unit_ct"]["cases"].as_array().unwrap() {
        let world = world(wire, ConflictPolicy::Park).await;
        let name = case["test"].as_str().unwrap();
        for number in 0..20 {
            world.elsewhere(&format!("row-{number:02}"), Some("theirs")).await;
        }
        match name {
            "PullAsync_List_Works_InitialSync" => {
                let asked = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&asked);
                world.exchange.before(move |request| log.lock().unwrap().push(request.url.to_string()));
                let report = world.table.pull_items(world.table.query()).await.unwrap();
                assert_eq!(Some(report.inserted), case["expected"]["additions"].as_u64());
                assert!(asked.lock().unwrap().iter().all(|url| !url.contains("$skip")));
                differences.expect(name);
            }
            "PullAsync_List_Works_DoesntAddDeletions" => {
                let there = world.rows.read("row-07").await.unwrap().unwrap();
                let record = datasync_core::row::Record { deleted: true, ..there.record };
                let (action, now) = (Action::Replace(record), jiff::Timestamp::UNIX_EPOCH);
                let change = Change { id: "row-07".into(), action, expected: None, now, key: None, forget: None };
                world.rows.write(change).await.unwrap();
                let report = world.table.pull_items(world.table.query()).await.unwrap();
                assert_eq!((report.inserted, report.removed), (19, 0), "a deleted row that was never here is no row");
            }
            "PullAsync_List_FailedRequest" => {
                world.exchange.fault(|request| request.url.path().ends_with("/note"), Fault::Status(400));
                let error = world.table.pull_items(world.table.query()).await.unwrap_err();
                assert_eq!((error.kind(), world.table.count().await.unwrap()), (ErrorKind::Service, 0));
                differences.expect(name);
            }
            "PullAsync_List_PendingRequests" => {
                world.table.insert(note_of("mine", "x")).await.unwrap();
                let report = world.table.pull_items(world.table.query()).await.unwrap();
                assert_eq!(report.inserted, 20);
                assert!(world.client.pending().await.unwrap().is_empty());
                differences.expect(name);
            }
            other => panic!("a case `{other}`"),
        }
    }
    differences.end();
}

async fn ids_follow_the_rule_of_the_originals(wire: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let world = world(wire, ConflictPolicy::Park).await;
    for case in cases["ids"]["rows"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let written = world.table.insert(note_of(id, "x")).await;
        match case["valid"].as_bool().unwrap() {
            true => assert_eq!(written.unwrap().id, id),
            // Difference: an empty id is not refused but given, as by the originals' older client.
            false if id.is_empty() => assert_eq!(written.unwrap().id.len(), 36),
            false => assert_eq!(written.unwrap_err().kind(), ErrorKind::InvalidId, "{id}"),
        }
    }
    world.table.push_items().await.unwrap();
    assert_eq!(local_rows(&world.table).await, service_rows(&world.rows), "each of them goes there and back");
}

async fn addresses_are_joined_as_by_ct(_: Wire) {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[(
        "a base with a path",
        "the base is a folder with or without its slash, as in CT's online client: `{base}/tables/x` is below it",
    )]);
    for case in cases["endpoint_join_ct"]["rows"].as_array().unwrap() {
        let endpoint = case["endpoint"].as_str().unwrap();
        let base = case["base"].as_str().unwrap_or("https://test.zumo.com");
        let asked = Arc::new(Mutex::new(None));
        let log = Arc::clone(&asked);
        let exchange = RouterExchange::new(service(&MemoryRepository::new(), 10, Wire::Original));
        exchange.before(move |request| *log.lock().unwrap() = Some(request.url.to_string()));
        let builder = HttpTransport::builder(base).retries(0).table_path("note", endpoint).exchange(exchange);
        let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(builder.build().unwrap());
        let client = builder.table::<Note>().build().await.unwrap();
        let remote = client.remote_table::<Note>();
        // What is answered does not matter: it is the address that was asked.
        let _ = match case["itemId"].as_str() {
            Some(id) => remote.get(id).await.map(drop),
            None => remote.query().to_vec().await.map(drop),
        };
        let asked = asked.lock().unwrap().clone().unwrap();
        let asked = asked.split('?').next().unwrap();
        if asked != case["expected"].as_str().unwrap() {
            assert!(!endpoint.starts_with('/') && base.ends_with("/tables"), "{endpoint} from {base}: {asked}");
            assert!(asked.starts_with("https://test.zumo.com/tables/movies"), "{asked}");
            differences.expect("a base with a path");
        }
    }
    differences.end();
    assert!(HttpTransport::builder("https://h").table_path("t", "https://other/t").build().is_err());
}

datasync_tests::on_both_wires! {
    collapse_follows_the_matrices
    answers_to_a_push_have_the_effects_of_the_originals
    conflicts_are_resolved_as_in_ct_but_never_without_a_version
    the_complex_situation_of_ct
    purges_keep_what_was_not_sent_and_forget_tokens_with_their_rows
    pulls_do_what_those_of_ct_do
    ids_follow_the_rule_of_the_originals
    addresses_are_joined_as_by_ct
}
