//! The example `todo` as a person uses it: without a network, with one, and after a kill.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// The example lies beside the folder of the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join("todo");
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "`cargo test` without `--test` builds the example first");
    path
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env("TODO_DIR", folder);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

/// What a command that goes well says.
fn todo(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(folder, arguments);
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// What a command that fails says.
fn fails(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = run(folder, arguments);
    assert_eq!(status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stderr).unwrap()
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap()
}

struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(folder: &Path) -> Service {
        let mut serve = command(folder, &["serve", "--listen", "127.0.0.1:0"]);
        let mut child = serve.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Service { child, address }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configure(folder: &Path, service: &str, policy: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let text = format!("service = \"{service}\"\n[sync]\nconflict = \"{policy}\"\n");
    std::fs::write(folder.join("todo.toml"), text).unwrap();
}

#[test]
fn it_works_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made on the way");
    let milk = todo(&folder, &["add", "buy", "milk"]);
    let tax = todo(&folder, &["add", "Tax return", "--due", "2027-05-31"]);
    assert!(milk.contains("[ ] buy milk") && tax.contains("(by 2027-05-31)"));
    assert_eq!(todo(&folder, &["ls"]).lines().count(), 2);
    assert!(todo(&folder, &["ls"]).lines().next().unwrap().contains("Tax"), "what has a day comes first");
    todo(&folder, &["edit", first_word(&milk), "buy", "oat", "milk"]);
    assert!(todo(&folder, &["search", "OAT"]).contains("buy oat milk"));
    assert_eq!(todo(&folder, &["search", "nothing like it"]), "Nothing.\n");
    todo(&folder, &["done", first_word(&milk)]);
    assert!(!todo(&folder, &["ls"]).contains("milk"));
    assert!(todo(&folder, &["ls", "--all"]).contains("[x] buy oat milk"));
    let json: serde_json::Value = serde_json::from_str(&todo(&folder, &["ls", "--json"])).unwrap();
    assert_eq!(json[0]["due"], "2027-05-31");
    assert!(todo(&folder, &["status"]).starts_with("1 open, 1 done. Service: none"));
    todo(&folder, &["rm", first_word(&tax)]);
    assert_eq!(todo(&folder, &["ls"]), "Nothing.\n");
    assert_eq!(todo(&folder, &["conflicts"]), "No conflicts.\n");
    assert!(fails(&folder, &["sync"]).contains("todo.toml"), "it says how to name a service");
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let one = todo(folder, &["add", "one"]);
    assert!(fails(folder, &["done", "zzzz"]).contains("no todo `zzzz`"));
    assert!(fails(folder, &["rm", first_word(&one), "zzzz"]).contains("no todo `zzzz`"));
    assert_eq!(todo(folder, &["ls"]).lines().count(), 1, "an unknown name is found before any is removed");
    todo(folder, &["add", "two"]);
    assert!(fails(folder, &["done", ""]).contains("may be any of"));
    assert!(fails(folder, &["conflicts", "resolve", "1", "keep"]).contains("no number 1"));
    assert_eq!(run(folder, &["add"]).status.code(), Some(2));
    assert_eq!(run(folder, &["add", "x", "--due", "tomorrow"]).status.code(), Some(2));
    for (text, word) in [
        ("service = ", "todo.toml"),
        ("colour = 1", "unknown field `colour`"),
        ("[sync]\nconflict = 'mine'", "client-wins"),
        ("[tables.tod]\nconflict = 'park'", "no table `tod`"),
        ("service = 'ftp://h'", "http"),
    ] {
        std::fs::write(folder.join("todo.toml"), text).unwrap();
        let error = fails(folder, &["ls"]);
        assert!(error.contains(word), "{text}: {error}");
    }
    std::fs::remove_file(folder.join("todo.toml")).unwrap();
    std::fs::write(folder.join("todo.redb"), "somebody's letter").unwrap();
    assert!(fails(folder, &["ls"]).contains("not a store"));
}

#[test]
fn two_devices_and_a_service_agree_and_conflicts_wait_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let [phone, laptop, home] = ["phone", "laptop", "home"].map(|name| folder.path().join(name));
    let service = Service::start(&home);
    configure(&phone, &service.address, "park");
    configure(&laptop, &service.address, "server-wins");
    let milk = todo(&phone, &["add", "milk"]);
    todo(&phone, &["add", "bread"]);
    assert!(todo(&phone, &["status"]).contains("2 changes wait"));
    assert!(todo(&phone, &["sync"]).starts_with("2 sent"));
    assert!(todo(&laptop, &["sync"]).contains("2 added"));
    assert_eq!(todo(&laptop, &["ls"]), todo(&phone, &["ls"]));

    todo(&laptop, &["edit", first_word(&milk), "goat", "milk"]);
    todo(&phone, &["edit", first_word(&milk), "oat", "milk"]);
    todo(&laptop, &["sync"]);
    assert!(todo(&phone, &["sync"]).contains("1 conflicts wait for you"));
    let shown = todo(&phone, &["conflicts"]);
    for line in ["1. was:    milk", "mine:   oat milk", "theirs: goat milk"] {
        assert!(shown.contains(line), "{shown}");
    }
    todo(&phone, &["conflicts", "resolve", "1", "keep"]);
    assert!(todo(&phone, &["sync"]).starts_with("1 sent"));
    assert!(todo(&laptop, &["sync"]).contains("1 changed"));
    assert!(todo(&laptop, &["ls"]).contains("oat milk"));

    drop(service);
    todo(&phone, &["add", "on the train"]);
    let error = fails(&phone, &["sync"]);
    assert!(error.contains("1 changes wait here, nothing is lost"), "{error}");
    let service = Service::start(&home);
    configure(&phone, &service.address, "park");
    assert!(todo(&phone, &["sync"]).starts_with("1 sent"), "the service has kept its data through a kill");
    configure(&laptop, &service.address, "park");
    todo(&laptop, &["sync"]);
    assert_eq!(todo(&laptop, &["ls", "--all"]), todo(&phone, &["ls", "--all"]));
}

#[test]
fn after_a_kill_the_next_command_works() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut added = 0;
    for turn in 0..40_u64 {
        let mut running = command(folder, &["add", &format!("number {turn}")]).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(turn * 250));
        running.kill().unwrap();
        let said = running.wait_with_output().unwrap().stdout;
        added += usize::from(!said.is_empty());
    }
    let listed = todo(folder, &["ls"]);
    let rows = listed.lines().filter(|line| line.contains("number")).count();
    assert!(rows >= added, "{rows} of {added} that were told");
    assert!(todo(folder, &["status"]).contains(&format!("{rows} changes wait")), "each row with its change");
}

#[test]
fn a_second_program_gets_a_clear_error_and_a_closed_pipe_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for number in 0..5 {
        todo(folder, &["add", &format!("number {number}")]);
    }
    let open = datasync::redb::RedbStore::open(folder.join("todo.redb")).unwrap();
    assert!(fails(folder, &["ls"]).contains("open in another process"));
    drop(open);
    let mut listing = command(folder, &["ls"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(listing.stdout.take());
    assert!(listing.wait().unwrap().success());
}
