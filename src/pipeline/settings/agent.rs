//! The tables that are about the agent as a whole.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{ByteSize, Choice, Field, Section, TableDoc, WorkPath};
use crate::event::Origin;
use crate::telemetry::log::{LogFormat, LogLevel};

/// `[agent]`.
#[derive(Clone, Debug)]
pub struct Agent {
    /// `cluster`.
    pub cluster: String,
    /// `node`, or the host's name.
    pub node: String,
    /// `state_dir`.
    pub state_dir: PathBuf,
    /// `memory`, bytes.
    pub memory: u64,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `shutdown_timeout`.
    pub shutdown_timeout: Duration,
    /// `log.level`.
    pub log_level: LogLevel,
    /// `log.format`.
    pub log_format: LogFormat,
}

impl Agent {
    /// The origin of a source of this agent.
    pub fn origin(&self, source: &str) -> Origin {
        Origin {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            source: source.to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sandbox {
    Required,
    BestEffort,
    Off,
}

impl Choice for Sandbox {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("required", Sandbox::Required),
        ("best-effort", Sandbox::BestEffort),
        ("off", Sandbox::Off),
    ];
}

/// Words of `log.format`.
#[derive(Clone, Copy)]
struct FormatWord(LogFormat);

impl Choice for FormatWord {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("text", FormatWord(LogFormat::Text)),
        ("json", FormatWord(LogFormat::Json)),
    ];
}

/// Words of `log.level`.
#[derive(Clone, Copy)]
struct LevelWord(LogLevel);

impl Choice for LevelWord {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", LevelWord(LogLevel::Error)),
        ("warn", LevelWord(LogLevel::Warn)),
        ("info", LevelWord(LogLevel::Info)),
        ("debug", LevelWord(LogLevel::Debug)),
        ("trace", LevelWord(LogLevel::Trace)),
    ];
}

const CLUSTER: Field<String> = Field::new(
    "cluster",
    "Name of the cluster. Part of every event's id, so it is pinned in the state directory at first start and another \
     value is refused. Letters, digits, `.`, `_` and `-`.",
)
.required()
.check(origin_name);
const NODE: Field<String> = Field::new(
    "node",
    "Name of this node; the host's name by default. Pinned like `cluster`. In Kubernetes set it, for a pod has a host \
     name of its own: `\"${NODE_NAME}\"`.",
)
.check(origin_name);
const STATE_DIR: Field<WorkPath> = Field::new(
    "state_dir",
    "Where spool, cursors and dead letters live. On a disk that survives a restart.",
)
.default("\"/var/lib/auditship\"");
const MEMORY: Field<ByteSize> = Field::new(
    "memory",
    "Ceiling for the process's peak resident memory under any load, backlog or outage. Batches share what is left of \
     it; more only helps with very large batches.",
)
.default("\"64MiB\"")
.min("\"48MiB\"");
const LABELS: Field<BTreeMap<String, String>> = Field::new(
    "labels",
    "Static labels beside every event, such as `{ env = \"prod\" }`.",
);
const SHUTDOWN_TIMEOUT: Field<Duration> = Field::new(
    "shutdown_timeout",
    "How long attempts in flight may take to end after SIGTERM. Keep it below the grace period of whoever stops us.",
)
.default("\"20s\"");
const SANDBOX: Field<Sandbox> = Field::new(
    "sandbox",
    "Whether the process confines itself before it starts work. This version has no sandbox yet: `required` is \
     refused, the others change nothing.",
);
const LEVEL: Field<LevelWord> =
    Field::new("level", "Least severe messages that are logged.").default("\"info\"");
const FORMAT: Field<FormatWord> =
    Field::new("format", "Lines for people or JSON, on standard error.").default("\"text\"");
const LOG: TableDoc = TableDoc {
    name: "log",
    doc: "The agent's own log, on standard error.",
    fields: &[&LEVEL, &FORMAT],
};

/// `[agent]` for reading, schema and reference.
pub(super) static AGENT: TableDoc = TableDoc {
    name: "agent",
    doc: "The agent as a whole. Only `cluster` must be set.",
    fields: &[
        &CLUSTER,
        &NODE,
        &STATE_DIR,
        &MEMORY,
        &LABELS,
        &SHUTDOWN_TIMEOUT,
        &SANDBOX,
        &LOG,
    ],
};

pub(super) fn read_agent(root: &mut Section<'_>) -> Option<Agent> {
    let mut table = root.table_or_default(&AGENT);
    let cluster = table.get(&CLUSTER);
    let node = if table.has(NODE.name) {
        table.get(&NODE)
    } else {
        host_name(&table)
    };
    let state_dir = table.get(&STATE_DIR);
    let memory = table.get(&MEMORY);
    let labels = table.get(&LABELS).unwrap_or_default();
    let shutdown_timeout = table.get(&SHUTDOWN_TIMEOUT);
    if let Some(sandbox) = table.get_spanned(&SANDBOX)
        && sandbox.value == Sandbox::Required
    {
        table.error_at(
            sandbox.at,
            "not built yet: this version has no sandbox",
            Some("use \"best-effort\" or \"off\", or leave it out".into()),
        );
    }
    let mut log = table.table_or_default(&LOG);
    let (level, format) = (log.get(&LEVEL), log.get(&FORMAT));
    log.finish();
    table.finish();
    Some(Agent {
        cluster: cluster?,
        node: node?,
        state_dir: state_dir?.0,
        memory: memory?.0,
        labels,
        shutdown_timeout: shutdown_timeout?,
        log_level: level?.0,
        log_format: format?.0,
    })
}

