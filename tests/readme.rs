//! The sample of the README is the one of the guide, which is run.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

/// The first block of code that begins so, without the lines that rustdoc hides.
fn block(text: &str, fence: &str) -> String {
    let (_, rest) = text.split_once(&format!("```{fence}\n")).unwrap();
    let (code, _) = rest.split_once("```").unwrap();
    code.lines().filter(|line| *line != "#" && !line.starts_with("# ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_readme_shows_the_sample_that_is_run() {
    let guide = block(include_str!("../src/guide.md"), "standalone_crate");
    assert!(guide.starts_with("use datasync::prelude::*;\n"), "nothing else is needed: {guide}");
    assert_eq!(block(include_str!("../README.md"), "rust,ignore"), guide);
}
