//! `extends` and `--set`: what they make of a configuration, and their mistakes.

use super::*;

const BASE: &str = r#"
[agent]
cluster = "base"
memory = "128MiB"
labels = { env = "prod", team = "a" }
[[source]]
name = "apiserver"
type = "file"
path = "audit.log"
[[stage]]
type = "redact"
remove = ["a", "b"]
[[sink]]
name = "search"
type = "elasticsearch"
endpoints = ["http://a", "http://b"]
batch = { events = 5, wait = "2s" }
policy = "policies/base.yaml"
api_key = { env = "KEY" }
[[sink]]
name = "out"
type = "stdout"
"#;

/// `over` in a directory beside `base.toml`.
fn layered(over: &str, sets: &[&str]) -> (tempfile::TempDir, Document) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base.toml"), BASE).unwrap();
    std::fs::create_dir(dir.path().join("over")).unwrap();
    let path = dir.path().join("over/ship.toml");
    std::fs::write(&path, over).unwrap();
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let document = Document::load_with(&path, &sets, environment()).unwrap();
    (dir, document)
}

#[track_caller]
fn check_layers(over: &str, sets: &[&str], expected: &str) {
    let (dir, document) = layered(over, sets);
    let (said, _) = read(&document);
    document
        .finish()
        .unwrap_or_else(|mistakes| panic!("\n{mistakes}"));
    compare(
        &said.replace(&dir.path().display().to_string(), "DIR"),
        expected,
    );
}

#[track_caller]
fn check_layer_mistakes(over: &str, sets: &[&str], expected: &str) {
    let (dir, document) = layered(over, sets);
    compare(
        &rendered(&document).replace(&dir.path().display().to_string(), "DIR"),
        expected,
    );
}

#[test]
fn a_file_that_only_extends_is_the_other_file() {
    check_layers(
        "extends = '../base.toml'",
        &[],
        r#"
agent base 128MiB {"env": "prod", "team": "a"}
source apiserver audit.log
stage.redact None Some(["a", "b"])
sink Some(Name("search")) (Some(5), Some(2s)) Some("DIR/over/../policies/base.yaml") None Some(["http://a", "http://b"]) Some(Gzip) Some(true) Some(Secret(environment variable KEY))
sink Some(Name("out")) (Some(10000), Some(1s)) None None"#,
    );
}

#[test]
fn tables_merge_arrays_of_tables_match_by_name_and_lists_are_replaced_whole() {
    check_layers(
        r#"
extends = "../base.toml"
[agent]
cluster = "over"
labels = { env = "test" }
[[sink]]
name = "search"
endpoints = ["http://c"]
batch.wait = "9s"
policy = "own.yaml"
[[sink]]
name = "new"
type = "stdout"
[[stage]]
type = "redact"
remove = ["c"]
[[stage]]
type = "redact"
name = "second"
"#,
        &[],
        r#"
agent over 128MiB {"env": "test", "team": "a"}
source apiserver audit.log
stage.redact None Some(["c"])
stage.second Some("second") None
sink Some(Name("search")) (Some(5), Some(9s)) Some("DIR/over/own.yaml") None Some(["http://c"]) Some(Gzip) Some(true) Some(Secret(environment variable KEY))
sink Some(Name("out")) (Some(10000), Some(1s)) None None 
sink Some(Name("new")) (Some(10000), Some(1s)) None None"#,
    );
}

#[test]
fn a_disabled_table_is_removed_and_a_changed_type_replaces() {
    check_layers(
        r#"
extends = "../base.toml"
[[stage]]
type = "redact"
enabled = false
[[sink]]
name = "search"
type = "stdout"
[[sink]]
name = "out"
enabled = false
"#,
        &[],
        r#"
agent base 128MiB {"env": "prod", "team": "a"}
source apiserver audit.log
sink Some(Name("search")) (Some(10000), Some(1s)) None None"#,
    );
}

