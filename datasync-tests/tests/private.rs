//! I21: nothing of a row, of a query or of a credential is in what is told of sync, however the service puts its refusals.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    fmt::{Debug, Display, Write as _},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use datasync_core::{
    client::{DatasyncClient, OfflineTable, PullOptions, PurgeOptions, ResetOptions, Resolution, TableOptions},
    config::{ConflictPolicy, SyncConfig},
    error::{Error, ErrorKind},
    events::EventStream,
    query::Query,
    store::Store,
};
use datasync_derive::SyncEntity;
use datasync_http::{AccessToken, HttpTransport};
use datasync_server::MemoryRepository;
use datasync_tests::{MemoryStore, Note, RedbStore, RouterExchange, Wire, client, note_of, notes, service};
use futures::{FutureExt, StreamExt};
use metrics_util::debugging::DebuggingRecorder;
use serde::{Deserialize, Serialize};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// What stands in every field of every row, in the filters and in the credentials, in one spelling or another.
const MARKS: [&str; 6] = ["plugh-xyzzy", "98765432123", "the-local-field", "a-secret-token", "an-api-key", "4040404"];

/// Everything that is traced in this process, by the client and by the service.
static TRACED: LazyLock<Arc<Mutex<String>>> = LazyLock::new(|| {
    let traced = Arc::<Mutex<String>>::default();
    tracing::subscriber::set_global_default(Everything(Arc::clone(&traced))).unwrap();
    traced
});

struct Everything(Arc<Mutex<String>>);

struct Fields<'s>(&'s mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        writeln!(self.0, "{field} {value:?}").unwrap();
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut traced = self.0.lock().unwrap();
        writeln!(traced, "span {} {}", span.metadata().target(), span.metadata().name()).unwrap();
        span.record(&mut Fields(&mut traced));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// What was said: the `Debug` output of everything, and the text of errors.
#[derive(Default)]
struct Said(String);

impl Said {
    fn debug(&mut self, what: impl Debug) {
        writeln!(self.0, "{what:?}").unwrap();
    }

    fn both(&mut self, what: impl Debug + Display) {
        writeln!(self.0, "{what:?} {what}").unwrap();
    }

    #[track_caller]
    fn fails<T>(&mut self, outcome: Result<T, Error>, kind: ErrorKind) {
        let error = outcome.err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        self.both(&error);
        self.debug(error.pending());
        self.debug(error.conflict());
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            writeln!(self.0, "{cause:?} {cause}").unwrap();
            source = cause.source();
        }
    }

    async fn everything_of(&mut self, client: &DatasyncClient, events: &mut EventStream) {
        while let Some(Some(event)) = events.next().now_or_never() {
            self.debug(event);
        }
        for entry in client.journal(None, 1_000).await.unwrap() {
            self.both(entry);
        }
        for change in client.pending().await.unwrap() {
            self.both(client.explain(&change.table, &change.id).await.unwrap());
            self.debug(change);
        }
        self.debug(client.conflicts().await.unwrap());
        self.debug(client.settled_losers().await.unwrap());
        self.debug(client.quarantined().await.unwrap());
        self.debug(client);
    }
}

/// A service that, while it is told to, refuses everything with this status and repeats all that it was sent.
fn repeating(service: Router, status: &Arc<AtomicU16>) -> Router {
    let status = Arc::clone(status);
    service.layer(middleware::from_fn(move |request: Request, next: Next| {
        let status = Arc::clone(&status);
        async move { repeat(status.load(Ordering::SeqCst), request, next).await }
    }))
}

