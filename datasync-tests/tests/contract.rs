//! The suites of the test kit over everything that claims to be a store or a transport.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use datasync_core::{clock::SystemClock, memory::MemoryStore};
use datasync_http::HttpTransport;
use datasync_redb::RedbStore;
use datasync_server::{DatasyncServer, MemoryRepository, RedbDatabase};
use datasync_testkit::{FaultStore, FaultTransport, HostileProxy};
use datasync_tests::{RouterExchange, Wire, service, service_of};
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn in_process(wire: Wire) -> (HttpTransport, ()) {
    let exchange = RouterExchange::new(service(&MemoryRepository::new(), 10, wire));
    (HttpTransport::builder("http://service").exchange(exchange).build().unwrap(), ())
}

/// A service over a file, on a socket, behind a proxy that does nothing.
fn on_a_socket(wire: Wire) -> (HttpTransport, (TempDir, Runtime, DatasyncServer, HostileProxy)) {
    let folder = tempfile::tempdir().unwrap();
    let database = RedbDatabase::open(folder.path().join("service.redb")).unwrap();
    let runtime = Runtime::new().unwrap();
    let router = service_of(database.table("note"), 10, wire, SystemClock);
    let server = runtime.block_on(DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router.into_router())).unwrap();
    let proxy = HostileProxy::start(server.address()).unwrap();
    let transport = HttpTransport::new(&format!("http://{}", proxy.address())).unwrap();
    (transport, (folder, runtime, server, proxy))
}

mod http {
    mod original {
        datasync_testkit::transport_conformance!(|| super::super::in_process(super::super::Wire::Original));
    }
    mod extended {
        datasync_testkit::transport_conformance!(|| super::super::in_process(super::super::Wire::Extended));
    }
    mod original_on_a_socket {
        datasync_testkit::transport_conformance!(|| super::super::on_a_socket(super::super::Wire::Original));
    }
    mod extended_on_a_socket {
        datasync_testkit::transport_conformance!(|| super::super::on_a_socket(super::super::Wire::Extended));
    }
}

mod wrapped_transport {
    use super::*;

    datasync_testkit::transport_conformance!(|| {
        let (transport, service) = in_process(Wire::Extended);
        (FaultTransport::new(transport, SystemClock), service)
    });
}

mod wrapped_memory {
    use super::*;

    datasync_testkit::store_conformance!(|| FaultStore::new(MemoryStore::new(), SystemClock));
}

mod wrapped_redb {
    use super::*;

    datasync_testkit::store_conformance!(|| {
        let backend = redb::backends::InMemoryBackend::new();
        FaultStore::new(RedbStore::builder().open_backend(backend).unwrap(), SystemClock)
    });
}