#[test]
fn an_inline_list_of_tables_is_replaced_whole() {
    check_layers(
        "extends = '../base.toml'\nsink = [{ name = 'only', type = 'stdout' }]\nstage = []",
        &[],
        r#"
agent base 128MiB {"env": "prod", "team": "a"}
source apiserver audit.log
sink Some(Name("only")) (Some(10000), Some(1s)) None None"#,
    );
}

#[test]
fn a_secret_from_elsewhere_replaces_the_secret() {
    check_layers(
        "extends = '../base.toml'\n[[sink]]\nname = 'search'\napi_key = { file = '../base.toml' }",
        &[],
        r#"
agent base 128MiB {"env": "prod", "team": "a"}
source apiserver audit.log
stage.redact None Some(["a", "b"])
sink Some(Name("search")) (Some(5), Some(2s)) Some("DIR/over/../policies/base.yaml") None Some(["http://a", "http://b"]) Some(Gzip) Some(true) Some(Secret(file DIR/over/../base.toml))
sink Some(Name("out")) (Some(10000), Some(1s)) None None"#,
    );
}

#[test]
fn set_addresses_by_name_and_takes_toml_or_a_string() {
    check_layers(
        "extends = '../base.toml'",
        &[
            "sink.search.batch.wait=7s",
            "sink.search.batch.events=9",
            "sink.search.endpoints=['http://z']",
            "stage.redact.remove=[]",
            "agent.labels.\"a.b\"=x=y",
            "agent.cluster=\"${NODE}\"",
            "sink.out.enabled=false",
            "source.apiserver.path=other.log",
        ],
        r#"
agent node-1 128MiB {"a.b": "x=y", "env": "prod", "team": "a"}
source apiserver other.log
stage.redact None Some([])
sink Some(Name("search")) (Some(9), Some(7s)) Some("DIR/over/../policies/base.yaml") None Some(["http://z"]) Some(Gzip) Some(true) Some(Secret(environment variable KEY))"#,
    );
}

#[test]
fn set_makes_missing_tables_and_a_set_type_replaces() {
    check_layers(
        "agent.cluster = 'a'\n[[sink]]\nname = 'x'\ntype = 'elasticsearch'\nendpoints = []",
        &["agent.labels.a=1st", "sink.x.type=stdout"],
        r#"
agent a 64MiB {"a": "1st"}
sink Some(Name("x")) (Some(10000), Some(1s)) None None"#,
    );
}

#[test]
fn mistakes_are_shown_in_the_file_they_stand_in() {
    check_layer_mistakes(
        r#"
extends = "../base.toml"
[agent]
memory = "1"
[[sink]]
name = "serch"
enabled = false
[[sink]]
name = "search"
endpoints = 1
"#,
        &["agent.cluster=5", "sink.search.batch.wiat=5s"],
        r#"
error: wrong value of `agent.memory`
 --> DIR/over/ship.toml:4:10
  |
4 | memory = "1"
  |          ^^^ this size has no unit
  |
  = note: allowed is a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"`
  = help: did you mean `"1MiB"`?

error: there is no sink `serch`
 --> DIR/over/ship.toml:5:1
  |
5 | [[sink]]
  | ^^^^^^^^ nothing below has this name
  |
  = note: there are `search`, `out`
  = help: did you mean `search`?

error: wrong value of `sink.search.endpoints`
  --> DIR/over/ship.toml:10:13
   |
10 | endpoints = 1
   |             ^ this is a whole number
   |
   = note: allowed is a list of: a string

error: wrong value of `agent.cluster`
 --> --set:1:15
  |
1 | agent.cluster=5
  |               ^ this is a whole number
  |
  = note: allowed is a string

error: unknown key `sink.search.batch.wiat`
 --> --set:1:19
  |
1 | sink.search.batch.wiat=5s
  |                   ^^^^ not a key of `sink.search.batch`
  |
  = note: allowed are `events`, `wait`
  = help: did you mean `wait`?"#,
    );
}

