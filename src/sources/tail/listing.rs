//! Looks at the directory for [`Tail`]: where to go on after a start, which files are new, which descriptors to take
//! and which to give back. Decides nothing itself: `resume` and `rotation` do.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use crate::event::Generation;
use crate::event::encoding::{GenerationPosition, SourceGap};

use super::Tail;
use super::backlog::{Form, LogNames, Name, contents, gzip_length, is_damage};
use super::disk::{Disk, OpenFile};
use super::file_identity::{first_line, skip_to, tail_hash};
use super::reading::bytes_before;
use super::resume::{Probe, Start, plan};
use super::rotation::{FileId, Listed, Look, Loss, Operation, Twin};

/// So often the directory is looked at again at once when a name changed its meaning between listing and opening.
const RETRIES: usize = 4;

impl Tail {
    /// The regular files of the log. What has such a name and is none is ignored, and said once.
    fn list(&mut self) -> io::Result<Vec<Listed>> {
        let entries = self.disk.list(&|name| self.names.parse(name).is_some())?;
        if entries.vanished {
            self.list_again = true;
        }
        let mut listing = Vec::new();
        for entry in entries.found {
            let Some(name) = self.names.parse(&entry.name) else {
                continue;
            };
            if entry.regular {
                listing.push(Listed {
                    name,
                    stat: entry.stat,
                });
            } else if self.ignored.len() < 100 && self.ignored.insert(entry.name.clone()) {
                tracing::warn!(source = %self.origin.source, file = %entry.name, "ignored: not a regular file");
            }
        }
        listing.sort_by_key(|entry| entry.name);
        self.has_live = listing.last().is_some_and(|entry| entry.name == Name::Live);
        Ok(listing)
    }

    /// Finds where to go on, once. False while it cannot be told yet.
    pub(super) fn start(&mut self, now: Duration) -> bool {
        for _ in 0..RETRIES {
            match self.try_start(now) {
                Ok(true) => {
                    self.started = true;
                    self.stored = Vec::new();
                    return true;
                }
                // Something was renamed or removed under our eyes.
                Ok(false) => {}
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && self.disk.list(&|_| false).is_ok() => {}
                Err(error) => {
                    self.trouble(self.names.dir().display().to_string(), &error);
                    return false;
                }
            }
        }
        false
    }

    fn try_start(&mut self, now: Duration) -> io::Result<bool> {
        self.list_again = false;
        let listing = self.list()?;
        let mut prober = Prober {
            disk: self.disk.as_ref(),
            names: &self.names,
        };
        let plan = plan(&listing, &self.stored, self.settings.start, &mut prober)?;
        // Two listings that agree: a single one may miss a file that was renamed meanwhile.
        let again = self.list()?;
        let names = |listing: &[Listed]| -> Vec<_> {
            listing
                .iter()
                .map(|entry| (entry.name, entry.stat.device, entry.stat.inode))
                .collect()
        };
        if self.list_again || names(&listing) != names(&again) {
            return Ok(false);
        }
        for entry in &plan.pass_over {
            self.rotation.pass_over(entry.name, entry.stat);
        }
        for (entry, position) in &plan.follow {
            let id = self.rotation.track(entry.name, entry.stat, now);
            if let Some(position) = position {
                self.rotation.resume(id, position);
            }
        }
        // Said at once, so that the next start knows what was not wanted.
        self.given = if self.settings.start == Start::Oldest {
            self.rotation.positions()
        } else {
            Vec::new()
        };
        for loss in plan.losses {
            self.lose(loss);
        }
        let operations = self.rotation.listed(&again, now);
        self.perform(operations, now);
        self.unsettled = true;
        Ok(true)
    }

    /// Looks at the held files and, where `names` may have changed, at the directory.
    pub(super) fn look_around(&mut self, names: bool, now: Duration) {
        self.checked.clear();
        if !self.started {
            self.clear_trouble();
            self.listed_at = Some(now);
            if !self.start(now) {
                return;
            }
        }
        if !names && !self.unsettled {
            self.look_at_held(now);
            return;
        }
        self.clear_trouble();
        self.listed_at = Some(now);
        for _ in 0..RETRIES {
            self.list_again = false;
            let listing = match self.list() {
                Ok(listing) => listing,
                Err(error) => {
                    self.trouble(self.names.dir().display().to_string(), &error);
                    self.look_at_held(now);
                    return;
                }
            };
            let operations = self.rotation.listed(&listing, now);
            self.look_at_held(now);
            self.perform(operations, now);
            self.unsettled = self.list_again;
            if !self.unsettled {
                self.rotation.settled();
                // Only now is it known which of them can be read from a `.gz` instead.
                let operations = self.rotation.keep_within(self.settings.hold_deleted);
                self.perform(operations, now);
                return;
            }
        }
    }

