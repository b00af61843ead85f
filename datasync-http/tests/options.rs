//! What an app sets on the transport: certificates, a proxy, tokens, headers; on every runtime (I11, I25).
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod server;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasync_core::{
    query::QueryDescription,
    row::{Body, OperationKind},
    transport::{PageRequest, Purpose, PushOperation, PushOutcome, RowRequest, Transport, TransportErrorKind},
};
use datasync_http::{AccessToken, HttpTransport};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use server::{Request, Server, answer, entity};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use uuid::Uuid;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a name, and its key, as PEM.
fn certificate(name: &str, issuer: &Issuer) -> (String, String, ServerParts) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let parts = (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into());
    (certificate.pem(), key.serialize_pem(), parts)
}

type ServerParts = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn tls(parts: ServerParts, clients: Option<&Issuer>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = match clients {
        None => builder.unwrap().with_no_client_auth(),
        Some(issuer) => {
            let mut roots = RootCertStore::empty();
            roots.add(issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.unwrap().with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    builder.with_single_cert(vec![parts.0], parts.1).unwrap()
}

fn answers(request: &Request) -> Option<Vec<u8>> {
    Some(entity(request.id()))
}

async fn read(transport: &HttpTransport) -> Result<(), (TransportErrorKind, String)> {
    let row = transport.fetch(&RowRequest::new("t", "a")).await.map_err(|error| (error.kind(), error.to_string()))?;
    assert_eq!(&*row.unwrap().id, "a");
    Ok(())
}

#[tokio::test]
async fn i25_only_a_certificate_of_a_known_authority_is_trusted() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let secure = |parts| Server::secure(tls(parts, None), answers);
    let server = secure(certificate("localhost", &ours).2);
    let base = format!("https://localhost:{}", server.address().port());
    let builder = || HttpTransport::builder(&base).retries(0);
    read(&builder().root_certificate(ours.pem()).build().unwrap()).await.unwrap();
    for (transport, why) in
        [(builder().build(), "UnknownIssuer"), (builder().root_certificate(theirs.pem()).build(), "UnknownIssuer")]
    {
        let (kind, message) = read(&transport.unwrap()).await.unwrap_err();
        assert_eq!(kind, TransportErrorKind::Connect);
        assert!(message.contains(why) && message.contains("root_certificate"), "{message}");
    }
    let elsewhere = secure(certificate("elsewhere", &ours).2);
    let base = format!("https://localhost:{}", elsewhere.address().port());
    let transport = HttpTransport::builder(&base).retries(0).root_certificate(ours.pem()).build().unwrap();
    let (kind, message) = read(&transport).await.unwrap_err();
    assert!(kind == TransportErrorKind::Connect && message.contains("NotValidForName"), "{message}");
    assert!(HttpTransport::builder("https://h").root_certificate("no PEM").build().is_err());
    assert!(HttpTransport::builder("https://h").client_certificate("no", "PEM").build().is_err());
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_service_that_asks() {
    let (ours, clients, others) = (authority("ours"), authority("clients"), authority("others"));
    let server = Server::secure(tls(certificate("localhost", &ours).2, Some(&clients)), answers);
    let base = format!("https://localhost:{}", server.address().port());
    let builder = || HttpTransport::builder(&base).retries(0).root_certificate(ours.pem());
    let (chain, key, _) = certificate("device", &clients);
    read(&builder().client_certificate(chain, key).build().unwrap()).await.unwrap();
    let (chain, key, _) = certificate("device", &others);
    for transport in [builder().build(), builder().client_certificate(chain, key).build()] {
        let (kind, message) = read(&transport.unwrap()).await.unwrap_err();
        assert!(kind == TransportErrorKind::Connect && message.contains("client_certificate"), "{kind:?} {message}");
    }
}

/// A proxy that lets clients through to the loopback, whatever host they name, and counts them.
fn tunnel(port: u16) -> (String, Arc<AtomicUsize>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let tunnels = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tunnels);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut head) = (client.unwrap(), Vec::new());
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"CONNECT service.example:443 HTTP/1.1"), "{}", String::from_utf8_lossy(&head));
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let service = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), service.try_clone().unwrap()), (service, client)] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    (address, tunnels)
}

