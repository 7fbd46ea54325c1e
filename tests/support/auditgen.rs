//! The writer of the API server, lumberjack v2.2.1, step for step: one write(2) per event with its line feed; a file that
//! would grow beyond its size is closed, renamed to `<stem>-<UTC ms><ext>`, made anew (the "chown touch", O_TRUNC) and
//! opened; then the mill deletes backups beyond their number, by the time in their names, and compresses the rest straight
//! to the final name before it removes the plain file. Nothing is ever synced.
//!
//! Faults beside it: kill (also inside a write: a torn line) and restart, which appends to what is there; copytruncate.
//!
//! Everything written is kept in a journal of generations, which is what the oracle believes: it knows also what the mill
//! deleted. A generation's bytes are kept too where asked for.

#![expect(
    clippy::disallowed_methods,
    reason = "lumberjack renames without syncing; that is the point"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::event::Events;
use super::wait::{Stopwatch, pause, unix_ms};

/// The knobs that the API server has as flags, and how the writer is to behave.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    /// Bytes after which a file is rotated.
    pub(crate) max_bytes: u64,
    /// Backups kept; 0 keeps all.
    pub(crate) max_backups: usize,
    /// Whether backups are compressed.
    pub(crate) compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation {
            max_bytes: 1 << 20,
            max_backups: 0,
            compress: true,
        }
    }
}

/// What is known of one written line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineFact {
    /// Its serial number; `None` for what is not an event of ours.
    pub(crate) serial: Option<u64>,
    /// Offset of its first byte in the generation.
    pub(crate) offset: u64,
    /// Length without the line feed.
    pub(crate) length: u64,
    /// SHA-256 without the line feed.
    pub(crate) sha256: [u8; 32],
}

/// What is known of one generation, in the order of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct GenerationFact {
    /// Its lines, only those with a line feed.
    pub(crate) lines: Vec<LineFact>,
    /// All of its bytes, also those behind the last line feed; empty unless kept.
    pub(crate) bytes: Vec<u8>,
    /// The name of its backup, once rotated.
    pub(crate) backup: Option<String>,
    /// Whether the mill deleted it.
    pub(crate) deleted: bool,
    /// Bytes behind the last line feed (a torn line).
    unfinished: Vec<u8>,
    size: u64,
}

impl GenerationFact {
    /// SHA-256 of the first line (its first 1 MiB at most), as the event id takes it.
    pub(crate) fn first_line(&self) -> Option<[u8; 32]> {
        self.lines.first().map(|line| line.sha256)
    }

    fn append(&mut self, bytes: &[u8], serial: Option<u64>, keep: bool) {
        if keep {
            self.bytes.extend_from_slice(bytes);
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            self.size += piece.len() as u64;
            if piece.ends_with(b"\n") {
                let line = &self.unfinished[..self.unfinished.len() - 1];
                self.lines.push(LineFact {
                    serial,
                    offset: self.size - self.unfinished.len() as u64,
                    length: line.len() as u64,
                    sha256: Sha256::digest(line).into(),
                });
                self.unfinished.clear();
            }
        }
    }
}

/// Everything written so far, oldest generation first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// The last one is the live file.
    pub(crate) generations: Vec<GenerationFact>,
}

impl Journal {
    /// Every line in the order of the log.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &LineFact> {
        self.generations
            .iter()
            .flat_map(|generation| &generation.lines)
    }

    /// The generations' bytes in a row; they must have been kept.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.generations
            .iter()
            .flat_map(|generation| &generation.bytes)
            .copied()
            .collect()
    }
}

/// The writer. Dropping it without [`Lumberjack::finish`] is a kill: the mill may be left in the middle.
pub(crate) struct Lumberjack {
    path: PathBuf,
    rotation: Rotation,
    file: Option<File>,
    size: u64,
    journal: Arc<Mutex<Journal>>,
    keep_bytes: bool,
    mill: Mill,
}

impl Lumberjack {
    /// A writer of `path`, which need not exist; nothing is touched before the first write.
    pub(crate) fn new(path: &Path, rotation: Rotation) -> Self {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let mill = Mill::start(path, rotation.clone(), Arc::clone(&journal));
        Lumberjack {
            path: path.to_owned(),
            rotation,
            file: None,
            size: 0,
            journal,
            keep_bytes: false,
            mill,
        }
    }

