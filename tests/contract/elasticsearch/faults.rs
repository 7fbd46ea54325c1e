//! What a real server cannot be made to do on demand: refusals, broken answers, full queues, against the fake.

use std::time::Duration;

use auditship::sinks::{Outcome, Verdict};

use super::{assert_held, index_keys, lines};
use crate::contract::bench::{Bench, Target, all_delivered, delivered, records};
use crate::fakes::elasticsearch::Fault;
use crate::fakes::http_server::{Answer, Manner};
use crate::support::wait::Stopwatch;

fn on_fake() -> (Target, Bench, String) {
    let target = Target::fake();
    let name = target.data_stream();
    let bench = Bench::for_data_stream(&target, &name);
    (target, bench, name)
}

#[test]
fn an_item_that_meets_a_full_queue_is_sent_again_alone() {
    let (target, bench, name) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    fake.next_faults([Fault::ItemsRejected(4)]);
    let lines = lines(20, 40);
    let all = records(&lines);
    let (except, alarms) = delivered(bench.send(all.clone()));
    assert_eq!(alarms, []);
    assert_eq!(except.len(), 10);
    assert!(
        except
            .iter()
            .all(|(_, verdict)| matches!(verdict, Verdict::Retry { .. })),
        "{except:?}"
    );
    assert_eq!(fake.count(&name), 30);
    let again = all
        .iter()
        .filter(|record| except.iter().any(|(number, _)| *number == record.number))
        .cloned()
        .collect();
    all_delivered(bench.send(again));
    assert_held(&target, &name, &lines);
}

#[test]
fn whole_refusals_are_retried_after_what_the_server_asks() {
    let (target, bench, name) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    for (fault, after) in [
        (Fault::Status(429, None), None),
        (Fault::Status(503, Some(7)), Some(Duration::from_secs(7))),
        (Fault::Status(500, None), None),
    ] {
        fake.next_faults([fault.clone()]);
        match bench.send(records(&lines(21, 2))) {
            Outcome::Retry { after: found, .. } => assert_eq!(found, after, "{fault:?}"),
            other => panic!("{fault:?}: {other:?}"),
        }
    }
    assert_eq!(fake.count(&name), 0);
}

#[test]
fn an_attempt_whose_end_was_not_seen_is_in_doubt_and_its_resend_adds_nothing() {
    for fault in [
        Fault::ResetAfter,
        Fault::CutAfter,
        Fault::HangAfter,
        Fault::ResetBefore,
        Fault::HangBefore,
    ] {
        let (target, bench, name) = on_fake();
        let fake = target.fake.as_ref().expect("the fake");
        fake.next_faults([fault.clone()]);
        let lines = lines(22, 50);
        match bench.send(records(&lines)) {
            Outcome::Retry { in_doubt: true, .. } => {}
            other => panic!("{fault:?}: {other:?}"),
        }
        // Where nothing arrived there is nothing to roll over.
        if fake.count(&name) > 0 {
            fake.rollover(&name);
        }
        all_delivered(bench.send_in_doubt(records(&lines)));
        assert_held(&target, &name, &lines);
    }
}

#[test]
fn a_whole_request_refused_for_one_document_asks_to_be_split() {
    let (target, bench, _) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    fake.next_faults([Fault::Status(400, None)]);
    match bench.send(records(&lines(23, 8))) {
        Outcome::Split { .. } => {}
        other => panic!("not a split: {other:?}"),
    }
}

#[test]
fn a_refused_document_is_named_and_the_others_are_stored() {
    let (target, bench, name) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    fake.refuse_documents_with("poison-7f3a");
    let mut lines = lines(24, 10);
    lines[4] = br#"{"kind":"Event","auditID":"poison-7f3a"}"#.to_vec();
    let (except, _) = delivered(bench.send(records(&lines)));
    assert_eq!(except.len(), 1);
    let (number, Verdict::Rejected(rejection)) = &except[0] else {
        panic!("{except:?}")
    };
    assert_eq!(*number, 4);
    assert!(
        !rejection.reason.contains("7f3a"),
        "nothing of the event's body: {}",
        rejection.reason
    );
    assert!(rejection.reason.len() <= 512);
    assert_eq!(fake.count(&name), 9);
}

#[test]
fn bodies_are_compressed_where_asked_for() {
    let target = Target::fake();
    let bench = Bench::new(
        "elasticsearch",
        &format!("{}compression = \"gzip\"\n", index_keys(&target)),
    );
    bench.open().expect("open");
    let lines = lines(25, 30);
    all_delivered(bench.send(records(&lines)));
    assert_held(&target, &target.index(), &lines);
    assert_eq!(target.fake.as_ref().expect("the fake").gzip_requests(), 1);
}