async fn repeat(status: u16, request: Request, next: Next) -> Response {
    // The capabilities stay what they are.
    if status == 0 || request.uri().path().starts_with("/.well-known") {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let body: Body = body;
    let body = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    let mut headers = String::new();
    for name in ["authorization", "x-api-key", "x-hook"] {
        headers.push_str(head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default());
        headers.push(' ');
    }
    let detail = format!("{headers}{} {body}", head.uri.query().unwrap_or_default());
    let problem = serde_json::json!({ "title": "It is refused", "detail": detail }).to_string();
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/problem+json")], problem).into_response()
}

fn marked(id: &str) -> Note {
    let mut note = note_of(id, "it's plugh-xyzzy \"there\" & the-local-field");
    (note.rank, note.scroll) = (98_765_432_123, Some(4_040_404));
    note
}

fn transport(exchange: &RouterExchange) -> HttpTransport {
    let builder = HttpTransport::builder("http://service").retries(1).exchange(exchange.clone());
    let token = || async { Ok(Some(AccessToken::new("a-secret-token"))) };
    let builder = builder.token_provider(token).header("x-api-key", "an-api-key").before_send(|request| {
        request.headers.push(("x-hook".into(), "plugh-xyzzy".to_owned()));
    });
    builder.build().unwrap()
}

fn config() -> SyncConfig {
    SyncConfig::from_toml("[tables.note]\nfilter = \"title eq 'plugh-xyzzy' or rank gt 98765432123\"").unwrap()
}

/// A later release whose migration fails in the words of a library, which repeats what it read.
#[derive(Clone, Debug, Serialize, Deserialize, SyncEntity)]
#[sync(crate = "datasync_core", table = "note")]
struct Later {
    id: String,
    title: u64,
}

async fn i21_nothing_of_a_row_or_a_credential_is_told<S: Store + Clone>(store: S, wire: Wire) {
    LazyLock::force(&TRACED);
    let recorder = DebuggingRecorder::new();
    let _here = metrics::set_default_local_recorder(&recorder);
    let refuse = Arc::<AtomicU16>::default();
    let exchange =
        RouterExchange::new(service(&MemoryRepository::new(), 100, wire).behind(|service| repeating(service, &refuse)));
    let mut said = Said::default();
    let (way, config) = (transport(&exchange), config());
    said.debug(&config);
    said.debug(
        HttpTransport::builder("http://me:plugh-xyzzy@service/?code=an-api-key").header("x-api-key", "an-api-key"),
    );
    said.debug(&way);
    let builder = DatasyncClient::builder().store(store.clone()).transport(way).config(config).table::<Note>();
    said.debug(&builder);
    let here = builder.build().await.unwrap();
    let (table, mut events): (OfflineTable<Note>, _) = (notes(&here), here.events());
    let set = |status| refuse.store(status, Ordering::SeqCst);

    // Written, sent, refused, delayed, in conflict.
    said.debug(table.insert(marked("conflict")).await.unwrap());
    table.push_items().await.unwrap();
    let there = client(MemoryStore::new(), &exchange, ConflictPolicy::Park).await;
    notes(&there).pull_items(notes(&there).query()).await.unwrap();
    notes(&there).replace(Note { rank: 98_765_432_123, ..note_of("conflict", "theirs plugh-xyzzy") }).await.unwrap();
    notes(&there).push_items().await.unwrap();
    let mut mine = marked("conflict");
    mine.title.push_str(" mine");
    table.replace(mine).await.unwrap();
    table.push_items().await.unwrap();
    for (id, status) in [("parked", 422), ("delayed", 503), ("throttled", 429), ("forbidden", 403)] {
        table.insert(marked(id)).await.unwrap();
        set(status);
        said.debug(table.push_items().await.unwrap());
        set(0);
    }
    let reasons = format!("{:?}", here.pending().await.unwrap());
    assert!(reasons.contains("It is refused: … ") || reasons.contains("It is refused: Bearer … "), "{reasons}");
    said.everything_of(&here, &mut events).await;

    // Each call that fails, with the service's words in its error.
    let filter = |note: <Note as datasync_core::entity::SyncEntity>::Fields| {
        note.title.eq("plugh-xyzzy").and(note.rank.gt(98_765_432_123))
    };
    let query = || table.query().filter(filter);
    said.debug(query());
    said.debug(PullOptions::from(query()));
    said.debug(PurgeOptions::default().query(query()));
    said.both(query().explain().unwrap());
    said.debug(table.query().filter(|note| note.id.eq("plugh-xyzzy")).explain().unwrap());
    let remote = here.remote_table::<Note>();
    said.debug(remote.query().filter(filter));
    set(400);
    said.fails(table.pull_items(PullOptions::from(query()).no_push()).await, ErrorKind::Service);
    said.fails(table.verify_items(query()).await, ErrorKind::Service);
    said.fails(here.pull_tables(["note"]).await, ErrorKind::Service);
    said.fails(remote.insert(marked("remote")).await, ErrorKind::Service);
    said.fails(remote.get("conflict").await, ErrorKind::Service);
    said.fails(remote.query().filter(filter).to_vec().await, ErrorKind::Service);
    table.insert(marked("unsent")).await.unwrap();
    set(401);
    said.fails(table.push_items().await, ErrorKind::Unauthenticated);
    set(0);
    said.fails(table.insert(marked("conflict")).await.map(drop), ErrorKind::Exists);
    said.fails(table.replace(marked("nowhere")).await.map(drop), ErrorKind::NotFound);
    said.fails(table.purge_items(PurgeOptions::default()).await, ErrorKind::Pending);
    said.fails(here.reset(ResetOptions::everything()).await, ErrorKind::Pending);
    said.fails(remote.insert(marked("conflict")).await, ErrorKind::Conflict);

    // Filters that are wrong.
    for filter in [
        "title gt 'plugh-xyzzy' 'plugh-xyzzy'",
        "title eq 98765432123x",
        "rank eq 'plugh-xyzzy'",
        "rank in ('plugh-xyzzy')",
        "title add 'plugh-xyzzy' eq 1",
        "startswith(rank, 'plugh-xyzzy')",
        "not 'plugh-xyzzy'",
        "'plugh-xyzzy'",
        "title eq 'plugh-xyzzy",
        "title eq guid'plugh-xyzzy'",
        "rank eq cast(98765432123,Edm.Date)",
        "nothing eq 'plugh-xyzzy'",
    ] {
        match format!("$filter={filter}").parse::<Query<Note>>() {
            Err(error) => said.both(error),
            Ok(query) => {
                said.debug(&query);
                said.fails(table.query().with(query).to_vec().await, ErrorKind::InvalidQuery);
            }
        }
        let mut config = SyncConfig::default();
        config.tables.entry("note".to_owned()).or_default().filter = Some(filter.to_owned());
        let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport(&exchange));
        if let Err(error) = builder.config(config).table::<Note>().build().await {
            said.both(error);
        }
    }

    // What people decide.
    let conflict = here.conflicts().await.unwrap().pop().unwrap();
    let mut again = marked("conflict");
    again.title.push_str(" again");
    table.replace(again).await.unwrap();
    said.fails(here.resolve(&conflict, Resolution::<Note>::Take).await, ErrorKind::ConflictChanged);
    let conflict = here.conflicts().await.unwrap().pop().unwrap();
    here.resolve(&conflict, Resolution::<Note>::Take).await.unwrap();
    said.everything_of(&here, &mut events).await;
    let labels: Vec<_> = recorder.snapshotter().snapshot().into_vec();
    assert!(!labels.is_empty());
    said.debug(labels.iter().map(|(key, ..)| key.key().to_string()).collect::<Vec<_>>());
    drop((here, table, remote, there));

    // A release whose migration fails.
    let migration = TableOptions::<Later>::new().migration(1, |json| {
        let title: u64 = serde_json::from_value(json["title"].clone())?;
        Ok(serde_json::json!({ "id": json["id"], "title": title }))
    });
    let builder = DatasyncClient::builder().store(store).transport(transport(&exchange));
    let later = builder.table_with(migration).build().await.unwrap();
    let quarantined = later.quarantined().await.unwrap();
    assert!(quarantined.iter().any(|one| one.reason.contains("invalid type")), "{quarantined:?}");
    let mut events = later.events();
    said.fails(later.retry("note", "parked").await, ErrorKind::Quarantined);
    said.everything_of(&later, &mut events).await;

    let traced = TRACED.lock().unwrap();
    for expected in
        ["span datasync push", "span datasync pull", "span datasync commit", "ItemParked", "status 422", "milliseconds"]
    {
        assert!(traced.contains(expected), "{expected}");
    }
    for (from, words) in [("said", &said.0), ("traced", &*traced)] {
        nothing_private(from, words);
    }
}

