//! Whatever the bytes are: no panic, and every document that fails says why.

use super::*;

const SEEDS: u64 = 3000;

const VALID: &str = r#"
[agent]
cluster = "prod-${NODE}" # comment
memory = "64MiB"
labels = { env = "prod", "a.b" = 'c' }

[[source]]
name = "apiserver"
type = "file"
path = "/var/log/audit.log"

[[stage]]
type = "redact"
remove = ["a.b", "c[*].d"]

[[sink]]
name = "search"
type = "elasticsearch"
endpoints = ["https://u:p@a:9200", """https://b"""]
api_key = { env = "KEY" }
batch = { events = 1_000, wait = "1s" }
compression = "none"
verify = false
rate = 0.5

[[sink]]
name = "東京"
enabled = false
[sink.batch]
events = 0x10
"#;

/// What tends to break parsers and spans.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "=",
    ".",
    ",",
    "\n",
    "\r",
    "\0",
    "#",
    "$",
    "${",
    "${A",
    "}",
    "\\",
    "\\u",
    "東",
    "\u{feff}",
    "\u{301}",
    "\t",
    "-",
    "1e999",
    "nan",
    "0x",
    "1979-05-27",
    "name",
    "type",
    "sink",
    "extends = 'x'",
    "[[sink]]",
    "[sink]",
    "enabled = false\n",
    "a.b.c",
    "99999999999999999999",
];

fn mutate(random: &mut fastrand::Rng, text: &mut String) {
    let at = |random: &mut fastrand::Rng, text: &str| {
        text.floor_char_boundary(random.usize(..=text.len()))
    };
    let start = at(random, text);
    let end = text
        .floor_char_boundary((start + random.usize(..20)).min(text.len()))
        .max(start);
    match random.u8(..4) {
        0 => text.replace_range(start..end, ""),
        1 => text.insert_str(start, PIECES[random.usize(..PIECES.len())]),
        2 => text.replace_range(start..end, PIECES[random.usize(..PIECES.len())]),
        _ => {
            let piece = text[start..end].to_owned();
            let to = at(random, text);
            text.insert_str(to, &piece);
        }
    }
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = VALID.to_owned();
    let mut set = "sink.search.batch.wait=2s".to_owned();
    for _ in 0..random.usize(1..6) {
        mutate(&mut random, &mut text);
    }
    if random.bool() {
        mutate(&mut random, &mut set);
    }
    let document = document(&text, &[&set], Path::new("/nowhere"));
    let (_, failed) = read(&document);
    let mistakes = document.finish();
    assert!(
        !failed || mistakes.is_err(),
        "seed {seed} failed and said nothing:\n{text}"
    );
    if let Err(mistakes) = mistakes {
        assert!(mistakes.render(false).contains("error: "), "seed {seed}");
        assert!(mistakes.render(true).contains("error"), "seed {seed}");
    }
}

#[test]
fn mutated_documents_never_panic_and_never_fail_without_a_word() {
    for seed in 0..SEEDS {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "seed {seed}");
    }
}
