//! An object's body while it fills, and when it is whole: JSON Lines, compressed as they come, with what its metadata
//! say of it. Blocking and pure but for the pieces of oversize lines, which are read from the spool.
//!
//! Invariants: the body is every record's line and one line feed, in record order; [`Object::sha256`] is of these bytes
//! before compression, so it does not depend on the compressor; what is held compressed is at most about `room` bytes,
//! since a line that would go beyond is not held but compressed again, piece by piece, whenever it is sent.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use zstd::stream::write::Encoder as ZstdEncoder;

use super::settings::Compression;
use crate::event::Origin;
use crate::sinks::{Body, BodyBuilder, BuiltBody, Pieces, Record};

/// Fast levels: the node runs etcd too, and the next level's few percent cost half as much CPU again.
const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: u32 = 1;

/// Begins to be wrong where the bytes of equal records change: then seals made before are looked up, not made again.
pub(super) const ENCODER_VERSION: u32 = 1;

/// A compressor holds back at most about this much of what was pushed.
const HELD_BACK_MAX: u64 = 128 << 10;

/// What audit events compress to at least, for what is held back.
const RATIO: u64 = 8;

/// An object, ready to be stored.
pub(super) struct Object {
    pub(super) origin: Arc<Origin>,
    /// Numbers of the first and the last record.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Where the first and the last line stood.
    pub(super) first_position: Position,
    pub(super) last_position: Position,
    pub(super) count: u64,
    /// Time of the first event, microseconds since the Unix epoch.
    pub(super) time_us: i64,
    /// Of the body before compression.
    pub(super) sha256: [u8; 32],
    /// Bytes of the body before compression.
    pub(super) length: u64,
    pub(super) compression: Compression,
    /// The compressed body, in order.
    pub(super) segments: Vec<Segment>,
}

/// A part of a compressed body: whole frames, so that they stand for themselves.
#[derive(Clone)]
pub(super) enum Segment {
    Held(Bytes),
    /// A line that is too long to be held, even compressed.
    Streamed(Arc<dyn Pieces>),
}

/// Where a line stood: the short name of its generation, and its offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    generation: String,
    offset: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.generation, self.offset)
    }
}

