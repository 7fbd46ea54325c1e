//! One mistake, or several, and how they are shown.

use super::*;

#[test]
fn a_configuration_without_mistakes_says_nothing() {
    check("agent.cluster = 'a'", "");
}

#[test]
fn an_unknown_key_is_shown_with_what_is_allowed_and_a_near_name() {
    check(
        r#"
[agent]
cluster = "a"
memroy = "64MiB"
"#,
        r#"
error: unknown key `agent.memroy`
 --> ship.toml:4:1
  |
4 | memroy = "64MiB"
  | ^^^^^^ not a key of `agent`
  |
  = note: allowed are `cluster`, `labels`, `memory`
  = help: did you mean `memory`?"#,
    );
}

#[test]
fn a_key_one_level_too_high_is_sent_to_its_table() {
    check(
        r#"
[agent]
cluster = "a"
[[sink]]
name = "out"
type = "stdout"
events = 5
"#,
        r#"
error: unknown key `sink.out.events`
 --> ship.toml:7:1
  |
7 | events = 5
  | ^^^^^^ not a key of `sink.out`
  |
  = note: allowed are `batch`, `name`, `policy`, `rate`, `type`
  = help: did you mean `batch.events`?"#,
    );
}

#[test]
fn a_missing_key_points_at_the_head_of_its_table() {
    check(
        r#"
[agent]
cluster = "a"
[[source]]
type = "file"
path = "audit.log"
[[sink]]
"#,
        r#"
error: `source[0]` has no `name`
 --> ship.toml:4:1
  |
4 | [[source]]
  | ^^^^^^^^^^ `name` must be set
  |
  = note: allowed is a name of lowercase letters, digits and `-`, beginning with a letter or digit

error: `sink[0]` has no `name`
 --> ship.toml:7:1
  |
7 | [[sink]]
  | ^^^^^^^^ `name` must be set
  |
  = note: allowed is a name of lowercase letters, digits and `-`, beginning with a letter or digit

error: `sink[0]` has no `type`
 --> ship.toml:7:1
  |
7 | [[sink]]
  | ^^^^^^^^ `type` must be set
  |
  = note: allowed is `"elasticsearch"` or `"stdout"`"#,
    );
}

#[test]
fn a_missing_key_that_is_there_misspelt_is_said_once() {
    check(
        r#"
[agent]
clustre = "a"
"#,
        r#"
error: unknown key `agent.clustre`
 --> ship.toml:3:1
  |
3 | clustre = "a"
  | ^^^^^^^ not a key of `agent`
  |
  = note: allowed are `cluster`, `labels`, `memory`
  = help: did you mean `cluster`?"#,
    );
}

#[test]
fn a_missing_table_points_at_the_start() {
    check(
        "",
        r#"
error: `agent` has no `cluster`
 --> ship.toml:1:1
  |
1 |
  | ^ `cluster` must be set
  |
  = note: allowed is a string"#,
    );
}

