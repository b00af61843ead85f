//! One wave of a push: freeze, send, store the answers.
//!
//! | the process dies, or the push is dropped … | what is left |
//! | --- | --- |
//! | before the freezing commit | the operations as they were |
//! | after it, before the commit with the answers | the whole wave in doubt: sent again with the same keys and bytes, also by a release with other migrations: body and base of a patch are stored as they were sent |
//! | after the commit with the answers | each operation with its result |
//!
//! Where the service takes patches, a replace is frozen with what it started from, and its request has the fields that
//! differ. It is whole where that is no copy of the service: in a table with migrations, which may have changed the copy
//! here. The version that it overwrites goes along in either case.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
    pin_mut,
    stream::FuturesUnordered,
};
use jiff::Timestamp;

use crate::{
    body,
    engine::{
        Engine,
        answer::{self, Answer, Effect},
        committer::{Reads, Tx},
        journal,
        lookup::IDS_A_QUERY,
        progress::Progress,
        push::backoff,
        table::Tables,
    },
    error::{Error, ErrorKind},
    row::{Body, Hold, Operation, OperationKind, ParkReason, Parked, Phase, Record, RowKey, ServiceCopy},
    transport::{Capabilities, PushOperation, PushOutcome, ServiceRow, TransportError, TransportErrorKind},
};

/// Answers wait at most this long for others to share their commit.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// After how many failures of the service an operation is parked, if the service answers others.
const MOST_FAILURES: u32 = 10;

/// An operation that may be sent, as it was when that was judged.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    pub(crate) key: RowKey,
    pub(crate) operation: Operation,
    /// The revision of the row, if it may name a parent.
    pub(crate) revision: Option<u64>,
}

/// An operation on its way.
#[derive(Clone, Debug)]
struct Sent {
    key: RowKey,
    place: u64,
    attempts: u32,
    /// Whether an earlier attempt is in doubt.
    doubted: bool,
    /// When the last attempt failed.
    failed: Option<Timestamp>,
    request: PushOperation,
}

/// Sends the operations as the service can take them; returns whether one of their rows has something left to send at once.
pub(crate) async fn send(
    engine: &Engine,
    progress: &mut Progress,
    selected: Vec<Selected>,
    capabilities: Capabilities,
) -> Result<bool, Error> {
    let operations = selected.len();
    let Frozen { sent: frozen, parked, again: left_out } = freeze(engine, selected, capabilities.patch).await?;
    progress.left(operations.saturating_sub(frozen.len() + parked.len() + left_out) as u64);
    for (key, why) in &parked {
        progress.parked(engine, key, why);
    }
    let mut waiting: VecDeque<Sent> = frozen.into();
    let mut under_way = FuturesUnordered::new();
    let mut answers: Vec<(Sent, Answer)> = Vec::new();
    let mut unseen = Vec::new();
    let mut ended: Option<Error> = None;
    let mut again = left_out > 0;
    let mut flush = None;
    loop {
        while ended.is_none() && under_way.len() < engine.settings.parallel_operations {
            let Some(next) = waiting.front() else { break };
            if let Err(switched) = engine.check_present(&next.key.account) {
                ended = Some(switched);
                break;
            }
            let part = waiting.drain(..capabilities.batch.clamp(1, waiting.len())).collect();
            under_way.push(send_together(engine, part));
        }
        if under_way.is_empty() {
            break;
        }
        let timer = flush.take().unwrap_or_else(|| futures::future::pending().boxed());
        let came = match select(under_way.next(), timer).await {
            Either::Left((None, _)) => break,
            Either::Left((Some(outcomes), timer)) => {
                flush = Some(if answers.is_empty() { engine.clock.sleep(FLUSH_AFTER) } else { timer });
                outcomes
            }
            Either::Right(_) => {
                let stored = store_answers(engine, progress, std::mem::take(&mut answers), None);
                let (stored, came) = beside(stored, &mut under_way).await;
                again |= stored?;
                flush = (!came.is_empty()).then(|| engine.clock.sleep(FLUSH_AFTER));
                came.into_iter().flatten().collect()
            }
        };
        for (sent, outcome) in came {
            // Before the answer is stored: a page that left earlier may hold an older state of the row.
            engine.crossing.changed(&sent.key);
            match classify(engine, &sent, outcome) {
                Classed::Answer(answer) => answers.push((sent, answer)),
                Classed::NotFound => unseen.push(sent),
                Classed::Ends(answer, error) => {
                    answers.push((sent, answer));
                    ended = Some(error);
                }
            }
        }
    }
    drop(under_way);
    answers.extend(waiting.into_iter().map(|sent| (sent, Answer::NotSent)));
    answers.extend(probe(engine, unseen).await);
    again |= store_answers(engine, progress, answers, ended.as_ref().map(Error::to_string)).await?;
    ended.map_or(Ok(again), Err)
}

