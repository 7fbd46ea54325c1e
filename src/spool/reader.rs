//! The reading end: from memory where a block is recent, else from disk with every checksum verified.
//!
//! Invariants: bytes that fail a checksum are never returned; a record below the end is either returned or reported
//! as damaged, never stepped over; reading needs no lock that the writer holds during its own disk work, and a segment
//! that is removed meanwhile can still be read through the descriptor that is open.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::block::{self, Draft, Encoder, HEADER_LEN, Header, Identity, Kind, Meta};
use super::segment::{SEGMENT_HEADER_LEN, Step, Walk};
use super::shelf::{Segment, Shelf, Target};
use super::{Block, PieceRef, ReadError, SpoolReport};
use crate::clock::Micros;
use crate::durable_fs::DurableFile;

/// A reading end of the spool. A clone reads on its own.
pub struct Reader {
    shelf: Arc<Shelf>,
    place: Mutex<Place>,
}

/// Where the last read ended, so that the next one in order need not walk.
#[derive(Default)]
struct Place {
    open: Option<OpenSegment>,
    /// The last block read from disk: batches end inside blocks.
    last: Option<Arc<Block>>,
}

#[derive(Clone)]
struct OpenSegment {
    number: u64,
    file: Arc<dyn DurableFile>,
    /// Where a block begins or ended.
    offset: u64,
    /// Lowest record that may lie at or behind `offset`.
    next: u64,
}

/// What is wrong at a place, until the range is known.
#[derive(Clone, Copy)]
struct Fault {
    offset: u64,
    problem: &'static str,
}

impl Clone for Reader {
    fn clone(&self) -> Self {
        Reader::new(Arc::clone(&self.shelf))
    }
}

