//! Brokers that are away, refuse, or change leaders: nothing is taken for stored that is not, and nothing is rejected
//! for what is not its own fault.

use std::time::Duration;

use auditship::sinks::{Outcome, Rejection, RejectionKind, Verdict};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Error};

use super::{Cluster, assert_held, lines, unique};
use crate::contract::bench::{Bench, all_delivered, delivered, records};
use crate::support::event::Events;
use crate::support::kafka::{Isolation, create_topic, read_all};
use crate::support::servers;

#[test]
fn answers_that_pass_are_waited_out_inside_the_attempt() {
    for error in [
        Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        Error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Error::RD_KAFKA_RESP_ERR__TRANSPORT,
    ] {
        let cluster = Cluster::mock(3);
        let topic = cluster.topic(1);
        let bench = cluster.bench(&topic, "");
        let mock = cluster.mock.as_ref().expect("a mock");
        mock.request_errors(RDKafkaApiKey::Produce, &[error, error]);
        let lines = lines(20, 50);
        all_delivered(bench.send(records(&lines)));
        assert_held(&cluster.read(&topic), &lines, &format!("{error:?}"));
    }
}

#[test]
fn brokers_that_are_away_end_the_attempt_in_its_time_and_are_found_again() {
    let cluster = Cluster::mock(1);
    let topic = cluster.topic(1);
    let bench = Bench::with_timeout("kafka", &cluster.keys(&topic), Duration::from_secs(2));
    bench.open().expect("open");
    let mock = cluster.mock.as_ref().expect("a mock");
    let lines = lines(21, 20);
    mock.broker_down(-1).expect("down");
    match bench.send(records(&lines)) {
        Outcome::Retry { reason, .. } => assert!(reason.contains("in time"), "{reason}"),
        other => panic!("not tried again: {other:?}"),
    }
    match bench.open() {
        Err(Outcome::Retry { reason, .. }) => assert!(reason.contains("no broker"), "{reason}"),
        other => panic!("not tried again: {other:?}"),
    }
    mock.broker_up(-1).expect("up");
    all_delivered(bench.send(records(&lines)));
    assert_held(&cluster.read(&topic), &lines, &topic);
}

#[test]
fn an_unknown_topic_stops_the_sink_until_it_is_made() {
    const NAME: &str = "an_unknown_topic_stops_the_sink_until_it_is_made";
    let Some(server) = servers::kafka(NAME) else {
        return;
    };
    let cluster = Cluster::real(server);
    let topic = unique();
    let bench = Bench::with_timeout("kafka", &cluster.keys(&topic), super::PATIENCE);
    let lines = lines(22, 5);
    for stopped in [
        bench.open().err(),
        Some(bench.send(records(&lines))),
        bench.open().err(),
    ] {
        match stopped {
            Some(Outcome::Stop { reason }) => {
                assert!(reason.contains("the topic does not exist"), "{reason}");
            }
            other => panic!("not stopped: {other:?}"),
        }
    }
    cluster.make(&topic, 1);
    bench.open().expect("it goes on");
    all_delivered(bench.send(records(&lines)));
    assert_held(&cluster.read(&topic), &lines, &topic);
}

#[test]
fn a_record_over_the_topics_limit_is_found_by_halving() {
    const NAME: &str = "a_record_over_the_topics_limit_is_found_by_halving";
    let Some(server) = servers::kafka(NAME) else {
        return;
    };
    let cluster = Cluster::real(server);
    let topic = unique();
    create_topic(
        &cluster.addresses,
        &topic,
        1,
        &[("max.message.bytes", "20000")],
    );
    let bench = cluster.bench(&topic, "compression = \"none\"\n");
    let mut events = Events::new(23);
    let mut lines: Vec<Vec<u8>> = (0..8).map(|serial| events.line(serial, 900)).collect();
    lines[5] = events.line(5, 30_000);
    let mut rejected = Vec::new();
    let mut rounds = vec![records(&lines)];
    // As delivery does it.
    while let Some(batch) = rounds.pop() {
        match bench.send(batch.clone()) {
            Outcome::Split { verdict } if batch.len() == 1 => {
                rejected.push((batch[0].number, verdict));
            }
            Outcome::Split { .. } => {
                let (left, right) = batch.split_at(batch.len() / 2);
                rounds.extend([left.to_vec(), right.to_vec()]);
            }
            outcome => {
                for (number, verdict) in delivered(outcome).0 {
                    match verdict {
                        Verdict::Rejected(rejection) => rejected.push((number, rejection)),
                        Verdict::Retry { .. } => {
                            let again = batch.iter().find(|record| record.number == number);
                            rounds.push(vec![again.expect("one of the batch").clone()]);
                        }
                    }
                }
            }
        }
    }
    match &rejected[..] {
        [
            (
                5,
                Rejection {
                    kind: RejectionKind::TooLarge,
                    ..
                },
            ),
        ] => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.read(&topic).len(), 7);
}

#[test]
fn a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing() {
    const NAME: &str = "a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing";
    let Some(server) = servers::kafka_to_break(NAME, 1) else {
        return;
    };
    let cluster = Cluster::real(&server);
    let topic = cluster.topic(2);
    let bench = cluster.bench(&topic, "");
    let lines = lines(24, 600);
    let all = records(&lines);
    all_delivered(bench.send(all[..200].to_vec()));
    server.command("kill 1");
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| bench.send(all[200..400].to_vec()));
        server.command("start 1");
        all_delivered(sending.join().expect("sent"));
    });
    all_delivered(bench.send(all[400..].to_vec()));
    assert_held(&cluster.read(&topic), &lines, &topic);
}

#[test]
fn a_leader_that_is_killed_is_replaced_inside_the_attempt() {
    const NAME: &str = "a_leader_that_is_killed_is_replaced_inside_the_attempt";
    let Some(server) = servers::kafka_to_break(NAME, 3) else {
        return;
    };
    let cluster = Cluster::real(&server);
    // One partition on each, so that whoever is killed leads one.
    let topic = cluster.topic(3);
    let bench = Bench::new("kafka", &cluster.keys(&topic));
    bench.open().expect("open");
    let lines = lines(25, 1200);
    let all = records(&lines);
    all_delivered(bench.send(all[..300].to_vec()));
    server.command("kill 2");
    all_delivered(bench.send(all[300..600].to_vec()));
    server.command("start 2");
    server.command("stop 1");
    all_delivered(bench.send(all[600..900].to_vec()));
    server.command("start 1");
    all_delivered(bench.send(all[900..].to_vec()));
    let stored = read_all(&cluster.addresses, &topic, Isolation::Committed);
    assert_held(&stored, &lines, &topic);
}