impl Object {
    /// The body in one piece, where all of it is held.
    pub(super) fn whole(&self) -> Option<Bytes> {
        match self.segments.as_slice() {
            [Segment::Held(bytes)] => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Makes an object of records that were not pushed one by one (dead letters sent again).
    pub(super) fn of(records: &[Record], compression: Compression, room: u64) -> io::Result<Self> {
        let mut builder = ObjectBuilder::new(compression, room);
        for record in records {
            builder.push(record)?;
        }
        builder.end()
    }
}

/// What is known of the records pushed so far.
struct Ends {
    origin: Arc<Origin>,
    first: u64,
    last: u64,
    first_position: Position,
    last_position: Position,
    count: u64,
    time_us: i64,
}

/// Builds an [`Object`].
pub(super) struct ObjectBuilder {
    compression: Compression,
    room: u64,
    ends: Option<Ends>,
    sha256: Sha256,
    length: u64,
    segments: Vec<Segment>,
    /// Bytes held in `segments`; those that are not held count as all the room there is.
    segment_bytes: u64,
    /// The frame that is being written, behind frames that are whole.
    frame: Option<Frame>,
    /// Whole frames, behind `segments`.
    held: Vec<u8>,
}

impl ObjectBuilder {
    /// An empty body that is held up to about `room` compressed bytes.
    pub(super) fn new(compression: Compression, room: u64) -> Self {
        ObjectBuilder {
            compression,
            room,
            ends: None,
            sha256: Sha256::new(),
            length: 0,
            segments: Vec::new(),
            segment_bytes: 0,
            frame: None,
            held: Vec::new(),
        }
    }

    fn note(&mut self, record: &Record) {
        let position = Position {
            generation: record.generation.short(),
            offset: record.head.offset,
        };
        match &mut self.ends {
            Some(ends) => {
                ends.last = record.number;
                ends.last_position = position;
                ends.count += 1;
            }
            None => {
                self.ends = Some(Ends {
                    origin: record.origin.clone(),
                    first: record.number,
                    last: record.number,
                    first_position: position.clone(),
                    last_position: position,
                    count: 1,
                    time_us: record.time_us(),
                });
            }
        }
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.length += bytes.len() as u64;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let frame = match &mut self.frame {
            Some(frame) => frame,
            None => self.frame.insert(Frame::begin(
                self.compression,
                std::mem::take(&mut self.held),
            )?),
        };
        frame.write(bytes)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        if let Some(frame) = self.frame.take() {
            self.held = frame.end()?;
        }
        Ok(())
    }

    /// An oversize line gets a frame of its own, which is given up where it gets too long to be held.
    fn push_oversize(&mut self, pieces: &Arc<dyn Pieces>) -> io::Result<()> {
        self.end_frame()?;
        let before = self.held.len();
        let mut holds = true;
        for index in 0.. {
            let Some(piece) = pieces.piece(index)? else {
                break;
            };
            self.hash(&piece);
            if holds {
                self.write(&piece)?;
                holds = self.bytes() <= self.room;
            }
        }
        self.hash(b"\n");
        if holds {
            self.write(b"\n")?;
            return self.end_frame();
        }
        self.end_frame()?;
        self.held.truncate(before);
        self.end_segment();
        self.segments.push(Segment::Streamed(pieces.clone()));
        self.segment_bytes += self.room.max(1);
        Ok(())
    }

    fn end_segment(&mut self) {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.segment_bytes += held.len() as u64;
            self.segments.push(Segment::Held(held.into()));
        }
    }

    pub(super) fn end(mut self) -> io::Result<Object> {
        self.end_frame()?;
        self.end_segment();
        let ends = self
            .ends
            .ok_or_else(|| io::Error::other("an object without a record"))?;
        Ok(Object {
            origin: ends.origin,
            first: ends.first,
            last: ends.last,
            first_position: ends.first_position,
            last_position: ends.last_position,
            count: ends.count,
            time_us: ends.time_us,
            sha256: self.sha256.finalize().into(),
            length: self.length,
            compression: self.compression,
            segments: self.segments,
        })
    }
}

impl BodyBuilder for ObjectBuilder {
    fn push(&mut self, record: &Record) -> io::Result<()> {
        self.note(record);
        match &record.body {
            Body::Whole(line) => {
                self.hash(line);
                self.hash(b"\n");
                self.write(line)?;
                self.write(b"\n")
            }
            Body::Pieces(pieces) => self.push_oversize(pieces),
        }
    }

    fn bytes(&self) -> u64 {
        let open = self
            .frame
            .as_ref()
            .map_or(self.held.len() as u64, Frame::bytes);
        self.segment_bytes + open
    }

    fn finish(self: Box<Self>) -> io::Result<BuiltBody> {
        Ok(BuiltBody(Arc::new(self.end()?)))
    }
}

/// One compressed frame that is being written behind what was in the buffer. The buffer doubles when it is full, which
/// costs no memory: large ones are moved by the system page by page, and pages never written are not there.
struct Frame {
    encoder: Encoder,
    /// Bytes pushed since something last came out.
    held_back: u64,
    out: usize,
}

enum Encoder {
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
    None(Vec<u8>),
}

impl Frame {
    fn begin(compression: Compression, out: Vec<u8>) -> io::Result<Self> {
        let length = out.len();
        let encoder = match compression {
            Compression::Zstd => {
                let mut encoder = ZstdEncoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
            Compression::Gzip => {
                Encoder::Gzip(GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL)))
            }
            Compression::None => Encoder::None(out),
        };
        Ok(Frame {
            encoder,
            held_back: 0,
            out: length,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Zstd(encoder) => encoder.write_all(bytes)?,
            Encoder::Gzip(encoder) => encoder.write_all(bytes)?,
            Encoder::None(out) => out.extend_from_slice(bytes),
        }
        let out = self.buffer().len();
        if out > self.out {
            self.out = out;
            self.held_back = 0;
        } else {
            self.held_back += bytes.len() as u64;
        }
        Ok(())
    }

