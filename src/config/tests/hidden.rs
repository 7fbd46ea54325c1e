//! Secrets are never shown, whatever is wrong with them or beside them.

use super::*;

/// Shows a configuration's mistakes, which must not show `hunter2`, and `mistakes` of them.
#[track_caller]
fn check_hidden(text: &str, sets: &[&str], mistakes: usize) {
    let text = format!("agent.cluster = 'a'\n{text}\n");
    let document = document(&text, sets, Path::new(""));
    let found = rendered(&document);
    let count = found
        .lines()
        .filter(|line| line.starts_with("error") || line.starts_with("warning"))
        .count();
    assert_eq!(count, mistakes, "\n{found}");
    assert!(!found.contains("hunter2"), "\n{found}");
    assert!(!format!("{document:?}").contains("hunter2"));
}

fn sink(keys: &str) -> String {
    format!("[[sink]]\nname = 'a'\ntype = 'elasticsearch'\nendpoints = []\n{keys}")
}

#[test]
fn a_bare_secret_is_a_warning_that_does_not_show_it() {
    check(
        &format!("agent.cluster = 'a'\n{}", sink("api_key = \"hunter2\"")),
        r#"
warning: the secret `sink.a.api_key` stands in the configuration itself
 --> ship.toml:6:11
  |
6 | api_key = ***
  |           ^^^ everyone who reads this file reads the secret
  |
  = help: use `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }`"#,
    );
    check_hidden(&sink("api_key = 'hunter2'"), &[], 1);
    check_hidden(&sink("api_key = \"\"\"\nhunter2\"\"\""), &[], 1);
    check_hidden(&sink(""), &["sink.a.api_key=hunter2"], 1);
    check_hidden(&sink("api_key = \"${NONE:-hunter2}\""), &[], 1);
}

#[test]
fn a_secret_from_a_variable_stands_nowhere_in_the_file() {
    check(
        &format!("agent.cluster = 'a'\n{}", sink("api_key = \"${KEY}\"")),
        "",
    );
}

#[test]
fn mistakes_beside_a_secret_do_not_show_it() {
    check_hidden(&sink("api_key = 'hunter2', x = 1"), &[], 1);
    check_hidden(&sink("api_key = hunter2"), &[], 1);
    check_hidden(&sink("api_key = \"hunter2"), &[], 1);
    check_hidden(&sink("api_key = { fil = 'hunter2' }"), &[], 1);
    check_hidden(
        &sink("api_key = { user = 'hunter2', file = 'hunter2' }"),
        &[],
        1,
    );
    check_hidden(&sink("api_key = ['hunter2']"), &[], 1);
    check_hidden(&sink("apikye = 'hunter2'"), &[], 1);
    check_hidden(&sink("pasword = 'hunter2'"), &[], 1);
    check_hidden(
        &sink("auth.basic = { user = 'u', password = 'hunter2' }"),
        &[],
        1,
    );
    check_hidden(
        &sink("endpoint = ['https://user:hunter2@host:9200']"),
        &[],
        1,
    );
    check_hidden("[agent]\npassword = 'hunter2'", &[], 2);
}

#[test]
fn a_secret_says_where_it_was_looked_for() {
    check(
        &format!(
            "agent.cluster = 'a'\n{}",
            sink("api_key = { env = 'NONE' }")
        ),
        r#"
error: wrong value of `sink.a.api_key`
 --> ship.toml:6:11
  |
6 | api_key = { env = 'NONE' }
  |           ^^^^^^^^^^^^^^^^ the environment variable `NONE` is not set
  |
  = note: allowed is a secret: `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }`"#,
    );
    check(
        &format!(
            "agent.cluster = 'a'\n{}",
            sink("api_key = { credential = 'es' }")
        ),
        r#"
error: wrong value of `sink.a.api_key`
 --> ship.toml:6:11
  |
6 | api_key = { credential = 'es' }
  |           ^^^^^^^^^^^^^^^^^^^^^ the environment variable `CREDENTIALS_DIRECTORY` is not set
  |
  = note: allowed is a secret: `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }`
  = help: set LoadCredential= in the systemd unit"#,
    );
    check(
        &format!(
            "agent.cluster = 'a'\n{}",
            sink("api_key = { file = 'nowhere', env = 'KEY' }")
        ),
        r#"
error: wrong value of `sink.a.api_key`
 --> ship.toml:6:11
  |
6 | api_key = { file = ***, env = *** }
  |           ^^^^^^^^^^^^^^^^^^^^^^^^^ a secret has exactly one of `file`, `env` and `credential`
  |
  = note: allowed is a secret: `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }`"#,
    );
}

#[test]
fn secrets_are_found_in_files_variables_and_credentials() {
    const KEYS: Field<Vec<Secret>> = Field::new("keys", "Keys.");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "from the file\n").unwrap();
    let credentials = dir.path().as_os_str().to_owned();
    let environment = Environment::new(move |name| match name {
        "CREDENTIALS_DIRECTORY" => Some(credentials.clone()),
        "KEY" => Some("from the variable".into()),
        _ => None,
    });
    let text = "keys = [{ file = 'key' }, { env = 'KEY' }, { credential = 'key' }, 'bare']";
    let document = Document::parse_with("ship.toml", text, dir.path(), &[], environment).unwrap();
    let secrets = document.root().get(&KEYS).unwrap();
    let revealed: Vec<String> = secrets
        .iter()
        .map(|secret| secret.reveal().unwrap().to_string())
        .collect();
    assert_eq!(
        revealed,
        [
            "from the file",
            "from the variable",
            "from the file",
            "bare"
        ]
    );
    let bare: Vec<bool> = secrets.iter().map(Secret::is_bare).collect();
    assert_eq!(bare, [false, false, false, true]);
    assert_eq!(document.warnings().warnings(), 1);
}
