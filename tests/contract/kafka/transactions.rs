//! `transactional`: readers that read committed see every event exactly once, whenever the agent dies, whatever of an
//! attempt was seen. "The agent dies" is: the attempt is dropped wherever it is, and another sink with the same identity
//! opens and goes on behind what the marker says.

use std::time::Duration;

use auditship::sinks::{Opened, Outcome, Record, RejectionKind};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Error};

use super::{Cluster, PATIENCE, assert_held, lines, unique};
use crate::contract::bench::{Bench, all_delivered, delivered, records};
use crate::support::event::Events;
use crate::support::kafka::{Isolation, create_topic, read_all};
use crate::support::servers;

suite! {
    a_batch_and_its_marker_are_committed_together,
    an_agent_that_dies_at_any_moment_leaves_each_event_once,
    an_attempt_whose_end_was_not_seen_is_settled_by_the_marker,
    a_record_that_is_left_out_is_not_claimed,
}

/// An agent's identity at a cluster, with topics of its own.
struct Agent<'a> {
    cluster: &'a Cluster,
    topic: String,
    keys: String,
    spool: String,
}

impl<'a> Agent<'a> {
    fn new(cluster: &'a Cluster, more: &str) -> Self {
        let topic = cluster.topic(3);
        let markers = cluster.topic(1);
        let keys = format!(
            "{}transactional = {{ marker_topic = \"{markers}\" }}\n{more}",
            cluster.keys(&topic)
        );
        Agent {
            cluster,
            spool: unique(),
            topic,
            keys,
        }
    }

    /// A sink of it, as after a start.
    fn start(&self) -> (Bench, Opened) {
        let bench = Bench::of_spool("kafka", &self.keys, PATIENCE, &self.spool);
        let opened = bench.open().expect("open");
        (bench, opened)
    }

    fn read(&self) -> Vec<super::Stored> {
        self.cluster.read(&self.topic)
    }
}

fn opened(confirmed_to: Option<u64>, holes: &[(u64, u64)]) -> Opened {
    Opened {
        confirmed_to,
        holes: holes.to_vec(),
        ..Opened::default()
    }
}

/// What delivery would send next.
fn unconfirmed(all: &[Record], opened: &Opened) -> Vec<Record> {
    let is_left = |record: &&Record| {
        let hole = |&(first, last): &(u64, u64)| (first..=last).contains(&record.number);
        opened.confirmed_to.is_none_or(|last| record.number > last) || opened.holes.iter().any(hole)
    };
    all.iter().filter(is_left).cloned().collect()
}

fn a_batch_and_its_marker_are_committed_together(cluster: &Cluster) {
    let agent = Agent::new(cluster, "");
    let lines = lines(40, 200);
    let all = records(&lines);
    let (bench, found) = agent.start();
    assert_eq!(found, opened(None, &[]));
    all_delivered(bench.send(all[..120].to_vec()));
    all_delivered(bench.send(all[120..150].to_vec()));
    drop(bench);
    let (bench, found) = agent.start();
    assert_eq!(found, opened(Some(149), &[]));
    all_delivered(bench.send(all[150..].to_vec()));
    assert_held(&agent.read(), &lines, &agent.topic);
}

fn an_agent_that_dies_at_any_moment_leaves_each_event_once(cluster: &Cluster) {
    let agent = Agent::new(cluster, "");
    let mut rng = fastrand::Rng::with_seed(41);
    let lines = lines(41, 1500);
    let all = records(&lines);
    let (mut bench, mut found) = agent.start();
    let mut deaths = 0;
    loop {
        let mut left = unconfirmed(&all, &found);
        if left.is_empty() {
            break;
        }
        left.truncate(100);
        let after = Duration::from_micros(rng.u64(0..60_000));
        match bench.send_and_drop(left.clone(), after) {
            Some(outcome) => {
                all_delivered(outcome);
                found = opened(left.last().map(|record| record.number), &[]);
            }
            None => {
                deaths += 1;
                drop(bench);
                (bench, found) = agent.start();
            }
        }
    }
    assert!(deaths > 0, "no attempt was cut");
    assert_held(&agent.read(), &lines, &agent.topic);
}

fn an_attempt_whose_end_was_not_seen_is_settled_by_the_marker(cluster: &Cluster) {
    let agent = Agent::new(cluster, "");
    let mut rng = fastrand::Rng::with_seed(42);
    let lines = lines(42, 600);
    let (bench, _) = agent.start();
    for batch in records(&lines).chunks(60) {
        // The same sink, as after an attempt that delivery cut off: it asks the marker itself.
        let after = Duration::from_micros(rng.u64(0..40_000));
        match bench.send_and_drop(batch.to_vec(), after) {
            Some(outcome) => all_delivered(outcome),
            None => all_delivered(bench.send_in_doubt(batch.to_vec())),
        }
    }
    assert_held(&agent.read(), &lines, &agent.topic);
}

