//! Standard input as a source: one run is one generation whose "first line" is 16 random bytes (design rule R13).
//! Nothing is resumed, nothing can be read once more; an unfinished last line is an event.
//!
//! A thread of its own reads, since a read of a pipe cannot be interrupted; it is two buffers ahead at most.
//! Invariant: the run ends with the input, and the thread with it or with the process.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{ByteSize, Section, Spanned};
use crate::event::encoding::{GapReason, GenerationPosition, RecordHead, SourceGap, Span};
use crate::event::{Generation, IdPrefix, LineKind, Origin};
use crate::framing::lines::{Framed, Framer};

use super::{
    Chunk, Lines, Next, Piece, Reread, Source, SourceConfig, SourceContext, SourceError,
    SourceKind, SourceReport, SourceState, tail,
};

/// Standard input.
pub static KIND: SourceKind = SourceKind {
    name: "stdin",
    summary: "Reads events from standard input until it ends; nothing is resumed after a restart.",
    fields: &[&tail::LINE_MAX],
    read,
};

/// Bytes of one read.
const READ: usize = 256 << 10;

/// A chunk is cut once its lines have so many bytes.
const CHUNK: usize = 1 << 20;

/// Or so many lines: their heads cost memory too.
const CHUNK_LINES: usize = 16 << 10;

#[derive(Debug)]
struct StdinConfig {
    line_max: Spanned<ByteSize>,
}

fn read(section: &mut Section<'_>) -> Option<Box<dyn SourceConfig>> {
    let line_max = section.get_spanned(&tail::LINE_MAX);
    if section.failed() {
        return None;
    }
    Some(Box::new(StdinConfig {
        line_max: line_max?,
    }))
}

impl SourceConfig for StdinConfig {
    fn build(&self, context: SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let line_max = usize::try_from(self.line_max.value.0).unwrap_or(usize::MAX);
        Ok(Box::new(Stdin::new(context, line_max, std::io::stdin())?))
    }

    fn line_max(&self) -> Spanned<ByteSize> {
        self.line_max.clone()
    }
}

/// What the reading thread says.
enum Heard {
    Bytes(Vec<u8>),
    End,
    Failed(std::io::Error),
    /// Another thread ends the wait.
    Wake,
}

struct Stdin {
    origin: Origin,
    clock: Arc<dyn Clock>,
    generation: Generation,
    ids: IdPrefix,
    framer: Framer,
    heard: Receiver<Heard>,
    wake: SyncSender<Heard>,
    /// Bytes that were not framed yet, from `taken` on.
    buffer: Vec<u8>,
    taken: usize,
    ended: bool,
    finished: bool,
    /// What must stand alone and came behind lines: the next chunk.
    later: Option<Alone>,
    /// Parts of the present oversize line were given out.
    given: Option<u64>,
    last_event_us: Option<i64>,
}

