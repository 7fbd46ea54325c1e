//! Cuts batches from the spool's blocks: the records that are wanted, up to a batch's bytes and events. Blocking:
//! called off the async workers.
//!
//! Not here: which records are wanted and whether to wait for more (`worker`). Invariants: records come in order and
//! none that is wanted is left out in between; an oversize record is alone in its batch; a damaged range is put back
//! from the source where that can be done, and else reported, never skipped in silence.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Rebuild;
use super::numbers::Numbers;
use super::seal::RANGES_MAX;
use crate::clock::Micros;
use crate::event::encoding::{RecordHead, Span};
use crate::event::{Generation, Origin};
use crate::sinks::{BatchKey, Body, BodyBuilder, Pieces, Record, Sink};
use crate::spool::{Block, PieceRef, ReadError, Reader, record};

/// Batches that fill side by side (design R2): a ninth key closes the oldest.
const OPEN_MAX: usize = 8;

/// The spool as delivery reads it.
pub trait Blocks: Send + Sync {
    /// See [`Reader::block_at`].
    fn block_at(&self, record: u64) -> Result<Option<Arc<Block>>, ReadError>;
    /// See [`Reader::piece`].
    fn piece(&self, piece: PieceRef) -> Result<Bytes, ReadError>;
    /// See [`Reader::restore`].
    fn restore(&self, damaged: &ReadError, payload: &[u8]) -> std::io::Result<bool>;
    /// See [`Reader::watch`].
    fn watch(&self) -> watch::Receiver<u64>;
    /// See [`Reader::oldest_record`].
    fn oldest_record(&self) -> u64;
}

impl Blocks for Reader {
    fn block_at(&self, record: u64) -> Result<Option<Arc<Block>>, ReadError> {
        Reader::block_at(self, record)
    }

    fn piece(&self, piece: PieceRef) -> Result<Bytes, ReadError> {
        Reader::piece(self, piece)
    }

    fn restore(&self, damaged: &ReadError, payload: &[u8]) -> std::io::Result<bool> {
        Reader::restore(self, damaged, payload)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        Reader::watch(self)
    }

    fn oldest_record(&self) -> u64 {
        Reader::oldest_record(self)
    }
}

/// What one batch may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Encoded bytes before compression; a single larger record is a batch of its own.
    pub bytes: u64,
    /// Records.
    pub events: u64,
}

impl Limits {
    /// For a batch that was cut before.
    pub const NONE: Limits = Limits {
        bytes: u64::MAX,
        events: u64::MAX,
    };
}

/// A batch that is being filled.
#[derive(Default)]
pub struct Cut {
    /// What all its records have in common.
    pub key: BatchKey,
    /// Which they are.
    pub numbers: Numbers,
    /// In order; none where the sink builds the body.
    pub records: Vec<Record>,
    /// The body where the sink builds it.
    pub body: Option<Box<dyn BodyBuilder>>,
    /// Its encoded bytes, as the sink weighs them.
    pub bytes: u64,
    /// Nothing more goes in.
    pub full: bool,
    /// Why reading ended before everything that was wanted was read.
    pub trouble: Option<Trouble>,
}

/// Batches that fill side by side, one per batch key.
#[derive(Default)]
pub struct Spread {
    /// In the order in which their first records came.
    pub cuts: Vec<Cut>,
    /// Everything below was put into one of them.
    pub next: u64,
    /// Why reading ended before everything that was wanted was read.
    pub trouble: Option<Trouble>,
}

/// What became of one record on its way into a batch.
enum Taken {
    Yes,
    /// Not for this batch.
    No,
    /// There is no room: reading ends before it.
    End,
}

/// Why the records behind a [`Cut`] could not be had.
#[derive(Debug)]
pub enum Trouble {
    /// Damaged and not to be rebuilt: of what was wanted, these are gone.
    Lost(Numbers, String),
    /// The disk could not be read now.
    Io(String),
    /// The bytes are whole, but this version cannot read them.
    Undecodable(String),
}

/// Reads for one sink.
#[derive(Clone)]
pub struct Batcher {
    /// The spool.
    pub blocks: Arc<dyn Blocks>,
    /// Puts damaged blocks back.
    pub rebuild: Arc<dyn Rebuild>,
    /// Weighs records.
    pub sink: Arc<dyn Sink>,
    /// What a batch may hold.
    pub limits: Limits,
}

impl Batcher {
    /// Goes on filling `cut` with those of the wanted records that have its key, from the lowest on, until it is full,
    /// nothing is left, or reading gets into trouble. The first record decides the key of an empty cut.
    pub fn fill(&self, wanted: &Numbers, mut cut: Cut) -> Cut {
        let trouble = self.read(wanted, &mut |record| {
            let key = self.sink.batch_key(&record);
            if cut.numbers.is_empty() {
                cut.key = key;
            } else if cut.key != key {
                return Ok(Taken::No);
            }
            let taken = self.push(record, &mut cut)?;
            // What lies behind a full batch is not even read.
            Ok(if cut.full { Taken::End } else { taken })
        });
        cut.trouble = trouble;
        cut
    }

