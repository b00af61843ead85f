//! The cases of the contract of [`Transport`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails where it stands")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use datasync_core::{
    query::QueryDescription,
    row::{Body, OperationKind},
    store::DeltaToken,
    transport::{
        ChangeNotice, PageRequest, Purpose, PushOperation, PushOutcome, Restart, RowRequest, ServiceRow, Stub,
        Transport, TransportError,
    },
};
use futures::{StreamExt, executor::block_on};
use uuid::Uuid;

/// Makes one test of each case of the contract.
///
/// The argument makes a way to a service of its own: a function or closure without arguments, called once for each
/// case. It returns the transport and whatever must live as long; the service has an empty table `notes` with the fields
/// `id` and `title` (text) and `rank` (whole number), and deletes softly.
#[macro_export]
macro_rules! transport_conformance {
    ($make:expr) => {
        #[test]
        fn changes_are_answered_by_what_became_of_them() {
            $crate::changes_are_answered_by_what_became_of_them($make);
        }

        #[test]
        fn outcomes_come_in_the_order_of_the_operations() {
            $crate::outcomes_come_in_the_order_of_the_operations($make);
        }

        #[test]
        fn a_pull_brings_everything_and_then_what_changed() {
            $crate::a_pull_brings_everything_and_then_what_changed($make);
        }

        #[test]
        fn what_is_told_to_have_left_a_query_has_left_it() {
            $crate::what_is_told_to_have_left_a_query_has_left_it($make);
        }

        #[test]
        fn a_pull_that_begins_again_brings_everything() {
            $crate::a_pull_that_begins_again_brings_everything($make);
        }

        #[test]
        fn changes_are_told_where_that_is_declared() {
            $crate::changes_are_told_where_that_is_declared($make);
        }

        #[test]
        fn a_query_comes_in_its_order() {
            $crate::a_query_comes_in_its_order($make);
        }

        #[test]
        fn fetch_tells_deleted_rows_from_missing_ones() {
            $crate::fetch_tells_deleted_rows_from_missing_ones($make);
        }

        #[test]
        fn a_dropped_request_spoils_no_other() {
            $crate::a_dropped_request_spoils_no_other($make);
        }
    };
}

const TABLE: &str = "notes";

