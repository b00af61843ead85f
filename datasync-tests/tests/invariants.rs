//! The page of the invariants and the tests that there are say the same: `docs/invariants.md`.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The macros that make a test run in every cell.
const EVERY_CELL: [&str; 2] = ["on_both_stores", "on_both_places"];
/// Those that make it run in cells that a row of a table names.
const OTHERS: [&str; 2] = ["on_both_stores_extended", "on_both_wires"];
const INVARIANTS: u32 = 28;

/// Every source file of the workspace.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// The invariants that a test is named after.
fn named_after(test: &str) -> BTreeSet<u32> {
    test.split('_').map_while(|part| part.strip_prefix('i').filter(|number| number.len() == 2)?.parse().ok()).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// A function as it stands in a file.
#[derive(Debug)]
struct Function {
    name: String,
    attributes: Vec<String>,
    /// From its name to its last line.
    text: String,
}

/// The functions of a file, which `cargo fmt` has laid out.
fn functions(file: &str) -> Vec<Function> {
    let lines: Vec<&str> = file.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let (before, name) = match code.split_once("fn ") {
            Some((before, rest)) => (before, words(rest).next().unwrap()),
            None => continue,
        };
        if name.is_empty() || !before.split_whitespace().all(|word| word.starts_with("pub") || word == "async") {
            continue;
        }
        let above = lines[..at].iter().rev().map(|line| line.trim()).take_while(|line| line.starts_with(['#', '/']));
        let attributes = above.filter(|line| line.starts_with('#')).map(str::to_owned).collect();
        let indent = line.len() - code.len();
        let ends = |line: &&str| line.len() == indent + 1 && line.ends_with('}');
        let length = match code.ends_with(['}', ';']) {
            true => 1,
            false => 1 + lines[at..].iter().position(ends).unwrap_or_else(|| panic!("`{name}` has no end")),
        };
        found.push(Function { name: name.to_owned(), attributes, text: lines[at..at + length].join("\n") });
    }
    found
}

/// The names that a file gives to a macro.
fn in_macro<'a>(file: &'a str, name: &str) -> BTreeSet<&'a str> {
    let start = format!("{name}! {{");
    let lists = file.split(&start).skip(1).map(|text| text.split('}').next().unwrap());
    lists.flat_map(str::split_whitespace).collect()
}

/// What a row of the page says of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cells {
    store: String,
    way: String,
    extensions: String,
}

#[derive(Debug, Default)]
struct Tests {
    /// Those of each invariant that run in every cell.
    everywhere: BTreeMap<u32, BTreeSet<String>>,
    elsewhere: BTreeMap<u32, BTreeSet<String>>,
}

/// The tests, and those whose macro says in which cells they run.
fn tests_that_there_are() -> (Tests, BTreeMap<String, &'static str>) {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), &mut files);
    let mut programs: BTreeMap<PathBuf, String> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        // The files of a folder with a `main.rs` are one program.
        let folder = file.parent().unwrap();
        let program = if folder.join("main.rs").exists() { folder.to_owned() } else { file };
        programs.entry(program).or_default().push_str(&text);
    }
    let (mut tests, mut of_macros) = (Tests::default(), BTreeMap::new());
    for text in programs.values() {
        let all = functions(text);
        let listed =
            |names: [&'static str; 2], test: &str| names.into_iter().find(|name| in_macro(text, name).contains(test));
        for test in all.iter().filter(|function| !named_after(&function.name).is_empty()) {
            let name = &test.name;
            let of = listed(OTHERS, name);
            let everywhere = listed(EVERY_CELL, name).is_some();
            let is_test = |line: &String| line == "#[test]" || line.starts_with("#[tokio::test");
            let runs = everywhere || of.is_some() || test.attributes.iter().any(is_test);
            assert!(runs, "`{name}` is called like a test, and nothing runs it");
            let left_out = test.attributes.iter().find(|line| !is_test(line));
            assert!(left_out.is_none(), "`{name}` does not run everywhere: {left_out:?}");
            if everywhere {
                assert!(!test.text.contains("return;"), "`{name}` leaves cells out: say so in a table");
                assert!(test.text.contains(" wire: Wire"), "`{name}` does not look at its cell");
            } else if let Some(of) = of {
                of_macros.insert(name.clone(), of);
            }
            for number in named_after(name) {
                let cells = if everywhere { &mut tests.everywhere } else { &mut tests.elsewhere };
                let first = cells.entry(number).or_default().insert(name.clone());
                assert!(first, "two tests are called {name}");
            }
        }
    }
    (tests, of_macros)
}

fn tests_of_the_page(page: &str) -> (Tests, BTreeMap<String, Cells>) {
    let (mut tests, mut rows) = (Tests::default(), BTreeMap::new());
    for section in page.split("\n## I").skip(1) {
        let number: u32 = section.split(':').next().unwrap().parse().unwrap();
        for line in section.lines() {
            if let Some(name) = line.strip_prefix("- `").and_then(|line| line.strip_suffix('`')) {
                tests.everywhere.entry(number).or_default().insert(name.to_owned());
            } else if let Some(row) = line.strip_prefix("| `") {
                let columns: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
                let [name, store, way, extensions, reason] = columns[..] else { panic!("{line}") };
                assert!(["memory", "redb", "both", "none"].contains(&store), "{line}");
                assert!(["in process", "socket", "both", "none"].contains(&way), "{line}");
                assert!(["on", "off", "both", "none"].contains(&extensions), "{line}");
                assert!(reason.len() > 20, "a reason: {line}");
                let name = name.trim_end_matches('`').to_owned();
                let [store, way, extensions] = [store, way, extensions].map(str::to_owned);
                let cells = Cells { store, way, extensions };
                let before = rows.insert(name.clone(), cells.clone());
                assert!(before.is_none_or(|before| before == cells), "two rows of one test differ: {line}");
                tests.elsewhere.entry(number).or_default().insert(name);
            }
        }
    }
    (tests, rows)
}

#[test]
fn every_invariant_has_tests_and_the_page_names_them() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/invariants.md")).unwrap();
    let ((told, rows), (found, of_macros)) = (tests_of_the_page(&page), tests_that_there_are());
    for number in 1..=INVARIANTS {
        let of = |tests: &BTreeMap<u32, BTreeSet<String>>| tests.get(&number).cloned().unwrap_or_default();
        assert!(!of(&found.everywhere).is_empty() || !of(&found.elsewhere).is_empty(), "I{number} has no test");
        assert_eq!(of(&told.everywhere), of(&found.everywhere), "I{number}, in every cell (left: the page)");
        assert_eq!(of(&told.elsewhere), of(&found.elsewhere), "I{number}, elsewhere (left: the page)");
    }
    assert_eq!(told.everywhere, found.everywhere, "there are no more invariants");
    assert_eq!(told.elsewhere, found.elsewhere, "there are no more invariants");
    for (name, of) in of_macros {
        let Cells { store, way, extensions } = &rows[&name];
        match of {
            "on_both_wires" => assert_eq!(extensions, "both", "{name}"),
            _ => assert_eq!([store, way, extensions], ["both", "both", "on"], "{name}"),
        }
    }
}
