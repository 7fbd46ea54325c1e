//! What an attempt at Elasticsearch or OpenSearch promises. Every test of [`suite`] runs against the fake and against a
//! real OpenSearch; what a real server cannot be made to do on demand follows, against the fake alone.

/// Refusals, broken answers, full queues.
mod faults;

/// Passwords, API keys, certificates.
mod logins;

use auditship::sinks::{Outcome, Rejection, RejectionKind, Verdict};
use serde_json::{Value, json};

use crate::contract::bench::{
    Bench, Target, all_delivered, delivered, event_bytes, expected, held, lines, records,
};
use crate::support::event::Events;
use crate::support::oracle::Verdict as OracleVerdict;
use crate::support::servers;

/// Declares each check as a test on the fake and as one on the real server.
macro_rules! suite {
    ($($check:ident),+ $(,)?) => {
        mod on_the_fake {
            $(#[test] fn $check() { super::$check(&super::Target::fake()); })+
        }
        mod on_opensearch {
            $(#[test] fn $check() {
                if let Some(server) = super::servers::opensearch(concat!("on_opensearch::", stringify!($check))) {
                    super::$check(&super::Target::real(server));
                }
            })+
        }
    };
}

suite! {
    a_batch_is_stored_once_under_the_documented_ids_byte_for_byte,
    index_mode_stores_the_same,
    flat_documents_have_the_events_own_fields,
    a_resend_is_recognised_by_what_is_stored,
    somebody_elses_document_under_our_id_is_alarmed_and_the_event_stored_all_the_same,
    in_doubt_events_are_found_behind_a_rollover,
    a_request_that_is_too_large_asks_to_be_split,
    what_a_server_cannot_parse_is_stored_as_its_line,
    malformed_lines_are_stored_as_their_bytes,
    ten_thousand_events_with_one_audit_id_are_ten_thousand_documents,
    without_the_template_the_sink_stops_and_says_what_to_do,
    concurrent_attempts_store_each_event_once,
}

/// Every line is there once, under its id, byte for byte, and nothing else.
#[track_caller]
fn assert_held(target: &Target, name: &str, lines: &[Vec<u8>]) {
    let held: Vec<_> = target.documents(name).iter().map(held).collect();
    OracleVerdict::of_set(&expected(lines), &held).assert_clean(name);
}

fn document(target: &Target, name: &str, id: &str) -> Value {
    let all = target.documents(name);
    let found = all
        .iter()
        .find(|document| document.id == id)
        .unwrap_or_else(|| panic!("no {id} in {name}"));
    serde_json::from_slice(&found.source).expect("a document of ours")
}

fn index_keys(target: &Target) -> String {
    format!(
        "endpoints = [\"{}\"]\nindex = \"{}\"\ntemplate = \"own\"\n",
        target.url,
        target.index()
    )
}

fn a_batch_is_stored_once_under_the_documented_ids_byte_for_byte(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let lines = lines(1, 500);
    all_delivered(bench.send(records(&lines)));
    assert_held(target, &name, &lines);
    let first = &expected(&lines)[0];
    let document = document(target, &name, &first.id);
    assert_eq!(
        document["@timestamp"].as_str().map(|time| &time[..19]),
        Some("2026-01-01T00:00:00")
    );
    assert_eq!(
        document["event"],
        json!({"id": first.id, "kind": "event", "hash": first.hash})
    );
    assert_eq!(
        document["orchestrator"],
        json!({"cluster": {"name": "test-cluster"}})
    );
    assert_eq!(document["host"], json!({"name": "test-node"}));
    assert_eq!(document["labels"], json!({"env": "test"}));
}

fn index_mode_stores_the_same(target: &Target) {
    target.make_index();
    let bench = Bench::new("elasticsearch", &index_keys(target));
    bench.open().expect("open");
    let lines = lines(2, 100);
    all_delivered(bench.send(records(&lines)));
    assert_held(target, &target.index(), &lines);
}

