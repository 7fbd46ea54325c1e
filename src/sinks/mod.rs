//! Where events go. A sink makes one attempt at one batch and reports what became of it. It never retries, never
//! waits between attempts, never touches the spool or a cursor: `delivery` owns all of that.
//!
//! Adding a sink is one new file, its `mod` line and its line in [`SINKS`].

#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;

#[cfg(feature = "kafka")]
pub mod kafka;

#[cfg(feature = "s3")]
pub mod s3;

#[cfg(feature = "loki")]
pub mod loki;

#[cfg(feature = "file")]
pub mod file;

#[cfg(feature = "stdout")]
pub mod stdout;

#[cfg(any(feature = "file", feature = "stdout"))]
mod envelope;

#[cfg(any(feature = "elasticsearch", feature = "loki", feature = "s3"))]
mod http_connection;

#[cfg(any(feature = "elasticsearch", feature = "kafka"))]
mod names;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Micros};
use crate::config::{FieldDoc, Section};
use crate::durable_fs::DurableFs;
use crate::event::encoding::RecordHead;
use crate::event::{Generation, Origin};

/// Every kind of sink. Configuration, `check`, the schema, the reference and the contract tests all read this table.
pub static SINKS: &[&SinkKind] = &[
    #[cfg(feature = "elasticsearch")]
    &elasticsearch::KIND,
    #[cfg(feature = "kafka")]
    &kafka::KIND,
    #[cfg(feature = "s3")]
    &s3::KIND,
    #[cfg(feature = "loki")]
    &loki::KIND,
    #[cfg(feature = "file")]
    &file::KIND,
    #[cfg(feature = "stdout")]
    &stdout::KIND,
];

/// Kinds that are planned and that this version does not have yet.
pub const NOT_BUILT_YET: &[&str] = &["http", "forward", "slack"];

/// A future that a sink returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One kind of sink: its name, its documentation and how it reads its own section.
pub struct SinkKind {
    /// The `type` in the configuration.
    pub name: &'static str,
    /// One sentence for `schema` and the reference.
    pub summary: &'static str,
    /// Its own keys, beside the common ones that `delivery` reads.
    pub fields: &'static [&'static dyn FieldDoc],
    /// What delivery assumes where the configuration says nothing.
    pub defaults: Defaults,
    /// Reads its keys; mistakes go to the section's diagnostics. `None` where there were any.
    pub read: fn(&mut Section<'_>) -> Option<Box<dyn SinkConfig>>,
}

/// Defaults of the common keys that differ by kind.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `batch.bytes`: encoded bytes before compression.
    pub batch_bytes: u64,
    /// `batch.events`.
    pub batch_events: u64,
    /// `batch.wait`.
    pub batch_wait: Duration,
    /// `concurrency`.
    pub concurrency: usize,
    /// Greatest allowed `concurrency`; 1 where the order of batches is promised.
    pub concurrency_max: usize,
    /// Whether it can go through an HTTP proxy: `proxy` means something then.
    pub proxy: bool,
    /// `batch.wait` is always waited for a batch to fill, not only while others are in flight.
    pub waits: bool,
    /// A batch is sealed before its first send: its records, target and hash are written down, and after a crash the
    /// same batch is sent again.
    pub sealed: bool,
}

/// A sink's configuration, read and valid, not yet built.
pub trait SinkConfig: Send + Sync + std::fmt::Debug {
    /// Makes the sink. Touches nothing outside; errors are of the kind that `check` finds (an unreadable CA file).
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError>;

    /// `check --connect`: logs in and checks rights without writing an event; with `setup`, installs what it needs.
    /// Gives one line per thing seen.
    fn connect<'a>(
        &'a self,
        context: &'a SinkContext,
        setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>>;

    /// The file that it writes, as the configuration names it (perhaps a template), with its place. Nobody else may
    /// write there, or read it as a log.
    fn writes(&self) -> Option<crate::config::Spanned<std::path::PathBuf>> {
        None
    }

    /// Greatest `concurrency` that these settings allow, with the reason, where it is less than the kind's.
    fn concurrency_max(&self) -> Option<(usize, &'static str)> {
        None
    }

    /// Secrets that a person wrote into the file as bare strings, for the warning of `check`.
    fn bare_secrets(&self) -> usize {
        0
    }
}