fn operation(key: u128, kind: OperationKind, id: &str, rank: i64, version: Option<&str>) -> PushOperation {
    let body = format!(r#"{{"id":"{id}","title":"note {id}","rank":{rank}}}"#);
    PushOperation {
        account: "".into(),
        base: None,
        table: TABLE.into(),
        id: id.into(),
        kind,
        key: Uuid::from_u128(key),
        version: version.map(str::to_owned),
        body: (kind != OperationKind::Delete).then(|| Body::from(body.into_bytes())),
    }
}

fn insert(id: &str, rank: i64) -> PushOperation {
    let key = id.bytes().fold(1, |key: u128, byte| key * 256 + u128::from(byte));
    operation(key, OperationKind::Insert, id, rank, None)
}

async fn push(transport: &dyn Transport, operation: PushOperation) -> PushOutcome {
    let mut outcomes = transport.push(&[operation]).await;
    assert_eq!(outcomes.len(), 1, "one outcome for each operation");
    outcomes.remove(0)
}

fn applied(outcome: PushOutcome) -> Option<ServiceRow> {
    match outcome {
        PushOutcome::Applied(row) => row,
        other => panic!("applied, and not {other:?}"),
    }
}

/// Inserts a row; its version.
async fn inserted(transport: &dyn Transport, id: &str, rank: i64) -> String {
    let copy = applied(push(transport, insert(id, rank)).await);
    let row = match copy {
        Some(row) => row,
        None => transport.fetch(&RowRequest::new(TABLE, id)).await.unwrap().unwrap(),
    };
    assert_eq!(&*row.id, id);
    row.record.version.unwrap()
}

fn rank(row: &ServiceRow) -> i64 {
    let text = std::str::from_utf8(row.record.body.as_bytes()).unwrap();
    let behind = text.split_once(r#""rank":"#).unwrap().1.trim_start();
    let digits: String = behind.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    digits.parse().unwrap()
}

/// Each change is answered by what became of it, conflicts with the service's copy if the answer has one.
///
/// # Panics
///
/// If it is not so.
pub fn changes_are_answered_by_what_became_of_them<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        let first = inserted(&transport, "a", 1).await;
        let copy = |outcome: PushOutcome| match outcome {
            PushOutcome::Conflict(copy) => copy,
            other => panic!("a conflict, and not {other:?}"),
        };
        let again = operation(900, OperationKind::Insert, "a", 2, None);
        let shown = copy(push(&transport, again).await);
        assert!(shown.is_none_or(|row| row.record.version.as_ref() == Some(&first) && rank(&row) == 1));

        let replaced = applied(push(&transport, operation(901, OperationKind::Replace, "a", 3, Some(&first))).await);
        let now = transport.fetch(&RowRequest::new(TABLE, "a")).await.unwrap().unwrap();
        assert_eq!(rank(&now), 3);
        assert_ne!(now.record.version.as_ref(), Some(&first), "a change gives another version");
        assert!(replaced.is_none_or(|row| row.record.version == now.record.version));

        let stale = operation(902, OperationKind::Replace, "a", 4, Some(&first));
        let shown = copy(push(&transport, stale).await);
        assert!(shown.is_none_or(|row| row.record.version == now.record.version));
        let shown = copy(push(&transport, operation(903, OperationKind::Delete, "a", 0, Some(&first))).await);
        assert!(shown.is_none_or(|row| row.record.version == now.record.version));
        assert_eq!(
            rank(&transport.fetch(&RowRequest::new(TABLE, "a")).await.unwrap().unwrap()),
            3,
            "nothing was changed"
        );

        let version = now.record.version.as_deref();
        applied(push(&transport, operation(904, OperationKind::Delete, "a", 0, version)).await);
        let gone = push(&transport, operation(905, OperationKind::Replace, "a", 5, version)).await;
        assert!(matches!(gone, PushOutcome::Gone | PushOutcome::NotFound | PushOutcome::Conflict(_)), "{gone:?}");
        let never = push(&transport, operation(906, OperationKind::Replace, "never", 5, Some("AQ=="))).await;
        assert!(matches!(never, PushOutcome::NotFound | PushOutcome::Gone), "{never:?}");

        let Some(tombstone) =
            transport.fetch(&RowRequest { include_deleted: true, ..RowRequest::new(TABLE, "a") }).await.unwrap()
        else {
            return;
        };
        let undelete = operation(907, OperationKind::Undelete, "a", 6, tombstone.record.version.as_deref());
        applied(push(&transport, undelete).await);
        assert_eq!(rank(&transport.fetch(&RowRequest::new(TABLE, "a")).await.unwrap().unwrap()), 6);
    });
}

/// However many operations a call holds, each has its outcome, and one that fails changes nothing for the others.
///
/// # Panics
///
/// If it is not so.
pub fn outcomes_come_in_the_order_of_the_operations<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        inserted(&transport, "there", 0).await;
        let most = transport.capabilities().await.unwrap().batch.min(50);
        let mut operations: Vec<PushOperation> = (0..most as i64).map(|n| insert(&format!("row-{n:02}"), n)).collect();
        let middle = operations.len() / 2;
        operations[middle] = operation(900, OperationKind::Insert, "there", 9, None);
        let outcomes = transport.push(&operations).await;
        assert_eq!(outcomes.len(), operations.len());
        for (place, (operation, outcome)) in operations.iter().zip(outcomes).enumerate() {
            match outcome {
                PushOutcome::Applied(row) if place != middle => assert!(row.is_none_or(|row| row.id == operation.id)),
                PushOutcome::Conflict(row) if place == middle => assert!(row.is_none_or(|row| &*row.id == "there")),
                other => panic!("{place}: {other:?}"),
            }
        }
        for (place, operation) in operations.iter().enumerate() {
            let row = transport.fetch(&RowRequest::new(TABLE, &*operation.id)).await.unwrap().unwrap();
            assert_eq!(rank(&row), if place == middle { 0 } else { place as i64 });
        }
    });
}

/// What a pull brought.
#[derive(Default)]
struct Pulled {
    /// The last state of each row, by id.
    rows: BTreeMap<Arc<str>, ServiceRow>,
    stubs: Vec<Stub>,
    restart: Option<Restart>,
    token: Option<DeltaToken>,
}

/// Pulls from a token to the end.
async fn pull(transport: &dyn Transport, token: Option<DeltaToken>, filter: &str) -> Pulled {
    try_pull(transport, token, filter).await.unwrap()
}

