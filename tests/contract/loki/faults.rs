//! Refusals as Loki gives them, answers that break off, limits of rate and size, against the fake.

use std::time::Duration;

use auditship::sinks::{Outcome, RejectionKind};

use super::driver::{Driver, Target};
use super::{assert_held, lines, recent};
use crate::fakes::http_server::Answer;
use crate::fakes::loki::{Fault, Limits};

/// A target whose Loki is configured otherwise, and a sink that does not know.
fn limited(change: impl FnOnce(&mut Limits)) -> (Target, Driver) {
    let target = Target::fake();
    target.fake.as_ref().expect("a fake").limit(change);
    let driver = Driver::with(
        &target.keys(""),
        Duration::from_secs(2),
        std::sync::Arc::new(auditship::clock::SystemClock::new()),
    );
    driver.open().expect("open");
    (target, driver)
}

#[test]
fn lines_that_loki_alone_refuses_are_found_and_the_good_ones_are_stored() {
    let (target, mut driver) = limited(|limits| limits.line = 4000);
    let lines = lines(21, 200);
    driver.send(&recent(&lines));
    let long: Vec<u64> = (0..200)
        .filter(|n| lines[*n as usize].len() > 3900)
        .collect();
    assert!(!long.is_empty());
    for (number, rejection) in &driver.rejected {
        assert!(long.contains(number), "{number}");
        assert_eq!(rejection.kind, RejectionKind::TooLarge);
        assert!(
            rejection
                .reason
                .contains("max entry size '4000' bytes exceeded"),
            "{}",
            rejection.reason
        );
        assert!(
            !rejection.reason.contains("test-node"),
            "{}",
            rejection.reason
        );
    }
    assert_held(&target, &lines, &driver);
}

#[test]
fn a_server_with_a_smaller_window_refuses_what_it_says_and_keeps_the_rest() {
    let (target, mut driver) = limited(|limits| limits.age = 100);
    let lines = lines(22, 300);
    driver.send(&recent(&lines));
    assert!(
        (190..=201).contains(&driver.rejected.len()),
        "{}",
        driver.rejected.len()
    );
    assert!(
        driver
            .rejected
            .values()
            .all(|r| r.class == "too old" && r.kind == RejectionKind::Refused)
    );
    assert_held(&target, &lines, &driver);
}

#[test]
fn what_no_line_can_help_stops_the_sink_with_advice() {
    type Change = fn(&mut Limits);
    let cases: [(Change, &str); 4] = [
        (|limits| limits.labels = 3, "labels"),
        (|limits| limits.label_value = 5, "labels"),
        (
            |limits| limits.allow_metadata = false,
            "structured_metadata = {}",
        ),
        (|limits| limits.enforced = vec!["team".to_owned()], "labels"),
    ];
    for (change, advice) in cases {
        let (target, driver) = limited(change);
        match driver.attempt(&recent(&lines(23, 3)), false) {
            Outcome::Stop { reason } => assert!(reason.contains(advice), "{reason}"),
            other => panic!("not stopped: {other:?}"),
        }
        assert_eq!(target.lines(), []);
    }
}

#[test]
fn answers_that_break_off_leave_the_batch_in_doubt_and_sent_again_it_is_there_once() {
    let (target, mut driver) = limited(|_| {});
    let fake = target.fake.as_ref().expect("a fake");
    let lines = lines(24, 100);
    let records = recent(&lines);
    for fault in [
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::CutAfter,
        Fault::HangBefore,
        Fault::HangAfter,
    ] {
        fake.next_faults([fault.clone()]);
        match driver.attempt(&records, false) {
            Outcome::Retry { in_doubt: true, .. } => {}
            other => panic!("{fault:?}: {other:?}"),
        }
    }
    assert_eq!(fake.faults(), 5);
    driver.send(&records);
    assert_held(&target, &lines, &driver);
}

#[test]
fn only_204_and_200_count_as_stored() {
    let (target, driver) = limited(|_| {});
    let fake = target.fake.as_ref().expect("a fake");
    let records = recent(&lines(25, 3));
    for status in [201, 202, 203, 205, 206, 260, 299] {
        fake.next_faults([Fault::Answer(Answer::text(status, "stored?\n"))]);
        let outcome = driver.attempt(&records, false);
        assert!(
            matches!(outcome, Outcome::Stop { .. }),
            "{status}: {outcome:?}"
        );
    }
    assert_eq!(target.lines(), []);
}

#[test]
fn an_answer_without_end_is_cut_and_tried_again() {
    let (target, driver) = limited(|_| {});
    let fake = target.fake.as_ref().expect("a fake");
    let endless = vec![b'x'; 40 << 20];
    let answer = Answer {
        body: endless,
        ..Answer::text(400, "")
    };
    fake.next_faults([Fault::Answer(answer)]);
    let outcome = driver.attempt(&recent(&lines(26, 3)), false);
    assert!(
        matches!(outcome, Outcome::Retry { in_doubt: true, .. }),
        "{outcome:?}"
    );
}

#[test]
fn a_rate_limit_is_waited_for_and_stores_everything() {
    let (target, driver) = limited(|limits| limits.tenant_burst = 60_000);
    let fake = target.fake.as_ref().expect("a fake");
    let lines: Vec<Vec<u8>> = lines(27, 200)
        .into_iter()
        .filter(|line| line.len() < 4000)
        .collect();
    let records = recent(&lines);
    for batch in records.chunks(10) {
        let mut refused = 0;
        while let Outcome::Retry { after, .. } = driver.attempt(batch, false) {
            assert_eq!(after, None, "Loki asks for nothing");
            refused += 1;
            assert!(refused < 3, "a batch that fits the burst");
            fake.refill();
        }
    }
    assert_held(&target, &lines, &driver);
}

#[test]
fn a_batch_larger_than_the_burst_is_halved_until_it_fits() {
    let (target, mut driver) = limited(|limits| limits.tenant_burst = 30_000);
    let fake = target.fake.as_ref().expect("a fake");
    fake.time_passes_between_pushes();
    let lines: Vec<Vec<u8>> = lines(28, 200)
        .into_iter()
        .filter(|line| line.len() < 4000)
        .collect();
    driver.send(&recent(&lines));
    assert_eq!(driver.rejected.len(), 0, "{:?}", driver.rejected);
    assert_held(&target, &lines, &driver);
}

#[test]
fn a_server_that_takes_smaller_pushes_gets_smaller_ones() {
    let (target, mut driver) = limited(|limits| limits.message = 100_000);
    let lines: Vec<Vec<u8>> = lines(29, 400)
        .into_iter()
        .filter(|line| line.len() < 50_000)
        .collect();
    driver.send(&recent(&lines));
    assert_eq!(driver.rejected.len(), 0, "{:?}", driver.rejected);
    assert_held(&target, &lines, &driver);
}

#[test]
fn a_stream_over_the_limit_waits() {
    let (target, driver) = limited(|limits| limits.streams = 0);
    let records = recent(&lines(30, 3));
    let outcome = driver.attempt(&records, false);
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    target
        .fake
        .as_ref()
        .expect("a fake")
        .limit(|limits| limits.streams = 1);
    assert!(matches!(
        driver.attempt(&records, true),
        Outcome::Delivered { .. }
    ));
}
