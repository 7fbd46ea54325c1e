//! What is no TOML, no readable file, or no variable, and how places are found in odd text.

use super::*;

#[test]
fn every_line_that_is_not_toml_is_shown_and_the_rest_is_read() {
    check(
        r#"
[agent]
cluster = prod
memory = "64"
labels = { a = }
[[sink]]
name = "out"
type = "stdout"
name = "twice"
unknown = 1
"#,
        r#"
error: this is not TOML
 --> ship.toml:3:11
  |
3 | cluster = prod
  |           ^^^^ string values must be quoted, expected literal string

error: wrong value of `agent.memory`
 --> ship.toml:4:10
  |
4 | memory = "64"
  |          ^^^^ this size has no unit
  |
  = note: allowed is a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"`
  = help: did you mean `"64MiB"`?

error: this is not TOML
 --> ship.toml:5:16
  |
5 | labels = { a = }
  |                ^ invalid literal string, expected `'`

error: this is not TOML
 --> ship.toml:9:1
  |
9 | name = "twice"
  | ^^^^ duplicate key

error: unknown key `sink.out.unknown`
  --> ship.toml:10:1
   |
10 | unknown = 1
   | ^^^^^^^ not a key of `sink.out`
   |
   = note: allowed are `batch`, `name`, `policy`, `rate`, `type`"#,
    );
}

#[test]
fn a_string_that_does_not_end_is_shown() {
    check(
        "[agent]\ncluster = \"a\nmemory = \"64MiB\"\n",
        r#"
error: this is not TOML
 --> ship.toml:2:13
  |
2 | cluster = "a
  |             ^ invalid basic string, expected `"`"#,
    );
}

#[test]
fn a_number_that_does_not_fit_is_shown_once() {
    check(
        "[agent]\ncluster = 'a'\nmemory = 99999999999999999999\n",
        r#"
error: this number does not fit into 64 bits
 --> ship.toml:3:10
  |
3 | memory = 99999999999999999999
  |          ^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn variables_that_cannot_be_filled_in_are_shown_in_their_strings() {
    check(
        r#"
[agent]
cluster = "x-${NODEE}-x"
[[sink]]
name = "a"
type = "elasticsearch"
endpoints = ["http://${NODE}:9200", "${A B}"]
"#,
        r#"
error: a variable cannot be filled in
 --> ship.toml:3:11
  |
3 | cluster = "x-${NODEE}-x"
  |           ^^^^^^^^^^^^^^ the environment variable `NODEE` is not set
  |
  = help: set it, or give a default: `${NODEE:-…}`

error: a variable cannot be filled in
 --> ship.toml:7:37
  |
7 | endpoints = ["http://${NODE}:9200", "${A B}"]
  |                                     ^^^^^^^^ `A B` is not the name of a variable
  |
  = help: write `${NAME}` or `${NAME:-default}`, and `$$` for a dollar sign"#,
    );
}

#[test]
fn a_variable_cannot_become_a_key_and_numbers_take_none() {
    check(
        r#"
[agent]
cluster = "${NODE}"
"${NODE}" = 1
memory = ${NODE}
"#,
        r#"
error: unknown key `agent.${NODE}`
 --> ship.toml:4:1
  |
4 | "${NODE}" = 1
  | ^^^^^^^^^ not a key of `agent`
  |
  = note: allowed are `cluster`, `labels`, `memory`

error: this is not TOML
 --> ship.toml:5:10
  |
5 | memory = ${NODE}
  |          ^ string values must be quoted, expected literal string

error: this is not TOML
 --> ship.toml:5:11
  |
5 | memory = ${NODE}
  |           ^ unexpected key or value, expected newline, `#`"#,
    );
}

#[test]
fn text_from_wide_characters_and_carriage_returns_keeps_the_caret_in_place() {
    check(
        "[agent]\r\ncluster = \"東京\"\r\nlabels = { \"東\" = 1 }\r\n",
        r#"
error: wrong value of `agent.labels.東`
 --> ship.toml:3:18
  |
3 | labels = { "東" = 1 }
  |                   ^ this is a whole number
  |
  = note: allowed is a string"#,
    );
}

#[test]
fn a_value_of_several_lines_has_its_caret_on_the_first() {
    check(
        "[agent]\ncluster = [\n 1,\n 2,\n]\n",
        r#"
error: wrong value of `agent.cluster`
 --> ship.toml:2:11
  |
2 | cluster = [
  |           ^ this is a list
  |
  = note: allowed is a string"#,
    );
}

#[test]
fn a_file_of_garbage_is_not_answered_without_end() {
    let garbage = "=\n".repeat(5000);
    let found = rendered(&document(&garbage, &[], Path::new("")));
    assert!(found.lines().count() < 2000, "{}", found.lines().count());
    assert!(found.contains("this is not TOML"), "{found}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ship.toml");
    let load = || {
        Document::load_with(&path, &[], environment())
            .unwrap_err()
            .to_string()
    };
    assert!(
        load().ends_with("ship.toml: No such file or directory (os error 2)\n"),
        "{}",
        load()
    );
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(
        load().ends_with("ship.toml: line 2 is not UTF-8\n"),
        "{}",
        load()
    );
    std::fs::write(&path, " ".repeat(1 << 21)).unwrap();
    assert!(
        load().ends_with("ship.toml: it is larger than 1MiB\n"),
        "{}",
        load()
    );
}

#[test]
fn the_keys_of_a_table_keep_the_order_they_stand_in() {
    struct Keys(String);
    impl Value for Keys {
        fn schema() -> serde_json::Value {
            serde_json::json!({})
        }
        fn expected() -> String {
            "a table".into()
        }
        fn read(node: &Node<'_>) -> Result<Self, String> {
            let entries = node.entries().ok_or_else(|| node.wrong_type())?;
            Ok(Keys(entries.iter().map(|(key, _)| *key).collect()))
        }
    }
    const KEYS: Field<Keys> = Field::new("keys", "Keys.");
    let document = document("keys = { c = 1, a = 2, b = 3 }", &[], Path::new(""));
    assert_eq!(document.root().get(&KEYS).unwrap().0, "cab");
}
