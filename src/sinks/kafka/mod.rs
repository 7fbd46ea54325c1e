//! The kafka sink: its configuration and the sink. Idempotent, acks=all; the line is the value, the event id the key,
//! so that a reader recognises the few events that are repeated after an attempt whose end was not seen. With
//! `transactional` none is repeated, for readers that read committed.
//!
//! Invariants: one attempt at one batch, no retry but those of librdkafka inside the attempt's time; what no report
//! confirmed is not delivered; what is wrong with the configuration stops the sink and rejects no event.

mod marker;

mod message;

mod options;

mod producer;

mod settings;

mod transaction;

mod verdict;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::RwLock;

use self::message::{Encoder, Message};
use self::options::Transactional;
use self::producer::{Flight, Producer};
use self::settings::{Key, Settings, Topic};
use self::transaction::Transactions;
use self::verdict::{Answer, Trouble};
use super::names::{Names, Place};
use super::{
    Batch, BoxFuture, BuildError, Defaults, Opened, Outcome, Record, Sink, SinkConfig, SinkContext,
    SinkKind,
};

/// The kind.
pub static KIND: SinkKind = SinkKind {
    name: "kafka",
    summary: "Writes events to Kafka, idempotently, with the event id as key.",
    fields: settings::FIELDS,
    defaults: Defaults {
        batch_bytes: 1 << 20,
        batch_events: 10_000,
        batch_wait: Duration::from_secs(1),
        concurrency: 4,
        concurrency_max: 16,
        proxy: false,
        waits: false,
        sealed: false,
    },
    read: |section| Some(Box::new(Config(Arc::new(Settings::read(section)?)))),
};

/// Secrets and certificate files are looked at this often at most; a change is then in use within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long brokers may take to say that they are there, and a topic to appear that they make when it is asked for.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
const TOPIC_WITHIN: Duration = Duration::from_secs(5);

/// One look at brokers and topic.
const LOOK: Duration = Duration::from_secs(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// The configuration, read.
#[derive(Debug)]
struct Config(Arc<Settings>);

impl SinkConfig for Config {
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError> {
        Ok(Arc::new(Kafka::new(self.0.clone(), context)))
    }

    fn connect<'a>(
        &'a self,
        context: &'a SinkContext,
        setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let sink = Kafka::new(self.0.clone(), context);
            sink.look_around(setup).await.map_err(told)
        })
    }

    fn bare_secrets(&self) -> usize {
        // A user's name is no secret, wherever it stands.
        let sasl = self.0.sasl.as_ref();
        usize::from(sasl.is_some_and(|sasl| sasl.password.is_bare()))
    }

    fn concurrency_max(&self) -> Option<(usize, &'static str)> {
        match self.0.key {
            _ if self.0.marker_topic.is_some() => {
                Some((1, "`transactional` has one transaction at a time"))
            }
            Key::Origin => Some((1, "`key = \"origin\"` keeps the order of events")),
            Key::Id => None,
        }
    }
}

/// The words of an outcome that is no success.
fn told(outcome: Outcome) -> String {
    match outcome {
        Outcome::Stop { reason } | Outcome::Retry { reason, .. } => reason,
        Outcome::Split { verdict } => verdict.reason,
        Outcome::Delivered { .. } | Outcome::MarkFirst { .. } => "unexpected answer".to_owned(),
    }
}

/// The sink.
struct Kafka {
    settings: Arc<Settings>,
    encoder: Encoder,
    context: SinkContext,
    /// Most bytes in a producer's queue.
    queue_bytes: usize,
    live: tokio::sync::Mutex<Option<Arc<Producer>>>,
    used: Mutex<Used>,
    /// Loaded before its first use; only with a topic that depends on the event.
    names: Arc<Mutex<Option<Names>>>,
    /// Whole attempts share it; one that must have the brokers' answer about a single record alone takes all of it.
    turns: RwLock<()>,
    transactions: Option<Transactions>,
}

/// The secrets and certificates in use.
struct Used {
    fingerprint: u64,
    expiry: Option<i64>,
    /// When they were last looked at, by the monotonic clock.
    looked: Duration,
}