#[test]
fn a_wrong_type_says_what_was_found_and_what_is_allowed() {
    check(
        r#"
[agent]
cluster = 7
memory = true
labels = { a = "x", b = 1 }
[[sink]]
name = "a"
type = "elasticsearch"
endpoints = "http://a"
verify = "false"
batch = 5
rate = "1"
policy = ["x"]
[[sink]]
name = "b"
type = "elasticsearch"
endpoints = ["http://a", 1, 1979-05-27]
batch = { events = "10", wait = 1.5 }
"#,
        r#"
error: wrong value of `agent.cluster`
 --> ship.toml:3:11
  |
3 | cluster = 7
  |           ^ this is a whole number
  |
  = note: allowed is a string

error: wrong value of `agent.memory`
 --> ship.toml:4:10
  |
4 | memory = true
  |          ^^^^ this is true or false
  |
  = note: allowed is a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"`

error: wrong value of `sink.a.endpoints`
 --> ship.toml:9:13
  |
9 | endpoints = "http://a"
  |             ^^^^^^^^^^ this is a string
  |
  = note: allowed is a list of: a string
  = help: put it in square brackets

error: wrong value of `sink.a.verify`
  --> ship.toml:10:10
   |
10 | verify = "false"
   |          ^^^^^^^ this is a string
   |
   = note: allowed is `true` or `false`
   = help: write `false` without quotes

error: wrong value of `sink.a.batch`
  --> ship.toml:11:9
   |
11 | batch = 5
   |         ^ this is a whole number
   |
   = note: allowed is a table `[sink.a.batch]`

error: wrong value of `sink.a.rate`
  --> ship.toml:12:8
   |
12 | rate = "1"
   |        ^^^ this is a string
   |
   = note: allowed is a number, at most `1.0`

error: wrong value of `sink.a.policy`
  --> ship.toml:13:10
   |
13 | policy = ["x"]
   |          ^^^^^ this is a list
   |
   = note: allowed is a path, relative to the file it stands in

error: wrong value of `sink.b.endpoints[1]`
  --> ship.toml:17:26
   |
17 | endpoints = ["http://a", 1, 1979-05-27]
   |                          ^ this is a whole number
   |
   = note: allowed is a string

error: wrong value of `sink.b.endpoints[2]`
  --> ship.toml:17:29
   |
17 | endpoints = ["http://a", 1, 1979-05-27]
   |                             ^^^^^^^^^^ this is a date
   |
   = note: allowed is a string

error: wrong value of `sink.b.batch.events`
  --> ship.toml:18:20
   |
18 | batch = { events = "10", wait = 1.5 }
   |                    ^^^^ this is a string
   |
   = note: allowed is a whole number, from `1` to `100000`
   = help: write `10` without quotes

error: wrong value of `sink.b.batch.wait`
  --> ship.toml:18:33
   |
18 | batch = { events = "10", wait = 1.5 }
   |                                 ^^^ this is a number with a fraction
   |
   = note: allowed is a duration such as `"100ms"`, `"30s"`, `"2h"` or `"30d"`"#,
    );
}

#[test]
fn numbers_without_units_are_refused_with_a_suggestion() {
    check(
        r#"
[agent]
cluster = "a"
memory = 67108864
[[sink]]
name = "a"
type = "stdout"
batch.wait = 5
"#,
        r#"
error: wrong value of `agent.memory`
 --> ship.toml:4:10
  |
4 | memory = 67108864
  |          ^^^^^^^^ this size has no unit
  |
  = note: allowed is a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"`
  = help: did you mean `"64MiB"`?

error: wrong value of `sink.a.batch.wait`
 --> ship.toml:8:14
  |
8 | batch.wait = 5
  |              ^ this duration has no unit
  |
  = note: allowed is a duration such as `"100ms"`, `"30s"`, `"2h"` or `"30d"`
  = help: did you mean `"5s"`?"#,
    );
}

#[test]
fn a_value_outside_its_limits_is_shown_with_them() {
    check(
        r#"
[agent]
cluster = "a"
memory = "8MiB"
[[sink]]
name = "a"
type = "stdout"
batch.events = 0
rate = 1.5
[[sink]]
name = "b"
type = "stdout"
batch.events = -1
rate = nan
"#,
        r#"
error: wrong value of `agent.memory`
 --> ship.toml:4:10
  |
4 | memory = "8MiB"
  |          ^^^^^^ this is less than `"32MiB"`
  |
  = note: allowed is a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"`

error: wrong value of `sink.a.batch.events`
 --> ship.toml:8:16
  |
8 | batch.events = 0
  |                ^ this is less than `1`
  |
  = note: allowed is a whole number, from `1` to `100000`

error: wrong value of `sink.a.rate`
 --> ship.toml:9:8
  |
9 | rate = 1.5
  |        ^^^ this is more than `1.0`
  |
  = note: allowed is a number, at most `1.0`

error: wrong value of `sink.b.batch.events`
  --> ship.toml:13:16
   |
13 | batch.events = -1
   |                ^^ -1 is less than 0
   |
   = note: allowed is a whole number, from `1` to `100000`

error: wrong value of `sink.b.rate`
  --> ship.toml:14:8
   |
14 | rate = nan
   |        ^^^ NaN is not a number to count with
   |
   = note: allowed is a number, at most `1.0`"#,
    );
}