    fn look_at_held(&mut self, now: Duration) {
        let held: Vec<_> = self
            .handles
            .iter()
            .map(|(id, file)| (*id, file.clone()))
            .collect();
        for (id, file) in held {
            match file.stat() {
                Ok(stat) => {
                    let look = self.rotation.looked(id, stat, now);
                    self.settle(id, look);
                }
                Err(error) => self.trouble(self.name_of(id), &error),
            }
            self.identify_nameless(id, file.as_ref());
        }
    }

    /// Draws the consequences of a look at a file.
    pub(super) fn settle(&mut self, id: FileId, look: Look) {
        match look {
            Look::Sound => {}
            Look::Cut(loss) => {
                self.stop_reading(id);
                match self.still_holds(id) {
                    Ok(false) => self.begin_anew(id),
                    Ok(true) => self.lose(loss),
                    Err(error) => {
                        self.lose(loss);
                        self.trouble(self.name_of(id), &error);
                    }
                }
            }
            Look::Shrunk(loss) => {
                self.stop_reading(id);
                self.lose(loss);
            }
        }
    }

    /// Whether the bytes before a held file's offset are those that were read.
    pub(super) fn still_holds(&self, id: FileId) -> io::Result<bool> {
        let (Some(file), Some(tracked)) = (self.handles.get(&id), self.rotation.file(id)) else {
            return Ok(true);
        };
        let before = bytes_before(file.as_ref(), tracked.offset)?;
        Ok(before.is_some_and(|before| tail_hash(&before) == tracked.tail))
    }

    /// A file whose name we missed is recognised by its first line when its `.gz` turns up.
    fn identify_nameless(&mut self, id: FileId, file: &dyn OpenFile) {
        let nameless = self.rotation.file(id).is_some_and(|file| {
            file.stamp.is_none()
                && !file.plain
                && file.generation.is_none()
                && file.held == Some(Form::Plain)
        });
        if !nameless {
            return;
        }
        match first_line(&mut PlainReader { file, at: 0 }, false) {
            Ok(Some(generation)) => self.rotation.identified(id, generation),
            Ok(None) => {}
            Err(error) => self.trouble(self.name_of(id), &error),
        }
    }

    /// Does what the state machine asks for.
    pub(super) fn perform(&mut self, operations: Vec<Operation>, now: Duration) {
        for operation in operations {
            match operation {
                Operation::Close { id } => {
                    self.stop_reading(id);
                    self.handles.remove(&id);
                    self.damage.remove(&id);
                }
                Operation::Lose(loss) => self.lose(loss),
                Operation::Open { id, name } => {
                    if let Err(error) = self.open(id, name, now) {
                        match error.kind() {
                            // Renamed, compressed or deleted since it was listed.
                            io::ErrorKind::NotFound => {
                                self.rotation.not_opened(id);
                                self.list_again = true;
                            }
                            _ => self.trouble(self.names.file_name(name), &error),
                        }
                    }
                }
            }
        }
    }

