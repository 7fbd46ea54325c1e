//! The machine's file system: [`DurableFs`] by system calls.
//!
//! Invariants: nothing is ever followed through a symbolic link at its last step; files are made with mode 0600 and
//! directories with 0700; a call that was interrupted is made again, any other error goes to the caller untouched.
#![expect(clippy::disallowed_methods, reason = "the owner of durability")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FlockOperation, OFlags};

use super::{DurableFile, DurableFs, Listed, LockError};

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFs;

impl DurableFs for SystemFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        let file = options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(SystemFile(
            options().read(true).write(true).open(path)?,
        )))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(SystemFile(options().read(true).open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                listed.push(Listed {
                    name,
                    len: metadata.len(),
                });
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = parent_of(dir);
        self.create_dir(&parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => other?,
        }
        self.sync_dir(&parent)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.sync_dir(&parent_of(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Send + Sync>, LockError> {
        let failed = |error: io::Error| LockError::Io {
            dir: dir.display().to_string(),
            error,
        };
        let mut file = options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    dir: dir.display().to_string(),
                    holder: holder(&mut file),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // The number is for the message of the next one only; the lock itself is the kernel's and ends with us. A full
        // disk, which has no room for it, must not keep the agent from starting.
        if let Err(error) = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
        {
            tracing::debug!(%error, "write the process id into the lock");
        }
        Ok(Box::new(file))
    }
}

/// What every open shares: a symbolic link planted in the state directory is refused, not followed.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

struct SystemFile(File);

impl DurableFile for SystemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        if let Some(len) = NonZeroU64::new(len)
            && let Err(error) = rustix::fs::fadvise(&self.0, offset, Some(len), Advice::DontNeed)
        {
            // A hint about the page cache: an error changes nothing that anybody relies on.
            tracing::debug!(%error, "posix_fadvise");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_lock_of_a_directory_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = SystemFs.lock(dir.path()).unwrap();
        match SystemFs.lock(dir.path()) {
            Err(LockError::Held { holder, .. }) => {
                assert_eq!(holder, std::process::id().to_string())
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("two locks of one directory"),
        }
        drop(first);
        assert!(SystemFs.lock(dir.path()).is_ok());
    }

    #[test]
    fn replace_leaves_the_new_bytes_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(dir.path().join("a.new"), "left by a crash").unwrap();
        SystemFs.replace(&path, b"one").unwrap();
        SystemFs.replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            SystemFs.list(dir.path()).unwrap(),
            [Listed {
                name: "a".into(),
                len: 3
            }]
        );
    }

    #[test]
    fn directories_are_made_with_their_parents_and_left_out_of_listings() {
        let dir = tempfile::tempdir().unwrap();
        SystemFs.create_dir(&dir.path().join("x/y/z")).unwrap();
        SystemFs.create_dir(&dir.path().join("x/y/z")).unwrap();
        assert!(dir.path().join("x/y/z").is_dir());
        assert_eq!(SystemFs.list(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_planted_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), "kept").unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join("link")).unwrap();
        assert!(SystemFs.open(&dir.path().join("link")).is_err());
    }
}
