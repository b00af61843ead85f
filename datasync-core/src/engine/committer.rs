//! Group commit: concurrent writers share one commit, and one fsync.
//!
//! A writer names the rows and tokens it reads, and gives a plan: a closure that looks at them and writes. The writers
//! of a group are planned one after the other, each against the state that the earlier ones leave; one that fails gets
//! its error and is left out. The running group belongs to all its members: whoever is left polls it on.
//!
//! | the process dies, or the caller goes away … | what is left |
//! | --- | --- |
//! | before the group starts | nothing: a member that nobody waits for is left out |
//! | while the group reads or plans | nothing |
//! | during `Store::commit` | the whole group or nothing of it; the next group reads the head and knows which |
//! | after it | the whole group |
//!
//! | the outcome of a commit is lost, and the head … | then |
//! | --- | --- |
//! | has not reached its number | the same batch is sent again |
//! | has its number, and its id | it happened |
//! | has its number, and another id | it did not: the group is planned again |
//! | is beyond its number: others have gone further since | nothing tells. Every member gets an error that says so: planned again, an insert would find its own row, and a sum be added twice |

pub(crate) mod draft;
mod tx;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    FutureExt,
    channel::oneshot,
    future::{BoxFuture, Either, Shared, select},
};

use self::tx::{Children, Overlay, Snapshot};
pub(crate) use self::tx::{Reads, Tx};
use crate::{
    clock::{Clock, random_key},
    engine::{
        account::Present,
        acks::{Acks, Changes},
        journal::Journal,
        links,
        service::{self, Service},
        table::Tables,
        unsent,
        watch::Watchers,
    },
    error::{Error, ErrorKind},
    row::RowKey,
    store::{Cursor, Head, Store, StoreError, StoreErrorKind},
};

/// The greatest number of rows in one commit, unless a single member needs more.
const MAX_ROWS: usize = 10_000;
/// How often a group is planned again because another engine wrote to the same store.
const MAX_ROUNDS: usize = 16;

trait Member: Send {
    fn reads(&self) -> &Reads;
    fn wanted(&self) -> bool;
    /// Plans, and keeps the result until `finish`; returns whether the member's changes are to be committed.
    fn plan(&mut self, tx: &mut Tx<'_>) -> bool;
    fn finish(self: Box<Self>, failed: Option<Error>);
}

struct MemberOf<T, F> {
    reads: Reads,
    plan: F,
    outcome: Option<Result<T, Error>>,
    done: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, F: FnMut(&mut Tx<'_>) -> Result<T, Error> + Send> Member for MemberOf<T, F> {
    fn reads(&self) -> &Reads {
        &self.reads
    }

    fn wanted(&self) -> bool {
        !self.done.is_canceled()
    }

    fn plan(&mut self, tx: &mut Tx<'_>) -> bool {
        let outcome = (self.plan)(tx);
        let planned = outcome.is_ok();
        self.outcome = Some(outcome);
        planned
    }

    fn finish(self: Box<Self>, failed: Option<Error>) {
        let outcome = match (self.outcome, failed) {
            // Nothing was committed for a member whose plan failed, whatever became of the others.
            (Some(Err(error)), _) => Err(error),
            (_, Some(error)) => Err(error),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => return,
        };
        // A caller that went away wanted no answer.
        let _ = self.done.send(outcome);
    }
}

type Group = Shared<BoxFuture<'static, Option<Head>>>;

#[derive(Default)]
struct State {
    pending: Vec<Box<dyn Member>>,
    running: Option<Group>,
    head: Option<Head>,
    /// The greatest place that was given away: none is given twice.
    last_place: u64,
}

/// What every group works with.
struct Parts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tables: Arc<Tables>,
    service: Arc<Service>,
    watchers: Watchers,
    present: Present,
    acks: Arc<Acks>,
    journal: Journal,
}

/// The only writer of a store.
pub(crate) struct Committer {
    parts: Arc<Parts>,
    state: Mutex<State>,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("store", &self.parts.store).finish_non_exhaustive()
    }
}

