//! One file while it is being read: its bytes in order, framed and hashed, out as parcels of lines. It knows no other
//! file and no name.
//!
//! Invariants: a parcel says up to where everything was given out and what the bytes before that were; memory is
//! bounded by the framer (`line_max` and a piece), one parcel and one buffer.

use std::io::{self, Read};
use std::sync::Arc;

use crate::event::encoding::{RecordHead, Span};
use crate::event::{Generation, IdPrefix, LineKind, Origin};
use crate::framing::lines::{Framed, Framer, OversizeEnd};

use super::super::{Lines, Piece};
use super::backlog::{Form, contents};
use super::disk::OpenFile;
use super::file_identity::{TAIL_BYTES, keep_tail, skip_to, tail_hash, tail_start};
use super::rotation::FileId;

/// How much is read and given out at once, bytes; smaller in tests, so that every border is crossed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// One read.
    pub(super) read: usize,
    /// A parcel is cut once its lines have so many bytes.
    pub(super) parcel: usize,
    /// Or so many lines: their heads cost memory too.
    pub(super) lines: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        // A parcel's buffer stays below the 256 KiB from which the allocator maps fresh pages each time, and what was
        // scanned and hashed is still in the processor's cache when it goes into a block.
        Sizes {
            read: 128 << 10,
            parcel: 96 << 10,
            lines: 2 << 10,
        }
    }
}

/// A part of a generation, ready to be handed on.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    pub(super) lines: Lines,
    pub(super) piece: Option<Piece>,
    /// A run of NULs, as offsets.
    pub(super) nul: Option<(u64, u64)>,
    pub(super) span: Option<Span>,
    pub(super) read_bytes: u64,
    /// Everything before it was given out, and the hash of the bytes before it.
    pub(super) resume: Option<(u64, [u8; 32])>,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    Bytes,
    End,
}

enum Input {
    /// Read at offsets, because it grows.
    Plain(Arc<dyn OpenFile>),
    Gzip(Box<dyn Read + Send>),
}

/// The file being read.
pub(super) struct Reading {
    pub(super) id: FileId,
    generation: Generation,
    ids: IdPrefix,
    framer: Framer,
    input: Input,
    buffer: Vec<u8>,
    /// `buffer[taken..filled]` was not framed yet.
    taken: usize,
    filled: usize,
    /// Offset of `buffer[taken]`.
    at: u64,
    /// The last 4 KiB before `at`.
    before: Vec<u8>,
    /// Everything before it was framed and collected; with the hash of the bytes before it.
    resume: (u64, Vec<u8>),
    lines: Lines,
    read_bytes: u64,
    /// Offset behind the last collected line.
    end: u64,
    /// Bytes of an unfinished oversize line that were given out.
    given: Option<u64>,
    sizes: Sizes,
}

/// Where to begin in a file.
pub(super) struct Place {
    pub(super) id: FileId,
    pub(super) generation: Generation,
    pub(super) offset: u64,
    pub(super) tail: [u8; 32],
}

impl Reading {
    /// Begins at `place`; `None` where the bytes before it are not the ones that were read.
    pub(super) fn begin(
        origin: &Origin,
        place: &Place,
        file: &Arc<dyn OpenFile>,
        form: Form,
        line_max: usize,
        sizes: Sizes,
    ) -> io::Result<Option<Self>> {
        let (input, before) = match form {
            Form::Plain => (
                Input::Plain(file.clone()),
                bytes_before(file.as_ref(), place.offset)?,
            ),
            Form::Gzip => {
                let mut contents = contents(file, Form::Gzip);
                let before = skip_to(&mut contents, place.offset)?;
                (Input::Gzip(contents), before)
            }
        };
        let Some(before) = before.filter(|before| tail_hash(before) == place.tail) else {
            return Ok(None);
        };
        Ok(Some(Reading {
            id: place.id,
            generation: place.generation,
            ids: IdPrefix::new(origin, &place.generation),
            framer: Framer::new(line_max, place.offset),
            input,
            buffer: vec![0; sizes.read],
            taken: 0,
            filled: 0,
            at: place.offset,
            resume: (place.offset, before.clone()),
            before,
            lines: Lines::default(),
            read_bytes: 0,
            end: place.offset,
            given: None,
            sizes,
        }))
    }

    /// Offset behind the last byte that was read.
    pub(super) fn read_offset(&self) -> u64 {
        self.at + (self.filled - self.taken) as u64
    }

