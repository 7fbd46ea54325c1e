//! What the spool keeps for us and gives back as opaque bytes: record heads, spans, position lists, totals and gaps
//! of an origin. Not the spool's own format (that is drawn in `spool`).
//!
//! Invariants: every encoding but the record head begins with its version byte; decoding is total (any bytes give a
//! value or an error) and never reserves more memory than the bytes could hold; equal values encode to equal bytes, so
//! that a block rebuilt from its source has the same payload and the same CRC.
//!
//! Parts, in the order in which the values' fields are declared:
//!
//! ```text
//! number      unsigned LEB128, shortest form only, at most 10 bytes
//! text        number of bytes, then UTF-8
//! option      in the flags byte of its value: bit set, then the part; bit clear, nothing
//! time        i64, little-endian: the times of one day share no LEB128 prefix, and 8 bytes is what they would need
//!
//! record head   flags (bits 0-1 kind, 2 time, 3 envelope) · offset · length · id 16 · hash 32 · [time] · [envelope: the rest]
//! origin key    1 · cluster text · node text · source text
//! span          1 · generation 32 · start · end
//! origin state  1 · count · (flags (bit 0 generation) · [generation 32] · offset · tail 32 · device · inode)*
//!               · read_events · read_bytes · malformed_events · count · (gaps of a reason)* · count · (name text · dropped)*
//!               · flags (bit 0 time) · [time]
//! source gap    1 · reason · flags (bits 0-5: the options in order) · [generation 32] · [from] · [to] · [events] · [time] · [time]
//! ```
//!
//! An event of 1.6 KB has a record head of about 63 bytes.

mod parts;

#[cfg(test)]
mod tests;

use super::{EventId, Generation, LineHash, LineKind, Origin};
use parts::{Reader, Writer};

/// First byte of everything here but the record head.
const VERSION: u8 = 1;

/// Bytes that are not what this version of the agent wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decode {what}: {problem}")]
pub struct DecodeError {
    /// What was being read: `record head`, `position list`, …
    pub what: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// What is kept beside a line: computed once when it is read, used by every sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Offset of the line's first byte in the uncompressed generation.
    pub offset: u64,
    /// Bytes of the line without its line feed; for an oversize line more than any one piece holds.
    pub length: u64,
    /// Event, malformed or oversize.
    pub kind: LineKind,
    /// The event id.
    pub id: EventId,
    /// SHA-256 of the line as spooled.
    pub hash: LineHash,
    /// `stageTimestamp` in microseconds since the Unix epoch; `None` where it cannot be read.
    pub time_us: Option<i64>,
    /// For an oversize line, the head fields found in it as one JSON object (see `fields::head_fields`); else empty.
    pub envelope: Vec<u8>,
}

const HEAD_KIND: u8 = 0b11;
const HEAD_TIME: u8 = 1 << 2;
const HEAD_ENVELOPE: u8 = 1 << 3;

impl RecordHead {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = match self.kind {
            LineKind::Event => 0,
            LineKind::Malformed => 1,
            LineKind::Oversize => 2,
        };
        if self.time_us.is_some() {
            flags |= HEAD_TIME;
        }
        if !self.envelope.is_empty() {
            flags |= HEAD_ENVELOPE;
        }
        let mut writer = Writer(out);
        writer.byte(flags);
        writer.number(self.offset);
        writer.number(self.length);
        writer.bytes(&self.id.0);
        writer.bytes(&self.hash.0);
        if let Some(time_us) = self.time_us {
            writer.time(time_us);
        }
        writer.bytes(&self.envelope);
    }

    /// Reads it back; all of `bytes` must be used up.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("record head", bytes);
        let flags = reader.flags(HEAD_KIND | HEAD_TIME | HEAD_ENVELOPE)?;
        let kind = match flags & HEAD_KIND {
            0 => LineKind::Event,
            1 => LineKind::Malformed,
            2 => LineKind::Oversize,
            _ => return Err(reader.error("unknown kind")),
        };
        let head = RecordHead {
            kind,
            offset: reader.number()?,
            length: reader.number()?,
            id: EventId(reader.array()?),
            hash: LineHash(reader.array()?),
            time_us: reader.option(flags & HEAD_TIME, Reader::time)?,
            envelope: reader
                .option(flags & HEAD_ENVELOPE, Reader::rest)?
                .unwrap_or_default(),
        };
        reader.end()?;
        Ok(head)
    }
}

/// The key under which the spool keeps an origin.
impl Origin {
    /// The bytes that the spool keeps.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut writer = Writer(&mut out);
        writer.text(&self.cluster);
        writer.text(&self.node);
        writer.text(&self.source);
        out
    }

    /// Reads them back; all of `bytes` must be used up.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned("origin key", bytes)?;
        let origin = Origin {
            cluster: reader.text()?,
            node: reader.text()?,
            source: reader.text()?,
        };
        reader.end()?;
        Ok(origin)
    }
}

