//! A sign-in that takes long holds nobody up for ever: what one caller waits for, every other one can go on with.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasync_core::{
    client::DatasyncClient,
    clock::{Clock as _, SystemClock},
};
use datasync_http::{AccessToken, HttpTransport};
use datasync_server::MemoryRepository;
use datasync_tests::{MemoryStore, Note, RouterExchange, Wire, note_of, notes, service};
use futures::FutureExt;
use tokio::{sync::Semaphore, time::timeout};

/// Longer than everything here takes if it ends at all.
const FOR_EVER: Duration = Duration::from_secs(30);

datasync_tests::on_both_wires! {
    i22_a_caller_that_stopped_while_it_got_a_token_holds_no_other_up
}

/// A provider whose tokens are over at once, so that each request asks for one; each waits for its permit.
struct Provider {
    asked: AtomicUsize,
    permits: Semaphore,
}

impl Provider {
    fn new(permits: usize) -> Arc<Provider> {
        Arc::new(Provider { asked: AtomicUsize::new(0), permits: Semaphore::new(permits) })
    }
}

async fn signed_in(exchange: &RouterExchange, provider: &Arc<Provider>) -> DatasyncClient {
    let provider = Arc::clone(provider);
    let token = move || {
        let provider = Arc::clone(&provider);
        async move {
            provider.asked.fetch_add(1, Ordering::SeqCst);
            provider.permits.acquire().await?.forget();
            Ok(Some(AccessToken::new("token").expires_at(SystemClock.now())))
        }
    };
    let transport = HttpTransport::builder("http://service").retries(0).exchange(exchange.clone());
    let transport = transport.token_provider(token).build().unwrap();
    let builder = DatasyncClient::builder().store(MemoryStore::new()).transport(transport);
    builder.table::<Note>().build().await.unwrap()
}

#[tokio::test]
async fn i24_an_answer_that_needs_a_token_waits_for_no_operation_that_gets_one() {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, Wire::Original));
    let provider = Provider::new(Semaphore::MAX_PERMITS / 2);
    let client = signed_in(&exchange, &provider).await;
    let table = notes(&client);
    table.push_items().await.unwrap();
    rows.seed(serde_json::json!([{ "id": "a", "title": "theirs", "rank": 0 }])).unwrap();
    table.insert(note_of("a", "mine")).await.unwrap();
    table.insert(note_of("b", "mine")).await.unwrap();
    let refused = Arc::clone(&provider);
    exchange.after(move |answer| {
        if answer.status == 409 || answer.status == 412 {
            // Nothing says what the row is like: it has to be fetched, while the next operation gets its token.
            answer.body.clear();
            refused.permits.forget_permits(Semaphore::MAX_PERMITS);
        }
    });
    let push = tokio::spawn(async move { table.push_items().await });
    while provider.permits.available_permits() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // By then the answer is about to be stored.
    tokio::time::sleep(Duration::from_millis(300)).await;
    provider.permits.add_permits(1_000);
    let report = timeout(FOR_EVER, push).await.expect("the push ends").unwrap().unwrap();
    assert_eq!((report.conflicts, report.pushed), (1, 1), "{report:?}");
}

async fn i22_a_caller_that_stopped_while_it_got_a_token_holds_no_other_up(wire: Wire) {
    let rows = MemoryRepository::new();
    let exchange = RouterExchange::new(service(&rows, 100, wire));
    let provider = Provider::new(0);
    let client = signed_in(&exchange, &provider).await;
    let table = notes(&client);
    table.insert(note_of("a", "mine")).await.unwrap();
    let mut push = Box::pin(client.push_tables(["note"]));
    while provider.asked.load(Ordering::SeqCst) == 0 {
        assert!(push.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    provider.permits.add_permits(1_000);
    let remote = client.remote_table::<Note>();
    assert_eq!(timeout(FOR_EVER, remote.count()).await.expect("nobody polls the push").unwrap(), 0);
    assert_eq!(push.await.unwrap().pushed, 1);
    assert_eq!(rows.rows().len(), 1);
}
