//! Events that a destination refused for what they are, kept on this disk with their bytes, the reason and the
//! position, until a person has them replayed or removed.
//!
//! One file per letter, `<state_dir>/dead-letters/<sink>.<record, 20 digits>.letter`:
//!
//! ```text
//! "auditDL1"  8 bytes
//! length      u32, little-endian, of the header
//! crc32c      u32, little-endian, of the header
//! header      JSON (`Header`)
//! body        the line as spooled; its SHA-256 is in the header's `head`
//! ```
//!
//! Beside them lie requests of the command line, `<sink>.<number>.replay.request` and `….remove.request` (record
//! numbers, one a line), renamed to `….taken` before the first of them is acted on.
//!
//! Invariants: a letter is durable before its record's cursor moves; a letter at or behind the durable cursor is of a
//! decision that was not finished and is made anew; nothing is removed but by a replay that was stored or a person;
//! `max_bytes` bounds all sinks together.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::durable_fs::{DurableFile, DurableFs, Listed};
use crate::event::encoding::RecordHead;
use crate::event::{Generation, Origin, hex};
use crate::sinks::{Body, Pieces, Record, Rejection};

const MAGIC: &[u8; 8] = b"auditDL1";
const PREFIX: u64 = 16;
/// A header is small; what says otherwise is damaged.
const HEADER_MAX: u32 = 1 << 20;
/// Bodies are written and read in parts of this size.
const PART: usize = 1 << 20;

/// The store of all sinks' dead letters.
pub struct DeadLetters {
    fs: Arc<dyn DurableFs>,
    dir: PathBuf,
    max_bytes: u64,
    used: Mutex<u64>,
}

/// A letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// Which sink's.
    pub sink: String,
    /// Its number in the spool.
    pub record: u64,
    /// The event id, hex.
    pub id: String,
    /// Source, as `<cluster>/<node>/<source>`.
    pub origin: String,
    /// First 16 hex digits.
    pub generation: String,
    /// Offset of the line in the uncompressed generation.
    pub offset: u64,
    /// Bytes of the line.
    pub bytes: u64,
    /// The class of the refusal.
    pub class: String,
    /// The destination's words.
    pub reason: String,
    /// When it was refused, RFC 3339.
    pub at: String,
}

/// What is kept of a letter beside its bytes.
#[derive(Serialize, Deserialize)]
struct Header {
    record: u64,
    cluster: String,
    node: String,
    source: String,
    /// All 64 hex digits.
    generation: String,
    /// [`RecordHead`], encoded, in hex.
    head: String,
    appended_us: i64,
    refused_us: i64,
    class: String,
    reason: String,
}

/// A letter could not be kept; its record stays pending.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// `dead_letter.max_bytes` is reached.
    #[error(
        "dead letters are full ({used} of {max} bytes): replay or remove some, or raise dead_letter.max_bytes"
    )]
    Full {
        /// Bytes of all letters.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The disk failed.
    #[error("keep dead letter: {0}")]
    Io(#[from] io::Error),
}

/// What the command line asks the running agent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send them again.
    Replay,
    /// Remove them, with a gap.
    Remove,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Replay => "replay",
            Action::Remove => "remove",
        }
    }
}

/// A request that was left for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// File name.
    name: String,
    /// What to do.
    pub action: Action,
    /// With which records.
    pub records: Vec<u64>,
    /// An earlier process had begun it.
    pub begun: bool,
}

impl DeadLetters {
    /// Opens the store for the agent: makes the directory, clears what a crash left half written.
    pub fn open(fs: Arc<dyn DurableFs>, state_dir: &Path, max_bytes: u64) -> io::Result<Self> {
        let store = Self::look(fs, state_dir, max_bytes);
        store.fs.create_dir(&store.dir)?;
        let mut used = 0;
        for Listed { name, len } in store.fs.list(&store.dir)? {
            if name.ends_with(".new") {
                store.fs.remove(&store.dir.join(&name))?;
            } else if name.ends_with(".letter") {
                used += len;
            }
        }
        *store.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        Ok(store)
    }

