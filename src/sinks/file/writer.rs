//! The blocking half of the file sink: one file at a time, written at the marked length, so that whatever an unclean
//! stop left behind it is overwritten by the same records sent again.
//!
//! Invariants (design rule R8):
//! - Nothing is written to a file before a mark that names it, with its present length, is durable.
//! - Nothing before the marked length is ever cut; what lies behind it holds no confirmed record.
//! - A rotation is pledged in a mark before the rename, so that a crash on either side of it is recognised.
//! - Everything written is synced before another file is begun and before delivery stores a cursor ([`Writer::settle`]).
//! - A descriptor whose sync failed is not synced again: the bytes are read back, compared and written anew.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mark::Mark;
use crate::clock::{Clock, Micros};
use crate::durable_fs::{DurableFile, DurableFs};
use crate::event::template::Template;
use crate::sinks::envelope::LineFormat;
use crate::sinks::{Alarm, Batch, Opened, Outcome, Record, Rejection, RejectionKind};

/// How lines are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// One gzip member for each batch.
    Gzip,
    /// One zstd frame for each batch.
    Zstd,
}

/// What the configuration says.
#[derive(Debug)]
pub(super) struct Options {
    /// Where to write.
    pub(super) path: Template,
    /// A file that has reached this many bytes is rotated before the next batch.
    pub(super) rotate_bytes: Option<u64>,
    /// A file begun this long ago is rotated before the next batch.
    pub(super) rotate_every: Option<Duration>,
    /// How lines are packed.
    pub(super) compression: Compression,
    /// What a line is.
    pub(super) format: LineFormat,
}

/// One file sink's files.
pub(super) struct Writer {
    options: Options,
    fs: Arc<dyn DurableFs>,
    clock: Arc<dyn Clock>,
    /// Where the next batch goes; `None` before the first one.
    place: Option<Place>,
    /// Written, not yet synced.
    unsettled: Option<Unsettled>,
    /// To be told with the next outcome that can carry them.
    alarms: Vec<Alarm>,
}

struct Place {
    mark: Mark,
    /// Whether delivery was asked to store `mark`. It sends again only once that is durable.
    pledged: bool,
    /// The file was not ended by us: its last line may want a line feed.
    foreign_end: bool,
    /// Whether the file's name was made durable since the place was found: a process killed right after it created or
    /// renamed a file leaves a name that the next power cut takes away.
    named: bool,
    /// Whether the file durably ends where the mark says. A process that was killed between a cut and its sync has
    /// left the cut in the page cache alone, and no later start would look at a file that was rotated in the meantime.
    cut: bool,
}

/// Bytes `from..to` of `path`, written through `file` since the last sync.
struct Unsettled {
    file: Box<dyn DurableFile>,
    path: PathBuf,
    from: u64,
    to: u64,
    crc: u32,
    /// `file` could not be synced and must not be again.
    failed: bool,
}

impl Writer {
    pub(super) fn new(options: Options, fs: Arc<dyn DurableFs>, clock: Arc<dyn Clock>) -> Self {
        Writer {
            options,
            fs,
            clock,
            place: None,
            unsettled: None,
            alarms: Vec::new(),
        }
    }

    /// Finds the place of the mark again.
    pub(super) fn open(&mut self, mark: Option<&[u8]>) -> Result<Opened, Outcome> {
        self.heal()?;
        self.place = None;
        if let Some(bytes) = mark {
            let mark = Mark::decode(bytes)
                .map_err(|error| stop(format!("the stored mark of this file sink {error}")))?;
            self.place = Some(self.find(mark)?);
        }
        Ok(Opened {
            alarms: std::mem::take(&mut self.alarms),
            ..Opened::default()
        })
    }