/// The part of a generation that a data block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The generation whose lines they are.
    pub generation: Generation,
    /// Offset of the first line's first byte.
    pub start: u64,
    /// Offset behind the last line's line feed.
    pub end: u64,
}

impl Span {
    /// The bytes that the spool keeps.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut writer = Writer(&mut out);
        writer.bytes(&self.generation.0);
        writer.number(self.start);
        writer.number(self.end);
        out
    }

    /// Reads them back; all of `bytes` must be used up.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned("span", bytes)?;
        let span = Span {
            generation: Generation(reader.array()?),
            start: reader.number()?,
            end: reader.number()?,
        };
        if span.end < span.start {
            return Err(reader.error("end before start"));
        }
        reader.end()?;
        Ok(span)
    }
}

/// Where reading stands in one generation that is not yet retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationPosition {
    /// `None` before the first line feed: there is no generation yet and the offset is 0.
    pub generation: Option<Generation>,
    /// Offset in uncompressed bytes: everything before it is spooled, dropped or in a gap.
    pub offset: u64,
    /// SHA-256 of the bytes before the offset, the last 4 KiB at most.
    pub tail: [u8; 32],
    /// Fast path and tie-breaker only: ext4 reuses inodes at once, and a `.gz` has another one.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
}

/// How many lines of an origin were read, and what became of them before the spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines read: events, malformed and oversize lines, each once.
    pub read_events: u64,
    /// Their bytes, line feeds included.
    pub read_bytes: u64,
    /// Of those, the malformed and oversize ones.
    pub malformed_events: u64,
    /// Gaps ever recorded.
    pub gaps: GapCounts,
    /// Events dropped by each shared stage, by the stage's name, sorted by name.
    pub dropped: Vec<(String, u64)>,
}

/// What the spool keeps of one origin with each of its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginState {
    /// One entry for each generation not yet retired, oldest first.
    pub positions: Vec<GenerationPosition>,
    /// Totals after the block.
    pub totals: Totals,
    /// `stageTimestamp` of the newest event spooled, for the gaps around it; microseconds since the Unix epoch.
    pub last_event_us: Option<i64>,
}

const POSITION_GENERATION: u8 = 1;
const STATE_TIME: u8 = 1;

impl OriginState {
    /// The bytes that the spool keeps.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut writer = Writer(&mut out);
        writer.number(self.positions.len() as u64);
        for position in &self.positions {
            writer.byte(if position.generation.is_some() {
                POSITION_GENERATION
            } else {
                0
            });
            if let Some(generation) = &position.generation {
                writer.bytes(&generation.0);
            }
            writer.number(position.offset);
            writer.bytes(&position.tail);
            writer.number(position.device);
            writer.number(position.inode);
        }
        writer.number(self.totals.read_events);
        writer.number(self.totals.read_bytes);
        writer.number(self.totals.malformed_events);
        writer.number(GAP_REASONS.len() as u64);
        for (_, count) in self.totals.gaps.iter() {
            writer.number(count);
        }
        writer.number(self.totals.dropped.len() as u64);
        for (stage, count) in &self.totals.dropped {
            writer.text(stage);
            writer.number(*count);
        }
        writer.byte(u8::from(self.last_event_us.is_some()));
        if let Some(time_us) = self.last_event_us {
            writer.time(time_us);
        }
        out
    }

    /// Reads them back; all of `bytes` must be used up.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned("origin state", bytes)?;
        let mut positions = Vec::new();
        for _ in 0..reader.number()? {
            let flags = reader.flags(POSITION_GENERATION)?;
            positions.push(GenerationPosition {
                generation: reader
                    .option(flags & POSITION_GENERATION, Reader::array)?
                    .map(Generation),
                offset: reader.number()?,
                tail: reader.array()?,
                device: reader.number()?,
                inode: reader.number()?,
            });
        }
        let mut totals = Totals {
            read_events: reader.number()?,
            read_bytes: reader.number()?,
            malformed_events: reader.number()?,
            gaps: GapCounts::default(),
            dropped: Vec::new(),
        };
        if reader.number()? != GAP_REASONS.len() as u64 {
            return Err(reader.error("unknown gap reasons"));
        }
        for count in &mut totals.gaps.0 {
            *count = reader.number()?;
        }
        for _ in 0..reader.number()? {
            totals.dropped.push((reader.text()?, reader.number()?));
        }
        let flags = reader.flags(STATE_TIME)?;
        let last_event_us = reader.option(flags & STATE_TIME, Reader::time)?;
        reader.end()?;
        Ok(OriginState {
            positions,
            totals,
            last_event_us,
        })
    }
}

