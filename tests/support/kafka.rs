//! Topics of a Kafka cluster (real, or librdkafka's mock): made before a test, read back whole behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sha2::{Digest, Sha256};

use super::oracle::{Held, hex};
use super::wait;

/// A busy machine may take this long for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp_ms: Option<i64>,
}

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Those of transactions that were committed, and those outside of any.
    Committed,
    /// All.
    Uncommitted,
}

impl Isolation {
    fn word(self) -> &'static str {
        match self {
            Isolation::Committed => "read_committed",
            Isolation::Uncommitted => "read_uncommitted",
        }
    }
}

/// Address of a broker's other listener, `offset` ports behind the plain one: 2 login, 3 TLS with client certificate, 4
/// TLS with login.
pub(crate) fn listener(addresses: &str, offset: u16) -> String {
    let move_port = |address: &str| {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let port: u16 = port.parse().expect("a port");
        format!("{host}:{}", port + offset)
    };
    let moved: Vec<String> = addresses.split(',').map(move_port).collect();
    moved.join(",")
}

/// Makes a topic, with a replica on each of up to three brokers.
pub(crate) fn create_topic(addresses: &str, topic: &str, partitions: i32, config: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        client(addresses).create().expect("an admin client");
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    for (key, value) in config {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let made = runtime
        .block_on(admin.create_topics([&new], &options))
        .expect("an answer");
    for topic in made {
        topic.expect("the topic is made");
    }
}

/// Everything in a topic, partition by partition in order, up to its end as it is now.
pub(crate) fn read_all(addresses: &str, topic: &str, isolation: Isolation) -> Vec<Stored> {
    let consumer: BaseConsumer = client(addresses)
        .set("group.id", "auditship-test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation.word())
        .create()
        .expect("a consumer");
    let partitions = wait::until_ok(PATIENCE, || {
        let metadata = consumer
            .fetch_metadata(Some(topic), PATIENCE)
            .map_err(|error| error.to_string())?;
        let found = metadata.topics().first().ok_or("no topic")?;
        match found.error() {
            None if !found.partitions().is_empty() => Ok(found.partitions().len()),
            error => Err(format!("{topic}: {error:?}")),
        }
    });
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).expect("few") {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("assigned");
    let mut read: BTreeMap<i32, Vec<Stored>> = BTreeMap::new();
    let mut ended = 0;
    while ended < partitions {
        match consumer.poll(PATIENCE) {
            None => panic!("{topic} was not read to its end within {PATIENCE:?}"),
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            // Passing: a leader that changes, a broker that is away.
            Some(Err(_)) => {}
            Some(Ok(message)) => {
                read.entry(message.partition()).or_default().push(Stored {
                    partition: message.partition(),
                    key: text(message.key().unwrap_or_default()),
                    headers: message.headers().map(headers).unwrap_or_default(),
                    value: message.payload().unwrap_or_default().to_vec(),
                    timestamp_ms: message.timestamp().to_millis(),
                });
            }
        }
    }
    read.into_values().flatten().collect()
}

/// What a record holds of an event, its hash computed from the value.
pub(crate) fn held(stored: &Stored) -> Held {
    Held {
        id: stored.headers.get("auditship-id").cloned(),
        hash: hex(&Sha256::digest(&stored.value)),
    }
}

fn client(addresses: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", addresses);
    config
}

fn headers(headers: &impl Headers) -> BTreeMap<String, String> {
    let named = headers.iter().map(|header| {
        let value = text(header.value.unwrap_or_default());
        (header.key.to_owned(), value)
    });
    named.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}
