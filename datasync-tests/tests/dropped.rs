//! A future of the public API may be dropped at any await (I22): the same call, made again, ends as if it had been made once.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    client::{
        DatasyncClient, OfflineTable, Pending, PendingRequest, PullOptions, PurgeOptions, ResetOptions, Resolution,
        Tables, Tx,
    },
    clock::{Clock as _, SystemClock},
    error::{Error, ErrorKind},
    row::OperationKind,
    store::Store,
};
use datasync_http::{
    AccessToken, Exchange, ExchangeError, HttpRequest, HttpResponse, HttpStream, HttpTransport, Method,
};
use datasync_server::{Action, Change, MemoryRepository, Repository};
use datasync_testkit::{Fault as StoreFault, FaultStore, StoreCall};
use datasync_tests::{
    Fault, MemoryStore, Note, RedbStore, RouterExchange, Wire, note_of, notes, service, service_rows,
    steps::{Steps, step, within},
};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture};

/// More steps than any call here has.
const MANY: usize = 500;

/// A way to the service with a step before each request, and one before its answer arrives.
#[derive(Clone, Debug)]
struct Stepping(RouterExchange);

#[async_trait]
impl Exchange for Stepping {
    async fn send(&self, request: HttpRequest, max_body: usize) -> Result<HttpResponse, ExchangeError> {
        step().await;
        let answer = self.0.send(request, max_body).await;
        step().await;
        answer
    }

    async fn stream(&self, request: HttpRequest) -> Result<HttpStream, ExchangeError> {
        self.0.stream(request).await
    }
}

struct World {
    client: DatasyncClient,
    table: OfflineTable<Note>,
    exchange: RouterExchange,
    rows: MemoryRepository,
    session: Session,
}

/// Who is signed in at the identity service.
type Session = Arc<Mutex<Option<Arc<str>>>>;

/// What there is in the end.
#[derive(Debug, PartialEq, Eq)]
struct State {
    account: String,
    here: Vec<(String, String)>,
    there: Vec<(String, String, i64)>,
    queued: Vec<(String, OperationKind)>,
    losers: usize,
}

impl World {
    /// A device with five rows that the service has too, and what the call needs; from then on each call of the store takes
    /// a step more.
    async fn new(store: impl Store, wire: Wire, call: &Call) -> World {
        let rows = MemoryRepository::new();
        let exchange = RouterExchange::new(service(&rows, 3, wire));
        let session: Session = Arc::default();
        let signed_in = Arc::clone(&session);
        let token = move || {
            let name = signed_in.lock().unwrap().clone();
            async move { Ok(name.map(|name| AccessToken::new("token").account(name))) }
        };
        let transport = HttpTransport::builder("http://service").retries(0).exchange(Stepping(exchange.clone()));
        let transport = transport.token_provider(token);
        let store = FaultStore::new(store, Steps);
        let faults = store.faults().clone();
        let builder = DatasyncClient::builder().store(store).transport(transport.build().unwrap());
        let client = builder.table::<Note>().build().await.unwrap();
        let world = World { table: notes(&client), client, exchange, rows, session };
        world.table.insert_all((0..5).map(|number| note_of(&format!("r{number}"), "first"))).await.unwrap();
        world.table.push_items().await.unwrap();
        world.table.pull_items(world.table.query()).await.unwrap();
        (call.prepare)(&world).await.unwrap();
        for _ in 0..MANY {
            faults.next(StoreCall::Commit, StoreFault::Delay(Duration::ZERO));
            faults.next(StoreCall::Read, StoreFault::Delay(Duration::ZERO));
        }
        world
    }

    fn write(&self, id: &str, action: Action) {
        let change = Change { id: id.into(), action, expected: None, now: SystemClock.now(), key: None, forget: None };
        self.rows.write(change).now_or_never().unwrap().unwrap();
    }

    /// Somebody changes the row on the service.
    async fn theirs(&self, id: &str) {
        let record = self.rows.read(id).await.unwrap().unwrap().record;
        let body = serde_json::to_vec(&note_of(id, "theirs")).unwrap();
        self.write(id, Action::Replace(datasync_core::row::Record { body: body.into(), ..record }));
    }