/// What every sink is built with.
#[derive(Clone)]
pub struct SinkContext {
    /// The sink's name in the configuration.
    pub name: String,
    /// Cluster and node are the agent's; `source` is empty.
    pub agent: Origin,
    /// `agent.labels`.
    pub labels: BTreeMap<String, String>,
    /// `timeout`: one attempt.
    pub timeout: Duration,
    /// `proxy`, network sinks.
    pub proxy: Option<String>,
    /// `batch.bytes`.
    pub batch_bytes: u64,
    /// The id of the spool, 8 hex digits: a lost state directory never meets the names of an earlier one.
    pub spool: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For small durable state of its own, and for the file sink's files.
    pub fs: Arc<dyn DurableFs>,
    /// Where small durable state of its own goes; may not exist yet.
    pub state_dir: std::path::PathBuf,
}

/// A sink could not be made from its configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

/// Sends one batch once.
pub trait Sink: Send + Sync {
    /// Called once before the first send, and again after a `Stop`, until it gives `Ok`. `mark` is what the last
    /// confirmed [`Outcome::Delivered`] or [`Outcome::MarkFirst`] handed over.
    fn open<'a>(&'a self, mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>>;

    /// One attempt at one batch. Must end by itself within the sink's `timeout` (delivery adds its own at twice that).
    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome>;

    /// Makes durable what was reported as delivered; delivery calls it before it syncs the cursor. Sinks whose
    /// destination is durable by itself have nothing to do.
    fn settle(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Encoded bytes of one record before compression, for cutting batches. An estimate from above.
    fn weigh(&self, record: &Record) -> u64;

    /// Records with different keys never share a batch (design R2). Empty where all may.
    fn batch_key(&self, _record: &Record) -> BatchKey {
        BatchKey::default()
    }

    /// Begins the body of a batch that is too large to be held as records: it is built while the batch fills, and
    /// `batch.bytes` is about its finished size. `None`: the batch holds its records.
    fn begin_body(&self) -> Option<Box<dyn BodyBuilder>> {
        None
    }

    /// What is to be written down about a batch before its first send, for kinds that are [`Defaults::sealed`]. Pure;
    /// called where it may take its time.
    fn seal(&self, _batch: &Batch) -> Option<Seal> {
        None
    }

    /// Whether the destination holds the batch of a seal that can no longer be made, because encoder or settings are
    /// others now (design R7).
    fn look_up<'a>(&'a self, _seal: &'a Seal) -> BoxFuture<'a, Result<Holds, Outcome>> {
        Box::pin(async { Ok(Holds::Unknown) })
    }

    /// Whether the secrets it was built with have changed since; a stopped sink then probes at once.
    fn secrets_changed(&self) -> bool {
        false
    }

    /// When the first of the certificates in its configuration expires, in seconds since the Unix epoch.
    fn certificate_expiry(&self) -> Option<i64> {
        None
    }
}

/// What `open` found at the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The last record up to which the destination says it holds all, where it can tell (a marker).
    pub confirmed_to: Option<u64>,
    /// Records below that which it does not hold, as inclusive ranges, ascending.
    pub holes: Vec<(u64, u64)>,
    /// Things to tell the operator, each an alarm (file: "is shorter than what was confirmed").
    pub alarms: Vec<Alarm>,
}

/// Something that an operator must look at, though delivery goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Label of `sink_alarms_total`: `conflict`, `short_file`, …
    pub reason: &'static str,
    /// One line, without anything of an event's body.
    pub message: String,
}

/// What keeps batches apart: source, labels or path where those vary; else empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchKey(pub Vec<u8>);

/// Records for one sink with one batch key, in record order inside a range.
#[derive(Debug, Default)]
pub struct Batch {
    /// Empty only where there is a `body`.
    pub records: Vec<Record>,
    /// What the sink's [`BodyBuilder`] made of them.
    pub body: Option<BuiltBody>,
    /// How to encode them.
    pub form: Form,
    /// Some of these may be stored already, from an attempt whose end was not seen.
    pub in_doubt: bool,
    /// As it was written down.
    pub seal: Option<Seal>,
    /// Records from the durable cursor to the end of this batch that are neither in it nor stored (dead letters,
    /// gaps, records that wait), as inclusive ranges, ascending: what a marker must not claim.
    pub holes: Vec<(u64, u64)>,
}

/// Builds a body record by record, in order.
pub trait BodyBuilder: Send {
    /// Adds a record. An error is about reading an oversize one; the body is of no use then.
    fn push(&mut self, record: &Record) -> std::io::Result<()>;

    /// Bytes that the body would have if it ended now, give or take what the compressor still holds.
    fn bytes(&self) -> u64;

    /// Ends it.
    fn finish(self: Box<Self>) -> std::io::Result<BuiltBody>;
}

/// A body that only the sink that built it can read.
#[derive(Clone)]
pub struct BuiltBody(pub Arc<dyn std::any::Any + Send + Sync>);