impl Used {
    fn now(settings: &Settings, context: &SinkContext) -> Self {
        Used {
            fingerprint: settings.fingerprint(),
            expiry: settings.tls.as_ref().and_then(|files| files.expiry()),
            looked: context.clock.monotonic(),
        }
    }
}

impl Kafka {
    fn new(settings: Arc<Settings>, context: &SinkContext) -> Self {
        let message_bytes = options::message_bytes_max(&settings);
        let batch_bytes = usize::try_from(context.batch_bytes).unwrap_or(usize::MAX / 4);
        Kafka {
            encoder: Encoder::new(settings.key, &context.labels, message_bytes),
            // One batch under way and one behind it; the largest record where that is more.
            queue_bytes: (2 * batch_bytes).max(message_bytes),
            live: tokio::sync::Mutex::default(),
            used: Mutex::new(Used::now(&settings, context)),
            names: Arc::default(),
            turns: RwLock::default(),
            transactions: settings
                .marker_topic
                .as_ref()
                .map(|topic| Transactions::new(topic, context)),
            context: context.clone(),
            settings,
        }
    }

    /// The producer in use, a new one where there is none or that one was given up.
    async fn producer(&self) -> Result<Arc<Producer>, Outcome> {
        let mut live = self.live.lock().await;
        let renew = self.look_at_secrets();
        let usable = live.as_ref().filter(|producer| {
            !renew && !producer.is_given_up() && !producer.trouble().is_some_and(|t| t.fatal)
        });
        if let Some(producer) = usable {
            return Ok(producer.clone());
        }
        if let Some(old) = live.take()
            && old.trouble().is_some()
        {
            old.give_up();
        }
        let (settings, bytes) = (self.settings.clone(), self.queue_bytes);
        let clock = self.context.clock.clone();
        let transactional = self
            .transactions
            .as_ref()
            .map(|transactions| Transactional {
                id: transactions.id(),
                timeout: self.context.timeout,
            });
        // Reads certificate files.
        let start = move || {
            let config = options::producer(&settings, bytes, transactional.as_ref())?;
            Producer::start(&config, bytes, clock)
        };
        let started = tokio::task::spawn_blocking(start)
            .await
            .map_err(|error| again(format!("start the kafka client: {error}")))?
            .map_err(|reason| Outcome::Stop { reason })?;
        Ok(live.insert(started).clone())
    }

    /// Whether secrets or certificates are others than those in use; from now on they count as used.
    fn look_at_secrets(&self) -> bool {
        let now = self.context.clock.monotonic();
        let mut used = lock(&self.used);
        if now.saturating_sub(used.looked) < LOOK_EVERY {
            return false;
        }
        let before = std::mem::replace(&mut *used, Used::now(&self.settings, &self.context));
        before.fingerprint != used.fingerprint
    }

    /// Gives up a producer whose brokers, login or topic are wrong, so that the next attempt begins anew.
    async fn forget(&self, producer: &Arc<Producer>) {
        producer.give_up();
        let mut live = self.live.lock().await;
        live.take_if(|live| Arc::ptr_eq(live, producer));
        // A secret that was mended meanwhile is used at once.
        *lock(&self.used) = Used::now(&self.settings, &self.context);
    }

    /// Waits until brokers answer, and the topic is there where there is only one; says who they are.
    async fn reach(&self, producer: &Arc<Producer>) -> Result<Vec<String>, Outcome> {
        let clock = &self.context.clock;
        let start = clock.monotonic();
        let looking = async {
            loop {
                let (found, limit) = match look(producer, self.settings.topic.fixed()).await {
                    Ok(lines) => return Ok(lines),
                    Err(found @ Trouble { stops: true, .. }) => (found, TOPIC_WITHIN),
                    Err(found) => (found, OPEN_WITHIN),
                };
                let limit = limit.min(self.context.timeout);
                if clock.monotonic().saturating_sub(start) >= limit {
                    return Err(found);
                }
                crate::clock::sleep(BETWEEN_LOOKS).await;
            }
        };
        let found = tokio::select! {
            found = looking => found,
            trouble = producer.troubled() => Err(trouble),
        };
        match found {
            Ok(lines) => Ok(lines),
            Err(trouble) => {
                self.forget(producer).await;
                Err(trouble.outcome(false))
            }
        }
    }

