//! The elasticsearch sink, for Elasticsearch (8 and later) and OpenSearch (2 and later): its configuration and the
//! sink. Bulk `create` with the event id as `_id`, so that a repeated attempt stores nothing twice.
//!
//! Invariants: one attempt at one batch, no retry; nothing that the server did not confirm, or that was not read
//! back and found the same, is reported as delivered; what is wrong with the configuration stops the sink and
//! rejects no event.

mod body;

mod bulk;

mod conflict;

mod connection;

mod settings;

mod template;

mod verdict;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use self::body::Encoder;
use self::bulk::Bulk;
use self::conflict::Comparison;
use self::connection::{Attempt, Call, Connection, Refused as _};
use self::settings::{Document, Settings, Target};
use self::template::Product;
use super::http_connection::{Auth, told};
use super::names::{Names, Place};
use super::{
    Batch, BoxFuture, BuildError, Defaults, Opened, Outcome, Record, Sink, SinkConfig, SinkContext,
    SinkKind,
};

/// The kind.
pub static KIND: SinkKind = SinkKind {
    name: "elasticsearch",
    summary: "Stores events in Elasticsearch or OpenSearch, each once, under the event id.",
    fields: settings::FIELDS,
    defaults: Defaults {
        batch_bytes: 5 << 20,
        batch_events: 10_000,
        batch_wait: Duration::from_secs(1),
        concurrency: 4,
        concurrency_max: 16,
        proxy: true,
        waits: false,
        sealed: false,
    },
    read: |section| Some(Box::new(Config(Arc::new(Settings::read(section)?)))),
};

/// A buffer larger than this is not kept for the next batch: most bodies are below it when they are compressed.
const KEPT_BUFFER_BYTES: usize = 2 << 20;

/// Buffers kept for the next batches.
const KEPT_BUFFERS: usize = 4;

/// The configuration, read.
#[derive(Debug)]
struct Config(Arc<Settings>);

impl SinkConfig for Config {
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError> {
        Ok(Arc::new(Elasticsearch::new(self.0.clone(), context)?))
    }

    fn connect<'a>(
        &'a self,
        context: &'a SinkContext,
        setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let sink =
                Elasticsearch::new(self.0.clone(), context).map_err(|error| error.to_string())?;
            sink.connect(setup).await.map_err(told)
        })
    }

    fn bare_secrets(&self) -> usize {
        self.0.access.auth.as_ref().map_or(0, Auth::bare_secrets)
    }
}

/// The sink.
struct Elasticsearch {
    name: String,
    settings: Arc<Settings>,
    encoder: Arc<Encoder>,
    connection: Connection,
    /// Path and query of the bulk request.
    bulk_path: String,
    /// Loaded before its first use; only with a name that depends on the event.
    names: Arc<Mutex<Option<Names>>>,
    context: SinkContext,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Elasticsearch {
    fn new(settings: Arc<Settings>, context: &SinkContext) -> Result<Self, BuildError> {
        Ok(Elasticsearch {
            name: context.name.clone(),
            encoder: Arc::new(Encoder::new(
                settings.document,
                settings.gzip,
                &context.labels,
            )),
            connection: Connection::new(settings.access.clone(), context)?,
            bulk_path: bulk_path(&settings),
            names: Arc::default(),
            context: context.clone(),
            buffers: Mutex::default(),
            settings,
        })
    }

    fn comparison(&self) -> Comparison {
        Comparison {
            document: self.settings.document,
            pipeline: self.settings.pipeline.is_some(),
        }
    }

    /// The index of each record; empty where all go to the one in the request's path.
    async fn index_names(&self, batch: &Arc<Batch>) -> Result<Vec<String>, Outcome> {
        let Target::Template(template) = &self.settings.target else {
            return Ok(Vec::new());
        };
        let wanted = batch
            .records
            .iter()
            .map(|record| template.index_of(record))
            .collect();
        let (slot, prefix) = (self.names.clone(), template.prefix().to_owned());
        let place = Place {
            fs: self.context.fs.clone(),
            path: self.context.state_dir.join("index-names"),
            noun: "index",
        };
        let work = move || {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                *slot = Some(Names::load(place, &prefix)?);
            }
            slot.as_mut()
                .map_or(Ok(Vec::new()), |names| names.admit(wanted))
        };
        let problem =
            |problem: String| verdict::again(format!("keep the set of index names: {problem}"));
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| problem(error.to_string()))?
            .map_err(|error| problem(error.to_string()))
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default()
    }

    /// Keeps a sent body's allocation, where nobody else holds it any more.
    fn give_back(&self, body: Bytes) {
        let Ok(buffer) = body.try_into_mut() else {
            return;
        };
        let buffer = Vec::from(buffer);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() <= KEPT_BUFFER_BYTES && buffers.len() < KEPT_BUFFERS {
            buffers.push(buffer);
        }
    }

    async fn connect(&self, setup: bool) -> Result<Vec<String>, Outcome> {
        let mut lines = Vec::new();
        let mut product = Product::Elasticsearch;
        for attempt in self.connection.attempts() {
            let (found, line) = greet(&attempt).await?;
            product = found;
            lines.push(line);
        }
        let attempt = self.connection.attempt();
        if !self.settings.managed_template {
            lines.push(format!(
                "the mapping of {} is left to you",
                self.settings.target.describe()
            ));
        } else {
            if setup {
                lines.push(template::install(&attempt, &self.settings, product).await?);
            }
            lines.push(match template::check(&attempt, &self.settings).await? {
                None => format!(
                    "the index template is in force for {}",
                    self.settings.target.describe()
                ),
                Some(alarm) => alarm.message,
            });
        }
        lines.push(self.check_rights(&attempt).await?);
        Ok(lines)
    }

    /// Whether the credentials may do what the sink does, without writing anything.
    async fn check_rights(&self, attempt: &Attempt<'_>) -> Result<String, Outcome> {
        const DOING: &str = "checking rights";
        let target = self.settings.target.describe();
        if self.settings.verify_conflicts {
            let query = r#"{"size":0,"query":{"match_none":{}}}"#.to_owned();
            let path = format!(
                "/{}/_search?ignore_unavailable=true",
                self.settings.target.pattern()
            );
            let answer = attempt.call(Call::post(DOING, &path, query)).await?;
            match answer.status {
                200 | 404 => {}
                403 => {
                    let advice = "give the credentials the right to read there, or set `verify_conflicts = false`";
                    return Err(Outcome::Stop {
                        reason: format!("not allowed to read {target}; {advice}"),
                    });
                }
                _ => return Err(attempt.refused(&answer, DOING)),
            }
        }
        let wanted = serde_json::json!({ "index": [{ "names": [target], "privileges": ["create_doc", "auto_configure"] }] });
        let call = Call::post(DOING, "/_security/user/_has_privileges", wanted.to_string());
        let answer = attempt.call(call).await?;
        let rights: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match rights
            .get("has_all_requested")
            .and_then(serde_json::Value::as_bool)
        {
            Some(true) => Ok(format!("may create events in {target}")),
            Some(false) => Err(Outcome::Stop {
                reason: format!(
                    "not allowed to create events in {target}: grant `create_doc` and `auto_configure`"
                ),
            }),
            None => Ok(format!(
                "whether it may create events in {target} cannot be seen here without writing one"
            )),
        }
    }
}