/// Waits for a future while the others go on, and collects what they make: it may need what one of them holds.
async fn beside<T, F: Future>(
    future: impl Future<Output = T>,
    others: &mut FuturesUnordered<F>,
) -> (T, Vec<F::Output>) {
    let mut made = Vec::new();
    pin_mut!(future);
    loop {
        match select(future, others.select_next_some()).await {
            Either::Left((done, _)) => return (done, made),
            Either::Right((one, waiting)) => {
                made.push(one);
                future = waiting;
            }
        }
        if others.is_empty() {
            return (future.await, made);
        }
    }
}

/// What freezing has come to.
#[derive(Default)]
struct Frozen {
    sent: Vec<Sent>,
    /// What cannot be sent, and why.
    parked: Vec<(RowKey, Parked)>,
    /// How many have to be judged once more.
    again: usize,
}

/// Freezes what is sent (I5); operations that changed since they were selected are left out.
async fn freeze(engine: &Engine, selected: Vec<Selected>, patches: bool) -> Result<Frozen, Error> {
    let rows = selected.iter().map(|selected| selected.key.clone()).collect();
    let tables = Arc::clone(&engine.tables);
    let plan = move |tx: &mut Tx<'_>| {
        let mut frozen = Frozen::default();
        for selected in &selected {
            freeze_one(tx, &tables, selected, patches, &mut frozen)?;
        }
        journal::note_parked(tx, &frozen.parked);
        Ok(frozen)
    };
    engine.committer.commit(Reads::rows(rows), plan).await
}

fn freeze_one(
    tx: &mut Tx<'_>,
    tables: &Tables,
    selected: &Selected,
    patches: bool,
    frozen: &mut Frozen,
) -> Result<(), Error> {
    let Selected { key, operation: seen, revision } = selected;
    let Some(mut row) = tx.row(key)? else { return Ok(()) };
    let (record, base) = (row.record.clone(), row.base.clone());
    let table = tables.get(&key.table)?;
    let schema = (table.version, table.fingerprint);
    let Some(operation) = row.operations.first_mut() else { return Ok(()) };
    if operation.place != seen.place || matches!(operation.hold, Hold::Parked(_)) {
        return Ok(());
    }
    let doubted = operation.in_doubt();
    let other_kind = !table.children.is_empty() && operation.kind != seen.kind;
    let edited = revision.is_some_and(|revision| revision != row.revision);
    if !doubted && (other_kind || edited) {
        // Other rows may have to go before what it is since (I7).
        frozen.again += 1;
        return Ok(());
    }
    let now = tx.service_time();
    if !doubted {
        let unguarded = operation.kind != OperationKind::Insert && operation.version.is_none() && !table.unversioned;
        let mut unsendable = |operation: &mut Operation, message: String| {
            let why = Parked { reason: ParkReason::Refused, status: None, message, conflict: None };
            operation.hold = Hold::Parked(why.clone());
            frozen.parked.push((key.clone(), why));
        };
        match frozen_body(tables, key, operation.kind, record.as_ref(), now) {
            _ if unguarded => {
                let why = "the service gave no version, so that a change cannot be guarded: if it gives none for this \
                           table, configure the table as `unversioned`";
                unsendable(operation, why.to_owned());
            }
            Err(error) => unsendable(operation, error.to_string()),
            Ok(body) => {
                operation.phase = Phase::InDoubt;
                let patches = patches && operation.kind == OperationKind::Replace;
                operation.frozen_base = match (&body, base) {
                    (Some(body), Some(base)) if patches => started_from(tables, key, &operation.version, &base, body),
                    _ => None,
                };
                operation.frozen = body;
                (operation.schema, operation.fingerprint) = schema;
            }
        }
    }
    let failed = match &operation.hold {
        Hold::Wait { since, .. } => Some(*since),
        _ => None,
    };
    if !matches!(operation.hold, Hold::Parked(_)) {
        operation.hold = Hold::Ready;
    }
    frozen.sent.extend(operation.in_doubt().then(|| Sent {
        key: key.clone(),
        place: operation.place,
        attempts: operation.attempts,
        doubted,
        failed,
        request: PushOperation {
            account: Arc::clone(&key.account),
            table: Arc::clone(&key.table),
            id: Arc::clone(&key.id),
            kind: operation.kind,
            key: operation.key,
            version: operation.version.clone(),
            body: operation.frozen.clone(),
            base: operation.frozen_base.clone(),
        },
    }));
    tx.put(key, row);
    Ok(())
}