    /// Keeps every byte written, for tests that compare bytes.
    pub(crate) fn keep_bytes(mut self) -> Self {
        self.keep_bytes = true;
        self
    }

    /// A copy of the journal.
    pub(crate) fn journal(&self) -> Journal {
        self.journal.lock().expect("no holder panics").clone()
    }

    /// Writes one line and its line feed in one write(2), rotating first where it would not fit.
    pub(crate) fn write_line(&mut self, serial: Option<u64>, line: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        self.write(serial, &bytes)
    }

    /// Writes these bytes as one write(2), whatever they are.
    pub(crate) fn write(&mut self, serial: Option<u64>, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        assert!(
            length <= self.rotation.max_bytes,
            "lumberjack refuses a write of {length} bytes"
        );
        match &self.file {
            None => self.open_existing_or_new(length)?,
            Some(_) if self.size + length > self.rotation.max_bytes => self.rotate()?,
            Some(_) => {}
        }
        // The journal first: what may be in the file is known before it can be read there.
        self.with_live(|live, keep| live.append(bytes, serial, keep));
        self.file.as_mut().expect("opened above").write_all(bytes)?;
        self.size += length;
        Ok(())
    }

    /// Close, rename, touch, open, wake the mill.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        if self.path.exists() {
            let backup = self.backup_name();
            fs::rename(&self.path, self.path.with_file_name(&backup))?;
            self.with_live(|live, _| live.backup = Some(backup));
        }
        // `chown` creates it, then `openNew` opens it: there is a moment with no file, then one with an empty one.
        drop(File::create(&self.path)?);
        self.file = Some(File::create(&self.path)?);
        self.size = 0;
        self.journal
            .lock()
            .expect("no holder panics")
            .generations
            .push(GenerationFact::default());
        self.mill.wake();
        Ok(())
    }

    /// The process dies inside a write: `torn` bytes reach the file, then nothing. The next write is that of a new
    /// process, which appends right behind them.
    pub(crate) fn kill_tearing(&mut self, torn: &[u8]) -> io::Result<()> {
        if !torn.is_empty() {
            self.write(None, torn)?;
        }
        self.file = None;
        Ok(())
    }

    /// An outside logrotate copies the live file away and truncates it. What was not read by then is gone.
    pub(crate) fn copytruncate(&mut self) -> io::Result<()> {
        let backup = self.backup_name();
        fs::copy(&self.path, self.path.with_file_name(&backup))?;
        OpenOptions::new()
            .write(true)
            .open(&self.path)?
            .set_len(0)?;
        // Opened anew with O_APPEND, as after a restart; without it the next write would leave a hole.
        self.file = None;
        self.size = 0;
        let mut journal = self.journal.lock().expect("no holder panics");
        journal
            .generations
            .last_mut()
            .expect("there is a live file")
            .backup = Some(backup);
        journal.generations.push(GenerationFact::default());
        Ok(())
    }

    /// Lets the mill end its work, and gives the journal.
    pub(crate) fn finish(mut self) -> Journal {
        self.file = None;
        self.mill.finish();
        self.journal()
    }

    fn open_existing_or_new(&mut self, length: u64) -> io::Result<()> {
        self.mill.wake();
        let size = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.file = Some(File::create(&self.path)?);
                self.size = 0;
                let mut journal = self.journal.lock().expect("no holder panics");
                journal.generations.push(GenerationFact::default());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if size + length >= self.rotation.max_bytes {
            return self.rotate();
        }
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.size = size;
        let mut journal = self.journal.lock().expect("no holder panics");
        if journal.generations.is_empty() {
            journal.generations.push(GenerationFact::default());
        }
        Ok(())
    }

    /// A name that no backup has: two rotations in one millisecond would overwrite one another, as upstream's do.
    fn backup_name(&self) -> String {
        loop {
            let name = backup_name(&self.path, unix_ms());
            let plain = self.path.with_file_name(&name);
            let known = self
                .journal
                .lock()
                .expect("no holder panics")
                .generations
                .iter()
                .any(|g| g.backup.as_ref() == Some(&name));
            if !known && !plain.exists() {
                return name;
            }
            pause(Duration::from_millis(1));
        }
    }

    fn with_live(&self, act: impl FnOnce(&mut GenerationFact, bool)) {
        let mut journal = self.journal.lock().expect("no holder panics");
        act(
            journal.generations.last_mut().expect("a write opened it"),
            self.keep_bytes,
        );
    }
}