/// Logs in at an endpoint: who is there, and a line that says so.
async fn greet(attempt: &Attempt<'_>) -> Result<(Product, String), Outcome> {
    const DOING: &str = "log in";
    let answer = attempt.call(Call::get(DOING, "/")).await?;
    let about: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |pointer: &str| about.pointer(pointer).and_then(serde_json::Value::as_str);
    let (product, word) = match text("/version/distribution") {
        Some("opensearch") => (Product::OpenSearch, "OpenSearch"),
        _ => (Product::Elasticsearch, "Elasticsearch"),
    };
    match answer.status {
        200 => {
            let Some(version) = text("/version/number") else {
                let reason = format!(
                    "{} is no Elasticsearch or OpenSearch server; check `endpoints`",
                    attempt.endpoint()
                );
                return Err(Outcome::Stop { reason });
            };
            Ok((
                product,
                format!("{word} {version} at {}", attempt.endpoint()),
            ))
        }
        // Logged in, but not allowed to ask; or a server without this page.
        403 | 405 => Ok((
            product,
            format!(
                "a server that does not tell its version at {}",
                attempt.endpoint()
            ),
        )),
        _ => Err(attempt.refused(&answer, DOING)),
    }
}

/// Answers hold only what a verdict needs: on 10,000 items that is 0.6 MB instead of 2.5.
fn bulk_path(settings: &Settings) -> String {
    const FILTER: &str =
        "filter_path=items.*._index,items.*.status,items.*.error,items.*.failure_store";
    let target = match &settings.target {
        Target::DataStream(name) | Target::Index(name) => format!("/{name}"),
        Target::Template(_) => String::new(),
    };
    let pipeline = settings
        .pipeline
        .as_ref()
        .map(|name| format!("&pipeline={name}"))
        .unwrap_or_default();
    format!("{target}/_bulk?{FILTER}{pipeline}")
}

impl Sink for Elasticsearch {
    fn open<'a>(&'a self, _mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        Box::pin(async move {
            self.connection
                .refresh()
                .map_err(|reason| Outcome::Stop { reason })?;
            if !self.settings.managed_template {
                return Ok(Opened::default());
            }
            let attempt = self.connection.attempt();
            let alarms = template::check(&attempt, &self.settings)
                .await?
                .into_iter()
                .collect();
            Ok(Opened {
                alarms,
                ..Opened::default()
            })
        })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        Box::pin(Bulk::new(self, batch).run())
    }

    fn weigh(&self, record: &Record) -> u64 {
        self.encoder.weigh(record)
    }

    fn secrets_changed(&self) -> bool {
        self.connection.changed()
    }

    fn certificate_expiry(&self) -> Option<i64> {
        self.connection.certificate_expiry()
    }
}

#[cfg(test)]
mod tests;