#[tokio::test]
async fn https_goes_through_a_proxy_unread() {
    let ours = authority("ours");
    let server = Server::secure(tls(certificate("service.example", &ours).2, None), answers);
    let (proxy, tunnels) = tunnel(server.address().port());
    let builder = || HttpTransport::builder("https://service.example").retries(0).proxy(proxy.clone());
    read(&builder().root_certificate(ours.pem()).build().unwrap()).await.unwrap();
    assert_eq!((tunnels.load(Ordering::SeqCst), server.requests()), (1, 1));
    let (kind, message) = read(&builder().build().unwrap()).await.unwrap_err();
    assert!(
        kind == TransportErrorKind::Connect && message.contains("UnknownIssuer"),
        "a proxy is not trusted: {message}"
    );
}

#[tokio::test]
async fn a_proxy_gets_every_request() {
    let proxy = Server::start(|request| {
        assert!(request.target.starts_with("http://service.example/tables/t/a"), "{}", request.target);
        answers(request)
    });
    let address = format!("http://{}", proxy.address());
    let transport = HttpTransport::builder("http://service.example").retries(0).proxy(address).build().unwrap();
    read(&transport).await.unwrap();
    assert!(HttpTransport::builder("http://h").proxy("::").build().is_err());
}

#[tokio::test]
async fn i11_a_refused_token_is_renewed_once_and_by_one_alone() {
    // The service takes the second token and no other.
    let server = Server::start(|request| match request.header("authorization") {
        Some("Bearer token-2") => answers(request),
        _ => Some(answer("401 Unauthorized", "", b"")),
    });
    let base = format!("http://{}", server.address());
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let provider = move || {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Some(AccessToken::new(format!("token-{number}"))))
        }
    };
    let transport = HttpTransport::builder(&base).retries(0).token_provider(provider).build().unwrap();
    let reads = futures::future::join_all((0..10).map(|_| read(&transport))).await;
    assert!(reads.iter().all(Result::is_ok), "{reads:?}");
    assert_eq!(given.load(Ordering::SeqCst), 2, "one token, and one other for all");
    read(&transport).await.unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 2, "it is kept");
}

#[tokio::test]
async fn i11_a_token_that_stays_refused_is_an_error_and_nothing_is_sent_for_ever() {
    let server = Server::start(|_| Some(answer("401 Unauthorized", "", b"")));
    let base = format!("http://{}", server.address());
    let provider = || async { Ok(Some(AccessToken::new("old"))) };
    let transport = HttpTransport::builder(&base).token_provider(provider).build().unwrap();
    assert_eq!(read(&transport).await.unwrap_err().0, TransportErrorKind::Unauthenticated);
    assert_eq!(server.requests(), 2);
    let failing = || async { Err::<Option<AccessToken>, _>("the identity service is away".into()) };
    let transport = HttpTransport::builder(&base).retries(0).token_provider(failing).build().unwrap();
    let (kind, message) = read(&transport).await.unwrap_err();
    assert!(kind == TransportErrorKind::Connect && message.contains("the token provider failed"), "{message}");
    assert_eq!(server.requests(), 2, "a request without its token is not sent");
}

#[tokio::test]
async fn headers_and_a_hook_are_on_every_request_and_the_token_where_it_is_wanted() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let server = Server::start(move |request| {
        let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
        log.lock().unwrap().push([
            header("x-app"),
            header("x-request"),
            header("x-zumo-auth"),
            header("authorization"),
        ]);
        answers(request)
    });
    let base = format!("http://{}", server.address());
    let provider = || async { Ok(Some(AccessToken::new("secret"))) };
    let builder = HttpTransport::builder(&base).header("x-app", "todo").token_provider(provider);
    let builder = builder.token_header("x-zumo-auth", "");
    let transport = builder.before_send(|request| request.headers.push(("x-request".into(), "7".to_owned()))).build();
    read(&transport.unwrap()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [["todo", "7", "secret", ""].map(str::to_owned)]);

    let turned = HttpTransport::builder(&base).before_send(|request| {
        request.url = "http://other.example/".parse().unwrap();
    });
    assert_eq!(read(&turned.build().unwrap()).await.unwrap_err().0, TransportErrorKind::Rejected);
    for (name, value) in [("", "x"), ("a b", "x"), ("x", "a\r\nb: c"), ("x", "é")] {
        assert!(HttpTransport::builder(&base).header(name, value).build().is_err(), "{name}: {value}");
    }
}