/// A name that event ids are made from: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
#[expect(clippy::ptr_arg, reason = "the type that `Field::check` hands over")]
fn origin_name(name: &String) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        return Ok(());
    }
    let help = "use letters, digits, `.`, `_` and `-`, beginning with a letter or digit";
    Err(format!(
        "`{}` cannot be part of an event id\n{help}",
        name.escape_debug()
    ))
}

/// The host's name, reported at the table's head where it cannot serve.
fn host_name(table: &Section<'_>) -> Option<String> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    match origin_name(&host) {
        Ok(()) => Some(host),
        Err(problem) => {
            table.error_at(table.place(), problem, Some("set `node`".into()));
            None
        }
    }
}

/// `[spool]`.
#[derive(Clone, Debug)]
pub struct Spool {
    /// `max_bytes`.
    pub max_bytes: u64,
    /// `min_free`.
    pub min_free: u64,
    /// `on_full`.
    pub on_full: OnFull,
    /// `sync_interval`.
    pub sync_interval: Duration,
    /// `compression = "zstd"`.
    pub compress: bool,
}

/// `spool.on_full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The source waits.
    Block,
    /// The oldest records are given up, with gaps.
    DropOldest,
}

impl Choice for OnFull {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("block", OnFull::Block),
        ("drop_oldest", OnFull::DropOldest),
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Zstd,
    None,
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] =
        &[("zstd", Compression::Zstd), ("none", Compression::None)];
}

const MAX_BYTES: Field<ByteSize> = Field::new(
    "max_bytes",
    "Most bytes on disk. When they are reached the file source waits, with the audit files as the next buffer.",
)
.default("\"10GiB\"")
// Room for the segment being written, the one being freed and dead letters.
.min("\"16MiB\"");
const MIN_FREE: Field<ByteSize> = Field::new(
    "min_free",
    "Bytes that must stay free on the file system, for the node's other programs. Blocks like `max_bytes`.",
)
.default("\"2GiB\"");
const ON_FULL: Field<OnFull> = Field::new(
    "on_full",
    "`block`: the source waits. `drop_oldest`: the oldest records are given up for the sinks that still need them, \
     each with a recorded gap.",
)
.default("\"block\"");
const SYNC_INTERVAL: Field<Duration> = Field::new(
    "sync_interval",
    "Longest wait before what was read is made durable. Shorter means less latency and more disk syncs beside etcd's.",
)
.default("\"100ms\"");
const COMPRESSION: Field<Compression> =
    Field::new("compression", "How blocks are compressed on disk.").default("\"zstd\"");

/// `[spool]` for reading, schema and reference.
pub(super) static SPOOL: TableDoc = TableDoc {
    name: "spool",
    doc: "The durable buffer on disk between sources and sinks.",
    fields: &[
        &MAX_BYTES,
        &MIN_FREE,
        &ON_FULL,
        &SYNC_INTERVAL,
        &COMPRESSION,
    ],
};

pub(super) fn read_spool(root: &mut Section<'_>) -> Option<Spool> {
    let mut table = root.table_or_default(&SPOOL);
    // All are read before any mistake ends it, so that all mistakes are shown at once.
    let (max_bytes, min_free) = (table.get(&MAX_BYTES), table.get(&MIN_FREE));
    let (on_full, sync_interval) = (table.get(&ON_FULL), table.get(&SYNC_INTERVAL));
    let compression = table.get(&COMPRESSION);
    table.finish();
    Some(Spool {
        max_bytes: max_bytes?.0,
        min_free: min_free?.0,
        on_full: on_full?,
        sync_interval: sync_interval?,
        compress: compression? == Compression::Zstd,
    })
}

/// `[dead_letter]`.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// `max_bytes`.
    pub max_bytes: u64,
}

const DEAD_LETTER_MAX_BYTES: Field<ByteSize> = Field::new(
    "max_bytes",
    "Most bytes of rejected events kept for all sinks together; part of `spool.max_bytes`. When they are reached the \
     sink that needs more stops.",
)
.default("\"1GiB\"");

/// `[dead_letter]` for reading, schema and reference.
pub(super) static DEAD_LETTER: TableDoc = TableDoc {
    name: "dead_letter",
    doc: "Events that a destination refused for good.",
    fields: &[&DEAD_LETTER_MAX_BYTES],
};

pub(super) fn read_dead_letter(root: &mut Section<'_>) -> Option<DeadLetter> {
    let mut table = root.table_or_default(&DEAD_LETTER);
    let max_bytes = table.get(&DEAD_LETTER_MAX_BYTES);
    table.finish();
    Some(DeadLetter {
        max_bytes: max_bytes?.0,
    })
}

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// `listen`: `host:port`, `unix:/path` or `off`.
    pub listen: String,
}

const LISTEN: Field<String> = Field::new(
    "listen",
    "Where health, status and metrics are served: `host:port`, `unix:/path` or `off`. It has no write access, but keep \
     it on loopback or behind a network policy.",
)
.default("\"127.0.0.1:9465\"")
.check(|listen| {
    let good = listen == "off" || listen.starts_with("unix:/") || listen.parse::<std::net::SocketAddr>().is_ok();
    let help = "such as \"127.0.0.1:9465\", \"[::1]:9465\", \"unix:/run/auditship/admin.sock\" or \"off\"";
    if good { Ok(()) } else { Err(format!("`{}` is no address\n{help}", listen.escape_debug())) }
});

/// `[admin]` for reading, schema and reference.
pub(super) static ADMIN: TableDoc = TableDoc {
    name: "admin",
    doc: "The listener for health, status and metrics.",
    fields: &[&LISTEN],
};

pub(super) fn read_admin(root: &mut Section<'_>) -> Option<Admin> {
    let mut table = root.table_or_default(&ADMIN);
    let listen = table.get(&LISTEN);
    table.finish();
    Some(Admin { listen: listen? })
}