    /// For listing, showing and requests beside a running agent: touches nothing.
    pub fn look(fs: Arc<dyn DurableFs>, state_dir: &Path, max_bytes: u64) -> Self {
        DeadLetters {
            fs,
            dir: state_dir.join("dead-letters"),
            max_bytes,
            used: Mutex::new(0),
        }
    }

    /// Bytes of all letters.
    pub fn used(&self) -> u64 {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a refused record, durably; one that is there already is written anew. Blocking.
    pub fn keep(
        &self,
        sink: &str,
        record: &Record,
        rejection: &Rejection,
        now: Micros,
    ) -> Result<(), KeepError> {
        let head = header(record, rejection, now)?;
        let bytes = PREFIX + head.len() as u64 + record.head.length;
        {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            if *used + bytes > self.max_bytes {
                return Err(KeepError::Full {
                    used: *used,
                    max: self.max_bytes,
                });
            }
            *used += bytes;
        }
        let name = letter_name(sink, record.number);
        let replaced = self.len_of(&name);
        let written = replaced.and_then(|old| self.write(&name, &head, &record.body).map(|()| old));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(old) => {
                *used -= old.min(*used);
                Ok(())
            }
            Err(error) => {
                *used -= bytes;
                Err(error.into())
            }
        }
    }

    /// All letters, or those of one sink, by sink and record. A letter that cannot be read is an error that names it.
    pub fn list(&self, sink: Option<&str>) -> io::Result<Vec<Letter>> {
        let mut letters = Vec::new();
        for (of, record) in self.names()? {
            if sink.is_none_or(|sink| sink == of) {
                letters.push(letter(&of, &self.read_header(&of, record)?.0)?);
            }
        }
        Ok(letters)
    }

    /// Record numbers of a sink's letters, ascending.
    pub fn records(&self, sink: &str) -> io::Result<Vec<u64>> {
        Ok(self
            .names()?
            .into_iter()
            .filter(|(of, _)| of == sink)
            .map(|(_, record)| record)
            .collect())
    }

    /// Writes the line of a letter to `out`, as it was spooled, without a line feed.
    pub fn show(&self, sink: &str, record: u64, out: &mut dyn Write) -> io::Result<()> {
        let (_, body) = self.read_header(sink, record)?;
        let mut index = 0;
        while let Some(part) = body.piece(index)? {
            out.write_all(&part)?;
            index += 1;
        }
        Ok(())
    }

    /// The record of a letter, to be sent again. Bodies larger than 1 MiB are read in pieces.
    pub fn load(&self, sink: &str, record: u64) -> io::Result<Record> {
        let (header, body) = self.read_header(sink, record)?;
        let head = RecordHead::decode(&unhex(&header.head)?).map_err(invalid)?;
        let body = match body.piece(0)? {
            None => Body::Whole(Bytes::new()),
            Some(all) if all.len() as u64 == body.len => Body::Whole(all),
            Some(_) if head.kind == crate::event::LineKind::Oversize => {
                Body::Pieces(Arc::new(body))
            }
            // Within `line_max`, so it was held whole when it was first sent.
            Some(_) => Body::Whole(body.whole()?),
        };
        Ok(Record {
            number: header.record,
            origin: Arc::new(Origin {
                cluster: header.cluster,
                node: header.node,
                source: header.source,
            }),
            generation: generation(&header.generation)?,
            head,
            appended: Micros(header.appended_us),
            body,
        })
    }

