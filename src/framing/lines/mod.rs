//! The framer of newline-delimited events: a pure state machine, bytes in, lines out.
//!
//! What becomes of the bytes is decided by the bytes alone, never by how they were cut into chunks:
//! - A line is what stands before a line feed; a carriage return is part of it.
//! - A line that is no event, but ends in one ([`super::salvage`]), is two: what stands before it, malformed, and it.
//! - A line over `line_max` is given out in pieces of [`Framer::PIECE_MAX`] while it comes in. Its last `line_max`
//!   bytes are held back until its end is seen, because an event may be found in them.
//! - A run of more than 64 KiB of NUL bytes ends the line before it and is a gap; what follows it is a new line. A line
//!   feed right behind the run belongs to the gap.
//!
//! Invariants: each thing given out leaves the framer as if it had just been made at [`Framer::resume_offset`], so that
//! reading can stop after any of them, for good or for a while; a whole line inside one chunk is never copied;
//! memory held is at most `line_max` + [`Framer::PIECE_MAX`] + one chunk.

#[cfg(test)]
mod tests;

use memchr::memchr;
use sha2::{Digest, Sha256};

use super::salvage;
use crate::event::fields::{self, head_fields};
use crate::event::{LineHash, LineKind};

/// What the framer found, in the order of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A whole line of at most `line_max` bytes, without its line feed. `kind` is `Event` or `Malformed`.
    Line {
        /// Offset of its first byte in the uncompressed generation.
        offset: u64,
        /// Offset behind it and behind its line feed where it has one: where reading stands after it.
        end: u64,
        /// Event or malformed.
        kind: LineKind,
        /// `stageTimestamp` in microseconds, as the walk that validated the event found it; `None` for malformed ones.
        time_us: Option<i64>,
        /// The line.
        bytes: &'a [u8],
    },
    /// A part of a line over `line_max`. All parts of one line follow each other; the last one carries `done`.
    Piece {
        /// Offset of the whole line's first byte.
        offset: u64,
        /// This part; pieces of one line in a row are the line. May be empty in the last one.
        bytes: &'a [u8],
        /// Set on the last piece.
        done: Option<OversizeEnd>,
    },
    /// A run of more than 64 KiB of NUL bytes.
    NulGap {
        /// Offset of its first NUL.
        from: u64,
        /// Offset behind its last NUL, and behind the line feed if that follows directly.
        to: u64,
    },
}

/// What is known of an oversize line once its end was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OversizeEnd {
    /// Bytes of the line without line feed. At most `line_max` only where an event was found behind it.
    pub length: u64,
    /// Offset behind it and its line feed.
    pub end: u64,
    /// SHA-256 of all of it.
    pub hash: LineHash,
    /// Head fields found in its first `line_max` bytes (see `event::fields::head_fields`).
    pub envelope: Vec<u8>,
    /// `stageTimestamp` if it was among those bytes, microseconds.
    pub time_us: Option<i64>,
}

/// Cuts a generation's bytes into lines.
#[derive(Debug)]
pub struct Framer {
    line_max: usize,
    piece_max: usize,
    nul_max: usize,
    /// Offset of the line's first byte, or of the NUL run's.
    start: u64,
    /// The line's bytes that were not given out. Empty in [`State::NulRun`].
    held: Vec<u8>,
    /// How many NULs `held` ends with while it is not known how long their run is; at most `nul_max` + 1.
    nuls: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Everything of the line is in `held`.
    Line,
    /// The line is over `line_max`; a part of it may have been given out.
    Oversize(Oversize),
    /// In a run of more than `nul_max` NULs, of which so many were seen.
    NulRun(u64),
}

#[derive(Debug)]
struct Oversize {
    /// Bytes given out.
    released: u64,
    /// Over those bytes.
    hasher: Sha256,
    envelope: Vec<u8>,
    time_us: Option<i64>,
}

