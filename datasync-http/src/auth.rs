//! Tokens: got when they are needed, kept until shortly before they end, and one request for a new one at a time.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use datasync_core::{
    clock::Clock,
    transport::{TransportError, TransportErrorKind},
};
use futures::{
    FutureExt,
    future::{Either, select},
};
use jiff::{SignedDuration, Timestamp};

use crate::joint::Joint;

/// A token is renewed this long before its end, as in Datasync's `RefreshBufferTimeSpan`.
const BUFFER: SignedDuration = SignedDuration::from_secs(120);
/// How long getting a token may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A token for the service. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    value: String,
    expires_at: Option<Timestamp>,
    account: Option<Arc<str>>,
}

impl AccessToken {
    /// A token that is used until the service refuses it.
    pub fn new(value: impl Into<String>) -> AccessToken {
        AccessToken { value: value.into(), expires_at: None, account: None }
    }

    /// When the token ends; it is renewed two minutes before.
    #[must_use]
    pub fn expires_at(mut self, time: Timestamp) -> AccessToken {
        self.expires_at = Some(time);
        self
    }

    /// The name of the account that the token is for. It goes with no request of another account, and one that has no
    /// name goes only with those of a client that nobody has signed in to: see `DatasyncClient::sign_in`.
    #[must_use]
    pub fn account(mut self, name: impl Into<Arc<str>>) -> AccessToken {
        self.account = Some(name.into());
        self
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Why there is no token.
pub type TokenError = Box<dyn StdError + Send + Sync>;

/// Gets tokens, from an identity service or from wherever the app keeps them. Every closure that returns a future of
/// one is a provider.
#[async_trait]
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is good now; `None` if nobody is signed in: then requests carry none. Called again when the token
    /// nears its end, when the service refuses it (401), and when it is of another account than the one whose request is
    /// to be sent; never twice at once.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from getting one: the request is not sent, and the push or pull ends as without a network.
    async fn token(&self) -> Result<Option<AccessToken>, TokenError>;
}

#[async_trait]
impl<F, T> TokenProvider for F
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = Result<Option<AccessToken>, TokenError>> + Send,
{
    async fn token(&self) -> Result<Option<AccessToken>, TokenError> {
        self().await
    }
}

/// The token in use, and the header that it goes into.
pub(crate) struct Tokens {
    provider: Box<dyn TokenProvider>,
    clock: Arc<dyn Clock>,
    header: String,
    scheme: String,
    state: Mutex<State>,
    renewal: Joint<Result<(), TransportError>>,
}

#[derive(Default)]
struct State {
    /// Which one it is, counted from 1; 0 for none yet.
    number: u64,
    token: Option<AccessToken>,
}

impl State {
    fn account(&self) -> Option<&Arc<str>> {
        self.token.as_ref().and_then(|token| token.account.as_ref()).filter(|name| !name.is_empty())
    }

    /// Whether the token is of another account; one without a name is the empty one.
    fn is_not_of(&self, account: &str) -> bool {
        self.account().map_or("", |name| name) != account
    }

    fn ends_soon(&self, now: Timestamp) -> bool {
        let ends = self.token.as_ref().and_then(|token| token.expires_at);
        ends.is_some_and(|end| now.saturating_add(BUFFER).is_ok_and(|soon| soon >= end))
    }
}

/// A header with a token, and which token it is.
pub(crate) struct Authorization {
    pub(crate) number: u64,
    pub(crate) header: Option<(String, String)>,
}

impl Tokens {
    pub(crate) fn new(
        provider: Box<dyn TokenProvider>,
        clock: Arc<dyn Clock>,
        header: String,
        scheme: String,
    ) -> Tokens {
        Tokens { provider, clock, header, scheme, state: Mutex::default(), renewal: Joint::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the account of the token in use; another is got if it is not the one wanted.
    pub(crate) async fn account(self: &Arc<Self>, wanted: &str) -> Result<Option<Arc<str>>, TransportError> {
        self.renew(Some(wanted), None).await?;
        Ok(self.state().account().cloned())
    }

    /// The header of a request of this account, or of one that belongs to none. `refused` is the number of the token that
    /// was answered with 401: if it is still the one in use, another is got.
    pub(crate) async fn authorize(
        self: &Arc<Self>,
        account: Option<&str>,
        refused: Option<u64>,
    ) -> Result<Authorization, TransportError> {
        self.renew(account, refused).await?;
        let state = self.state();
        if account.is_some_and(|account| state.is_not_of(account)) {
            return Err(other_account());
        }
        let value = state.token.as_ref().map(|token| match self.scheme.as_str() {
            "" => token.value.clone(),
            scheme => format!("{scheme} {}", token.value),
        });
        Ok(Authorization { number: state.number, header: value.map(|value| (self.header.clone(), value)) })
    }

    /// Gets another token if the one in use will not do.
    async fn renew(self: &Arc<Self>, account: Option<&str>, refused: Option<u64>) -> Result<(), TransportError> {
        loop {
            let mut own = false;
            let question = || {
                let state = self.state();
                let other = account.is_some_and(|account| state.is_not_of(account));
                let ends_soon = state.ends_soon(self.clock.now());
                own = state.number == 0 || refused == Some(state.number) || ends_soon || other;
                own.then(|| Arc::clone(self).another().boxed())
            };
            match self.renewal.ask(question).await {
                None => return Ok(()),
                Some(renewed) if own || renewed.is_err() => return renewed,
                // Somebody else has asked, and what came is looked at.
                Some(_) => {}
            }
        }
    }

    async fn another(self: Arc<Self>) -> Result<(), TransportError> {
        let failed = |message: &str| TransportError::new(TransportErrorKind::Connect, message);
        let token = match select(self.provider.token(), self.clock.sleep(PATIENCE)).await {
            Either::Left((token, _)) => token
                .map_err(|error| failed("the token provider failed, so that nothing was sent").with_source(error))?,
            Either::Right(_) => return Err(failed("the token provider did not answer, so that nothing was sent")),
        };
        let mut state = self.state();
        (state.number, state.token) = (state.number + 1, token);
        tell!("another token", number = state.number);
        Ok(())
    }
}

/// Nothing was sent.
pub(crate) fn other_account() -> TransportError {
    let message = "the request belongs to another account than the one that is signed in";
    TransportError::new(TransportErrorKind::OtherAccount, message)
}
