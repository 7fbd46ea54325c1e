//! The state machine of a log across its rotations: listings, file states and progress of reading go in, operations
//! come out. No I/O, no clock, no bytes of an event in here.
//!
//! Invariants:
//! - Files stand in the order in which they were written. A file seen for the first time is younger than every file
//!   seen before it, whatever the time in its name says (a wall clock may step back); only files first seen together
//!   are put in order by name.
//! - The oldest unfinished file is read first; nothing is read past an unfinished one.
//! - While a descriptor is held its (device, inode) cannot be given to another file, so it names the file exactly.
//!   Nothing else trusts an inode without a look at the contents.
//! - A file leaves the list in one of two ways: retired, with everything in it read, or with a recorded loss.

use std::time::Duration;

use crate::event::Generation;
use crate::event::encoding::{GapReason, GenerationPosition};

use super::backlog::{Form, Name, Stamp};
use super::disk::Stat;
use super::file_identity::tail_hash;

/// A file that stands still for so long after it was read, with a younger one behind it, gets no more bytes.
pub(super) const QUIET: Duration = Duration::from_secs(300);

/// So many read files at most wait for late bytes; beyond it the oldest is retired early, for the position list goes
/// into every block of the spool and each file costs a descriptor.
pub(super) const WAITING_MAX: usize = 16;

/// A listing is not atomic: a file renamed meanwhile may be missing from one. Gone means missing so often in a row.
const GONE: u8 = 2;

/// A file of this log, by our own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u32);

/// A regular file under one of the log's names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) name: Name,
    pub(super) stat: Stat,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Open it and hold the descriptor; [`Rotation::opened`] answers.
    Open { id: FileId, name: Name },
    /// Give the descriptor back and forget what was read ahead.
    Close { id: FileId },
    /// Record what cannot be had any more.
    Lose(Loss),
}

/// A gap before the times around it are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) reason: GapReason,
    pub(super) generation: Option<Generation>,
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
}

/// What a look at a held file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// As it was, or longer.
    Sound,
    /// It is shorter, but not than what was given out of it: what was read ahead is void, and what was cut off lost.
    Cut(Loss),
    /// It is shorter than what was read of it and begins anew.
    Shrunk(Loss),
}

/// What a newly found `.gz` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twin {
    /// A file of its own.
    New,
    /// The compressed form of a file that is held already; its descriptor is to be given back.
    Same,
    /// Not to be told yet; its descriptor is to be given back, a later listing will show it again.
    Unclear,
}

/// One file that is not retired.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) id: FileId,
    /// Time in its name as a backup, once it was seen under one.
    pub(super) stamp: Option<Stamp>,
    /// Of the plain file; inode 0 where only a `.gz` was ever seen.
    pub(super) device: u64,
    pub(super) inode: u64,
    /// In the last listing under its plain name.
    pub(super) plain: bool,
    /// In the last listing as `.gz`.
    pub(super) gzip: bool,
    pub(super) held: Option<Form>,
    /// How it would be opened: plain, unless only its `.gz` was in the last listing that showed it.
    listed_as: Form,
    /// Of the held file; 0: deleted.
    pub(super) links: u64,
    /// Bytes of the held file, else of the listed plain one.
    pub(super) size: u64,
    pub(super) generation: Option<Generation>,
    /// Everything before it was given out.
    pub(super) offset: u64,
    /// See [`GenerationPosition::tail`].
    pub(super) tail: [u8; 32],
    /// Everything before it was looked at, always >= `offset`: behind `offset` stands an unfinished last line.
    pub(super) read: u64,
    /// The end of a `.gz` was seen and its checksum was right.
    ended: bool,
    /// When its size changed last, in monotonic time.
    changed_at: Duration,
    /// `run --once`: bytes behind it are not wanted.
    limit: Option<u64>,
    /// Listings in a row without it, while not held.
    missing: u8,
    /// Listings since it was seen to be deleted.
    unlinked_listings: u8,
    /// Its last bytes are to become a line now.
    finishing: bool,
    /// First seen since [`Rotation::settled`], and not read yet.
    fresh: bool,
}

