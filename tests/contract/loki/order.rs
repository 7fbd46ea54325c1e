//! What Loki would lose under a 204 for its order is never sent: days of backlog, quiet and busy, clock jumps, crashes and
//! broken connections, against the fake with every stream sharded, which tells of a loss by chance only.

use std::sync::Arc;
use std::time::Duration;

use auditship::clock::{Clock, ManualClock, Micros};
use auditship::sinks::Record;

use super::driver::{Driver, Target, now, records_ago};
use super::{assert_held, expected};
use crate::support::oracle::Verdict;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;

fn short_lines(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            format!("{{\"kind\":\"Event\",\"auditID\":\"{n}\",\"verb\":\"get\"}}").into_bytes()
        })
        .collect()
}

/// Times that go on as an API server's do, but for a jump now and then.
fn set_times(records: &mut [Record], from: i64, random: &mut fastrand::Rng) {
    let pace = [SECOND, 60 * SECOND, HOUR / 2, 5 * HOUR][random.usize(..4)];
    let mut time = from;
    for record in records {
        time += match random.u8(..50) {
            0 => -random.i64(0..4 * HOUR),
            1 => random.i64(0..30 * HOUR),
            2..8 => -random.i64(0..10 * 60 * SECOND),
            _ => random.i64(0..pace),
        };
        record.head.time_us = Some(time);
    }
}

fn cut(records: &[Record], random: &mut fastrand::Rng) -> Vec<Vec<Record>> {
    let mut batches = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let (batch, more) = rest.split_at(random.usize(1..=rest.len().min(40)));
        batches.push(batch.to_vec());
        rest = more;
    }
    batches
}

#[test]
fn nothing_that_is_sent_is_lost_under_a_204_and_everything_is_held_or_rejected() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let target = Target::fake();
        let fake = target.fake.as_ref().expect("a fake");
        let clock = Arc::new(ManualClock::at(now()));
        fake.stands_at(clock.now().0);
        fake.limit(|limits| limits.shards = 1 + usize::from(seed % 2 == 0) * 4);
        let lines = short_lines(random.usize(20..150));
        let mut records = records_ago(&lines, |_| Duration::ZERO);
        set_times(&mut records, clock.now().0 - 190 * HOUR, &mut random);
        let batches = cut(&records, &mut random);
        let keys = target.keys("structured_metadata = {}");
        let mut driver = Driver::with(&keys, Duration::from_secs(2), clock);
        fake.chaos(seed, 6);
        driver.run(&batches, &mut random, 8);
        let lost = fake.discarded();
        assert!(
            lost.is_empty(),
            "seed {seed}: lost or refused there: {lost:?}"
        );
        assert_held(&target, &lines, &driver);
        let both = driver
            .rejected
            .keys()
            .find(|number| driver.delivered.contains(number));
        assert_eq!(both, None, "seed {seed}: delivered and rejected");
    }
}

#[test]
fn a_week_of_backlog_is_readable_or_rejected_with_a_reason() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("a fake");
    fake.limit(|limits| limits.shards = 8);
    let lines = short_lines(3000);
    // From ten days ago on, one line every five minutes: the first three days are too old.
    let records = records_ago(&lines, |at| Duration::from_secs(300 * (2999 - at as u64)));
    let batches: Vec<Vec<Record>> = records.chunks(700).map(<[Record]>::to_vec).collect();
    let mut driver = Driver::new(&target.keys(""));
    driver.run(&batches, &mut fastrand::Rng::with_seed(1), 0);
    let old = driver.rejected.len();
    assert!((980..=985).contains(&old), "{old}");
    assert!(
        driver
            .rejected
            .values()
            .all(|rejection| rejection.class == "too old")
    );
    assert_eq!(driver.delivered.len() + old, lines.len());
    assert_held(&target, &lines, &driver);
    assert!(fake.discarded().is_empty(), "{:?}", fake.discarded());
}

#[test]
fn a_week_of_backlog_is_whole_at_victorialogs() {
    let name = "a_week_of_backlog_is_whole_at_victorialogs";
    let Some(server) = crate::support::servers::loki_api(name) else {
        return;
    };
    let target = Target::real(server);
    let lines = short_lines(2000);
    let records = records_ago(&lines, |at| Duration::from_secs(300 * (1999 - at as u64)));
    let batches: Vec<Vec<Record>> = records.chunks(500).map(<[Record]>::to_vec).collect();
    let mut driver = Driver::new(&target.keys(""));
    driver.run(&batches, &mut fastrand::Rng::with_seed(2), 0);
    assert_eq!(driver.rejected.len(), 0, "{:?}", driver.rejected);
    assert_held(&target, &lines, &driver);
}

#[test]
fn a_clock_that_is_far_ahead_refuses_everything_and_buries_nothing() {
    let target = Target::fake();
    let lines = short_lines(50);
    let records = records_ago(&lines, |_| Duration::from_secs(1));
    let yesterday = Arc::new(ManualClock::at(Micros(now().0 - 24 * HOUR)));
    let mut driver = Driver::with(&target.keys(""), Duration::from_secs(5), yesterday);
    driver.open().expect("open");
    driver.send(&records);
    assert!(driver.rejected.values().all(|rejection| {
        rejection.kind == auditship::sinks::RejectionKind::Refused
            && rejection.reason.contains("clock")
    }));
    assert_eq!((driver.rejected.len(), driver.delivered.len()), (50, 0));
    assert_eq!(target.lines(), []);
}

#[test]
fn what_was_sent_before_a_restart_is_remembered() {
    let target = Target::fake();
    let lines = short_lines(3);
    let hours = |n: u64| Duration::from_secs(3600 * n);
    let records = records_ago(&lines, |at| {
        [hours(1), hours(3), Duration::from_secs(1)][at]
    });
    let mut driver = Driver::new(&target.keys(""));
    // One death, after the first batch was stored.
    let batches: Vec<Vec<Record>> = records.chunks(1).map(<[Record]>::to_vec).collect();
    driver.run(&batches[..1], &mut fastrand::Rng::with_seed(0), 0);
    let mark = match driver.attempt(&records[..1], true) {
        auditship::sinks::Outcome::Delivered { mark, .. } => mark.expect("a mark"),
        other => panic!("{other:?}"),
    };
    assert!(mark.len() <= 4096);
    let mut later = Driver::new(&target.keys(""));
    later.resume_with(mark);
    later.open().expect("open");
    later.send(&records[1..2]);
    later.send(&records[2..]);
    assert_eq!(later.rejected.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(later.rejected[&1].class, "too far behind");
    let held: Vec<_> = target.lines().iter().map(|line| line.held()).collect();
    let mut wanted = expected(&lines);
    wanted.remove(1);
    Verdict::of_set(&wanted, &held).assert_clean("the other two");
}