/// `audit.log` at this time is `audit-2006-01-02T15-04-05.000.log`.
pub(crate) fn backup_name(live: &Path, ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).expect("a time of our own");
    let stamp = format!("{time:.3}").replace(':', "-");
    let stem = live.file_stem().expect("a file name").to_string_lossy();
    let ext = live
        .extension()
        .map(|ext| format!(".{}", ext.to_string_lossy()))
        .unwrap_or_default();
    format!("{stem}-{}{ext}", stamp.trim_end_matches('Z'))
}

/// Compresses `from` to `to` as lumberjack does: straight to the final name, one member.
pub(crate) fn gzip(from: &Path, to: &Path) -> io::Result<()> {
    let mut out = flate2::write::GzEncoder::new(File::create(to)?, flate2::Compression::default());
    io::copy(&mut File::open(from)?, &mut out)?;
    out.finish()?.flush()
}

/// The goroutine that deletes and compresses; signals coalesce in a channel of one.
struct Mill {
    signal: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mill {
    fn start(live: &Path, rotation: Rotation, journal: Arc<Mutex<Journal>>) -> Self {
        let (signal, signals) = sync_channel(1);
        let live = live.to_owned();
        let thread = std::thread::spawn(move || run_mill(&live, &rotation, &journal, &signals));
        Mill {
            signal: Some(signal),
            thread: Some(thread),
        }
    }

    fn wake(&self) {
        // A full channel means that it will run anyway.
        let _ = self.signal.as_ref().expect("until finish").try_send(());
    }

    fn finish(&mut self) {
        self.signal = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the mill does not panic");
        }
    }
}

fn run_mill(live: &Path, rotation: &Rotation, journal: &Mutex<Journal>, signals: &Receiver<()>) {
    while signals.recv().is_ok() {
        // Upstream swallows every error of the mill, and so must its likeness: the directory may be gone already.
        let _ = mill_once(live, rotation, journal);
    }
}

fn mill_once(live: &Path, rotation: &Rotation, journal: &Mutex<Journal>) -> io::Result<()> {
    let mut names: Vec<String> = backups(live)?;
    names.sort_by(|a, b| b.cmp(a));
    let mut kept: Vec<&str> = Vec::new();
    let mut rest = Vec::new();
    for name in &names {
        let plain = name.trim_end_matches(".gz");
        if !kept.contains(&plain) {
            kept.push(plain);
        }
        if rotation.max_backups > 0 && kept.len() > rotation.max_backups {
            fs::remove_file(live.with_file_name(name))?;
            let mut journal = journal.lock().expect("no holder panics");
            for generation in journal
                .generations
                .iter_mut()
                .filter(|g| g.backup.as_deref() == Some(plain))
            {
                generation.deleted = true;
            }
        } else if !name.ends_with(".gz") {
            rest.push(name);
        }
    }
    for name in rest.iter().filter(|_| rotation.compress) {
        let plain = live.with_file_name(name);
        gzip(&plain, &live.with_file_name(format!("{name}.gz")))?;
        fs::remove_file(&plain)?;
    }
    Ok(())
}

