//! The import table: which module of the library may use which. Test code obeys it too.

/// Each module with those it may import, in the order an event meets them; so there can be no cycle.
const TABLE: &[(&str, &[&str])] = &[
    ("allocator", &[]),
    ("clock", &[]),
    ("durable_fs", &[]),
    ("event", &[]),
    ("config", &[]),
    ("sandbox", &[]),
    ("telemetry", &["clock"]),
    ("framing", &["event"]),
    ("net", &["config", "telemetry", "clock"]),
    ("spool", &["durable_fs", "clock", "telemetry"]),
    (
        "sources",
        &["event", "framing", "config", "telemetry", "net", "clock"],
    ),
    ("stages", &["event", "config", "telemetry", "clock"]),
    (
        "sinks",
        &["event", "config", "telemetry", "net", "clock", "durable_fs"],
    ),
    (
        "delivery",
        &[
            "spool",
            "sinks",
            "stages",
            "event",
            "config",
            "telemetry",
            "clock",
            "durable_fs",
        ],
    ),
    ("admin", &["telemetry", "net", "config", "clock"]),
    (
        "pipeline",
        &[
            "clock",
            "durable_fs",
            "event",
            "config",
            "sandbox",
            "telemetry",
            "framing",
            "net",
            "spool",
            "sources",
            "stages",
            "sinks",
            "delivery",
        ],
    ),
    (
        "cli",
        &[
            "pipeline",
            "admin",
            "delivery",
            "spool",
            "config",
            "event",
            "framing",
            "sources",
            "stages",
            "sinks",
            "telemetry",
            "durable_fs",
            "clock",
            "sandbox",
        ],
    ),
];

/// Imports of one file that its module may not have.
pub(super) fn forbidden(path: &str, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else {
        return Vec::new();
    };
    let allowed = TABLE
        .iter()
        .find(|(name, _)| *name == module)
        .map_or(&[][..], |(_, allowed)| allowed);
    let depth = path
        .trim_start_matches("src/")
        .trim_end_matches("/mod.rs")
        .split('/')
        .count();
    let mut findings = Vec::new();
    for (number, line_start) in statements(text) {
        for used in used_modules(line_start, depth) {
            if used != module && !allowed.contains(&used.as_str()) {
                findings.push(format!(
                    "{path}:{number}: `{module}` may not import `{used}`"
                ));
            }
        }
    }
    findings
}

/// Modules of the library that the table does not know, and table entries that look forward.
pub(super) fn not_in_the_table(files: &[(String, String)]) -> Vec<String> {
    let known = |name: &str| TABLE.iter().position(|(module, _)| *module == name);
    let mut findings: Vec<String> = files
        .iter()
        .filter_map(|(path, _)| module_of(path))
        .filter(|module| known(module).is_none())
        .map(|module| format!("`{module}` is not in the import table"))
        .collect();
    for (at, (module, allowed)) in TABLE.iter().enumerate() {
        for other in *allowed {
            if known(other).is_none_or(|before| before >= at) {
                findings.push(format!(
                    "the table lets `{module}` import `{other}`, which does not stand above it"
                ));
            }
        }
    }
    findings
}

/// `src/sinks/file/mod.rs` is part of `sinks`; the library's own root and `main` are outside the table.
fn module_of(path: &str) -> Option<&str> {
    let name = path
        .strip_prefix("src/")?
        .split('/')
        .next()?
        .trim_end_matches(".rs");
    (!matches!(name, "lib" | "main")).then_some(name)
}

