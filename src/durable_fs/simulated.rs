//! A file system in memory that fails or loses power at any call, for tests.
//!
//! Each file has what readers see now and what is on the disk; the writes between them are a list, and a power cut
//! keeps any subset of that list, even of the sectors of one write. Names are kept apart in the same way, but a cut
//! keeps a beginning of their changes, as a journalling file system does. A failed sync forgets its writes: they stay
//! visible until the cut and are gone behind it, although a second sync says that all is well.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DurableFile, DurableFs, Listed, LockError};

/// Which call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Open,
    Read,
    List,
    CreateDir,
    Rename,
    Remove,
    SyncDir,
    FreeBytes,
    Write,
    Len,
    SetLen,
    Sync,
}

/// Every class of call, for tests that fail each.
pub(crate) const CALLS: [Call; 13] = [
    Call::Create,
    Call::Open,
    Call::Read,
    Call::List,
    Call::CreateDir,
    Call::Rename,
    Call::Remove,
    Call::SyncDir,
    Call::FreeBytes,
    Call::Write,
    Call::Len,
    Call::SetLen,
    Call::Sync,
];

/// What a power cut keeps of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing.
    None,
    /// Everything: the process was killed, the machine went on.
    All,
    /// Any subset of whole writes.
    Some,
    /// Any subset of sectors.
    Torn,
}

/// Calls of a class that are to fail.
#[derive(Clone, Debug)]
struct Failure {
    call: Call,
    /// Calls still to be let through.
    after: u64,
    /// Calls still to fail.
    times: u64,
    kind: io::ErrorKind,
}

/// What is to go wrong.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Calls made so far.
    calls: u64,
    fail: Vec<Failure>,
    /// The power goes at this call.
    cut_at: Option<u64>,
    off: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    on_disk: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, usize),
    Remove(PathBuf),
    Move(PathBuf, PathBuf),
}

#[derive(Default)]
struct Disk {
    plan: Plan,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    names_on_disk: BTreeMap<PathBuf, usize>,
    name_changes: Vec<NameChange>,
    dirs: Vec<PathBuf>,
    locks: Vec<PathBuf>,
    free: u64,
    epoch: u64,
}

/// A file system in memory; clones are the same one.
#[derive(Clone)]
pub(crate) struct SimulatedFs(Arc<Mutex<Disk>>);

