//! README and `docs/` say what the binary does: the reference is the one that it prints, and every command, key and
//! link that a reader is shown exists.
//!
//! `AUDITSHIP_BLESS=1 cargo test --test main -- documentation` writes `docs/reference.md` anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

fn auditship(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_auditship"))
        .args(arguments)
        .current_dir(root())
        .env("NODE_NAME", "control-plane-1")
        .output()
        .expect("the binary runs")
}

#[test]
fn the_reference_is_the_one_that_the_binary_prints() {
    let output = auditship(&["schema", "--reference"]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("text");
    if std::env::var_os("AUDITSHIP_BLESS").is_some() {
        fs::write(root().join("docs/reference.md"), &printed).expect("written");
    }
    assert!(
        read("docs/reference.md") == printed,
        "docs/reference.md is stale: AUDITSHIP_BLESS=1 cargo test --test main -- documentation"
    );
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    text.split(&begin)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned()))
        .collect()
}

#[test]
fn the_pipeline_in_the_readme_is_a_valid_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let shown = blocks(&read("README.md"), "toml");
    assert!(!shown.is_empty(), "README.md shows no pipeline");
    for (number, text) in shown.into_iter().enumerate() {
        // The one thing that a reader has and we have not.
        let key = dir.path().join("api-key");
        fs::write(&key, "bm90OmE=").expect("written");
        let text = text.replace("/etc/auditship/api-key", &key.to_string_lossy());
        let path = dir.path().join(format!("{number}.toml"));
        fs::write(&path, &text).expect("written");
        let output = auditship(&["check", &path.to_string_lossy()]);
        assert!(output.status.success(), "{text}\n{output:?}");
    }
}

/// What stands between single backticks.
fn code_spans(text: &str) -> Vec<String> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .map(|span| span.replace('\n', " "))
        .collect()
}

#[test]
fn every_command_in_the_readme_exists() {
    let text = read("README.md");
    let mut shown = code_spans(&text);
    shown.extend(
        blocks(&text, "sh")
            .iter()
            .flat_map(|block| block.lines().map(str::to_owned)),
    );
    let mut seen = 0;
    for line in shown {
        let Some(words) = line.split('#').next().and_then(|line| {
            line.strip_prefix("auditship ")
                .or_else(|| line.strip_prefix("cargo run --release -- "))
        }) else {
            continue;
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        // `spool` and `dead-letter` have commands of their own.
        let depth = if matches!(words[0], "spool" | "dead-letter") {
            2
        } else {
            1
        };
        let help = auditship(&[&words[..depth.min(words.len())], &["--help"]].concat());
        assert!(help.status.success(), "{line}: {help:?}");
        let help = String::from_utf8_lossy(&help.stdout);
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{line}: no {option} in its help");
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen} commands were found");
}

#[test]
fn every_metric_in_the_readme_is_one_of_ours() {
    let names = fs::read_to_string(root().join("src/telemetry/metrics.rs")).expect("read");
    for word in read("README.md").split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if let Some(name) = word.strip_prefix("auditship_") {
            let name = name.trim_end_matches("_total");
            assert!(names.contains(name), "auditship_{name} is not a metric");
        }
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    for name in [
        "README.md",
        "docs/design.md",
        "docs/athena.md",
        "docs/reference.md",
        "pipelines/README.md",
        "benches/README.md",
    ] {
        let text = read(name);
        let dir = Path::new(name).parent().expect("a folder");
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if !target.contains("://") && !target.is_empty() {
                assert!(root().join(dir).join(target).exists(), "{name}: {target}");
            }
        }
    }
}

#[test]
fn every_decision_rule_and_hazard_that_a_comment_names_is_written_down() {
    let design = read("docs/design.md");
    let mut seen = 0;
    let mut dirs = vec![root().join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            for name in text.match_indices("design ").map(|(at, found)| {
                let rest = text[at + found.len()..].trim_start_matches("rules ");
                rest.trim_start_matches("rule ")
                    .split(|c: char| !c.is_ascii_alphanumeric())
                    .next()
                    .unwrap_or_default()
            }) {
                let number = name.strip_prefix(['D', 'R']).unwrap_or_default();
                if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit()) {
                    continue;
                }
                assert!(
                    design.contains(&format!("**{name}. ")),
                    "{}: {name} is not in docs/design.md",
                    path.display()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} were found");
}