fn frozen_body(
    tables: &Tables,
    key: &RowKey,
    kind: OperationKind,
    record: Option<&Record>,
    now: Option<Timestamp>,
) -> Result<Option<Body>, Error> {
    let table = tables.get(&key.table)?;
    match (kind, record) {
        (OperationKind::Delete, _) => Ok(None),
        (_, None) => Err(Error::new(ErrorKind::Store, format!("{key:?} has an operation but no record"))),
        (kind, Some(record)) => {
            let body = body::sendable(&table.schema, &record.body, kind == OperationKind::Undelete, now);
            body.map(Some).map_err(|error| {
                Error::caused(ErrorKind::InvalidEntity, format!("{key:?} is not a JSON object"), error)
            })
        }
    }
}

/// What a replace is a change of, if that is a copy of the service.
fn started_from(tables: &Tables, key: &RowKey, version: &Option<String>, base: &Record, body: &Body) -> Option<Body> {
    let table = tables.get(&key.table).ok()?;
    let as_it_came = table.version == 1 && !base.deleted && base.version == *version;
    as_it_came.then(|| body::started_from(&table.schema, &base.body, body).ok())?
}

async fn send_together(engine: &Engine, part: Vec<Sent>) -> Vec<(Sent, PushOutcome)> {
    let requests: Vec<PushOperation> = part.iter().map(|sent| sent.request.clone()).collect();
    let missing = || TransportError::new(TransportErrorKind::Protocol, "the transport gave no outcome");
    let mut outcomes = traced!(engine.transport.push(&requests), "send", operations = requests.len()).await.into_iter();
    let outcome = |sent| (sent, outcomes.next().unwrap_or_else(|| PushOutcome::Failed(missing())));
    part.into_iter().map(outcome).collect()
}

enum Classed {
    Answer(Answer),
    /// A 404, which may mean that the row is gone or that the table cannot be reached.
    NotFound,
    /// The answer ends the push.
    Ends(Answer, Error),
}

fn classify(engine: &Engine, sent: &Sent, outcome: PushOutcome) -> Classed {
    let copy = |row: Option<ServiceRow>| row.filter(|row| row.id == sent.key.id).map(|row| row.record);
    let deletes = sent.request.kind == OperationKind::Delete;
    Classed::Answer(match outcome {
        PushOutcome::Applied(row) => Answer::Applied(copy(row)),
        PushOutcome::Conflict(row) => Answer::Conflict(copy(row).map(ServiceCopy::Found)),
        PushOutcome::Gone if deletes => Answer::Applied(None),
        PushOutcome::Gone => Answer::Conflict(None),
        PushOutcome::NotFound => return Classed::NotFound,
        PushOutcome::Failed(error) => {
            use TransportErrorKind::{Connect, Forbidden, OtherAccount, Rejected, Unauthenticated};
            match error.kind() {
                Connect | OtherAccount | Unauthenticated => {
                    let (RowKey { table, id, .. }, kind) = (&sent.key, sent.request.kind);
                    let tried = || format!("sending the {kind} of {table}/{id}");
                    let error = Error::from(error).at(table, id).doing(kind).trying(tried);
                    return Classed::Ends(Answer::NotSent, error);
                }
                Forbidden | Rejected => Answer::Refused { status: error.status(), message: error.to_string() },
                _ => failed(engine, sent, &error),
            }
        }
    })
}

/// The outcome is not known; after so many times somebody has to look, but for a service that asks for patience.
fn failed(engine: &Engine, sent: &Sent, error: &TransportError) -> Answer {
    let failures = sent.attempts.saturating_add(1);
    let hopeless = error.kind() != TransportErrorKind::Throttled && failures >= MOST_FAILURES;
    Answer::Unknown {
        wait: backoff(sent.attempts, error.retry_after(), engine.clock.random()),
        demanded: error.retry_after().is_some(),
        status: error.status(),
        reason: error.to_string(),
        exhausted: hopeless.then(|| format!("failed {failures} times: {error}")),
    }
}