    /// Removes letters that were stored by a replay or are in a recorded gap; those not there are no error.
    pub fn remove(&self, sink: &str, records: &[u64]) -> io::Result<()> {
        let mut freed = 0;
        for record in records {
            let name = letter_name(sink, *record);
            let len = self.len_of(&name)?;
            match self.fs.remove(&self.dir.join(&name)) {
                Ok(()) => freed += len,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.fs.sync_dir(&self.dir)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used -= freed.min(*used);
        Ok(())
    }

    /// Removes letters whose record is at or behind the durable cursor: they were not counted, their records are
    /// still pending and what becomes of them is decided anew.
    pub fn forget_from(&self, sink: &str, cursor: u64) -> io::Result<()> {
        let uncounted: Vec<u64> = self
            .records(sink)?
            .into_iter()
            .filter(|record| *record >= cursor)
            .collect();
        if uncounted.is_empty() {
            Ok(())
        } else {
            self.remove(sink, &uncounted)
        }
    }

    /// Leaves a request for the agent; `now` makes its name unique.
    pub fn ask(&self, action: Action, sink: &str, records: &[u64], now: Micros) -> io::Result<()> {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        let name = format!("{sink}.{:020}.{}.request", now.0, action.word());
        self.fs.replace(&self.dir.join(name), lines.as_bytes())
    }

    /// Requests for a sink, those begun first, then in the order they were left.
    pub fn requests(&self, sink: &str) -> io::Result<Vec<Request>> {
        let mut requests = Vec::new();
        for Listed { name, .. } in self.fs.list(&self.dir)? {
            let parts: Vec<&str> = name.split('.').collect();
            let [of, _, word, state] = parts[..] else {
                continue;
            };
            let Some(action) = [Action::Replay, Action::Remove]
                .into_iter()
                .find(|action| action.word() == word)
            else {
                continue;
            };
            if of == sink && matches!(state, "request" | "taken") {
                let begun = state == "taken";
                let records = self.read_numbers(&name)?;
                requests.push(Request {
                    name,
                    action,
                    records,
                    begun,
                });
            }
        }
        requests.sort_by(|a, b| b.begun.cmp(&a.begun).then_with(|| a.name.cmp(&b.name)));
        Ok(requests)
    }

    /// Marks a request as begun, durably.
    pub fn take(&self, request: &mut Request) -> io::Result<()> {
        if let Some(base) = request.name.strip_suffix(".request") {
            let taken = format!("{base}.taken");
            self.fs
                .rename(&self.dir.join(&request.name), &self.dir.join(&taken))?;
            request.name = taken;
        }
        Ok(())
    }

    /// A request is done.
    pub fn done(&self, request: &Request) -> io::Result<()> {
        self.fs.remove(&self.dir.join(&request.name))?;
        self.fs.sync_dir(&self.dir)
    }

    fn write(&self, name: &str, head: &[u8], body: &Body) -> io::Result<()> {
        let temp = self.dir.join(format!("{name}.new"));
        match self.fs.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.fs.create(&temp)?;
        let mut start = Vec::with_capacity(head.len() + 16);
        start.extend_from_slice(MAGIC);
        start.extend_from_slice(&u32::try_from(head.len()).map_err(invalid)?.to_le_bytes());
        start.extend_from_slice(&crc32c::crc32c(head).to_le_bytes());
        start.extend_from_slice(head);
        file.write_at(0, &start)?;
        let mut at = start.len() as u64;
        match body {
            Body::Whole(bytes) => file.write_at(at, bytes)?,
            Body::Pieces(pieces) => {
                let mut index = 0;
                while let Some(piece) = pieces.piece(index)? {
                    file.write_at(at, &piece)?;
                    at += piece.len() as u64;
                    index += 1;
                }
            }
        }
        file.sync()?;
        self.fs.rename(&temp, &self.dir.join(name))
    }

    /// Sink and record of every letter.
    fn names(&self) -> io::Result<Vec<(String, u64)>> {
        let listed = match self.fs.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let names = listed.iter().filter_map(|listed| {
            let (sink, record) = listed.name.strip_suffix(".letter")?.split_once('.')?;
            Some((sink.to_owned(), record.parse().ok()?))
        });
        Ok(names.collect())
    }

    fn len_of(&self, name: &str) -> io::Result<u64> {
        match self.fs.open_read(&self.dir.join(name)) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn read_numbers(&self, name: &str) -> io::Result<Vec<u64>> {
        let file = self.fs.open_read(&self.dir.join(name))?;
        let text = String::from_utf8(read_exactly(
            &*file,
            0,
            usize::try_from(file.len()?).map_err(invalid)?,
        )?);
        text.map_err(invalid)?
            .lines()
            .map(|line| line.parse().map_err(invalid))
            .collect()
    }

    fn read_header(&self, sink: &str, record: u64) -> io::Result<(Header, LetterBody)> {
        let name = letter_name(sink, record);
        let read = || {
            let file = self.fs.open_read(&self.dir.join(&name))?;
            let start = read_exactly(&*file, 0, PREFIX as usize)?;
            let number = |at: usize| {
                u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]])
            };
            let (len, crc) = (number(8), number(12));
            if &start[..8] != MAGIC || len > HEADER_MAX {
                return Err(invalid("not a dead letter"));
            }
            let head = read_exactly(&*file, PREFIX, len as usize)?;
            if crc32c::crc32c(&head) != crc {
                return Err(invalid("its header is damaged"));
            }
            let start = PREFIX + u64::from(len);
            let len = file.len()?.saturating_sub(start);
            Ok((
                serde_json::from_slice(&head).map_err(invalid)?,
                LetterBody { file, start, len },
            ))
        };
        read().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("read dead letter {name}: {error}"))
        })
    }
}