    /// A conflict of this row waits for somebody.
    async fn conflict(&self, id: &str) -> Result<(), Error> {
        self.theirs(id).await;
        self.table.replace(note_of(id, "mine")).await?;
        self.table.push_items().await.map(drop)
    }

    async fn here(&self) -> Vec<(String, String)> {
        let all = self.table.query().to_vec().await.unwrap();
        all.into_iter().map(|note| (note.id, note.title)).collect()
    }

    /// Everything is sent and fetched.
    async fn settled(&self) -> State {
        *self.session.lock().unwrap() = Some(self.client.account()).filter(|name| !name.is_empty());
        self.client.push_tables(Tables::all()).await.unwrap();
        self.table.pull_items(self.table.query()).await.unwrap();
        let pending = self.client.pending().await.unwrap();
        State {
            account: self.client.account().to_string(),
            here: self.here().await,
            there: service_rows(&self.rows),
            queued: pending.into_iter().map(|change| (change.id.to_string(), change.kind)).collect(),
            losers: self.client.settled_losers().await.unwrap().len(),
        }
    }
}

type Step = for<'a> fn(&'a World) -> LocalBoxFuture<'a, Result<(), Error>>;

/// A call of the public API.
struct Call {
    name: &'static str,
    /// What must be there for it.
    prepare: Step,
    call: Step,
    /// What it may answer if it had happened before, but for `Ok`.
    again: &'static [ErrorKind],
    /// Whether it is one commit here and nothing more, so that no part of it can be seen.
    whole: bool,
}

impl Call {
    /// A local write.
    fn write(name: &'static str, again: &'static [ErrorKind], call: Step) -> Call {
        Call { name, prepare: nothing, call, again, whole: true }
    }

    /// A call of more than one step that others may see.
    fn steps(name: &'static str, prepare: Step, call: Step) -> Call {
        Call { name, prepare, call, again: &[], whole: false }
    }

    fn again(self, again: &'static [ErrorKind]) -> Call {
        Call { again, ..self }
    }
}

fn nothing(_: &World) -> LocalBoxFuture<'_, Result<(), Error>> {
    async { Ok(()) }.boxed_local()
}

/// Changes here and there that do not meet.
fn changes(world: &World) -> LocalBoxFuture<'_, Result<(), Error>> {
    async {
        world.theirs("r4").await;
        world.write("r3", Action::Remove);
        world.table.insert(note_of("new", "mine")).await?;
        world.table.replace(note_of("r1", "mine")).await?;
        world.table.delete("r2").await.map(drop)
    }
    .boxed_local()
}

/// A change that was done, and whose answer was lost.
fn doubt(world: &World) -> LocalBoxFuture<'_, Result<(), Error>> {
    async {
        world.table.replace(note_of("r1", "mine")).await?;
        world.exchange.fault(|request| request.method != Method::Get, Fault::AnswerLost);
        world.table.push_items().await.map(drop)
    }
    .boxed_local()
}

/// Two changes that were refused.
fn refused(world: &World) -> LocalBoxFuture<'_, Result<(), Error>> {
    async {
        for id in ["r1", "r2"] {
            world.table.replace(note_of(id, "mine")).await?;
            world.exchange.fault(|request| request.method != Method::Get, Fault::Status(400));
            world.table.push_items().await?;
        }
        Ok(())
    }
    .boxed_local()
}

/// A body that has lost a conflict.
fn loser(world: &World) -> LocalBoxFuture<'_, Result<(), Error>> {
    async {
        world.conflict("r1").await?;
        let conflict = world.client.conflicts().await?.remove(0);
        world.client.resolve::<Note>(&conflict, Resolution::Take).await
    }
    .boxed_local()
}

