//! What people see of their mistakes: a configuration in, the rendered messages out, read by a pipeline that has a
//! bit of everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::*;

mod mistakes;

mod syntax;

mod layers;

mod hidden;

mod kinds;

mod mutations;

const CLUSTER: Field<String> = Field::new("cluster", "Name of the cluster.").required();
const MEMORY: Field<ByteSize> = Field::new("memory", "Ceiling of memory.")
    .default("\"64MiB\"")
    .min("\"32MiB\"")
    .max("\"1GiB\"");
const LABELS: Field<BTreeMap<String, String>> = Field::new("labels", "Static labels.");
const AGENT: TableDoc = TableDoc {
    name: "agent",
    doc: "The agent.",
    fields: &[&CLUSTER, &MEMORY, &LABELS],
};

const NAME: Field<Name> = Field::new("name", "Name.").required();
const PATH: Field<WorkPath> = Field::new("path", "The live file.").required();
const SOURCE: TableDoc = TableDoc {
    name: "source",
    doc: "A source.",
    fields: &[&NAME],
};
const STAGE: TableDoc = TableDoc {
    name: "stage",
    doc: "A stage.",
    fields: &[&STAGE_NAME, &REMOVE],
};
const STAGE_NAME: Field<Name> = Field::new("name", "Name.");
const REMOVE: Field<Vec<String>> = Field::new("remove", "Paths.");

const EVENTS: Field<u64> = Field::new("events", "Events of a batch.")
    .default("10000")
    .min("1")
    .max("100000");
const WAIT: Field<Duration> = Field::new("wait", "Longest wait.").default("\"1s\"");
const BATCH: TableDoc = TableDoc {
    name: "batch",
    doc: "Batches.",
    fields: &[&EVENTS, &WAIT],
};
const SINK: TableDoc = TableDoc {
    name: "sink",
    doc: "A sink.",
    fields: &[&NAME, &BATCH, &POLICY, &RATE],
};
const POLICY: Field<FilePath> = Field::new("policy", "A policy.");
const RATE: Field<f64> = Field::new("rate", "A rate.").max("1.0");

const ENDPOINTS: Field<Vec<String>> = Field::new("endpoints", "Where to send.").required();
const API_KEY: Field<Secret> = Field::new("api_key", "An API key.");
const COMPRESSION: Field<Compression> =
    Field::new("compression", "How to compress.").default("\"gzip\"");
const VERIFY: Field<bool> = Field::new("verify", "Whether to verify.").default("true");
const SEARCH: &[&dyn FieldDoc] = &[&ENDPOINTS, &API_KEY, &COMPRESSION, &VERIFY];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compression {
    Gzip,
    None,
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] =
        &[("gzip", Compression::Gzip), ("none", Compression::None)];
}

/// Reads everything as a pipeline would; gives what it read, and whether anything of it failed.
fn read(document: &Document) -> (String, bool) {
    let mut said = String::new();
    let mut say = |line: String| {
        said.push_str(&line);
        said.push('\n');
    };
    let mut root = document.root();
    let mut agent = root.table_or_default(&AGENT);
    if let (Some(cluster), Some(memory)) = (agent.get(&CLUSTER), agent.get(&MEMORY)) {
        say(format!(
            "agent {cluster} {memory} {:?}",
            agent.get(&LABELS).unwrap_or_default()
        ));
    }
    for mut source in root.tables(&SOURCE) {
        let kind = source.kind(&[("file", &[&PATH])], &["webhook"]);
        if let (Some(Name(name)), Some(_)) = (source.get(&NAME), kind)
            && let Some(WorkPath(path)) = source.get(&PATH)
        {
            say(format!("source {name} {}", path.display()));
        }
    }
    for mut stage in root.tables(&STAGE) {
        stage.kind(&[("redact", &[]), ("filter", &[])], &["detect"]);
        let path = stage.path().to_owned();
        say(format!(
            "{path} {:?} {:?}",
            stage.get(&STAGE_NAME).map(|name| name.0),
            stage.get(&REMOVE)
        ));
    }
    for mut sink in root.tables(&SINK) {
        let name = sink.get(&NAME);
        let mut batch = sink.table_or_default(&BATCH);
        let batch = (batch.get(&EVENTS), batch.get(&WAIT));
        let own = match sink.kind(&[("elasticsearch", SEARCH), ("stdout", &[])], &["kafka"]) {
            Some(0) => format!(
                "{:?} {:?} {:?} {:?}",
                sink.get(&ENDPOINTS),
                sink.get(&COMPRESSION),
                sink.get(&VERIFY),
                sink.get(&API_KEY)
            ),
            _ => String::new(),
        };
        let policy = sink.get(&POLICY).map(|path| path.0);
        let rate = sink.get(&RATE);
        if !sink.failed() {
            say(format!("sink {name:?} {batch:?} {policy:?} {rate:?} {own}"));
        }
    }
    let failed = root.failed();
    root.finish();
    (said, failed)
}

fn environment() -> Environment {
    Environment::new(|name| match name {
        "NODE" => Some("node-1".into()),
        "KEY" => Some("swordfish".into()),
        _ => None,
    })
}

fn document(text: &str, sets: &[&str], dir: &Path) -> Document {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Document::parse_with("ship.toml", text, dir, &sets, environment()).unwrap()
}

/// The mistakes and warnings of a configuration, as people see them.
fn rendered(document: &Document) -> String {
    read(document);
    match document.finish() {
        Ok(()) => document.warnings().to_string(),
        Err(mistakes) => mistakes.to_string(),
    }
}

/// The mistakes of a configuration.
#[track_caller]
fn check(text: &str, expected: &str) {
    check_set(text, &[], expected);
}

#[track_caller]
fn check_set(text: &str, sets: &[&str], expected: &str) {
    let found = rendered(&document(text, sets, Path::new("")));
    compare(&found, expected);
}

/// Compares without the white space around.
#[track_caller]
fn compare(found: &str, expected: &str) {
    assert_eq!(found.trim(), expected.trim(), "\n{found}");
}
