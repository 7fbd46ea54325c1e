//! The marker: one record of a compacted topic for each agent and sink, written in the same transaction as a batch. It
//! says up to which record the batches are stored, so that after any end a batch is stored once for readers that
//! read committed.
//!
//! ```text
//! key    cluster/node/sink/spool
//! value  {"last":1234,"holes":[[7,9]],"attempt":1767225600000000}
//! ```
//!
//! Invariants: a marker claims nothing that is not stored: what is neither stored nor behind the durable cursor is a
//! hole; `attempt` is never used twice under one key.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::verdict::{self, Trouble};
use crate::clock::{self, Clock};

/// One request while the topic is read.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks at whether open transactions of other agents have ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

const LOOKS: usize = 20;

/// Markers are small; what is read ahead of us is held in memory.
const FETCH_BYTES_MAX: &str = "1048576";

/// What is stored under an agent's and sink's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The last record that is stored.
    pub(super) last: u64,
    /// Records below it that are not, as inclusive ranges, ascending.
    pub(super) holes: Vec<(u64, u64)>,
    /// Tells this attempt from every other one.
    pub(super) attempt: u64,
}

impl Marker {
    /// The marker to be stored with the records `stored` of a batch that ends with record `end`. `holes` are the
    /// batch's own and `missing` those of its records that are left out; all are ascending.
    pub(super) fn after(
        known: Option<&Marker>,
        end: u64,
        stored: &[u64],
        holes: &[(u64, u64)],
        missing: &[u64],
        now_us: u64,
    ) -> Self {
        let attempt = known.map_or(now_us, |known| now_us.max(known.attempt + 1));
        match known {
            // One from before, sent again, or a dead letter: fewer holes, and the rest as it was.
            Some(known) if end < known.last => Marker {
                last: known.last,
                holes: without(&known.holes, stored),
                attempt,
            },
            _ => Marker {
                last: end,
                holes: with(holes, missing),
                attempt,
            },
        }
    }

    /// As it is written.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers are JSON")
    }

    /// As it is read.
    pub(super) fn decode(value: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(value).map_err(|error| error.to_string())
    }
}

/// Ranges without these numbers.
fn without(ranges: &[(u64, u64)], numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for &(first, last) in ranges {
        let mut from = first;
        for &number in numbers
            .iter()
            .filter(|number| (first..=last).contains(number))
        {
            if from < number {
                left.push((from, number - 1));
            }
            from = number + 1;
        }
        if from <= last {
            left.push((from, last));
        }
    }
    left
}

/// Ranges and these numbers, as few ranges as hold them.
fn with(ranges: &[(u64, u64)], numbers: &[u64]) -> Vec<(u64, u64)> {
    let single = numbers.iter().map(|&number| (number, number));
    let mut all: Vec<(u64, u64)> = ranges.iter().copied().chain(single).collect();
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, last) in all {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Reads the marker under `key`; blocks. What was committed before the call is seen: where other agents' transactions
/// are still open in the topic, their end is waited for, since a reader of committed records sees nothing behind them.
pub(super) fn read(
    config: &ClientConfig,
    topic: &str,
    key: &str,
    deadline: Duration,
    clock: &dyn Clock,
) -> Result<Option<Marker>, Trouble> {
    let consumer = |isolation| consumer(config, topic, isolation);
    let committed = consumer("read_committed")?;
    let partitions = partitions(&committed, topic)?;
    let mut assignment = TopicPartitionList::new();
    let all = consumer("read_uncommitted")?;
    for partition in 0..partitions {
        let end = |consumer: &BaseConsumer| {
            let marks = consumer.fetch_watermarks(topic, partition, LOOK);
            marks.map_err(|error| problem(&error, topic))
        };
        let (_, written) = end(&all)?;
        while end(&committed)?.1 < written {
            if clock.monotonic() >= deadline {
                let reason =
                    format!("another agent's transaction is open in {topic}: waiting for its end");
                return Err(Trouble::passing(reason));
            }
            clock::pause(BETWEEN_LOOKS);
        }
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(|error| problem(&error, topic))?;
    }
    drop(all);
    committed
        .assign(&assignment)
        .map_err(|error| problem(&error, topic))?;
    newest(&committed, topic, key, partitions, || {
        clock.monotonic() >= deadline
    })
}

fn consumer(config: &ClientConfig, topic: &str, isolation: &str) -> Result<BaseConsumer, Trouble> {
    let mut config = config.clone();
    // For events; it would be a lower limit of what is fetched at once.
    config.remove("message.max.bytes");
    config
        .set("fetch.max.bytes", FETCH_BYTES_MAX)
        .set("fetch.message.max.bytes", FETCH_BYTES_MAX)
        .set("queued.max.messages.kbytes", "2048")
        // It is needed for reading at all; nothing is ever committed for it.
        .set("group.id", "auditship")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation);
    config.create().map_err(|error| problem(&error, topic))
}

