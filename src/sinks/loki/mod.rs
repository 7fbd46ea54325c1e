//! The loki sink, for Grafana Loki (3 and later) and servers that take its push API: its configuration and the sink.
//! One stream for each origin, one stream in a push, one push in flight, lines in time order.
//!
//! A 204 of Loki does not say that all was stored: a line that is too far behind can be lost without a word. So what
//! Loki would refuse for its time or length is found before anything is sent ([`order`], design R14). To Loki the same
//! timestamp, line and metadata are one line, so a batch that may be stored already is sent again as it was, byte for
//! byte.
//!
//! Invariants: one attempt at one batch, no retry; a line that is reported as delivered was in a push that Loki took
//! whole; what is wrong with the configuration stops the sink and rejects no event.

mod encoder;

mod fields;

mod labels;

mod line;

mod order;

mod pace;

mod push;

mod settings;

mod verdict;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::encoder::{Encoded, Encoder};
use self::labels::Labels;
use self::order::{Nanos, Order, Plan, StreamKey, Timeliness};
use self::pace::Pace;
use self::push::Push;
use self::settings::Settings;
use super::http_connection::{Attempt, Auth, Call, Connection, told};
use super::{
    Batch, BatchKey, BoxFuture, BuildError, Defaults, Opened, Outcome, Record, Rejection,
    RejectionKind, Seal, Sink, SinkConfig, SinkContext, SinkKind, Verdict,
};
use crate::clock::Micros;
use crate::net::http_client::{Answer, Method};

/// The kind.
pub static KIND: SinkKind = SinkKind {
    name: "loki",
    summary: "Stores events in Grafana Loki, each once, in one stream for each source.",
    fields: settings::FIELDS,
    defaults: Defaults {
        batch_bytes: 2 << 20,
        batch_events: 10_000,
        batch_wait: Duration::from_secs(1),
        concurrency: 1,
        concurrency_max: 1,
        proxy: true,
        waits: false,
        sealed: true,
    },
    read: |section| Some(Box::new(Config(Settings::read(section)?))),
};

/// Longest push before compression. A server takes 4 MiB (`grpc_server_max_recv_msg_size`) with what it adds itself.
const PUSH_BYTES_MAX: usize = 3 << 20;

/// What a batch is cut at where the configuration allows more: with room for what weighing does not see.
const BATCH_BYTES_MAX: u64 = 5 << 19;

/// Added to the endpoint.
const PUSH_PATH: &str = "/loki/api/v1/push";

/// The configuration, read.
#[derive(Debug)]
struct Config(Settings);

impl SinkConfig for Config {
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError> {
        Ok(Arc::new(Loki::new(&self.0, context)?))
    }

    fn connect<'a>(
        &'a self,
        context: &'a SinkContext,
        setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let sink = Loki::new(&self.0, context).map_err(|error| error.to_string())?;
            let mut lines = Vec::new();
            for attempt in sink.connection.attempts() {
                lines.push(sink.log_in(&attempt).await.map_err(told)?);
            }
            if setup {
                lines.push("Loki needs nothing installed".to_owned());
            }
            Ok(lines)
        })
    }

    fn bare_secrets(&self) -> usize {
        self.0.access.auth.as_ref().map_or(0, Auth::bare_secrets)
    }
}

/// The sink.
struct Loki {
    encoder: Arc<Encoder>,
    connection: Connection,
    order: Arc<Mutex<Order>>,
    /// The push that was made to seal a batch, until the batch is sent, so that it is made once.
    sealed: Arc<Mutex<Option<Sealed>>>,
    pace: Mutex<Pace>,
    context: SinkContext,
}

/// A push with all of a batch, and which batch that is.
struct Sealed {
    records: Range,
    seal: Seal,
    encoded: Encoded,
}

/// First and last record, and how many there are.
type Range = (u64, u64, usize);

fn range(batch: &Batch) -> Option<Range> {
    let (first, last) = (batch.records.first()?, batch.records.last()?);
    Some((first.number, last.number, batch.records.len()))
}

/// A batch that was looked at and encoded.
enum Ready {
    /// To be sent.
    Push(Parcel),
    /// Nothing is left to be sent.
    Nothing(Vec<(u64, Verdict)>),
}

/// A push, encoded.
struct Parcel {
    body: Vec<u8>,
    stream: StreamKey,
    span: (Nanos, Nanos),
    /// What is not in it, and why.
    except: Vec<(u64, Verdict)>,
}

impl Loki {
    fn new(settings: &Settings, context: &SinkContext) -> Result<Self, BuildError> {
        let labels = Labels::new(&settings.labels, &context.labels).map_err(BuildError)?;
        Ok(Loki {
            encoder: Arc::new(Encoder::new(settings, labels)),
            connection: Connection::new(settings.access.clone(), context)?,
            order: Arc::new(Mutex::new(Order::new(settings.limits))),
            sealed: Arc::default(),
            pace: Mutex::default(),
            context: context.clone(),
        })
    }