impl SimulatedFs {
    pub(crate) fn new() -> Self {
        SimulatedFs(Arc::new(Mutex::new(Disk {
            free: u64::MAX / 2,
            ..Disk::default()
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `after` calls of a class through, then fails `times` of them.
    pub(crate) fn fail(&self, call: Call, after: u64, times: u64, kind: io::ErrorKind) {
        self.disk().plan.fail.push(Failure {
            call,
            after,
            times,
            kind,
        });
    }

    /// Nothing fails any more.
    pub(crate) fn mend(&self) {
        self.disk().plan.fail.clear();
    }

    /// Whether the planned failures all happened.
    pub(crate) fn failed(&self) -> bool {
        self.disk()
            .plan
            .fail
            .iter()
            .all(|failure| failure.times == 0)
    }

    /// Calls made so far.
    pub(crate) fn calls(&self) -> u64 {
        self.disk().plan.calls
    }

    /// The power goes at the `n`th call from now; that call is not made.
    pub(crate) fn cut_after(&self, n: u64) {
        let mut disk = self.disk();
        disk.plan.cut_at = Some(disk.plan.calls + n);
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.disk().plan.off
    }

    /// Bytes that may still be written.
    pub(crate) fn set_free(&self, bytes: u64) {
        self.disk().free = bytes;
    }

    /// Ends the process (every handle is dead) and starts the machine with what `kept` says.
    pub(crate) fn reboot(&self, kept: Kept, random: &mut fastrand::Rng) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        disk.plan = Plan {
            calls: disk.plan.calls,
            ..Plan::default()
        };
        disk.epoch += 1;
        disk.locks.clear();
        if kept == Kept::All {
            return;
        }
        for inode in &mut disk.inodes {
            for change in std::mem::take(&mut inode.changes) {
                keep_some(&mut inode.on_disk, &change, kept, random);
            }
            inode.seen = inode.on_disk.clone();
        }
        let changes = std::mem::take(&mut disk.name_changes);
        let keep = if kept == Kept::None {
            0
        } else {
            random.usize(0..=changes.len())
        };
        for change in &changes[..keep] {
            apply_name(&mut disk.names_on_disk, change);
        }
        disk.names = disk.names_on_disk.clone();
    }

    /// What a reader sees of a file now.
    pub(crate) fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names
            .get(path)
            .map(|inode| disk.inodes[*inode].seen.clone())
    }

    /// Puts bytes on the disk, as decay does.
    pub(crate) fn set_bytes(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let inode = *disk.names.entry(path.to_owned()).or_insert_with(|| {
            disk.inodes.push(Inode::default());
            disk.inodes.len() - 1
        });
        disk.names_on_disk.insert(path.to_owned(), inode);
        disk.inodes[inode] = Inode {
            seen: bytes.to_vec(),
            on_disk: bytes.to_vec(),
            changes: Vec::new(),
        };
    }

    /// Takes a file away, durably.
    pub(crate) fn lose(&self, path: &Path) {
        let mut disk = self.disk();
        disk.names.remove(path);
        disk.names_on_disk.remove(path);
    }

    /// Every file there is.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.disk();
        if disk.plan.off || disk.plan.cut_at == Some(disk.plan.calls) {
            disk.plan.off = true;
            return Err(io::Error::other("the power is off"));
        }
        disk.plan.calls += 1;
        if let Some(failure) = disk
            .plan
            .fail
            .iter_mut()
            .find(|failure| failure.call == call && failure.times > 0)
        {
            if failure.after > 0 {
                failure.after -= 1;
            } else {
                failure.times -= 1;
                return Err(io::Error::new(failure.kind, "planned failure"));
            }
        }
        Ok(disk)
    }

    fn handle(&self, inode: usize, epoch: u64) -> Box<dyn DurableFile> {
        Box::new(SimulatedFile {
            fs: self.clone(),
            inode,
            epoch,
        })
    }
}

fn keep_some(on_disk: &mut Vec<u8>, change: &Change, kept: Kept, random: &mut fastrand::Rng) {
    match (kept, change) {
        (Kept::None, _) => {}
        (Kept::Torn, Change::Write(offset, bytes)) => {
            let mut at = 0;
            while at < bytes.len() {
                let sector = (512 - ((*offset as usize + at) % 512)).min(bytes.len() - at);
                if random.bool() {
                    apply(
                        on_disk,
                        &Change::Write(offset + at as u64, bytes[at..at + sector].to_vec()),
                    );
                }
                at += sector;
            }
        }
        _ => {
            if random.bool() {
                apply(on_disk, change);
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, new) => {
            let end = *offset as usize + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(new);
        }
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Add(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
        NameChange::Move(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            NameChange::Add(path, _) | NameChange::Remove(path) | NameChange::Move(_, path) => {
                path.parent()
            }
        }
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("no such file: {}", path.display()),
    )
}

impl DurableFs for SimulatedFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        let mut disk = self.call(Call::Create)?;
        if disk.names.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "file exists"));
        }
        if !path
            .parent()
            .is_some_and(|dir| disk.dirs.iter().any(|d| d == dir))
        {
            return Err(not_found(path));
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.names.insert(path.to_owned(), inode);
        disk.name_changes
            .push(NameChange::Add(path.to_owned(), inode));
        Ok(self.handle(inode, disk.epoch))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        let disk = self.call(Call::Open)?;
        let inode = *disk.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(self.handle(inode, disk.epoch))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        self.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let disk = self.call(Call::List)?;
        if !disk.dirs.iter().any(|d| d == dir) {
            return Err(not_found(dir));
        }
        let mut listed = Vec::new();
        for (path, inode) in &disk.names {
            if let (true, Some(name)) = (path.parent() == Some(dir), path.file_name()) {
                let len = disk.inodes[*inode].seen.len() as u64;
                listed.push(Listed {
                    name: name.to_string_lossy().into_owned(),
                    len,
                });
            }
        }
        Ok(listed)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.call(Call::CreateDir)?;
        if !disk.dirs.iter().any(|d| d == dir) {
            disk.dirs.push(dir.to_owned());
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.call(Call::Rename)?;
        if !disk.names.contains_key(from) {
            return Err(not_found(from));
        }
        let change = NameChange::Move(from.to_owned(), to.to_owned());
        apply_name(&mut disk.names, &change);
        disk.name_changes.push(change);
        drop(disk);
        match to.parent() {
            Some(dir) => self.sync_dir(dir),
            None => Ok(()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.call(Call::Remove)?;
        if disk.names.remove(path).is_none() {
            return Err(not_found(path));
        }
        disk.name_changes.push(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.call(Call::SyncDir)?;
        let disk = &mut *disk;
        for change in std::mem::take(&mut disk.name_changes) {
            if change.dir() == Some(dir) {
                apply_name(&mut disk.names_on_disk, &change);
            } else {
                disk.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.call(Call::FreeBytes)?.free)
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError> {
        let mut disk = self.disk();
        if disk.locks.iter().any(|l| l == dir) {
            return Err(LockError::Held {
                dir: dir.display().to_string(),
                holder: "simulated".into(),
            });
        }
        disk.locks.push(dir.to_owned());
        Ok(Box::new(SimulatedLock {
            fs: self.clone(),
            dir: dir.to_owned(),
            epoch: disk.epoch,
        }))
    }
}

struct SimulatedLock {
    fs: SimulatedFs,
    dir: PathBuf,
    epoch: u64,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut disk = self.fs.disk();
        if disk.epoch == self.epoch {
            disk.locks.retain(|l| *l != self.dir);
        }
    }
}

struct SimulatedFile {
    fs: SimulatedFs,
    inode: usize,
    epoch: u64,
}

impl SimulatedFile {
    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.fs.call(call)?;
        if disk.epoch == self.epoch {
            Ok(disk)
        } else {
            Err(io::Error::other("a handle from before the reboot"))
        }
    }
}

impl DurableFile for SimulatedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let was_off = self.fs.is_off();
        let planned = self.call(Call::Write);
        let (mut disk, failure) = match planned {
            Ok(disk) => (disk, None),
            // A write that fails may have written its first part.
            Err(error) if !was_off => (self.fs.disk(), Some(error)),
            Err(error) => return Err(error),
        };
        if disk.epoch != self.epoch {
            return Err(io::Error::other("a handle from before the reboot"));
        }
        let seen = disk.inodes[self.inode].seen.len() as u64;
        let grown = (offset + bytes.len() as u64).saturating_sub(seen);
        let mut written = bytes.len();
        if failure.is_some() {
            written /= 2;
        } else if grown > disk.free {
            written = written.saturating_sub((grown - disk.free) as usize);
        }
        let change = Change::Write(offset, bytes[..written].to_vec());
        let inode = &mut disk.inodes[self.inode];
        if written > 0 {
            apply(&mut inode.seen, &change);
            inode.changes.push(change);
        }
        let grown = inode.seen.len() as u64 - seen;
        disk.free = disk.free.saturating_sub(grown);
        match failure {
            Some(error) => Err(error),
            None if written < bytes.len() => Err(io::Error::from(io::ErrorKind::StorageFull)),
            None => Ok(()),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.call(Call::Read)?;
        let seen = &disk.inodes[self.inode].seen;
        let start = seen.len().min(offset as usize);
        let read = buffer.len().min(seen.len() - start);
        buffer[..read].copy_from_slice(&seen[start..start + read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.call(Call::Len)?.inodes[self.inode].seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.call(Call::SetLen)?;
        let inode = &mut disk.inodes[self.inode];
        let freed = (inode.seen.len() as u64).saturating_sub(len);
        apply(&mut inode.seen, &Change::SetLen(len));
        inode.changes.push(Change::SetLen(len));
        disk.free += freed;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let planned = self.call(Call::Sync);
        let mut disk = match planned {
            Ok(disk) => disk,
            Err(error) => {
                let mut disk = self.fs.disk();
                if !disk.plan.off && disk.epoch == self.epoch {
                    // The kernel marks the pages clean: no later sync will write them.
                    disk.inodes[self.inode].changes.clear();
                }
                return Err(error);
            }
        };
        let inode = &mut disk.inodes[self.inode];
        for change in std::mem::take(&mut inode.changes) {
            apply(&mut inode.on_disk, &change);
        }
        Ok(())
    }

    fn forget_cached(&self, _offset: u64, _len: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file() -> (SimulatedFs, Box<dyn DurableFile>) {
        let fs = SimulatedFs::new();
        fs.create_dir(Path::new("/d")).unwrap();
        let file = fs.create(Path::new("/d/f")).unwrap();
        (fs, file)
    }

    #[test]
    fn only_what_was_synced_survives_a_cut() {
        let (fs, file) = with_file();
        file.write_at(0, b"kept").unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        file.write_at(4, b"lost").unwrap();
        fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
        assert_eq!(fs.bytes(Path::new("/d/f")).unwrap(), b"kept");
    }

    #[test]
    fn a_file_whose_directory_was_not_synced_is_gone_after_a_cut() {
        let (fs, file) = with_file();
        file.write_at(0, b"kept").unwrap();
        file.sync().unwrap();
        fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
        assert_eq!(fs.bytes(Path::new("/d/f")), None);
    }

    #[test]
    fn a_failed_sync_loses_its_writes_although_the_next_one_succeeds() {
        let (fs, file) = with_file();
        fs.sync_dir(Path::new("/d")).unwrap();
        file.write_at(0, b"lost").unwrap();
        fs.fail(Call::Sync, 0, 1, io::ErrorKind::Other);
        assert!(file.sync().is_err());
        assert!(file.sync().is_ok());
        assert_eq!(fs.bytes(Path::new("/d/f")).unwrap(), b"lost");
        fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
        assert_eq!(fs.bytes(Path::new("/d/f")).unwrap(), b"");
    }
}