impl Committer {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        tables: Arc<Tables>,
        present: Present,
        service: Arc<Service>,
    ) -> Committer {
        let (watchers, acks, journal) = Default::default();
        let parts = Parts { store, clock, tables, service, watchers, present, acks, journal };
        Committer { parts: Arc::new(parts), state: Mutex::default() }
    }

    /// The account that is shown.
    pub(crate) fn present(&self) -> &Present {
        &self.parts.present
    }

    /// Who waits for rows to change.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.parts.watchers
    }

    /// Who waits for the service.
    pub(crate) fn acks(&self) -> &Arc<Acks> {
        &self.parts.acks
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits what `plan` writes, together with what other callers want to commit at the time.
    ///
    /// The plan may run more than once. If the future is dropped, all of it happens or nothing.
    pub(crate) async fn commit<T: Send + 'static>(
        &self,
        reads: Reads,
        plan: impl FnMut(&mut Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let mut gone = Gone { parts: &self.parts, armed: true };
        let outcome = self.outcome(reads, plan).await;
        gone.armed = false;
        outcome
    }

    async fn outcome<T: Send + 'static>(
        &self,
        reads: Reads,
        plan: impl FnMut(&mut Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, mut receiver) = oneshot::channel();
        self.state().pending.push(Box::new(MemberOf { reads, plan, outcome: None, done }));
        loop {
            let group = self.running();
            match select(receiver, group.clone()).await {
                Either::Left((outcome, _)) => return outcome.unwrap_or_else(|_| Err(lost())),
                Either::Right((head, unanswered)) => {
                    self.finished(&group, head);
                    receiver = unanswered;
                    match receiver.try_recv() {
                        Ok(Some(outcome)) => return outcome,
                        Ok(None) => {}
                        Err(_) => return Err(lost()),
                    }
                }
            }
        }
    }

    /// Waits until the group under way has happened or not, also if all its members have gone away.
    pub(crate) async fn settle(&self) {
        let running = self.state().running.clone();
        if let Some(group) = running {
            let head = group.clone().await;
            self.finished(&group, head);
        }
    }

    /// The group under way, or one that starts with everybody who waits.
    fn running(&self) -> Group {
        let mut state = self.state();
        if let Some(group) = &state.running {
            return group.clone();
        }
        let mut rows = 0;
        let mut taken = 0;
        for member in &state.pending {
            rows += member.reads().rows.len();
            if taken > 0 && rows > MAX_ROWS {
                break;
            }
            taken += 1;
        }
        let members = state.pending.drain(..taken).collect();
        let (head, last_place) = (state.head, state.last_place);
        let run = run(Arc::clone(&self.parts), members, head, last_place);
        let group = traced!(run, "commit", members = taken).boxed().shared();
        state.running = Some(group.clone());
        group
    }

    fn finished(&self, group: &Group, head: Option<Head>) {
        let mut state = self.state();
        if state.running.as_ref().is_some_and(|running| running.ptr_eq(group)) {
            state.running = None;
            state.head = head;
            state.last_place = head.map_or(0, |head| head.last_place).max(state.last_place);
        }
    }
}

/// A caller that goes away may leave a commit that nobody polls on, and that is made in the end: whoever waits settles it,
/// and looks.
struct Gone<'c> {
    parts: &'c Parts,
    armed: bool,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.parts.watchers.wake();
            self.parts.acks.wake_all();
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Store, "the commit ended without an answer")
}

/// Runs one group, which gives places away beyond the last one; returns the head that it leaves, if that is known.
async fn run(
    parts: Arc<Parts>,
    mut members: Vec<Box<dyn Member>>,
    head: Option<Head>,
    last_place: u64,
) -> Option<Head> {
    members.retain(|member| member.wanted());
    match attempt(&parts, &mut members, head, last_place).await {
        Ok(head) => {
            members.into_iter().for_each(|member| member.finish(None));
            Some(head)
        }
        Err(error) => {
            members.into_iter().for_each(|member| member.finish(Some(error.clone())));
            None
        }
    }
}

async fn attempt(
    parts: &Parts,
    members: &mut [Box<dyn Member>],
    mut head: Option<Head>,
    last_place: u64,
) -> Result<Head, Error> {
    let (store, clock) = (&*parts.store, &*parts.clock);
    for _ in 0..MAX_ROUNDS {
        let mut known = match head {
            Some(head) => head,
            None => {
                let known = store.head().await?;
                parts.present.reload(store).await?;
                parts.journal.forget();
                parts.watchers.wake();
                known
            }
        };
        known.last_place = known.last_place.max(last_place);
        let mut snapshot = read(store, wanted(members), known, parts.present.get()).await?;
        let mut group = loop {
            let group = plan(parts, members, &snapshot);
            let wanted = snapshot.wanted.take();
            if wanted.is_empty() {
                break group;
            }
            read_children(store, &mut snapshot, wanted).await?;
        };
        if group.is_empty() {
            return Ok(known);
        }
        let news = parts.service.news();
        group.notes.extend(news.iter().map(|note| (service::NOTE.into(), Some(note.clone()))));
        let additions = parts.journal.additions(store, clock.now(), &group.ended, &group.journal).await?;
        group.notes.extend(additions.notes.iter().cloned());
        let next = Head {
            number: known.number + 1,
            id: random_key(clock),
            generation: known.generation + u64::from(group.raise_generation),
            last_place: group.last_place,
        };
        let under_way = parts.watchers.commit();
        let decided = parts.acks.commit(&Changes {
            before: &snapshot.rows,
            after: &group.rows,
            fates: &group.fates,
            clear: &group.clear,
            created: known.last_place + 1..group.last_place + 1,
        });
        let made = write::commit(store, &parts.tables, &group, next).await;
        let may_be_made = match &made {
            Ok(made) => *made,
            Err(error) => error.store_kind() == Some(StoreErrorKind::OutcomeUnknown),
        };
        if !may_be_made {
            decided.not_made();
        }
        if made? {
            news.iter().for_each(|note| parts.service.stored(note));
            parts.journal.stored(additions);
            let everybody = group.present.is_some() || !group.clear.is_empty();
            if let Some(account) = group.present {
                parts.present.set(account);
            }
            if !everybody {
                let before = |key: &RowKey| snapshot.rows.get(key).and_then(Option::as_ref);
                under_way.made(group.rows.iter().map(|(key, after)| (key, before(key), after.as_ref())));
            }
            return Ok(next);
        }
        // Somebody else writes to the store, and nobody is told what: whoever watches looks again.
        drop(under_way);
        head = None;
    }
    Err(StoreError::new(StoreErrorKind::Superseded, "others write to the same store all the time").into())
}

