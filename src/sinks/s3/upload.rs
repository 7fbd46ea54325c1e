//! An object that is too large to be held: uploaded in parts, which are made as they are sent.
//!
//! Invariants: an upload is completed, or aborted, or remembered and aborted before the next attempt; what the process
//! could not remember is found by its key at the next start. Whether a completed upload counts is decided by looking
//! at the object, since the answer that says so may be lost, and comes too late to tell an error.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_types::base64;
use sha2::{Digest, Sha256};

use super::S3;
use super::compare::Held;
use super::object::{Object, Parts};
use super::store::{Written, stamped, taken};
use super::verdict::Trouble;
use crate::sinks::Outcome;

/// Bytes of a part. All but the last have at least 5 MiB, and there are at most 10,000 (S3's limits): objects up to
/// 80 GB.
const PART_BYTES: usize = 8 << 20;

/// Pages of stale uploads that are looked through, of 1,000 each.
const PAGES_MAX: usize = 20;

/// Uploads that must be aborted.
#[derive(Default)]
pub(super) struct Leftovers(Mutex<Vec<Leftover>>);

/// An upload that nobody goes on with.
#[derive(Clone, Debug)]
struct Leftover {
    key: String,
    /// `None`: begun without our seeing the answer.
    id: Option<String>,
}

impl Leftovers {
    fn add(&self, leftover: Leftover) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(leftover);
    }

    fn take(&self) -> Vec<Leftover> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An upload under way. Dropped before its end (the attempt ran out of time), it is remembered as a leftover.
struct Upload {
    key: String,
    id: String,
    leftovers: Arc<Leftovers>,
    over: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.over {
            self.leftovers.add(Leftover {
                key: self.key.clone(),
                id: Some(self.id.clone()),
            });
        }
    }
}

impl S3 {
    /// Uploads an object in parts.
    pub(super) async fn upload(
        &self,
        object: &Arc<Object>,
        key: &str,
        conditional: bool,
    ) -> Result<Written, Outcome> {
        let mut upload = self.begin(object, key).await?;
        let result = match self.send_parts(&upload, object).await {
            Ok(parts) => self.complete(&mut upload, object, parts, conditional).await,
            Err(outcome) => Err(outcome),
        };
        if !upload.over && self.abort(&upload.key, &upload.id).await {
            upload.over = true;
        }
        result
    }

    async fn begin(&self, object: &Object, key: &str) -> Result<Upload, Outcome> {
        let begun = self
            .connection
            .call(|client| {
                let stamp = self.stamp(object);
                stamped!(client.create_multipart_upload(), stamp)
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .checksum_algorithm(ChecksumAlgorithm::Sha256)
                    .send()
            })
            .await;
        let id = match begun {
            Ok(begun) => begun.upload_id,
            Err(trouble) => {
                if matches!(trouble, Trouble::Broken(_) | Trouble::Strange(_)) {
                    self.leftovers.add(Leftover {
                        key: key.to_owned(),
                        id: None,
                    });
                }
                return Err(trouble.outcome("begin an upload", &self.settings.place(), false));
            }
        };
        let id = id.ok_or_else(|| Outcome::Retry {
            after: None,
            reason: format!("{}: an upload without an id", self.settings.place()),
            in_doubt: false,
        })?;
        Ok(Upload {
            key: key.to_owned(),
            id,
            leftovers: self.leftovers.clone(),
            over: false,
        })
    }

    async fn send_parts(
        &self,
        upload: &Upload,
        object: &Arc<Object>,
    ) -> Result<Vec<CompletedPart>, Outcome> {
        let failed = |problem: String| Outcome::Retry {
            after: None,
            reason: format!("make a part of an object: {problem}"),
            in_doubt: false,
        };
        let mut parts = Parts::new(object, PART_BYTES);
        let mut sent = Vec::new();
        for number in 1.. {
            // Compression and reads from the spool take their time.
            let made = tokio::task::spawn_blocking(move || {
                let part = parts.next();
                (parts, part)
            });
            let part;
            (parts, part) = made.await.map_err(|error| failed(error.to_string()))?;
            let Some(part) = part.map_err(|error| failed(error.to_string()))? else {
                break;
            };
            let checksum = base64::encode(Sha256::digest(&part));
            let answer = self
                .connection
                .call(|client| {
                    client
                        .upload_part()
                        .bucket(&self.settings.bucket)
                        .key(&upload.key)
                        .upload_id(&upload.id)
                        .part_number(number)
                        .checksum_sha256(&checksum)
                        .body(ByteStream::from(part.clone()))
                        .send()
                })
                .await
                .map_err(|trouble| {
                    trouble.outcome("send a part of an object", &self.settings.place(), false)
                })?;
            sent.push(
                CompletedPart::builder()
                    .part_number(number)
                    .checksum_sha256(checksum)
                    .set_e_tag(answer.e_tag)
                    .build(),
            );
        }
        Ok(sent)
    }

