//! A producer of librdkafka: records go in under the attempt they belong to, delivery reports come back to it, and
//! what is wrong with the connection as a whole is seen by everyone who waits.
//!
//! A producer is given up, and another one made, when it fails for good, when an attempt on it runs out of time, or
//! when secrets change. Giving up takes back what has not been sent, and leaves what is under way in doubt.
//!
//! Invariants: what is queued at once is bounded by permits, which reports give back; every record that was queued is
//! reported exactly once; an attempt that is dropped takes back what it queued. librdkafka is never taken apart on a
//! thread of the runtime, since that may wait for name resolution.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};
use tokio::sync::{Notify, Semaphore, watch};

use super::message::Message;
use super::verdict::{self, Answer, Trouble};
use crate::clock::{self, Clock};

/// How often the thread that serves events looks whether it is still needed. Events wake it at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Trouble that is over within this is none: one broker of several may start, or a login be known to it a little late.
const GRACE: Duration = Duration::from_secs(2);

/// Reports of what was taken back come at once; longer is not waited for them.
const PURGED_WITHIN: Duration = Duration::from_secs(5);

/// Memory of a queued record beside its bytes: librdkafka's own, and headers one by one.
const RECORD_BYTES: usize = 512;

/// A running producer.
pub(super) struct Producer {
    base: Option<Arc<BaseProducer<Context>>>,
    context: Arc<Shared>,
    /// Ends the thread that serves events, and gives it the last reference to what it serves.
    bury: mpsc::Sender<Arc<BaseProducer<Context>>>,
    given_up: AtomicBool,
    next_flight: AtomicU32,
    clock: Arc<dyn Clock>,
}

impl Producer {
    /// Starts one; nothing is connected yet. The error is about the configuration or a file that it names.
    pub(super) fn start(
        config: &ClientConfig,
        queue_bytes: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, String> {
        let shared = Arc::new(Shared {
            flights: Mutex::default(),
            queue: Semaphore::new(queue_bytes),
            queue_bytes,
            trouble: watch::Sender::new(None),
            last_error: Mutex::default(),
        });
        let base: BaseProducer<Context> = config
            .create_with_context(Context(shared.clone()))
            .map_err(|error| format!("set up the kafka client: {error}"))?;
        let base = Arc::new(base);
        let (bury, buried) = mpsc::channel();
        let served = base.clone();
        std::thread::Builder::new()
            .name("kafka-events".to_owned())
            .spawn(move || serve(served, &buried))
            .map_err(|error| format!("start a thread: {error}"))?;
        Ok(Arc::new(Producer {
            base: Some(base),
            context: shared,
            bury,
            given_up: AtomicBool::new(false),
            next_flight: AtomicU32::new(0),
            clock,
        }))
    }

    /// librdkafka's own.
    pub(super) fn base(&self) -> Arc<BaseProducer<Context>> {
        self.base.clone().expect("only drop takes it away")
    }

    /// Whether another one must be made.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    /// Takes back what is queued, for every attempt on it; what is under way is in doubt.
    pub(super) fn give_up(&self) {
        if !self.given_up.swap(true, Ordering::SeqCst) {
            let all = PurgeConfig::default().queue().inflight().non_blocking();
            self.base().purge(all);
        }
    }

    /// The last thing that librdkafka complained of, for the reason of an attempt that ran out of time.
    pub(super) fn last_error(&self) -> Option<String> {
        lock(&self.context.last_error).clone()
    }

    /// Trouble that was seen and has not passed.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.context.trouble.borrow().clone()
    }

    /// Waits until there is trouble that does not pass.
    pub(super) async fn troubled(&self) -> Trouble {
        let mut seen = self.context.trouble.subscribe();
        loop {
            let found = seen
                .wait_for(Option::is_some)
                .await
                .map(|found| found.clone());
            let trouble = found.expect("the sender is ours, and lives as long");
            if let Some(trouble) = trouble.filter(|trouble| trouble.fatal) {
                return trouble;
            }
            clock::sleep(GRACE).await;
            if let Some(trouble) = self.trouble() {
                return trouble;
            }
        }
    }