    /// Whether parts of a line were given out whose end was not: then no other line may come between.
    pub(super) fn in_oversize_line(&self) -> bool {
        self.given.is_some()
    }

    /// Reads on, up to `end` and at most `budget` bytes, unless bytes are still waiting to be framed.
    pub(super) fn fetch(&mut self, end: u64, budget: u64) -> io::Result<Fetched> {
        if self.taken < self.filled {
            return Ok(Fetched::Bytes);
        }
        let want = self
            .buffer
            .len()
            .min(usize::try_from(budget).unwrap_or(usize::MAX))
            .max(1);
        let read = match &mut self.input {
            Input::Plain(file) => {
                let left = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
                let want = want.min(left);
                if want == 0 {
                    0
                } else {
                    file.read_at(self.at, &mut self.buffer[..want])?
                }
            }
            Input::Gzip(contents) => loop {
                match contents.read(&mut self.buffer[..want]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => break result?,
                }
            },
        };
        self.taken = 0;
        self.filled = read;
        Ok(if read == 0 {
            Fetched::End
        } else {
            Fetched::Bytes
        })
    }

    /// Frames what was read. Gives parcels once there is enough for one, or something that must stand alone.
    pub(super) fn frame(&mut self, out: &mut Vec<Parcel>) {
        self.lines.bytes.reserve(self.filled - self.taken);
        let mut collector = Collector::new(
            &self.ids,
            &mut self.lines,
            &mut self.read_bytes,
            &mut self.end,
            self.sizes.lines,
        );
        let input = &self.buffer[self.taken..self.filled];
        let taken = self
            .framer
            .push(input, &mut |framed| collector.take(framed));
        let alone = collector.alone;
        if alone.is_some() {
            // The lines before it end where they end, which may lie before this input.
            self.cut(self.end, taken, out);
        }
        self.hand_on(alone, taken, out);
        if let Some(tail) = self.tail_at(self.framer.resume_offset(), taken) {
            self.resume = (self.framer.resume_offset(), tail);
        }
        keep_tail(
            &mut self.before,
            &self.buffer[self.taken..self.taken + taken],
        );
        self.taken += taken;
        self.at += taken as u64;
        if self.lines.bytes.len() >= self.sizes.parcel || self.lines.heads.len() >= self.sizes.lines
        {
            self.flush(out);
        }
    }

    /// What is held of an unfinished last line becomes a line.
    pub(super) fn finish(&mut self, out: &mut Vec<Parcel>) {
        while self.framer.pending() > 0 {
            let mut collector = Collector::new(
                &self.ids,
                &mut self.lines,
                &mut self.read_bytes,
                &mut self.end,
                self.sizes.lines,
            );
            self.framer.finish(&mut |framed| collector.take(framed));
            let alone = collector.alone;
            if alone.is_some() {
                self.cut(self.end, 0, out);
            }
            self.hand_on(alone, 0, out);
        }
        self.resume = (self.at, self.before.clone());
        self.end = self.at;
        self.flush(out);
    }

    /// Gives out the lines collected so far.
    pub(super) fn flush(&mut self, out: &mut Vec<Parcel>) {
        let (offset, tail) = (self.resume.0, tail_hash(&self.resume.1));
        if let Some(mut parcel) = self.take_lines() {
            parcel.resume = Some((offset, tail));
            out.push(parcel);
        }
    }

    /// Gives out the lines collected so far, which end at `end`, in the middle of what is being framed.
    fn cut(&mut self, end: u64, taken: usize, out: &mut Vec<Parcel>) {
        let tail = self.tail_at(end, taken);
        if let Some(mut parcel) = self.take_lines() {
            parcel.resume = tail.map(|tail| (end, tail_hash(&tail)));
            out.push(parcel);
        }
    }

    fn take_lines(&mut self) -> Option<Parcel> {
        let start = self.lines.heads.first()?.offset;
        let span = Span {
            generation: self.generation,
            start,
            end: self.end,
        };
        Some(Parcel {
            lines: std::mem::take(&mut self.lines),
            span: Some(span),
            read_bytes: std::mem::take(&mut self.read_bytes),
            ..Parcel::default()
        })
    }