impl std::fmt::Debug for BuiltBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BuiltBody")
    }
}

/// A batch as it was written down before its first send, beside its record numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Where it goes, in the sink's own words, at most [`Seal::TARGET_MAX`] bytes: bucket and key, labels.
    pub target: Vec<u8>,
    /// Of the encoder's version and of every setting that decides the bytes.
    pub encoder: [u8; 16],
    /// SHA-256 of the body before compression.
    pub sha256: [u8; 32],
}

impl Seal {
    /// Longest `target`.
    pub const TARGET_MAX: usize = 1536;
}

/// What a destination says about a sealed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It holds it, byte for byte.
    Yes,
    /// It does not.
    No,
    /// It cannot tell: the batch is sent anew.
    Unknown,
}

/// How records are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As the sink always does.
    #[default]
    Normal,
    /// The destination called them unparsable: envelope fields and the line as one string.
    Fallback,
}

/// One event on its way out.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number in the spool.
    pub number: u64,
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// The generation it stood in.
    pub generation: Generation,
    /// Offset, kind, id, hash, time.
    pub head: RecordHead,
    /// When its block was appended: its time where `head.time_us` is `None`.
    pub appended: Micros,
    /// The line.
    pub body: Body,
}

impl Record {
    /// The event's time in microseconds since the Unix epoch (`stageTimestamp`, else the append time).
    pub fn time_us(&self) -> i64 {
        self.head.time_us.unwrap_or(self.appended.0)
    }
}

/// A line's bytes.
#[derive(Clone)]
pub enum Body {
    /// All of it, as the range of a shared buffer.
    Whole(bytes::Bytes),
    /// Longer than `line_max`: read piece by piece, never held whole.
    Pieces(Arc<dyn Pieces>),
}

impl Body {
    /// The line where it is held whole.
    pub fn whole(&self) -> Option<&[u8]> {
        match self {
            Body::Whole(bytes) => Some(bytes),
            Body::Pieces(_) => None,
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Body::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Body::Pieces(_) => f.write_str("Pieces"),
        }
    }
}

/// An oversize line that is read from the spool piece by piece (blocking reads of about 1 MiB).
pub trait Pieces: Send + Sync {
    /// The piece with this index, from 0; `None` behind the last.
    fn piece(&self, index: usize) -> std::io::Result<Option<bytes::Bytes>>;
}

/// What became of an attempt, in the words `delivery` acts on.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every record is stored, but those named here.
    Delivered {
        /// At most 4 KiB that delivery stores with the cursor and hands to `open`. `None`: the mark stays.
        mark: Option<Vec<u8>>,
        /// Records that were not stored: rejected for good, or to be sent again. By record number, ascending.
        except: Vec<(u64, Verdict)>,
        /// Alarms that came up on the way.
        alarms: Vec<Alarm>,
    },
    /// Nothing is known to be stored; try all again.
    Retry {
        /// What the destination asked for (`Retry-After`).
        after: Option<Duration>,
        /// One line for status and log.
        reason: String,
        /// Whether something may have been stored all the same (the end of the attempt was not seen).
        in_doubt: bool,
    },
    /// The batch as a whole is too large or is refused for what one of its records is: halve it. A batch of one
    /// record is rejected instead, for this reason.
    Split {
        /// Verdict for a batch of one.
        verdict: Rejection,
    },
    /// Store this mark durably, then send the batch again; nothing was written yet (file sink, before a new file).
    MarkFirst {
        /// The mark.
        mark: Vec<u8>,
    },
    /// Wrong configuration or credentials: the sink stops until a probe succeeds. Nothing is dropped.
    Stop {
        /// One line: what is wrong and what to do.
        reason: String,
    },
}

/// Verdict on one record of a batch that was otherwise stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Refused for what it is.
    Rejected(Rejection),
    /// To be sent again (429, 503 for this item).
    Retry {
        /// One line for status and log.
        reason: String,
        /// See [`Outcome::Retry`].
        in_doubt: bool,
    },
}

/// Why a destination refuses a record for what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Decides what delivery does next.
    pub kind: RejectionKind,
    /// Groups refusals that mean the same, for the rule of systematic refusal (an error type, without values).
    pub class: String,
    /// The destination's own words, at most 512 bytes, without anything of the event's body.
    pub reason: String,
}

/// Kinds of rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// Worth one more attempt in [`Form::Fallback`].
    Unparsable,
    /// Larger than the destination takes.
    TooLarge,
    /// Refused.
    Refused,
    /// Beyond a limit of the destination that the sink knows, found before anything was sent. About the event alone:
    /// it says nothing about the destination, and is a dead letter at once.
    KnownLimit,
}