impl Tracked {
    /// Behind the last byte that is wanted of a plain file.
    pub(super) fn end(&self) -> u64 {
        self.limit.map_or(self.size, |limit| limit.min(self.size))
    }

    /// How its bytes would be read now.
    pub(super) fn form(&self) -> Form {
        match self.held {
            Some(form) => form,
            None => self.listed_as,
        }
    }

    /// Whether everything in it was looked at.
    pub(super) fn finished(&self) -> bool {
        !self.finishing && self.exhausted()
    }

    fn exhausted(&self) -> bool {
        match self.form() {
            Form::Plain => self.read >= self.end(),
            Form::Gzip => self.ended,
        }
    }

    /// Whether the bytes after its last line feed are to become a line.
    pub(super) fn finishing(&self) -> bool {
        self.finishing
    }

    /// Only our descriptor keeps it alive.
    fn deleted(&self) -> bool {
        self.held.is_some() && self.links == 0
    }

    /// Bytes known to be unread: of a `.gz` the compressed ones.
    pub(super) fn unread(&self) -> u64 {
        match self.form() {
            Form::Plain => self.end().saturating_sub(self.offset),
            Form::Gzip if self.ended => 0,
            Form::Gzip => self.size,
        }
    }

    fn restart(&mut self) {
        self.generation = None;
        self.offset = 0;
        self.read = 0;
        self.tail = tail_hash(&[]);
        self.ended = false;
        self.finishing = false;
        // What was present at the time of `--once` is gone with the old contents.
        self.limit = self.limit.map(|_| 0);
    }

    fn loss(&self, reason: GapReason, to: Option<u64>) -> Loss {
        Loss {
            reason,
            generation: self.generation,
            from: Some(self.offset),
            to,
        }
    }
}

/// A listed file that has been read, or is not to be.
#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    /// Of the plain file; 0 where unknown.
    inode: u64,
    missing: u8,
}

/// All files of one log, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    files: Vec<Tracked>,
    known: Vec<Known>,
    next_id: u32,
    limited: bool,
}

impl Rotation {
    /// Starts to follow a file, as the youngest. Once at the start; later files are found by [`Rotation::listed`].
    pub(super) fn track(&mut self, name: Name, stat: Stat, now: Duration) -> FileId {
        let file = self.newcomer(name, stat, now);
        let id = file.id;
        self.files.push(file);
        id
    }

    /// Puts reading of a file at a stored position.
    pub(super) fn resume(&mut self, id: FileId, position: &GenerationPosition) {
        if let Some(file) = self.file_mut(id) {
            file.generation = position.generation;
            file.offset = position.offset;
            file.read = position.offset;
            file.tail = position.tail;
            file.fresh = false;
        }
    }

    /// A listed backup that is not to be read.
    pub(super) fn pass_over(&mut self, name: Name, stat: Stat) {
        if let Some(stamp) = name.stamp() {
            let inode = if name.form() == Form::Plain {
                stat.inode
            } else {
                0
            };
            self.known.push(Known {
                stamp,
                inode,
                missing: 0,
            });
        }
    }

    /// Takes what stands in the directory now.
    pub(super) fn listed(&mut self, listing: &[Listed], now: Duration) -> Vec<Operation> {
        let mut listing = listing.to_vec();
        listing.sort_by_key(|entry| entry.name);
        for file in &mut self.files {
            file.plain = false;
            file.gzip = false;
            if file.deleted() {
                file.unlinked_listings = file.unlinked_listings.saturating_add(1);
            }
        }
        for known in &mut self.known {
            known.missing += 1;
        }
        let mut live = None;
        let mut unseen = Vec::new();
        for entry in &listing {
            match self.recognise(entry) {
                Some(at) => {
                    self.seen(at, entry, now);
                    if entry.name == Name::Live {
                        live = Some(self.files[at].id);
                    }
                }
                None if self.is_known(entry) || self.limited => {}
                None => unseen.push(*entry),
            }
        }
        self.known.retain(|known| known.missing <= GONE);
        self.add(&unseen, live, now);
        let mut operations = self.drop_the_missing();
        operations.extend(self.to_open());
        operations
    }

