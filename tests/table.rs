//! The tables in `README.md` name tests that there are.

use std::{collections::BTreeSet, fs, path::Path};

/// All tests in the files of a folder, as `file::test` and `folder::test`.
fn tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, names);
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let room = folder.file_name().unwrap().to_string_lossy().into_owned();
        let script = path.extension().is_some_and(|ending| ending == "mjs");
        // In Rust what stands behind the attribute, in scripts a table of tests.
        let mut is_test = script;
        for line in text.lines().map(str::trim_start) {
            is_test |= matches!(line, "#[test]" | "#[wasm_bindgen_test]");
            let line = line.strip_prefix("async ").unwrap_or(line);
            let function = line.strip_prefix("fn ");
            if let (true, Some(line)) = (is_test, function.or(script.then_some(line))) {
                let name = line.split(['(', ':']).next().unwrap();
                names.extend([format!("{stem}::{name}"), format!("{room}::{name}")]);
                is_test = script;
            }
        }
    }
}

/// `README.md`, and the names of all tests; nothing in the published package, which has no tests of the examples.
fn readme_and_tests() -> Option<(String, BTreeSet<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.join("Cargo.toml.orig").exists() {
        eprintln!("skipped: the package has not all tests");
        return None;
    }
    let mut names = BTreeSet::new();
    for folder in [
        "tests",
        "examples/style_transfer/src",
        "examples/style_transfer/tests",
        "examples/web_norm/tests",
    ] {
        tests(&root.join(folder), &mut names);
    }
    Some((fs::read_to_string(root.join("tests/README.md")).unwrap(), names))
}

#[test]
fn every_test_that_is_named_is_there() {
    let Some((table, names)) = readme_and_tests() else { return };
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    let (mut file, mut seen) = (String::new(), 0);
    for row in rows.skip_while(|row| !row.contains("input | host")) {
        let tests = row.rsplit(" | ").next().unwrap().trim_end_matches(" |");
        // Every second piece is between backquotes.
        for name in tests.split('`').skip(1).step_by(2) {
            let name = name.split(' ').next().unwrap();
            let function = match name.split_once("::") {
                Some((of, function)) => {
                    file = of.to_owned();
                    function
                }
                None if name.contains('/') || name.contains("WGNORM") || !name.contains('_') => {
                    continue;
                }
                None => name,
            };
            let whole = format!("{file}::{function}");
            let is_there = function == "*"
                && names.iter().any(|n| n.starts_with(&format!("{file}::")))
                || names.contains(&whole)
                || names.contains(&format!("page::{function}"));
            assert!(
                is_there || ["style_transfer", "web_norm"].contains(&function),
                "{whole} is no test"
            );
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} names in the table");
}

/// Each public report has one row: a link, a sentence about it, one about this crate, and tests by their full names.
#[test]
fn every_report_has_its_tests() {
    let Some((readme, names)) = readme_and_tests() else { return };
    let section =
        readme.split("\n## ").find(|text| text.starts_with("What others' bug reports say"));
    let rows = section.expect("the section").lines().filter(|line| line.starts_with("| ["));
    let mut reports = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let [report, says, here, tests] = cells[..] else { panic!("{row}") };
        let number = report.split([' ', ']']).nth(1).unwrap();
        let link = report.split(['(', ')']).nth(1).unwrap();
        let path: Vec<_> = link.strip_prefix("https://github.com/").unwrap().split('/').collect();
        assert!(matches!(path[..], [_, _, "issues", end] if end == number), "{report}");
        assert!(says.ends_with('.') && here.ends_with('.'), "{row}");
        assert!(reports.insert(link), "{link} has two rows");
        let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{link} has no test");
        for test in tests {
            assert!(names.contains(test), "{test}, of {link}, is no test");
        }
    }
    assert!(reports.len() >= 33, "only {} reports", reports.len());
}
