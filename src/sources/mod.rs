//! Where events come from. A source reads, frames and hashes; it produces lines with positions and reports gaps as
//! values. It never writes a position, never counts a total, never drops a line.
//!
//! Each source runs on its own plain thread, driven by `pipeline`.

pub mod stdin;

pub mod tail;

use std::sync::Arc;
use std::time::Duration;

use crate::config::{FieldDoc, Section};
use crate::event::encoding::{GenerationPosition, RecordHead, SourceGap, Span};
use crate::event::{IdPrefix, LineHash, LineKind, Origin};

/// Every kind of source. Configuration, `check`, the schema and the reference read this table.
pub static SOURCES: &[&SourceKind] = &[&tail::KIND, &stdin::KIND];

/// Kinds that are planned and that this version does not have yet.
pub const NOT_BUILT_YET: &[&str] = &["webhook", "kafka"];

/// One kind of source: its name, its documentation and how it reads its own section.
pub struct SourceKind {
    /// The `type` in the configuration.
    pub name: &'static str,
    /// One sentence for `schema` and the reference.
    pub summary: &'static str,
    /// Its own keys, beside `name` and `type`.
    pub fields: &'static [&'static dyn FieldDoc],
    /// Reads its keys; mistakes go to the section's diagnostics. `None` where there were any.
    pub read: fn(&mut Section<'_>) -> Option<Box<dyn SourceConfig>>,
}

/// A source's configuration, read and valid, not yet built.
pub trait SourceConfig: Send + Sync + std::fmt::Debug {
    /// Makes the source. Reads nothing of the log yet.
    fn build(&self, context: SourceContext) -> Result<Box<dyn Source>, SourceError>;

    /// `line_max` in bytes, with its place: at most a sixteenth of `agent.memory` is allowed.
    fn line_max(&self) -> crate::config::Spanned<crate::config::ByteSize>;

    /// The live file of the log that it follows.
    fn follows(&self) -> Option<&std::path::Path> {
        None
    }

    /// Directories that it must be able to read, for the sandbox.
    fn reads(&self) -> Vec<std::path::PathBuf> {
        Vec::new()
    }
}

/// Reads `type` and the keys of that kind; `name` is the caller's. Mistakes go to the section's diagnostics.
pub fn read_config(section: &mut Section<'_>) -> Option<Box<dyn SourceConfig>> {
    let kinds: Vec<_> = SOURCES
        .iter()
        .map(|kind| (kind.name, kind.fields))
        .collect();
    let at = section.kind(&kinds, NOT_BUILT_YET)?;
    (SOURCES.get(at)?.read)(section)
}

/// Lines of one generation in a row, with the state of the source after them.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Gaps that were found before the first of these lines.
    pub gaps: Vec<SourceGap>,
    /// The part of the generation that `lines` cover; `None` where there are no lines and no piece.
    pub span: Option<Span>,
    /// Whole lines, in order.
    pub lines: Lines,
    /// A part of an oversize line that follows `lines` (then `lines` is empty).
    pub piece: Option<Piece>,
    /// The whole position list after this chunk, oldest generation first.
    pub positions: Vec<GenerationPosition>,
    /// Bytes read, line feeds included, that `lines` (or the finished oversize line) stand for.
    pub read_bytes: u64,
}

/// Lines beside their heads, in one buffer.
#[derive(Debug, Default)]
pub struct Lines {
    /// All lines, one behind the other, without line feeds.
    pub bytes: Vec<u8>,
    /// For each line its head; its bytes are the next `head.length` of `bytes`.
    pub heads: Vec<RecordHead>,
}

impl Lines {
    /// Adds a line, with its hash and its id.
    pub fn push(
        &mut self,
        ids: &IdPrefix,
        offset: u64,
        kind: LineKind,
        time_us: Option<i64>,
        line: &[u8],
    ) {
        let hash = LineHash::of(line);
        self.heads.push(RecordHead {
            offset,
            length: line.len() as u64,
            kind,
            id: ids.id(offset, &hash),
            hash,
            time_us,
            envelope: Vec::new(),
        });
        self.bytes.extend_from_slice(line);
    }

