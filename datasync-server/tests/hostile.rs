//! Requests that mean no good, to the program in a process of its own: each gets an answer or a closed connection, the
//! memory of the process stays bounded, and an honest client is served all the while.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod running;

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use running::{Running, folder};
use serde_json::json;

const CONFIG: &str = r#"
data = "service.redb"
[tables.notes]
fields = { title = "text" }
"#;

impl Running {
    /// Sends bytes as far as they are taken, and returns the status of the answer; `None` for a closed connection.
    fn status(&self, parts: &[&[u8]]) -> Option<u16> {
        let mut stream = self.connect();
        for part in parts {
            // The service may close before it has read all, which is an answer too.
            if stream.write_all(part).is_err() {
                break;
            }
        }
        let mut answer = vec![0; 512];
        let mut length = 0;
        while length < 12 {
            match stream.read(&mut answer[length..]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither an answer nor a close"),
                Ok(0) | Err(_) => return None,
                Ok(read) => length += read,
            }
        }
        std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()
    }

    fn get(&self, path: &str) -> Option<u16> {
        self.status(&[format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()])
    }

    fn post(&self, path: &str, headers: &str, body: &[u8]) -> Option<u16> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.status(&[head.as_bytes(), body])
    }
}

/// An app that writes and reads while others mean no good: how often it was served.
fn be_honest(service: &Running, over: &AtomicBool) -> u64 {
    let mut served = 0;
    while !over.load(Ordering::SeqCst) {
        let id = format!("honest-{served}");
        let row = json!({ "id": id, "title": "x" }).to_string();
        let (status, made) = service.json("POST", "/tables/notes", &row);
        assert_eq!((status, made["title"].as_str()), (201, Some("x")));
        let (status, read) = service.json("GET", &format!("/tables/notes/{id}"), "");
        assert_eq!((status, &read), (200, &made));
        let (status, page) = service.json("GET", &format!("/tables/notes?$filter=id%20eq%20'{id}'"), "");
        assert_eq!((status, page["items"][0]["id"].as_str()), (200, Some(id.as_str())));
        served += 1;
    }
    served
}

/// Does what means no good beside an honest client, and looks at the memory.
fn beside_an_honest_client(most: u64, mean: impl FnOnce(&Running)) {
    let folder = folder(CONFIG);
    let service = Running::start(folder.path(), &[]);
    let (status, first) = service.json("POST", "/tables/notes", r#"{"id":"a","title":"x"}"#);
    assert_eq!(status, 201);
    let before = service.peak_memory();
    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let honest = scope.spawn(|| be_honest(&service, &over));
        // An honest client that has failed must not wait for the end.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mean(&service)));
        over.store(true, Ordering::SeqCst);
        let served = honest.join().unwrap();
        done.unwrap();
        served
    });
    let grown = service.peak_memory() - before;
    println!("the service took {grown} MiB above {before}, and served its honest client {served} times");
    assert!(served > 1, "{served}");
    assert!(grown < most, "the service took {grown} MiB");
    assert_eq!(service.json("GET", "/tables/notes/a", ""), (200, first), "nothing was changed");
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