fn flat_documents_have_the_events_own_fields(target: &Target) {
    target.make_index();
    let bench = Bench::new(
        "elasticsearch",
        &format!("{}document = \"flat\"\n", index_keys(target)),
    );
    bench.open().expect("open");
    let lines = lines(3, 20);
    all_delivered(bench.send(records(&lines)));
    assert_eq!(target.documents(&target.index()).len(), 20);
    for (line, expected) in lines.iter().zip(expected(&lines)) {
        let stored = document(target, &target.index(), &expected.id);
        let event: Value = serde_json::from_slice(line).expect("an event");
        for (key, value) in event.as_object().expect("an object") {
            assert_eq!(&stored[key], value, "{key}");
        }
        assert!(stored["@timestamp"].is_string());
        let own = json!({"id": expected.id, "hash": expected.hash, "cluster": "test-cluster", "node": "test-node", "source": "apiserver"});
        for (key, value) in own.as_object().expect("an object") {
            assert_eq!(&stored["auditship"][key], value, "{key}");
        }
    }
    all_delivered(bench.send(records(&lines)));
    assert_eq!(
        target.documents(&target.index()).len(),
        20,
        "a resend is recognised in this form too"
    );
}

fn a_resend_is_recognised_by_what_is_stored(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let lines = lines(4, 300);
    let all = records(&lines);
    all_delivered(bench.send(all[..200].to_vec()));
    all_delivered(bench.send(all));
    assert_held(target, &name, &lines);
}