    /// The tracked file that a listed name belongs to.
    fn recognise(&self, entry: &Listed) -> Option<usize> {
        let stamp = entry.name.stamp();
        let same_name = |file: &Tracked| stamp.is_some() && file.stamp == stamp;
        if entry.name.form() == Form::Gzip {
            return self.files.iter().rposition(same_name);
        }
        self.files.iter().rposition(|file| {
            let same_inode = file.inode != 0
                && (file.device, file.inode) == (entry.stat.device, entry.stat.inode);
            match file.held {
                Some(Form::Plain) => same_inode && file.links > 0,
                // Not held, so the inode may have gone to another file: a backup at least keeps its name.
                _ if file.inode != 0 => same_inode && (file.stamp.is_none() || file.stamp == stamp),
                _ => same_name(file),
            }
        })
    }

    fn seen(&mut self, at: usize, entry: &Listed, now: Duration) {
        let file = &mut self.files[at];
        if entry.name.stamp().is_some() {
            file.stamp = entry.name.stamp();
        }
        if entry.name.form() == Form::Gzip {
            file.gzip = true;
            if !file.plain {
                file.listed_as = Form::Gzip;
            }
            return;
        }
        file.plain = true;
        file.listed_as = Form::Plain;
        // Of a held file its descriptor says more, and later; but bytes that were here once and are not then were lost.
        if file.held != Some(Form::Gzip) && file.size < entry.stat.size {
            file.size = entry.stat.size;
            file.changed_at = now;
        }
        if file.held.is_none() {
            file.device = entry.stat.device;
            file.inode = entry.stat.inode;
        }
    }

    fn is_known(&mut self, entry: &Listed) -> bool {
        let form = entry.name.form();
        for known in &mut self.known {
            let same_file =
                form == Form::Gzip || known.inode == 0 || known.inode == entry.stat.inode;
            if Some(known.stamp) == entry.name.stamp() && same_file {
                known.missing = 0;
                return true;
            }
        }
        false
    }

    /// Puts files seen for the first time behind all others, but before a live file that was there before.
    fn add(&mut self, unseen: &[Listed], live: Option<FileId>, now: Duration) {
        for entry in unseen {
            // A `.gz` beside its plain file, both new: one file.
            let twin = self
                .files
                .iter_mut()
                .rfind(|f| f.stamp.is_some() && f.stamp == entry.name.stamp());
            if let (Some(twin), Form::Gzip) = (twin, entry.name.form()) {
                twin.gzip = true;
                continue;
            }
            let file = self.newcomer(entry.name, entry.stat, now);
            let at = self
                .files
                .iter()
                .position(|f| Some(f.id) == live)
                .unwrap_or(self.files.len());
            self.files.insert(at, file);
        }
    }

    fn newcomer(&mut self, name: Name, stat: Stat, now: Duration) -> Tracked {
        let id = FileId(self.next_id);
        self.next_id += 1;
        let plain = name.form() == Form::Plain;
        Tracked {
            id,
            stamp: name.stamp(),
            device: if plain { stat.device } else { 0 },
            inode: if plain { stat.inode } else { 0 },
            plain,
            gzip: !plain,
            held: None,
            listed_as: name.form(),
            links: stat.links,
            size: stat.size,
            generation: None,
            offset: 0,
            tail: tail_hash(&[]),
            read: 0,
            ended: false,
            changed_at: now,
            limit: None,
            missing: 0,
            unlinked_listings: 0,
            finishing: false,
            fresh: true,
        }
    }

    /// The listing has come to rest. Files that were first seen since the last time were first seen together, so they
    /// are put in order by name; the one without a name is the live file.
    pub(super) fn settled(&mut self) {
        let start = self
            .files
            .iter()
            .rposition(|file| !file.fresh)
            .map_or(0, |at| at + 1);
        self.files[start..].sort_by_key(|file| (file.stamp.is_none(), file.stamp));
        for file in &mut self.files {
            file.fresh = false;
        }
    }