/// Why a range of the source could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The generation is gone.
    Deleted,
    /// The file is shorter than what was read of it.
    Shrunk,
    /// The bytes before the offset are not those that were read.
    Overwritten,
    /// A deleted, unread file was given up because too much disk was held.
    HoldDeleted,
    /// A run of more than 64 KiB of NUL bytes.
    Nul,
    /// The API server's own counters say that more was written than was read.
    LostAtSource,
}

impl GapReason {
    /// As status, metrics and logs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Deleted => "deleted",
            GapReason::Shrunk => "shrunk",
            GapReason::Overwritten => "overwritten",
            GapReason::HoldDeleted => "hold_deleted",
            GapReason::Nul => "nul",
            GapReason::LostAtSource => "lost at source",
        }
    }
}

/// How many gaps were recorded, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GapCounts([u64; GAP_REASONS.len()]);

impl GapCounts {
    /// One more.
    pub fn add(&mut self, reason: GapReason) {
        for (known, count) in GAP_REASONS.iter().zip(&mut self.0) {
            *count += u64::from(*known == reason);
        }
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (GapReason, u64)> {
        GAP_REASONS.into_iter().zip(self.0)
    }

    /// Over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// A recorded range that could not be had. What is not known is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceGap {
    /// Why.
    pub reason: GapReason,
    /// In which generation; `None` where even that is unknown.
    pub generation: Option<Generation>,
    /// Offset of its first missing byte.
    pub from: Option<u64>,
    /// Offset behind its last missing byte.
    pub to: Option<u64>,
    /// How many events are missing.
    pub events: Option<u64>,
    /// `stageTimestamp` of the last event before it, microseconds.
    pub after_us: Option<i64>,
    /// `stageTimestamp` of the first event behind it, microseconds.
    pub before_us: Option<i64>,
}

/// Reasons by the number that stands for them; only ever added to.
const GAP_REASONS: [GapReason; 6] = [
    GapReason::Deleted,
    GapReason::Shrunk,
    GapReason::Overwritten,
    GapReason::HoldDeleted,
    GapReason::Nul,
    GapReason::LostAtSource,
];

const GAP_GENERATION: u8 = 1;
const GAP_FROM: u8 = 1 << 1;
const GAP_TO: u8 = 1 << 2;
const GAP_EVENTS: u8 = 1 << 3;
const GAP_AFTER: u8 = 1 << 4;
const GAP_BEFORE: u8 = 1 << 5;

impl SourceGap {
    fn flags(&self) -> u8 {
        let mut flags = 0;
        for (flag, present) in [
            (GAP_GENERATION, self.generation.is_some()),
            (GAP_FROM, self.from.is_some()),
            (GAP_TO, self.to.is_some()),
            (GAP_EVENTS, self.events.is_some()),
            (GAP_AFTER, self.after_us.is_some()),
            (GAP_BEFORE, self.before_us.is_some()),
        ] {
            if present {
                flags |= flag;
            }
        }
        flags
    }

    /// The bytes that the spool keeps.
    pub fn encode(&self) -> Vec<u8> {
        let reason = match self.reason {
            GapReason::Deleted => 0,
            GapReason::Shrunk => 1,
            GapReason::Overwritten => 2,
            GapReason::HoldDeleted => 3,
            GapReason::Nul => 4,
            GapReason::LostAtSource => 5,
        };
        let mut out = vec![VERSION, reason, self.flags()];
        let mut writer = Writer(&mut out);
        if let Some(generation) = &self.generation {
            writer.bytes(&generation.0);
        }
        for number in [self.from, self.to, self.events].into_iter().flatten() {
            writer.number(number);
        }
        for time_us in [self.after_us, self.before_us].into_iter().flatten() {
            writer.time(time_us);
        }
        out
    }

    /// Reads them back; all of `bytes` must be used up.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned("source gap", bytes)?;
        let reason = usize::from(reader.byte()?);
        let Some(&reason) = GAP_REASONS.get(reason) else {
            return Err(reader.error("unknown reason"));
        };
        let flags = reader
            .flags(GAP_GENERATION | GAP_FROM | GAP_TO | GAP_EVENTS | GAP_AFTER | GAP_BEFORE)?;
        let gap = SourceGap {
            reason,
            generation: reader
                .option(flags & GAP_GENERATION, Reader::array)?
                .map(Generation),
            from: reader.option(flags & GAP_FROM, Reader::number)?,
            to: reader.option(flags & GAP_TO, Reader::number)?,
            events: reader.option(flags & GAP_EVENTS, Reader::number)?,
            after_us: reader.option(flags & GAP_AFTER, Reader::time)?,
            before_us: reader.option(flags & GAP_BEFORE, Reader::time)?,
        };
        reader.end()?;
        Ok(gap)
    }
}
