//! One attempt at storing one object.
//!
//! Invariants: nothing is ever written over something else where the server heeds conditions; the body's SHA-256 is
//! signed and sent as a checksum too, so a body that arrives cut or changed is refused; an object under our key that
//! is not ours is alarmed, left alone, and ours is stored beside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};
use aws_smithy_types::base64;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::S3;
use super::compare::{Held, RANKS_MAX};
use super::key::Key;
use super::object::Object;
use super::settings::{Compression, LockMode, Sse};
use super::verdict::Trouble;
use crate::event::hex;
use crate::sinks::{Alarm, Outcome};

/// Metadata: hex SHA-256 of the body before compression.
pub(super) const SHA256: &str = "auditship-sha256";

/// All user metadata of an object may have 2 KB; the rest of ours takes less than 800 bytes.
pub(super) const LABEL_BYTES_MAX: usize = 1200;

/// What stands before a label's name in metadata.
const LABEL: &str = "auditship-label-";

/// What became of a write under a condition.
pub(super) enum Written {
    /// Stored by this request.
    Stored,
    /// Something is there already.
    Taken,
}

/// Everything about an object but its body.
#[derive(Clone)]
pub(super) struct Stamp {
    pub(super) content_type: &'static str,
    pub(super) metadata: HashMap<String, String>,
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) kms_key_id: Option<String>,
    pub(super) storage_class: Option<StorageClass>,
    pub(super) lock_mode: Option<ObjectLockMode>,
    pub(super) retain_until: Option<DateTime>,
}

/// Puts a stamp on a request: the SDK has one builder for each of the two, with the same setters.
macro_rules! stamped {
    ($builder:expr, $stamp:expr) => {
        $builder
            .content_type($stamp.content_type)
            .set_metadata(Some($stamp.metadata))
            .set_server_side_encryption($stamp.encryption)
            .set_ssekms_key_id($stamp.kms_key_id)
            .set_storage_class($stamp.storage_class)
            .set_object_lock_mode($stamp.lock_mode)
            .set_object_lock_retain_until_date($stamp.retain_until)
    };
}
pub(super) use stamped;

impl S3 {
    /// Stores an object under its key, or beside what is there.
    pub(super) async fn store(&self, object: &Arc<Object>, key: &Key) -> Result<Outcome, Outcome> {
        self.clear_leftovers().await;
        if self.heeds_conditions().is_none() {
            self.try_conditions().await?;
        }
        let mut conflicts = Vec::new();
        for rank in 0..RANKS_MAX {
            let name = key.ranked(rank);
            let held = match self.write(object, &name).await? {
                Written::Stored => Held::Same,
                Written::Taken => self.held(&name, &object.sha256).await?,
            };
            match held {
                Held::Same => return Ok(self.delivered(conflicts)),
                Held::Other => conflicts.push(conflict(&name, &key.ranked(rank + 1))),
                Held::Nothing => {
                    return Err(Outcome::Retry {
                        after: None,
                        reason: format!("{name} was there a moment ago and is gone"),
                        in_doubt: false,
                    });
                }
            }
        }
        Err(self.crowded(key))
    }

    async fn write(&self, object: &Arc<Object>, key: &str) -> Result<Written, Outcome> {
        let conditional = self.heeds_conditions() == Some(true);
        let body = object.whole();
        // A server without conditions would write over what is there; and where parts are to be sent, looking first
        // costs little and may save much.
        if !conditional || body.is_none() {
            match self.held(key, &object.sha256).await? {
                Held::Same => return Ok(Written::Stored),
                Held::Other => return Ok(Written::Taken),
                Held::Nothing => {}
            }
        }
        match body {
            Some(body) => self.put(object, key, body, conditional).await,
            None => self.upload(object, key, conditional).await,
        }
    }

    async fn put(
        &self,
        object: &Object,
        key: &str,
        body: Bytes,
        conditional: bool,
    ) -> Result<Written, Outcome> {
        let checksum = base64::encode(Sha256::digest(&body));
        let length = body.len();
        let stored = self
            .connection
            .call(|client| {
                // The clock may have been set right since.
                let stamp = self.stamp(object);
                stamped!(client.put_object(), stamp)
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .set_if_none_match(conditional.then(|| "*".to_owned()))
                    .checksum_sha256(&checksum)
                    .body(ByteStream::from(body.clone()))
                    .send()
            })
            .await;
        match stored {
            Ok(_) => {
                tracing::debug!(key, bytes = length, events = object.count, "stored");
                Ok(Written::Stored)
            }
            Err(trouble) if taken(&trouble) => Ok(Written::Taken),
            Err(trouble) => Err(trouble.outcome("store an object", &self.settings.place(), true)),
        }
    }

    fn delivered(&self, mut alarms: Vec<Alarm>) -> Outcome {
        alarms.extend(self.connection.take_alarms());
        Outcome::Delivered {
            mark: None,
            except: Vec::new(),
            alarms,
        }
    }

    /// What is said of an object beside its body.
    pub(super) fn stamp(&self, object: &Object) -> Stamp {
        let settings = &self.settings;
        let mut metadata: HashMap<String, String> = [
            (SHA256, hex(&object.sha256)),
            ("auditship-bytes", object.length.to_string()),
            ("auditship-count", object.count.to_string()),
            ("auditship-first", object.first_position.to_string()),
            ("auditship-last", object.last_position.to_string()),
            ("auditship-origin", plain(&object.origin.to_string())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        metadata.extend(labels(&self.context.labels));
        let lock = settings.object_lock;
        Stamp {
            content_type: match object.compression {
                Compression::Zstd => "application/zstd",
                Compression::Gzip => "application/gzip",
                Compression::None => "application/x-ndjson",
            },
            metadata,
            encryption: self.encryption(),
            kms_key_id: settings.kms_key_id.clone(),
            storage_class: settings.storage_class.as_deref().map(StorageClass::from),
            lock_mode: lock.map(|lock| match lock.mode {
                LockMode::Governance => ObjectLockMode::Governance,
                LockMode::Compliance => ObjectLockMode::Compliance,
            }),
            retain_until: lock.map(|lock| {
                let now = self.connection.signing_clock.micros().0 / 1_000_000;
                DateTime::from_secs(now + i64::from(lock.days) * 86_400)
            }),
        }
    }

    pub(super) fn encryption(&self) -> Option<ServerSideEncryption> {
        self.settings.sse.map(|sse| match sse {
            Sse::Aes256 => ServerSideEncryption::Aes256,
            Sse::Kms => ServerSideEncryption::AwsKms,
        })
    }
}

/// Whether a write was refused because something is there.
pub(super) fn taken(trouble: &Trouble) -> bool {
    trouble.is_status(412)
}

fn conflict(key: &str, next: &str) -> Alarm {
    Alarm {
        reason: "conflict",
        message: format!(
            "{key} holds something that we did not store; it is left alone and the events go to {next}"
        ),
    }
}

/// Labels as metadata.
fn labels(labels: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    labels.iter().map(|(name, value)| {
        // A header's name has fewer characters than a label's, and no case.
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        (format!("{LABEL}{name}"), plain(value))
    })
}

/// Bytes that labels take in metadata.
pub(super) fn label_bytes(all: &BTreeMap<String, String>) -> usize {
    labels(all)
        .map(|(name, value)| name.len() + value.len())
        .sum()
}

/// A value that is the same in every server's metadata: what is not visible ASCII is percent-encoded.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x20 | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            byte => out.push(char::from(byte)),
        }
    }
    out
}