    /// A file that is neither held nor listed is gone, and with it what was not read of it.
    fn drop_the_missing(&mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        self.files.retain_mut(|file| {
            if file.held.is_some() || file.plain || file.gzip {
                file.missing = 0;
                return true;
            }
            file.missing += 1;
            if file.missing < GONE {
                return true;
            }
            if !file.finished() {
                operations.push(Operation::Lose(file.loss(GapReason::Deleted, None)));
            }
            false
        });
        operations
    }

    /// Files whose descriptor is to be held and is not, oldest first: unread ones, and plain ones that may grow.
    fn to_open(&self) -> Vec<Operation> {
        let wanted = self
            .files
            .iter()
            .filter(|file| file.held.is_none() && (file.plain || !file.finished()));
        wanted
            .filter_map(|file| {
                Some(Operation::Open {
                    id: file.id,
                    name: Self::name_of(file)?,
                })
            })
            .collect()
    }

    /// The name under which a file was listed last; the plain one where there are two.
    fn name_of(file: &Tracked) -> Option<Name> {
        match (file.plain, file.gzip, file.stamp) {
            (true, _, None) => Some(Name::Live),
            (true, _, Some(stamp)) => Some(Name::Backup(stamp, Form::Plain)),
            (false, true, Some(stamp)) => Some(Name::Backup(stamp, Form::Gzip)),
            _ => None,
        }
    }

    /// A descriptor was opened for it. False where the name has come to mean another file since it was listed: then
    /// the descriptor must be given back.
    pub(super) fn opened(&mut self, id: FileId, form: Form, stat: Stat) -> bool {
        let Some(file) = self.file_mut(id) else {
            return false;
        };
        if form == Form::Plain
            && file.inode != 0
            && (file.device, file.inode) != (stat.device, stat.inode)
        {
            return false;
        }
        if form == Form::Plain {
            file.device = stat.device;
            file.inode = stat.inode;
        }
        file.held = Some(form);
        file.links = stat.links;
        // Nothing was known of its contents, so nothing can have been cut off.
        if form == Form::Gzip || (file.generation.is_none() && file.read == 0) {
            file.size = stat.size;
        }
        true
    }

    /// The name did not lead to it any more. A live file of which nothing was read is forgotten: it turns up again,
    /// under the name of a backup, and its inode may be another file's by then.
    pub(super) fn not_opened(&mut self, id: FileId) {
        self.files.retain(|file| {
            let unknown = file.stamp.is_none()
                && file.held.is_none()
                && file.generation.is_none()
                && file.offset == 0;
            file.id != id || !unknown
        });
    }

    /// What a newly opened `.gz` begins with, and its uncompressed length modulo 2^32; `None` where it is not complete.
    /// A file that we held while it was renamed, compressed and removed between two listings is recognised by both.
    pub(super) fn gzip_opened(
        &mut self,
        id: FileId,
        generation: Option<Generation>,
        length: Option<u32>,
    ) -> Twin {
        let Some(newer) = self.files.iter().position(|file| file.id == id) else {
            return Twin::Unclear;
        };
        let nameless = |file: &Tracked| {
            file.id != id && file.stamp.is_none() && !file.plain && file.held != Some(Form::Gzip)
        };
        let same = self.files.iter().position(|file| {
            let same_length =
                length.is_some_and(|length| file.size & u64::from(u32::MAX) == u64::from(length));
            let same_length = same_length || file.held.is_none();
            nameless(file) && generation.is_some() && file.generation == generation && same_length
        });
        if let Some(same) = same {
            self.files[same].stamp = self.files[newer].stamp;
            self.files[same].gzip = true;
            self.files.remove(newer);
            return Twin::Same;
        }
        // While the plain file is there its `.gz` may be half written: the next listing will show more.
        let unclear = self.files.iter().any(|file| {
            let maybe = generation.is_none() || file.generation == generation;
            nameless(file) && file.held.is_some() && file.links > 0 && maybe
        });
        if unclear {
            self.files.remove(newer);
            return Twin::Unclear;
        }
        let file = &mut self.files[newer];
        file.generation = file.generation.or(generation);
        Twin::New
    }