    /// Makes a parcel of what must stand alone.
    fn hand_on(&mut self, alone: Option<Alone>, taken: usize, out: &mut Vec<Parcel>) {
        match alone {
            None => {}
            Some(Alone::Nul { from, to }) => {
                self.end = to;
                let resume = self.tail_at(to, taken).map(|tail| (to, tail_hash(&tail)));
                out.push(Parcel {
                    nul: Some((from, to)),
                    resume,
                    ..Parcel::default()
                });
            }
            Some(Alone::Piece {
                offset,
                bytes,
                done,
            }) => {
                let given = self.given.unwrap_or(0);
                let start = offset + given;
                let first = self.given.is_none();
                let mut parcel = Parcel::default();
                let end = match &done {
                    Some(done) => {
                        self.given = None;
                        self.end = done.end;
                        parcel.read_bytes = done.end - offset;
                        parcel.resume = self
                            .tail_at(done.end, taken)
                            .map(|tail| (done.end, tail_hash(&tail)));
                        done.end
                    }
                    None => {
                        self.given = Some(given + bytes.len() as u64);
                        start + bytes.len() as u64
                    }
                };
                let head = done.map(|done| RecordHead {
                    offset,
                    length: done.length,
                    kind: LineKind::Oversize,
                    id: self.ids.id(offset, &done.hash),
                    hash: done.hash,
                    time_us: done.time_us,
                    envelope: done.envelope,
                });
                parcel.span = Some(Span {
                    generation: self.generation,
                    start,
                    end,
                });
                parcel.piece = Some(Piece { bytes, first, head });
                out.push(parcel);
            }
        }
    }

    /// The up to 4 KiB before `offset`. `None` only where an event was found far inside an oversize line of a `.gz`:
    /// then the position moves with the line behind it.
    fn tail_at(&self, offset: u64, taken: usize) -> Option<Vec<u8>> {
        if offset == self.resume.0 {
            return Some(self.resume.1.clone());
        }
        if offset >= self.at {
            let into = usize::try_from(offset - self.at)
                .ok()
                .filter(|into| *into <= taken)?;
            let mut tail = self.before.clone();
            keep_tail(&mut tail, &self.buffer[self.taken..self.taken + into]);
            return Some(tail);
        }
        let back = usize::try_from(self.at - offset).ok()?;
        if let Some(until) = self.before.len().checked_sub(back)
            && (self.before.len() as u64 == self.at || until >= TAIL_BYTES)
        {
            return Some(self.before[until.saturating_sub(TAIL_BYTES)..until].to_vec());
        }
        match &self.input {
            // An error means only that the position does not move here.
            Input::Plain(file) => bytes_before(file.as_ref(), offset).unwrap_or_default(),
            Input::Gzip(_) => None,
        }
    }
}

/// The bytes that the tail hash of a position covers; `None` where the file is shorter.
pub(super) fn bytes_before(file: &dyn OpenFile, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let start = tail_start(offset);
    let mut bytes = vec![0; usize::try_from(offset - start).unwrap_or(TAIL_BYTES)];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(start + have as u64, &mut bytes[have..])? {
            0 => return Ok(None),
            read => have += read,
        }
    }
    Ok(Some(bytes))
}

/// Takes lines from the framer and stops it at what must stand alone, and when there are lines enough: a read of empty
/// ones would have a head for each of its bytes.
struct Collector<'a> {
    ids: &'a IdPrefix,
    lines: &'a mut Lines,
    read_bytes: &'a mut u64,
    end: &'a mut u64,
    alone: Option<Alone>,
    lines_max: usize,
}

enum Alone {
    Piece {
        offset: u64,
        bytes: Vec<u8>,
        done: Option<OversizeEnd>,
    },
    Nul {
        from: u64,
        to: u64,
    },
}

impl<'a> Collector<'a> {
    fn new(
        ids: &'a IdPrefix,
        lines: &'a mut Lines,
        read_bytes: &'a mut u64,
        end: &'a mut u64,
        lines_max: usize,
    ) -> Self {
        Collector {
            ids,
            lines,
            read_bytes,
            end,
            alone: None,
            lines_max,
        }
    }

    fn take(&mut self, framed: Framed<'_>) -> bool {
        match framed {
            Framed::Line {
                offset,
                end,
                kind,
                time_us,
                bytes,
            } => {
                self.lines.push(self.ids, offset, kind, time_us, bytes);
                *self.read_bytes += end - offset;
                *self.end = end;
                return self.lines.heads.len() < self.lines_max;
            }
            Framed::Piece {
                offset,
                bytes,
                done,
            } => {
                self.alone = Some(Alone::Piece {
                    offset,
                    bytes: bytes.to_vec(),
                    done,
                });
            }
            Framed::NulGap { from, to } => self.alone = Some(Alone::Nul { from, to }),
        }
        false
    }
}