/// Reads, pushes a batch that is compressed, and reads an answer that is.
async fn everything(base: &str) {
    let transport = HttpTransport::builder(base).retries(0).build().unwrap();
    read(&transport).await.unwrap();
    assert_eq!(transport.capabilities().await.unwrap().batch, 50);
    let operations: Vec<PushOperation> = (0..20)
        .map(|number| PushOperation {
            account: "".into(),
            base: None,
            table: "t".into(),
            id: number.to_string().into(),
            kind: OperationKind::Insert,
            key: Uuid::from_u128(number),
            version: None,
            body: Some(Body::from(format!(r#"{{"id":"{number}","text":"{}"}}"#, "x".repeat(100)).into_bytes())),
        })
        .collect();
    for (operation, outcome) in operations.iter().zip(transport.push(&operations).await) {
        assert!(matches!(outcome, PushOutcome::Applied(Some(row)) if row.id == operation.id));
    }
}

fn extended() -> Server {
    let compressed = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, body).unwrap();
        answer("200 OK", "content-encoding: gzip\r\n", &encoder.finish().unwrap())
    };
    Server::start(move |request| match request.target.as_str() {
        "/.well-known/datasync" => {
            let limits = r#"{"operations":50,"bytes":100000}"#;
            Some(compressed(format!(r#"{{"version":1,"batch":{limits},"gzip":true}}"#).as_bytes()))
        }
        "/$batch" => {
            assert_eq!(request.header("content-encoding"), Some("gzip"));
            let mut text = String::new();
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&request.body[..]), &mut text).unwrap();
            assert!(text.len() > 2 * request.body.len() && text.contains(&"x".repeat(100)));
            let outcomes: Vec<String> =
                (0..20).map(|number| format!(r#"{{"status":201,"body":{{"id":"{number}"}}}}"#)).collect();
            Some(compressed(format!(r#"{{"outcomes":[{}]}}"#, outcomes.join(",")).as_bytes()))
        }
        _ => answers(request),
    })
}

/// However little was sent for it, an answer takes no more memory than was allowed.
#[tokio::test]
async fn i25_an_answer_is_bounded_after_it_is_decompressed() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![b' '; 10_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    let server = Server::start(move |_| Some(answer("200 OK", "content-encoding: gzip\r\n", &bomb)));
    let builder = HttpTransport::builder(&format!("http://{}", server.address())).retries(0).max_body(1_000_000);
    let (kind, message) = read(&builder.build().unwrap()).await.unwrap_err();
    assert!(kind == TransportErrorKind::Protocol && message.contains("longer than allowed"), "{message}");
}

/// Rows so long that a page of them is not taken: the service is asked for fewer, and the pull goes on.
#[tokio::test]
async fn i25_pages_that_are_too_long_are_asked_for_with_fewer_rows() {
    let server = Server::start(|request| {
        let number = |name: &str| -> usize {
            let (_, value) = request.target.split_once(name).unwrap();
            value.split('&').next().unwrap().parse().unwrap_or(0)
        };
        if request.target == "/.well-known/datasync" {
            return Some(answer("200 OK", "", br#"{"version":1,"delta":true}"#));
        }
        let (from, top) = (number("__delta="), number("$top="));
        let to = (from + top).min(100);
        let row = |number: usize| format!(r#"{{"id":"{number}","text":"{}"}}"#, "x".repeat(1_000));
        let rows: Vec<String> = (from..to).map(row).collect();
        let page = format!(r#"{{"items":[{}],"delta":{{"token":"{to}","more":{}}}}}"#, rows.join(","), to < 100);
        Some(answer("200 OK", "", page.as_bytes()))
    });
    let builder = HttpTransport::builder(&format!("http://{}", server.address())).retries(0).max_body(4_000);
    let transport = builder.build().unwrap();
    let mut request = PageRequest {
        account: "".into(),
        table: "t".into(),
        purpose: Purpose::Pull,
        query: QueryDescription::default(),
        token: None,
        first: true,
        page_size: 100,
        overlap: Duration::ZERO,
        include_deleted: true,
    };
    let mut ids = Vec::new();
    loop {
        let page = transport.fetch_page(&request).await.unwrap();
        ids.extend(page.rows.iter().map(|row| row.id.parse::<usize>().unwrap()));
        (request.token, request.first) = (page.token, false);
        if !page.more {
            break;
        }
    }
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
    // 34 pages of 3 rows, 5 that are halved at first, and one or two that try for more.
    assert!(server.requests() < 45, "{}", server.requests());
}

#[tokio::test]
async fn all_of_it_works_on_tokio() {
    let server = extended();
    everything(&format!("http://{}", server.address())).await;
    assert_eq!(server.requests(), 3, "twenty operations are one request");
}

#[test]
fn all_of_it_works_on_smol() {
    let server = extended();
    smol::block_on(everything(&format!("http://{}", server.address())));
}

#[test]
fn all_of_it_works_without_a_runtime() {
    let server = extended();
    futures::executor::block_on(everything(&format!("http://{}", server.address())));
}

#[test]
fn all_of_it_works_on_a_handle() {
    let server = extended();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let builder = HttpTransport::builder(&format!("http://{}", server.address()));
    let transport = builder.tokio_handle(runtime.handle().clone()).build().unwrap();
    futures::executor::block_on(read(&transport)).unwrap();
}

#[tokio::test]
async fn i05_a_batch_that_is_refused_is_halved_and_one_that_is_lost_is_smaller_the_next_time() {
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sizes);
    let server = Server::start(move |request| match request.target.as_str() {
        "/.well-known/datasync" => {
            Some(answer("200 OK", "", br#"{"version":1,"batch":{"operations":64,"bytes":9999}}"#))
        }
        "/$batch" => {
            let size = request.body.windows(8).filter(|window| window == b"\"method\"").count();
            let mut log = log.lock().unwrap();
            log.push(size);
            match (size, log.len()) {
                (17.., _) => Some(answer("413 Payload Too Large", "", b"")),
                (_, 4) => Some(answer("503 Service Unavailable", "", b"")),
                _ => {
                    let outcomes = vec![r#"{"status":204}"#; size].join(",");
                    Some(answer("200 OK", "", format!(r#"{{"outcomes":[{outcomes}]}}"#).as_bytes()))
                }
            }
        }
        _ => Some(answer("204 No Content", "", b"")),
    });
    let transport = HttpTransport::builder(&format!("http://{}", server.address())).retries(0).build().unwrap();
    let operation = |number: u128| PushOperation {
        account: "".into(),
        base: None,
        table: "t".into(),
        id: number.to_string().into(),
        kind: OperationKind::Delete,
        key: Uuid::from_u128(number),
        version: Some("AQ==".to_owned()),
        body: None,
    };
    let operations: Vec<PushOperation> = (0..60).map(operation).collect();
    let outcomes = transport.push(&operations).await;
    let lost = outcomes.iter().filter(|outcome| matches!(outcome, PushOutcome::Failed(_))).count();
    // 60 and 30 are refused, 15 go well; so 30 are tried, refused, and 15 of them are lost.
    assert_eq!(sizes.lock().unwrap()[..5], [60, 30, 15, 30, 15]);
    assert_eq!((outcomes.len(), lost), (60, 0), "{:?}", sizes.lock().unwrap());
}