impl Reader {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Reader {
            shelf,
            place: Mutex::new(Place::default()),
        }
    }

    /// The block that holds `record`, or the first one behind it if `record` was released; `None` at the end. From
    /// memory where it is recent, else from disk (blocking). A damaged range is reported whole: it may begin below
    /// `record`; reading goes on behind its `last`.
    pub fn block_at(&self, record: u64) -> Result<Option<Arc<Block>>, ReadError> {
        if let Some(block) = self.shelf.recent(record) {
            return Ok(Some(block));
        }
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = &place.last
            && (block.first..block.first + u64::from(block.count)).contains(&record)
        {
            return Ok(Some(Arc::clone(block)));
        }
        place.last = None;
        loop {
            let Some(target) = self.shelf.locate(record) else {
                return Ok(None);
            };
            let Some(open) = self.open(&mut place, &target)? else {
                // Removed between look-up and open. If it still belongs to the spool, somebody else took it away.
                match self.shelf.segment(target.segment.number) {
                    Some(_) => return Err(missing(&target)),
                    None => continue,
                }
            };
            let (block, open) = self.read_in(open, &target)?;
            place.open = Some(open);
            let block = Arc::new(block);
            place.last = Some(Arc::clone(&block));
            return Ok(Some(block));
        }
    }

    /// One piece of an oversize record, from disk.
    pub fn piece(&self, piece: PieceRef) -> Result<Bytes, ReadError> {
        let damaged = |problem: &'static str| self.damaged_piece(piece, None, problem);
        let Some(segment) = self.shelf.segment(piece.segment) else {
            return Err(damaged("its segment is gone"));
        };
        let file = match self.shelf.fs.open_read(&segment.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("its segment is gone"));
            }
            other => other?,
        };
        let Some(header) = self.header(&*file, &segment, piece.offset)? else {
            return Err(damaged("no block begins there"));
        };
        if header.kind != Kind::Piece {
            return Err(damaged("the block there is no piece"));
        }
        let (meta, payload) = self.body(&*file, piece.offset, &header, segment.len)?;
        let payload = match payload {
            Ok(payload) => payload,
            Err(problem) => match self.restored(piece.segment, piece.offset)? {
                Some((_, _, payload)) => payload,
                None => {
                    let range = piece.offset..(piece.offset + header.block_len()).min(segment.len);
                    self.shelf.quarantine(piece.segment, &*file, range);
                    return Err(self.damaged_piece(piece, Some((&header, meta)), problem));
                }
            },
        };
        file.forget_cached(piece.offset, header.block_len());
        Ok(payload)
    }

    /// Puts a damaged range back: `payload` is what was read again from the source. Refused unless its CRC32C is the
    /// one of the lost block and the rest of that block is whole.
    pub fn restore(&self, damaged: &ReadError, payload: &[u8]) -> io::Result<bool> {
        let ReadError::Damaged {
            segment,
            offset,
            payload_crc: Some(crc),
            ..
        } = damaged
        else {
            return Ok(false);
        };
        if crc32c::crc32c(payload) != *crc {
            return Ok(false);
        }
        let Some(found) = self.shelf.segment(*segment) else {
            return Ok(false);
        };
        let file = self.shelf.fs.open_read(&found.path)?;
        let Some(header) = self.header(&*file, &found, *offset)? else {
            return Ok(false);
        };
        let (Some(meta), _) = self.body(&*file, *offset, &header, found.len)? else {
            return Ok(false);
        };
        if header.payload_crc != *crc || header.payload_len as usize != payload.len() {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        let draft = Draft {
            kind: header.kind,
            identity: header.identity,
            acknowledged: header.acknowledged,
            first: header.first,
            count: header.count,
            appended_us: header.appended_us,
            key: &meta.key,
            note: &meta.note,
            state: &meta.state,
            pieces: &meta.pieces,
            payload,
        };
        Encoder::new(true)?.encode(&draft, &mut bytes)?;
        let path = rebuilt_path(&self.shelf, *segment, *offset);
        self.shelf.fs.replace(&path, &bytes)?;
        self.shelf
            .state()
            .restored
            .insert((*segment, *offset), path);
        Ok(true)
    }

    /// Changes whenever records become durable; the value is the next record number.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shelf.durable.subscribe()
    }

    /// How full it is.
    pub fn report(&self) -> SpoolReport {
        self.shelf.report()
    }

    /// Lowest record still there.
    pub fn oldest_record(&self) -> u64 {
        self.shelf.oldest_record()
    }

    /// The target's file, and where to begin in it; `None` where there is no such file.
    fn open(&self, place: &mut Place, target: &Target) -> io::Result<Option<OpenSegment>> {
        if let Some(open) = &place.open
            && open.number == target.segment.number
        {
            let mut open = open.clone();
            if open.next > target.record {
                (open.offset, open.next) = (SEGMENT_HEADER_LEN, target.segment.first);
            }
            return Ok(Some(open));
        }
        match self.shelf.fs.open_read(&target.segment.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(Some(OpenSegment {
                number: target.segment.number,
                file: Arc::from(other?),
                offset: SEGMENT_HEADER_LEN,
                next: target.segment.first,
            })),
        }
    }

    /// Walks to the target's block and reads it; the place behind it too.
    fn read_in(
        &self,
        mut open: OpenSegment,
        target: &Target,
    ) -> Result<(Block, OpenSegment), ReadError> {
        let file = Arc::clone(&open.file);
        let segment = &target.segment;
        let identity = Identity {
            spool: self.shelf.spool,
            segment: segment.number,
        };
        let mut walk = Walk {
            file: &*file,
            identity,
            offset: open.offset,
            limit: segment.len,
        };
        let mut fault = None;
        while let Some(step) = walk.step()? {
            let (offset, header) = match step {
                Step::Block { offset, header } => (offset, header),
                Step::Bad {
                    offset,
                    end,
                    problem,
                } => {
                    self.shelf.quarantine(segment.number, &*file, offset..end);
                    fault.get_or_insert(Fault { offset, problem });
                    continue;
                }
            };
            if header.first > target.record {
                return Err(lost(target, open.next, header.first, fault, offset));
            }
            if header.count > 0 && header.end() > target.record {
                let block = self.read_block(&*file, segment, offset, &header)?;
                file.forget_cached(offset, header.block_len());
                open.offset = offset + header.block_len();
                open.next = header.end();
                return Ok((block, open));
            }
            open.offset = offset + header.block_len();
            open.next = open.next.max(header.end());
            fault = None;
        }
        Err(lost(target, open.next, target.end, fault, segment.len))
    }

    fn read_block(
        &self,
        file: &dyn DurableFile,
        segment: &Segment,
        offset: u64,
        header: &Header,
    ) -> Result<Block, ReadError> {
        let (meta, payload) = self.body(file, offset, header, segment.len)?;
        let (meta, problem) = match (meta, payload) {
            (Some(meta), Ok(payload)) => return Ok(assemble(header, meta, payload)),
            (meta, Ok(_)) => (meta, "key, note or state fail their checksum"),
            (meta, Err(problem)) => (meta, problem),
        };
        if let Some((header, meta, payload)) = self.restored(segment.number, offset)? {
            return Ok(assemble(&header, meta, payload));
        }
        self.shelf.quarantine(
            segment.number,
            file,
            offset..(offset + header.block_len()).min(segment.len),
        );
        let meta = meta.unwrap_or_default();
        Err(ReadError::Damaged {
            first: header.first,
            last: header.end().saturating_sub(1).max(header.first),
            key: meta.key,
            note: meta.note,
            payload_crc: Some(header.payload_crc),
            segment: segment.number,
            offset,
            problem: problem.to_owned(),
        })
    }

    /// The believable header at `offset`.
    fn header(
        &self,
        file: &dyn DurableFile,
        segment: &Segment,
        offset: u64,
    ) -> io::Result<Option<Header>> {
        let identity = Identity {
            spool: self.shelf.spool,
            segment: segment.number,
        };
        let mut walk = Walk {
            file,
            identity,
            offset,
            limit: segment.len,
        };
        match walk.step()? {
            Some(Step::Block { offset: at, header }) if at == offset => Ok(Some(header)),
            _ => Ok(None),
        }
    }

    /// Variable part and payload of a block, each only where it is whole.
    pub(super) fn body(
        &self,
        file: &dyn DurableFile,
        offset: u64,
        header: &Header,
        limit: u64,
    ) -> io::Result<(Option<Meta>, Result<Bytes, &'static str>)> {
        if offset.saturating_add(header.block_len()) > limit {
            return Ok((None, Err("block is cut off")));
        }
        let mut bytes = vec![0; header.meta_len() + header.stored_len as usize];
        if file.read_at(offset + HEADER_LEN as u64, &mut bytes)? < bytes.len() {
            return Ok((None, Err("block is cut off")));
        }
        let (meta, stored) = bytes.split_at(header.meta_len());
        let meta = Meta::parse(header, meta);
        let payload = self
            .shelf
            .with_decompressor(|zstd| block::decode_payload(header, stored, zstd))?;
        Ok((meta, payload.map(Bytes::from)))
    }

    /// What `restore` wrote for a damaged block, if it is whole itself.
    fn restored(&self, segment: u64, offset: u64) -> io::Result<Option<(Header, Meta, Bytes)>> {
        let Some(path) = self.shelf.state().restored.get(&(segment, offset)).cloned() else {
            return Ok(None);
        };
        let file = match self.shelf.fs.open_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let len = file.len()?;
        let identity = Identity {
            spool: self.shelf.spool,
            segment,
        };
        let mut walk = Walk {
            file: &*file,
            identity,
            offset: 0,
            limit: len,
        };
        let Some(Step::Block { offset: 0, header }) = walk.step()? else {
            return Ok(None);
        };
        match self.body(&*file, 0, &header, len)? {
            (Some(meta), Ok(payload)) => Ok(Some((header, meta, payload))),
            _ => Ok(None),
        }
    }

    fn damaged_piece(
        &self,
        piece: PieceRef,
        found: Option<(&Header, Option<Meta>)>,
        problem: &'static str,
    ) -> ReadError {
        let payload_crc = found.as_ref().map(|(header, _)| header.payload_crc);
        let meta = found.and_then(|(_, meta)| meta).unwrap_or_default();
        ReadError::Damaged {
            first: piece.record,
            last: piece.record,
            key: meta.key,
            note: meta.note,
            payload_crc,
            segment: piece.segment,
            offset: piece.offset,
            problem: problem.to_owned(),
        }
    }
}

