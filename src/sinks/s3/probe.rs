//! What the server can do: whether it heeds `If-None-Match`, found with an object of our own that is no event, and what
//! `check --connect` tells of bucket and rights.

use std::sync::PoisonError;

use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_types::base64;
use sha2::{Digest, Sha256};

use super::S3;
use super::store::taken;
use super::verdict::Trouble;
use crate::sinks::Outcome;

/// What the probe holds.
const CONTENT: &[u8] = b"auditship tries here whether this server heeds If-None-Match\n";

/// What became of one write of the probe.
struct Probed {
    /// The bucket keeps versions: a deletion would leave two entries behind each time.
    versioned: bool,
}

impl S3 {
    /// Tries whether the server heeds `If-None-Match`, once for the life of the sink.
    pub(super) async fn try_conditions(&self) -> Result<bool, Outcome> {
        if let Some(known) = self.heeds_conditions() {
            return Ok(known);
        }
        let heeded = self.probe().await?;
        *self
            .conditional
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(heeded);
        if !heeded {
            tracing::warn!(
                "{} does not heed If-None-Match: before each object is stored it is looked whether one is there, which is no protection where others write under the same keys",
                self.settings.place()
            );
        }
        Ok(heeded)
    }

    async fn probe(&self) -> Result<bool, Outcome> {
        // Readers of the data (Athena, Trino, Spark) skip names that begin with a dot.
        let prefix = self.settings.prefix.of_agent(&self.context.agent);
        let key = format!("{prefix}.auditship-probe-{}", self.context.agent.node);
        let refused = |trouble: Trouble| match trouble.refusal() {
            Some(refusal)
                if refusal.status == 412
                    || refusal.status == 409 && !trouble.is(&["OperationAborted"]) =>
            {
                Ok(true)
            }
            Some(refusal) if refusal.status == 501 || refusal.code == "NotImplemented" => Ok(false),
            _ => Err(trouble.outcome("try to store", &self.settings.place(), false)),
        };
        // There from an earlier start, where it could not be deleted.
        let first = match self.put_probe(&key).await {
            Ok(first) => first,
            Err(trouble) => return refused(trouble),
        };
        let heeded = match self.put_probe(&key).await {
            Ok(_) => false,
            Err(trouble) if taken(&trouble) => true,
            Err(trouble) => refused(trouble)?,
        };
        if !first.versioned {
            self.delete_probe(&key).await;
        }
        Ok(heeded)
    }

    async fn put_probe(&self, key: &str) -> Result<Probed, Trouble> {
        let stored = self
            .connection
            .call(|client| {
                client
                    .put_object()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .if_none_match("*")
                    .content_type("text/plain")
                    .set_server_side_encryption(self.encryption())
                    .set_ssekms_key_id(self.settings.kms_key_id.clone())
                    .checksum_sha256(base64::encode(Sha256::digest(CONTENT)))
                    .body(ByteStream::from_static(CONTENT))
                    .send()
            })
            .await?;
        Ok(Probed {
            versioned: stored.version_id.is_some(),
        })
    }

    async fn delete_probe(&self, key: &str) {
        let deleted = self
            .connection
            .call(|client| {
                client
                    .delete_object()
                    .bucket(&self.settings.bucket)
                    .key(key)
                    .send()
            })
            .await;
        if let Err(trouble) = deleted {
            // It stays, one for each node, and says the same at the next start.
            tracing::debug!(key, ?trouble, "the probe stays where it is");
        }
    }

    /// `check --connect`.
    pub(super) async fn connect(&self, setup: bool) -> Result<Vec<String>, Outcome> {
        self.in_time(false, async {
            let mut lines = vec![self.see_bucket().await?];
            if self.settings.object_lock.is_some() {
                lines.push(self.see_lock().await?);
            }
            lines.push(match self.probe().await? {
                true => "may store objects; the server heeds If-None-Match".to_owned(),
                false => "may store objects; the server does not heed If-None-Match, so each object is looked for before it is stored".to_owned(),
            });
            lines.push(self.see_reading().await?);
            lines.push(self.see_uploads().await);
            if setup {
                lines.push("there is nothing to install in a bucket".to_owned());
            }
            lines.extend(self.connection.take_alarms().into_iter().map(|alarm| alarm.message));
            Ok(lines)
        })
        .await
    }

    async fn see_bucket(&self) -> Result<String, Outcome> {
        let seen = self
            .connection
            .call(|client| client.head_bucket().bucket(&self.settings.bucket).send())
            .await;
        let place = self.settings.place();
        match seen {
            Ok(bucket) => Ok(match bucket.bucket_region() {
                Some(region) => format!("{place} is there, in region {region}"),
                None => format!("{place} is there"),
            }),
            // A right of its own, which storing does not need; wrong credentials show next.
            Err(trouble) if trouble.is_status(403) => {
                Ok(format!("{place} cannot be looked at without s3:ListBucket"))
            }
            Err(trouble) if trouble.is_status(404) => Err(Outcome::Stop {
                reason: format!("there is no {place}; make it, or correct `bucket` and `endpoint`"),
            }),
            Err(trouble) => Err(trouble.outcome("look at the bucket", &place, false)),
        }
    }

    async fn see_lock(&self) -> Result<String, Outcome> {
        let seen = self
            .connection
            .call(|client| {
                client
                    .get_object_lock_configuration()
                    .bucket(&self.settings.bucket)
                    .send()
            })
            .await;
        match seen {
            Ok(_) => Ok("the bucket has Object Lock".to_owned()),
            Err(trouble) if trouble.is_status(404) => Err(Outcome::Stop {
                reason: format!(
                    "{} has no Object Lock; turn it on, or take `object_lock` out",
                    self.settings.place()
                ),
            }),
            Err(trouble) if trouble.is_status(403) => Ok(
                "whether the bucket has Object Lock cannot be seen without s3:GetBucketObjectLockConfiguration".to_owned(),
            ),
            Err(trouble) => Err(trouble.outcome("look at Object Lock", &self.settings.place(), false)),
        }
    }

    async fn see_reading(&self) -> Result<String, Outcome> {
        let prefix = self.settings.prefix.of_agent(&self.context.agent);
        let key = format!("{prefix}.auditship-nothing-{}", self.context.agent.node);
        let seen = self
            .connection
            .call(|client| {
                client
                    .head_object()
                    .bucket(&self.settings.bucket)
                    .key(&key)
                    .send()
            })
            .await;
        match seen {
            Ok(_) => Ok("may look at objects".to_owned()),
            Err(trouble) if trouble.is_status(404) => Ok("may look at objects".to_owned()),
            Err(trouble) if trouble.is_status(403) => Ok(
                "whether it may look at objects (s3:GetObject), as it must after an answer was lost, cannot be seen without s3:ListBucket".to_owned(),
            ),
            Err(trouble) => Err(trouble.outcome("look at an object", &self.settings.place(), false)),
        }
    }

    async fn see_uploads(&self) -> String {
        let seen = self
            .connection
            .call(|client| {
                client
                    .list_multipart_uploads()
                    .bucket(&self.settings.bucket)
                    .max_uploads(1)
                    .send()
            })
            .await;
        match seen {
            Ok(_) => "may list unfinished uploads".to_owned(),
            Err(_) => "may not list unfinished uploads (s3:ListBucketMultipartUploads): those that a killed agent leaves must be ended by a lifecycle rule".to_owned(),
        }
    }
}
