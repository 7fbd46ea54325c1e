//! What the writer and the readers share: which segments there are, the recent blocks, what was set aside.
//!
//! Invariants: the lock is held for look-ups only, never during a read or a write of the disk; a segment's `len` grows
//! only after its sync, so that a reader never sees bytes that were not acknowledged; `segments` is in the order of
//! record numbers, and every record below `next_record` belongs to the last segment whose `first` is not above it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::watch;

use super::segment::copy_range;
use super::{Block, SpoolReport};
use crate::durable_fs::{DurableFile, DurableFs};

/// Decompression contexts kept for the next read; each is about 100 KiB.
const IDLE_DECOMPRESSORS: usize = 2;

/// A block's buffer is used again from this size on: from here the allocator maps fresh pages for each.
pub(super) const SPARE_MIN: usize = 256 << 10;

/// A segment as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) first: u64,
    /// Acknowledged bytes.
    pub(super) len: u64,
    pub(super) path: PathBuf,
    /// Oldest segment that holds pieces of records unfinished when this one was made.
    pub(super) oldest_pieces: u64,
}

/// Where a record must lie.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) segment: Segment,
    /// The record asked for, or the oldest one where that was released.
    pub(super) record: u64,
    /// Number behind the last record of the segment.
    pub(super) end: u64,
}

/// State behind the lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) segments: Vec<Segment>,
    pub(super) next_record: u64,
    pub(super) blocked: bool,
    recent: VecDeque<Arc<Block>>,
    recent_bytes: u64,
    /// The buffer of a block that is no longer recent and that nobody reads any more, for the next one: fresh pages
    /// for each block cost more than copying it.
    spare: Option<BytesMut>,
    quarantined: HashSet<(u64, u64)>,
    quarantined_blocks: u64,
    /// Damage that is not in `quarantine/` yet.
    unsaved: Vec<(u64, Range<u64>)>,
    /// Damaged blocks, by segment and offset, that were read again from their source.
    pub(super) restored: HashMap<(u64, u64), PathBuf>,
}

impl State {
    pub(super) fn of(
        segments: Vec<Segment>,
        next_record: u64,
        restored: HashMap<(u64, u64), PathBuf>,
    ) -> Self {
        State {
            segments,
            next_record,
            restored,
            ..State::default()
        }
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Keeps a block in memory, and forgets the oldest ones beyond `budget` bytes.
    pub(super) fn remember(&mut self, block: Block, budget: u64) {
        self.recent_bytes += block.payload.len() as u64;
        self.recent.push_back(Arc::new(block));
        while self.recent_bytes > budget {
            match self.recent.pop_front() {
                Some(old) => {
                    self.recent_bytes -= old.payload.len() as u64;
                    let unread = Arc::try_unwrap(old).ok();
                    let buffer = unread.and_then(|block| block.payload.try_into_mut().ok());
                    let worth = |buffer: &BytesMut| buffer.capacity() >= SPARE_MIN;
                    self.spare = buffer.filter(worth).or(self.spare.take());
                }
                None => break,
            }
        }
    }

    /// An empty buffer for a payload of `len` bytes, where one is spare that is not much too large for it.
    pub(super) fn spare(&mut self, len: usize) -> Option<BytesMut> {
        let mut buffer = self
            .spare
            .take_if(|buffer| buffer.capacity() >= len && buffer.capacity() / 2 <= len)?;
        buffer.clear();
        Some(buffer)
    }
}

/// What the writer and the readers share.
pub(super) struct Shelf {
    pub(super) fs: Arc<dyn DurableFs>,
    pub(super) dir: PathBuf,
    /// The spool's random id.
    pub(super) spool: u64,
    pub(super) max_bytes: u64,
    /// A look at the spool of a running agent: nothing is set aside.
    pub(super) read_only: bool,
    state: Mutex<State>,
    /// The durable next record.
    pub(super) durable: watch::Sender<u64>,
    decompressors: Mutex<Vec<zstd::bulk::Decompressor<'static>>>,
}

impl Shelf {
    pub(super) fn new(
        fs: Arc<dyn DurableFs>,
        dir: PathBuf,
        spool: u64,
        max_bytes: u64,
        read_only: bool,
        state: State,
    ) -> Self {
        let durable = watch::Sender::new(state.next_record);
        let decompressors = Mutex::new(Vec::new());
        Shelf {
            fs,
            dir,
            spool,
            max_bytes,
            read_only,
            state: Mutex::new(state),
            durable,
            decompressors,
        }
    }

