//! Rules over single files, and over the tree as a list of files.

/// Longest line of code or comment, characters. rustfmt breaks code earlier; this is for what it leaves alone, but for
/// text in quotes, which may have to stand in one line.
const LINE_MAX: usize = 140;

/// A file that does not say at its head what it is.
pub(super) fn without_header(path: &str, text: &str) -> Vec<String> {
    let head = text.lines().next().unwrap_or_default();
    if head
        .strip_prefix("//! ")
        .is_some_and(|words| words.len() > 10)
    {
        return Vec::new();
    }
    vec![format!(
        "{path}: begins with `{head}`, not with `//!` and what it is"
    )]
}

/// Lines over the bound.
pub(super) fn long_lines(path: &str, text: &str) -> Vec<String> {
    let too_long = |line: &str| line.chars().count() > LINE_MAX && !line.contains(['"', '`']);
    lines(text)
        .filter(|(_, line)| too_long(line))
        .map(|(n, _)| format!("{path}:{n}: too long"))
        .collect()
}

/// What must not outlive the work on it.
const LEFT_OVER: &[&str] = &[
    "TODO",
    "FIXME",
    "XXX",
    "HACK",
    "todo!(",
    "unimplemented!(",
    "dbg!(",
    "<<<<<<<",
    ">>>>>>>",
];

/// Markers and debugging aids.
pub(super) fn left_over(path: &str, text: &str) -> Vec<String> {
    matches(path, text, |line| {
        LEFT_OVER
            .iter()
            .find(|mark| stands_alone(line, mark))
            .map(|mark| (*mark).to_owned())
    })
}

/// `uXXXX` is not `XXX`.
fn stands_alone(line: &str, mark: &str) -> bool {
    let part_of_a_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(mark).any(|(at, _)| {
        !part_of_a_word(line[..at].chars().next_back())
            && !part_of_a_word(line[at + mark.len()..].chars().next())
    })
}

/// Words that speak of where and how this was made, not of what it is.
const WORKPLACE_WORDS: &[&str] = &["helper", "helpers", "subagent", "worktree", "prompt"];

/// Places that only its makers had.
const WORKPLACE_PARTS: &[&str] = &[
    "/work/",
    "crates.io",
    "design.md",
    "interface.md",
    "style.md",
];

/// What a stranger could not make sense of.
pub(super) fn workplace(path: &str, text: &str) -> Vec<String> {
    matches(path, text, |line| {
        let mut words = line.split(|c: char| !c.is_alphanumeric());
        let word = words.find(|word| WORKPLACE_WORDS.contains(&word.to_lowercase().as_str()));
        // The decisions that comments number are written down for everyone, in this one place.
        let line = line.replace("docs/design.md", "");
        let part = || {
            WORKPLACE_PARTS
                .iter()
                .copied()
                .find(|part| line.contains(part))
        };
        word.or_else(part).map(str::to_owned)
    })
}

/// Files that no `mod` line names.
pub(super) fn orphans(files: &[(String, String)]) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, _) in files {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = name.trim_end_matches(".rs");
        let (dir, name) = if name == "mod" {
            dir.rsplit_once('/').unwrap_or(("", dir))
        } else {
            (dir, name)
        };
        // Roots: named in Cargo.toml, not by another file.
        let root = matches!(name, "lib" | "main") && matches!(dir, "src" | "tests");
        if root || dir == "benches" || dir.starts_with("benches/") && name == "main" {
            continue;
        }
        let parents = [
            format!("{dir}/mod.rs"),
            format!("{dir}.rs"),
            format!("{dir}/lib.rs"),
            format!("{dir}/main.rs"),
        ];
        let mod_line = format!("mod {name};");
        let path_line = format!("#[path = \"{name}.rs\"]");
        let declared = files.iter().any(|(other, text)| {
            let other_dir = other.rsplit_once('/').map_or("", |(dir, _)| dir);
            lines(text).any(|(_, line)| {
                parents.contains(other) && line.trim_end().ends_with(&mod_line)
                    || other_dir == dir && line.trim() == path_line
            })
        });
        if !declared {
            findings.push(format!("{path}: no `mod {name};` names it"));
        }
    }
    findings
}

/// Pipelines that `pipelines/README.md` does not explain, and samples that no pipeline reads.
pub(super) fn unexplained(files: &[String], text_of: impl Fn(&str) -> String) -> Vec<String> {
    let readme = text_of("pipelines/README.md");
    let pipelines: Vec<_> = files
        .iter()
        .filter(|path| path.ends_with(".toml"))
        .collect();
    let mut findings = Vec::new();
    for path in files {
        let name = path.trim_start_matches("pipelines/");
        let known = match name.split_once('/') {
            None if name == "README.md" => true,
            None => name.ends_with(".toml") && readme.contains(&format!("`{name}`")),
            // A backup is read with its live file: `samples/audit-<time>.log.gz` with `samples/audit.log`.
            Some(("samples", sample)) => {
                let stem = sample.split(['-', '.']).next().unwrap_or(sample);
                pipelines
                    .iter()
                    .any(|path| text_of(path).contains(&format!("samples/{stem}.")))
            }
            Some(("expected", case)) => {
                let pipeline = format!("pipelines/{}.toml", case.split('/').next().unwrap_or(case));
                pipelines.iter().any(|path| **path == pipeline)
            }
            Some(_) => false,
        };
        if !known {
            findings.push(format!("{path}: nobody explains or reads it"));
        }
    }
    findings
}