    /// One attempt at one batch.
    pub(super) fn send(&mut self, batch: &Batch) -> Outcome {
        match self.attempt(batch) {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    /// Makes durable what was reported as delivered.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.sync().map_err(|failure| failure.message())
    }

    fn attempt(&mut self, batch: &Batch) -> Result<Outcome, Outcome> {
        self.heal()?;
        let Some(first) = batch.records.first() else {
            return Ok(Outcome::Delivered {
                mark: None,
                except: Vec::new(),
                alarms: std::mem::take(&mut self.alarms),
            });
        };
        let path = path_of(&self.options.path, first);
        let varies = self.options.path.uses_time() || self.options.path.uses_origin();
        let elsewhere = |record| path_of(&self.options.path, record) != path;
        if varies && batch.records.iter().any(elsewhere) {
            return Ok(several_files());
        }
        if self
            .place
            .as_ref()
            .is_none_or(|place| place.mark.path != path)
        {
            self.begin(path)?;
        }
        if let Some(mark) = self.unpledged()? {
            return Ok(mark);
        }
        if self
            .place
            .as_ref()
            .is_some_and(|place| place.mark.rotated_to.is_some())
        {
            self.rotate()?;
        }
        if !self.check_present()? {
            self.plan_rotation()?;
        }
        if let Some(mark) = self.unpledged()? {
            return Ok(mark);
        }
        self.write(batch)
    }

    /// Asks delivery to store the place where it has not been asked yet.
    fn unpledged(&mut self) -> Result<Option<Outcome>, Outcome> {
        match &mut self.place {
            Some(place) if !place.pledged => {
                place.pledged = true;
                let mark = encode(&place.mark)?;
                Ok(Some(Outcome::MarkFirst { mark }))
            }
            _ => Ok(None),
        }
    }

    /// Turns to another file, at its present end.
    fn begin(&mut self, path: PathBuf) -> Result<(), Outcome> {
        self.sync().map_err(Failure::outcome)?;
        let length = self
            .present_length(&path)
            .map_err(|error| refused("open", &path, &error))?;
        let mark = Mark {
            path,
            length: length.unwrap_or(0),
            started: self.clock.now(),
            rotated_to: None,
        };
        self.place = Some(Place {
            mark,
            pledged: false,
            foreign_end: true,
            named: false,
            cut: true,
        });
        Ok(())
    }

    /// What became of the marked file since the mark was stored.
    fn find(&mut self, mut mark: Mark) -> Result<Place, Outcome> {
        let failed = |error: io::Error| refused("open", &mark.path, &error);
        if let Some(rotated) = mark.rotated_to.clone()
            && let Some(found) = self.present_length(&rotated).map_err(failed)?
        {
            if found < mark.length {
                self.alarm_short(&rotated, found, mark.length);
            }
            mark = Mark {
                length: 0,
                started: self.clock.now(),
                rotated_to: None,
                ..mark
            };
        }
        let mut place = Place {
            mark,
            pledged: true,
            foreign_end: false,
            named: false,
            cut: false,
        };
        self.compare(&mut place)?;
        Ok(place)
    }

    /// Before a batch: whether somebody else cut, removed or extended the file. True where a mark must come first.
    fn check_present(&mut self) -> Result<bool, Outcome> {
        let Some(mut place) = self.place.take() else {
            return Ok(false);
        };
        let compared = self.compare(&mut place);
        let moved = !place.pledged;
        self.place = Some(place);
        compared.map(|()| moved)
    }

    /// Longer than marked: cut to it. Shorter or missing: an alarm, and the place moves to what is there.
    fn compare(&mut self, place: &mut Place) -> Result<(), Outcome> {
        let path = place.mark.path.clone();
        let failed = |error: io::Error| refused("open", &path, &error);
        let present = self.present_length(&path).map_err(failed)?;
        match present {
            Some(present)
                if present > place.mark.length || (present == place.mark.length && !place.cut) =>
            {
                place.cut = false;
                let file = self.fs.open(&path).map_err(failed)?;
                file.set_len(place.mark.length)
                    .map_err(|error| refused("cut", &path, &error))?;
                if let Err(error) = file.sync() {
                    // It would have covered what is not settled yet, so that is in doubt too.
                    self.unsettled
                        .iter_mut()
                        .for_each(|unsettled| unsettled.failed = true);
                    return Err(refused("sync", &path, &error));
                }
                place.cut = true;
                return Ok(());
            }
            Some(present) if present == place.mark.length => return Ok(()),
            None if place.mark.length == 0 => return Ok(()),
            Some(_) | None => {}
        }
        // What was written through the old descriptor may live on under another name: it must be durable all the same.
        self.sync().map_err(Failure::outcome)?;
        match present {
            Some(present) if self.options.compression == Compression::None => {
                self.alarm_short(&path, present, place.mark.length);
                place.mark.length = present;
            }
            Some(present) => {
                // A frame behind a torn one could not be read by any tool.
                let aside = self.free_name(&path).map_err(failed)?;
                self.fs
                    .rename(&path, &aside)
                    .map_err(|error| refused("rename", &path, &error))?;
                self.alarm_short(&aside, present, place.mark.length);
                place.mark.length = 0;
            }
            None => {
                self.alarms.push(Alarm {
                    reason: "missing_file",
                    message: format!(
                        "{} is missing: {} bytes of confirmed events are gone with it; a new file is begun",
                        path.display(),
                        place.mark.length
                    ),
                });
                place.mark.length = 0;
            }
        }
        place.mark.rotated_to = None;
        place.pledged = false;
        place.foreign_end = true;
        place.named = false;
        Ok(())
    }

    fn alarm_short(&mut self, path: &Path, found: u64, marked: u64) {
        self.alarms.push(Alarm {
            reason: "short_file",
            message: format!(
                "{} has {found} bytes, {marked} were confirmed: something else has cut it; it is kept as it is",
                path.display()
            ),
        });
    }

    /// Decides whether the file is full or old enough, and pledges the rename.
    fn plan_rotation(&mut self) -> Result<(), Outcome> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let age =
            u64::try_from(self.clock.now().0.saturating_sub(place.mark.started.0)).unwrap_or(0);
        let full = self
            .options
            .rotate_bytes
            .is_some_and(|bytes| place.mark.length >= bytes);
        let old = self
            .options
            .rotate_every
            .is_some_and(|every| Duration::from_micros(age) >= every);
        if place.mark.length == 0 || !(full || old) {
            return Ok(());
        }
        let path = place.mark.path.clone();
        self.sync().map_err(Failure::outcome)?;
        let rotated = self
            .free_name(&path)
            .map_err(|error| refused("open", &path, &error))?;
        if let Some(place) = &mut self.place {
            place.mark.rotated_to = Some(rotated);
            place.pledged = false;
        }
        Ok(())
    }