    /// The state. A panic elsewhere cannot leave it half changed: changes are assignments made after the disk's answer.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The recent block that holds `record`.
    pub(super) fn recent(&self, record: u64) -> Option<Arc<Block>> {
        let state = self.state();
        let at = state.recent.partition_point(|block| block.first <= record);
        let block = state.recent.get(at.checked_sub(1)?)?;
        (record < block.first + u64::from(block.count)).then(|| Arc::clone(block))
    }

    /// Where `record` lies; `None` where it is not written yet.
    pub(super) fn locate(&self, record: u64) -> Option<Target> {
        let state = self.state();
        let record = record.max(state.segments.first()?.first);
        if record >= state.next_record {
            return None;
        }
        let at = state
            .segments
            .partition_point(|segment| segment.first <= record)
            .checked_sub(1)?;
        let end = state
            .segments
            .get(at + 1)
            .map_or(state.next_record, |next| next.first);
        Some(Target {
            segment: state.segments[at].clone(),
            record,
            end,
        })
    }

    /// A segment by its number.
    pub(super) fn segment(&self, number: u64) -> Option<Segment> {
        self.state()
            .segments
            .iter()
            .find(|segment| segment.number == number)
            .cloned()
    }

    /// Lowest record still there; the next one where there is none.
    pub(super) fn oldest_record(&self) -> u64 {
        let state = self.state();
        state
            .segments
            .first()
            .map_or(state.next_record, |segment| segment.first)
    }

    pub(super) fn report(&self) -> SpoolReport {
        let state = self.state();
        SpoolReport {
            id: format!("{:08x}", self.spool >> 32),
            bytes: state.bytes(),
            max_bytes: self.max_bytes,
            oldest_record: state
                .segments
                .first()
                .map_or(state.next_record, |segment| segment.first),
            next_record: state.next_record,
            blocked: state.blocked,
            quarantined_blocks: state.quarantined_blocks,
            segments: state.segments.len() as u64,
        }
    }

    /// Counts damaged bytes and copies them to `quarantine/`, once for each place. Where the copy cannot be made now
    /// (a full disk must not stop the readers, who would free it) it is made before the segment is removed.
    pub(super) fn quarantine(&self, segment: u64, file: &dyn DurableFile, range: Range<u64>) {
        if self.read_only || !self.state().quarantined.insert((segment, range.start)) {
            return;
        }
        self.state().quarantined_blocks += 1;
        if self
            .set_aside(file, range.clone(), &bad_name(segment, range.start))
            .is_err()
        {
            self.state().unsaved.push((segment, range));
        }
    }

    /// Makes the copies of a segment's damage that could not be made when it was found.
    pub(super) fn save_damage(&self, segment: &Segment) -> io::Result<()> {
        let unsaved: Vec<_> = self
            .state()
            .unsaved
            .iter()
            .filter(|(number, _)| *number == segment.number)
            .cloned()
            .collect();
        for (number, range) in unsaved {
            let file = self.fs.open_read(&segment.path)?;
            self.set_aside(&*file, range.clone(), &bad_name(number, range.start))?;
            self.state()
                .unsaved
                .retain(|saved| *saved != (number, range.clone()));
        }
        Ok(())
    }

    /// Copies bytes to `quarantine/` without counting them.
    pub(super) fn set_aside(
        &self,
        file: &dyn DurableFile,
        range: Range<u64>,
        name: &str,
    ) -> io::Result<()> {
        copy_range(
            &*self.fs,
            file,
            range,
            &self.dir.join("quarantine").join(name),
        )
    }

    /// Counts damage that has no bytes to set aside.
    pub(super) fn count_lost(&self) {
        self.state().quarantined_blocks += 1;
    }

    /// Runs `work` with a decompression context that is reused.
    pub(super) fn with_decompressor<T>(
        &self,
        work: impl FnOnce(&mut zstd::bulk::Decompressor<'static>) -> T,
    ) -> io::Result<T> {
        let pooled = self
            .decompressors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut decompressor = match pooled {
            Some(decompressor) => decompressor,
            None => zstd::bulk::Decompressor::new()?,
        };
        let result = work(&mut decompressor);
        let mut pool = self
            .decompressors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if pool.len() < IDLE_DECOMPRESSORS {
            pool.push(decompressor);
        }
        Ok(result)
    }
}

fn bad_name(segment: u64, offset: u64) -> String {
    format!("{segment:010}-{offset:012}.bad")
}