    /// Pushes a stream without lines, of which nothing is stored: whether we are let in, as this tenant.
    async fn log_in(&self, attempt: &Attempt<'_>) -> Result<String, Outcome> {
        const DOING: &str = "log in";
        let body = self
            .encoder
            .empty(&self.context.agent)
            .map_err(|error| again(format!("{DOING}: {error}")))?;
        let answer = self.post(attempt, DOING, body, false).await?;
        match verdict::login(&answer, DOING, attempt.now()) {
            None => Ok(format!("may push to {}", attempt.endpoint())),
            Some(outcome) => Err(outcome),
        }
    }

    async fn post(
        &self,
        attempt: &Attempt<'_>,
        doing: &'static str,
        body: Vec<u8>,
        stores: bool,
    ) -> Result<Answer, Outcome> {
        let encoding = self.encoder.encoding();
        let call = Call {
            doing,
            method: Method::POST,
            path: PUSH_PATH,
            body: Some(body.into()),
            content_type: encoding.content_type(),
            content_encoding: encoding.content_encoding(),
            stores,
        };
        attempt.call(call).await
    }

    async fn push(&self, batch: Arc<Batch>) -> Result<Outcome, Outcome> {
        const DOING: &str = "push";
        let (first, count) = match batch.records.as_slice() {
            [] => return Ok(delivered(Vec::new(), None)),
            records => (records[0].number, records.len()),
        };
        let parcel = match self.prepare(batch).await? {
            Ready::Nothing(except) => return Ok(delivered(except, None)),
            Ready::Push(parcel) => parcel,
        };
        // From here on any of it may be stored, whatever is answered.
        let (oldest, newest) = parcel.span;
        lock(&self.order).sending(parcel.stream, oldest, newest);
        let attempt = self.connection.attempt();
        let answer = self.post(&attempt, DOING, parcel.body, true).await?;
        match verdict::refused(&answer, DOING, attempt.now()) {
            None => {
                lock(&self.pace).taken();
                Ok(delivered(parcel.except, Some(lock(&self.order).mark())))
            }
            Some(outcome) if answer.status == 429 => {
                Err(lock(&self.pace).refused(first, count, outcome))
            }
            Some(outcome) => Err(outcome),
        }
    }

    /// Decides what of the batch can be sent now, and encodes it, off the runtime.
    async fn prepare(&self, batch: Arc<Batch>) -> Result<Ready, Outcome> {
        let (encoder, order) = (Arc::clone(&self.encoder), Arc::clone(&self.order));
        let now = self.context.clock.now().0.saturating_mul(1000);
        let sealed = lock(&self.sealed).take().filter(|sealed| {
            range(&batch) == Some(sealed.records) && batch.seal.as_ref() == Some(&sealed.seal)
        });
        let sealed = sealed.map(|sealed| sealed.encoded);
        let work = move || prepare(&encoder, &order, &batch, sealed, now);
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|panic| Err(again(format!("encode a push: {panic}"))))
    }
}

fn prepare(
    encoder: &Encoder,
    order: &Mutex<Order>,
    batch: &Batch,
    sealed: Option<Encoded>,
    now: Nanos,
) -> Result<Ready, Outcome> {
    let times: Vec<Nanos> = batch.records.iter().map(line::timestamp).collect();
    let Some(first) = batch.records.first() else {
        return Ok(Ready::Nothing(Vec::new()));
    };
    let stream = StreamKey::of(&encoder.stream(first));
    let verdicts = {
        let mut order = lock(order);
        match order.plan(stream, now, &times) {
            Plan::Push(verdicts) => verdicts,
            Plan::MarkFirst => return Err(Outcome::MarkFirst { mark: order.mark() }),
            Plan::Halve => {
                return Err(halve(
                    "time span",
                    "its lines are too far apart for one push",
                ));
            }
        }
    };
    let good = |at: usize| verdicts[at] == Timeliness::Good;
    let encoded = match sealed.filter(|_| (0..times.len()).all(good)) {
        Some(sealed) => sealed,
        None => {
            let encoded = encoder.encode(batch, &times, good);
            match encoded.map_err(|error| again(format!("read a line: {error}")))? {
                Some(encoded) => encoded,
                None => return Ok(Ready::Nothing(Vec::new())),
            }
        }
    };
    let mut except: Vec<(u64, Verdict)> = Vec::new();
    for (record, (time, verdict)) in batch.records.iter().zip(times.iter().zip(&verdicts)) {
        let rejection = untimely(*time, *verdict, batch.in_doubt);
        except.extend(rejection.map(|rejection| (record.number, Verdict::Rejected(rejection))));
    }
    for at in encoded.too_long {
        except.push((batch.records[at].number, Verdict::Rejected(too_long())));
    }
    except.sort_by_key(|(number, _)| *number);
    let Some(span) = encoded.span else {
        return Ok(Ready::Nothing(except));
    };
    if encoded.push.len() > PUSH_BYTES_MAX && batch.records.len() > 1 {
        return Err(halve("push too large", "it is larger than a server takes"));
    }
    Ok(Ready::Push(Parcel {
        body: finish(encoded.push)?,
        stream,
        span,
        except,
    }))
}

