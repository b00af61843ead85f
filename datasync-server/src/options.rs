//! What an operator says about a table.

use std::{fmt, sync::Arc};

use axum::http::StatusCode;
use datasync_core::{
    entity::SyncEntity,
    query::Dialect,
    schema::{ID, TableSchema},
};
use serde_json::{Map, Value};

use crate::access::{AccessControl, OpenToAll};

/// Says what is wrong with a row; empty if nothing is.
pub(crate) type Validate = dyn Fn(&Map<String, Value>) -> Vec<String> + Send + Sync;

/// Why a service cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfigError(pub(crate) String);

impl fmt::Display for ServiceConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServiceConfigError {}

/// A table of the service, as in Datasync's `TableControllerOptions`.
#[derive(Clone)]
#[must_use]
pub struct TableOptions {
    pub(crate) schema: TableSchema,
    pub(crate) path: String,
    pub(crate) soft_delete: bool,
    pub(crate) page_size: u64,
    pub(crate) max_top: Option<u64>,
    pub(crate) schemaless: bool,
    pub(crate) validate: Option<Arc<Validate>>,
    pub(crate) access: Arc<dyn AccessControl>,
    pub(crate) unauthorized: u16,
}

impl fmt::Debug for TableOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableOptions").field("table", &self.schema.name).field("path", &self.path).finish()
    }
}

impl TableOptions {
    /// A table of this schema at `tables/{name}`, with pages of 100 rows and no soft delete. Fields that stay on devices are no
    /// properties of the service's table.
    pub fn new(mut schema: TableSchema) -> TableOptions {
        let path = format!("tables/{}", schema.name);
        if schema.local_fields().next().is_some() {
            schema.fields.to_mut().retain(|field| !field.local);
        }
        TableOptions {
            schema,
            path,
            soft_delete: false,
            page_size: 100,
            max_top: None,
            schemaless: false,
            validate: None,
            access: Arc::new(OpenToAll),
            unauthorized: 401,
        }
    }

    /// The table of an entity.
    pub fn of<E: SyncEntity>() -> TableOptions {
        TableOptions::new(E::SCHEMA)
    }

    /// Where the table is, from the root of the service.
    pub fn path(mut self, path: impl Into<String>) -> TableOptions {
        self.path = path.into();
        self
    }

    /// Whether a deletion leaves a row that is marked as deleted, so that other devices learn of it.
    pub fn soft_delete(mut self, soft_delete: bool) -> TableOptions {
        self.soft_delete = soft_delete;
        self
    }

    /// The greatest number of rows in a page, 1 to 128,000.
    pub fn page_size(mut self, rows: u64) -> TableOptions {
        self.page_size = rows;
        self
    }

    /// The greatest `$top` that is accepted, at least 1; 128,000 by default, and 512,000 in Azure's dialect.
    pub fn max_top(mut self, rows: u64) -> TableOptions {
        self.max_top = Some(rows);
        self
    }

    /// Looks at each row before it is created or replaced, and says in words what is wrong with it.
    pub fn validate(
        mut self,
        validate: impl Fn(&Map<String, Value>) -> Vec<String> + Send + Sync + 'static,
    ) -> TableOptions {
        self.validate = Some(Arc::new(validate));
        self
    }

    /// Whether members that the schema does not name are kept and answered too. Queries know the schema's fields only.
    pub fn schemaless(mut self, schemaless: bool) -> TableOptions {
        self.schemaless = schemaless;
        self
    }

    /// Decides who may do what; everybody may do everything by default.
    pub fn access(mut self, access: impl AccessControl) -> TableOptions {
        self.access = Arc::new(access);
        self
    }

    /// The status of a refusal by [`access`](TableOptions::access), 400 to 499; 401 by default.
    pub fn unauthorized_status(mut self, status: u16) -> TableOptions {
        self.unauthorized = status;
        self
    }

    pub(crate) fn greatest_top(&self, dialect: Dialect) -> u64 {
        self.max_top.unwrap_or(match dialect {
            Dialect::Toolkit => 128_000,
            Dialect::Azure => 512_000,
        })
    }

    /// The status of a refusal, which [`check`](TableOptions::check) has found to be one.
    pub(crate) fn refusal(&self) -> StatusCode {
        StatusCode::from_u16(self.unauthorized).unwrap_or(StatusCode::UNAUTHORIZED)
    }

    pub(crate) fn check(&self) -> Result<(), ServiceConfigError> {
        let wrong = |what: &str| Err(ServiceConfigError(format!("the table at `{}` {what}", self.path)));
        let path = self.path.trim_matches('/');
        if path.is_empty() || !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)) {
            return wrong("needs a path of letters, digits and `/-_.`");
        }
        if self.schema.field(ID).is_none() {
            return wrong("has no field `id`");
        }
        if !(1..=128_000).contains(&self.page_size) || self.max_top == Some(0) {
            return wrong("needs a page size of 1 to 128,000 and a greatest `$top` of at least 1");
        }
        if !(400..=499).contains(&self.unauthorized) {
            return wrong("needs a status of 400 to 499 for who is not authorized");
        }
        Ok(())
    }
}