/// Finds out what each 404 means: a table that cannot be read is unreachable, and only an id that a table does not show
/// is gone.
async fn probe(engine: &Engine, unseen: Vec<Sent>) -> Vec<(Sent, Answer)> {
    let mut tables: BTreeMap<Arc<str>, Vec<Sent>> = BTreeMap::new();
    for sent in unseen {
        tables.entry(Arc::clone(&sent.key.table)).or_default().push(sent);
    }
    let mut answers = Vec::new();
    for asked in tables.into_values() {
        for part in asked.chunks(IDS_A_QUERY) {
            let keys: Vec<RowKey> = part.iter().map(|sent| sent.key.clone()).collect();
            let shown = engine.show(&keys).await;
            keys.iter().for_each(|key| engine.crossing.changed(key));
            for sent in part {
                let answer = match &shown {
                    Err(error) => {
                        unreachable_table(engine, sent, error.status(), error.to_string(), error.retry_after())
                    }
                    Ok(_) if sent.request.kind == OperationKind::Insert => {
                        let message = "the service answered 404 to a new row, although it has the table".to_owned();
                        Answer::Refused { status: Some(404), message }
                    }
                    Ok(shown) => match shown.get(&sent.key.id) {
                        None => Answer::ConflictThenFetched(ServiceCopy::Absent),
                        Some(record) if record.deleted => {
                            Answer::ConflictThenFetched(ServiceCopy::Found(record.clone()))
                        }
                        Some(_) => {
                            let reason = "the service answered 404 and has the row".to_owned();
                            unreachable_table(engine, sent, Some(404), reason, None)
                        }
                    },
                };
                answers.push((sent.clone(), answer));
            }
        }
    }
    answers
}

fn unreachable_table(
    engine: &Engine,
    sent: &Sent,
    status: Option<u16>,
    reason: String,
    asked: Option<Duration>,
) -> Answer {
    let wait = backoff(sent.attempts, asked, engine.clock.random());
    Answer::Unknown { wait, demanded: asked.is_some(), status, reason, exhausted: None }
}

/// Commits the answers, and fetches the rows whose answers say too little.
async fn store_answers(
    engine: &Engine,
    progress: &mut Progress,
    mut answers: Vec<(Sent, Answer)>,
    unsent: Option<String>,
) -> Result<bool, Error> {
    let mut again = false;
    let applied = answers.iter().any(|(_, answer)| matches!(answer, Answer::Applied(_)));
    if applied {
        engine.service.applied(engine.clock.now());
    }
    // A service that fails everybody is down: nobody is parked for that.
    for (sent, answer) in &mut answers {
        let answers_others = applied || progress.report.pushed > 0 || engine.service.applied_since(sent.failed);
        if let (false, Answer::Unknown { exhausted, .. }) = (answers_others, answer) {
            *exhausted = None;
        }
    }
    while !answers.is_empty() {
        let rows = answers.iter().map(|(sent, _)| sent.key.clone()).collect();
        let tables = Arc::clone(&engine.tables);
        let shared = Arc::new(answers);
        let planned = Arc::clone(&shared);
        let unsent = unsent.clone();
        let plan = move |tx: &mut Tx<'_>| {
            let mut effects = Vec::with_capacity(planned.len());
            for (sent, answer) in planned.iter() {
                let table = tables.get(&sent.key.table)?;
                let effect = answer::apply(tx, table, &sent.key, sent.place, sent.doubted, answer)?;
                let first = tx.row(&sent.key)?.and_then(|row| row.operations.into_iter().next());
                effects.push((effect, first.map(|operation| operation.hold)));
            }
            let noted = planned.iter().zip(&effects).filter_map(|((sent, answer), (effect, _))| {
                let (step, message) = journal::of_answer(answer, effect, unsent.as_deref())?;
                Some((&sent.key, step, message))
            });
            journal::note_rows(tx, noted);
            Ok(effects)
        };
        let effects = engine.committer.commit(Reads::rows(rows), plan).await?;
        let mut unanswered = Vec::new();
        for ((sent, answer), (effect, hold)) in shared.iter().zip(effects) {
            if effect == Effect::Fetch {
                unanswered.push((sent.clone(), fetched(engine, sent, answer).await));
                continue;
            }
            again |= hold == Some(Hold::Ready);
            progress.answer(engine, (&sent.key, sent.request.kind), answer, &effect, hold.as_ref());
        }
        answers = unanswered;
    }
    Ok(again)
}

async fn fetched(engine: &Engine, sent: &Sent, answer: &Answer) -> Answer {
    match engine.look(&sent.key).await {
        Ok(copy) => match answer {
            Answer::Applied(None) if sent.request.kind != OperationKind::Delete => {
                Answer::PerhapsAppliedThenFetched(copy)
            }
            Answer::Applied(_) => Answer::AppliedThenFetched(copy),
            _ => Answer::ConflictThenFetched(copy),
        },
        Err(error) => failed(engine, sent, &error),
    }
}