/// The weight of a record in a batch that is cut at `batch_bytes`, so that it is cut at [`BATCH_BYTES_MAX`] at the latest.
fn scaled(weight: u64, batch_bytes: u64) -> u64 {
    let over = batch_bytes.max(BATCH_BYTES_MAX);
    let scaled = u128::from(weight) * u128::from(over) / u128::from(BATCH_BYTES_MAX);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn finish(push: Push) -> Result<Vec<u8>, Outcome> {
    push.finish()
        .map_err(|error| again(format!("compress a push: {error}")))
}

/// Why a line is not sent now, where it is not. Many lines too far in the future are the fault of a clock: refusals of
/// that kind stop the sink instead of burying everything.
fn untimely(time: Nanos, verdict: Timeliness, in_doubt: bool) -> Option<Rejection> {
    let told = |time: Nanos| Micros(time.div_euclid(1000)).rfc3339();
    let (kind, class, reason) = match verdict {
        Timeliness::Good => return None,
        Timeliness::TooOld => (
            RejectionKind::KnownLimit,
            "too old",
            format!("its time {} is further back than `max_age`", told(time)),
        ),
        Timeliness::TooNew => (
            RejectionKind::Refused,
            "too new",
            format!(
                "its time {} is further in the future than `max_ahead`; is a clock wrong?",
                told(time)
            ),
        ),
        Timeliness::Behind { newest } => (
            RejectionKind::KnownLimit,
            "too far behind",
            format!(
                "its time {} is further behind the newest of its stream, {}, than `max_behind`",
                told(time),
                told(newest)
            ),
        ),
    };
    let known = if in_doubt {
        "; it may be stored by an earlier attempt"
    } else {
        ""
    };
    Some(Rejection {
        kind,
        class: class.to_owned(),
        reason: format!("{reason}{known}"),
    })
}

fn too_long() -> Rejection {
    Rejection {
        kind: RejectionKind::KnownLimit,
        class: "line too long".to_owned(),
        reason: "its line is longer than `line_max`".to_owned(),
    }
}

fn halve(class: &str, reason: &str) -> Outcome {
    Outcome::Split {
        verdict: Rejection {
            kind: RejectionKind::TooLarge,
            class: class.to_owned(),
            reason: reason.to_owned(),
        },
    }
}

fn again(reason: String) -> Outcome {
    Outcome::Retry {
        after: None,
        reason,
        in_doubt: false,
    }
}

fn delivered(except: Vec<(u64, Verdict)>, mark: Option<Vec<u8>>) -> Outcome {
    Outcome::Delivered {
        mark,
        except,
        alarms: Vec::new(),
    }
}

/// What is behind these locks is whole at every moment, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for Loki {
    fn open<'a>(&'a self, mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        Box::pin(async move {
            self.connection
                .refresh()
                .map_err(|reason| Outcome::Stop { reason })?;
            if !lock(&self.order).restore(mark.unwrap_or_default()) {
                tracing::warn!(
                    sink = self.context.name,
                    "what was remembered of its streams cannot be read; Loki alone says now what is too far behind"
                );
            }
            self.log_in(&self.connection.attempt()).await?;
            Ok(Opened::default())
        })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { self.push(batch).await.unwrap_or_else(|outcome| outcome) })
    }

    fn weigh(&self, record: &Record) -> u64 {
        scaled(self.encoder.weigh(record), self.context.batch_bytes)
    }

    fn batch_key(&self, record: &Record) -> BatchKey {
        BatchKey(self.encoder.key(record))
    }

    fn seal(&self, batch: &Batch) -> Option<Seal> {
        let (seal, encoded) = match self.encoder.seal(batch) {
            Ok(sealed) => sealed?,
            Err(error) => {
                let sink = &self.context.name;
                tracing::warn!(sink, "read a line to seal a batch: {error}");
                return None;
            }
        };
        *lock(&self.sealed) = range(batch).map(|records| Sealed {
            records,
            seal: seal.clone(),
            encoded,
        });
        Some(seal)
    }

    fn secrets_changed(&self) -> bool {
        self.connection.changed()
    }

    fn certificate_expiry(&self) -> Option<i64> {
        self.connection.certificate_expiry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_batch_may_hold_it_is_cut_before_a_push_would_be_too_large() {
        for (batch_bytes, cut_at) in [
            (64 << 10, 64 << 10),
            (2 << 20, 2 << 20),
            (5 << 19, 5 << 19),
            (16 << 20, 5 << 19),
        ] {
            let records = (1..).find(|count| count * scaled(1600, batch_bytes) >= batch_bytes);
            let bytes = 1600 * records.expect("some number");
            assert!(
                (cut_at..cut_at + 1600).contains(&bytes),
                "{batch_bytes}: {bytes}"
            );
        }
        assert!(BATCH_BYTES_MAX < PUSH_BYTES_MAX as u64);
        assert_eq!(scaled(u64::MAX, u64::MAX), u64::MAX);
    }
}
