//! Batches in transactions: a batch and its marker are committed together, or neither is.
//!
//! Who opens a transaction first fences: brokers abort what an earlier producer of the same id left open, and refuse it
//! from then on. Only then is the marker read, so that it cannot change any more behind our back.
//!
//! Invariants: one transaction at a time; a producer whose transaction did not end for certain is given up; whether
//! that transaction was committed is read from the marker before anything else is sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::marker::{self, Marker};
use super::message::Message;
use super::producer::{Context, Flight, Producer};
use super::verdict::{self, Answer, Trouble};
use super::{Kafka, Topics, options};
use crate::clock;
use crate::event::Origin;
use crate::sinks::{Batch, Opened, Outcome, SinkContext, Verdict};

/// One call of librdkafka's that waits for brokers; it is made again until time is up.
const CALL: Duration = Duration::from_secs(1);

const BETWEEN_CALLS: Duration = Duration::from_millis(50);

/// How long brokers may take to confirm an end that stores nothing.
const ABORT_WITHIN: Duration = Duration::from_secs(10);

/// What a transactional sink is beside a plain one.
pub(super) struct Transactions {
    marker_topic: String,
    /// `<cluster>/<node>/<sink>/<spool>`.
    key: String,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The producer that fenced all others, with no transaction open.
    ready: Option<Arc<Producer>>,
    /// As read behind that, or written since.
    known: Option<Marker>,
    /// A transaction whose end was not seen: its marker and its records.
    doubt: Option<(Marker, Vec<u64>)>,
    /// Records of such transactions that turned out to be stored, and that delivery was not told of yet.
    stored: BTreeSet<u64>,
}

impl Transactions {
    pub(super) fn new(marker_topic: &str, context: &SinkContext) -> Self {
        Transactions {
            marker_topic: marker_topic.to_owned(),
            key: key(&context.agent, &context.name, &context.spool),
            state: tokio::sync::Mutex::default(),
        }
    }

    /// For brokers, and for those who grant rights to it.
    pub(super) fn id(&self) -> String {
        format!("auditship/{}", self.key)
    }

    pub(super) fn marker_topic(&self) -> &str {
        &self.marker_topic
    }
}

fn key(agent: &Origin, sink: &str, spool: &str) -> String {
    format!("{}/{}/{sink}/{spool}", agent.cluster, agent.node)
}

/// Gives up a producer with an open transaction, unless that was ended.
struct Open {
    producer: Arc<Producer>,
    ended: bool,
}

impl Open {
    fn new(producer: &Arc<Producer>) -> Self {
        Open {
            producer: producer.clone(),
            ended: false,
        }
    }

    /// The transaction has ended: the producer can begin another one.
    fn ended(mut self) -> Arc<Producer> {
        self.ended = true;
        self.producer.clone()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.ended {
            self.producer.give_up();
        }
    }
}

impl Kafka {
    /// Fences, and says what the marker claims.
    pub(super) async fn open_transactions(
        &self,
        transactions: &Transactions,
    ) -> Result<Opened, Outcome> {
        let deadline = self.context.clock.monotonic() + self.context.timeout;
        let mut state = transactions.state.lock().await;
        // Whatever was known may be of another time.
        if let Some(producer) = state.ready.take() {
            self.forget(&producer).await;
        }
        let producer = self.producer().await?;
        self.reach(&producer).await?;
        state.ready = Some(self.fence(transactions, &mut state, deadline).await?);
        Ok(match &state.known {
            None => Opened::default(),
            Some(marker) => Opened {
                confirmed_to: Some(marker.last),
                holes: marker.holes.clone(),
                ..Opened::default()
            },
        })
    }

    /// One attempt at one batch, in a transaction with its marker.
    pub(super) async fn send_in_transaction(
        &self,
        transactions: &Transactions,
        batch: &Batch,
        topics: &Topics,
    ) -> Outcome {
        let deadline = self.context.clock.monotonic() + self.context.timeout;
        let mut state = transactions.state.lock().await;
        let producer = match self.fence(transactions, &mut state, deadline).await {
            Ok(producer) => producer,
            Err(outcome) => return outcome,
        };
        // What an earlier attempt has stored after all is told now, as stored.
        let numbers = batch.records.iter().map(|record| record.number);
        let already: Vec<u64> = numbers
            .filter(|number| state.stored.contains(number))
            .collect();
        let attempt = Attempt {
            sink: self,
            transactions,
            batch,
            topics,
            deadline,
        };
        let outcome = attempt.run(&mut state, producer, &already).await;
        if matches!(outcome, Outcome::Delivered { .. }) {
            for number in already {
                state.stored.remove(&number);
            }
        }
        outcome
    }

