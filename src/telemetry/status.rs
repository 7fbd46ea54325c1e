//! The status document as plain data: filled by `pipeline` while the agent runs, by `cli` from
//! the state directory when it does not.

use serde::{Deserialize, Serialize};

/// `auditship status --json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Pinned name of the cluster.
    pub cluster: String,
    /// Pinned name of the node.
    pub node: String,
    /// One per source.
    pub sources: Vec<SourceStatus>,
    /// One per shared stage.
    pub stages: Vec<StageStatus>,
    /// The spool.
    pub spool: SpoolStatus,
    /// One per sink, detached ones too.
    pub sinks: Vec<SinkStatus>,
}

/// One source.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// reading, caught_up, waiting, failed; `None` when the agent does not run.
    pub state: Option<String>,
    /// Where reading stands, oldest generation first.
    pub positions: Vec<PositionStatus>,
    /// Lines read.
    pub read_events: u64,
    /// Unread bytes where known.
    pub unread_bytes: Option<u64>,
    /// Of the lines read, the malformed and oversize ones.
    pub malformed_events: u64,
    /// Gaps ever recorded.
    pub gaps_total: u64,
    /// The newest 100.
    pub gaps: Vec<SourceGapStatus>,
}

/// One generation not yet retired.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct PositionStatus {
    /// First 16 hex digits, `None` before the first line feed.
    pub generation: Option<String>,
    /// Offset in uncompressed bytes.
    pub offset: u64,
}

/// A recorded gap of a source; unknown values null.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SourceGapStatus {
    /// Why.
    pub reason: String,
    /// First 16 hex digits.
    pub generation: Option<String>,
    /// First missing byte.
    pub from: Option<u64>,
    /// Behind the last missing byte.
    pub to: Option<u64>,
    /// Missing events.
    pub events: Option<u64>,
    /// Time of the last event before it, RFC 3339.
    pub after: Option<String>,
    /// Time of the first event behind it, RFC 3339.
    pub before: Option<String>,
}

/// One shared stage.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct StageStatus {
    /// Its name.
    pub name: String,
    /// Events it dropped.
    pub dropped_events: u64,
}

/// The spool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SpoolStatus {
    /// 8 hex digits.
    pub id: String,
    /// Ever spooled.
    pub events: u64,
    /// On disk.
    pub bytes: u64,
    /// Oldest record still there.
    pub oldest_record: u64,
    /// Next record number.
    pub next_record: u64,
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// sending, idle, retrying, stopped, detached; `None` when the agent does not run.
    pub state: Option<String>,
    /// Stored at the destination.
    pub delivered: u64,
    /// Not for this sink.
    pub not_selected: u64,
    /// Ever dead-lettered.
    pub dead_letter: u64,
    /// Of those, replayed.
    pub replayed: u64,
    /// Records in its gaps.
    pub gap: u64,
    /// Spooled, not yet confirmed.
    pub pending: u64,
    /// The newest 100.
    pub gaps: Vec<SinkGapStatus>,
    /// One line, never anything of an event.
    pub last_error: Option<String>,
    /// RFC 3339.
    pub retry_at: Option<String>,
}

/// A recorded gap of a sink.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SinkGapStatus {
    /// Why.
    pub reason: String,
    /// First record.
    pub first: u64,
    /// Last record, inclusive.
    pub last: u64,
}
