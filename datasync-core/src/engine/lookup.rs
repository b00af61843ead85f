//! What the service has of single rows. A 404 alone says nothing: a wrong route answers it too, and a gateway in the service's
//! place. A row is gone only if its table is asked for the id, answers, and does not show it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    engine::Engine,
    query::{Expr, Literal, QueryDescription},
    row::{Record, RowKey, ServiceCopy},
    schema::ID,
    store::DeltaToken,
    transport::{PageRequest, Purpose, RowRequest, TransportError, TransportErrorKind},
};

/// How many ids one query names: they stand in its address.
pub(crate) const IDS_A_QUERY: usize = 50;
/// How many pages of one list may bring nothing before it is taken for one without an end.
const IDLE_PAGES: usize = 100;

/// The way through the pages of a list, which ends also with a service whose links do not (I24).
pub(crate) struct Walk {
    pub(crate) request: PageRequest,
    idle: usize,
}

impl Walk {
    pub(crate) fn new(request: PageRequest) -> Walk {
        Walk { request, idle: 0 }
    }

    /// Goes on to the page behind one that leads there by `token`. Says whether that has `brought` anything.
    pub(crate) fn on(&mut self, token: Option<DeltaToken>, brought: bool) -> Result<(), TransportError> {
        self.idle += usize::from(!brought);
        if token == self.request.token || self.idle > IDLE_PAGES {
            return Err(endless(&self.request.table));
        }
        self.request.token = token;
        self.request.first = false;
        Ok(())
    }
}

/// What a list without an end is.
pub(crate) fn endless(table: &str) -> TransportError {
    let message = format!(
        "the service's list of `{table}` has no end: its pages lead to each other and bring nothing more; whoever runs it has to \
         look into that"
    );
    TransportError::new(TransportErrorKind::Protocol, message)
}

impl Engine {
    /// What the service has of a row.
    pub(crate) async fn fetch(&self, key: &RowKey) -> Result<ServiceCopy, TransportError> {
        let RowKey { account, table, id } = key.clone();
        let request = RowRequest { account, table, id, include_deleted: true };
        if let Some(row) = traced!(self.transport.fetch(&request), "fetch", table = request.table).await? {
            return Ok(ServiceCopy::Found(row.record));
        }
        let shown = self.show(std::slice::from_ref(key)).await?.remove(&key.id);
        Ok(shown.map_or(ServiceCopy::Absent, ServiceCopy::Found))
    }

    /// What the service has of a row whose operation is asked about. A page that left before this has come may hold an older
    /// state of the row.
    pub(crate) async fn look(&self, key: &RowKey) -> Result<ServiceCopy, TransportError> {
        let looked = self.fetch(key).await;
        self.crossing.changed(key);
        looked
    }

    /// Those of some rows of one table that the table shows, at most [`IDS_A_QUERY`].
    pub(crate) async fn show(&self, keys: &[RowKey]) -> Result<BTreeMap<Arc<str>, Record>, TransportError> {
        let mut shown = BTreeMap::new();
        let Some(RowKey { account, table, .. }) = keys.first().cloned() else { return Ok(shown) };
        let ids = keys.iter().map(|key| Literal::Text(key.id.as_ref().to_owned())).collect();
        let filter = Some(Expr::In(Box::new(Expr::Field(ID.to_owned())), ids));
        let request = PageRequest {
            account,
            table,
            purpose: Purpose::Query,
            query: QueryDescription { filter, ..QueryDescription::default() },
            token: None,
            first: true,
            page_size: self.settings.page_size,
            overlap: Duration::ZERO,
            include_deleted: true,
        };
        let mut walk = Walk::new(request);
        loop {
            let page = self.transport.fetch_page(&walk.request).await?;
            let before = shown.len();
            let asked = page.rows.into_iter().filter(|row| keys.iter().any(|key| key.id == row.id));
            shown.extend(asked.map(|row| (row.id, row.record)));
            if !page.more || shown.len() == keys.len() {
                return Ok(shown);
            }
            walk.on(page.token, shown.len() > before)?;
        }
    }
}
