//! `[[sink]]`: what all sinks have in common; the rest is read by the sink's kind.

use std::time::Duration;

use crate::config::{ByteSize, Choice, Field, FieldDoc, Name, Section, TableDoc};
use crate::sinks::{Defaults, NOT_BUILT_YET, SINKS, SinkConfig, SinkKind};

/// One `[[sink]]`.
#[derive(Debug)]
pub struct SinkSettings {
    /// `name`.
    pub name: String,
    /// Its kind's name.
    pub kind: &'static str,
    /// What its kind is like.
    pub defaults: Defaults,
    /// `from = "now"`.
    pub from_now: bool,
    /// `required`.
    pub required: bool,
    /// `batch.bytes`.
    pub batch_bytes: u64,
    /// `batch.events`.
    pub batch_events: u64,
    /// `batch.wait`.
    pub batch_wait: Duration,
    /// `concurrency`.
    pub concurrency: usize,
    /// `timeout`.
    pub timeout: Duration,
    /// `proxy`.
    pub proxy: Option<String>,
    /// What its kind read.
    pub config: Box<dyn SinkConfig>,
}

/// `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Oldest,
    Now,
}

impl Choice for From {
    const WORDS: &'static [(&'static str, Self)] = &[("oldest", From::Oldest), ("now", From::Now)];
}

const NAME: Field<Name> = Field::new(
    "name",
    "Name of the sink. Its cursor is kept under this name: a renamed sink is a new one.",
)
.required();
const FROM: Field<From> = Field::new(
    "from",
    "Where a sink without a cursor starts: at the oldest record still spooled, or behind the newest.",
)
.default("\"oldest\"");
const REQUIRED: Field<bool> = Field::new(
    "required",
    "`false`: may be overtaken whenever the spool is full, with a recorded gap, and `run --once` does not wait for it.",
)
.default("true");
const BATCH_BYTES: Field<ByteSize> = Field::new(
    "bytes",
    "Most bytes of a batch, encoded, before compression (s3: compressed). Default: elasticsearch and file 5MiB, kafka and \
     stdout 1MiB, loki 2MiB, s3 16MiB.",
)
.min("\"64KiB\"")
.max("\"16MiB\"");
const BATCH_EVENTS: Field<u64> = Field::new(
    "events",
    "Most events of a batch. Default 10000; s3: no limit.",
)
.min("1");
const BATCH_WAIT: Field<Duration> = Field::new(
    "wait",
    "Longest wait for a batch to fill while others are in flight; a sink with nothing in flight sends at once. Default 1s. \
     s3: always waited, default 5m.",
)
.max("\"1h\"");
const BATCH: TableDoc = TableDoc {
    name: "batch",
    doc: "When a batch is cut: at whichever comes first.",
    fields: &[&BATCH_BYTES, &BATCH_EVENTS, &BATCH_WAIT],
};
const CONCURRENCY: Field<usize> = Field::new(
    "concurrency",
    "Attempts in flight at once. Default: elasticsearch and kafka 4, s3 1; loki, file and stdout keep the order and allow \
     only 1.",
)
.min("1")
.max("64");
const TIMEOUT: Field<Duration> = Field::new("timeout", "Longest time of one attempt.")
    .default("\"60s\"")
    .min("\"1s\"")
    .max("\"1h\"");
const PROXY: Field<String> = Field::new(
    "proxy",
    "HTTP proxy of elasticsearch, s3 and loki, `http://host:port`. Default: HTTPS_PROXY and NO_PROXY of the environment.",
);
const WHEN: Field<String> = Field::new(
    "when",
    "Not built yet: a CEL condition that selects events for this sink.",
);
const POLICY: Field<String> = Field::new(
    "policy",
    "Not built yet: an audit Policy file for this sink alone.",
);
const STAGE: Field<Vec<String>> = Field::new("stage", "Not built yet: stages for this sink alone.");