/// Reads the assigned partitions to their end.
fn newest(
    consumer: &BaseConsumer,
    topic: &str,
    key: &str,
    partitions: i32,
    out_of_time: impl Fn() -> bool,
) -> Result<Option<Marker>, Trouble> {
    let mut found: Option<Marker> = None;
    let mut ended = 0;
    while ended < partitions {
        if out_of_time() {
            return Err(Trouble::passing(format!(
                "{topic} could not be read to its end in time"
            )));
        }
        match consumer.poll(LOOK) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => {
                let trouble = problem(&error, topic);
                if trouble.stops {
                    return Err(trouble);
                }
                tracing::debug!("read {topic}: {error}");
            }
            Some(Ok(message)) if message.key() == Some(key.as_bytes()) => {
                let Some(value) = message.payload() else {
                    // Somebody deleted it.
                    found = None;
                    continue;
                };
                let marker = Marker::decode(value).map_err(|error| {
                    Trouble::stopping(format!(
                        "{topic} holds under our key {key} what is no marker ({error}): name another `transactional.marker_topic`"
                    ))
                })?;
                // By attempt, not by place: the topic may have several partitions.
                if found
                    .as_ref()
                    .is_none_or(|found| found.attempt < marker.attempt)
                {
                    found = Some(marker);
                }
            }
            Some(Ok(_)) => {}
        }
    }
    Ok(found)
}

/// How many partitions the topic has; an error that stops where it is not there. Blocks.
pub(super) fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<i32, Trouble> {
    let metadata = consumer
        .fetch_metadata(Some(topic), LOOK)
        .map_err(|error| problem(&error, topic))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map(|found| (found.error(), found.partitions().len())) {
        Some((None, partitions)) if partitions > 0 => {
            Ok(i32::try_from(partitions).unwrap_or(i32::MAX))
        }
        Some((Some(error), _)) => Err(of_code(Code::from(error), topic)),
        _ => Err(of_code(Code::UnknownTopicOrPartition, topic)),
    }
}

/// Says that the topic is there.
pub(super) async fn look(config: ClientConfig, topic: &str) -> Result<String, Trouble> {
    let name = topic.to_owned();
    let look = move || {
        let consumer = consumer(&config, &name, "read_committed")?;
        let mut looks = 0;
        loop {
            match partitions(&consumer, &name) {
                // One that was made a moment ago is not known everywhere at once.
                Err(trouble) if looks < LOOKS && trouble.stops => looks += 1,
                seen => return seen,
            }
            clock::pause(BETWEEN_LOOKS);
        }
    };
    let partitions = tokio::task::spawn_blocking(look)
        .await
        .unwrap_or_else(|error| Err(Trouble::passing(format!("look at {topic}: {error}"))))?;
    Ok(format!(
        "the marker topic {topic} has {partitions} partitions"
    ))
}