/// The mock brokers do not fence.
#[test]
fn of_two_agents_with_one_identity_the_older_is_fenced() {
    const NAME: &str = "of_two_agents_with_one_identity_the_older_is_fenced";
    let Some(server) = servers::kafka(NAME) else {
        return;
    };
    let cluster = Cluster::real(server);
    let agent = Agent::new(&cluster, "");
    let lines = lines(43, 40);
    let all = records(&lines);
    let (older, _) = agent.start();
    all_delivered(older.send(all[..20].to_vec()));
    let (newer, found) = agent.start();
    assert_eq!(found, opened(Some(19), &[]));
    match older.send(all[20..].to_vec()) {
        Outcome::Stop { reason } => assert!(reason.contains("another agent"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    all_delivered(newer.send(all[20..].to_vec()));
    assert_held(&agent.read(), &lines, &agent.topic);
}

fn a_record_that_is_left_out_is_not_claimed(cluster: &Cluster) {
    let agent = Agent::new(
        cluster,
        "options = { \"message.max.bytes\" = \"200000\" }\n",
    );
    let mut all = lines(44, 12);
    all[7] = Events::new(45).line(0, 250_000);
    let (bench, _) = agent.start();
    let (except, _) = delivered(bench.send(records(&all)));
    assert_eq!(except.len(), 1, "{except:?}");
    assert_eq!(except[0].0, 7);
    drop(bench);
    let (_, found) = agent.start();
    assert_eq!(found, opened(Some(11), &[(7, 7)]));
    assert_eq!(agent.read().len(), 11);
}

#[test]
fn a_commit_that_is_not_answered_is_made_once() {
    for error in [
        Error::RD_KAFKA_RESP_ERR__TRANSPORT,
        Error::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        Error::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    ] {
        let cluster = Cluster::mock(3);
        let agent = Agent::new(&cluster, "");
        let lines = lines(46, 30);
        let (bench, _) = agent.start();
        let mock = cluster.mock.as_ref().expect("a mock");
        mock.request_errors(RDKafkaApiKey::EndTxn, &[error, error]);
        all_delivered(bench.send(records(&lines)));
        assert_held(&agent.read(), &lines, &format!("{error:?}"));
    }
}

#[test]
fn without_its_marker_topic_the_sink_stops_until_setup_makes_it() {
    const NAME: &str = "without_its_marker_topic_the_sink_stops_until_setup_makes_it";
    let Some(server) = servers::kafka(NAME) else {
        return;
    };
    let cluster = Cluster::real(server);
    let topic = cluster.topic(1);
    let keys = format!(
        "{}transactional = {{ marker_topic = \"{}\" }}\n",
        cluster.keys(&topic),
        unique()
    );
    let bench = Bench::of_spool("kafka", &keys, PATIENCE, &unique());
    match bench.open() {
        Err(Outcome::Stop { reason }) => assert!(reason.contains("--setup"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    assert!(
        bench
            .connect(false)
            .is_err_and(|reason| reason.contains("--setup")),
        "it says so without setup"
    );
    for made in ["made the marker topic", "is there already"] {
        let seen = bench.connect(true).expect("set up");
        assert!(seen.iter().any(|line| line.contains(made)), "{seen:?}");
    }
    bench.open().expect("it goes on");
    let lines = lines(47, 10);
    all_delivered(bench.send(records(&lines)));
    assert_held(&cluster.read(&topic), &lines, &topic);
}

#[test]
fn a_record_that_the_brokers_refuse_takes_its_transaction_with_it_and_nothing_is_stored_twice() {
    const NAME: &str = "a_record_that_the_brokers_refuse_takes_its_transaction_with_it";
    let Some(server) = servers::kafka(NAME) else {
        return;
    };
    let cluster = Cluster::real(server);
    let agent = Agent::new(&cluster, "compression = \"none\"\n");
    let topic = unique();
    create_topic(
        &cluster.addresses,
        &topic,
        1,
        &[("max.message.bytes", "20000")],
    );
    let agent = Agent {
        keys: agent.keys.replace(&agent.topic, &topic),
        topic,
        ..agent
    };
    let mut events = Events::new(48);
    let mut lines: Vec<Vec<u8>> = (0..6).map(|serial| events.line(serial, 900)).collect();
    lines[4] = events.line(4, 30_000);
    let all = records(&lines);
    let (bench, _) = agent.start();
    for batch in [&all[..], &all[4..5]] {
        match bench.send(batch.to_vec()) {
            Outcome::Split { verdict } => assert_eq!(verdict.kind, RejectionKind::TooLarge),
            other => panic!("not split: {other:?}"),
        }
    }
    all_delivered(bench.send(all[..4].to_vec()));
    all_delivered(bench.send(all[5..].to_vec()));
    let stored = read_all(&cluster.addresses, &agent.topic, Isolation::Committed);
    assert_eq!(stored.len(), 5);
}
