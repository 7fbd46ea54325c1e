//! A sink's durable place: when it is stored, and how far ahead of it the sink may send (design R1).
//!
//! Invariants: nothing at or beyond the durable send limit is ever sent; the limit never moves back but by an orderly
//! stop; after a failed store the descriptor is not used again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::durable_fs::DurableFs;
use crate::spool::cursor::{CursorFile, CursorRecord};

/// Between two stores, unless one is needed out of turn.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// The send limit moves ahead by at least this many records.
const AHEAD_MIN: u64 = 10_000;

/// Where a sink's cursor is kept.
pub(super) fn cursor_path(state_dir: &Path, sink: &str) -> PathBuf {
    state_dir.join("sinks").join(format!("{sink}.cursor"))
}

/// The cursor file of one sink, and what stands in it.
pub(super) struct Place {
    fs: Arc<dyn DurableFs>,
    path: PathBuf,
    file: Option<CursorFile>,
    durable: CursorRecord,
    stored_at: Duration,
    /// Last store of more than a send limit. A limit out of turn must not put the cursor off: an agent that is
    /// killed again and again within a second would never get on.
    turn_at: Duration,
    taken: u64,
    taken_at_store: u64,
    taken_per_second: u64,
}

impl Place {
    /// Opens or makes the file; `None` where nothing was ever stored in it. Blocking.
    pub(super) fn open(
        fs: Arc<dyn DurableFs>,
        path: PathBuf,
        now: Duration,
    ) -> std::io::Result<(Place, Option<CursorRecord>)> {
        let (file, stored) = CursorFile::open(&*fs, &path)?;
        let durable = stored.clone().unwrap_or_default();
        let place = Place {
            fs,
            path,
            file: Some(file),
            taken: durable.cursor,
            taken_at_store: durable.cursor,
            durable,
            stored_at: now.saturating_sub(STORE_EVERY),
            turn_at: now.saturating_sub(STORE_EVERY),
            taken_per_second: 0,
        };
        Ok((place, stored))
    }

    /// Begins with `record`, whatever stood there before: a new sink, or one whose spool is another now. Stored at
    /// once, or a sink that starts "now" would start at another "now" after a crash. Blocking.
    pub(super) fn begin(&mut self, record: &CursorRecord) -> std::io::Result<()> {
        let file = self.file.take();
        let mut file = match file {
            Some(file) => file,
            None => CursorFile::open(&*self.fs, &self.path)?.0,
        };
        file.store(record)?;
        self.file = Some(file);
        (self.taken, self.taken_at_store) = (record.cursor, record.cursor);
        self.durable = record.clone();
        Ok(())
    }

    /// What is stored.
    pub(super) fn durable(&self) -> &CursorRecord {
        &self.durable
    }

    /// When the next store in turn may be.
    pub(super) fn due(&self) -> Duration {
        self.turn_at + STORE_EVERY
    }

    /// The send limit to store now, for a sink that has taken all below `next` and is about to send all below `end`.
    pub(super) fn limit_ahead(&mut self, next: u64, end: u64, now: Duration) -> u64 {
        let elapsed = now.saturating_sub(self.stored_at);
        self.taken = next.max(end);
        let taken = self.taken.saturating_sub(self.taken_at_store);
        // Out of turn, what part of a second took is taken for a whole one: too far ahead costs look-ups after a
        // crash, not far enough costs syncs now.
        self.taken_per_second = if elapsed > STORE_EVERY {
            let millis = elapsed.as_millis().max(1);
            u64::try_from(u128::from(taken) * 1000 / millis).unwrap_or(u64::MAX)
        } else {
            self.taken_per_second.max(taken)
        };
        let ahead = self.taken_per_second.saturating_mul(2).max(AHEAD_MIN);
        self.taken
            .saturating_add(ahead)
            .max(self.durable.send_limit)
    }

    /// Stores `record`, off the async workers. After an error nothing is known to be stored but what was before.
    pub(super) async fn store(
        &mut self,
        record: CursorRecord,
        now: Duration,
    ) -> Result<(), String> {
        let (fs, path, file) = (Arc::clone(&self.fs), self.path.clone(), self.file.take());
        let stored = record.clone();
        let write = move || -> std::io::Result<CursorFile> {
            let mut file = match file {
                Some(file) => file,
                None => CursorFile::open(&*fs, &path)?.0,
            };
            file.store(&record)?;
            Ok(file)
        };
        self.stored_at = now;
        let limit_alone = CursorRecord {
            send_limit: self.durable.send_limit,
            ..stored.clone()
        } == self.durable;
        if !limit_alone {
            self.turn_at = now;
        }
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(file)) => {
                self.file = Some(file);
                self.durable = stored;
                self.taken_at_store = self.taken;
                Ok(())
            }
            Ok(Err(error)) => Err(format!("store cursor in {}: {error}", self.path.display())),
            Err(panic) => Err(format!("store cursor in {}: {panic}", self.path.display())),
        }
    }
}
