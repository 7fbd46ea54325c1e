//! The few looks at a file system that following a log needs, as a trait: the real one here, the model of the tests
//! beside them. Read only: nothing is created, renamed, locked or removed.
//!
//! Invariants: what is not a regular file is never opened for reading (a FIFO planted under the name of a backup must
//! not hang us, a symlink must not lead us elsewhere); an open file keeps reading what it was opened as, whatever
//! happens to its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Advice, OFlags, fadvise};

/// One directory with a log and its backups.
pub(super) trait Disk: Send + Sync {
    /// What stands under the wanted names now, in no order. Not atomic: a file renamed meanwhile may be missing.
    fn list(&self, wanted: &dyn Fn(&str) -> bool) -> io::Result<Entries>;

    /// Opens a regular file; anything else is [`not_regular`].
    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>>;
}

/// A file that stays readable when its name goes.
pub(super) trait OpenFile: Send + Sync {
    /// What it is now.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads at `offset`; 0 bytes only at its present end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// The page cache need not keep this range; best effort, so nothing is reported.
    fn forget_cached(&self, offset: u64, len: u64);
}

/// One reading of the directory.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) found: Vec<Entry>,
    /// A name led to nothing any more: its file may stand under another one that was not listed.
    pub(super) vanished: bool,
}

/// A name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) stat: Stat,
    /// False for symlinks, FIFOs, devices, sockets and directories.
    pub(super) regular: bool,
}

/// What the system says of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Names it has; 0 once it was deleted.
    pub(super) links: u64,
}

/// The error for something that has the name of a log file and is none.
pub(super) fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// The directory itself.
#[derive(Debug)]
pub(super) struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    pub(super) fn new(dir: PathBuf) -> Self {
        RealDisk { dir }
    }
}

fn stat_of(metadata: &std::fs::Metadata) -> Stat {
    Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        links: metadata.nlink(),
    }
}

impl Disk for RealDisk {
    fn list(&self, wanted: &dyn Fn(&str) -> bool) -> io::Result<Entries> {
        let mut entries = Entries::default();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !wanted(&name) {
                continue;
            }
            // `DirEntry::metadata` does not follow symlinks.
            match entry.metadata() {
                Ok(metadata) => {
                    entries.found.push(Entry {
                        name,
                        stat: stat_of(&metadata),
                        regular: metadata.is_file(),
                    });
                }
                // Renamed or removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => entries.vanished = true,
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        // NONBLOCK: opening a FIFO without a writer would wait for ever before we could see what it is.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(self.dir.join(name))
        {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(not_regular());
            }
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(not_regular());
        }
        Ok(Arc::new(RealFile { file }))
    }
}

struct RealFile {
    file: File,
}

impl OpenFile for RealFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.file.metadata()?))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        // Advice only: where the file system does not take it, the cache keeps the pages and nothing else changes.
        if fadvise(
            &self.file,
            offset,
            std::num::NonZeroU64::new(len),
            Advice::DontNeed,
        )
        .is_err()
        {
            tracing::trace!("the page cache keeps what was read");
        }
    }
}