fn local_calls() -> Vec<Call> {
    vec![
        Call::write("insert", &[ErrorKind::Exists], |world| {
            async { world.table.insert(note_of("new", "mine")).await.map(drop) }.boxed_local()
        }),
        Call::write("replace", &[], |world| {
            async { world.table.replace(note_of("r1", "mine")).await.map(drop) }.boxed_local()
        }),
        Call::write("upsert", &[], |world| {
            async { world.table.upsert(note_of("new", "mine")).await.map(drop) }.boxed_local()
        }),
        Call::write("delete", &[ErrorKind::NotFound], |world| {
            async { world.table.delete("r1").await.map(drop) }.boxed_local()
        }),
        Call::write("insert_all", &[ErrorKind::Exists], |world| {
            let all = (0..4).map(|number| note_of(&format!("new{number}"), "mine"));
            async { world.table.insert_all(all).await.map(drop) }.boxed_local()
        }),
        Call::write("upsert_all", &[], |world| {
            let all = (0..4).map(|number| note_of(&format!("r{number}"), "mine"));
            async { world.table.upsert_all(all).await.map(drop) }.boxed_local()
        }),
        Call::write("delete_all", &[ErrorKind::NotFound], |world| {
            async { world.table.delete_all(["r1", "r2"]).await.map(drop) }.boxed_local()
        }),
        Call::write("transaction", &[], |world| {
            let work = async |tx: Tx| {
                let first = tx.get::<Note>("r1").await?.unwrap();
                tx.upsert(Note { title: "mine".to_owned(), ..first }).await?;
                tx.upsert(note_of("r2", "mine")).await.map(drop)
            };
            async move { world.client.transaction(work).await }.boxed_local()
        }),
        Call {
            prepare: changes,
            ..Call::write("purge_items", &[], |world| {
                async { world.table.purge_items(PurgeOptions::default().force()).await.map(drop) }.boxed_local()
            })
        },
        Call {
            prepare: changes,
            ..Call::write("reset", &[], |world| {
                async { world.client.reset(ResetOptions::everything().force()).await.map(drop) }.boxed_local()
            })
        },
        Call {
            prepare: changes,
            ..Call::write("sign_out, discarding", &[], |world| {
                async { world.client.sign_out(Pending::Discard).await.map(drop) }.boxed_local()
            })
        },
        Call::steps("sign_in", nothing, |world| async { world.client.sign_in("bob").await }.boxed_local()),
        Call::steps(
            "adopt",
            |world| {
                async {
                    world.table.insert_all((0..6).map(|number| note_of(&format!("new{number}"), "mine"))).await?;
                    world.client.sign_in("bob").await
                }
                .boxed_local()
            },
            |world| async { world.client.adopt().await.map(drop) }.boxed_local(),
        ),
        Call::steps("retry", refused, |world| async { world.client.retry("note", "r1").await }.boxed_local()),
        Call::steps("retry_all", refused, |world| {
            async { world.client.retry_all(Tables::all()).await.map(drop) }.boxed_local()
        }),
        Call::steps(
            "resolve",
            |world| async { world.conflict("r1").await }.boxed_local(),
            |world| {
                async {
                    let conflicts = world.client.conflicts().await?;
                    let Some(conflict) = conflicts.first() else { return Ok(()) };
                    world.client.resolve(conflict, Resolution::Merged(note_of("r1", "merged"))).await
                }
                .boxed_local()
            },
        )
        // It is shown as it was while the commit of the dropped call is under way.
        .again(&[ErrorKind::ConflictChanged]),
        Call::steps("restore_loser and forget_losers", loser, |world| {
            async {
                for loser in world.client.settled_losers().await? {
                    world.client.restore_loser(loser.id).await?;
                    world.client.forget_losers([loser.id]).await?;
                }
                Ok(())
            }
            .boxed_local()
        })
        .again(&[ErrorKind::NotFound]),
        Call::steps("every read", changes, |world| {
            async {
                world.table.get("r1").await?;
                world.table.count().await?;
                world.table.query().filter(|note| note.rank.ge(0)).to_rows().await?;
                world.table.query().first().await?;
                world.table.query().stream().next().await.transpose()?;
                world.table.query().watch().next().await.transpose()?;
                world.client.pending_page(PendingRequest::new()).await?;
                world.client.conflicts().await?;
                world.client.quarantined().await?;
                world.client.accounts().await?;
                world.client.journal(None, 10).await?;
                world.client.explain("note", "r1").await?;
                world.client.export("note", "r1").await?;
                world.client.export_parked().await.map(drop)
            }
            .boxed_local()
        }),
    ]
}

