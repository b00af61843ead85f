//! The run of a client that synchronizes by itself: pushes, pulls and listening side by side, each in a lane of its own.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    pin_mut, select_biased,
    stream::BoxStream,
};
use jiff::Timestamp;

use super::{
    AutoSync,
    lane::{Lane, later},
    pulls::{Pulled, Pulls},
};
use crate::{
    client::DatasyncClient,
    engine::push::{self, Tries, backoff},
    error::{Error, ErrorKind},
    report::PushReport,
    transport::{ChangeNotice, TransportError},
};

/// How long changes that the service tells of are collected before they are pulled.
const TOGETHER: Duration = Duration::from_millis(100);

type Notices = BoxStream<'static, Result<ChangeNotice, TransportError>>;

/// What is under way besides pulls; dropped with the run.
#[derive(Default)]
struct UnderWay {
    push: Option<BoxFuture<'static, Result<PushReport, Error>>>,
    /// Whether the service can tell of changes.
    ask: Option<BoxFuture<'static, bool>>,
}

pub(super) struct Run {
    client: DatasyncClient,
    options: AutoSync,
    push: Lane,
    /// What the next push tries; a network that is away leaves it to the one after.
    tries: Tries,
    pulls: Pulls,
    /// When the service is asked (again) to tell of changes.
    listen: Lane,
    notices: Option<Notices>,
    under_way: UnderWay,
    /// The account that all of it is for, and the one that the push under way was begun for.
    account: Arc<str>,
    pushing_for: Arc<str>,
    /// The sign-in was refused.
    paused: bool,
}

/// Why the run has woken.
enum Wake {
    Due,
    Written,
    Network,
    Told(Option<Result<ChangeNotice, TransportError>>),
    Pushed(Result<PushReport, Error>),
    Pulled(Pulled),
    CanTell(bool),
}

impl Run {
    pub(super) fn new(client: &DatasyncClient, options: AutoSync) -> Run {
        let account = client.engine.account();
        let mut run = Run {
            client: client.clone(),
            pulls: Pulls::new(client, &options.tables),
            options,
            push: Lane::default(),
            // The app has begun anew, and may have another sign-in.
            tries: Tries::SignIn,
            listen: Lane::default(),
            notices: None,
            under_way: UnderWay::default(),
            pushing_for: Arc::clone(&account),
            account,
            paused: false,
        };
        run.want_everything();
        run
    }

    fn now(&self) -> Timestamp {
        self.client.engine.clock.now()
    }

    fn want_everything(&mut self) {
        let now = self.now();
        (self.paused, self.tries) = (false, Tries::SignIn);
        self.push.want_in_any_case(now);
        self.pulls.lanes().for_each(|lane| lane.want_in_any_case(now));
        if self.notices.is_none() {
            self.listen.want_in_any_case(now);
        }
    }

    /// Goes on until something happens that no waiting mends.
    pub(super) async fn go_on(mut self) -> Error {
        let written = self.client.engine.committer.watchers().add_queue();
        loop {
            if self.account != self.client.engine.account() {
                // A push for the other account ends by itself; what is told and pulled is not of this one's view.
                self.account = self.client.engine.account();
                self.notices = None;
                self.give_pulls_up();
                self.want_everything();
            }
            if self.paused {
                // Its credentials are those that were refused.
                self.notices = None;
            } else {
                self.begin();
            }
            let wake = self.wait(&written).await;
            if self.paused && matches!(wake, Wake::Written) && self.is_signed_in_again().await {
                self.want_everything();
            }
            if let Err(error) = self.look(wake) {
                return error;
            }
        }
    }

    /// Whether the app has signed in to the account once more since its sign-in was refused.
    async fn is_signed_in_again(&mut self) -> bool {
        let engine = &self.client.engine;
        engine.paused(&self.account).await.is_ok_and(|since| since.is_none())
            && engine.check_sign_in(&self.account).await.is_ok()
    }

    /// Begins what is wanted by now.
    fn begin(&mut self) {
        let now = self.now();
        if self.push.is_wanted_by(now) {
            self.push.begin();
            let (engine, tables) = (Arc::clone(&self.client.engine), self.options.tables.names());
            self.pushing_for = Arc::clone(&self.account);
            let (account, tries) = (Arc::clone(&self.account), self.tries);
            self.under_way.push = Some(async move { push::push(&engine, account, tables, tries).await }.boxed());
        }
        self.pulls.begin(&self.client, now, &self.push);
        if self.listen.is_wanted_by(now) {
            self.listen.begin();
            let transport = Arc::clone(&self.client.engine.transport);
            let able = async move { transport.capabilities().await.is_ok_and(|able| able.notifications) };
            self.under_way.ask = Some(able.boxed());
        }
    }