    /// What the system says of a held file now.
    pub(super) fn looked(&mut self, id: FileId, stat: Stat, now: Duration) -> Look {
        let Some(file) = self.file_mut(id) else {
            return Look::Sound;
        };
        file.links = stat.links;
        let known = file.size;
        if file.size != stat.size {
            file.size = stat.size;
            file.changed_at = now;
        }
        if file.held != Some(Form::Plain) || stat.size >= known {
            return Look::Sound;
        }
        if stat.size >= file.offset && file.offset > 0 {
            // Cut behind what was given out; whether what is before it still stands is seen when it is read on.
            file.read = file.offset;
            let loss = Loss {
                from: Some(stat.size),
                ..file.loss(GapReason::Shrunk, None)
            };
            return Look::Cut(loss);
        }
        let loss = file.loss(GapReason::Shrunk, None);
        file.restart();
        Look::Shrunk(loss)
    }

    /// The bytes before the offset are not those that were read: the file begins anew.
    pub(super) fn overwritten(&mut self, id: FileId) -> Option<Loss> {
        let file = self.file_mut(id)?;
        let loss = file.loss(GapReason::Overwritten, None);
        file.restart();
        Some(loss)
    }

    /// A `.gz` without its plain file that nothing will complete any more: its rest is lost.
    pub(super) fn damaged(&mut self, id: FileId) -> Vec<Operation> {
        let Some(file) = self.file_mut(id) else {
            return Vec::new();
        };
        let loss = file.loss(GapReason::Shrunk, None);
        let mut operations = vec![Operation::Lose(loss)];
        operations.extend(self.forget(id));
        operations
    }

    /// The file to read next: the oldest with unread bytes.
    pub(super) fn current(&self) -> Option<&Tracked> {
        self.files.iter().find(|file| !file.finished())
    }

    /// Its first line is known.
    pub(super) fn identified(&mut self, id: FileId, generation: Generation) {
        if let Some(file) = self.file_mut(id) {
            file.generation = Some(generation);
        }
    }

    /// Bytes up to `read` were looked at.
    pub(super) fn read_to(&mut self, id: FileId, read: u64) {
        if let Some(file) = self.file_mut(id) {
            file.read = file.read.max(read);
        }
    }

    /// The end of a `.gz` was met and its checksum is right.
    pub(super) fn gzip_ended(&mut self, id: FileId) {
        if let Some(file) = self.file_mut(id) {
            file.ended = true;
        }
    }

    /// Everything before `offset` was given out.
    pub(super) fn advanced(&mut self, id: FileId, offset: u64, tail: [u8; 32]) {
        if let Some(file) = self.file_mut(id) {
            debug_assert!(offset >= file.offset, "reading never goes back");
            file.offset = offset;
            file.read = file.read.max(offset);
            file.tail = tail;
        }
    }

    /// The oldest file, once it may be retired: a younger one exists and no late bytes are to be expected.
    pub(super) fn due(&self, now: Duration) -> Option<FileId> {
        let (first, younger) = self.files.split_first()?;
        if !first.finished() {
            return None;
        }
        if self.limited {
            return (!younger.is_empty()).then_some(first.id);
        }
        // Not before a younger *generation* is known: so the position list always tells up to where the log was read.
        if !younger.iter().any(|file| file.generation.is_some()) {
            return None;
        }
        let waiting = self.files.iter().take_while(|file| file.finished()).count();
        // Until the listing after its deletion a `.gz` of it may turn up, which must not be taken for a new file.
        let settled = first.stamp.is_some() || first.unlinked_listings > 0;
        let plain_gone = first.deleted() || (first.held.is_none() && !first.plain);
        let quiet = now.saturating_sub(first.changed_at) >= QUIET;
        let closed = first.form() == Form::Gzip || (plain_gone && settled) || quiet;
        (closed || waiting > WAITING_MAX).then_some(first.id)
    }

