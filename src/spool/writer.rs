//! The writing end: one append is a row of blocks and one sync.
//!
//! Invariants: what `append` reports as durable was synced without an error through the descriptor that wrote it;
//! what it refuses leaves nothing behind that a reader or a recovery takes for acknowledged; after a failed write or
//! sync that descriptor is given up, and the blocks are written again, from memory, to a new segment.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::block::{Draft, Encoder, Identity, Kind, NOTE_MAX, PAYLOAD_MAX, PIECES_MAX, STATE_MAX};
use super::segment::{SegmentHeader, segment_path};
use super::shelf::{SPARE_MIN, Segment, Shelf};
use super::snapshot::Keys;
use super::{
    Append, AppendError, Appended, Block, BlockKind, OpenError, Options, PieceRef, Reader,
    Recovered, recovery,
};
use crate::clock::{Clock, Micros};
use crate::durable_fs::{DurableFile, DurableFs};

/// How often the file system is asked for its free space.
const SPACE_LOOK: Duration = Duration::from_secs(1);
/// Buffers longer than this are given back after an append.
const BUFFER_KEPT: usize = 2 << 20;
/// Most keys: origins and sinks, so that a snapshot stays small.
const KEYS_MAX: usize = 4096;

/// The writing end; one thread owns it.
pub struct Spool {
    pub(super) shelf: Arc<Shelf>,
    clock: Arc<dyn Clock>,
    options: Options,
    encoder: Encoder,
    /// The block being written.
    block: Vec<u8>,
    keys: Keys,
    /// Pieces of records that are not finished.
    open_pieces: HashMap<Vec<u8>, Vec<PieceRef>>,
    /// The segment being written; `None` where the next append must begin a new one.
    active: Option<Active>,
    /// Greatest segment number ever tried.
    last_number: Option<u64>,
    space: Space,
    /// Durability was lost: nothing is accepted any more.
    lost: bool,
    /// Segments that are released but whose files could not be removed yet.
    pub(super) released: Vec<Segment>,
    _lock: Box<dyn Send + Sync>,
}

/// The segment being written.
pub(super) struct Active {
    pub(super) file: Box<dyn DurableFile>,
    pub(super) number: u64,
    /// Acknowledged bytes.
    pub(super) len: u64,
}

/// Free space of the file system, as it was at the last look less what was written since.
#[derive(Default)]
pub(super) struct Space {
    looked: Option<Duration>,
    free: u64,
}

impl Space {
    /// The next append looks again.
    pub(super) fn forget(&mut self) {
        self.looked = None;
    }
}

/// Why an attempt at an append failed.
enum Failure {
    Full(String),
    Disk(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Failure::Full(error.to_string())
            }
            _ => Failure::Disk(error),
        }
    }
}

/// What an attempt wrote, until it is synced.
#[derive(Default)]
struct Written {
    bytes: u64,
    records: u64,
    /// The pieces of every key that the append touched.
    pieces: HashMap<Vec<u8>, Vec<PieceRef>>,
    /// Data blocks, for readers that are caught up.
    blocks: Vec<Block>,
}

impl Spool {
    /// Opens or makes the spool of `options.dir`; recovers its last segment. `confirmed` is the highest cursor of any
    /// sink: records below it were acknowledged, so their absence is damage, not a torn tail (design rule R6). Holds
    /// the lock of the directory for as long as the value lives.
    pub fn open(
        fs: Arc<dyn DurableFs>,
        clock: Arc<dyn Clock>,
        options: Options,
        confirmed: u64,
    ) -> Result<(Spool, Recovered), OpenError> {
        fs.create_dir(&options.dir)?;
        let lock = fs.lock(&options.dir)?;
        let opened = recovery::open(&fs, &options, confirmed)?;
        let recovered = Recovered {
            keys: opened.keys.to_vec(),
            notes: opened.notes,
        };
        let spool = Spool {
            shelf: Arc::new(opened.shelf),
            clock,
            encoder: Encoder::new(options.compress)?,
            options,
            block: Vec::new(),
            keys: opened.keys,
            open_pieces: HashMap::new(),
            active: opened.active,
            last_number: opened.last_number,
            space: Space::default(),
            lost: false,
            released: Vec::new(),
            _lock: lock,
        };
        Ok((spool, recovered))
    }