    async fn complete(
        &self,
        upload: &mut Upload,
        object: &Object,
        parts: Vec<CompletedPart>,
        conditional: bool,
    ) -> Result<Written, Outcome> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let completed = self
            .connection
            .call(|client| {
                client
                    .complete_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(&upload.key)
                    .upload_id(&upload.id)
                    .multipart_upload(parts.clone())
                    .set_if_none_match(conditional.then(|| "*".to_owned()))
                    .send()
            })
            .await;
        let outcome = match completed {
            Err(trouble) if taken(&trouble) => return Ok(Written::Taken),
            // Completed before, or aborted by somebody else: there is nothing left to abort.
            Err(trouble) if trouble.is(&["NoSuchUpload"]) => {
                upload.over = true;
                Some(trouble.outcome("complete an upload", &self.settings.place(), true))
            }
            Err(trouble @ (Trouble::Broken(_) | Trouble::Strange(_))) => {
                Some(trouble.outcome("complete an upload", &self.settings.place(), true))
            }
            Err(trouble) => {
                return Err(trouble.outcome("complete an upload", &self.settings.place(), true));
            }
            Ok(_) => None,
        };
        // Even a success is looked at: a 200 may have an error in its body.
        match self.held(&upload.key, &object.sha256).await? {
            Held::Same => {
                upload.over = true;
                Ok(Written::Stored)
            }
            Held::Other => Ok(Written::Taken),
            Held::Nothing => Err(outcome.unwrap_or_else(|| Outcome::Retry {
                after: None,
                reason: format!("{} is not there after its upload", upload.key),
                in_doubt: true,
            })),
        }
    }

    /// Aborts an upload; `false`: it may still be there.
    async fn abort(&self, key: &str, id: &str) -> bool {
        let aborted = self
            .connection
            .call(|client| {
                client
                    .abort_multipart_upload()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .upload_id(id)
                    .send()
            })
            .await;
        match aborted {
            Ok(_) => true,
            Err(trouble) if trouble.is(&["NoSuchUpload"]) || trouble.is_status(404) => true,
            Err(trouble) => {
                tracing::debug!(key, ?trouble, "an upload could not be aborted yet");
                false
            }
        }
    }

    /// Aborts what earlier attempts left; what cannot be aborted now stays remembered.
    pub(super) async fn clear_leftovers(&self) {
        for leftover in self.leftovers.take() {
            let gone = match &leftover.id {
                Some(id) => self.abort(&leftover.key, id).await,
                None => {
                    self.abort_all(&leftover.key, |key| key == leftover.key)
                        .await
                }
            };
            if !gone {
                self.leftovers.add(leftover);
            }
        }
    }

    /// At the start: aborts uploads that an earlier run of this agent left.
    pub(super) async fn sweep(&self) {
        let prefix = self.settings.prefix.of_agent(&self.context.agent);
        if !self
            .abort_all(&prefix, |key| key.contains(&self.stem))
            .await
        {
            tracing::warn!(
                "{}: uploads that an earlier run left unfinished cannot be listed or aborted; give the credentials s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or a lifecycle rule to the bucket",
                self.settings.place()
            );
        }
    }

    /// Aborts all uploads below a prefix whose key is `ours`; `false`: some may still be there.
    async fn abort_all(&self, prefix: &str, ours: impl Fn(&str) -> bool) -> bool {
        let mut marker: (Option<String>, Option<String>) = (None, None);
        let mut all = true;
        for _ in 0..PAGES_MAX {
            let page = self
                .connection
                .call(|client| {
                    client
                        .list_multipart_uploads()
                        .bucket(&self.settings.bucket)
                        .prefix(prefix)
                        .set_key_marker(marker.0.clone())
                        .set_upload_id_marker(marker.1.clone())
                        .send()
                })
                .await;
            let page = match page {
                Ok(page) => page,
                // A server without uploads in parts has none to abort.
                Err(trouble) => return trouble.is(&["NotImplemented", "MethodNotAllowed"]),
            };
            for upload in page.uploads() {
                if let (Some(key), Some(id)) = (upload.key(), upload.upload_id())
                    && ours(key)
                {
                    all &= self.abort(key, id).await;
                }
            }
            if page.is_truncated() != Some(true) {
                return all;
            }
            marker = (page.next_key_marker, page.next_upload_id_marker);
        }
        false
    }
}