    /// What has happened, and what is wanted for it.
    fn look(&mut self, wake: Wake) -> Result<(), Error> {
        let now = self.now();
        let interval = later(now, self.options.pull_every);
        match wake {
            Wake::Due => {}
            Wake::Written => self.push.want(later(now, self.options.push_after)),
            Wake::Network => self.want_everything(),
            Wake::Told(Some(Ok(ChangeNotice::Changed(table)))) => {
                if let Some(lane) = self.pulls.lane(&table) {
                    lane.want(later(now, TOGETHER));
                }
            }
            Wake::Told(Some(Ok(ChangeNotice::Connected))) => {
                self.pulls.lanes().for_each(|lane| lane.want(now));
                self.listen.ended(None);
            }
            Wake::Told(_) => {
                self.notices = None;
                let wait = self.wait_after(self.listen.failures());
                self.listen.failed(now, wait);
            }
            Wake::Pushed(Ok(report)) => {
                self.tries = Tries::Nothing;
                self.push.ended(report.next_try);
            }
            // Its account has left meanwhile.
            Wake::Pushed(Err(_)) if self.pushing_for != self.account => self.push.given_up(now),
            Wake::Pushed(Err(error)) => return self.failed(error, None),
            Wake::Pulled((table, Ok(more))) => {
                if let Some(lane) = self.pulls.lane(&table) {
                    // What a pull has left for the next one is fetched at once.
                    lane.ended(Some(if more { now } else { interval }));
                }
            }
            Wake::Pulled((table, Err(error))) => return self.failed(error, Some(&table)),
            Wake::CanTell(true) => {
                let engine = &self.client.engine;
                self.notices = Some(engine.transport.changes(Arc::clone(&self.account)));
                // Only a service that is heard has taken the failures back.
                self.listen.rests();
            }
            // A service that does not tell may do so after an update.
            Wake::CanTell(false) => self.listen.ended(Some(interval)),
        }
        Ok(())
    }

    /// What the failure of a table's pull, or else of a push, means for the next attempt.
    fn failed(&mut self, error: Error, table: Option<&str>) -> Result<(), Error> {
        let now = self.now();
        match error.kind() {
            ErrorKind::Unauthenticated | ErrorKind::OtherAccount => {
                (self.paused, self.tries) = (true, Tries::Nothing);
                // A pull would try the sign-in once more. A push is left its answers.
                self.give_pulls_up();
            }
            ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::Overtaken => {}
            ErrorKind::Store if error.passes() => {}
            _ => return Err(error),
        }
        let failures = self.lane(table).failures();
        let wait = self.wait_after(failures);
        self.lane(table).failed(now, wait);
        Ok(())
    }

    /// That of a table's pulls, or else of pushes.
    fn lane(&mut self, table: Option<&str>) -> &mut Lane {
        table.and_then(|table| self.pulls.lane(table)).unwrap_or(&mut self.push)
    }

    /// Drops what reads; it is wanted again.
    fn give_pulls_up(&mut self) {
        let now = self.now();
        self.pulls.give_up(now);
        self.under_way.ask = None;
        self.listen.given_up(now);
    }

    fn wait_after(&self, failures: u32) -> Duration {
        backoff(failures, None, self.client.engine.clock.random()).min(self.options.pull_every)
    }

    async fn wait(&mut self, written: &crate::engine::watch::Flag) -> Wake {
        let lanes = [self.push.next(), self.pulls.next(), self.listen.next()];
        let next = lanes.into_iter().flatten().min().filter(|_| !self.paused);
        let clock = &self.client.engine.clock;
        let length = |at: Timestamp| Duration::try_from(at.duration_since(clock.now())).unwrap_or_default();
        let due = OptionFuture::from(next.map(|at| clock.sleep(length(at))));
        let notices = self.notices.as_mut();
        let told = OptionFuture::from(notices.map(StreamExt::next));
        let UnderWay { push, ask } = &mut self.under_way;
        let done = {
            let (push, mut pull, ask) = (present(push), self.pulls.ended(), present(ask));
            let (written, signal) = (written.raised().fuse(), self.options.network.0.raised().fuse());
            let (due, told) = (forever(due).fuse(), forever(told).fuse());
            pin_mut!(push, ask, written, signal, due, told);
            select_biased! {
                () = signal => Wake::Network,
                () = written => Wake::Written,
                notice = told => Wake::Told(notice),
                pushed = push => Wake::Pushed(pushed),
                pulled = pull => Wake::Pulled(pulled),
                able = ask => Wake::CanTell(able),
                () = due => Wake::Due,
            }
        };
        match done {
            Wake::Pushed(_) => *push = None,
            Wake::CanTell(_) => *ask = None,
            _ => {}
        }
        done
    }
}

/// What a future makes, if there is one; nothing ever if there is none.
async fn forever<F: Future>(future: OptionFuture<F>) -> F::Output {
    match future.await {
        Some(made) => made,
        None => futures::future::pending().await,
    }
}

fn present<'f, T>(
    future: &'f mut Option<BoxFuture<'static, T>>,
) -> impl futures::future::FusedFuture<Output = T> + use<'f, T> {
    forever(OptionFuture::from(future.as_mut())).fuse()
}