    /// Goes on putting all records of `range` into batches by their keys, until one of them is full, there are too
    /// many, nothing is left, or reading gets into trouble.
    pub fn spread(&self, range: Range<u64>, cuts: Vec<Cut>) -> Spread {
        let mut spread = Spread {
            cuts,
            next: range.start,
            trouble: None,
        };
        let trouble = self.read(&Numbers::range(range), &mut |record| {
            let number = record.number;
            let taken = self.place(record, &mut spread.cuts)?;
            if let Taken::Yes = taken {
                spread.next = number + 1;
                if spread.cuts.iter().any(|cut| cut.full) {
                    return Ok(Taken::End);
                }
            }
            Ok(taken)
        });
        spread.trouble = trouble;
        spread
    }

    /// One record.
    pub fn record(&self, number: u64) -> Result<Record, Trouble> {
        let mut found = None;
        let trouble = self.read(&Numbers::range(number..number + 1), &mut |record| {
            found = Some(record);
            Ok(Taken::End)
        });
        let absent = || Trouble::Io(format!("record {number} is not there"));
        found.ok_or_else(|| trouble.unwrap_or_else(absent))
    }

    /// Reads the wanted records one after the other, from the lowest on; why that ended too early.
    fn read(
        &self,
        wanted: &Numbers,
        take: &mut dyn FnMut(Record) -> Result<Taken, Missing>,
    ) -> Option<Trouble> {
        let mut left = wanted.clone();
        while let Some(at) = left.first() {
            let block = match self.block(at) {
                Ok(Some(block)) => block,
                Ok(None) => return None,
                Err(missing) => return Some(missing.of(wanted)),
            };
            if block.first > at {
                let (gone, _) = left.split_at(block.first);
                return Some(Trouble::Lost(gone, "no longer in the spool".to_owned()));
            }
            match self.read_block(&block, &left, take) {
                Ok(true) => left = left.split_at(block.first + u64::from(block.count)).1,
                Ok(false) => return None,
                Err(missing) => return Some(missing.of(wanted)),
            }
        }
        None
    }

    /// When the block that holds `record` was appended.
    pub fn appended(&self, record: u64) -> Option<(u64, Micros)> {
        let block = self.blocks.block_at(record).ok().flatten()?;
        Some((block.first + u64::from(block.count), block.appended))
    }

    /// Whether there is room for what comes behind the block.
    fn read_block(
        &self,
        block: &Arc<Block>,
        wanted: &Numbers,
        take: &mut dyn FnMut(Record) -> Result<Taken, Missing>,
    ) -> Result<bool, Missing> {
        let undecodable = |problem: String| {
            Missing::Trouble(Trouble::Undecodable(format!(
                "block of record {}: {problem}",
                block.first
            )))
        };
        let origin = Origin::decode(&block.key)
            .map(Arc::new)
            .map_err(|error| undecodable(error.to_string()))?;
        let span = Span::decode(&block.note).map_err(|error| undecodable(error.to_string()))?;
        let mut seen = 0;
        for (number, parts) in (block.first..).zip(record::iter(&block.payload)) {
            let (head, body) = parts.map_err(|error| undecodable(error.to_string()))?;
            seen += 1;
            if !wanted.contains(number) {
                continue;
            }
            let head = RecordHead::decode(&block.payload[head])
                .map_err(|error| undecodable(error.to_string()))?;
            let record = Record {
                number,
                origin: Arc::clone(&origin),
                generation: Generation(span.generation.0),
                head,
                appended: block.appended,
                body: self.body(block, body)?,
            };
            if let Taken::End = take(record)? {
                return Ok(false);
            }
        }
        if seen != block.count {
            return Err(undecodable(format!(
                "{seen} records instead of {}",
                block.count
            )));
        }
        Ok(true)
    }

    /// Puts the record into the batch of its key. Together the batches hold no more than one may.
    fn place(&self, record: Record, cuts: &mut Vec<Cut>) -> Result<Taken, Missing> {
        let key = self.sink.batch_key(&record);
        let at = match cuts.iter().position(|cut| cut.key == key) {
            Some(at) => at,
            None if cuts.len() == OPEN_MAX => {
                cuts[0].full = true;
                return Ok(Taken::End);
            }
            None => {
                cuts.push(Cut {
                    key,
                    ..Cut::default()
                });
                cuts.len() - 1
            }
        };
        let taken = self.push(record, &mut cuts[at])?;
        if cuts.len() > 1 && cuts.iter().map(|cut| cut.bytes).sum::<u64>() >= self.limits.bytes {
            let largest = cuts.iter_mut().max_by_key(|cut| cut.bytes);
            largest.into_iter().for_each(|cut| cut.full = true);
        }
        Ok(taken)
    }