    /// Does the rename that the stored mark pledges; may be called again after it failed half-way.
    fn rotate(&mut self) -> Result<(), Outcome> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let (path, Some(rotated)) = (place.mark.path.clone(), place.mark.rotated_to.clone()) else {
            return Ok(());
        };
        if self
            .present_length(&rotated)
            .map_err(|error| refused("open", &rotated, &error))?
            .is_none()
        {
            self.check_present()?;
            if self.place.as_ref().is_some_and(|place| !place.pledged) {
                return Ok(());
            }
            self.fs
                .rename(&path, &rotated)
                .map_err(|error| refused("rename", &path, &error))?;
        }
        let mark = Mark {
            path,
            length: 0,
            started: self.clock.now(),
            rotated_to: None,
        };
        self.place = Some(Place {
            mark,
            pledged: true,
            foreign_end: false,
            named: false,
            cut: true,
        });
        Ok(())
    }

    /// A name for the rotated file that nothing has yet.
    fn free_name(&self, path: &Path) -> io::Result<PathBuf> {
        let mut moment = self.clock.now();
        loop {
            let name = Mark::rotated_name(path, moment);
            if self.present_length(&name)?.is_none() {
                return Ok(name);
            }
            moment = Micros(moment.0 + 1000);
        }
    }

    fn present_length(&self, path: &Path) -> io::Result<Option<u64>> {
        match self.fs.open_read(path) {
            Ok(file) => file.len().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<Outcome, Outcome> {
        let Some(place) = &mut self.place else {
            return Ok(several_files());
        };
        let path = place.mark.path.clone();
        let failed = |error: io::Error| refused("open", &path, &error);
        if self.unsettled.is_none() {
            let file = open_or_create(&*self.fs, &path).map_err(failed)?;
            let at = place.mark.length;
            self.unsettled = Some(Unsettled {
                file,
                path: path.clone(),
                from: at,
                to: at,
                crc: 0,
                failed: false,
            });
        }
        if !place.named {
            self.fs.sync_dir(dir_of(&path)).map_err(failed)?;
            place.named = true;
        }
        let Some(unsettled) = &mut self.unsettled else {
            return Ok(several_files());
        };
        let mut out = Out::new(&*unsettled.file, place.mark.length, unsettled.crc);
        let written = ended_by_line_feed(place, &self.options, &*unsettled.file)
            .and_then(|ended| if ended { Ok(()) } else { out.write_all(b"\n") })
            .and_then(|()| encode_batch(batch, &self.options, &mut out))
            .and_then(|()| out.flush());
        let (offset, crc, write_failed) = (out.offset, out.crc, out.failed);
        if written.is_ok() {
            (unsettled.to, unsettled.crc) = (offset, crc);
            place.mark.length = offset;
            place.foreign_end = false;
        }
        let mark = encode(&place.mark);
        match written {
            Ok(()) => Ok(Outcome::Delivered {
                mark: Some(mark?),
                except: Vec::new(),
                alarms: std::mem::take(&mut self.alarms),
            }),
            Err(error) if write_failed => Err(refused("write", &path, &error)),
            Err(error) => Err(retry(format!(
                "read a batch for {} from the spool: {error}",
                path.display()
            ))),
        }
    }

    /// Before anything else: what a failed sync left in doubt is made good, or nothing goes on.
    fn heal(&mut self) -> Result<(), Outcome> {
        match &self.unsettled {
            Some(unsettled) if unsettled.failed => self.sync().map_err(Failure::outcome),
            _ => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), Failure> {
        let Some(mut unsettled) = self.unsettled.take() else {
            return Ok(());
        };
        let synced = if unsettled.failed {
            rewrite(&*self.fs, &mut unsettled)
        } else {
            Ok(())
        }
        .and_then(|()| {
            unsettled
                .file
                .sync()
                .map_err(|error| Failure::Io("sync", unsettled.path.clone(), error))
        });
        match synced {
            Ok(()) => unsettled
                .file
                .forget_cached(unsettled.from, unsettled.to - unsettled.from),
            Err(_) => {
                unsettled.failed = true;
                self.unsettled = Some(unsettled);
            }
        }
        synced
    }
}

/// After a failed sync the kernel may call pages clean that never reached the disk. Reads the range through a new
/// descriptor and writes it again, so that the next sync covers it.
fn rewrite(fs: &dyn DurableFs, unsettled: &mut Unsettled) -> Result<(), Failure> {
    let failed = |verb: &'static str| {
        let path = unsettled.path.clone();
        move |error| Failure::Io(verb, path, error)
    };
    let file = fs.open(&unsettled.path).map_err(failed("open"))?;
    let mut buffer = vec![0; BUFFER];
    for pass in [Pass::Compare, Pass::Write] {
        let (mut at, mut crc) = (unsettled.from, 0);
        while at < unsettled.to {
            let want = usize::try_from(unsettled.to - at)
                .unwrap_or(BUFFER)
                .min(BUFFER);
            let got = file
                .read_at(at, &mut buffer[..want])
                .map_err(failed("read"))?;
            if got == 0 {
                break;
            }
            crc = crc32c::crc32c_append(crc, &buffer[..got]);
            if pass == Pass::Write {
                file.write_at(at, &buffer[..got]).map_err(failed("write"))?;
            }
            at += got as u64;
        }
        if at != unsettled.to || crc != unsettled.crc {
            return Err(Failure::Lost(unsettled.path.clone()));
        }
    }
    unsettled.file = file;
    unsettled.failed = false;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Compare,
    Write,
}

/// Why what was written is not durable.
enum Failure {
    Io(&'static str, PathBuf, io::Error),
    /// Bytes written since the last sync are not to be had any more.
    Lost(PathBuf),
}

impl Failure {
    fn message(&self) -> String {
        match self {
            Failure::Io(verb, path, error) => format!("{verb} {}: {error}", path.display()),
            Failure::Lost(path) => format!(
                "{}: the disk lost bytes that were written but not yet confirmed: restart auditship, it goes on from \
                 its durable cursor",
                path.display()
            ),
        }
    }

    fn outcome(self) -> Outcome {
        match &self {
            Failure::Io(verb, path, error) => refused(verb, path, error),
            Failure::Lost(_) => stop(self.message()),
        }
    }
}

fn open_or_create(fs: &dyn DurableFs, path: &Path) -> io::Result<Box<dyn DurableFile>> {
    match fs.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match fs.create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs.create_dir(dir_of(path))?;
            fs.create(path)
        }
        created => created,
    }
}

