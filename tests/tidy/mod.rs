//! The shape of the tree, held by tests: who may import whom, what every file begins with, what must not be left over.
//!
//! Each rule is a function from text to findings, shown at its own bad example first and then run over the tree.

mod imports;

mod rules;

use std::fs;
use std::path::{Path, PathBuf};

/// Files that hold the rules' own bad examples.
const SELF: &str = "tests/tidy";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir`, relative to the root, sorted.
fn paths(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        // Not every folder of the layout is there yet.
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a directory can be listed").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let relative = path.strip_prefix(root()).expect("below the root");
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Those with one of these endings, with their text.
fn files(dir: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut paths = paths(dir);
    paths.retain(|path| endings.iter().any(|ending| path.ends_with(ending)));
    let read = |path: String| match fs::read_to_string(root().join(&path)) {
        Ok(text) => (path, text),
        Err(error) => panic!("read {path}: {error}"),
    };
    paths.into_iter().map(read).collect()
}

/// Every Rust file of ours.
fn rust_files() -> Vec<(String, String)> {
    ["src", "tests", "benches"]
        .iter()
        .flat_map(|dir| files(dir, &[".rs"]))
        .collect()
}

/// Every file that people read.
fn text_files() -> Vec<(String, String)> {
    let mut all = rust_files();
    for dir in ["pipelines", "packaging", "docs"] {
        all.extend(files(dir, &[".md", ".toml", ".yaml", ".sh"]));
    }
    for name in [
        "README.md",
        "CHANGELOG.md",
        "Cargo.toml",
        ".clippy.toml",
        ".ci/run",
        "tests/run",
    ] {
        let text = fs::read_to_string(root().join(name));
        all.push((
            name.to_owned(),
            text.unwrap_or_else(|error| panic!("read {name}: {error}")),
        ));
    }
    all
}

/// All findings of `rule` over `files`, the rules' own examples left out.
#[track_caller]
fn holds(files: &[(String, String)], rule: impl Fn(&str, &str) -> Vec<String>) {
    let findings: Vec<_> = files
        .iter()
        .filter(|(path, _)| !path.starts_with(SELF))
        .flat_map(|(path, text)| rule(path, text))
        .collect();
    assert!(!files.is_empty(), "nothing was looked at");
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[test]
fn modules_import_only_what_stands_in_their_line_of_the_table() {
    let files: Vec<_> = files("src", &[".rs"]);
    holds(&files, imports::forbidden);
    assert_eq!(imports::not_in_the_table(&files), Vec::<String>::new());
}

#[test]
fn every_file_begins_with_what_it_is() {
    holds(&rust_files(), rules::without_header);
}

#[test]
fn no_line_is_too_long_to_read() {
    holds(&rust_files(), rules::long_lines);
}

#[test]
fn nothing_is_left_over() {
    holds(&text_files(), rules::left_over);
}

#[test]
fn nothing_speaks_of_where_it_was_made() {
    holds(&text_files(), rules::workplace);
}

#[test]
fn every_rust_file_is_part_of_its_module() {
    assert_eq!(rules::orphans(&rust_files()), Vec::<String>::new());
}

#[test]
fn every_pipeline_is_explained_and_every_sample_is_read_by_one() {
    let text_of = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_default();
    let pipelines = paths("pipelines");
    assert!(!pipelines.is_empty());
    assert_eq!(
        rules::unexplained(&pipelines, text_of),
        Vec::<String>::new()
    );
}

#[test]
fn the_changelog_speaks_of_this_version() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_default();
    assert_eq!(
        rules::changelog(&read("Cargo.toml"), &read("CHANGELOG.md")),
        Vec::<String>::new()
    );
}
