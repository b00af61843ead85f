//! Whose requests go out with whose token, and what the service's clock says.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod server;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use datasync_core::{
    query::QueryDescription,
    row::OperationKind,
    transport::{
        PageRequest, Purpose, PushOperation, PushOutcome, RowRequest, Transport, TransportError, TransportErrorKind,
    },
};
use datasync_http::{AccessToken, HttpTransport};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use server::{Server, answer, entity};
use uuid::Uuid;

fn delete(account: &str, number: u128) -> PushOperation {
    PushOperation {
        account: account.into(),
        table: "t".into(),
        id: number.to_string().into(),
        kind: OperationKind::Delete,
        key: Uuid::from_u128(number),
        version: Some("AQ==".to_owned()),
        body: None,
        base: None,
    }
}

fn page(account: &str, purpose: Purpose) -> PageRequest {
    PageRequest {
        account: account.into(),
        table: "t".into(),
        purpose,
        query: QueryDescription::default(),
        token: None,
        first: true,
        page_size: 10,
        overlap: std::time::Duration::ZERO,
        include_deleted: true,
    }
}

/// The kind of the failure of each way to ask or send.
async fn everything(transport: &HttpTransport, account: &str) -> Vec<Option<TransportErrorKind>> {
    let kind = |error: &TransportError| Some(error.kind());
    let row = RowRequest { account: account.into(), ..RowRequest::new("t", "a") };
    let mut kinds = vec![transport.fetch(&row).await.err().as_ref().and_then(kind)];
    for purpose in [Purpose::Pull, Purpose::Query] {
        kinds.push(transport.fetch_page(&page(account, purpose)).await.err().as_ref().and_then(kind));
    }
    for outcome in transport.push(&[delete(account, 1), delete(account, 2)]).await {
        kinds.push(match outcome {
            PushOutcome::Failed(error) => kind(&error),
            _ => None,
        });
    }
    let notice = transport.changes(account.into()).next().await;
    kinds.push(notice.and_then(Result::err).as_ref().and_then(kind));
    kinds
}