fn path_of(template: &Template, record: &Record) -> PathBuf {
    template
        .render(&record.origin, record.time_us(), &[])
        .name
        .into()
}

fn dir_of(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn ended_by_line_feed(
    place: &Place,
    options: &Options,
    file: &dyn DurableFile,
) -> io::Result<bool> {
    if !place.foreign_end || place.mark.length == 0 || options.compression != Compression::None {
        return Ok(true);
    }
    let mut last = [0];
    file.read_at(place.mark.length - 1, &mut last)?;
    Ok(last == *b"\n")
}

fn encode_batch(batch: &Batch, options: &Options, out: &mut Out<'_>) -> io::Result<()> {
    match options.compression {
        Compression::None => encode_records(batch, &options.format, out),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encode_records(batch, &options.format, &mut encoder)?;
            encoder.finish()?;
            Ok(())
        }
        Compression::Zstd => {
            let mut encoder =
                zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.include_checksum(true)?;
            encode_records(batch, &options.format, &mut encoder)?;
            encoder.finish()?;
            Ok(())
        }
    }
}

fn encode_records(batch: &Batch, format: &LineFormat, out: &mut dyn Write) -> io::Result<()> {
    batch
        .records
        .iter()
        .try_for_each(|record| format.write(record, out))
}

/// Bytes held before a write.
const BUFFER: usize = 256 << 10;

