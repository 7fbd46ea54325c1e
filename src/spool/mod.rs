//! The durable spool: append-only segments of checksummed blocks, cursors, quarantine. It knows no event, origin or
//! position: keys, states, notes, heads and bodies are byte strings handed in and given back.
//!
//! ```text
//! <dir>/<first record, 20 digits>-<segment number, 10 digits>.seg
//!       quarantine/<segment>-<offset>.bad       copies of damaged bytes; .torn: of an append that never counted
//!       rebuilt/<segment>-<offset>.blk          a damaged block, read again from its source
//!       lock                                    the process that writes
//! ```
//!
//! # Format 1 (little-endian; every byte is covered by a checksum)
//!
//! A segment is a header, a snapshot block, and blocks in the order of their records with nothing between them.
//!
//! ```text
//! segment header, 80 bytes                       block header, 96 bytes
//!  0  8  magic F5 "ASspl" 0D 0A                   0  8  magic F5 "ASblk" 0D 0A
//!  8  4  format version, 1                        8  2  block version, 1
//! 12  4  0                                       10  1  kind: 1 data, 2 piece, 3 position, 4 gap, 5 snapshot
//! 16  8  spool id, random                        11  1  codec of the payload: 0 none, 1 zstd
//! 24  8  segment number                          12  4  records
//! 32  8  next record when it was made            16  8  spool id
//! 40  8  number of the segment before, or all 1  24  8  segment number
//! 48  8  acknowledged bytes of that segment      32  8  bytes of the segment durable before this append
//! 56  8  oldest segment with pieces of a record  40  8  first record (of a block without records: the next one)
//!        unfinished at that time, else its own   48  8  append time, µs since 1970 UTC
//! 64  8  time of making, µs since 1970 UTC       56  4  references to pieces
//! 72  4  0                                       60  2  length of the key        62  2  0
//! 76  4  CRC32C of bytes 0 to 75                 64  4  length of the note       68  4  length of the state
//!                                                72  4  stored payload length    76  4  uncompressed length
//!                                                80  4  CRC32C of key, note, state and references
//!                                                84  4  CRC32C of the stored payload
//!                                                88  4  CRC32C of the uncompressed payload
//!                                                92  4  CRC32C of bytes 0 to 91
//!                                                96     key | note | state | references | stored payload
//! ```
//!
//! A reference is u64 segment number, u64 offset of a piece's block. The payload of a data block is drawn in
//! [`record`], that of a snapshot in `snapshot.rs`; of a piece it is a raw part of the line. Magic, version and the
//! checksum of the segment header keep their places in every later format, so that an older agent refuses a newer
//! spool ([`OpenError::Newer`]) instead of taking it for damage. Spool id and segment number in every block keep bytes
//! inside a payload, or left by another spool, from passing as a block.
//!
//! # Oversize records
//!
//! A record longer than a block is a row of [`BlockKind::Piece`] blocks with all its bytes, then one
//! [`BlockKind::Data`] block with count 1, whose payload is `record::push(head, b"")`. Blocks of other keys may stand
//! between them; data of the same key may not. A gap of the key voids unfinished pieces, and so does a restart.
//! [`Block::pieces`] says where they lie.
//!
//! # Invariants
//!
//! - What `append` acknowledged is durable; what it refused does not count after any crash, or counts as a whole block.
//! - Every segment begins with the newest state and the newest 100 gaps of every key; the newest is never removed.
//! - Recovery looks only at the last segment; damage in older ones is found when they are read or verified.
//! - Damage is copied to `quarantine/`, counted and reported as a range of records; never deleted, never skipped.
//! - A record number is never given out twice.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Micros;
use crate::durable_fs::LockError;

pub mod record;

mod block;

mod segment;

mod snapshot;

mod shelf;

mod writer;

mod reader;

mod retention;

mod recovery;

pub mod cursor;

pub mod inspect;

#[cfg(test)]
mod tests;

pub use reader::Reader;
pub use writer::Spool;

/// How the spool behaves; sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The spool's directory (`<state_dir>/spool`).
    pub dir: PathBuf,
    /// `spool.max_bytes`.
    pub max_bytes: u64,
    /// `spool.min_free`.
    pub min_free: u64,
    /// `spool.compression = "zstd"`.
    pub compress: bool,
    /// A segment is closed when it reaches this size.
    pub segment_bytes: u64,
    /// Blocks kept in memory for sinks that are caught up.
    pub memory_bytes: u64,
}

/// What a block is (design rule R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Records.
    Data,
    /// A part of one record that is longer than a block; the record counts with the `Data` block that ends it.
    Piece,
    /// A moved position list, no records.
    Position,
    /// A gap of an origin or of a sink, no records.
    Gap,
}