/// Whether `out` wants more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    More,
    /// `out` returned `false`, and something of the line is left to give out.
    Stop,
    /// `out` returned `false` with the line's last part.
    StopAtEnd,
}

impl Framer {
    /// Longest piece of an oversize line, bytes.
    pub const PIECE_MAX: usize = 1 << 20;

    /// A longer run of NULs is a gap, bytes.
    pub const NUL_RUN_MAX: usize = 64 << 10;

    /// What a long line needed is given back when it ends; memory of this many bytes is kept.
    const KEPT_MAX: usize = 256 << 10;

    /// A framer that starts at `offset` of a generation, at the start of a line.
    pub fn new(line_max: usize, offset: u64) -> Self {
        Framer {
            line_max,
            piece_max: Self::PIECE_MAX,
            nul_max: Self::NUL_RUN_MAX,
            start: offset,
            held: Vec::new(),
            nuls: 0,
            state: State::Line,
        }
    }

    /// Takes the next bytes and gives out every line that they end. Stops early and returns the number of bytes taken
    /// when `out` returns `false`; the rest must be given again. What is left to give out of the bytes taken comes with
    /// the next call, whatever that brings.
    pub fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(Framed<'_>) -> bool) -> usize {
        let mut at = 0;
        loop {
            if !self.settle(out) {
                return at;
            }
            let rest = &bytes[at..];
            if rest.is_empty() {
                return at;
            }
            if let State::NulRun(length) = self.state {
                let (taken, more) = self.in_nul_run(rest, length, out);
                at += taken;
                if !more {
                    return at;
                }
                continue;
            }
            let line_feed = memchr(b'\n', rest);
            if let Some(length) = line_feed
                && let Some(more) = self.whole(&rest[..length], out)
            {
                at += length + 1;
                if !more {
                    return at;
                }
                continue;
            }
            let part = &rest[..line_feed.unwrap_or(rest.len())];
            let taken = self.hold(part);
            at += taken;
            if line_feed.is_none() || taken < part.len() || self.nuls > self.nul_max {
                continue;
            }
            // The line feed ends the run, if there was one, and is taken with the line's last part.
            self.nuls = 0;
            if !self.settle(out) {
                return at;
            }
            match self.end_line(self.held.len(), 1, out) {
                Flow::More => at += 1,
                Flow::Stop => return at,
                Flow::StopAtEnd => return at + 1,
            }
        }
    }