    fn buffer(&self) -> &Vec<u8> {
        match &self.encoder {
            Encoder::Zstd(encoder) => encoder.get_ref(),
            Encoder::Gzip(encoder) => encoder.get_ref(),
            Encoder::None(out) => out,
        }
    }

    fn bytes(&self) -> u64 {
        self.out as u64 + self.held_back.min(HELD_BACK_MAX).div_ceil(RATIO)
    }

    fn end(self) -> io::Result<Vec<u8>> {
        match self.encoder {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::None(out) => Ok(out),
        }
    }
}

/// A compressed body cut into parts of one size, for a body that is not held whole. Blocking.
pub(super) struct Parts {
    compression: Compression,
    segments: std::vec::IntoIter<Segment>,
    part_bytes: usize,
    /// What the next part begins with.
    ready: Vec<u8>,
    current: Current,
}

/// The segment that is being cut.
enum Current {
    None,
    Held(Bytes),
    Streamed {
        pieces: Arc<dyn Pieces>,
        next: usize,
        /// The frame, whose buffer is emptied whenever a part is cut.
        frame: Box<Frame>,
    },
}

impl Parts {
    pub(super) fn new(object: &Object, part_bytes: usize) -> Self {
        Parts {
            compression: object.compression,
            segments: object.segments.clone().into_iter(),
            part_bytes,
            ready: Vec::new(),
            current: Current::None,
        }
    }

    /// The next part; only the last one is shorter than all others. `None` behind it.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.ready.len() < self.part_bytes {
            if !self.fill()? {
                break;
            }
        }
        if self.ready.is_empty() {
            return Ok(None);
        }
        let rest = self.ready.split_off(self.ready.len().min(self.part_bytes));
        Ok(Some(std::mem::replace(&mut self.ready, rest).into()))
    }

    /// Adds some bytes to `ready`; `false` where there are no more.
    fn fill(&mut self) -> io::Result<bool> {
        match &mut self.current {
            Current::None => {
                let Some(segment) = self.segments.next() else {
                    return Ok(false);
                };
                self.current = match segment {
                    Segment::Held(bytes) => Current::Held(bytes),
                    Segment::Streamed(pieces) => Current::Streamed {
                        pieces,
                        next: 0,
                        frame: Box::new(Frame::begin(self.compression, Vec::new())?),
                    },
                };
            }
            Current::Held(bytes) => {
                let taken = bytes.len().min(self.part_bytes - self.ready.len());
                self.ready.extend_from_slice(&bytes.split_to(taken));
                if bytes.is_empty() {
                    self.current = Current::None;
                }
            }
            Current::Streamed {
                pieces,
                next,
                frame,
            } => {
                if let Some(piece) = pieces.piece(*next)? {
                    *next += 1;
                    frame.write(&piece)?;
                    frame.drain(&mut self.ready);
                } else {
                    frame.write(b"\n")?;
                    let Current::Streamed { frame, .. } =
                        std::mem::replace(&mut self.current, Current::None)
                    else {
                        return Err(io::Error::other("the segment changed under its reader"));
                    };
                    self.ready.append(&mut frame.end()?);
                }
            }
        }
        Ok(true)
    }
}

impl Frame {
    /// Moves what came out so far to `to`.
    fn drain(&mut self, to: &mut Vec<u8>) {
        let out = match &mut self.encoder {
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::None(out) => out,
        };
        to.append(out);
        self.out = 0;
    }
}