#[test]
fn a_wrong_word_is_shown_with_the_words_and_the_nearest() {
    check(
        r#"
[agent]
cluster = "a"
[[sink]]
name = "a"
type = "elasticsearch"
endpoints = []
compression = "gzp"
[[sink]]
name = "b"
type = "elasticsearch"
endpoints = []
compression = "brotli"
"#,
        r#"
error: wrong value of `sink.a.compression`
 --> ship.toml:8:15
  |
8 | compression = "gzp"
  |               ^^^^^ `gzp` is none of them
  |
  = note: allowed is `"gzip"` or `"none"`
  = help: did you mean `"gzip"`?

error: wrong value of `sink.b.compression`
  --> ship.toml:13:15
   |
13 | compression = "brotli"
   |               ^^^^^^^^ `brotli` is none of them
   |
   = note: allowed is `"gzip"` or `"none"`"#,
    );
}

#[test]
fn an_unknown_kind_has_no_unknown_keys() {
    check(
        r#"
[agent]
cluster = "a"
[[sink]]
name = "a"
type = "elastic-search"
endpoints = ["x"]
[[sink]]
name = "b"
type = "kafka"
brokers = ["x"]
[[sink]]
name = "c"
type = 1
"#,
        r#"
error: wrong value of `sink.a.type`
 --> ship.toml:6:8
  |
6 | type = "elastic-search"
  |        ^^^^^^^^^^^^^^^^ `elastic-search` is none of them
  |
  = note: allowed is `"elasticsearch"` or `"stdout"`
  = help: did you mean `"elasticsearch"`?

error: wrong value of `sink.b.type`
  --> ship.toml:10:8
   |
10 | type = "kafka"
   |        ^^^^^^^ `kafka` is not built yet
   |
   = note: allowed is `"elasticsearch"` or `"stdout"`
   = help: a later version will have it

error: wrong value of `sink.c.type`
  --> ship.toml:14:8
   |
14 | type = 1
   |        ^ this is a whole number
   |
   = note: allowed is `"elasticsearch"` or `"stdout"`"#,
    );
}

#[test]
fn names_are_checked() {
    check(
        r#"
[agent]
cluster = "a"
[[sink]]
name = "Search"
type = "stdout"
[[sink]]
name = ""
type = "stdout"
[[sink]]
name = "-a"
type = "stdout"
[[sink]]
name = 'a"b'
type = "stdout"
"#,
        r#"
error: wrong value of `sink.Search.name`
 --> ship.toml:5:8
  |
5 | name = "Search"
  |        ^^^^^^^^ a name cannot hold `S`
  |
  = note: allowed is a name of lowercase letters, digits and `-`, beginning with a letter or digit

error: wrong value of `sink[1].name`
 --> ship.toml:8:8
  |
8 | name = ""
  |        ^^ this name is empty
  |
  = note: allowed is a name of lowercase letters, digits and `-`, beginning with a letter or digit

error: wrong value of `sink.-a.name`
  --> ship.toml:11:8
   |
11 | name = "-a"
   |        ^^^^ a name does not begin with `-`
   |
   = note: allowed is a name of lowercase letters, digits and `-`, beginning with a letter or digit

error: wrong value of `sink.a"b.name`
  --> ship.toml:14:8
   |
14 | name = 'a"b'
   |        ^^^^^ a name cannot hold `"`
   |
   = note: allowed is a name of lowercase letters, digits and `-`, beginning with a letter or digit"#,
    );
}

#[test]
fn two_tables_of_one_name_are_shown_with_both_places() {
    check(
        r#"
[agent]
cluster = "a"
[[sink]]
name = "out"
type = "stdout"
[[source]]
name = "out"
type = "file"
path = "x"
[[sink]]
name = "out"
type = "stdout"
"#,
        r#"
error: two `[[sink]]` are named `out`
  --> ship.toml:12:8
   |
 5 | name = "out"
   |        ----- the first one
...
12 | name = "out"
   |        ^^^^^ the second one
   |
   = help: give each its own name"#,
    );
}