/// The line of a letter.
struct LetterBody {
    file: Box<dyn DurableFile>,
    start: u64,
    len: u64,
}

impl LetterBody {
    fn whole(&self) -> io::Result<Bytes> {
        let len = usize::try_from(self.len).map_err(invalid)?;
        Ok(read_exactly(&*self.file, self.start, len)?.into())
    }
}

impl Pieces for LetterBody {
    fn piece(&self, index: usize) -> io::Result<Option<Bytes>> {
        let at = (index * PART) as u64;
        if at >= self.len {
            return Ok(None);
        }
        let len = usize::try_from(self.len - at).map_err(invalid)?.min(PART);
        Ok(Some(
            read_exactly(&*self.file, self.start + at, len)?.into(),
        ))
    }
}

fn header(record: &Record, rejection: &Rejection, now: Micros) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    record.head.encode(&mut head);
    let header = Header {
        record: record.number,
        cluster: record.origin.cluster.clone(),
        node: record.origin.node.clone(),
        source: record.origin.source.clone(),
        generation: hex(&record.generation.0),
        head: hex(&head),
        appended_us: record.appended.0,
        refused_us: now.0,
        class: rejection.class.clone(),
        reason: rejection.reason.clone(),
    };
    serde_json::to_vec(&header).map_err(invalid)
}

fn letter(sink: &str, header: &Header) -> io::Result<Letter> {
    let head = RecordHead::decode(&unhex(&header.head)?).map_err(invalid)?;
    Ok(Letter {
        sink: sink.to_owned(),
        record: header.record,
        id: head.id.to_hex(),
        origin: format!("{}/{}/{}", header.cluster, header.node, header.source),
        generation: generation(&header.generation)?.short(),
        offset: head.offset,
        bytes: head.length,
        class: header.class.clone(),
        reason: header.reason.clone(),
        at: Micros(header.refused_us).rfc3339(),
    })
}

fn letter_name(sink: &str, record: u64) -> String {
    format!("{sink}.{record:020}.letter")
}

fn generation(digits: &str) -> io::Result<Generation> {
    let bytes = unhex(digits)?;
    Ok(Generation(
        <[u8; 32]>::try_from(bytes.as_slice()).map_err(invalid)?,
    ))
}

fn unhex(digits: &str) -> io::Result<Vec<u8>> {
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    };
    digits
        .as_bytes()
        .chunks(2)
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| invalid("not hexadecimal"))
}

fn read_exactly(file: &dyn DurableFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(offset + filled as u64, &mut bytes[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => filled += more,
        }
    }
    Ok(bytes)
}

fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