#[test]
fn several_endpoints_serve_while_one_is_down() {
    let target = Target::fake();
    let keys = format!(
        "endpoints = [\"http://127.0.0.1:1\", \"{}\"]\nindex = \"{}\"\ntemplate = \"own\"\n",
        target.url,
        target.index()
    );
    let bench = Bench::new("elasticsearch", &keys);
    let lines = lines(26, 60);
    for chunk in records(&lines).chunks(10) {
        // An attempt keeps to one endpoint; the next one goes to the other.
        let outcomes: Vec<Outcome> = (0..3)
            .map(|_| bench.send_in_doubt(chunk.to_vec()))
            .collect();
        assert!(
            outcomes
                .iter()
                .any(|outcome| matches!(outcome, Outcome::Delivered { .. })),
            "{outcomes:?}"
        );
    }
    assert_held(&target, &target.index(), &lines);
}

#[test]
fn a_slow_answer_ends_with_the_sinks_timeout() {
    let (target, bench, _) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    let answer = Answer::json(200, vec![b' '; 1000]).sent(Manner::Drip(Duration::from_millis(200)));
    fake.next_faults([Fault::Answer(answer)]);
    let watch = Stopwatch::start();
    assert!(matches!(
        bench.send(records(&lines(30, 2))),
        Outcome::Retry { in_doubt: true, .. }
    ));
    assert!(
        watch.elapsed() < Duration::from_secs(8),
        "{:?}",
        watch.elapsed()
    );
}

#[test]
fn what_the_server_diverts_to_its_failure_store_is_told() {
    let (target, bench, name) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    fake.divert_documents_with("divert-2d7e");
    let mut lines = lines(33, 10);
    lines[2] = br#"{"kind":"Event","auditID":"divert-2d7e"}"#.to_vec();
    // It holds the event, so it is delivered; but nobody who searches the data stream will find it.
    let (except, alarms) = delivered(bench.send(records(&lines)));
    assert_eq!(except, []);
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!((fake.count(&name), fake.failures().len()), (9, 1));
}

#[test]
fn an_index_that_is_missing_stops_the_sink() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("the fake");
    fake.auto_create(false);
    let bench = Bench::new("elasticsearch", &index_keys(&target));
    match bench.send(records(&lines(34, 3))) {
        Outcome::Stop { reason } => assert!(reason.contains(&target.index()), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    fake.auto_create(true);
    all_delivered(bench.send(records(&lines(34, 3))));
}

#[test]
fn index_names_made_from_events_stay_few() {
    let target = Target::fake();
    let keys = format!(
        "endpoints = [\"{}\"]\nindex = \"audit-{{audit.objectRef.namespace}}\"\ntemplate = \"own\"\n",
        target.url
    );
    let bench = Bench::new("elasticsearch", &keys);
    bench.open().expect("open");
    let lines: Vec<Vec<u8>> = (0..200)
        .map(|n| {
            format!(r#"{{"kind":"Event","objectRef":{{"namespace":"../Team {n}"}}}}"#).into_bytes()
        })
        .collect();
    all_delivered(bench.send(records(&lines)));
    let names = target.fake.as_ref().expect("the fake").indices();
    assert_eq!(names.len(), 65, "{names:?}");
    assert!(names.contains(&"audit-other".to_owned()), "{names:?}");
    for name in &names {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        assert!(
            name.starts_with("audit-") && name.chars().all(allowed),
            "{name}"
        );
    }
    let held: usize = names.iter().map(|name| target.documents(name).len()).sum();
    assert_eq!(held, 200);
}

#[test]
fn without_the_right_to_see_data_streams_events_in_doubt_are_found_by_a_search() {
    for refusal in [403, 405] {
        let (target, bench, name) = on_fake();
        let fake = target.fake.as_ref().expect("the fake");
        let lines = lines(36, 100);
        all_delivered(bench.send(records(&lines)));
        fake.rollover(&name);
        fake.forbid("/_data_stream", refusal);
        all_delivered(bench.send_in_doubt(records(&lines)));
        assert_held(&target, &name, &lines);
    }
}

#[test]
fn events_in_doubt_are_found_behind_several_rollovers() {
    // An agent that is killed again and again before its cursor is stored leaves the same events in doubt each time.
    let (target, bench, name) = on_fake();
    let fake = target.fake.as_ref().expect("the fake");
    let lines = lines(37, 120);
    let all = records(&lines);
    for end in [40, 80, 120] {
        all_delivered(bench.send_in_doubt(all[..end].to_vec()));
        fake.rollover(&name);
    }
    all_delivered(bench.send_in_doubt(all));
    assert_held(&target, &name, &lines);
}