/// Names of the backups beside a live file, plain and compressed.
pub(crate) fn backups(live: &Path) -> io::Result<Vec<String>> {
    let prefix = format!(
        "{}-",
        live.file_stem().expect("a file name").to_string_lossy()
    );
    let mut names = Vec::new();
    for entry in fs::read_dir(live.parent().expect("a directory"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A writer on its own thread, at a rate, until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<Journal>>,
}

impl Load {
    /// Starts writing `events` at `per_second`.
    pub(crate) fn start(mut writer: Lumberjack, mut events: Events, per_second: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let watch = Stopwatch::start();
            let mut done = 0;
            while !stopped.load(Ordering::Relaxed) {
                let due = (watch.elapsed().as_secs_f64() * per_second as f64) as u64;
                if done >= due {
                    pause(Duration::from_millis(2));
                    continue;
                }
                let (serial, line) = events.make();
                writer
                    .write_line(Some(serial), &line)
                    .expect("the log can be written");
                done += 1;
                counter.store(done, Ordering::Relaxed);
            }
            writer.finish()
        });
        Load {
            stop,
            written,
            thread: Some(thread),
        }
    }

    /// Events written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops, lets the mill end, gives the journal.
    pub(crate) fn stop(mut self) -> Journal {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .expect("taken only here")
            .join()
            .expect("the writer does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn read_all(dir: &Path) -> Vec<u8> {
        let live = dir.join("audit.log");
        let mut names = backups(&live).expect("list");
        names.sort();
        let mut bytes = Vec::new();
        for name in names {
            let file = File::open(dir.join(&name)).expect("open");
            match name.ends_with(".gz") {
                true => flate2::read::GzDecoder::new(file)
                    .read_to_end(&mut bytes)
                    .expect("gunzip"),
                false => io::copy(&mut &file, &mut bytes)
                    .map(|n| n as usize)
                    .expect("read"),
            };
        }
        bytes.extend(fs::read(&live).expect("live"));
        bytes
    }

    #[test]
    fn the_files_left_are_the_journal_and_every_line_is_where_it_says() {
        let dir = tempfile::tempdir().expect("tempdir");
        let rotation = Rotation {
            max_bytes: 256 << 10,
            ..Rotation::default()
        };
        let mut writer = Lumberjack::new(&dir.path().join("audit.log"), rotation).keep_bytes();
        let mut events = Events::new(1);
        for _ in 0..1500 {
            let (serial, line) = events.make();
            writer.write_line(Some(serial), &line).expect("write");
        }
        let journal = writer.finish();
        assert!(
            journal.generations.len() > 3,
            "{}",
            journal.generations.len()
        );
        assert_eq!(journal.lines().count(), 1500);
        assert_eq!(read_all(dir.path()), journal.bytes());
        for generation in &journal.generations {
            for line in &generation.lines {
                let range = line.offset as usize..(line.offset + line.length) as usize;
                assert_eq!(
                    <[u8; 32]>::from(Sha256::digest(&generation.bytes[range])),
                    line.sha256
                );
            }
        }
        let live_only_plain = backups(&dir.path().join("audit.log")).expect("list");
        assert!(
            live_only_plain.iter().all(|name| name.ends_with(".log.gz")),
            "{live_only_plain:?}"
        );
    }

    #[test]
    fn retention_deletes_the_oldest_and_the_journal_knows() {
        let dir = tempfile::tempdir().expect("tempdir");
        let rotation = Rotation {
            max_bytes: 64 << 10,
            max_backups: 2,
            compress: false,
        };
        let mut writer = Lumberjack::new(&dir.path().join("audit.log"), rotation);
        let mut events = Events::new(2);
        events.size_max = 4 << 10;
        for _ in 0..600 {
            let (serial, line) = events.make();
            writer.write_line(Some(serial), &line).expect("write");
        }
        let journal = writer.finish();
        assert_eq!(
            backups(&dir.path().join("audit.log")).expect("list").len(),
            2
        );
        let deleted: Vec<bool> = journal
            .generations
            .iter()
            .map(|generation| generation.deleted)
            .collect();
        let expected: Vec<bool> = (0..deleted.len())
            .map(|index| index + 3 < deleted.len())
            .collect();
        assert_eq!(deleted, expected);
    }

    #[test]
    fn after_a_kill_the_next_event_is_glued_to_the_torn_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let live = dir.path().join("audit.log");
        let mut writer = Lumberjack::new(&live, Rotation::default()).keep_bytes();
        writer.write_line(Some(0), b"{\"a\":1}").expect("write");
        writer.kill_tearing(b"{\"b\":").expect("write");
        writer.write_line(Some(1), b"{\"c\":3}").expect("write");
        let journal = writer.finish();
        assert_eq!(
            fs::read(&live).expect("read"),
            b"{\"a\":1}\n{\"b\":{\"c\":3}\n"
        );
        assert_eq!(journal.bytes(), fs::read(&live).expect("read"));
        assert_eq!(journal.lines().count(), 2, "the glued pair is one line");
    }

    #[test]
    fn backups_are_named_by_utc_milliseconds() {
        assert_eq!(
            backup_name(Path::new("/x/audit.log"), 1_563_505_844_452),
            "audit-2019-07-19T03-10-44.452.log"
        );
    }
}