    /// What `check --connect` sees. Fences nobody: an agent may be running.
    async fn look_around(&self, setup: bool) -> Result<Vec<String>, Outcome> {
        let config = options::client(&self.settings).map_err(|reason| Outcome::Stop { reason })?;
        // Without the transactional id, since that would be taken for an agent's.
        let plain = Kafka {
            transactions: None,
            ..Kafka::new(self.settings.clone(), &self.context)
        };
        let producer = plain.producer().await?;
        let mut lines = plain.reach(&producer).await?;
        if let Some(transactions) = &self.transactions {
            let topic = transactions.marker_topic();
            let refused = |trouble: Trouble| trouble.outcome(false);
            if setup {
                lines.push(marker::set_up(&config, topic).await.map_err(refused)?);
            }
            lines.push(marker::look(config, topic).await.map_err(refused)?);
            lines.push(format!(
                "the transactional id is {}; whether it may be used cannot be seen without using it",
                transactions.id()
            ));
        }
        lines.push(format!(
            "whether it may write to {} cannot be seen here without writing an event",
            self.settings.topic.describe()
        ));
        Ok(lines)
    }

    /// The topic of each record.
    async fn topics(&self, batch: &Batch) -> Result<Topics, Outcome> {
        let template = match &self.settings.topic {
            Topic::Fixed(name) => return Ok(Topics::One(name.clone())),
            Topic::Template(template) => template,
        };
        let wanted = batch
            .records
            .iter()
            .map(|record| template.topic_of(record))
            .collect();
        let (slot, prefix) = (self.names.clone(), template.prefix().to_owned());
        let place = Place {
            fs: self.context.fs.clone(),
            path: self.context.state_dir.join("topic-names"),
            noun: "topic",
        };
        let work = move || {
            let mut slot = lock(&slot);
            if slot.is_none() {
                *slot = Some(Names::load(place, &prefix)?);
            }
            slot.as_mut()
                .map_or(Ok(Vec::new()), |names| names.admit(wanted))
        };
        let problem = |problem: String| again(format!("keep the set of topic names: {problem}"));
        let names = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| problem(error.to_string()))?
            .map_err(|error| problem(error.to_string()))?;
        Ok(Topics::Each(names))
    }

    /// One attempt. A single record that was refused together with records of other attempts is tried once more
    /// alone, so that its refusal is about itself.
    async fn attempt(&self, batch: &Batch) -> Outcome {
        let deadline = self.context.clock.monotonic() + self.context.timeout;
        let topics = match self.topics(batch).await {
            Ok(topics) => topics,
            Err(outcome) => return outcome,
        };
        if let Some(transactions) = &self.transactions {
            return self.send_in_transaction(transactions, batch, &topics).await;
        }
        let shared = self.turns.read().await;
        let outcome = self.send_once(batch, &topics, deadline).await;
        drop(shared);
        if batch.records.len() > 1 || !matches!(outcome, Outcome::Split { .. }) {
            return outcome;
        }
        let _alone = self.turns.write().await;
        if self.context.clock.monotonic() >= deadline {
            return again("no time left to send a refused record alone".to_owned());
        }
        self.send_once(batch, &topics, deadline).await
    }

    async fn send_once(&self, batch: &Batch, topics: &Topics, deadline: Duration) -> Outcome {
        let producer = match self.producer().await {
            Ok(producer) => producer,
            Err(outcome) => return outcome,
        };
        let flight = producer.flight(batch.records.len(), deadline);
        let cut = match self.queue_all(&flight, batch, topics, &[]).await {
            Ok(()) => flight.reported().await.err(),
            Err(trouble) => Some(trouble),
        };
        if cut.is_some() {
            producer.give_up();
        }
        let answers = flight.end().await;
        let numbers = batch.records.iter().map(|record| record.number);
        let outcome = verdict::outcome(numbers.zip(answers).collect(), cut);
        if matches!(outcome, Outcome::Stop { .. }) {
            self.forget(&producer).await;
        }
        outcome
    }

    /// Queues a batch, but what is stored `already`. `Err`: it was cut short, why.
    async fn queue_all(
        &self,
        flight: &Flight,
        batch: &Batch,
        topics: &Topics,
        already: &[u64],
    ) -> Result<(), Trouble> {
        for (index, record) in batch.records.iter().enumerate() {
            if already.contains(&record.number) {
                flight.settle(index, Answer::Stored);
                continue;
            }
            if let Err(rejection) = self.encoder.fits(record) {
                flight.settle(index, Answer::Unfit(rejection));
                continue;
            }
            let value = match message::value(record).await {
                Ok(value) => value,
                Err(error) => {
                    let answer = Answer::Again {
                        reason: format!("read an oversize line from the spool: {error}"),
                        in_doubt: false,
                    };
                    flight.settle(index, answer);
                    continue;
                }
            };
            let key = self.encoder.key(record);
            let message = Message {
                topic: topics.of(index),
                key: key.as_bytes(),
                value: &value,
                headers: self.encoder.headers(record),
                timestamp_ms: message::timestamp_ms(record),
            };
            flight.queue(index, message).await?;
        }
        Ok(())
    }
}

