//! The program `datasync-server` as an operator runs it: a configuration file, signals, and kills.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

const CONFIG: &str = r#"
data = "service.redb"
[tables.todo]
soft_delete = true
fields = { title = "text", done = "bool", rating = "i64?", state = ["open", "closed"] }
[tables.anything]
path = "any/thing"
schemaless = true
"#;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasync-server"));
    command.arg("--config").arg(folder.join("service.toml")).args(["--listen", "127.0.0.1:0"]);
    command
}

struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(folder: &Path, more: &[&str]) -> Running {
        let mut child = command(folder).args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Running { child, address }
    }

    /// One request on a connection of its own; the head of the answer, and its body.
    fn send(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("service.toml"), config).unwrap();
    folder
}

#[test]
fn tables_of_the_configuration_are_served_and_survive_a_kill() {
    let folder = folder(CONFIG);
    let service = Running::start(folder.path(), &[]);
    let (head, _) = service.send("POST", "/tables/todo", r#"{"id":"a","title":"milk","state":"open","unknown":1}"#);
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let (head, _) = service.send("POST", "/any/thing", r#"{"id":"b","whatever":{"deep":[1,2]}}"#);
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    assert!(service.send("POST", "/tables/todo", r#"{"id":"c","state":"ajar"}"#).0.starts_with("HTTP/1.1 400"));
    assert!(service.send("GET", "/tables/nothing", "").0.starts_with("HTTP/1.1 404"));
    let token = |service: &Running| {
        let page: serde_json::Value =
            serde_json::from_str(&service.send("GET", "/tables/todo?__delta=", "").1).unwrap();
        page["delta"]["token"].as_str().unwrap().to_owned()
    };
    let before = token(&service);
    service.signal("-9");
    drop(service);

    let service = Running::start(folder.path(), &[]);
    let row: serde_json::Value = serde_json::from_str(&service.send("GET", "/tables/todo/a", "").1).unwrap();
    assert_eq!((row["title"].as_str(), row["state"].as_str()), (Some("milk"), Some("open")));
    assert_eq!((row["done"].as_bool(), row["rating"].is_null(), row.get("unknown")), (Some(false), true, None));
    let row: serde_json::Value = serde_json::from_str(&service.send("GET", "/any/thing/b", "").1).unwrap();
    assert_eq!(row["whatever"]["deep"][1], 2);
    assert_eq!(token(&service), before);
    drop(service);

    let service = Running::start(folder.path(), &["--restored"]);
    let page: serde_json::Value =
        serde_json::from_str(&service.send("GET", &format!("/tables/todo?__delta={before}"), "").1).unwrap();
    assert_eq!((page["delta"]["restart"].as_bool(), page["items"].as_array().unwrap().len()), (Some(true), 1));
}

#[test]
fn sigterm_answers_the_requests_under_way() {
    let folder = folder(CONFIG);
    let mut service = Running::start(folder.path(), &[]);
    let mut slow = TcpStream::connect(&service.address).unwrap();
    let body = r#"{"id":"a","title":"milk","state":"open"}"#;
    let head = format!(
        "POST /tables/todo HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&body.as_bytes()[..9]).unwrap();
    // The answer to a later request shows that the service has begun with this one.
    service.send("GET", "/tables/todo", "");
    service.signal("-TERM");
    while TcpStream::connect(&service.address).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    slow.write_all(&body.as_bytes()[9..]).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn a_configuration_that_cannot_be_right_is_named() {
    let fails = |config: &str| -> String {
        let folder = folder(config);
        let Output { status, stderr, .. } = command(folder.path()).output().unwrap();
        assert!(!status.success());
        String::from_utf8(stderr).unwrap()
    };
    for (config, word) in [
        ("data = 1", "data"),
        ("[tables.a]", "missing field `data`"),
        ("data = 'd.redb'", "missing field `tables`"),
        ("data = 'd.redb'\n[tables]", "no table"),
        ("data = 'd.redb'\ncolour = 1\n[tables.a]", "unknown field `colour`"),
        ("data = 'd.redb'\n[tables.a]\nfields = { x = 'txt' }", "none of bool"),
        ("data = 'd.redb'\n[tables.a]\nfields = { x = [] }", "without a member"),
        ("data = 'd.redb'\n[tables.a]\npage_size = 0", "page size"),
        ("data = 'd.redb'\nlisten = 'everywhere'\n[tables.a]", "listen"),
        ("data = 'service.toml'\n[tables.a]", "the data"),
    ] {
        let error = fails(config);
        assert!(error.contains(word), "{config}: {error}");
    }
}