async fn try_pull(
    transport: &dyn Transport,
    token: Option<DeltaToken>,
    filter: &str,
) -> Result<Pulled, TransportError> {
    let mut pulled = Pulled { token, ..Pulled::default() };
    let mut first = true;
    for _ in 0..1_000 {
        let request = PageRequest {
            account: "".into(),
            table: TABLE.into(),
            purpose: Purpose::Pull,
            query: QueryDescription { filter: filter.parse().ok(), ..QueryDescription::default() },
            token: pulled.token.clone(),
            first,
            page_size: 7,
            overlap: Duration::from_secs(30),
            include_deleted: true,
        };
        let page = transport.fetch_page(&request).await?;
        pulled.rows.extend(page.rows.into_iter().map(|row| (Arc::clone(&row.id), row)));
        pulled.stubs.extend(page.stubs);
        pulled.restart = pulled.restart.or(page.restart);
        pulled.token = page.token.or(pulled.token);
        first = false;
        if !page.more {
            return Ok(pulled);
        }
    }
    panic!("a pull that does not end");
}

/// The pages of a first pull hold every row; those of a later one at least what was changed since, deletions included.
///
/// # Panics
///
/// If it is not so.
pub fn a_pull_brings_everything_and_then_what_changed<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        let mut versions = BTreeMap::new();
        for number in 0..25 {
            let id = format!("row-{:02}", number * 7 % 25);
            versions.insert(id.clone(), inserted(&transport, &id, number).await);
        }
        let Pulled { rows, token, stubs, restart } = pull(&transport, None, "").await;
        assert!(stubs.is_empty() && restart.is_none(), "a first pull has nothing to let go and nothing to begin again");
        let found: BTreeMap<String, String> =
            rows.iter().map(|(id, row)| (id.to_string(), row.record.version.clone().unwrap())).collect();
        assert_eq!(found, versions);
        assert!(token.is_some(), "a pull that is over has a token");
        let some = pull(&transport, None, "rank lt 5").await;
        assert_eq!(some.rows.len(), 5, "only what matches the query");

        let version = versions["row-03"].clone();
        applied(push(&transport, operation(900, OperationKind::Replace, "row-03", 100, Some(&version))).await);
        let version = versions["row-04"].clone();
        applied(push(&transport, operation(901, OperationKind::Delete, "row-04", 0, Some(&version))).await);
        inserted(&transport, "row-99", 7).await;
        let Pulled { rows: changed, token, .. } = pull(&transport, token, "").await;
        assert_eq!(rank(&changed["row-03"]), 100);
        assert!(changed["row-04"].record.deleted);
        assert!(!changed["row-99"].record.deleted);
        let again = pull(&transport, token, "").await;
        for (id, row) in again.rows {
            let known = changed.get(&id).or(rows.get(&id)).unwrap();
            assert_eq!(row.record.version, known.record.version, "what comes again is what was known");
        }
    });
}

/// A stub is of a row that no longer matches the query, or is gone. A transport that tells of one tells of all.
///
/// # Panics
///
/// If it is not so.
pub fn what_is_told_to_have_left_a_query_has_left_it<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        let mut versions = BTreeMap::new();
        for number in 0..20 {
            let id = format!("row-{number:02}");
            versions.insert(id.clone(), inserted(&transport, &id, number).await);
        }
        let first = pull(&transport, None, "rank lt 10").await;
        assert_eq!((first.rows.len(), first.stubs.len()), (10, 0));
        let replace = async |key: u128, id: &str, rank: i64| {
            let version = versions[id].as_str();
            applied(push(&transport, operation(key, OperationKind::Replace, id, rank, Some(version))).await);
        };
        for (key, number) in (900..).zip([1, 4, 7]) {
            replace(key, &format!("row-{number:02}"), 100).await;
        }
        replace(910, "row-12", 5).await;
        replace(911, "row-15", 150).await;
        let version = versions["row-02"].as_str();
        applied(push(&transport, operation(912, OperationKind::Delete, "row-02", 0, Some(version))).await);
        let later = pull(&transport, first.token, "rank lt 10").await;
        assert!(later.rows.contains_key("row-12"), "it has come to match");
        for stub in &later.stubs {
            let wanted = RowRequest { include_deleted: true, ..RowRequest::new(TABLE, &*stub.id) };
            let Some(now) = transport.fetch(&wanted).await.unwrap() else { continue };
            assert!(!stub.removed, "{stub:?}");
            assert!(now.record.deleted || rank(&now) >= 10, "{stub:?}");
            assert!(stub.version.is_none() || stub.version == now.record.version, "{stub:?}");
        }
        if !later.stubs.is_empty() {
            for id in ["row-01", "row-04", "row-07"] {
                assert!(later.stubs.iter().any(|stub| &*stub.id == id), "{id} has left too");
            }
        }
        let again = pull(&transport, later.token, "rank lt 10").await;
        assert!(again.stubs.is_empty(), "told once");
    });
}