impl Stdin {
    fn new(
        context: SourceContext,
        line_max: usize,
        input: impl Read + Send + 'static,
    ) -> Result<Self, SourceError> {
        let source_name = context.origin.source.clone();
        let failed = |problem: String| SourceError {
            source_name: source_name.clone(),
            problem,
        };
        let mut run = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut run))
            .map_err(|error| {
                failed(format!("read random bytes for the run's identity: {error}"))
            })?;
        let generation = Generation::of_first_line(&run);
        let (wake, heard) = sync_channel(2);
        let out = wake.clone();
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_ahead(input, &out))
            .map_err(|error| failed(format!("start the reading thread: {error}")))?;
        Ok(Stdin {
            ids: IdPrefix::new(&context.origin, &generation),
            origin: context.origin,
            clock: context.clock,
            generation,
            framer: Framer::new(line_max, 0),
            heard,
            wake,
            buffer: Vec::new(),
            taken: 0,
            ended: false,
            finished: false,
            later: None,
            given: None,
            last_event_us: context.last_event_us,
        })
    }

    /// Frames what is in the buffer, or what is left at the end. `None` where it ends no line.
    fn frame(&mut self) -> Option<Chunk> {
        if let Some(alone) = self.later.take() {
            return Some(self.chunk(Lines::default(), 0, 0, Some(alone)));
        }
        let mut collector = Collector {
            ids: &self.ids,
            lines: Lines::default(),
            read_bytes: 0,
            end: 0,
            alone: None,
        };
        if self.taken < self.buffer.len() {
            self.taken += self.framer.push(&self.buffer[self.taken..], &mut |framed| {
                collector.take(framed)
            });
        } else if self.ended {
            self.framer.finish(&mut |framed| collector.take(framed));
        }
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        }
        let Collector {
            lines,
            read_bytes,
            end,
            alone,
            ..
        } = collector;
        if lines.heads.is_empty() && alone.is_none() {
            return None;
        }
        if !lines.heads.is_empty() {
            self.later = alone;
            return Some(self.chunk(lines, read_bytes, end, None));
        }
        Some(self.chunk(lines, read_bytes, end, alone))
    }

    /// Lines that end at `end`, or what stands alone.
    fn chunk(&mut self, lines: Lines, read_bytes: u64, end: u64, alone: Option<Alone>) -> Chunk {
        let start = lines.heads.first().map(|head| head.offset);
        let mut chunk = Chunk {
            span: start.map(|start| Span {
                generation: self.generation,
                start,
                end,
            }),
            lines,
            read_bytes,
            ..Chunk::default()
        };
        self.add_alone(alone, &mut chunk);
        let heads = chunk
            .lines
            .heads
            .iter()
            .chain(chunk.piece.iter().filter_map(|piece| piece.head.as_ref()));
        self.last_event_us = heads
            .filter_map(|head| head.time_us)
            .next_back()
            .or(self.last_event_us);
        chunk.positions = vec![self.position()];
        chunk
    }

    fn add_alone(&mut self, alone: Option<Alone>, chunk: &mut Chunk) {
        match alone {
            None => {}
            Some(Alone::Nul { from, to }) => chunk.gaps.push(SourceGap {
                reason: GapReason::Nul,
                generation: Some(self.generation),
                from: Some(from),
                to: Some(to),
                events: None,
                after_us: self.last_event_us,
                before_us: None,
            }),
            Some(Alone::Piece { piece, offset, end }) => {
                let start = offset + self.given.unwrap_or(0);
                let behind = end.unwrap_or(start + piece.bytes.len() as u64);
                let first = self.given.is_none();
                self.given = if end.is_some() {
                    None
                } else {
                    Some(behind - offset)
                };
                chunk.read_bytes = end.map_or(0, |end| end - offset);
                chunk.span = Some(Span {
                    generation: self.generation,
                    start,
                    end: behind,
                });
                chunk.piece = Some(Piece { first, ..piece });
            }
        }
    }

    fn position(&self) -> GenerationPosition {
        GenerationPosition {
            generation: Some(self.generation),
            offset: self.framer.resume_offset(),
            // Never compared: a run is not resumed.
            tail: [0; 32],
            device: 0,
            inode: 0,
        }
    }
}

/// Reads until the input ends or nobody listens any more.
fn read_ahead(mut input: impl Read, out: &SyncSender<Heard>) {
    loop {
        let mut buffer = vec![0; READ];
        let heard = match input.read(&mut buffer) {
            Ok(0) => Heard::End,
            Ok(read) => {
                buffer.truncate(read);
                Heard::Bytes(buffer)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Heard::Failed(error),
        };
        let last = !matches!(heard, Heard::Bytes(_));
        if out.send(heard).is_err() || last {
            return;
        }
    }
}

impl Source for Stdin {
    fn next(&mut self, wait: Duration) -> Result<Next, SourceError> {
        let deadline = self.clock.monotonic() + wait;
        loop {
            while self.later.is_some()
                || self.taken < self.buffer.len()
                || (self.ended && self.framer.pending() > 0)
            {
                if let Some(chunk) = self.frame() {
                    return Ok(Next::Chunk(chunk));
                }
            }
            if self.ended {
                self.finished = true;
                return Ok(Next::Finished);
            }
            match self
                .heard
                .recv_timeout(deadline.saturating_sub(self.clock.monotonic()))
            {
                Ok(Heard::Bytes(bytes)) => {
                    self.buffer = bytes;
                    self.taken = 0;
                }
                Ok(Heard::End) => self.ended = true,
                Ok(Heard::Failed(error)) => {
                    let problem = format!("read standard input: {error}");
                    return Err(SourceError {
                        source_name: self.origin.source.clone(),
                        problem,
                    });
                }
                Ok(Heard::Wake)
                | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Ok(Next::Idle);
                }
            }
        }
    }

    /// The end of the input is the end.
    fn limit_to_present(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    fn report(&self) -> SourceReport {
        let waiting = self.finished || (self.buffer.is_empty() && self.framer.pending() == 0);
        SourceReport {
            state: if waiting {
                SourceState::CaughtUp
            } else {
                SourceState::Reading
            },
            unread_bytes: self.finished.then_some(0),
            ..SourceReport::default()
        }
    }

    /// The writer waits for us.
    fn about_to_lose(&self, _horizon: Duration) -> bool {
        false
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let wake = self.wake.clone();
        Arc::new(move || {
            // Full means that something is there already that ends the wait.
            if wake.try_send(Heard::Wake).is_err() {
                tracing::trace!("standard input has something to say already");
            }
        })
    }

    fn reread(&self) -> Option<Arc<dyn Reread>> {
        None
    }
}

enum Alone {
    Piece {
        piece: Piece,
        offset: u64,
        end: Option<u64>,
    },
    Nul {
        from: u64,
        to: u64,
    },
}

/// Takes lines from the framer, and stops it at what must stand alone or when there is enough.
struct Collector<'a> {
    ids: &'a IdPrefix,
    lines: Lines,
    read_bytes: u64,
    end: u64,
    alone: Option<Alone>,
}