/// The text without comments and string contents, cut at `;` so that a grouped import is one piece, with the number of
/// the line that each piece begins on.
fn statements(text: &str) -> Vec<(usize, String)> {
    let (mut pieces, mut piece) = (Vec::new(), String::new());
    let (mut line, mut begun) = (1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|&c| c != '\n') {
                    chars.next();
                }
            }
            '"' => {
                let mut escaped = false;
                for c in chars.by_ref() {
                    line += usize::from(c == '\n');
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                piece.push_str("\"\"");
            }
            '\'' => {
                // A quoted character (`'"'`), not a lifetime.
                let ahead: String = chars.clone().take(2).collect();
                if ahead.ends_with('\'') {
                    chars.nth(1);
                }
            }
            ';' => {
                pieces.push((begun, std::mem::take(&mut piece)));
                begun = line;
            }
            c => {
                if piece.trim().is_empty() && !c.is_whitespace() {
                    begun = line;
                }
                line += usize::from(c == '\n');
                piece.push(c);
            }
        }
    }
    pieces.push((begun, piece));
    pieces
}

/// Top-level modules that a piece of code names: by `crate::x`, by a group `crate::{x, y::z}`, or by enough `super::`
/// to leave the module, which has `depth` path components.
fn used_modules(piece: String, depth: usize) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in piece.match_indices("crate::") {
        if !piece[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            used.extend(first_names(&piece[at + "crate::".len()..]));
        }
    }
    let climb = "super::".repeat(depth);
    for (at, _) in piece.match_indices(&climb) {
        let names = first_names(&piece[at + climb.len()..]);
        used.extend(
            names
                .into_iter()
                .filter(|name| TABLE.iter().any(|(module, _)| module == name)),
        );
    }
    used
}

/// The first name of a path, or of each path in a group.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let (mut names, mut depth, mut item) = (Vec::new(), 0, String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ => {}
        }
        if depth == 0 && c != ',' {
            item.push(c);
        }
    }
    names.push(item);
    names
        .iter()
        .map(|item| name(item.trim()))
        .filter(|name| !name.is_empty() && name != "self")
        .collect()
}

#[cfg(test)]
mod examples {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        assert_eq!(forbidden(path, text), expected, "{text}");
    }

    #[test]
    fn an_import_against_the_table_is_found_however_it_is_written() {
        let found = "src/framing/lines.rs:1: `framing` may not import `spool`";
        check("src/framing/lines.rs", "use crate::spool::Spool;", &[found]);
        check(
            "src/framing/lines.rs",
            "use crate::{event::{A, B}, spool, framing::C};",
            &[found],
        );
        check(
            "src/framing/lines.rs",
            "pub(crate) use crate::{\n    event,\n    spool::{self, X},\n};",
            &[found],
        );
        check(
            "src/framing/lines.rs",
            "fn f() -> crate::spool::Spool { x }",
            &[found],
        );
        check(
            "src/framing/lines.rs",
            "fn f() { let c = '\"'; crate::spool::open() }",
            &[found],
        );
        check("src/framing/lines.rs", "use super::super::spool;", &[found]);
        check(
            "src/framing/mod.rs",
            "use super::spool::Spool;",
            &[found.replace("lines", "mod").as_str()],
        );
    }

    #[test]
    fn what_the_table_allows_and_what_is_no_code_is_left_alone() {
        check(
            "src/framing/lines.rs",
            "use crate::event::Event; use super::X; use crate::framing::Y;",
            &[],
        );
        check(
            "src/framing/lines.rs",
            "// use crate::spool;\n/// `crate::spool`\nlet a = \"crate::spool\";",
            &[],
        );
        check(
            "src/framing/lines.rs",
            "use mycrate::spool; use other_crate::spool;",
            &[],
        );
        check("src/lib.rs", "use crate::spool;", &[]);
    }

    #[test]
    fn a_finding_names_its_line() {
        check(
            "src/event/mod.rs",
            "//! x\n\nuse std::fmt;\n\nuse crate::clock::Clock;\n",
            &["src/event/mod.rs:5: `event` may not import `clock`"],
        );
    }

    #[test]
    fn a_module_outside_the_table_is_found() {
        let files = [("src/utils.rs".to_owned(), String::new())];
        assert_eq!(
            not_in_the_table(&files),
            ["`utils` is not in the import table"]
        );
    }
}
