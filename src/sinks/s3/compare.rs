//! Whether an object that is there is ours: its metadata against the hash of a body. Compressed bytes are never
//! compared, since another version of a compressor makes others of the same records.

use super::S3;
use super::key::Key;
use super::store::SHA256;
use crate::event::hex;
use crate::sinks::Outcome;

/// More objects than this under one name are nobody's accident.
pub(super) const RANKS_MAX: usize = 20;

/// What is under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Our records, byte for byte.
    Same,
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
}

/// Where a body is, or would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Under the key of this rank.
    Same(usize),
    /// Nowhere; the key of this rank is the first that is free.
    Free(usize),
}

impl S3 {
    /// What is under a key, compared with a body of this hash.
    pub(super) async fn held(&self, key: &str, sha256: &[u8; 32]) -> Result<Held, Outcome> {
        const DOING: &str = "look at an object";
        let found = self
            .connection
            .call(|client| {
                client
                    .head_object()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .send()
            })
            .await;
        match found {
            Ok(object) => {
                let stored = object.metadata().and_then(|all| all.get(SHA256));
                Ok(match stored {
                    Some(stored) if *stored == hex(sha256) => Held::Same,
                    _ => Held::Other,
                })
            }
            Err(trouble) if trouble.is_status(404) => Ok(Held::Nothing),
            Err(trouble) => Err(trouble.outcome(DOING, &self.settings.place(), false)),
        }
    }

    /// Looks for a body under a key and those that stand in for it.
    pub(super) async fn find(&self, key: &Key, sha256: &[u8; 32]) -> Result<Found, Outcome> {
        for rank in 0..RANKS_MAX {
            match self.held(&key.ranked(rank), sha256).await? {
                Held::Same => return Ok(Found::Same(rank)),
                Held::Nothing => return Ok(Found::Free(rank)),
                Held::Other => {}
            }
        }
        Err(self.crowded(key))
    }

    /// Every key for these records is taken.
    pub(super) fn crowded(&self, key: &Key) -> Outcome {
        Outcome::Stop {
            reason: format!(
                "{}: {} and {} more keys for the same records hold something else; find out who writes there, and move it away",
                self.settings.place(),
                key.ranked(0),
                RANKS_MAX - 1
            ),
        }
    }
}