    /// The producer that fenced all others; where there is none yet, a new one does, and the marker is read.
    async fn fence(
        &self,
        transactions: &Transactions,
        state: &mut State,
        deadline: Duration,
    ) -> Result<Arc<Producer>, Outcome> {
        let producer = self.producer().await?;
        let ready = state.ready.take();
        if ready.is_some_and(|ready| Arc::ptr_eq(&ready, &producer)) {
            return Ok(producer);
        }
        // Until the marker is read too, this one is of no use.
        let open = Open::new(&producer);
        let fenced = self.read_behind_fence(transactions, &producer, deadline);
        match fenced.await {
            Ok(known) => {
                if let Some((marker, numbers)) = state.doubt.take()
                    && known
                        .as_ref()
                        .is_some_and(|known| known.attempt == marker.attempt)
                {
                    state.stored.extend(numbers);
                }
                state.known = known;
                Ok(open.ended())
            }
            Err(trouble) => {
                self.forget(&producer).await;
                Err(trouble.outcome(false))
            }
        }
    }

    async fn read_behind_fence(
        &self,
        transactions: &Transactions,
        producer: &Arc<Producer>,
        deadline: Duration,
    ) -> Result<Option<Marker>, Trouble> {
        self.call(producer, deadline, |base| base.init_transactions(CALL))
            .await?;
        let config = options::client(&self.settings).map_err(|reason| Trouble {
            reason,
            stops: true,
            fatal: false,
        })?;
        let (topic, key) = (transactions.marker_topic.clone(), transactions.key.clone());
        let clock = self.context.clock.clone();
        let read = move || marker::read(&config, &topic, &key, deadline, &*clock);
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|error| Err(Trouble::passing(format!("read the marker: {error}"))))
    }

    /// Makes one of librdkafka's calls that wait for brokers, again and again until it has a certain end or
    /// time is up.
    async fn call(
        &self,
        producer: &Arc<Producer>,
        deadline: Duration,
        call: fn(&BaseProducer<Context>) -> Result<(), KafkaError>,
    ) -> Result<(), Trouble> {
        let calling = async {
            loop {
                let base = producer.base();
                let called = tokio::task::spawn_blocking(move || call(&base))
                    .await
                    .map_err(|error| Trouble::passing(format!("call the kafka client: {error}")))?;
                let error = match called {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                };
                let in_time = self.context.clock.monotonic() < deadline;
                if !(in_time && is_to_be_made_again(&error)) {
                    return Err(verdict::of_transaction(&error, producer.last_error()));
                }
                clock::sleep(BETWEEN_CALLS).await;
            }
        };
        tokio::select! {
            biased;
            called = calling => called,
            trouble = producer.troubled() => Err(trouble),
        }
    }
}

/// One attempt at one batch.
struct Attempt<'a> {
    sink: &'a Kafka,
    transactions: &'a Transactions,
    batch: &'a Batch,
    topics: &'a Topics,
    deadline: Duration,
}