/// Says of each request whose token it had, and for whom it was.
fn service(log: Arc<Mutex<Vec<String>>>) -> Server {
    Server::start(move |request| {
        let token = request.header("authorization").unwrap_or("nobody").to_owned();
        match request.target.as_str() {
            "/.well-known/datasync" => {
                let document = br#"{"version":1,"delta":true,"batch":{"operations":9,"bytes":9999},"changes":true}"#;
                return Some(answer("200 OK", "", document));
            }
            "/changes" => {
                log.lock().unwrap().push(token);
                return Some(answer("200 OK", "content-type: text/event-stream\r\n", b"event: ready\n\n"));
            }
            "/$batch" => {
                let operations = request.body.windows(8).filter(|window| window == b"\"method\"").count();
                log.lock().unwrap().push(format!("{token} x{operations}"));
                let outcomes = vec![r#"{"status":204}"#; operations].join(",");
                return Some(answer("200 OK", "", format!(r#"{{"outcomes":[{outcomes}]}}"#).as_bytes()));
            }
            _ => log.lock().unwrap().push(token),
        }
        Some(match request.id() {
            "t" => answer("200 OK", "", br#"{"items":[],"delta":{"token":"t","more":false}}"#),
            id => entity(id),
        })
    })
}

#[tokio::test]
async fn i26_what_belongs_to_an_account_goes_out_with_its_token_or_not_at_all() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let server = service(Arc::clone(&log));
    let base = format!("http://{}", server.address());
    for (name, account, sent) in [
        (Some("ann"), "ann", true),
        (Some("ann"), "bob", false),
        (Some("ann"), "", false),
        (Some(""), "bob", false),
        (Some(""), "", true),
        (None, "bob", false),
        (None, "", true),
    ] {
        let provider = move || async move {
            let token = AccessToken::new("secret");
            Ok(Some(match name {
                Some(name) => token.account(name),
                None => token,
            }))
        };
        let transport = HttpTransport::builder(&base).retries(3).token_provider(provider).build().unwrap();
        assert_eq!(transport.account(account).await.unwrap().as_deref(), name.filter(|name| !name.is_empty()));
        transport.capabilities().await.unwrap();
        log.lock().unwrap().clear();
        let expected = if sent { None } else { Some(TransportErrorKind::OtherAccount) };
        assert_eq!(everything(&transport, account).await, [expected; 6], "{name:?} {account}");
        assert_eq!(log.lock().unwrap().is_empty(), !sent, "{name:?} {account}");
    }
    let nobody = HttpTransport::builder(&base).build().unwrap();
    assert_eq!(nobody.account("").await.unwrap(), None);
    log.lock().unwrap().clear();
    assert_eq!(everything(&nobody, "ann").await, [Some(TransportErrorKind::OtherAccount); 6]);
    assert!(log.lock().unwrap().is_empty());
    assert_eq!(everything(&nobody, "").await, [None; 6]);
    assert!(log.lock().unwrap().iter().all(|token| token.starts_with("nobody")));
}

#[tokio::test]
async fn i26_a_switch_of_accounts_between_two_attempts_sends_nothing_more() {
    // The first token is refused; meanwhile another account has signed in.
    let server = Server::start(|request| match request.header("authorization") {
        Some("Bearer token-1") => Some(answer("401 Unauthorized", "", b"")),
        _ => Some(entity(request.id())),
    });
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let provider = move || {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let account = if number == 1 { "ann" } else { "bob" };
        async move { Ok(Some(AccessToken::new(format!("token-{number}")).account(account))) }
    };
    let builder = HttpTransport::builder(&format!("http://{}", server.address())).retries(3);
    let transport = builder.token_provider(provider).build().unwrap();
    assert_eq!(transport.account("ann").await.unwrap().as_deref(), Some("ann"));
    let row = |account: &str| RowRequest { account: account.into(), ..RowRequest::new("t", "a") };
    let error = transport.fetch(&row("ann")).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::OtherAccount, "{error}");
    assert!(!error.kind().in_doubt());
    assert_eq!(server.requests(), 1, "only the attempt with its own token");
    assert_eq!(transport.account("bob").await.unwrap().as_deref(), Some("bob"));
    transport.fetch(&row("bob")).await.unwrap();
}

#[tokio::test]
async fn i26_a_batch_has_the_operations_of_one_account() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let server = service(Arc::clone(&log));
    let provider = || async { Ok(Some(AccessToken::new("secret").account("ann"))) };
    let builder = HttpTransport::builder(&format!("http://{}", server.address()));
    let transport = builder.token_provider(provider).build().unwrap();
    let of = ["ann", "ann", "bob", "bob", "ann", "ann", "ann"];
    let operations: Vec<PushOperation> = of.iter().zip(1..).map(|(account, number)| delete(account, number)).collect();
    for (account, outcome) in of.iter().zip(transport.push(&operations).await) {
        match outcome {
            PushOutcome::Applied(_) => assert_eq!(*account, "ann"),
            PushOutcome::Failed(error) => {
                assert_eq!((*account, error.kind()), ("bob", TransportErrorKind::OtherAccount));
            }
            other => panic!("{other:?}"),
        }
    }
    let batches: Vec<String> = log.lock().unwrap().clone();
    assert!(batches.iter().all(|batch| batch.starts_with("Bearer secret")), "{batches:?}");
    let sent: usize =
        batches.iter().map(|batch| batch.rsplit_once('x').map_or(1, |(_, n)| n.parse().unwrap_or(1))).sum();
    assert_eq!(sent, 5, "{batches:?}");
}

#[tokio::test]
async fn the_clock_of_the_service_is_learnt_from_each_answer() {
    let ahead = Arc::new(Mutex::new(None));
    let told = Arc::clone(&ahead);
    let server = Server::start(move |request| {
        let date = told.lock().unwrap().map(|ahead: SignedDuration| {
            #[allow(clippy::disallowed_methods, reason = "the service has a clock too")]
            let time = Timestamp::now() + ahead;
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(time.as_millisecond() as u64);
            format!("content-type: application/json\r\ndate: {}\r\n", httpdate::fmt_http_date(time))
        });
        match request.id() {
            "missing" => Some(answer("404 Not Found", &date.unwrap_or_default(), b"")),
            id => {
                let body = format!(r#"{{"id":"{id}","version":"AQ=="}}"#);
                Some(answer("200 OK", &date.unwrap_or_default(), body.as_bytes()))
            }
        }
    });
    let transport = HttpTransport::new(&format!("http://{}", server.address())).unwrap();
    let ask = async |id: &str| drop(transport.fetch(&RowRequest::new("t", id)).await.unwrap());
    ask("a").await;
    assert_eq!(transport.clock_offset(), None, "no answer has said what time it is");
    for (hours, id) in [(3, "a"), (-48, "missing"), (0, "a")] {
        *ahead.lock().unwrap() = Some(SignedDuration::from_hours(hours));
        ask(id).await;
        let offset = transport.clock_offset().unwrap();
        let error = (offset - SignedDuration::from_hours(hours)).abs();
        // Dates have whole seconds, and the machine may be busy.
        assert!(error < SignedDuration::from_secs(20), "{hours} h: {offset}");
    }
    *ahead.lock().unwrap() = None;
    let before = transport.clock_offset();
    ask("a").await;
    assert_eq!(transport.clock_offset(), before, "an answer without a date says nothing");
}
