//! The program `datasync-server` as an operator runs it: a configuration file, signals, and kills.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod running;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output},
    time::Duration,
};

use running::{ANY_PORT, Running, command, folder};

const CONFIG: &str = r#"
data = "service.redb"
[tables.todo]
soft_delete = true
fields = { title = "text", done = "bool", rating = "i64?", state = ["open", "closed"] }
[tables.anything]
path = "any/thing"
schemaless = true
"#;

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
    assert_eq!((page["delta"]["restart"].as_str(), page["items"].as_array().unwrap().len()), (Some("restored"), 1));
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
fn every_key_of_the_configuration_holds() {
    let text = r#"
        listen = "127.0.0.1:0"
        data = "below/../service.redb"
        max_body = 2000
        tombstone_days = 7
        [tables.hard]
        soft_delete = false
        page_size = 2
        max_top = 5
        fields = { title = "text" }
        [tables.soft]
        path = "other/place"
        fields = { title = "text" }
    "#;
    let folder = folder(text);
    std::fs::create_dir(folder.path().join("below")).unwrap();
    let service = Running::of(command(folder.path()), folder.path());
    assert!(service.address.starts_with("127.0.0.1:"));
    assert_eq!(service.json("GET", "/.well-known/datasync", "").1["tombstoneDays"], 7);
    for path in ["/tables/hard", "/other/place"] {
        for id in ["a", "b", "c"] {
            assert_eq!(service.json("POST", path, &format!(r#"{{"id":"{id}","title":"x"}}"#)).0, 201);
        }
        assert_eq!(service.json("DELETE", &format!("{path}/a"), "").0, 204);
        let long = format!(r#"{{"id":"long","title":"{}"}}"#, "x".repeat(2_000));
        assert_eq!(service.json("POST", path, &long).0, 413);
    }
    assert_eq!(service.json("GET", "/tables/hard/a", "").0, 404);
    assert_eq!(service.json("GET", "/other/place/a", "").0, 410, "deletions are soft unless it is said otherwise");
    assert_eq!(service.json("POST", "/tables/hard", r#"{"id":"d","title":"x"}"#).0, 201);
    let (_, page) = service.json("GET", "/tables/hard?$count=true", "");
    assert_eq!((page["items"].as_array().unwrap().len(), page["count"].as_u64()), (2, Some(3)));
    assert!(page["nextLink"].is_string());
    let (_, page) = service.json("GET", "/tables/hard", "");
    assert!(page["count"].is_null(), "nothing is counted unless it is asked for");
    assert_eq!(service.json("GET", "/tables/hard?$top=5", "").0, 200);
    assert_eq!(service.json("GET", "/tables/hard?$top=6", "").0, 400);
}

#[test]
fn it_listens_on_the_loopback_unless_it_is_told_otherwise() {
    let folder = folder(CONFIG);
    let listening = |arguments: &[&str]| {
        let mut service = command(folder.path());
        service.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut service = service.spawn().unwrap();
        let (mut said, mut warned) = (vec![0; 64], String::new());
        // Nothing, if the port is taken: then the error names the address.
        let length = service.stdout.as_mut().unwrap().read(&mut said).unwrap();
        service.kill().unwrap();
        service.stderr.as_mut().unwrap().read_to_string(&mut warned).unwrap();
        service.wait().unwrap();
        String::from_utf8_lossy(&said[..length]).into_owned() + &warned
    };
    let said = listening(&[]);
    assert!(said.contains("127.0.0.1:8080") && !said.contains("no TLS"), "{said}");
    let said = listening(&["--listen", "0.0.0.0:0"]);
    assert!(said.contains("0.0.0.0:") && said.contains("put a gateway before it"), "{said}");
}

#[test]
fn i01_a_full_disk_is_told_to_the_operator_and_the_service_goes_on_when_there_is_space() {
    let folder = folder(CONFIG);
    let inner = command(folder.path());
    // The signal for a file that is too large is not wanted, only the error; the limit may be raised again.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -S -f 4096; exec \"$0\" \"$@\""]).arg(inner.get_program());
    limited.args(inner.get_args()).args(ANY_PORT);
    let service = Running::of(limited, folder.path());
    let row = |number: usize| format!(r#"{{"id":"{number}","title":"{}","state":"open"}}"#, "x".repeat(10_000));
    let mut stored = 0;
    while service.json("POST", "/tables/todo", &row(stored)).0 == 201 {
        stored += 1;
    }
    assert!(stored > 50, "{stored}");
    for _ in 0..3 {
        assert_eq!(service.json("POST", "/tables/todo", &row(stored)).0, 500);
        assert_eq!(service.json("POST", "/any/thing", &row(stored)).0, 500);
    }
    let count = |service: &Running| service.json("GET", "/tables/todo?$count=true&$top=0", "").1["count"].as_u64();
    // The request that finds the file closed by a failure opens it again, and may fail itself.
    let counted = (0..5).find_map(|_| count(&service));
    assert_eq!(counted, Some(stored as u64), "what was answered with 201 is there, and nothing else");
    assert!(service.log().contains("File too large"), "{}", service.log());
    let raised = Command::new("prlimit").args(["--pid", &service.child.id().to_string(), "--fsize=unlimited"]).status();
    if !raised.is_ok_and(|status| status.success()) {
        return println!("without prlimit the limit of a process cannot be raised: it is not tried whether it goes on");
    }
    let went_on = (0..5).any(|_| service.json("POST", "/tables/todo", &row(stored)).0 == 201);
    assert!(went_on, "{}", service.log());
    assert_eq!(count(&service), Some(stored as u64 + 1));
}

#[test]
fn a_configuration_that_cannot_be_right_is_named() {
    let fails = |config: &str| -> String {
        let folder = folder(config);
        let Output { status, stderr, .. } = command(folder.path()).args(ANY_PORT).output().unwrap();
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