#[test]
fn a_mistake_in_the_extended_file_is_shown_there() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("c.toml", "[agent]\ncluster = 1\n");
    write(
        "b.toml",
        "extends = 'c.toml'\n[agent]\nmemory = \"${NONE}\"\n",
    );
    write("a.toml", "extends = 'b.toml'\nx = 1\n");
    let document = Document::load_with(&dir.path().join("a.toml"), &[], environment()).unwrap();
    let found = rendered(&document).replace(&dir.path().display().to_string(), "DIR");
    let names: Vec<_> = document
        .files()
        .iter()
        .map(|file| file.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a.toml", "b.toml", "c.toml"]);
    compare(
        &found,
        r#"
error: unknown key `x`
 --> DIR/a.toml:2:1
  |
2 | x = 1
  | ^ not a key of the configuration
  |
  = note: allowed are `agent`, `sink`, `source`, `stage`

error: a variable cannot be filled in
 --> DIR/b.toml:3:10
  |
3 | memory = "${NONE}"
  |          ^^^^^^^^^ the environment variable `NONE` is not set
  |
  = help: set it, or give a default: `${NONE:-…}`

error: wrong value of `agent.cluster`
 --> DIR/c.toml:2:11
  |
2 | cluster = 1
  |           ^ this is a whole number
  |
  = note: allowed is a string"#,
    );
}

#[test]
fn a_file_that_extends_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.toml", "extends = 'b.toml'\n");
    write("b.toml", "extends = './a.toml'\n");
    let document = Document::load_with(&dir.path().join("a.toml"), &[], environment()).unwrap();
    let found = rendered(&document).replace(&dir.path().display().to_string(), "DIR");
    compare(
        &found,
        r#"
error: cannot extend DIR/./a.toml
 --> DIR/b.toml:1:11
  |
1 | extends = './a.toml'
  |           ^^^^^^^^^^ this file extends itself, here or through others"#,
    );
}

#[test]
fn what_cannot_be_extended_is_said_and_nothing_else_called_missing() {
    check(
        "extends = 'nowhere.toml'\n[[sink]]\nname = 'out'\n",
        r#"
error: cannot extend nowhere.toml
 --> ship.toml:1:11
  |
1 | extends = 'nowhere.toml'
  |           ^^^^^^^^^^^^^^ No such file or directory (os error 2)"#,
    );
    check(
        "extends = 1\n",
        r#"
error: wrong value of `extends`
 --> ship.toml:1:11
  |
1 | extends = 1
  |           ^ this is a whole number
  |
  = note: allowed is the path of one file, relative to this one"#,
    );
}

#[test]
fn a_disabled_table_is_not_read_at_all() {
    check(
        "agent.cluster = 'a'\n[[sink]]\nname = 'out'\ntype = 'nonsense'\nenabled = false\n",
        "",
    );
    check(
        "agent.cluster = 'a'\n[[sink]]\nname = 'out'\ntype = 'stdout'\nenabled = 'no'\n",
        r#"
error: wrong value of `enabled`
 --> ship.toml:5:11
  |
5 | enabled = 'no'
  |           ^^^^ this is a string
  |
  = note: allowed is `true` or `false`"#,
    );
}