    /// Begins an attempt at this many records, which ends at `deadline` (of the clock's monotonic time).
    pub(super) fn flight(self: &Arc<Self>, records: usize, deadline: Duration) -> Flight {
        let id = self.next_flight.fetch_add(1, Ordering::SeqCst);
        let reports = Arc::new(Reports {
            state: Mutex::new(ReportsState {
                answers: vec![None; records],
                pending: 0,
            }),
            changed: Notify::new(),
        });
        lock(&self.context.flights).insert(id, reports.clone());
        Flight {
            producer: self.clone(),
            reports,
            id,
            deadline,
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(base) = self.base.take() {
            // The thread only ends when it is told to, here.
            let sent = self.bury.send(base);
            debug_assert!(
                sent.is_ok(),
                "the thread that serves events has ended by itself"
            );
        }
    }
}

/// Serves events until the last reference arrives.
fn serve(base: Arc<BaseProducer<Context>>, buried: &mpsc::Receiver<Arc<BaseProducer<Context>>>) {
    loop {
        base.poll(LOOK_EVERY);
        match buried.try_recv() {
            Ok(_) | Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => {}
        }
    }
}

/// One attempt's records in a producer.
pub(super) struct Flight {
    producer: Arc<Producer>,
    reports: Arc<Reports>,
    id: u32,
    deadline: Duration,
}

impl Flight {
    /// Queues a record when there is room for it; `index` is its place in the attempt. `Err`: the attempt is over, why.
    pub(super) async fn queue(&self, index: usize, message: Message<'_>) -> Result<(), Trouble> {
        let permits = self.producer.context.permits(message.bytes());
        let queue = &self.producer.context.queue;
        let permit = match queue.try_acquire_many(permits) {
            Ok(permit) => Ok(permit),
            Err(_) => self.within(queue.acquire_many(permits)).await?,
        };
        permit.expect("the queue is never closed").forget();
        self.reports.queued();
        let opaque = opaque(self.id, index);
        let record = BaseRecord::with_opaque_to(message.topic, opaque)
            .key(message.key)
            .payload(message.value)
            .timestamp(message.timestamp_ms)
            .headers(message.headers);
        if let Err((error, _)) = self.producer.base().send(record) {
            self.producer.context.queue.add_permits(permits as usize);
            self.reports.report(index, answer(&error));
        }
        Ok(())
    }

    /// Says what became of a record that is not queued.
    pub(super) fn settle(&self, index: usize, answer: Answer) {
        self.reports.queued();
        self.reports.report(index, answer);
    }

    /// Waits until every queued record is reported. `Err`: the attempt is over before that, why.
    pub(super) async fn reported(&self) -> Result<(), Trouble> {
        self.within(self.reports.wait()).await
    }

    /// The answers so far; of records without one, that they were not sent, or that this is in doubt.
    pub(super) fn answers(&self) -> Vec<Answer> {
        self.reports.answers()
    }

    /// Ends the attempt: the answer to each record, in order. Those that are not reported by then are taken back.
    pub(super) async fn end(self) -> Vec<Answer> {
        if self.reports.pending() > 0 {
            self.producer.give_up();
            // Those that stay without a report are in doubt.
            let _ = clock::timeout(PURGED_WITHIN, self.reports.wait()).await;
        }
        self.reports.answers()
    }

    /// Runs `future` until it ends, time is up or there is trouble that does not pass.
    async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, Trouble> {
        let left = self
            .deadline
            .saturating_sub(self.producer.clock.monotonic());
        tokio::select! {
            biased;
            done = clock::timeout(left, future) => done.ok_or_else(|| self.out_of_time()),
            trouble = self.producer.troubled() => Err(trouble),
        }
    }