    /// Heads with their lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordHead, &[u8])> {
        let mut at = 0;
        self.heads.iter().map(move |head| {
            let end = at + usize::try_from(head.length).unwrap_or(usize::MAX);
            let line = &self.bytes[at..end];
            at = end;
            (head, line)
        })
    }
}

/// A part of an oversize line. A first piece, or whole lines, behind a piece that was not the last one void the pieces
/// before: the file was cut or given up in the middle of the line.
#[derive(Debug)]
pub struct Piece {
    /// The part; all of them in a row are the line.
    pub bytes: Vec<u8>,
    /// True for the first piece of a line.
    pub first: bool,
    /// The line's head, with its last piece.
    pub head: Option<RecordHead>,
}

/// What a source has to give.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, taken apart at once"
)]
pub enum Next {
    /// The next lines, or gaps, or only a moved position list.
    Chunk(Chunk),
    /// Nothing came within the wait.
    Idle,
    /// Everything up to the limits set by [`Source::limit_to_present`] was given out, or the input has ended.
    Finished,
}

/// How a source is, for status and metrics. Never anything of an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceReport {
    /// What it does now.
    pub state: SourceState,
    /// Why it waits or failed, one line with what to do.
    pub reason: Option<String>,
    /// Bytes known to be unread, over all generations; `None` where unknown (a `.gz` not yet opened counts compressed).
    pub unread_bytes: Option<u64>,
    /// Disk kept alive by descriptors of deleted, unread files.
    pub held_deleted_bytes: u64,
    /// Until the oldest unread backup is deleted by the API server's retention; `None` where unknown.
    pub seconds_until_loss: Option<f64>,
    /// Notes for the person at `--once`: an unfinished last line and the like.
    pub notes: Vec<String>,
}

/// What a source does, as users see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    /// Lines are being read.
    #[default]
    Reading,
    /// Everything was read.
    CaughtUp,
    /// The file is not there, cannot be read now, or the spool is full.
    Waiting,
    /// It cannot go on.
    Failed,
}

/// One input, read on a thread of its own.
pub trait Source: Send {
    /// The next lines; waits at most `wait` for some. An error is for what cannot heal by waiting.
    fn next(&mut self, wait: Duration) -> Result<Next, SourceError>;

    /// From now on, everything present at this moment is the end (`run --once`).
    fn limit_to_present(&mut self) -> Result<(), SourceError>;

    /// Looks around without reading, to be called at least once a second while nothing can be taken (the spool is
    /// full): descriptors of new backups are taken, so that their deletion loses nothing.
    fn look(&mut self) {}

    /// How it is.
    fn report(&self) -> SourceReport;

    /// Whether unread data will be lost within `horizon` if reading does not go on (design D3).
    fn about_to_lose(&self, horizon: Duration) -> bool;

    /// Lets another thread end a wait in [`Source::next`] early.
    fn waker(&self) -> Arc<dyn Fn() + Send + Sync>;

    /// For reading a range once more, from another thread, when its block in the spool is damaged.
    fn reread(&self) -> Option<Arc<dyn Reread>>;
}

/// Reads a range of a generation once more.
pub trait Reread: Send + Sync {
    /// The lines of `span` as they were given out the first time; `None` where they are not to be had any more.
    fn reread(&self, span: &Span) -> Option<Lines>;
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("source {source_name}: {problem}")]
pub struct SourceError {
    /// Its name in the configuration.
    pub source_name: String,
    /// What is wrong and what to do.
    pub problem: String,
}

/// What every source is built with.
#[derive(Clone)]
pub struct SourceContext {
    /// Its origin.
    pub origin: Origin,
    /// Time.
    pub clock: Arc<dyn crate::clock::Clock>,
    /// Its durable position list; empty at the first start.
    pub positions: Vec<GenerationPosition>,
    /// `stageTimestamp` of the newest event spooled from it, for the gaps around it; microseconds.
    pub last_event_us: Option<i64>,
}
