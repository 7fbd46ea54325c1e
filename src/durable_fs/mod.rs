//! Everything that must survive a crash goes through here: the only fsync, rename, unlink, free-space look and
//! directory lock of the agent. A trait, so that tests can fail or cut every single call.
//!
//! Invariants (each learnt from a failure elsewhere): a new file is synced, then its directory, before it counts; a
//! failed sync is never retried on the same descriptor; [`DurableFs::replace`] is temp, sync, rename, sync directory.

use std::io;
use std::path::{Path, PathBuf};

mod system;
pub use system::SystemFs;

#[cfg(test)]
pub(crate) mod simulated;

/// A file system whose calls can fail one by one.
pub trait DurableFs: Send + Sync + 'static {
    /// Makes a new file for reading and writing, mode 0600; an existing one is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Opens an existing file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Names in a directory, with sizes, sorted by name. Directories are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;
    /// Makes a directory and its parents, mode 0700, and syncs the parents.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames inside one directory and syncs that directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; the directory is not synced (see `sync_dir`).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written to the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the lock of a directory for as long as the value lives.
    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError>;

    /// Replaces a small file as a whole: temp, sync, rename, sync directory.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(".new");
        let temp = PathBuf::from(temp);
        match self.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.create(&temp)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.rename(&temp, path)
    }
}

/// An open file, read and written at offsets.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is a call that can fail"
)]
pub trait DurableFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// fdatasync. After an error this descriptor must not be synced again.
    fn sync(&self) -> io::Result<()>;
    /// The page cache need not keep this range; best effort.
    fn forget_cached(&self, offset: u64, len: u64);
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// File name.
    pub name: String,
    /// Bytes.
    pub len: u64,
}

/// A directory's lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{dir} is in use by process {holder}")]
    Held {
        /// The directory.
        dir: String,
        /// Process id as the holder wrote it, or "unknown".
        holder: String,
    },
    /// The lock file could not be opened or locked.
    #[error("lock {dir}: {error}")]
    Io {
        /// The directory.
        dir: String,
        /// What the system says.
        error: io::Error,
    },
}
