//! Suites for the authors of stores and transports, and wrappers that fail on command.
//!
//! ```
//! datasync_testkit::store_conformance!(datasync_core::memory::MemoryStore::new);
//! ```
//!
//! - [`store_conformance!`] holds a [`Store`](datasync_core::store::Store) to its contract, [`transport_conformance!`] a
//!   [`Transport`](datasync_core::transport::Transport).
//! - [`FaultStore`] and [`FaultTransport`] fail before or after it happened, hang, wait for a gate, or kill the process.
//! - [`HostileProxy`] stands between a client and a service on real sockets, and cuts, delays, holds and garbles.

mod fault_store;
mod fault_transport;
mod faults;
mod proxy;
mod store_suite;
mod transport_suite;

pub use fault_store::{FaultStore, StoreCall};
pub use fault_transport::{FaultTransport, TransportCall};
pub use faults::{Fault, Faults, Gate};
pub use proxy::{HostileProxy, Trouble};
pub use store_suite::{
    answers_like_the_memory_store, goes_on_with_its_indexes_and_forgets_dropped_ones, is_closed_after_close,
    lists_the_rows_of_all_accounts, tells_of_another_set_of_indexes,
};
pub use transport_suite::{
    a_dropped_request_spoils_no_other, a_pull_brings_everything_and_then_what_changed,
    a_pull_that_begins_again_brings_everything, a_query_comes_in_its_order,
    changes_are_answered_by_what_became_of_them, changes_are_told_where_that_is_declared,
    fetch_tells_deleted_rows_from_missing_ones, outcomes_come_in_the_order_of_the_operations,
    what_is_told_to_have_left_a_query_has_left_it,
};
