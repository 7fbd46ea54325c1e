//! The state directory: its layout, its lock and the names pinned in it.
//!
//! ```text
//! <state_dir>/lock                 held by the running agent, with its process id
//! <state_dir>/origin.json          cluster and node, written at first start (design D4)
//! <state_dir>/spool/               segments, quarantine, rebuilt blocks
//! <state_dir>/sinks/<name>.cursor one per sink that was ever configured; <name>/ holds its small state
//! <state_dir>/dead-letters/        rejected events
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable_fs::{DurableFs, LockError};

/// Paths inside a state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// The names that event ids are made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedOrigin {
    /// `agent.cluster`.
    pub cluster: String,
    /// `agent.node`.
    pub node: String,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another agent runs on it, or the lock cannot be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It was made under other names.
    #[error(
        "{dir} belongs to cluster \"{}\", node \"{}\", but the configuration says cluster \"{}\", node \"{}\": \
         event ids are made from these names; if the change is meant, run once with --new-origin",
        pinned.cluster, pinned.node, found.cluster, found.node
    )]
    OtherOrigin {
        /// The directory.
        dir: String,
        /// What it was made with.
        pinned: PinnedOrigin,
        /// What the configuration says.
        found: PinnedOrigin,
    },
    /// The disk failed.
    #[error("{path}: {error}")]
    Io {
        /// File or directory.
        path: String,
        /// What the system says.
        error: io::Error,
    },
}

impl StateDir {
    /// The directory at `root`; touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        StateDir { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the spool lives.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Where a sink keeps its small state.
    pub fn sink(&self, name: &str) -> PathBuf {
        self.root.join("sinks").join(name)
    }

    fn origin_file(&self) -> PathBuf {
        self.root.join("origin.json")
    }

    /// Makes it if it is not there, and takes its lock for as long as the value lives.
    pub(super) fn lock(&self, fs: &dyn DurableFs) -> Result<Box<dyn Send + Sync>, StateDirError> {
        fs.create_dir(&self.root)
            .map_err(|error| self.io(&self.root, error))?;
        Ok(fs.lock(&self.root)?)
    }

    /// The pinned names; `None` before the first start.
    pub fn pinned(&self, fs: &dyn DurableFs) -> Result<Option<PinnedOrigin>, StateDirError> {
        let path = self.origin_file();
        let bytes = match read_small(fs, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(&path, error)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| self.io(&path, io::Error::other(error)))
    }

    /// Pins the names at first start, or with `new_origin`; refuses other ones. `true`: they have changed.
    pub(super) fn pin(
        &self,
        fs: &dyn DurableFs,
        found: &PinnedOrigin,
        new_origin: bool,
    ) -> Result<bool, StateDirError> {
        let pinned = self.pinned(fs)?;
        match &pinned {
            Some(pinned) if pinned == found => return Ok(false),
            Some(pinned) if !new_origin => {
                return Err(StateDirError::OtherOrigin {
                    dir: self.root.display().to_string(),
                    pinned: pinned.clone(),
                    found: found.clone(),
                });
            }
            _ => {}
        }
        let path = self.origin_file();
        let bytes =
            serde_json::to_vec(found).map_err(|error| self.io(&path, io::Error::other(error)))?;
        fs.replace(&path, &bytes)
            .map_err(|error| self.io(&path, error))?;
        Ok(pinned.is_some())
    }

    fn io(&self, path: &Path, error: io::Error) -> StateDirError {
        StateDirError::Io {
            path: path.display().to_string(),
            error,
        }
    }
}

/// Reads a file of at most 64 KiB.
fn read_small(fs: &dyn DurableFs, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open_read(path)?;
    let len = usize::try_from(file.len()?.min(64 << 10)).unwrap_or(64 << 10);
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