/// Where a token is found not to be good any more, the pull says so and brings every row.
///
/// # Panics
///
/// If it is not so.
pub fn a_pull_that_begins_again_brings_everything<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let ((one, _first), (other, _second)) = (make(), make());
    block_on(async {
        for number in 0..20 {
            inserted(&other, &format!("there-{number:02}"), number).await;
        }
        inserted(&one, "here", 1).await;
        let token = pull(&one, None, "").await.token;
        // To the other service this is a token of a time that it knows nothing of. It may be an error, too.
        let Ok(begun) = try_pull(&other, token, "").await else { return };
        if begun.restart.is_some() {
            assert_eq!(begun.rows.len(), 20, "from the start");
            let again = pull(&other, begun.token, "").await;
            assert_eq!((again.rows.len(), again.restart), (0, None), "an ordinary pull again");
        }
    });
}

/// A stream of changes says that it listens, and then names each table that changes.
///
/// # Panics
///
/// If it does not.
pub fn changes_are_told_where_that_is_declared<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        let declared = transport.capabilities().await.unwrap().notifications;
        let mut changes = transport.changes("".into());
        if !declared {
            return;
        }
        assert_eq!(changes.next().await.unwrap().unwrap(), ChangeNotice::Connected);
        for number in 0..3 {
            inserted(&transport, &format!("row-{number}"), number).await;
            while changes.next().await.unwrap().unwrap() != ChangeNotice::Changed(TABLE.into()) {}
        }
        drop(changes);
        inserted(&transport, "after", 4).await;
    });
}

/// A query brings its rows in its order, page after page, and their number if it wants it.
///
/// # Panics
///
/// If it does not.
pub fn a_query_comes_in_its_order<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        for number in 0..25 {
            inserted(&transport, &format!("row-{number:02}"), number * 7 % 25).await;
        }
        let text = "$filter=rank ge 3&$orderby=rank desc&$count=true";
        let mut request = PageRequest {
            account: "".into(),
            table: TABLE.into(),
            purpose: Purpose::Query,
            query: text.parse().unwrap(),
            token: None,
            first: true,
            page_size: 1_000,
            overlap: Duration::ZERO,
            include_deleted: false,
        };
        let mut ranks = Vec::new();
        loop {
            let page = transport.fetch_page(&request).await.unwrap();
            if request.first {
                assert_eq!(page.total, Some(22));
            }
            ranks.extend(page.rows.iter().map(rank));
            (request.token, request.first) = (page.token, false);
            if !page.more {
                break;
            }
        }
        assert_eq!(ranks, (3..25).rev().collect::<Vec<i64>>());
    });
}

/// A row that was deleted is found only by who wants deleted ones; one that never was is found by nobody.
///
/// # Panics
///
/// If it is not so.
pub fn fetch_tells_deleted_rows_from_missing_ones<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        let version = inserted(&transport, "a", 1).await;
        applied(push(&transport, operation(900, OperationKind::Delete, "a", 0, Some(&version))).await);
        assert!(transport.fetch(&RowRequest::new(TABLE, "a")).await.unwrap().is_none());
        assert!(
            transport
                .fetch(&RowRequest { include_deleted: true, ..RowRequest::new(TABLE, "a") })
                .await
                .unwrap()
                .is_some_and(|row| row.record.deleted)
        );
        for include_deleted in [false, true] {
            assert!(
                transport
                    .fetch(&RowRequest { include_deleted, ..RowRequest::new(TABLE, "never") })
                    .await
                    .unwrap()
                    .is_none()
            );
        }
    });
}

/// A request whose future was dropped, at whatever point, does not spoil the answer of a later one.
///
/// # Panics
///
/// If it does.
pub fn a_dropped_request_spoils_no_other<T: Transport, K>(make: impl Fn() -> (T, K)) {
    let (transport, _service) = make();
    block_on(async {
        inserted(&transport, "a", 1).await;
        inserted(&transport, "b", 2).await;
        for polls in 0..20 {
            {
                let request = RowRequest::new(TABLE, "a");
                let mut dropped = transport.fetch(&request);
                for _ in 0..polls {
                    if futures::poll!(dropped.as_mut()).is_ready() {
                        break;
                    }
                    std::thread::yield_now();
                }
            }
            let row = transport.fetch(&RowRequest::new(TABLE, "b")).await.unwrap().unwrap();
            assert_eq!((&*row.id, rank(&row)), ("b", 2));
        }
    });
}