#[test]
fn mistakes_of_set_are_shown_as_any_other() {
    check_set(
        "agent.cluster = 'a'\n[[sink]]\nname = 'out'\ntype = 'stdout'",
        &[
            "agent.memory",
            "agent..memory=1",
            "=1",
            "agent.cluster.name=x",
            "sink.uot.rate=0.5",
            "sink.out=5",
            "agent.memory=12",
            "agent.nmae=${NONE}",
        ],
        r#"
error: `--set` takes KEY=VALUE
 --> --set:1:1
  |
1 | agent.memory
  | ^^^^^^^^^^^^ there is no `=`
  |
  = help: for example `--set spool.max_bytes=20GiB` or `--set sink.search.batch.wait=2s`

error: `--set` takes KEY=VALUE
 --> --set:1:1
  |
1 | agent..memory=1
  | ^^^^^^^^^^^^^ this is not a key
  |
  = help: a key is names with dots between them; put a name with other characters than `A-Za-z0-9_-` in quotes

error: `--set` takes KEY=VALUE
 --> --set:1:1
  |
1 | =1
  | ^ this is not a key
  |
  = help: a key is names with dots between them; put a name with other characters than `A-Za-z0-9_-` in quotes

error: `cluster` has no keys
 --> --set:1:7
  |
1 | agent.cluster.name=x
  |       ^^^^^^^ this is a string

error: there is no sink `uot`
 --> --set:1:6
  |
1 | sink.uot.rate=0.5
  |      ^^^ nothing below has this name
  |
  = note: there are `out`
  = help: did you mean `out`?

error: `sink.out` is a whole table
 --> --set:1:6
  |
1 | sink.out=5
  |      ^^^ one of its keys must follow
  |
  = help: write `sink.out.KEY=VALUE`

error: wrong value of `agent.memory`
 --> --set:1:14
  |
1 | agent.memory=12
  |              ^^ this size has no unit
  |
  = note: allowed is a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"`
  = help: did you mean `"12MiB"`?

error: unknown key `agent.nmae`
 --> --set:1:7
  |
1 | agent.nmae=${NONE}
  |       ^^^^ not a key of `agent`
  |
  = note: allowed are `cluster`, `labels`, `memory`

error: a variable cannot be filled in
 --> --set:1:12
  |
1 | agent.nmae=${NONE}
  |            ^^^^^^^ the environment variable `NONE` is not set
  |
  = help: set it, or give a default: `${NONE:-…}`"#,
    );
}

#[test]
fn two_tables_of_one_name_in_the_upper_file_do_not_melt_into_one() {
    check_layer_mistakes(
        r#"
extends = "../base.toml"
[[sink]]
name = "out"
rate = 0.5
[[sink]]
name = "out"
rate = 0.6
"#,
        &[],
        r#"
error: two `[[sink]]` are named `out`
 --> DIR/over/ship.toml:7:8
  |
4 | name = "out"
  |        ----- the first one
...
7 | name = "out"
  |        ^^^^^ the second one
  |
  = help: give each its own name
"#,
    );
}

#[test]
fn a_name_that_set_gives_twice_is_refused_in_both_files() {
    check_set(
        "agent.cluster = 'a'\n[[sink]]\nname = 'a'\ntype = 'stdout'\n[[sink]]\nname = 'b'\ntype = 'stdout'",
        &["sink.b.name=a"],
        r#"
error: two `[[sink]]` are named `a`
 --> --set:1:13
  |
1 | sink.b.name=a
  |             ^ the second one
  |
 ::: ship.toml:3:8
  |
3 | name = 'a'
  |        ^^^ the first one
  |
  = help: give each its own name
"#,
    );
}

#[test]
fn what_is_missing_in_both_files_is_missed_in_the_upper_one() {
    check_layer_mistakes(
        r#"
extends = "../base.toml"
[[sink]]
name = "search"
type = "stdout"
[[source]]
name = "new"
type = "file"
[[source]]
name = "apiserver"
type = "file"
path = 1
[[stage]]
type = "sample"
enabled = false
"#,
        &[],
        r#"
error: `source.new` has no `path`
 --> DIR/over/ship.toml:6:1
  |
6 | [[source]]
  | ^^^^^^^^^^ `path` must be set
  |
  = note: allowed is a path, relative to the working directory

error: wrong value of `source.apiserver.path`
  --> DIR/over/ship.toml:12:8
   |
12 | path = 1
   |        ^ this is a whole number
   |
   = note: allowed is a path, relative to the working directory
"#,
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base.toml"), "[agent]\nmemory = '64MiB'\n").unwrap();
    let over = document("extends = 'base.toml'\n[agent]\n", &[], dir.path());
    let found = rendered(&over);
    assert!(
        found.contains("`agent` has no `cluster`\n --> ship.toml:2:1"),
        "{found}"
    );
}