    /// Puts the record in where there is room.
    fn push(&self, record: Record, cut: &mut Cut) -> Result<Taken, Missing> {
        let apart = cut.numbers.end() != Some(record.number);
        if apart && cut.numbers.range_count() >= RANGES_MAX {
            cut.full = true;
            return Ok(Taken::End);
        }
        if cut.numbers.is_empty() {
            cut.body = self.sink.begin_body();
        }
        let number = record.number;
        if let Some(body) = &mut cut.body {
            let pushed = body.push(&record);
            pushed.map_err(|error| {
                Missing::Trouble(Trouble::Io(format!("encode record {number}: {error}")))
            })?;
            cut.bytes = body.bytes();
        } else {
            let bytes = self.sink.weigh(&record);
            let alone = matches!(record.body, Body::Pieces(_));
            let room = cut.bytes.saturating_add(bytes) <= self.limits.bytes && !alone;
            if !cut.numbers.is_empty() && !room {
                cut.full = true;
                return Ok(Taken::End);
            }
            cut.bytes = cut.bytes.saturating_add(bytes);
            cut.full = alone;
            cut.records.push(record);
        }
        cut.numbers.push(number);
        cut.full |= cut.bytes >= self.limits.bytes || cut.numbers.len() >= self.limits.events;
        Ok(Taken::Yes)
    }

    /// The line of a record. Every piece of an oversize one is read once beforehand: a sink that met damage in the
    /// middle of a request could only fail, again and again.
    fn body(&self, block: &Arc<Block>, body: std::ops::Range<usize>) -> Result<Body, Missing> {
        let tail = block.payload.slice(body);
        if block.pieces.is_empty() {
            return Ok(Body::Whole(tail));
        }
        for piece in &block.pieces {
            self.sound(|| self.blocks.piece(*piece).map(|_| ()))?;
        }
        Ok(Body::Pieces(Arc::new(SpooledPieces {
            blocks: Arc::clone(&self.blocks),
            pieces: block.pieces.clone(),
            tail,
        })))
    }

    fn block(&self, at: u64) -> Result<Option<Arc<Block>>, Missing> {
        self.sound(|| self.blocks.block_at(at))
    }

    /// Reads; what is damaged is put back from the source and read again.
    fn sound<T>(&self, read: impl Fn() -> Result<T, ReadError>) -> Result<T, Missing> {
        let error = match read() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let ReadError::Damaged {
            first,
            last,
            key,
            note,
            ..
        } = &error
        else {
            return Err(Missing::Trouble(Trouble::Io(error.to_string())));
        };
        let (first, last) = (*first, *last);
        let payload = Origin::decode(key)
            .ok()
            .zip(Span::decode(note).ok())
            .and_then(|(o, s)| self.rebuild.payload(&o, &s));
        let problem = match payload.map(|payload| self.blocks.restore(&error, &payload)) {
            Some(Ok(true)) => match read() {
                Ok(value) => return Ok(value),
                Err(again) => format!("{error}; rebuilt from the source, but then: {again}"),
            },
            Some(Ok(false)) => format!("{error}; the source holds other bytes now"),
            Some(Err(io)) => {
                return Err(Missing::Trouble(Trouble::Io(format!(
                    "restore a damaged block: {io}"
                ))));
            }
            None => format!("{error}; the source no longer has it"),
        };
        Err(Missing::Damaged {
            first,
            last,
            problem,
        })
    }
}

/// Damage by its range, before it is known which of it was wanted.
enum Missing {
    Damaged {
        first: u64,
        last: u64,
        problem: String,
    },
    Trouble(Trouble),
}

impl Missing {
    fn of(self, wanted: &Numbers) -> Trouble {
        match self {
            Missing::Trouble(trouble) => trouble,
            Missing::Damaged {
                first,
                last,
                problem,
            } => {
                let lost = wanted.split_at(last.saturating_add(1)).0.split_at(first).1;
                match lost.is_empty() {
                    false => Trouble::Lost(lost, problem),
                    // Nothing that was asked for: no gap of ours, and not a reason to ask again at once.
                    true => Trouble::Io(problem),
                }
            }
        }
    }
}

/// An oversize line in the spool: its pieces, then what the closing block holds of it.
struct SpooledPieces {
    blocks: Arc<dyn Blocks>,
    pieces: Vec<PieceRef>,
    tail: Bytes,
}

impl Pieces for SpooledPieces {
    fn piece(&self, index: usize) -> std::io::Result<Option<Bytes>> {
        match self.pieces.get(index) {
            Some(piece) => self
                .blocks
                .piece(*piece)
                .map(Some)
                .map_err(std::io::Error::other),
            None if index == self.pieces.len() && !self.tail.is_empty() => {
                Ok(Some(self.tail.clone()))
            }
            None => Ok(None),
        }
    }
}