fn assemble(header: &Header, meta: Meta, payload: Bytes) -> Block {
    Block {
        first: header.first,
        count: header.count,
        key: Bytes::from(meta.key),
        note: Bytes::from(meta.note),
        appended: Micros(header.appended_us),
        payload,
        pieces: meta.pieces,
    }
}

/// Records from `first` up to `end` are not there: their headers are lost, the range comes from the neighbours.
fn lost(target: &Target, first: u64, end: u64, fault: Option<Fault>, at: u64) -> ReadError {
    let fault = fault.unwrap_or(Fault {
        offset: at,
        problem: "its block is missing",
    });
    ReadError::Damaged {
        first,
        last: end.min(target.end).saturating_sub(1),
        key: Vec::new(),
        note: Vec::new(),
        payload_crc: None,
        segment: target.segment.number,
        offset: fault.offset,
        problem: fault.problem.to_owned(),
    }
}

fn missing(target: &Target) -> ReadError {
    let fault = Fault {
        offset: 0,
        problem: "its segment is missing",
    };
    lost(target, target.segment.first, target.end, Some(fault), 0)
}

/// The side file of a rebuilt block.
pub(super) fn rebuilt_path(shelf: &Shelf, segment: u64, offset: u64) -> PathBuf {
    shelf
        .dir
        .join("rebuilt")
        .join(format!("{segment:010}-{offset:012}.blk"))
}