fn somebody_elses_document_under_our_id_is_alarmed_and_the_event_stored_all_the_same(
    target: &Target,
) {
    target.make_index();
    let bench = Bench::new("elasticsearch", &index_keys(target));
    bench.open().expect("open");
    let lines = lines(5, 10);
    let expected = expected(&lines);
    // The right hash and everything else right, but for the event; then one that has nothing of ours at all.
    let honest = json!({"@timestamp": "2026-01-01T00:00:00Z", "kubernetes": {"audit": {"kind": "Event"}},
        "event": {"id": expected[3].id, "kind": "event", "hash": expected[3].hash}});
    target.forge(&target.index(), &expected[3].id, &honest.to_string());
    target.forge(&target.index(), &expected[7].id, r#"{"x":1}"#);
    let (except, alarms) = delivered(bench.send(records(&lines)));
    assert_eq!(except, []);
    assert!(!alarms.is_empty(), "a conflict must be alarmed");
    assert!(
        alarms.iter().all(|alarm| alarm.reason == "conflict"),
        "{alarms:?}"
    );
    let documents = target.documents(&target.index());
    assert_eq!(documents.len(), 12);
    for index in [3, 7] {
        let second = format!("{}-c", expected[index].id);
        let stored = documents
            .iter()
            .find(|document| document.id == second)
            .expect("stored under the second id");
        assert_eq!(event_bytes(&stored.source), lines[index]);
    }
    // Once more, as after a crash: both are recognised, nothing is added.
    let (except, _) = delivered(bench.send_in_doubt(records(&lines)));
    assert_eq!(except, []);
    assert_eq!(target.documents(&target.index()).len(), 12);
}

fn in_doubt_events_are_found_behind_a_rollover(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let lines = lines(6, 300);
    let all = records(&lines);
    all_delivered(bench.send(all[..200].to_vec()));
    target.rollover(&name);
    all_delivered(bench.send_in_doubt(all.clone()));
    assert_held(target, &name, &lines);
    target.rollover(&name);
    all_delivered(bench.send_in_doubt(all[200..].to_vec()));
    assert_held(target, &name, &lines);
}

fn a_request_that_is_too_large_asks_to_be_split(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    if let Some(fake) = &target.fake {
        fake.max_content(2 << 20);
    }
    let mut events = Events::new(7);
    let lines: Vec<Vec<u8>> = (0..24)
        .map(|serial| events.line(serial, 100 << 10))
        .collect();
    let all = records(&lines);
    match bench.send(all.clone()) {
        Outcome::Split {
            verdict:
                Rejection {
                    kind: RejectionKind::TooLarge,
                    ..
                },
        } => {}
        other => panic!("not a split: {other:?}"),
    }
    all_delivered(bench.send(all[..12].to_vec()));
    all_delivered(bench.send(all[12..].to_vec()));
    assert_held(target, &name, &lines);
}

fn what_a_server_cannot_parse_is_stored_as_its_line(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let mut lines = lines(8, 20);
    // RFC 8259 allows these, the servers' parser does not.
    lines[5] =
        br#"{"kind":"Event","auditID":"a","verb":"patch","requestObject":{"a":1,"a":2}}"#.to_vec();
    lines[9] =
        b"{\"kind\":\"Event\",\"auditID\":\"b\",\"requestObject\":{\"a\":\"\xff\xfe\"}}".to_vec();
    lines[13] = format!(
        r#"{{"kind":"Event","auditID":"c","requestObject":{}{}}}"#,
        "[".repeat(1100),
        "]".repeat(1100)
    )
    .into_bytes();
    let all = records(&lines);
    let (except, alarms) = delivered(bench.send(all.clone()));
    assert_eq!(alarms, []);
    // A sink may know beforehand what will not parse, and send that as its line at once.
    let refused: Vec<u64> = except.iter().map(|(number, _)| *number).collect();
    assert!(
        refused.iter().all(|number| [5, 9, 13].contains(number)),
        "{except:?}"
    );
    for (_, verdict) in &except {
        assert!(
            matches!(
                verdict,
                Verdict::Rejected(Rejection {
                    kind: RejectionKind::Unparsable,
                    ..
                })
            ),
            "{verdict:?}"
        );
    }
    if !refused.is_empty() {
        let again = all
            .iter()
            .filter(|record| refused.contains(&record.number))
            .cloned()
            .collect();
        all_delivered(bench.send_fallback(again));
    }
    assert_held(target, &name, &lines);
}

fn malformed_lines_are_stored_as_their_bytes(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let mut lines = lines(9, 6);
    lines[1] = br#"{"kind":"Event","auditID":"torn","verb":"ge"#.to_vec();
    lines[2] = b"\0\0\0\0".to_vec();
    lines[3] = b"\xff\xfe not text".to_vec();
    lines[4] = Vec::new();
    all_delivered(bench.send(records(&lines)));
    assert_held(target, &name, &lines);
}

fn ten_thousand_events_with_one_audit_id_are_ten_thousand_documents(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let mut events = Events::new(10);
    events.size_max = 600;
    events.audit_id = Some("chosen-by-a-client".to_owned());
    let lines: Vec<Vec<u8>> = (0..10_000).map(|_| events.make().1).collect();
    // 1,000 at once: with what a document adds to its event, 2,000 are more than the server takes.
    for chunk in records(&lines).chunks(1000) {
        all_delivered(bench.send(chunk.to_vec()));
    }
    assert_held(target, &name, &lines);
}

fn without_the_template_the_sink_stops_and_says_what_to_do(target: &Target) {
    // A pattern that the managed template of the other tests does not match.
    let name = format!("logs-untemplated.{}-default", target.index());
    let bench = Bench::new(
        "elasticsearch",
        &format!(
            "endpoints = [\"{}\"]\ndata_stream = \"{name}\"\n",
            target.url
        ),
    );
    match bench.open() {
        Err(Outcome::Stop { reason }) => assert!(reason.contains("--setup"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    bench.connect(true).expect("setup");
    bench.open().expect("it goes on");
    all_delivered(bench.send(records(&lines(11, 3))));
    assert_eq!(target.documents(&name).len(), 3);
}

fn concurrent_attempts_store_each_event_once(target: &Target) {
    let name = target.data_stream();
    let bench = Bench::for_data_stream(target, &name);
    let lines = lines(12, 400);
    // The same records in two attempts at once, as after a timeout whose first attempt is still under way.
    let all = records(&lines);
    let batches = vec![
        all[..200].to_vec(),
        all[100..300].to_vec(),
        all[200..].to_vec(),
        all.clone(),
    ];
    for outcome in bench.send_together(batches) {
        all_delivered(outcome);
    }
    assert_held(target, &name, &lines);
}