/// `[[sink]]` for reading, schema and reference.
pub(super) static SINK: TableDoc = TableDoc {
    name: "sink",
    doc: "Where events go. Each sink has its own cursor: a slow or dead one delays no other.",
    fields: &[
        &NAME,
        &FROM,
        &REQUIRED,
        &BATCH,
        &CONCURRENCY,
        &TIMEOUT,
        &PROXY,
    ],
};

pub(super) fn read_sinks(root: &mut Section<'_>) -> Option<Vec<SinkSettings>> {
    let tables = root.tables(&SINK);
    if root.has_none(&SINK) {
        root.error_at(
            root.place(),
            "there is no `[[sink]]`",
            Some("name a destination for the events".into()),
        );
    }
    // Every sink is read before any mistake ends it, so that all mistakes are shown at once.
    let sinks: Vec<Option<SinkSettings>> = tables.into_iter().map(read_sink).collect();
    let sinks: Option<Vec<SinkSettings>> = sinks.into_iter().collect();
    sinks.filter(|sinks| !sinks.is_empty())
}

fn read_sink(mut table: Section<'_>) -> Option<SinkSettings> {
    let kinds: Vec<(&'static str, &'static [&'static dyn FieldDoc])> =
        SINKS.iter().map(|kind| (kind.name, kind.fields)).collect();
    let name = table.get(&NAME);
    let kind = table.kind(&kinds, NOT_BUILT_YET).map(|at| SINKS[at]);
    refuse_views(&mut table);
    let from = table.get(&FROM);
    let required = table.get(&REQUIRED);
    let timeout = table.get(&TIMEOUT);
    let proxy = table.get_spanned(&PROXY);
    let mut batch = table.table_or_default(&BATCH);
    let (bytes, events, wait) = (
        batch.get(&BATCH_BYTES),
        batch.get(&BATCH_EVENTS),
        batch.get(&BATCH_WAIT),
    );
    batch.finish();
    let concurrency = kind.and_then(|kind| read_concurrency(&mut table, kind));
    if let (Some(kind), Some(proxy)) = (kind, &proxy)
        && !kind.defaults.proxy
    {
        table.error_at(
            proxy.at,
            format!("a {} sink goes through no HTTP proxy", kind.name),
            Some("take `proxy` out".into()),
        );
    }
    let config = kind.and_then(|kind| (kind.read)(&mut table));
    let failed = table.failed();
    table.finish();
    if failed {
        return None;
    }
    let kind = kind?;
    Some(SinkSettings {
        name: name?.0,
        kind: kind.name,
        defaults: kind.defaults,
        from_now: from? == From::Now,
        required: required?,
        batch_bytes: bytes.map_or(kind.defaults.batch_bytes, |size| size.0),
        batch_events: events.unwrap_or(kind.defaults.batch_events),
        batch_wait: wait.unwrap_or(kind.defaults.batch_wait),
        concurrency: concurrency?,
        timeout: timeout?,
        proxy: proxy.map(|proxy| proxy.value),
        config: config?,
    })
}

fn read_concurrency(table: &mut Section<'_>, kind: &SinkKind) -> Option<usize> {
    if !table.has(CONCURRENCY.name) {
        return Some(kind.defaults.concurrency);
    }
    let concurrency = table.get_spanned(&CONCURRENCY)?;
    if concurrency.value > kind.defaults.concurrency_max {
        table.error_at(
            concurrency.at,
            match kind.defaults.concurrency_max {
                1 => format!("a {} sink keeps the order of events", kind.name),
                max => format!("a {} sink has at most {max} attempts in flight", kind.name),
            },
            Some(format!(
                "at most {}, or leave it out",
                kind.defaults.concurrency_max
            )),
        );
        return None;
    }
    Some(concurrency.value)
}

/// Views come with a later version; until then their keys are known and refused.
fn refuse_views(table: &mut Section<'_>) {
    for key in [WHEN.name, POLICY.name, STAGE.name] {
        if table.has(key) {
            table.allow(&[&WHEN, &POLICY, &STAGE]);
            table.error_at(
                table.place_of(key),
                format!("`{key}` is not built yet"),
                Some("this version sends every event to every sink: take it out".into()),
            );
        }
    }
}
