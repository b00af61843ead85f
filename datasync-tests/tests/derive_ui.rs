//! What the derive says about mistakes: one mistake a file, compared only under the pinned compiler.

use std::process::Command;

/// The compiler whose messages the expectations hold.
const TOOLCHAIN: &str = include_str!("../../rust-toolchain.toml");

#[test]
fn every_mistake_has_its_own_message_at_its_own_place() {
    let version = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let pinned = version.split_whitespace().nth(1).is_some_and(|number| TOOLCHAIN.contains(&format!("\"{number}\"")));
    if !pinned {
        println!("skipped: the expectations are those of the compiler in rust-toolchain.toml, and this is {version}");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/**/*.rs");
}