    /// The bytes after its last line feed are to become a line. False where there are none: then it can be retired.
    pub(super) fn finish(&mut self, id: FileId) -> bool {
        let Some(file) = self.file_mut(id) else {
            return false;
        };
        let left = match file.form() {
            Form::Plain => file.end() > file.offset,
            Form::Gzip => file.read > file.offset,
        };
        file.finishing = left;
        left
    }

    /// Everything in it was given out and no more is expected.
    pub(super) fn forget(&mut self, id: FileId) -> Vec<Operation> {
        let Some(at) = self.files.iter().position(|file| file.id == id) else {
            return Vec::new();
        };
        let file = self.files.remove(at);
        if let Some(stamp) = file.stamp {
            self.known.push(Known {
                stamp,
                inode: file.inode,
                missing: 0,
            });
        }
        if file.held.is_some() {
            vec![Operation::Close { id }]
        } else {
            Vec::new()
        }
    }

    /// Gives up the oldest deleted, unread files until no more than `bound` bytes of disk are held. A file whose
    /// `.gz` still stands there is read from it instead.
    pub(super) fn keep_within(&mut self, bound: u64) -> Vec<Operation> {
        let mut operations = Vec::new();
        while self.held_deleted() > bound {
            // Not before a listing has had the time to show its `.gz`.
            let mut unread = self
                .files
                .iter_mut()
                .filter(|file| file.deleted() && !file.finished());
            let Some(file) = unread.find(|file| file.unlinked_listings > 0) else {
                break;
            };
            let id = file.id;
            operations.push(Operation::Close { id });
            if let (true, Some(Form::Plain), Some(stamp)) = (file.gzip, file.held, file.stamp) {
                file.held = None;
                operations.push(Operation::Open {
                    id,
                    name: Name::Backup(stamp, Form::Gzip),
                });
                continue;
            }
            // How long the contents of a `.gz` are is not known before they were read.
            let to = (file.held == Some(Form::Plain)).then_some(file.size);
            operations.push(Operation::Lose(file.loss(GapReason::HoldDeleted, to)));
            file.held = None;
            self.forget(id);
        }
        operations
    }

    /// Disk kept alive by our descriptors alone.
    pub(super) fn held_deleted(&self) -> u64 {
        self.files
            .iter()
            .filter(|file| file.deleted())
            .map(|file| file.size)
            .sum()
    }

    /// From now on only what is here now is wanted.
    pub(super) fn limit(&mut self) {
        self.limited = true;
        for file in &mut self.files {
            file.limit = Some(file.size);
        }
    }

    /// Everything that was wanted has been looked at.
    pub(super) fn all_finished(&self) -> bool {
        self.files.iter().all(Tracked::finished)
    }

    /// The position list: every file up to the youngest of which something was read, or is to be read now.
    pub(super) fn positions(&self) -> Vec<GenerationPosition> {
        let current = self.files.iter().position(|file| !file.finished());
        let count = current.map_or(self.files.len(), |at| at + 1);
        // Late bytes of an older file are read while a younger one stands half read.
        let begun = self.files.iter().rposition(|file| file.offset > 0);
        let count = count.max(begun.map_or(0, |at| at + 1));
        let positions = self.files[..count].iter().map(|file| GenerationPosition {
            generation: file.generation,
            offset: file.offset,
            tail: file.tail,
            device: file.device,
            inode: file.inode,
        });
        positions.collect()
    }

    pub(super) fn files(&self) -> &[Tracked] {
        &self.files
    }

    pub(super) fn file(&self, id: FileId) -> Option<&Tracked> {
        self.files.iter().find(|file| file.id == id)
    }

    fn file_mut(&mut self, id: FileId) -> Option<&mut Tracked> {
        self.files.iter_mut().find(|file| file.id == id)
    }

    /// Backups that are still listed, by the time in their names, oldest first; with whether they were read.
    pub(super) fn backups(&self) -> Vec<(Stamp, bool)> {
        let tracked = self.files.iter().filter(|file| file.plain || file.gzip);
        let mut all: Vec<_> = tracked
            .filter_map(|file| Some((file.stamp?, file.finished())))
            .collect();
        all.extend(self.known.iter().map(|known| (known.stamp, true)));
        all.sort();
        all
    }
}