/// Plans the members one after the other, each on what the earlier ones leave.
fn plan(parts: &Parts, members: &mut [Box<dyn Member>], snapshot: &Snapshot) -> Overlay {
    let last_place = snapshot.head.last_place;
    let mut group = Overlay { last_place, ..Overlay::default() };
    for member in members.iter_mut() {
        let own = Overlay { last_place: group.last_place, losers: group.losers, ..Overlay::default() };
        let (clock, service) = (&*parts.clock, &*parts.service);
        let mut tx = Tx { snapshot, group: &group, own, tables: &parts.tables, clock, service };
        if member.plan(&mut tx) {
            let own = tx.own;
            group.absorb(own);
        }
    }
    group
}

/// Reads the queued children that plans have asked for.
async fn read_children(store: &dyn Store, snapshot: &mut Snapshot, wanted: BTreeSet<Children>) -> Result<(), Error> {
    let mut unread = BTreeSet::new();
    for (parent, table, index) in wanted {
        let mut request = links::naming(&parent, &table, &index, MAX_ROWS);
        let mut children = Vec::new();
        loop {
            let entries = store.entries(&request).await?;
            request.after = entries.last().cloned();
            let whole = entries.len() < request.limit;
            let account = &parent.account;
            let key = |entry: Cursor| RowKey { account: Arc::clone(account), table: Arc::clone(&table), id: entry.id };
            children.extend(entries.into_iter().map(key));
            if whole {
                break;
            }
        }
        unread.extend(children.iter().filter(|key| !snapshot.rows.contains_key(key)).cloned());
        snapshot.children.insert((parent, table, index), children);
    }
    let unread: Vec<RowKey> = unread.into_iter().collect();
    if !unread.is_empty() {
        let rows = store.get(&unread).await?;
        snapshot.rows.extend(unread.into_iter().zip(rows));
    }
    Ok(())
}

/// What the members read, each once, in order.
fn wanted(members: &[Box<dyn Member>]) -> Reads {
    let reads = || members.iter().map(|member| member.reads());
    let rows: BTreeSet<_> = reads().flat_map(|reads| reads.rows.iter().cloned()).collect();
    let tokens: BTreeSet<_> = reads().flat_map(|reads| reads.tokens.iter().cloned()).collect();
    let notes: BTreeSet<_> = reads().flat_map(|reads| reads.notes.iter().cloned()).collect();
    let losers: BTreeSet<_> = reads().flat_map(|reads| reads.losers.iter().cloned()).collect();
    Reads {
        rows: rows.into_iter().collect(),
        tokens: tokens.into_iter().collect(),
        notes: notes.into_iter().collect(),
        losers: losers.into_iter().collect(),
        queues: reads().flat_map(|reads| reads.queues.iter().cloned()).collect(),
    }
}

async fn read(store: &dyn Store, wanted: Reads, head: Head, present: Arc<str>) -> Result<Snapshot, Error> {
    let Reads { rows: keys, tokens: scopes, notes: names, queues, losers: accounts } = wanted;
    let rows = if keys.is_empty() { Vec::new() } else { store.get(&keys).await? };
    let notes = if names.is_empty() { Vec::new() } else { store.notes(&names).await? };
    let mut tokens = BTreeMap::new();
    for scope in scopes {
        let token = store.delta_token(&scope).await?;
        tokens.insert(scope, token);
    }
    let mut queued = BTreeMap::new();
    for what in queues {
        queued.extend(unsent::queue(store, &what).await?.into_iter().map(|queued| (queued.operation.place, queued)));
    }
    let mut losers = BTreeMap::new();
    for account in accounts {
        losers.extend(unsent::losers(store, &account).await?.into_iter().map(|loser| (loser.id, loser)));
    }
    let (rows, notes) = (keys.into_iter().zip(rows).collect(), names.into_iter().zip(notes).collect());
    let (children, wanted) = Default::default();
    Ok(Snapshot { rows, tokens, notes, queued, losers, children, wanted, head, present })
}