    fn open(&mut self, id: FileId, name: Name, now: Duration) -> io::Result<()> {
        let file = self.disk.open(&self.names.file_name(name))?;
        let stat = file.stat()?;
        // A file came or went: what a listing missed meanwhile is to be found before anything younger is read.
        self.list_again = true;
        if !self.rotation.opened(id, name.form(), stat) {
            self.rotation.not_opened(id);
            return Ok(());
        }
        if name.form() == Form::Gzip {
            let generation = match first_line(&mut contents(&file, Form::Gzip), true) {
                Ok(generation) => generation,
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error),
            };
            match self
                .rotation
                .gzip_opened(id, generation, gzip_length(file.as_ref())?)
            {
                Twin::New => {}
                Twin::Same | Twin::Unclear => return Ok(()),
            }
        } else if name != Name::Live
            && self
                .rotation
                .file(id)
                .is_some_and(|file| file.generation.is_none())
            && let Some(generation) = first_line(&mut contents(&file, Form::Plain), false)?
        {
            // So that a gap names it, should it have to be given up unread.
            self.rotation.identified(id, generation);
        }
        let look = self.rotation.looked(id, stat, now);
        self.handles.insert(id, file);
        self.settle(id, look);
        Ok(())
    }

    /// Records a gap; it goes out with the next chunk.
    pub(super) fn lose(&mut self, loss: Loss) {
        let gap = SourceGap {
            reason: loss.reason,
            generation: loss.generation,
            from: loss.from,
            to: loss.to,
            events: None,
            after_us: self.last_event_us,
            before_us: None,
        };
        let generation = gap.generation.map(|generation| generation.short());
        tracing::warn!(source = %self.origin.source, reason = gap.reason.as_str(), generation, from = gap.from,
            to = gap.to, "gap: a part of the log could not be read");
        self.gaps.push(gap);
    }

    /// Says why reading does not go on, in one line with what to do.
    pub(super) fn trouble(&mut self, what: String, error: &io::Error) {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ": let the agent run as the API server's user, or as root"
            }
            io::ErrorKind::NotFound => ": it is not there yet",
            _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                ": raise the limit of open files"
            }
            _ => "",
        };
        let reason = format!("cannot read {what}: {error}{advice}");
        if self.told.as_ref() != Some(&reason) {
            tracing::warn!(source = %self.origin.source, "{reason}");
            self.told = Some(reason.clone());
        }
        self.reason.get_or_insert(reason);
    }

    fn clear_trouble(&mut self) {
        self.reason = None;
    }

    pub(super) fn name_of(&self, id: FileId) -> String {
        let Some(file) = self.rotation.file(id) else {
            return self.names.live().to_owned();
        };
        match file.stamp {
            Some(stamp) => self.names.file_name(Name::Backup(stamp, file.form())),
            None => self.names.live().to_owned(),
        }
    }
}

/// Reads a borrowed file from its start.
struct PlainReader<'a> {
    file: &'a dyn OpenFile,
    at: u64,
}

impl Read for PlainReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Looks into listed files by name.
pub(super) struct Prober<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) names: &'a LogNames,
}

impl Prober<'_> {
    pub(super) fn open(&self, name: Name) -> io::Result<Arc<dyn OpenFile>> {
        self.disk.open(&self.names.file_name(name))
    }
}

impl Probe for Prober<'_> {
    fn generation(&mut self, name: Name) -> io::Result<Option<Generation>> {
        let file = match self.open(name) {
            // A FIFO or symlink put in its place since it was listed is not our file.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            result => result?,
        };
        match first_line(&mut contents(&file, name.form()), name.form() == Form::Gzip) {
            Err(error) if is_damage(&error) => Ok(None),
            result => result,
        }
    }

    fn holds(&mut self, name: Name, position: &GenerationPosition) -> io::Result<bool> {
        let file = self.open(name)?;
        let before = match name.form() {
            Form::Plain => bytes_before(file.as_ref(), position.offset)?,
            Form::Gzip => match skip_to(&mut contents(&file, Form::Gzip), position.offset) {
                Err(error) if is_damage(&error) => None,
                result => result?,
            },
        };
        Ok(before.is_some_and(|before| tail_hash(&before) == position.tail))
    }

    fn end(&mut self, name: Name) -> io::Result<GenerationPosition> {
        let file = self.open(name)?;
        let stat = file.stat()?;
        let mut offset = stat.size;
        let mut buffer = [0; 4096];
        // Back to behind the last line feed.
        while offset > 0 {
            let start = offset.saturating_sub(buffer.len() as u64);
            let length = usize::try_from(offset - start).unwrap_or(buffer.len());
            let read = file.read_at(start, &mut buffer[..length])?;
            match memchr::memrchr(b'\n', &buffer[..read]) {
                Some(at) => {
                    offset = start + at as u64 + 1;
                    break;
                }
                None => offset = start,
            }
        }
        let before = bytes_before(file.as_ref(), offset)?.unwrap_or_default();
        Ok(GenerationPosition {
            generation: first_line(&mut contents(&file, Form::Plain), false)?
                .filter(|_| offset > 0),
            offset,
            tail: tail_hash(&before),
            device: stat.device,
            inode: stat.inode,
        })
    }
}

/// Names that were ignored because no regular file stands under them.
pub(super) type Ignored = BTreeSet<String>;
