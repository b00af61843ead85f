//! What the answers to a push do.

use datasync_core::{
    config::ConflictPolicy,
    error::ErrorKind,
    row::{Hold, OperationKind, ParkReason, Row, ServiceCopy},
};
use datasync_http::{HttpRequest, Method};
use datasync_server::Repository;
use datasync_tests::{Fault, Note, Wire, note_of};
use serde_json::Value;

use crate::{Differences, World, cases, kind, world};

/// What the service asks for where it asks for patience, in seconds.
const PATIENCE: u64 = 77;

/// What a push did to an operation, to its row here, and to the operation behind it.
struct Pushed {
    /// How the call ended, if it was an error.
    error: Option<ErrorKind>,
    queue: String,
    before: Option<Note>,
    after: Option<Note>,
    /// Whether the operation behind it was sent.
    went_on: bool,
}

/// What is queued for a row.
fn queue(row: Option<&Row>) -> String {
    let Some(operation) = row.and_then(|row| row.operations.first()) else { return "removed".to_owned() };
    let doubt = if operation.in_doubt() { ", in doubt" } else { "" };
    match &operation.hold {
        Hold::Ready => format!("ready{doubt}"),
        Hold::Wait { length, demanded: true, .. } => format!("waits {} s as it was told{doubt}", length.as_secs()),
        Hold::Wait { .. } => format!("waits{doubt}"),
        Hold::Parked(parked) => match (&parked.conflict, parked.status, parked.reason) {
            (Some(ServiceCopy::Found(copy)), ..) if copy.deleted => "a conflict with a deletion".to_owned(),
            (Some(ServiceCopy::Found(_)), ..) => "a conflict with theirs".to_owned(),
            (Some(ServiceCopy::Absent), ..) => "a conflict with nothing".to_owned(),
            (None, Some(status), ParkReason::Refused) => format!("parked as refused with {status}{doubt}"),
            (None, status, reason) => format!("parked: {reason:?} {status:?}{doubt}"),
        },
    }
}

/// What the queue has here where theirs keeps a `Failed` operation, which each later push sends again as it was.
fn kept(op: OperationKind, response: &str) -> String {
    match response {
        "409" | "412" => "a conflict with theirs".to_owned(),
        "404" if op == OperationKind::Insert => "parked as refused with 404".to_owned(),
        "404" => "a conflict with nothing".to_owned(),
        "410" => "a conflict with a deletion".to_owned(),
        "401" | "token cancelled" => "ready".to_owned(),
        "429" => format!("waits {PATIENCE} s as it was told, in doubt"),
        "500" | "503" | "network error" | "timeout" | "network error / timeout" => "waits, in doubt".to_owned(),
        status => format!("parked as refused with {status}"),
    }
}

async fn push_with(world: &World, op: OperationKind, response: &str) -> Pushed {
    world.queue(op, "a").await;
    let before = world.table.get("a").await.unwrap();
    let changes = |request: &HttpRequest| request.method != Method::Get;
    match (response, op) {
        ("409" | "412", _) => {
            world.elsewhere("a", Some("theirs")).await;
            let status: u16 = response.parse().unwrap();
            world.exchange.after(move |response| {
                if matches!(response.status, 409 | 412) {
                    response.status = status;
                }
            });
        }
        ("404", OperationKind::Replace | OperationKind::Delete) => world.elsewhere("a", None).await,
        ("410", _) => world.deleted_elsewhere("a").await,
        ("network error / timeout" | "network error" | "timeout", _) => {
            world.exchange.fault(changes, Fault::AnswerLost);
        }
        ("201" | "200", _) | ("204", OperationKind::Delete) => {}
        (status, _) => {
            world.exchange.fault(changes, Fault::Status(status.parse().unwrap()));
            world.exchange.after(|response| {
                if response.status == 429 {
                    response.headers.push(("Retry-After".to_owned(), PATIENCE.to_string()));
                }
            });
        }
    }
    world.table.insert(note_of("other", "x")).await.unwrap();
    let error = world.table.push_items().await.err().map(|error| error.kind());
    let went_on = world.pending("other").await.is_none();
    let queue = queue(world.row("a").await.as_ref());
    Pushed { error, queue, before, after: world.table.get("a").await.unwrap(), went_on }
}