/// A block to append. All byte strings are opaque to the spool.
#[derive(Clone, Debug)]
pub struct Append<'a> {
    /// What it is.
    pub kind: BlockKind,
    /// Whose it is: an encoded origin, or a sink's name for a sink's gap.
    pub key: &'a [u8],
    /// The key's state after this block (positions and totals); given back at open and kept in snapshots. Empty for a sink.
    pub state: &'a [u8],
    /// Data and Piece: which part of the source the records are (for rebuilding). Gap: the gap itself, of which the
    /// newest 100 of a key are kept in snapshots. Position: empty.
    pub note: &'a [u8],
    /// It begins a record of its own: pieces of the key before it that no record was made of are void. False for a
    /// Piece that goes on, and for the Data block that ends what pieces began.
    pub anew: bool,
    /// Records in `payload`: at least 1 for Data, 0 for every other kind. For the `Data` block that ends an oversize
    /// record: 1.
    pub count: u32,
    /// Records, encoded by [`record::push`]; for a Piece the raw part of the line.
    pub payload: &'a [u8],
}

/// What an append made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The number of the next record: everything below is durable.
    pub next_record: u64,
    /// Bytes written to disk.
    pub written_bytes: u64,
}

/// Why an append did not happen. Nothing of it is in the spool then.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// `max_bytes` or `min_free` is reached or the disk is full: try again when space was released.
    #[error("the spool is full: {0}")]
    Full(String),
    /// The disk failed twice: the process must end and recover.
    #[error("durability lost: {0}")]
    Lost(io::Error),
    /// A block is beyond the limits of the format. Trying again does not help.
    #[error("append to spool: {0}")]
    Refused(String),
}

/// What the spool knows of a key at open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyState {
    /// The key.
    pub key: Vec<u8>,
    /// Its newest state.
    pub state: Vec<u8>,
    /// Its newest gaps, at most 100, oldest first.
    pub gaps: Vec<Vec<u8>>,
}

/// A block as a reader gets it.
#[derive(Clone, Debug)]
pub struct Block {
    /// Number of its first record.
    pub first: u64,
    /// Records in it.
    pub count: u32,
    /// Whose.
    pub key: Bytes,
    /// The `note` of the append.
    pub note: Bytes,
    /// When it was appended.
    pub appended: Micros,
    /// Uncompressed records, for [`record::iter`].
    pub payload: Bytes,
    /// Where the pieces of its one oversize record lie; empty for an ordinary block.
    pub pieces: Vec<PieceRef>,
}

/// Where a piece of an oversize record lies, for [`Reader::piece`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceRef {
    /// Segment number.
    pub segment: u64,
    /// Offset of its block in the segment.
    pub offset: u64,
    /// The record it is a part of.
    pub record: u64,
}

/// Why a block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its bytes are damaged. They are in quarantine; the range is known.
    #[error("records {first} to {last} are damaged in segment {segment} at {offset}: {problem}")]
    Damaged {
        /// First record of the damaged range.
        first: u64,
        /// Last record, inclusive.
        last: u64,
        /// Key, where the header could be read.
        key: Vec<u8>,
        /// The `note` (which part of the source), where the header could be read.
        note: Vec<u8>,
        /// CRC32C of the payload, where the header could be read.
        payload_crc: Option<u32>,
        /// Segment number.
        segment: u64,
        /// Offset in the segment.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The disk could not be read now.
    #[error("read spool: {0}")]
    Io(#[from] io::Error),
}

/// How full it is, for status and metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpoolReport {
    /// 8 hex digits of the spool's own random id.
    pub id: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// The limit.
    pub max_bytes: u64,
    /// Oldest record still there.
    pub oldest_record: u64,
    /// Next record number: also how many were ever spooled.
    pub next_record: u64,
    /// Whether the last append was refused because it is full.
    pub blocked: bool,
    /// Blocks ever put into quarantine since start.
    pub quarantined_blocks: u64,
    /// Segments.
    pub segments: u64,
}

/// What `open` found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every key's newest state.
    pub keys: Vec<KeyState>,
    /// Damage that was set aside, one line each, for the log.
    pub notes: Vec<String>,
}

/// Why the spool could not be opened. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Made by a newer version.
    #[error(
        "the spool in {dir} has format {found}, this agent knows up to {known}: use a newer auditship, nothing was changed"
    )]
    Newer {
        /// Directory.
        dir: String,
        /// Its format version.
        found: u32,
        /// The newest we know.
        known: u32,
    },
    /// Another agent has it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The disk failed.
    #[error("open spool: {0}")]
    Io(#[from] io::Error),
}

/// Time between retries of a full disk, for the writer's thread.
pub const FULL_RETRY: Duration = Duration::from_millis(200);