/// Writes in order behind `offset`, through one buffer of [`BUFFER`] bytes.
struct Out<'a> {
    file: &'a dyn DurableFile,
    /// Where `buffer` goes.
    offset: u64,
    /// CRC32C of everything written since the last sync.
    crc: u32,
    buffer: Vec<u8>,
    /// Whether an error came from the file, not from what is being written.
    failed: bool,
}

impl<'a> Out<'a> {
    fn new(file: &'a dyn DurableFile, offset: u64, crc: u32) -> Self {
        Out {
            file,
            offset,
            crc,
            buffer: Vec::with_capacity(BUFFER),
            failed: false,
        }
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        let taken = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_at(self.offset, &self.buffer) {
            self.failed = true;
            return Err(error);
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn encode(mark: &Mark) -> Result<Vec<u8>, Outcome> {
    mark.encode().map_err(|error| {
        stop(format!(
            "{} cannot be remembered: its {error}",
            mark.path.display()
        ))
    })
}

/// The records of a batch belong to several files: halves of it will not.
fn several_files() -> Outcome {
    Outcome::Split {
        verdict: Rejection {
            kind: RejectionKind::Refused,
            class: "several_files".to_owned(),
            reason: "its batch holds records of several files".to_owned(),
        },
    }
}

/// What a failed call means: a full or failing disk heals by itself or by making room, rights and paths do not.
fn refused(verb: &str, path: &Path, error: &io::Error) -> Outcome {
    let path = path.display();
    let what = format!("{verb} {path}: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => retry(format!(
            "{what}: make room there; delivery goes on by itself"
        )),
        io::ErrorKind::PermissionDenied => stop(format!(
            "{what}: give the agent's user the right to write there"
        )),
        io::ErrorKind::ReadOnlyFilesystem => {
            stop(format!("{what}: mount it writable or change `path`"))
        }
        io::ErrorKind::FileTooLarge => stop(format!(
            "{what}: raise the file size limit or set `rotate.bytes`"
        )),
        io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => stop(format!("{what}: change `path`")),
        _ => retry(what),
    }
}

fn stop(reason: impl Display) -> Outcome {
    Outcome::Stop {
        reason: reason.to_string(),
    }
}

fn retry(reason: impl Display) -> Outcome {
    Outcome::Retry {
        after: None,
        reason: reason.to_string(),
        in_doubt: false,
    }
}
