//! The example `conformance-client` as the cases of others run it: a line in, a line out.
//!
//! What it makes of the cases of clients is what `datasync-server/tests/conformance.rs` sends to the service.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use datasync::query::QueryDescription;
use serde_json::{Value, json};

/// The cases whose text we write otherwise, and why. The query is the same.
const WRITTEN_OTHERWISE: [(u64, &str); 2] = [
    (
        1314,
        "Azure's clients write a time of day without milliseconds, as PROTOCOL.md 2.2 and the case of that literal say",
    ),
    (1315, "the same"),
];

struct Program {
    running: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Program {
    /// Over the folder of the cases, or `None` with a word about it.
    fn start() -> Option<(Program, PathBuf)> {
        let Some(folder) = std::env::var_os("DATASYNC_CONFORMANCE_DIR").map(PathBuf::from) else {
            println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
            return None;
        };
        let test = std::env::current_exe().unwrap();
        let path = test.parent().unwrap().parent().unwrap().join("examples").join("conformance-client");
        let path = path.with_extension(std::env::consts::EXE_EXTENSION);
        assert!(path.exists(), "`cargo test` without `--test` builds the example first");
        let mut program = Command::new(path);
        program.arg("--data").arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = program.spawn().unwrap();
        let (lines, answers) = (running.stdin.take().unwrap(), BufReader::new(running.stdout.take().unwrap()));
        Some((Program { running, lines, answers }, folder))
    }

    /// The next line is sent only when this one is answered.
    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.lines, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn end(mut self) {
        drop(self.lines);
        assert!(self.running.wait().unwrap().success());
    }
}

#[test]
fn the_queries_of_clients_are_translated_and_answered_line_by_line() {
    let Some((mut program, folder)) = Program::start() else { return };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("query_cases.json")).unwrap()).unwrap();
    let (mut passed, mut wrong) = (0, Vec::new());
    for case in cases.iter().filter(|case| case["source"].as_str().unwrap().ends_with("-client")) {
        let (query, schema) = (case["query"].as_str().unwrap(), case["schema"].as_str().unwrap());
        let translated = program.ask(&json!({ "translate": case["ast"], "dialect": schema }).to_string());
        let dataset = if case["preDeleted"].is_null() { &case["dataset"] } else { &json!("softmovies") };
        let answer = program.ask(&json!({ "query": query, "dataset": dataset, "schema": schema }).to_string());
        let rows = answer["ids"].as_array().map_or(0, Vec::len);
        let sent = translated["escaped"].as_str().and_then(|sent| QueryDescription::from_query_string(sent).ok());
        let otherwise = WRITTEN_OTHERWISE.iter().any(|(n, _)| case["n"] == *n);
        let text = (translated["text"] == query) != otherwise;
        if text && sent == query.parse().ok() && case["expected"]["allItems"] == rows {
            passed += 1;
        } else {
            wrong.push(format!("{} {query}: {translated}, {rows} rows", case["n"]));
        }
    }
    program.end();
    println!("{passed} cases passed");
    assert!(wrong.is_empty() && passed > 0, "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn rows_are_never_cut_to_a_page_and_a_bad_line_is_answered_and_passed_over() {
    let Some((mut program, _)) = Program::start() else { return };
    let mut ask =
        |query: &str| program.ask(&json!({ "query": query, "dataset": "movies", "schema": "ct" }).to_string());
    let window = |query: &str, from: usize, to: usize| {
        let ids: Vec<String> = (from..to).map(|number| format!("id-{number:03}")).collect();
        (query.to_owned(), json!({ "ids": ids, "total": 248 }))
    };
    let most = i64::MAX;
    let windows = [
        window("", 0, 248),
        window("$count=true&$select=title", 0, 248),
        window("$top=0", 0, 0),
        window("$top=125", 0, 125),
        window("$skip=100&$top=125", 100, 225),
        window("$skip=240&$top=125", 240, 248),
        window("$skip=248", 0, 0),
        window(&format!("$skip={most}&$top={most}"), 0, 0),
        window(&format!("$top={most}"), 0, 248),
    ];
    for (query, wanted) in windows {
        assert_eq!(ask(&query), wanted, "{query}");
    }
    for query in ["$filter=missing eq 1", "$orderby=missing", "$select=missing", "$top=-1", "$skip=x", "$what=1"] {
        let answer = ask(query);
        assert!(answer["error"].is_string() && answer["ids"].is_null(), "{query}: {answer}");
    }
    let lines =
        ["{", "[]", "7", r#"{"what":1}"#, r#"{"translate":7}"#, r#"{"query":"","dataset":"none","schema":"ct"}"#];
    for line in lines {
        assert!(program.ask(line)["error"].is_string(), "{line}");
    }
    let error = program.ask(r#"{"parse":"$filter=year gt"}"#);
    assert_eq!(error["at"], 15, "{error}");
    assert_eq!(program.ask(r#"{"parse":"$filter=year gt 7"}"#), json!({ "text": "$filter=(year gt 7L)" }));
    program.end();
}