/// The topics of a batch's records.
enum Topics {
    One(String),
    Each(Vec<String>),
}

impl Topics {
    fn of(&self, index: usize) -> &str {
        match self {
            Topics::One(name) => name,
            Topics::Each(names) => &names[index],
        }
    }
}

/// Asks the brokers for themselves and the topic, once. `Err` with `stops`: the topic is not there.
async fn look(producer: &Arc<Producer>, topic: Option<&str>) -> Result<Vec<String>, Trouble> {
    // Without a topic all of a cluster's would be told, which may be many; the first record will show.
    let Some(topic) = topic.map(str::to_owned) else {
        return Ok(Vec::new());
    };
    let base = producer.base();
    let fetch = move || {
        let fetched = base.client().fetch_metadata(Some(&topic), LOOK);
        let metadata = fetched.map_err(|error| error.to_string())?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let error = found.map_or(
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
            |found| found.error(),
        );
        let partitions = found.map_or(0, |found| found.partitions().len());
        let lines = vec![
            format!("{} brokers answer", metadata.brokers().len()),
            format!("the topic {topic} has {partitions} partitions"),
        ];
        Ok::<_, String>((lines, error.map(Code::from)))
    };
    let fetched = tokio::task::spawn_blocking(fetch)
        .await
        .map_err(|error| Trouble::passing(format!("ask the brokers: {error}")))?;
    match fetched {
        Ok((lines, None)) => Ok(lines),
        Ok((_, Some(code))) => Err(match Answer::of(code) {
            Answer::Misplaced(reason) => Trouble::stopping(reason),
            _ => Trouble::passing(format!("the topic is not ready: {code}")),
        }),
        Err(error) => Err(Trouble::passing(match producer.last_error() {
            Some(words) => format!("no broker answers: {words}"),
            None => format!("no broker answers: {error}"),
        })),
    }
}

fn again(reason: String) -> Outcome {
    Outcome::Retry {
        after: None,
        reason,
        in_doubt: false,
    }
}

/// What is behind these locks is whole at every moment, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for Kafka {
    fn open<'a>(&'a self, _mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        Box::pin(async move {
            if let Some(transactions) = &self.transactions {
                return self.open_transactions(transactions).await;
            }
            let producer = self.producer().await?;
            self.reach(&producer).await?;
            Ok(Opened::default())
        })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { self.attempt(&batch).await })
    }

    fn weigh(&self, record: &Record) -> u64 {
        self.encoder.weigh(record)
    }

    fn secrets_changed(&self) -> bool {
        self.settings.fingerprint() != lock(&self.used).fingerprint
    }

    fn certificate_expiry(&self) -> Option<i64> {
        lock(&self.used).expiry
    }
}

#[cfg(test)]
mod tests;