/// Makes the topic: one partition, compacted, in segments small enough that it stays short. Says so, or that it was
/// there already.
pub(super) async fn set_up(config: &ClientConfig, topic: &str) -> Result<String, Trouble> {
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(|error| problem(&error, topic))?;
    // Compaction leaves the newest segment alone, and a marker is written with every batch.
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "16777216")
        .set("segment.ms", "600000")
        .set("min.cleanable.dirty.ratio", "0.1");
    let options = AdminOptions::new().operation_timeout(Some(LOOK));
    let made = admin
        .create_topics([&new], &options)
        .await
        .map_err(|error| problem(&error, topic))?;
    match made.into_iter().next() {
        None | Some(Ok(_)) => Ok(format!("made the marker topic {topic}")),
        Some(Err((_, Code::TopicAlreadyExists))) => {
            Ok(format!("the marker topic {topic} is there already"))
        }
        Some(Err((_, code))) => Err(Trouble::stopping(format!(
            "make the marker topic {topic}: {code}"
        ))),
    }
}

fn problem(error: &KafkaError, topic: &str) -> Trouble {
    match error.rdkafka_error_code() {
        Some(code) => of_code(code, topic),
        // Of the configuration, before anybody was asked.
        None => Trouble::stopping(format!("read the marker topic {topic}: {error}")),
    }
}

fn of_code(code: Code, topic: &str) -> Trouble {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            Trouble::stopping(format!(
                "the marker topic {topic} does not exist: `auditship check --connect --setup` makes it"
            ))
        }
        Code::TopicAuthorizationFailed => Trouble::stopping(format!(
            "not allowed to read the marker topic {topic}: grant Read, Write and Describe on it"
        )),
        code => verdict::trouble(code, &code.to_string())
            .unwrap_or_else(|| Trouble::passing(format!("read the marker topic {topic}: {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(last: u64, holes: &[(u64, u64)], attempt: u64) -> Marker {
        Marker {
            last,
            holes: holes.to_vec(),
            attempt,
        }
    }

    #[test]
    fn it_is_written_as_documented_and_read_back() {
        let marker = marker(1234, &[(7, 9)], 5);
        let text = br#"{"last":1234,"holes":[[7,9]],"attempt":5}"#;
        assert_eq!(marker.encode(), text);
        assert_eq!(Marker::decode(text), Ok(marker));
        assert!(Marker::decode(b"{}").is_err());
    }

    #[test]
    fn a_batch_moves_it_on_and_what_it_lacks_is_a_hole() {
        let known = marker(9, &[], 100);
        let next = Marker::after(Some(&known), 14, &[10, 11, 13], &[(4, 5)], &[12, 14], 50);
        assert_eq!(next, marker(14, &[(4, 5), (12, 12), (14, 14)], 101));
        let first = Marker::after(None, 3, &[0, 1, 2, 3], &[], &[], 50);
        assert_eq!(first, marker(3, &[], 50));
    }

    #[test]
    fn what_comes_late_fills_its_hole_and_moves_nothing_back() {
        let known = marker(20, &[(4, 8), (12, 12)], 1);
        let next = Marker::after(Some(&known), 12, &[5, 6, 12], &[], &[], 9);
        assert_eq!(next, marker(20, &[(4, 4), (7, 8)], 9));
    }

    #[test]
    fn random_batches_claim_exactly_what_is_stored() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut stored = std::collections::BTreeSet::new();
            let mut known: Option<Marker> = None;
            for _ in 0..20 {
                let end = rng.u64(0..60);
                let batch: Vec<u64> = (0..=end)
                    .filter(|number| *number == end || rng.u8(0..3) == 0)
                    .filter(|number| !stored.contains(number))
                    .collect();
                let Some(&end) = batch.last() else { continue };
                let (new, missing): (Vec<u64>, Vec<u64>) =
                    batch.iter().partition(|_| rng.u8(0..5) > 0);
                let others: Vec<u64> = (0..end)
                    .filter(|number| !stored.contains(number) && !batch.contains(number))
                    .collect();
                let holes = with(&[], &others);
                known = Some(Marker::after(
                    known.as_ref(),
                    end,
                    &new,
                    &holes,
                    &missing,
                    0,
                ));
                stored.extend(new);
                let known = known.as_ref().unwrap();
                let claimed: std::collections::BTreeSet<u64> = (0..=known.last)
                    .filter(|number| {
                        !known
                            .holes
                            .iter()
                            .any(|&(first, last)| (first..=last).contains(number))
                    })
                    .collect();
                assert_eq!(claimed, stored);
            }
        }
    }
}