    fn out_of_time(&self) -> Trouble {
        self.producer.trouble().unwrap_or_else(|| {
            let why = self.producer.last_error().map(|error| format!(": {error}"));
            Trouble::passing(format!(
                "no confirmation in time{}",
                why.unwrap_or_default()
            ))
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.reports.pending() > 0 {
            self.producer.give_up();
        }
        lock(&self.producer.context.flights).remove(&self.id);
    }
}

/// What was said of the records of one attempt.
struct Reports {
    state: Mutex<ReportsState>,
    changed: Notify,
}

struct ReportsState {
    /// By their place in the attempt; `None`: not queued, or not reported yet.
    answers: Vec<Option<Answer>>,
    /// Queued and not reported.
    pending: usize,
}

impl Reports {
    fn queued(&self) {
        lock(&self.state).pending += 1;
    }

    fn report(&self, index: usize, answer: Answer) {
        let mut state = lock(&self.state);
        state.answers[index] = Some(answer);
        state.pending -= 1;
        if state.pending == 0 {
            self.changed.notify_one();
        }
    }

    fn pending(&self) -> usize {
        lock(&self.state).pending
    }

    async fn wait(&self) {
        while self.pending() > 0 {
            self.changed.notified().await;
        }
    }

    fn answers(&self) -> Vec<Answer> {
        let state = lock(&self.state);
        let unknown = Answer::Again {
            reason: "not sent".to_owned(),
            in_doubt: state.pending > 0,
        };
        let answers = state.answers.iter().cloned();
        answers
            .map(|answer| answer.unwrap_or_else(|| unknown.clone()))
            .collect()
    }
}

/// What attempts and librdkafka's threads share.
struct Shared {
    flights: Mutex<BTreeMap<u32, Arc<Reports>>>,
    /// Bytes that may still be queued.
    queue: Semaphore,
    queue_bytes: usize,
    trouble: watch::Sender<Option<Trouble>>,
    last_error: Mutex<Option<String>>,
}

impl Shared {
    /// Permits for a record of this size; one that is larger than the queue takes all of it.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from((bytes + RECORD_BYTES).min(self.queue_bytes)).unwrap_or(u32::MAX)
    }
}

/// What librdkafka calls.
pub(super) struct Context(Arc<Shared>);

impl ClientContext for Context {
    /// What matters comes as errors and outcomes too, so these lines are for those who look closer.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!("librdkafka: {facility} {line}");
    }

    fn error(&self, error: KafkaError, words: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        if code != Code::AllBrokersDown {
            *lock(&self.0.last_error) = Some(words.to_owned());
        }
        if let Some(trouble) = verdict::trouble(code, words) {
            self.0.trouble.send_if_modified(|known| {
                // The first says most, and fatal is more than any other.
                let more = known
                    .as_ref()
                    .is_none_or(|known| trouble.fatal && !known.fatal);
                if more {
                    *known = Some(trouble);
                }
                more
            });
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (id, index) = whose(opaque);
        let (answer, message) = match result {
            Ok(message) => (Answer::Stored, message),
            Err((error, message)) => (answer(error), message),
        };
        let bytes = message.payload_len() + message.key_len();
        self.0.queue.add_permits(self.0.permits(bytes) as usize);
        if answer == Answer::Stored {
            *lock(&self.0.last_error) = None;
            self.0
                .trouble
                .send_if_modified(|known| known.take_if(|known| !known.fatal).is_some());
        }
        // Of an attempt that was dropped nobody asks.
        let reports = lock(&self.0.flights).get(&id).cloned();
        if let Some(reports) = reports {
            reports.report(index, answer);
        }
    }
}

fn answer(error: &KafkaError) -> Answer {
    Answer::of(error.rdkafka_error_code().unwrap_or(Code::Unknown))
}

/// An attempt and a place in it as what librdkafka hands back with a report.
fn opaque(flight: u32, index: usize) -> usize {
    const { assert!(usize::BITS == 64) };
    (flight as usize) << 32 | index
}

fn whose(opaque: usize) -> (u32, usize) {
    ((opaque >> 32) as u32, opaque & 0xffff_ffff)
}

/// What is behind these locks is whole at every moment, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