impl Attempt<'_> {
    async fn run(&self, state: &mut State, producer: Arc<Producer>, already: &[u64]) -> Outcome {
        let open = Open::new(&producer);
        if let Err(error) = producer.base().begin_transaction() {
            let trouble = verdict::of_transaction(&error, producer.last_error());
            return trouble.outcome(false);
        }
        // One place behind the records is the marker's.
        let records = self.batch.records.len();
        let flight = producer.flight(records + 1, self.deadline);
        let queued = self.queue(&flight, state.known.as_ref(), already).await;
        let (marker, cut) = match queued {
            Ok(marker) => (marker, flight.reported().await.err()),
            Err(trouble) => (None, Some(trouble)),
        };
        let failed = cut.is_some() || flight.answers().iter().any(is_failure);
        if let Some(marker) = marker.filter(|_| !failed) {
            let answers = self.numbered(flight.end().await);
            return self.commit(state, open, marker, answers).await;
        }
        let ended = self.abort(&producer).await;
        let answers = self.numbered(flight.end().await);
        // Behind a refused record librdkafka's sequence numbers are not always in order again: better a new producer.
        if ended && !failed {
            state.ready = Some(open.ended());
        }
        nothing_stored(answers, already, cut)
    }

    /// Queues what is not stored already, and the marker behind it; `None` where there is nothing to store.
    async fn queue(
        &self,
        flight: &Flight,
        known: Option<&Marker>,
        already: &[u64],
    ) -> Result<Option<Marker>, Trouble> {
        self.sink
            .queue_all(flight, self.batch, self.topics, already)
            .await?;
        let (mut stored, mut missing) = (Vec::new(), Vec::new());
        for (number, answer) in self.numbered(flight.answers()) {
            if is_left_out(&answer) {
                missing.push(number);
            } else {
                stored.push(number);
            }
        }
        let Some(end) = self.batch.records.last().map(|record| record.number) else {
            return Ok(None);
        };
        if stored.len() == already.len() {
            return Ok(None);
        }
        let now = u64::try_from(self.sink.context.clock.now().0).unwrap_or_default();
        let marker = Marker::after(known, end, &stored, &self.batch.holes, &missing, now);
        let message = Message {
            topic: &self.transactions.marker_topic,
            key: self.transactions.key.as_bytes(),
            value: &marker.encode(),
            headers: OwnedHeaders::new(),
            timestamp_ms: i64::try_from(now / 1000).unwrap_or_default(),
        };
        flight.queue(self.batch.records.len(), message).await?;
        Ok(Some(marker))
    }

    async fn commit(
        &self,
        state: &mut State,
        open: Open,
        marker: Marker,
        answers: Vec<(u64, Answer)>,
    ) -> Outcome {
        let stored = answers
            .iter()
            .filter(|(_, answer)| *answer == Answer::Stored)
            .map(|(number, _)| *number);
        // From here on only the marker knows, until the answer is there.
        state.doubt = Some((marker.clone(), stored.collect()));
        let committed = self.sink.call(&open.producer, self.deadline, |base| {
            base.commit_transaction(CALL)
        });
        match committed.await {
            Ok(()) => {
                state.doubt = None;
                state.known = Some(marker);
                state.ready = Some(open.ended());
                verdict::outcome(answers, None)
            }
            Err(trouble) => {
                self.sink.forget(&open.producer).await;
                if trouble.stops {
                    return Outcome::Stop {
                        reason: trouble.reason,
                    };
                }
                Outcome::Retry {
                    after: None,
                    reason: format!("commit the transaction: {}", trouble.reason),
                    in_doubt: true,
                }
            }
        }
    }

    /// Ends the transaction without storing anything; whether that is certain.
    async fn abort(&self, producer: &Arc<Producer>) -> bool {
        if producer.is_given_up() || producer.trouble().is_some_and(|trouble| trouble.fatal) {
            return false;
        }
        let limit = self.sink.context.clock.monotonic() + ABORT_WITHIN;
        let aborted = self
            .sink
            .call(producer, limit, |base| base.abort_transaction(CALL));
        aborted.await.is_ok()
    }

    /// By record number; without the marker's.
    fn numbered(&self, answers: Vec<Answer>) -> Vec<(u64, Answer)> {
        let numbers = self.batch.records.iter().map(|record| record.number);
        numbers.zip(answers).collect()
    }
}

/// What an attempt comes to whose transaction was not committed.
fn nothing_stored(answers: Vec<(u64, Answer)>, already: &[u64], cut: Option<Trouble>) -> Outcome {
    let refused = answers.iter().find_map(|(_, answer)| match answer {
        Answer::Refused(rejection) => Some(rejection.clone()),
        _ => None,
    });
    let unfit = answers
        .iter()
        .any(|(_, answer)| matches!(answer, Answer::Unfit(_)));
    // A refused record takes the others of its transaction with it, so all of them are halved together.
    if let (Some(verdict), false, true, None) = (refused, unfit, already.is_empty(), &cut) {
        return Outcome::Split { verdict };
    }
    let undone = |(number, answer)| match answer {
        Answer::Stored if !already.contains(&number) => {
            let reason = "its transaction was not committed".to_owned();
            let in_doubt = false;
            (number, Answer::Again { reason, in_doubt })
        }
        answer => (number, answer),
    };
    let mut outcome = verdict::outcome(answers.into_iter().map(undone).collect(), cut);
    forget_doubt(&mut outcome);
    outcome
}

/// What was never committed is not in doubt.
fn forget_doubt(outcome: &mut Outcome) {
    match outcome {
        Outcome::Retry { in_doubt, .. } => *in_doubt = false,
        Outcome::Delivered { except, .. } => {
            for (_, verdict) in except {
                if let Verdict::Retry { in_doubt, .. } = verdict {
                    *in_doubt = false;
                }
            }
        }
        _ => {}
    }
}

/// Out of its own time, or the coordinator is just starting.
fn is_to_be_made_again(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
        || error.rdkafka_error_code() == Some(Code::OperationTimedOut)
}

/// Whether a record keeps its transaction from being committed. One that was never queued does not.
fn is_failure(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Refused(_) | Answer::Misplaced(_) | Answer::Again { in_doubt: true, .. }
    )
}

/// Whether a record is not part of its transaction, and that is known before the end.
fn is_left_out(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Unfit(_)
            | Answer::Again {
                in_doubt: false,
                ..
            }
    )
}