impl Collector<'_> {
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
                self.read_bytes += end - offset;
                self.end = end;
                self.lines.bytes.len() < CHUNK && self.lines.heads.len() < CHUNK_LINES
            }
            Framed::Piece {
                offset,
                bytes,
                done,
            } => {
                let end = done.as_ref().map(|done| done.end);
                let head = done.map(|done| RecordHead {
                    offset,
                    length: done.length,
                    kind: LineKind::Oversize,
                    id: self.ids.id(offset, &done.hash),
                    hash: done.hash,
                    time_us: done.time_us,
                    envelope: done.envelope,
                });
                let piece = Piece {
                    bytes: bytes.to_vec(),
                    first: false,
                    head,
                };
                self.alone = Some(Alone::Piece { piece, offset, end });
                false
            }
            Framed::NulGap { from, to } => {
                self.alone = Some(Alone::Nul { from, to });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn stdin(input: &'static [u8], line_max: usize) -> Stdin {
        let origin = Origin {
            cluster: "c".into(),
            node: "n".into(),
            source: "in".into(),
        };
        let clock = Arc::new(SystemClock::new());
        let context = SourceContext {
            origin,
            clock,
            positions: Vec::new(),
            last_event_us: None,
        };
        Stdin::new(context, line_max, input).unwrap()
    }

    fn read_all(stdin: &mut Stdin) -> (Vec<String>, Vec<u64>) {
        let (mut lines, mut offsets, mut piece) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            match stdin.next(Duration::from_secs(10)).unwrap() {
                Next::Chunk(chunk) => {
                    let alone = chunk.piece.is_some() || !chunk.gaps.is_empty();
                    assert!(!alone || chunk.lines.heads.is_empty());
                    for (head, line) in chunk.lines.iter() {
                        lines.push(String::from_utf8_lossy(line).into_owned());
                        offsets.push(head.offset);
                    }
                    if let Some(part) = chunk.piece {
                        piece.extend_from_slice(&part.bytes);
                        if let Some(head) = part.head {
                            lines.push(
                                String::from_utf8_lossy(&std::mem::take(&mut piece)).into_owned(),
                            );
                            offsets.push(head.offset);
                        }
                    }
                }
                Next::Idle => panic!("the input is there"),
                Next::Finished => return (lines, offsets),
            }
        }
    }

    #[test]
    fn unfinished_last_line_is_an_event() {
        let mut input = stdin(b"{\"a\":1}\n\nlast", 100);
        input.limit_to_present().unwrap();
        assert_eq!(
            read_all(&mut input),
            (
                vec!["{\"a\":1}".into(), String::new(), "last".into()],
                vec![0, 8, 9]
            )
        );
    }

    #[test]
    fn oversize_lines_come_in_pieces() {
        let mut input = stdin(b"{\"a\":1}\n0123456789abcdef\n{\"b\":2}\n", 8);
        assert_eq!(
            read_all(&mut input),
            (
                vec![
                    "{\"a\":1}".into(),
                    "0123456789abcdef".into(),
                    "{\"b\":2}".into()
                ],
                vec![0, 8, 25]
            )
        );
    }

    #[test]
    fn a_nul_gap_comes_behind_the_lines_before_it() {
        let mut input = vec![0; 70_000];
        input.splice(..0, *b"{\"a\":1}\n");
        input.extend_from_slice(b"{\"b\":2}\n");
        let mut stdin = stdin(input.leak(), 100);
        let expected = vec!["{\"a\":1}".into(), "{\"b\":2}".into()];
        assert_eq!(read_all(&mut stdin), (expected, vec![0, 70_008]));
    }

    #[test]
    fn a_read_of_empty_lines_is_given_out_in_bounded_chunks() {
        let mut stdin = stdin(&[b'\n'; 40_000], 100);
        let mut lines = 0;
        while let Next::Chunk(chunk) = stdin.next(Duration::from_secs(10)).unwrap() {
            assert!(chunk.lines.heads.len() <= CHUNK_LINES);
            lines += chunk.lines.heads.len();
        }
        assert_eq!(lines, 40_000);
    }

    #[test]
    fn every_run_is_a_generation_of_its_own() {
        assert_ne!(stdin(b"", 100).generation, stdin(b"", 100).generation);
        assert_eq!(read_all(&mut stdin(b"", 100)), (vec![], vec![]));
    }
}
