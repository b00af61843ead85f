//! Requests that mean no good: each gets an answer or a closed connection, memory stays bounded, and others are served.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{net::SocketAddr, time::Duration};

use datasync_core::schema::{FieldKind, FieldSchema, TableSchema};
use datasync_server::{DatasyncServer, DatasyncService, MemoryRepository, TableOptions};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const FIELDS: &[FieldSchema] =
    &[FieldSchema::new("id", FieldKind::Text, false), FieldSchema::new("title", FieldKind::Text, false)];
const PATIENCE: Duration = Duration::from_secs(20);

async fn start() -> (DatasyncServer, SocketAddr, MemoryRepository) {
    let rows = MemoryRepository::new();
    rows.seed(json!([{ "id": "a", "title": "x" }])).unwrap();
    let notes = TableOptions::new(TableSchema::new("notes", FIELDS, &[])).soft_delete(true);
    let router = DatasyncService::builder().table(notes, rows.clone()).build().unwrap();
    let server = DatasyncServer::start("127.0.0.1:0".parse().unwrap(), router).await.unwrap();
    let address = server.address();
    (server, address, rows)
}

/// Sends bytes as far as they are taken, and returns the status of the answer; `None` for a closed connection.
async fn status(address: SocketAddr, parts: &[&[u8]]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for part in parts {
        if timeout(PATIENCE, stream.write_all(part)).await.expect("the service reads or closes").is_err() {
            break;
        }
    }
    let mut answer = vec![0; 512];
    let mut length = 0;
    while length < 12 {
        match timeout(PATIENCE, stream.read(&mut answer[length..])).await.expect("an answer or a close") {
            Ok(0) | Err(_) => return None,
            Ok(read) => length += read,
        }
    }
    std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()
}

async fn get(address: SocketAddr, path: &str) -> Option<u16> {
    status(address, &[format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()]).await
}

async fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Option<u16> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    status(address, &[head.as_bytes(), body]).await
}

/// The most memory that this process has used so far, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    line.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_others_are_served() {
    let (_server, address, rows) = start().await;
    let chunk = vec![b' '; 1024 * 1024];
    let before = peak_memory();

    let head = b"POST /tables/notes HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n";
    let mut parts: Vec<&[u8]> = vec![head];
    parts.extend(std::iter::repeat_n(chunk.as_slice(), 100));
    assert!(matches!(status(address, &parts).await, None | Some(413)), "a body of 100 MB");
    let endless = b"POST /tables/notes HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut framed = b"100000\r\n".to_vec();
    framed.extend(&chunk);
    framed.extend(b"\r\n");
    let mut parts: Vec<&[u8]> = vec![endless];
    parts.extend(std::iter::repeat_n(framed.as_slice(), 100));
    assert!(matches!(status(address, &parts).await, None | Some(413)), "a body without an end");

    // 100 MB of blanks are 100 KB when they are compressed.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..100 {
        std::io::Write::write_all(&mut bomb, &chunk).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert_eq!(post(address, "/tables/notes", "content-encoding: gzip\r\n", &bomb).await, Some(413), "a bomb");
    assert_eq!(post(address, "/tables/notes", "content-encoding: gzip\r\n", b"no gzip").await, Some(400));

    let nested = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let nested = format!(r#"{{"id":"n","title":{nested}}}"#);
    assert_eq!(post(address, "/tables/notes", "", nested.as_bytes()).await, Some(400), "a nested body");
    assert_eq!(post(address, "/$batch", "", nested.as_bytes()).await, Some(400), "a nested batch");

    let filter = "a".repeat(1024 * 1024);
    let long = get(address, &format!("/tables/notes?$filter={filter}")).await;
    assert!(matches!(long, None | Some(400 | 414 | 431)), "a filter of 1 MB: {long:?}");
    let brackets = ["(".repeat(20_000), ")".repeat(20_000)].concat();
    let nested = get(address, &format!("/tables/notes?$filter={brackets}")).await;
    assert!(matches!(nested, Some(400 | 414)), "nested brackets: {nested:?}");
    assert_eq!(get(address, "/tables/notes?$filter=%ff%fe").await, Some(400), "bytes that are not UTF-8");
    for path in ["/tables/notes?$top=-1", "/tables/notes?$skip=-1", "/tables/notes?$top=99999999999999999999999"] {
        assert_eq!(get(address, path).await, Some(400), "{path}");
    }
    assert_eq!(get(address, "/tables/notes?__delta=what").await, Some(400));
    assert_eq!(get(address, "/tables/notes?__delta=&$orderby=id").await, Some(400));

    for byte in 0..=u8::MAX {
        let path = format!("/tables/notes/x%{byte:02x}y");
        let answer = get(address, &path).await;
        assert!(matches!(answer, Some(400 | 404)), "{path}: {answer:?}");
        let raw = [&b"GET /tables/notes/x"[..], &[byte], b"y HTTP/1.1\r\nhost: h\r\n\r\n"].concat();
        let answer = status(address, &[&raw]).await;
        assert!(matches!(answer, None | Some(400 | 404 | 414)), "the byte {byte}: {answer:?}");
        let body = [&br#"{"id":"x"#[..], &[byte], br#"","title":"t"}"#].concat();
        let answer = post(address, "/tables/notes", "", &body).await;
        assert!(matches!(answer, Some(201 | 400 | 409)), "the byte {byte} in a body: {answer:?}");
    }

    let one = r#"{"method":"DELETE","path":"tables/notes/x"}"#;
    let batch = |count: usize| format!(r#"{{"operations":[{}]}}"#, vec![one; count].join(","));
    assert_eq!(post(address, "/$batch", "", batch(100_000).as_bytes()).await, Some(413), "a batch of 100,000");
    assert_eq!(post(address, "/$batch", "", batch(1_001).as_bytes()).await, Some(413));
    assert_eq!(post(address, "/$batch", "", batch(1_000).as_bytes()).await, Some(200));
    for body in ["", "[]", "{}", r#"{"operations":1}"#, r#"{"operations":[{"method":"GET"}]}"#] {
        assert_eq!(post(address, "/$batch", "", body.as_bytes()).await, Some(400), "{body}");
    }

    let grown = peak_memory() - before;
    assert!(grown < 100, "the service took {grown} MiB");
    assert_eq!(rows.rows().iter().find(|row| &*row.id == "a").map(|row| row.sequence), Some(1), "nothing was changed");
    assert_eq!(get(address, "/tables/notes/a").await, Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_keep_nobody_out() {
    let (server, address, _) = start().await;
    let mut silent = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Some say half a word.
        if number % 2 == 0 {
            stream.write_all(b"GET /tables/no").await.unwrap();
        }
        silent.push(stream);
    }
    for _ in 0..10 {
        assert_eq!(get(address, "/tables/notes/a").await, Some(200));
    }
    server.stop(Duration::from_millis(100)).await;
    for mut stream in silent {
        let closed = timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("closed with the service");
        assert!(matches!(closed, Ok(0) | Err(_)));
    }
}