/// Without the extensions: in a batch every operation shares the fate of the request, which the originals do not have.
#[tokio::test]
async fn answers_to_a_push_have_the_effects_of_the_originals() {
    let Some(cases) = cases("sync_cases.json") else { return };
    let mut differences = Differences::new(&[
        ("ct: Add 204", "the row is read by id; the push goes on and is saved"),
        ("ct: any 409", "all sides are kept, and nothing is sent again before somebody has decided"),
        ("ct: any 412", "all sides are kept, and nothing is sent again before somebody has decided"),
        ("ct: Replace 404", "it is a conflict with a row that is gone, and not a failure that each push repeats"),
        ("ct: Replace 410", "it is a conflict with a deletion, and not a failure that each push repeats"),
        ("ct: any 400", "it waits for somebody, with status and reason, and is not sent again before"),
        ("ct: any 403", "it waits for somebody, with status and reason, and is not sent again before"),
        ("ct: any 401", "the push ends: what follows would be refused too; the account is paused, the queue as it was"),
        ("ct: any 429", "it waits for as long as the service asked, also for an explicit push"),
        ("ct: any 5xx", "it waits and is in doubt: the service may have done it, so that the same key goes again"),
        ("ct: any network error / timeout", "what was answered is saved, the operation waits, the push goes on"),
        ("azure: any 409", "all sides are kept, and no error is left behind once it is settled"),
        ("azure: any 412", "all sides are kept, and no error is left behind once it is settled"),
        (
            "azure: any 400/403/404/405/5xx",
            "status and reason stay with the operation; what may have been done is in doubt",
        ),
        ("azure: any 401", "the account is paused, so that nothing is sent by itself with this sign-in"),
        ("azure: any network error", "the operation waits, in doubt, and the push goes on"),
        ("azure: any timeout", "the operation waits, in doubt, and the push goes on"),
        ("azure: any token cancelled", "a push may be dropped at any time, also when nothing listens to a token"),
        ("azure: Insert/Update local row missing", "row and operation are one: the record is what is sent"),
    ]);
    for of in ["ct", "azure"] {
        for case in cases["push_outcomes"][of].as_array().unwrap() {
            let (op, response) = (case["op"].as_str().unwrap(), case["response"].to_string().replace('"', ""));
            let name = format!("{of}: {op} {response}");
            let responses = match response.as_str() {
                "5xx" => vec!["500", "503"],
                "400/403/404/405/5xx" => vec!["400", "403", "404", "405", "500", "503"],
                "token cancelled" => {
                    dropped_at_every_step().await;
                    differences.expect(&name);
                    continue;
                }
                "local row missing" => {
                    no_operation_without_its_row().await;
                    differences.expect(&name);
                    continue;
                }
                response => vec![response],
            };
            let every = [OperationKind::Insert, OperationKind::Replace, OperationKind::Delete];
            let ops = if op == "any" { every.to_vec() } else { vec![kind(op)] };
            for op_kind in ops {
                for response in &responses {
                    // A deletion of what is gone is done: it has a line of its own.
                    if op == "any" && op_kind == OperationKind::Delete && *response == "404" {
                        continue;
                    }
                    let world = world(Wire::Original, ConflictPolicy::Park).await;
                    let pushed = push_with(&world, op_kind, response).await;
                    if compare(case, op_kind, response, &pushed, &world).await {
                        differences.expect(&name);
                    }
                }
            }
        }
    }
    differences.end();
}

/// Holds a push against the line of the originals; returns whether it differs, as it should.
async fn compare(case: &Value, op: OperationKind, response: &str, pushed: &Pushed, world: &World) -> bool {
    let name = format!("{op:?} {response}, {case}");
    let column = |name: &str| case[name].as_str().unwrap();
    let completes = column("result") == "completed";
    assert_eq!(column("queue").starts_with("removed"), completes, "{name}");
    let by_id = op == OperationKind::Insert && response == "204";
    let expected = if completes || by_id { "removed".to_owned() } else { kept(op, response) };
    assert_eq!(pushed.queue, expected, "{name}");
    assert_eq!(pushed.went_on, response != "401", "{name}");
    assert_eq!(pushed.error, (response == "401").then_some(ErrorKind::Unauthenticated), "{name}");
    let title = |note: &Option<Note>| note.as_ref().map(|note| note.title.clone());
    match column("local") {
        "row already gone" => assert!(pushed.before.is_none() && pushed.after.is_none(), "{name}"),
        // What is not answered with a copy, or is in the queue, does not change here.
        _ => assert_eq!(title(&pushed.after), title(&pushed.before), "{name}"),
    }
    if pushed.queue == "removed" && op != OperationKind::Delete {
        let there = world.rows.read("a").await.unwrap().unwrap().record;
        let here = world.row("a").await.unwrap().record.unwrap();
        assert_eq!(
            (here.version, here.updated_at),
            (there.version, there.updated_at),
            "{name}: the response is stored"
        );
    }
    if pushed.queue.starts_with("a conflict") {
        let conflict = world.client.conflicts().await.unwrap().remove(0);
        let base = conflict.base::<Note>().unwrap().map(|base| base.title);
        assert_eq!(base.as_deref(), (op != OperationKind::Insert).then_some("base"), "{name}");
        assert_eq!(conflict.local::<Note>().unwrap().map(|ours| ours.title), title(&pushed.before), "{name}");
    }
    !completes
}

/// A push that is dropped after any number of steps leaves its operation in the queue or done, and the next one ends it.
async fn dropped_at_every_step() {
    for steps in 0..6 {
        let world = world(Wire::Original, ConflictPolicy::Park).await;
        world.queue(OperationKind::Insert, "a").await;
        {
            let mut push = std::pin::pin!(world.table.push_items());
            for _ in 0..steps {
                if futures::future::poll_immediate(push.as_mut()).await.is_some() {
                    break;
                }
            }
        }
        assert_eq!(world.table.get("a").await.unwrap(), Some(note_of("a", "mine")));
        world.table.push_items().await.unwrap();
        assert_eq!(queue(world.row("a").await.as_ref()), "removed");
        assert_eq!(datasync_tests::service_rows(&world.rows).len(), 1);
    }
}

/// Whatever takes a row away takes its operation along, or leaves one that has all it needs.
async fn no_operation_without_its_row() {
    for op in [OperationKind::Insert, OperationKind::Replace] {
        let world = world(Wire::Original, ConflictPolicy::Park).await;
        world.queue(op, "a").await;
        world.table.purge_items(datasync_core::client::PurgeOptions::default().force()).await.unwrap();
        assert_eq!((world.row("a").await, world.pending("a").await), (None, None));
        assert_eq!(world.table.push_items().await.unwrap().parked, 0);
    }
}