fn nothing_private(from: &str, words: &str) {
    for line in words.lines() {
        let found = MARKS.iter().find(|mark| {
            // Bytes of keys are printed as numbers.
            let bytes = format!("{:?}", mark.as_bytes());
            line.contains(**mark) || line.contains(bytes.trim_matches(['[', ']']))
        });
        assert_eq!(found, None, "{from}: {line}");
    }
}

#[tokio::test]
async fn i21_the_error_of_a_damaged_file_shows_nothing_of_a_row() {
    let folder = datasync_tests::folder();
    let path = folder.path().join("store.redb");
    let refuse = Arc::<AtomicU16>::default();
    let exchange = RouterExchange::new(
        service(&MemoryRepository::new(), 100, Wire::Extended).behind(|service| repeating(service, &refuse)),
    );
    let open = async || {
        let builder = DatasyncClient::builder().store(RedbStore::open(&path)?).transport(transport(&exchange));
        let client = builder.config(config()).table::<Note>().build().await?;
        notes(&client).query().to_vec().await?;
        client.pending().await?;
        client.close().await
    };
    let client = client(RedbStore::open(&path).unwrap(), &exchange, ConflictPolicy::Park).await;
    notes(&client).insert(marked("refused")).await.unwrap();
    refuse.store(422, Ordering::SeqCst);
    notes(&client).push_items().await.unwrap();
    notes(&client).insert_all((0..200).map(|number| marked(&format!("{number}")))).await.unwrap();
    client.close().await.unwrap();
    drop(client);
    let whole = std::fs::read(&path).unwrap();
    let (mut said, mut failed) = (Said::default(), 0);
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096 + 100..(page + 1) * 4096].rotate_left(7);
        std::fs::write(&path, &damaged).unwrap();
        let Err(error) = open().await else { continue };
        failed += 1;
        let rescued = folder.path().join(format!("{page}.jsonl"));
        let salvaged = error.salvage_telling(&rescued, |progress| said.debug(progress));
        said.debug(salvaged);
        said.debug(error.salvage(&rescued));
        said.fails::<()>(Err(error), ErrorKind::Store);
    }
    assert!(failed > 10, "{failed}");
    nothing_private("said", &said.0);
}

datasync_tests::on_both_stores! {
    i21_nothing_of_a_row_or_a_credential_is_told
}