#[test]
fn bodies_that_are_too_long_or_too_deep() {
    beside_an_honest_client(64, |service| {
        let chunk = vec![b' '; 1024 * 1024];
        let head = b"POST /tables/notes HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n";
        let mut parts: Vec<&[u8]> = vec![head];
        parts.extend(std::iter::repeat_n(chunk.as_slice(), 100));
        assert!(matches!(service.status(&parts), None | Some(413)), "a body of 100 MB");
        let endless = b"POST /tables/notes HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut framed = b"100000\r\n".to_vec();
        framed.extend(&chunk);
        framed.extend(b"\r\n");
        let mut parts: Vec<&[u8]> = vec![endless];
        parts.extend(std::iter::repeat_n(framed.as_slice(), 100));
        assert!(matches!(service.status(&parts), None | Some(413)), "a body without an end");

        // 100 MB of blanks are 100 KB when they are compressed.
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..100 {
            bomb.write_all(&chunk).unwrap();
        }
        let bomb = bomb.finish().unwrap();
        for path in ["/tables/notes", "/$batch"] {
            assert_eq!(service.post(path, "content-encoding: gzip\r\n", &bomb), Some(413), "a bomb");
            assert_eq!(service.post(path, "content-encoding: gzip\r\n", b"no gzip"), Some(400));
        }

        let nested = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        let nested = format!(r#"{{"id":"n","title":{nested}}}"#);
        assert_eq!(service.post("/tables/notes", "", nested.as_bytes()), Some(400), "a nested body");
        assert_eq!(service.post("/$batch", "", nested.as_bytes()), Some(400), "a nested batch");
        let deep = format!(r#"{{"operations":[{{"method":"POST","path":"tables/notes","body":{nested}}}]}}"#);
        assert!(matches!(service.post("/$batch", "", deep.as_bytes()), Some(200 | 400)), "a nested body in a batch");
    });
}

#[test]
fn queries_that_are_none() {
    beside_an_honest_client(64, |service| {
        let filter = "a".repeat(1024 * 1024);
        let long = service.get(&format!("/tables/notes?$filter={filter}"));
        assert_eq!(long, Some(414), "a filter of 1 MB");
        for part in ["(", "not%20", "a%20or%20", "id%20eq%20'", "1%20add%20", "concat("] {
            let count = 60_000 / part.len();
            let filter = service.get(&format!("/tables/notes?$filter={}", part.repeat(count)));
            assert!(matches!(filter, Some(400 | 414)), "{part} {count} times: {filter:?}");
        }
        let brackets = ["(".repeat(20_000), ")".repeat(20_000)].concat();
        assert!(
            matches!(service.get(&format!("/tables/notes?$filter={brackets}")), Some(400 | 414)),
            "nested brackets"
        );
        for wrong in [
            "$filter=%ff%fe",
            "$top=-1",
            "$skip=-1",
            "$top=99999999999999999999999",
            "$skip=99999999999999999999999",
            "$top=NaN",
            "$orderby=nothing",
            "$select=nothing",
            "__delta=what",
            "__delta=&$orderby=id",
        ] {
            assert_eq!(service.get(&format!("/tables/notes?{wrong}")), Some(400), "{wrong}");
        }
        assert_eq!(service.get("/tables/notes?$skip=9999999999&$orderby=title"), Some(200));
    });
}

/// The limit is 64 KiB; what is longer is refused before it is read as a query.
#[test]
fn a_query_that_is_too_long_or_not_utf8_is_refused_with_a_word_and_the_service_goes_on() {
    beside_an_honest_client(64, |service| {
        let filter = |bytes: usize| {
            let option = "$filter=title%20eq%20'";
            format!("{option}{}'", "x".repeat(bytes - option.len() - 1))
        };
        let path = "/tables/notes?";
        // The longest target that the service takes in one piece is of 65,534 bytes.
        assert_eq!(service.get(&format!("{path}{}", filter(65_534 - path.len()))), Some(200));
        for bytes in [65_535 - path.len(), 64 * 1024, 64 * 1024 + 1, 70_000, 100_000, 1_000_000] {
            assert_eq!(service.get(&format!("{path}{}", filter(bytes))), Some(414), "{bytes} bytes");
        }
        let quoted =
            ["'%ff'", "'a%C3'", "'%C3%28'", "'%ED%A0%80'", "'%F4%90%80%80'", "'%c0%af'", "('%80')", "'%00%fe'"];
        for text in quoted {
            for path in [format!("{path}$filter=title%20eq%20{text}"), format!("{path}$filter=title%20in%20({text})")] {
                let (head, answer) = service.send("GET", &path, "");
                assert!(head.starts_with("HTTP/1.1 400"), "{path}: {head}");
                assert!(answer.contains("not UTF-8 (at byte 8)"), "{path}: {answer}");
            }
        }
        // The bytes themselves, as no client should send them.
        let raw = b"GET /tables/notes?$filter=title%20eq%20'\xff' HTTP/1.1\r\nhost: h\r\n\r\n";
        assert_eq!(service.status(&[raw]), Some(400));
    });
}

#[test]
fn ids_with_every_byte() {
    beside_an_honest_client(64, |service| {
        for byte in 0..=u8::MAX {
            let path = format!("/tables/notes/x%{byte:02x}y");
            let answer = service.get(&path);
            assert!(matches!(answer, Some(400 | 404)), "{path}: {answer:?}");
            let raw = [&b"GET /tables/notes/x"[..], &[byte], b"y HTTP/1.1\r\nhost: h\r\n\r\n"].concat();
            let answer = service.status(&[&raw]);
            assert!(matches!(answer, None | Some(400 | 404 | 414)), "the byte {byte}: {answer:?}");
            let body = [&br#"{"id":"x"#[..], &[byte], br#"","title":"t"}"#].concat();
            let answer = service.post("/tables/notes", "", &body);
            assert!(matches!(answer, Some(201 | 400 | 409)), "the byte {byte} in a body: {answer:?}");
        }
        let long = json!({ "id": "x".repeat(1_025), "title": "t" }).to_string();
        assert_eq!(service.post("/tables/notes", "", long.as_bytes()), Some(400));
    });
}

#[test]
fn batches_that_are_too_large() {
    beside_an_honest_client(64, |service| {
        let one = r#"{"method":"DELETE","path":"tables/notes/x"}"#;
        let batch = |count: usize| format!(r#"{{"operations":[{}]}}"#, vec![one; count].join(","));
        assert_eq!(service.post("/$batch", "", batch(100_000).as_bytes()), Some(413), "a batch of 100,000");
        assert_eq!(service.post("/$batch", "", batch(1_001).as_bytes()), Some(413));
        assert_eq!(service.post("/$batch", "", batch(1_000).as_bytes()), Some(200));
        for body in ["", "[]", "{}", r#"{"operations":1}"#, r#"{"operations":[{"method":"GET"}]}"#] {
            assert_eq!(service.post("/$batch", "", body.as_bytes()), Some(400), "{body}");
        }
    });
}

#[test]
fn answers_that_would_be_too_long() {
    beside_an_honest_client(200, |service| {
        // 20 MB of rows.
        let text = "x".repeat(1_000_000);
        for number in 0..20 {
            let row = json!({ "id": format!("long-{number}"), "title": text }).to_string();
            assert_eq!(service.json("POST", "/tables/notes", &row).0, 201);
        }
        // What is looked at is text: to read so much JSON takes a debug build long.
        let rows = |answer: &str| answer.matches(r#""id":"long-"#).count();
        let (_, page) = service.send("GET", "/tables/notes?$filter=startswith(id,'long')&$orderby=title", "");
        assert_eq!((rows(&page), page.contains(r#""nextLink":"$filter"#)), (8, true));
        let (mut pages, mut found, mut token) = (0, 0, String::new());
        loop {
            let (_, page) = service.send("GET", &format!("/tables/notes?__delta={token}&$top=1000"), "");
            (pages, found) = (pages + 1, found + rows(&page));
            token = page.rsplit_once(r#""token":""#).unwrap().1.split('"').next().unwrap().to_owned();
            if page.contains(r#""more":false"#) {
                break;
            }
        }
        assert!(pages >= 3 && found == 20, "{found} in {pages}");
        // Each is answered with a row of 1 MB.
        let conflicts: Vec<String> = (0..40)
            .map(|number| {
                format!(r#"{{"method":"DELETE","path":"tables/notes/long-{}","ifMatch":"AA=="}}"#, number % 20)
            })
            .collect();
        let batch = format!(r#"{{"operations":[{}]}}"#, conflicts.join(","));
        let (_, answer) = service.send("POST", "/$batch", &batch);
        assert_eq!((answer.matches(r#""status":412"#).count(), rows(&answer)), (40, 8));
    });
}

#[test]
fn a_thousand_silent_connections() {
    beside_an_honest_client(64, |service| {
        let mut silent = Vec::new();
        for number in 0..1_000 {
            let mut stream = service.connect();
            // Some say half a word.
            if number % 2 == 0 {
                stream.write_all(b"GET /tables/no").unwrap();
            }
            silent.push(stream);
        }
        for _ in 0..20 {
            assert_eq!(service.get("/tables/notes/a"), Some(200));
        }
    });
}
