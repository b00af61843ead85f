//! The page of the invariants and the tests that there are say the same: `docs/invariants.md`.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The macros that make a test run in every cell.
const EVERY_CELL: [&str; 2] = ["on_both_stores! {", "on_both_places! {"];
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

#[derive(Debug, Default, PartialEq, Eq)]
struct Tests {
    /// Those of each invariant that run in every cell.
    everywhere: BTreeMap<u32, BTreeSet<String>>,
    elsewhere: BTreeMap<u32, BTreeSet<String>>,
}

fn tests_that_there_are() -> Tests {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), &mut files);
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let in_macros = texts.iter().flat_map(|text| EVERY_CELL.iter().flat_map(|name| text.split(name).skip(1)));
    let in_macros: BTreeSet<&str> =
        in_macros.flat_map(|text| text.split('}').next().unwrap().split_whitespace()).collect();
    let mut tests = Tests::default();
    let functions = texts.iter().flat_map(|text| text.split("fn ").skip(1));
    for name in functions.map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()) {
        for number in named_after(name) {
            let cells = if in_macros.contains(name) { &mut tests.everywhere } else { &mut tests.elsewhere };
            let first = cells.entry(number).or_default().insert(name.to_owned());
            assert!(first, "two tests are called {name}");
        }
    }
    tests
}

fn tests_of_the_page(page: &str) -> Tests {
    let mut tests = Tests::default();
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
                tests.elsewhere.entry(number).or_default().insert(name.trim_end_matches('`').to_owned());
            }
        }
    }
    tests
}

#[test]
fn every_invariant_has_tests_and_the_page_names_them() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/invariants.md")).unwrap();
    let (told, found) = (tests_of_the_page(&page), tests_that_there_are());
    for number in 1..=INVARIANTS {
        let of = |tests: &BTreeMap<u32, BTreeSet<String>>| tests.get(&number).cloned().unwrap_or_default();
        assert!(!of(&found.everywhere).is_empty() || !of(&found.elsewhere).is_empty(), "I{number} has no test");
        assert_eq!(of(&told.everywhere), of(&found.everywhere), "I{number}, in every cell (left: the page)");
        assert_eq!(of(&told.elsewhere), of(&found.elsewhere), "I{number}, elsewhere (left: the page)");
    }
    assert_eq!(told, found, "there are no more invariants");
}