    /// The generation is final: what is held of an unfinished last line becomes a line. When `out` returns `false`
    /// before everything was given out, [`Framer::pending`] is not 0, and this must be called again.
    pub fn finish(&mut self, out: &mut dyn FnMut(Framed<'_>) -> bool) {
        if !self.settle(out) {
            return;
        }
        if let State::NulRun(length) = self.state {
            self.end_nul_run(length, 0, out);
            return;
        }
        self.nuls = 0;
        if self.settle(out) && self.pending() > 0 {
            self.end_line(self.held.len(), 0, out);
        }
    }

    /// Offset from which reading must start again after a restart: behind the last line given out whole.
    pub fn resume_offset(&self) -> u64 {
        self.start
    }

    /// Bytes taken behind [`Framer::resume_offset`]: those of an unfinished last line, in memory or given out in
    /// pieces, or of a NUL run that goes on. The sum of both is the offset of the next byte to be pushed.
    pub fn pending(&self) -> u64 {
        let given_out = match &self.state {
            State::Line => 0,
            State::Oversize(oversize) => oversize.released,
            State::NulRun(length) => *length,
        };
        given_out + self.held.len() as u64
    }

    /// The hot path: an event that lies whole in the chunk is given out from there. `None` where it is anything else.
    fn whole(&mut self, line: &[u8], out: &mut dyn FnMut(Framed<'_>) -> bool) -> Option<bool> {
        let nothing_held = self.held.is_empty() && matches!(self.state, State::Line);
        if !nothing_held || line.len() > self.line_max {
            return None;
        }
        let scan = fields::scan(line).ok()?;
        let offset = self.start;
        self.start += line.len() as u64 + 1;
        let (kind, time_us) = (LineKind::Event, scan.time_us);
        Some(out(Framed::Line {
            offset,
            end: self.start,
            kind,
            time_us,
            bytes: line,
        }))
    }

    /// Appends bytes of the line, up to where a run of NULs is known to be a gap. Returns how many it took.
    fn hold(&mut self, part: &[u8]) -> usize {
        let mut at = 0;
        while at < part.len() && self.nuls <= self.nul_max {
            let rest = &part[at..];
            let taken = match memchr(0, rest) {
                Some(0) => {
                    let room = self.nul_max + 1 - self.nuls;
                    let zeros = zeros(&rest[..rest.len().min(room)]);
                    self.nuls += zeros;
                    zeros
                }
                first_nul => {
                    self.nuls = 0;
                    first_nul.unwrap_or(rest.len())
                }
            };
            self.held.extend_from_slice(&rest[..taken]);
            at += taken;
        }
        at
    }

    /// Does what the bytes held make certain: starts an oversize line, gives out its pieces, ends the line before a
    /// NUL gap. Returns whether `out` wants more.
    fn settle(&mut self, out: &mut dyn FnMut(Framed<'_>) -> bool) -> bool {
        let settled = self.held.len() - self.nuls;
        if matches!(self.state, State::Line) && settled > self.line_max {
            self.state = State::Oversize(Oversize::begin(&self.held[..self.line_max]));
        }
        if let State::Oversize(_) = self.state {
            while self.held.len() - self.nuls >= self.line_max + self.piece_max {
                if !self.release(self.piece_max, out) {
                    return false;
                }
            }
        }
        if self.nuls > self.nul_max {
            let line = self.held.len() - self.nuls;
            let flow = if line > 0 {
                self.end_line(line, 0, out)
            } else {
                Flow::More
            };
            if flow == Flow::Stop {
                return false;
            }
            self.held.clear();
            self.state = State::NulRun(self.nuls as u64);
            self.nuls = 0;
            return flow == Flow::More;
        }
        true
    }

    /// Gives out the line that is `held[..length]`, and the event behind it if there is one.
    fn end_line(
        &mut self,
        mut length: usize,
        line_feed: u64,
        out: &mut dyn FnMut(Framed<'_>) -> bool,
    ) -> Flow {
        loop {
            let (more, taken) = match &self.state {
                State::Oversize(_) => self.end_oversize(length, line_feed, out),
                _ => self.end_short(length, line_feed, out),
            };
            length -= taken;
            let ended = length == 0 && !matches!(self.state, State::Oversize(_));
            if ended && self.held.is_empty() && self.held.capacity() > Self::KEPT_MAX {
                self.held = Vec::new();
            }
            match (more, ended) {
                (true, true) => return Flow::More,
                (true, false) => {}
                (false, true) => return Flow::StopAtEnd,
                (false, false) => return Flow::Stop,
            }
        }
    }

    /// Gives out a line of at most `line_max` bytes, or what stands before the event in it. Returns whether `out`
    /// wants more, and how many bytes of `held` are gone.
    fn end_short(
        &mut self,
        length: usize,
        line_feed: u64,
        out: &mut dyn FnMut(Framed<'_>) -> bool,
    ) -> (bool, usize) {
        let line = &self.held[..length];
        let (kind, time_us, event_at) = match fields::scan(line) {
            Ok(scan) => (LineKind::Event, scan.time_us, None),
            Err(stop) => (LineKind::Malformed, None, salvage::behind(line, stop)),
        };
        let taken = event_at.unwrap_or(length);
        let offset = self.start;
        self.start += taken as u64 + if event_at.is_none() { line_feed } else { 0 };
        let more = out(Framed::Line {
            offset,
            end: self.start,
            kind,
            time_us,
            bytes: &line[..taken],
        });
        self.held.drain(..taken);
        (more, taken)
    }

    /// Gives out the next piece of an oversize line whose end is at `length`, or before an event in its last
    /// `line_max` bytes. Returns as [`Framer::end_short`] does.
    fn end_oversize(
        &mut self,
        length: usize,
        line_feed: u64,
        out: &mut dyn FnMut(Framed<'_>) -> bool,
    ) -> (bool, usize) {
        let window = length.saturating_sub(self.line_max);
        let event_at = salvage::anywhere(&self.held[..length], window);
        let left = event_at.unwrap_or(length);
        if left > self.piece_max {
            return (self.release(self.piece_max, out), self.piece_max);
        }
        let State::Oversize(oversize) = std::mem::replace(&mut self.state, State::Line) else {
            return (true, 0);
        };
        let offset = self.start;
        let bytes = &self.held[..left];
        let end = oversize.end(
            offset,
            bytes,
            if event_at.is_none() { line_feed } else { 0 },
        );
        self.start = end.end;
        let more = out(Framed::Piece {
            offset,
            bytes,
            done: Some(end),
        });
        self.held.drain(..left);
        (more, left)
    }

    /// Gives out the next `length` bytes of an oversize line, not the last ones.
    fn release(&mut self, length: usize, out: &mut dyn FnMut(Framed<'_>) -> bool) -> bool {
        let State::Oversize(oversize) = &mut self.state else {
            return true;
        };
        let bytes = &self.held[..length];
        oversize.hasher.update(bytes);
        oversize.released += length as u64;
        let more = out(Framed::Piece {
            offset: self.start,
            bytes,
            done: None,
        });
        self.held.drain(..length);
        more
    }

    /// Takes what `rest` has of a NUL run of which `length` bytes were seen, and ends it where something else follows.
    fn in_nul_run(
        &mut self,
        rest: &[u8],
        length: u64,
        out: &mut dyn FnMut(Framed<'_>) -> bool,
    ) -> (usize, bool) {
        let zeros = zeros(rest);
        let length = length + zeros as u64;
        match rest.get(zeros) {
            None => {
                self.state = State::NulRun(length);
                (zeros, true)
            }
            Some(b'\n') => (zeros + 1, self.end_nul_run(length, 1, out)),
            Some(_) => (zeros, self.end_nul_run(length, 0, out)),
        }
    }

    fn end_nul_run(
        &mut self,
        length: u64,
        line_feed: u64,
        out: &mut dyn FnMut(Framed<'_>) -> bool,
    ) -> bool {
        let from = self.start;
        self.start += length + line_feed;
        self.state = State::Line;
        out(Framed::NulGap {
            from,
            to: self.start,
        })
    }
}

impl Oversize {
    /// The line begins with `head`, its first `line_max` bytes.
    fn begin(head: &[u8]) -> Self {
        let envelope = head_fields(head);
        let time_us = fields::stage_timestamp_us(&envelope);
        Oversize {
            released: 0,
            hasher: Sha256::new(),
            envelope,
            time_us,
        }
    }

    /// The line began at `offset` and ends with `last`.
    fn end(mut self, offset: u64, last: &[u8], line_feed: u64) -> OversizeEnd {
        self.hasher.update(last);
        let length = self.released + last.len() as u64;
        OversizeEnd {
            length,
            end: offset + length + line_feed,
            hash: LineHash(self.hasher.finalize().into()),
            envelope: self.envelope,
            time_us: self.time_us,
        }
    }
}

/// How many NULs `bytes` begin with.
fn zeros(bytes: &[u8]) -> usize {
    // Sixteen at a time: a hole of a sparse file is a gigabyte of them.
    let (blocks, _) = bytes.as_chunks::<16>();
    let whole = blocks
        .iter()
        .take_while(|block| u128::from_ne_bytes(**block) == 0)
        .count()
        * 16;
    whole + bytes[whole..].iter().take_while(|byte| **byte == 0).count()
}
