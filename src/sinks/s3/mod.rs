//! The s3 sink, for Amazon S3 and servers that speak its API: its configuration and the sink. Each batch becomes one
//! object whose key names its records, stored with `If-None-Match: *`, so that a repeated attempt stores nothing twice.
//!
//! Invariants: one attempt at one batch, no retry but for a wrong clock; an object that is there already counts as
//! ours only when the SHA-256 in its metadata is that of our body; what is wrong with the configuration stops the sink
//! and rejects no event; no upload in parts outlives the process that began it by more than its next start.

mod compare;

mod connection;

mod credentials;

mod key;

mod object;

mod probe;

mod settings;

mod store;

mod transport;

mod upload;

mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::compare::Found;
use self::connection::Connection;
use self::key::Key;
use self::object::{ENCODER_VERSION, Object, ObjectBuilder};
use self::settings::Settings;
use self::upload::Leftovers;
use super::http_connection::told;
use super::{
    Batch, BatchKey, BodyBuilder, BoxFuture, BuildError, Defaults, Holds, Opened, Outcome, Record,
    Seal, Sink, SinkConfig, SinkContext, SinkKind,
};
use crate::clock;

/// The kind.
pub static KIND: SinkKind = SinkKind {
    name: "s3",
    summary: "Stores events in Amazon S3 or a compatible server, as compressed JSON Lines objects named by their records.",
    fields: settings::FIELDS,
    defaults: Defaults {
        // Of the compressed object.
        batch_bytes: 16 << 20,
        batch_events: u64::MAX,
        batch_wait: Duration::from_secs(300),
        concurrency: 1,
        concurrency_max: 4,
        proxy: true,
        waits: true,
        sealed: true,
    },
    read: |section| Some(Box::new(Config(Arc::new(Settings::read(section)?)))),
};

/// The configuration, read.
#[derive(Debug)]
struct Config(Arc<Settings>);

impl SinkConfig for Config {
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError> {
        Ok(Arc::new(S3::new(self.0.clone(), context)?))
    }

    fn connect<'a>(
        &'a self,
        context: &'a SinkContext,
        setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let sink = S3::new(self.0.clone(), context).map_err(|error| error.to_string())?;
            sink.connect(setup).await.map_err(told)
        })
    }

    fn bare_secrets(&self) -> usize {
        self.0.bare_secrets()
    }
}

/// The sink.
struct S3 {
    settings: Arc<Settings>,
    context: SinkContext,
    connection: Connection,
    /// `<node>-<spool>-`.
    stem: String,
    /// Whether the server heeds `If-None-Match`; `None` before it was tried.
    conditional: Mutex<Option<bool>>,
    leftovers: Arc<Leftovers>,
    /// Whether uploads of an earlier run were looked for.
    swept: AtomicBool,
}

impl S3 {
    fn new(settings: Arc<Settings>, context: &SinkContext) -> Result<Self, BuildError> {
        let sink = S3 {
            connection: Connection::new(settings.clone(), context)?,
            stem: key::stem(&context.agent.node, &context.spool),
            conditional: Mutex::new(None),
            leftovers: Arc::default(),
            swept: AtomicBool::new(false),
            context: context.clone(),
            settings,
        };
        let labels = store::label_bytes(&context.labels);
        if labels > store::LABEL_BYTES_MAX {
            return Err(BuildError(format!(
                "`agent.labels` take {labels} bytes of an object's metadata, which hold {} beside what else stands there; make them fewer or shorter",
                store::LABEL_BYTES_MAX
            )));
        }
        Ok(sink)
    }