    /// Appends blocks in order and makes all of them durable with one sync.
    pub fn append(&mut self, blocks: &[Append<'_>]) -> Result<Appended, AppendError> {
        if self.lost {
            return Err(AppendError::Lost(io::Error::other(
                "an earlier append was lost",
            )));
        }
        self.check(blocks)?;
        let result = match self.attempt(blocks) {
            Err(Failure::Disk(error)) => {
                self.give_up_segment();
                self.attempt(blocks).map_err(|failure| match failure {
                    Failure::Disk(second) => Failure::Disk(io::Error::new(
                        second.kind(),
                        format!("{second}, after: {error}"),
                    )),
                    full => full,
                })
            }
            other => other,
        };
        self.block.clear();
        self.block.shrink_to(BUFFER_KEPT);
        self.encoder.shrink(BUFFER_KEPT);
        match result {
            Ok(appended) => Ok(appended),
            Err(Failure::Full(reason)) => {
                self.shelf.state().blocked = true;
                Err(AppendError::Full(reason))
            }
            Err(Failure::Disk(error)) => {
                self.give_up_segment();
                self.lost = true;
                Err(AppendError::Lost(error))
            }
        }
    }

    /// A reading end; any number, on any thread.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shelf))
    }

    /// Refuses what could not be read back.
    fn check(&self, blocks: &[Append<'_>]) -> Result<(), AppendError> {
        for (at, block) in blocks.iter().enumerate() {
            let problem = if block.key.len() > usize::from(u16::MAX) {
                "its key is longer than 64 KiB"
            } else if block.note.len() > NOTE_MAX {
                "its note is longer than 64 KiB"
            } else if block.state.len() > STATE_MAX {
                "its state is longer than 1 MiB"
            } else if block.payload.len() > PAYLOAD_MAX {
                "its payload is longer than 256 MiB"
            } else if (block.kind == BlockKind::Data) != (block.count > 0) {
                "a data block has records, and no other has"
            } else if self
                .open_pieces
                .get(block.key)
                .is_some_and(|pieces| pieces.len() >= PIECES_MAX)
            {
                "its record has more pieces than any may have"
            } else if self.keys.len() >= KEYS_MAX && !self.keys.knows(block.key) {
                "it would be the key of more origins and sinks than there may be"
            } else {
                continue;
            };
            return Err(AppendError::Refused(format!(
                "block {at} of the append: {problem}"
            )));
        }
        Ok(())
    }

    /// Writes and syncs once. On failure nothing of it counts.
    fn attempt(&mut self, blocks: &[Append<'_>]) -> Result<Appended, Failure> {
        if blocks.is_empty() {
            return Ok(Appended {
                next_record: self.shelf.state().next_record,
                written_bytes: 0,
            });
        }
        let urgent = blocks.iter().all(|block| block.kind == BlockKind::Gap);
        let mut made = 0;
        let full = self
            .active
            .as_ref()
            .is_none_or(|active| active.len >= self.segment_bytes());
        let active = match self.active.take() {
            Some(active) if !full => active,
            previous => match self.begin_segment(urgent) {
                Ok(active) => {
                    made = active.len;
                    active
                }
                Err(failure) => {
                    self.active = previous;
                    return Err(failure);
                }
            },
        };
        let result = self.write(&active, blocks, urgent);
        let written = match result {
            Ok(written) => written,
            Err(Failure::Full(reason)) => {
                // The part that was written must not lie behind a later, shorter append. Where it cannot be cut off,
                // the segment ends here.
                if active.file.set_len(active.len).is_ok() {
                    self.active = Some(active);
                }
                return Err(Failure::Full(reason));
            }
            Err(disk) => {
                self.active = Some(active);
                return Err(disk);
            }
        };
        if let Err(error) = active.file.sync() {
            self.active = Some(active);
            self.give_up_segment();
            return Err(error.into());
        }
        Ok(self.commit(active, blocks, written, made))
    }

    /// The size at which a segment is closed: a spool of a few MiB must still have segments that can be freed.
    fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes.min(self.options.max_bytes / 4)
    }

    /// Writes the blocks behind the acknowledged end of the segment.
    fn write(
        &mut self,
        active: &Active,
        blocks: &[Append<'_>],
        urgent: bool,
    ) -> Result<Written, Failure> {
        let mut written = Written::default();
        let base = self.shelf.state().next_record;
        let now = self.clock.now();
        for block in blocks {
            let offset = active.len + written.bytes;
            let first = base + written.records;
            let place = PieceRef {
                segment: active.number,
                offset,
                record: first,
            };
            let pieces = self.pieces_of(block, place, &mut written);
            let draft = Draft {
                kind: block.kind.into(),
                identity: Identity {
                    spool: self.shelf.spool,
                    segment: active.number,
                },
                acknowledged: active.len,
                first,
                count: block.count,
                appended_us: now.0,
                key: block.key,
                note: block.note,
                state: block.state,
                pieces: &pieces,
                payload: block.payload,
            };
            self.encoder.encode(&draft, &mut self.block)?;
            let len = self.block.len() as u64;
            self.check_space(written.bytes, len, urgent)?;
            active.file.write_at(offset, &self.block)?;
            written.bytes += len;
            written.records += u64::from(block.count);
            if block.count > 0 && block.payload.len() as u64 <= self.options.memory_bytes {
                let payload = self.copy(block.payload);
                written
                    .blocks
                    .push(readable(block, first, now, payload, pieces));
            }
        }
        Ok(written)
    }

    /// A copy that readers may keep, where it can be in the buffer of a block that they have all left.
    fn copy(&self, payload: &[u8]) -> Bytes {
        if payload.len() < SPARE_MIN {
            return Bytes::copy_from_slice(payload);
        }
        // Blocks differ a little in length: the rounding lets the next one fit. What is not written is not resident.
        let spare = self.shelf.state().spare(payload.len());
        let mut copy = spare
            .unwrap_or_else(|| BytesMut::with_capacity(payload.len().next_multiple_of(SPARE_MIN)));
        copy.extend_from_slice(payload);
        copy.freeze()
    }

    /// Notes a piece, or takes the pieces of the record that this block ends. A gap voids them, and so does what
    /// begins anew.
    fn pieces_of(
        &self,
        block: &Append<'_>,
        place: PieceRef,
        written: &mut Written,
    ) -> Vec<PieceRef> {
        if block.kind == BlockKind::Position {
            return Vec::new();
        }
        let open = written
            .pieces
            .entry(block.key.to_vec())
            .or_insert_with(|| self.open_pieces.get(block.key).cloned().unwrap_or_default());
        if block.anew {
            open.clear();
        }
        match block.kind {
            BlockKind::Piece => {
                open.push(place);
                Vec::new()
            }
            BlockKind::Data if block.count == 1 => {
                let mut pieces = std::mem::take(open);
                pieces
                    .iter_mut()
                    .for_each(|piece| piece.record = place.record);
                pieces
            }
            _ => {
                open.clear();
                Vec::new()
            }
        }
    }

    /// Whether `len` more bytes may be written behind the `pending` ones of this append. Gaps may always: they are
    /// what is written to make room, and are small.
    fn check_space(&mut self, pending: u64, len: u64, urgent: bool) -> Result<(), Failure> {
        if urgent {
            return Ok(());
        }
        let used = self.shelf.state().bytes() + pending;
        if used + len > self.options.max_bytes {
            let max = self.options.max_bytes;
            return Err(Failure::Full(format!(
                "{used} bytes of spool.max_bytes = {max} are used"
            )));
        }
        let now = self.clock.monotonic();
        if self
            .space
            .looked
            .is_none_or(|looked| now.saturating_sub(looked) >= SPACE_LOOK)
        {
            self.space.free = self
                .shelf
                .fs
                .free_bytes(&self.options.dir)
                .map_err(Failure::Disk)?;
            self.space.looked = Some(now);
        }
        if self.space.free < self.options.min_free.saturating_add(len) {
            let (free, min) = (self.space.free, self.options.min_free);
            return Err(Failure::Full(format!(
                "{free} bytes are free on the disk, spool.min_free is {min}"
            )));
        }
        self.space.free -= len;
        Ok(())
    }

    /// Takes in what is durable now and shows it to the readers.
    fn commit(
        &mut self,
        mut active: Active,
        blocks: &[Append<'_>],
        written: Written,
        made: u64,
    ) -> Appended {
        active.file.forget_cached(active.len, written.bytes);
        active.len += written.bytes;
        for block in blocks {
            self.keys
                .apply(block.kind.into(), block.key, block.state, block.note);
        }
        for (key, pieces) in written.pieces {
            if pieces.is_empty() {
                self.open_pieces.remove(&key);
            } else {
                self.open_pieces.insert(key, pieces);
            }
        }
        let mut state = self.shelf.state();
        if let Some(segment) = state.segments.last_mut() {
            assert_eq!(
                segment.number, active.number,
                "the last segment is the one being written"
            );
            segment.len = active.len;
        }
        for block in written.blocks {
            state.remember(block, self.options.memory_bytes);
        }
        state.next_record += written.records;
        state.blocked = false;
        let next_record = state.next_record;
        drop(state);
        if written.records > 0 {
            self.shelf.durable.send_replace(next_record);
        }
        self.active = Some(active);
        Appended {
            next_record,
            written_bytes: made + written.bytes,
        }
    }

    /// Makes a segment that begins with a snapshot, durable before anything is appended to it.
    fn begin_segment(&mut self, urgent: bool) -> Result<Active, Failure> {
        // A number is used up whatever becomes of its file, so that no two attempts share a name.
        let number = self.last_number.map_or(0, |last| last + 1);
        self.last_number = Some(number);
        let (first, previous) = {
            let state = self.shelf.state();
            (
                state.next_record,
                state
                    .segments
                    .last()
                    .map(|segment| (segment.number, segment.len)),
            )
        };
        let identity = Identity {
            spool: self.shelf.spool,
            segment: number,
        };
        let oldest_pieces = self
            .open_pieces
            .values()
            .flatten()
            .map(|piece| piece.segment)
            .min()
            .unwrap_or(number);
        let created = self.clock.now();
        let header = SegmentHeader {
            identity,
            first,
            previous: previous.map(|(number, _)| number),
            previous_len: previous.map_or(0, |(_, len)| len),
            oldest_pieces,
            created_us: created.0,
        };
        let snapshot = self.keys.encode();
        if snapshot.len() > PAYLOAD_MAX {
            let error = format!(
                "a snapshot of {} bytes is longer than a block",
                snapshot.len()
            );
            return Err(Failure::Disk(io::Error::new(
                io::ErrorKind::InvalidData,
                error,
            )));
        }
        let draft = Draft {
            kind: Kind::Snapshot,
            identity,
            acknowledged: 0,
            first,
            count: 0,
            appended_us: created.0,
            key: b"",
            note: b"",
            state: b"",
            pieces: &[],
            payload: &snapshot,
        };
        self.encoder.encode(&draft, &mut self.block)?;
        let mut bytes = header.encode();
        bytes.extend_from_slice(&self.block);
        self.check_space(0, bytes.len() as u64, urgent)?;
        let path = segment_path(&self.options.dir, first, number);
        let file = self.shelf.fs.create(&path)?;
        let made = file.write_at(0, &bytes).and_then(|()| file.sync());
        if let Err(error) = made.and_then(|()| self.shelf.fs.sync_dir(&self.options.dir)) {
            // Nothing of it counts. If it cannot be removed either, the next start sets it aside.
            return Err(match self.shelf.fs.remove(&path) {
                Ok(()) => error.into(),
                Err(second) => Failure::from(io::Error::new(
                    error.kind(),
                    format!("{error}, then {second}"),
                )),
            });
        }
        let len = bytes.len() as u64;
        self.shelf.state().segments.push(Segment {
            number,
            first,
            len,
            path,
            oldest_pieces,
        });
        Ok(Active { file, number, len })
    }

    /// Never touches the segment again but for cutting off what was not acknowledged; if even that fails, the next
    /// segment's header says how far it may be read.
    fn give_up_segment(&mut self) {
        if let Some(active) = self.active.take() {
            drop(active.file.set_len(active.len));
        }
    }

    /// The next append asks the file system again.
    pub(super) fn space_was_freed(&mut self) {
        self.space.forget();
    }

    /// Oldest segment with pieces of a record that is not finished yet.
    pub(super) fn oldest_open_piece(&self) -> Option<u64> {
        self.open_pieces
            .values()
            .flatten()
            .map(|piece| piece.segment)
            .min()
    }
}

fn readable(
    block: &Append<'_>,
    first: u64,
    appended: Micros,
    payload: Bytes,
    pieces: Vec<PieceRef>,
) -> Block {
    Block {
        first,
        count: block.count,
        key: Bytes::copy_from_slice(block.key),
        note: Bytes::copy_from_slice(block.note),
        appended,
        payload,
        pieces,
    }
}