#[test]
fn a_second_stage_of_one_type_must_be_named() {
    check(
        r#"
[agent]
cluster = "a"
[[stage]]
type = "redact"
[[stage]]
type = "redact"
[[stage]]
type = "redact"
name = "again"
"#,
        r#"
error: two `[[stage]]` are named `redact`
 --> ship.toml:7:8
  |
5 | type = "redact"
  |        -------- the first one
6 | [[stage]]
7 | type = "redact"
  |        ^^^^^^^^ the second one
  |
  = help: without a `name` its type is its name: give this stage one"#,
    );
}

#[test]
fn keys_of_a_later_version_are_not_unknown() {
    let document = document("when = 1\nnonsense = 2\n[[spool]]\n", &[], Path::new(""));
    let mut root = document.root();
    root.later(&["when", "spool", "other"]);
    assert!(root.failed());
    root.finish();
    compare(
        &document.finish().unwrap_err().to_string(),
        r#"
error: `when` is not built yet
 --> ship.toml:1:1
  |
1 | when = 1
  | ^^^^ a later version will have it

error: unknown key `nonsense`
 --> ship.toml:2:1
  |
2 | nonsense = 2
  | ^^^^^^^^ not a key of the configuration

error: `spool` is not built yet
 --> ship.toml:3:3
  |
3 | [[spool]]
  |   ^^^^^ a later version will have it"#,
    );
}

#[test]
fn tables_and_arrays_of_tables_are_told_apart() {
    check(
        r#"
[[agent]]
cluster = "a"
[sink]
name = "a"
[source.apiserver]
type = "file"
"#,
        r#"
error: wrong value of `agent`
 --> ship.toml:2:1
  |
2 | [[agent]]
  | ^^^^^^^^^ this is an array of tables
  |
  = note: allowed is a table `[agent]`

error: wrong value of `sink`
 --> ship.toml:4:1
  |
4 | [sink]
  | ^^^^^^ this is a table
  |
  = note: allowed is any number of tables `[[sink]]`
  = help: write `[[sink]]` with two brackets

error: wrong value of `source`
 --> ship.toml:6:2
  |
6 | [source.apiserver]
  |  ^^^^^^ this is a table
  |
  = note: allowed is any number of tables `[[source]]`
  = help: write `[[source]]` with two brackets"#,
    );
}

#[test]
fn colour_is_only_there_when_asked_for() {
    let document = document("x = 1", &[], Path::new(""));
    read(&document);
    let mistakes = document.finish().unwrap_err();
    assert!(!mistakes.render(false).contains('\u{1b}'));
    assert!(mistakes.render(true).contains('\u{1b}'));
    assert_eq!((mistakes.errors(), mistakes.warnings()), (2, 0));
}

#[test]
fn what_is_found_later_is_reported_at_its_place() {
    let document = document("[agent]\ncluster = 'a'\n", &[], Path::new(""));
    let mut root = document.root();
    let mut agent = root.table(&AGENT).unwrap();
    let cluster = agent.get_spanned(&CLUSTER).unwrap();
    assert!(!root.failed());
    agent.error_at(
        cluster.at,
        "the cluster changed",
        Some("use `--new-origin`".into()),
    );
    agent.warn_at(agent.place_of("memory"), "the memory is a default", None);
    assert!(root.failed(), "a mistake below counts above");
    drop((agent, root));
    compare(
        &document.finish().unwrap_err().to_string(),
        r#"
warning: the memory is a default
 --> ship.toml:1:1
  |
1 | [agent]
  | ^^^^^^^

error: the cluster changed
 --> ship.toml:2:11
  |
2 | cluster = 'a'
  |           ^^^
  |
  = help: use `--new-origin`"#,
    );
}

#[test]
fn more_mistakes_than_anybody_reads_are_counted() {
    let text: String = (0..250).map(|at| format!("key-{at} = 1\n")).collect();
    let found = rendered(&document(&text, &[], Path::new("")));
    assert_eq!(found.matches("error: ").count(), 200, "{found}");
    assert!(found.ends_with("\nand 51 more\n"), "{found}");
}