    fn heeds_conditions(&self) -> Option<bool> {
        *self
            .conditional
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn key_of(&self, object: &Object) -> Key {
        let prefix = self.settings.prefix.render(&object.origin, object.time_us);
        Key::new(
            &prefix,
            &self.stem,
            object.first,
            object.last,
            object.compression,
        )
    }

    /// The key that a seal names, where it is one that we could have given in the bucket that is configured now.
    fn sealed_key(&self, seal: &Seal) -> Option<Key> {
        let (bucket, key) = std::str::from_utf8(&seal.target).ok()?.split_once('/')?;
        if bucket != self.settings.bucket {
            return None;
        }
        Key::sealed(key, self.settings.compression)
    }

    /// Runs an attempt within the sink's time. `stores`: whether it may have stored something when the time is up.
    async fn in_time<T>(
        &self,
        stores: bool,
        attempt: impl Future<Output = Result<T, Outcome>>,
    ) -> Result<T, Outcome> {
        let limit = self.context.timeout;
        match clock::timeout(limit, attempt).await {
            Some(result) => result,
            None => Err(Outcome::Retry {
                after: None,
                reason: format!(
                    "{}: not done within {limit:.1?}; where the line is slow, raise `timeout` or lower `batch.bytes`",
                    self.settings.place()
                ),
                in_doubt: stores,
            }),
        }
    }

    async fn body(&self, batch: &Arc<Batch>) -> Result<Arc<Object>, Outcome> {
        let failed = |problem: String| Outcome::Retry {
            after: None,
            reason: format!("make the object: {problem}"),
            in_doubt: false,
        };
        if let Some(built) = &batch.body {
            return Arc::clone(&built.0)
                .downcast::<Object>()
                .map_err(|_| failed("the body is that of another sink".to_owned()));
        }
        let batch = batch.clone();
        let (compression, room) = (self.settings.compression, self.context.batch_bytes);
        tokio::task::spawn_blocking(move || Object::of(&batch.records, compression, room))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
            .map(Arc::new)
    }

    /// Of everything that decides the body's bytes before compression, and of the compression, which is in the key.
    fn encoder(&self) -> [u8; 16] {
        let text = format!("s3 {ENCODER_VERSION} {:?}", self.settings.compression);
        let hash: [u8; 32] = Sha256::digest(text).into();
        std::array::from_fn(|index| hash[index])
    }
}

impl Sink for S3 {
    fn open<'a>(&'a self, _mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        Box::pin(self.in_time(false, async {
            self.connection.renew().await;
            self.try_conditions().await?;
            if !self.swept.swap(true, Ordering::SeqCst) {
                self.sweep().await;
            }
            Ok(Opened {
                alarms: self.connection.take_alarms(),
                ..Opened::default()
            })
        }))
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let attempt = async {
                let object = self.body(&batch).await?;
                let sealed = batch.seal.as_ref().and_then(|seal| self.sealed_key(seal));
                let key = sealed.unwrap_or_else(|| self.key_of(&object));
                self.store(&object, &key).await
            };
            self.in_time(true, attempt)
                .await
                .unwrap_or_else(|outcome| outcome)
        })
    }

    fn weigh(&self, record: &Record) -> u64 {
        record.head.length + 1
    }

    fn batch_key(&self, record: &Record) -> BatchKey {
        BatchKey(record.origin.to_string().into_bytes())
    }

    fn begin_body(&self) -> Option<Box<dyn BodyBuilder>> {
        Some(Box::new(ObjectBuilder::new(
            self.settings.compression,
            self.context.batch_bytes,
        )))
    }

    fn seal(&self, batch: &Batch) -> Option<Seal> {
        let built;
        let object = match &batch.body {
            Some(body) => body.0.downcast_ref::<Object>()?,
            None => {
                let (compression, room) = (self.settings.compression, self.context.batch_bytes);
                built = Object::of(&batch.records, compression, room).ok()?;
                &built
            }
        };
        let key = self.key_of(object).ranked(0);
        Some(Seal {
            target: format!("{}/{key}", self.settings.bucket).into_bytes(),
            encoder: self.encoder(),
            sha256: object.sha256,
        })
    }

    fn look_up<'a>(&'a self, seal: &'a Seal) -> BoxFuture<'a, Result<Holds, Outcome>> {
        Box::pin(self.in_time(false, async {
            let text = std::str::from_utf8(&seal.target).unwrap_or_default();
            let Some((_, key)) = text
                .split_once('/')
                .filter(|(bucket, _)| *bucket == self.settings.bucket)
            else {
                return Ok(Holds::Unknown);
            };
            Ok(match self.find(&Key::any(key), &seal.sha256).await? {
                Found::Same(_) => Holds::Yes,
                Found::Free(_) => Holds::No,
            })
        }))
    }

    fn secrets_changed(&self) -> bool {
        self.connection.changed()
    }

    fn certificate_expiry(&self) -> Option<i64> {
        self.settings.tls.expiry()
    }
}

#[cfg(test)]
mod tests;
