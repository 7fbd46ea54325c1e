//! What an attempt at Kafka promises. Every test of [`suite`] runs against librdkafka's own mock brokers and against a
//! real broker; what only one of them can be made to do follows.

/// Brokers that are away, refuse, or change leaders.
mod faults;

/// Passwords, certificates, rights.
mod logins;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auditship::sinks::{RejectionKind, Verdict};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::contract::bench::{Bench, all_delivered, delivered, expected, lines, records};
use crate::support::agent::ORIGIN;
use crate::support::event::Events;
use crate::support::kafka::{Isolation, Stored, create_topic, held, read_all};
use crate::support::oracle::Verdict as OracleVerdict;
use crate::support::servers;

/// Brokers to write to.
struct Cluster {
    addresses: String,
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Cluster {
    /// Mock brokers of its own.
    fn mock(brokers: i32) -> Self {
        let mock = MockCluster::new(brokers).expect("mock brokers");
        Cluster {
            addresses: mock.bootstrap_servers(),
            mock: Some(mock),
        }
    }

    /// A real broker that tests share.
    fn real(server: &servers::Server) -> Self {
        Cluster {
            addresses: server.url.clone(),
            mock: None,
        }
    }

    /// A topic that no other test of any run uses.
    fn topic(&self, partitions: i32) -> String {
        let topic = unique();
        self.make(&topic, partitions);
        topic
    }

    fn make(&self, topic: &str, partitions: i32) {
        match &self.mock {
            Some(mock) => mock.create_topic(topic, partitions, 1).expect("a topic"),
            None => create_topic(&self.addresses, topic, partitions, &[]),
        }
    }

    fn keys(&self, topic: &str) -> String {
        keys(&self.addresses, topic)
    }

    /// A sink for this topic, with more of its own keys.
    fn bench(&self, topic: &str, more: &str) -> Bench {
        let bench = Bench::with_timeout("kafka", &(self.keys(topic) + more), PATIENCE);
        bench.open().expect("the topic is there");
        bench
    }

    fn read(&self, topic: &str) -> Vec<Stored> {
        read_all(&self.addresses, topic, Isolation::Committed)
    }
}

/// One attempt on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn keys(addresses: &str, topic: &str) -> String {
    let brokers: Vec<String> = addresses.split(',').map(|at| format!("{at:?}")).collect();
    format!("brokers = [{}]\ntopic = \"{topic}\"\n", brokers.join(", "))
}

fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::SeqCst);
    format!("audit-t{}-{next}", std::process::id())
}

/// Declares each check as a test on mock brokers and as one on a real broker.
macro_rules! suite {
    ($($check:ident),+ $(,)?) => {
        mod on_mock_brokers {
            $(#[test] fn $check() { super::$check(&super::Cluster::mock(3)); })+
        }
        mod on_kafka {
            $(#[test] fn $check() {
                if let Some(server) = super::servers::kafka(concat!("on_kafka::", stringify!($check))) {
                    super::$check(&super::Cluster::real(server));
                }
            })+
        }
    };
}

/// Exactly once for readers of committed records.
mod transactions;

suite! {
    a_batch_is_written_in_order_byte_for_byte_with_its_headers,
    the_key_is_the_event_id_or_keeps_an_origin_in_one_partition,
    every_compression_is_read_back,
    a_record_over_our_limit_is_rejected_alone,
    malformed_lines_are_marked_and_keep_their_bytes,
    a_topic_made_from_the_event_is_bounded,
    concurrent_attempts_share_a_small_queue,
    a_batch_larger_than_the_queue_is_delivered,
}

/// Every line is there once, under its id, byte for byte, and nothing else.
#[track_caller]
fn assert_held(stored: &[Stored], lines: &[Vec<u8>], topic: &str) {
    let held: Vec<_> = stored.iter().map(held).collect();
    OracleVerdict::of_set(&expected(lines), &held).assert_clean(topic);
}

