//! The example `todo` as a person uses it: without a network, with one, and after a kill.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]
#![allow(clippy::disallowed_methods, reason = "kills are spread over the time that a command takes")]

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

/// How often a command is killed.
const KILLS: u32 = 40;

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
    assert!(fails(folder, &["conflicts", "resolve", "1", "keep"]).contains("no conflict 1"));
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
    assert!(todo(&phone, &["sync"]).contains("1 conflict waits for you"));
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
    assert!(error.contains("1 change waits here, nothing is lost"), "{error}");
    let service = Service::start(&home);
    configure(&phone, &service.address, "park");
    assert!(todo(&phone, &["sync"]).starts_with("1 sent"), "the service has kept its data through a kill");
    configure(&laptop, &service.address, "park");
    todo(&laptop, &["sync"]);
    assert_eq!(todo(&laptop, &["ls", "--all"]), todo(&phone, &["ls", "--all"]));
}

/// Runs a command again and again and kills it at moments spread over half as long again as it takes undisturbed: what
/// those said that came to speak. Some are killed and some come to their end, however slow the machine is.
fn killed_at_any_moment(folder: &Path, arguments: impl Fn(u32) -> Vec<String>) -> Vec<String> {
    let prepare = |turn| {
        let arguments = arguments(turn);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = command(folder, &arguments);
        command.stdout(Stdio::piped());
        command
    };
    // The first has a file to make.
    let lasted = [0, 1].map(|turn| {
        let mut command = prepare(turn);
        let begun = Instant::now();
        assert!(command.output().unwrap().status.success());
        begun.elapsed()
    });
    let step = lasted[1] * 3 / 2 / KILLS;
    let (mut killed, mut told) = (0, Vec::new());
    for turn in 0.. {
        if turn >= KILLS && !told.is_empty() {
            break;
        }
        assert!(turn < 10 * KILLS, "none came to its end");
        let mut running = prepare(turn + 2).spawn().unwrap();
        std::thread::sleep(step * turn);
        running.kill().unwrap();
        let Output { status, stdout, .. } = running.wait_with_output().unwrap();
        killed += u32::from(!status.success());
        told.extend((!stdout.is_empty()).then(|| String::from_utf8(stdout).unwrap()));
    }
    println!("{killed} killed, {} told, {step:?} apart", told.len());
    assert!(killed > 0);
    told
}

/// The texts of a list, without their short names.
fn texts(list: &str) -> Vec<&str> {
    list.lines().map(|line| line.split_once(' ').unwrap().1).collect()
}

#[test]
fn after_a_kill_the_next_command_works() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let told = killed_at_any_moment(folder, |turn| ["add".to_owned(), format!("number {turn}")].into());
    let listed = todo(folder, &["ls"]);
    let rows = texts(&listed);
    assert!(told.iter().all(|line| rows.contains(&texts(line)[0])), "what was told is there: {told:?} of {rows:?}");
    assert_eq!(rows.iter().collect::<HashSet<_>>().len(), rows.len(), "none is there twice");
    let waiting = format!("{} changes wait", rows.len());
    assert!(todo(folder, &["status"]).contains(&waiting), "each row with its change: {waiting}");
}

#[test]
fn after_a_kill_in_a_sync_the_next_sync_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let [phone, laptop, home] = ["phone", "laptop", "home"].map(|name| folder.path().join(name));
    let service = Service::start(&home);
    configure(&phone, &service.address, "park");
    configure(&laptop, &service.address, "park");
    killed_at_any_moment(&phone, |turn| {
        todo(&phone, &["add", &format!("phone {turn}")]);
        todo(&laptop, &["add", &format!("laptop {turn}")]);
        todo(&laptop, &["sync"]);
        ["sync".to_owned()].into()
    });
    todo(&phone, &["sync"]);
    todo(&laptop, &["sync"]);
    let listed = todo(&phone, &["ls"]);
    assert_eq!(todo(&laptop, &["ls"]), listed);
    let rows = texts(&listed);
    let unique: HashSet<_> = rows.iter().collect();
    assert!(rows.len() == unique.len() && rows.len() >= 2 * KILLS as usize, "{rows:?}");
    let status = todo(&phone, &["status"]);
    assert!(status.contains("Nothing waits"), "{status}");
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