fn calls_to_the_service() -> Vec<Call> {
    vec![
        Call::steps("push_items", changes, |world| async { world.table.push_items().await.map(drop) }.boxed_local()),
        Call::steps("push_tables", doubt, |world| {
            async { world.client.push_tables(Tables::all()).await.map(drop) }.boxed_local()
        }),
        Call::steps("pull_items", changes, |world| {
            async { world.table.pull_items(PullOptions::default().page_size(2)).await.map(drop) }.boxed_local()
        }),
        Call::steps("pull_tables", changes, |world| {
            async { world.client.pull_tables(Tables::all()).await.map(drop) }.boxed_local()
        }),
        Call::steps("verify_items", changes, |world| {
            async { world.table.verify_items(world.table.query()).await.map(drop) }.boxed_local()
        }),
        Call::steps("sync_until", changes, |world| {
            let deadline = SystemClock.now() + Duration::from_secs(600);
            async move { world.client.sync_until(deadline).await.map(drop) }.boxed_local()
        }),
        Call::steps("sign_out, pushing", changes, |world| {
            let patience = Pending::Push(Duration::from_secs(600));
            async move { world.client.sign_out(patience).await.map(drop) }.boxed_local()
        }),
        Call::steps("discard", doubt, |world| async { world.client.discard("note", "r1").await }.boxed_local())
            .again(&[ErrorKind::NotFound]),
        Call::steps("discard_with_children", doubt, |world| {
            async { world.client.discard_with_children("note", "r1").await.map(drop) }.boxed_local()
        })
        .again(&[ErrorKind::NotFound]),
        Call::steps("remote insert, replace and delete", nothing, |world| {
            async {
                let remote = world.client.remote_table::<Note>();
                let row = match remote.get("new").await? {
                    Some(row) => row,
                    None => remote.insert(note_of("new", "mine")).await?,
                };
                let row = remote.replace(&row.map(|note| Note { title: "again".to_owned(), ..note })).await?;
                if let Some(gone) = remote.get("r1").await? {
                    remote.delete(&gone).await?;
                }
                assert_eq!(row.title, "again");
                Ok(())
            }
            .boxed_local()
        }),
    ]
}

async fn dropped_at_each_step<S: Store>(store: impl Fn() -> S, wire: Wire, call: &Call, apart: usize) {
    let world = World::new(store(), wire, call).await;
    let before = world.here().await;
    (call.call)(&world).await.unwrap();
    let done = world.here().await;
    let expected = world.settled().await;
    for polls in (0..MANY).step_by(apart) {
        let case = format!("{} dropped after {polls} polls, {wire:?}", call.name);
        let world = World::new(store(), wire, call).await;
        let ended = within(polls, (call.call)(&world)).await;
        if let Some(ended) = ended {
            ended.unwrap();
            assert!(polls > 1, "{case}: it has no await at which it can be dropped");
            return;
        }
        if call.whole {
            let here = world.here().await;
            assert!(here == before || here == done, "{case}: a part of it: {here:?}");
        }
        if let Err(error) = (call.call)(&world).await {
            assert!(call.again.contains(&error.kind()), "{case}: {error}");
        }
        assert_eq!(world.settled().await, expected, "{case}");
    }
    panic!("{} has more than {MANY} steps", call.name);
}

/// With so many polls between one place where the calls are dropped and the next.
async fn each_is_dropped<S: Store>(store: impl Fn() -> S, apart: usize) {
    for wire in [Wire::Original, Wire::Extended] {
        for call in local_calls().iter().chain(&calls_to_the_service()) {
            dropped_at_each_step(&store, wire, call, apart).await;
        }
    }
}

#[tokio::test]
async fn i22_every_call_may_be_dropped_at_any_await_memory() {
    each_is_dropped(MemoryStore::new, 1).await;
}

#[tokio::test]
async fn i22_every_call_may_be_dropped_at_any_await_redb() {
    let store = || RedbStore::builder().open_backend(redb::backends::InMemoryBackend::new()).unwrap();
    each_is_dropped(store, 3).await;
}