fn a_batch_is_written_in_order_byte_for_byte_with_its_headers(cluster: &Cluster) {
    let topic = cluster.topic(1);
    let bench = cluster.bench(&topic, "");
    let lines = lines(1, 300);
    let records = records(&lines);
    all_delivered(bench.send(records.clone()));
    let stored = cluster.read(&topic);
    assert_held(&stored, &lines, &topic);
    for (stored, (line, record)) in stored.iter().zip(lines.iter().zip(&records)) {
        assert!(stored.value == *line, "in order, byte for byte");
        let id = record.head.id.to_hex();
        let position = format!("{}:{}", record.generation.short(), record.head.offset);
        let headers = [
            ("auditship-id", id.as_str()),
            ("auditship-origin", ORIGIN),
            ("auditship-position", &position),
            ("env", "test"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(stored.headers, BTreeMap::from(headers));
        assert_eq!(stored.key, id);
        assert_eq!(stored.timestamp_ms, Some(1_767_225_600_000));
    }
}

fn the_key_is_the_event_id_or_keeps_an_origin_in_one_partition(cluster: &Cluster) {
    let lines = lines(2, 200);
    let partitions = |topic: &str, more: &str| {
        let bench = cluster.bench(topic, more);
        all_delivered(bench.send(records(&lines)));
        let stored = cluster.read(topic);
        assert_held(&stored, &lines, topic);
        let used: std::collections::BTreeSet<i32> =
            stored.iter().map(|stored| stored.partition).collect();
        (stored, used.len())
    };
    let (_, spread) = partitions(&cluster.topic(3), "");
    assert_eq!(spread, 3);
    let (stored, together) = partitions(&cluster.topic(3), "key = \"origin\"\n");
    assert_eq!(together, 1);
    assert!(stored.iter().all(|stored| stored.key == ORIGIN));
    let values: Vec<&[u8]> = stored.iter().map(|stored| &*stored.value).collect();
    assert!(values == lines.iter().map(|line| &**line).collect::<Vec<_>>());
}

fn every_compression_is_read_back(cluster: &Cluster) {
    for compression in ["zstd", "lz4", "gzip", "none"] {
        let topic = cluster.topic(2);
        let bench = cluster.bench(&topic, &format!("compression = \"{compression}\"\n"));
        let lines = lines(3, 100);
        all_delivered(bench.send(records(&lines)));
        assert_held(&cluster.read(&topic), &lines, compression);
    }
}

fn a_record_over_our_limit_is_rejected_alone(cluster: &Cluster) {
    let topic = cluster.topic(2);
    let bench = cluster.bench(&topic, "options = { \"message.max.bytes\" = \"200000\" }\n");
    let mut all = lines(4, 20);
    all[7] = Events::new(5).line(0, 250_000);
    let (except, alarms) = delivered(bench.send(records(&all)));
    assert_eq!(alarms, []);
    let [(7, Verdict::Rejected(rejection))] = &except[..] else {
        panic!("{except:?}");
    };
    assert_eq!(rejection.kind, RejectionKind::TooLarge);
    let ids: Vec<String> = expected(&all).into_iter().map(|event| event.id).collect();
    let mut stored: Vec<String> = cluster
        .read(&topic)
        .iter()
        .map(|stored| stored.key.clone())
        .collect();
    stored.sort();
    let mut neighbours: Vec<String> = ids.iter().filter(|id| **id != ids[7]).cloned().collect();
    neighbours.sort();
    assert_eq!(stored, neighbours);
}

fn malformed_lines_are_marked_and_keep_their_bytes(cluster: &Cluster) {
    let topic = cluster.topic(1);
    let bench = cluster.bench(&topic, "");
    let mut lines = lines(6, 5);
    lines[1] = br#"{"kind":"Event","auditID":"torn","verb":"ge"#.to_vec();
    lines[2] = b"\0\0\0\0".to_vec();
    lines[3] = b"\xff\xfe not text".to_vec();
    lines[4] = Vec::new();
    all_delivered(bench.send(records(&lines)));
    let stored = cluster.read(&topic);
    assert_held(&stored, &lines, &topic);
    let marks: Vec<Option<&str>> = stored
        .iter()
        .map(|stored| {
            stored
                .headers
                .get("auditship-malformed")
                .map(String::as_str)
        })
        .collect();
    assert_eq!(marks, [None, Some("1"), Some("1"), Some("1"), Some("1")]);
}

fn a_topic_made_from_the_event_is_bounded(cluster: &Cluster) {
    let prefix = unique();
    let topics: Vec<String> = (0..64)
        .map(|n| format!("{prefix}-v{n}"))
        .chain([format!("{prefix}-other")])
        .collect();
    for topic in &topics {
        cluster.make(topic, 1);
    }
    let template = format!("{prefix}-{{audit.verb}}");
    let bench = cluster.bench(&template, "");
    let lines: Vec<Vec<u8>> = (0..70)
        .map(|n| format!(r#"{{"kind":"Event","auditID":"{n}","verb":"v{n}"}}"#).into_bytes())
        .collect();
    all_delivered(bench.send(records(&lines)));
    let held: Vec<usize> = topics
        .iter()
        .map(|topic| cluster.read(topic).len())
        .collect();
    assert_eq!(held[..64], [1; 64]);
    assert_eq!(held[64], 6);
}

fn concurrent_attempts_share_a_small_queue(cluster: &Cluster) {
    let topic = cluster.topic(3);
    let bench = cluster.bench(&topic, "");
    let lines = lines(8, 4000);
    let all = records(&lines);
    let batches = all.chunks(500).map(<[_]>::to_vec).collect();
    for outcome in bench.send_together(batches) {
        all_delivered(outcome);
    }
    assert_held(&cluster.read(&topic), &lines, &topic);
}

fn a_batch_larger_than_the_queue_is_delivered(cluster: &Cluster) {
    let topic = cluster.topic(2);
    let bench = cluster.bench(&topic, "");
    let mut events = Events::new(9);
    let lines: Vec<Vec<u8>> = (0..200)
        .map(|serial| events.line(serial, 100 << 10))
        .collect();
    all_delivered(bench.send(records(&lines)));
    assert_held(&cluster.read(&topic), &lines, &topic);
}