/// A changelog without a word on the version in Cargo.toml.
pub(super) fn changelog(manifest: &str, changelog: &str) -> Vec<String> {
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \""))
        .map(|rest| rest.trim_end_matches('"'))
        .unwrap_or("no version");
    let entry = changelog
        .split("\n## ")
        .skip(1)
        .find(|entry| entry.starts_with("Unreleased") || entry.starts_with(version));
    match entry {
        Some(entry) if entry.lines().any(|line| line.starts_with("- ")) => Vec::new(),
        _ => vec![format!("CHANGELOG.md: no entry for {version}")],
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

fn matches(path: &str, text: &str, found: impl Fn(&str) -> Option<String>) -> Vec<String> {
    lines(text)
        .filter_map(|(n, line)| found(line).map(|what| format!("{path}:{n}: `{what}`")))
        .collect()
}

#[cfg(test)]
mod examples {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn a_file_without_header_is_found() {
        assert_eq!(
            without_header("a.rs", "//! What it is.\n"),
            Vec::<String>::new()
        );
        for text in [
            "",
            "use x;\n//! Late.\n",
            "// Not a doc comment.\n",
            "//!\n",
            "#![x]\n//! Late.\n",
        ] {
            assert_eq!(without_header("a.rs", text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn a_long_line_is_found() {
        assert_eq!(
            long_lines("a.rs", &format!("ok\n{}\n", "ü".repeat(LINE_MAX))),
            Vec::<String>::new()
        );
        assert_eq!(
            long_lines("a.rs", &format!("ok\n{}\n", "x".repeat(LINE_MAX + 1))),
            ["a.rs:2: too long"]
        );
    }

    #[test]
    fn what_is_left_over_is_found() {
        for mark in LEFT_OVER {
            assert_eq!(
                left_over("a.rs", &format!("x\n y {mark} z")),
                [format!("a.rs:2: `{mark}`")]
            );
        }
        assert_eq!(left_over("a.rs", "todos \\uXXXX"), Vec::<String>::new());
    }

    #[test]
    fn words_of_the_workplace_are_found() {
        assert_eq!(workplace("a.md", "a Helper, here"), ["a.md:1: `Helper`"]);
        assert_eq!(workplace("a.md", "see /work/x"), ["a.md:1: `/work/`"]);
        assert_eq!(
            workplace("a.rs", "see docs/design.md\nsee design.md"),
            ["a.rs:2: `design.md`"]
        );
        assert_eq!(
            workplace("a.md", "framework/x prompted"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_file_that_nobody_declares_is_found() {
        let files = tree(&[
            ("src/lib.rs", "pub mod a;\n"),
            ("src/main.rs", ""),
            ("src/a/mod.rs", "mod b;\n#[cfg(test)]\nmod tests;\n"),
            ("src/a/b.rs", ""),
            ("src/a/tests.rs", ""),
            ("src/a/forgotten.rs", ""),
            ("src/c/mod.rs", ""),
        ]);
        let expected = [
            "src/a/forgotten.rs: no `mod forgotten;` names it",
            "src/c/mod.rs: no `mod c;` names it",
        ];
        assert_eq!(orphans(&files), expected);
    }

    #[test]
    fn a_pipeline_or_sample_that_nobody_knows_is_found() {
        let names = [
            "README.md",
            "a.toml",
            "b.toml",
            "samples/audit-1.log.gz",
            "samples/other.log",
            "notes.txt",
        ];
        let paths: Vec<_> = names
            .iter()
            .map(|name| format!("pipelines/{name}"))
            .collect();
        let text_of = |path: &str| match path {
            "pipelines/README.md" => "| `a.toml` |".to_owned(),
            _ => "path = \"pipelines/samples/audit.log\"".to_owned(),
        };
        let found: Vec<_> = ["b.toml", "samples/other.log", "notes.txt"]
            .iter()
            .map(|name| format!("pipelines/{name}: nobody explains or reads it"))
            .collect();
        assert_eq!(unexplained(&paths, text_of), found);
    }

    #[test]
    fn a_version_without_a_changelog_entry_is_found() {
        let manifest = "[package]\nname = \"x\"\nversion = \"0.1.0\"\n";
        assert_eq!(
            changelog(manifest, "# Changelog\n\n## 0.1.0\n\n- First.\n"),
            Vec::<String>::new()
        );
        assert_eq!(
            changelog(manifest, "# Changelog\n\n## Unreleased\n\n- First.\n"),
            Vec::<String>::new()
        );
        for text in [
            "",
            "# Changelog\n\n## 0.0.9\n\n- Old.\n",
            "# Changelog\n\n## 0.1.0\n\n",
        ] {
            assert_eq!(changelog(manifest, text).len(), 1, "{text:?}");
        }
    }
}
