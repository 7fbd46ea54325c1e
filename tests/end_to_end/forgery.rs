//! A client cannot erase evidence: neither by choosing audit ids nor by writing documents under our ids beforehand.

use serde_json::json;

use super::{INDEX, assert_copied_once, assert_stored_once, index_sink};
use crate::contract::bench::event_bytes;
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{ORIGIN, Place, sink};
use crate::support::auditgen::{Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::http::Http;
use crate::support::oracle::expected;

#[test]
fn ten_thousand_events_reusing_one_audit_id_are_all_stored() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    let mut writer = Lumberjack::new(
        &place.live(),
        Rotation {
            max_bytes: 2 << 20,
            ..Rotation::default()
        },
    );
    let mut events = Events::new(61);
    events.audit_id = Some("00000000-aaaa-4bbb-8ccc-chosen".to_owned());
    events.size_max = 700;
    for _ in 0..10_000 {
        let (serial, line) = events.make();
        writer.write_line(Some(serial), &line).expect("write");
    }
    let journal = writer.finish();
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(fake.count(INDEX), 10_000);
    assert_stored_once(&fake, INDEX, &journal);
    assert_copied_once(&place, &journal);
    place.lawful_status(&config);
}

#[test]
fn documents_made_beforehand_under_our_ids_are_alarmed_and_the_real_events_stored() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    let mut writer = Lumberjack::new(&place.live(), Rotation::default()).keep_bytes();
    let mut events = Events::new(62);
    for _ in 0..100 {
        let (serial, line) = events.make();
        writer.write_line(Some(serial), &line).expect("write");
    }
    let journal = writer.finish();
    let all = expected(&journal, ORIGIN);
    let http = Http::open(&fake.url());
    for event in &all[40..50] {
        // Other content, and the hash that the real event has.
        let forged = json!({"@timestamp": "2026-01-01T00:00:00Z", "event": {"id": event.id, "kind": "event", "hash": event.hash},
            "kubernetes": {"audit": {"kind": "Event", "verb": "get", "user": {"username": "nobody"}}}});
        let body = format!("{{\"create\":{{\"_id\":\"{}\"}}}}\n{forged}\n", event.id);
        http.ok("POST", &format!("/{INDEX}/_bulk"), body);
    }
    let config = place.config(&index_sink(&fake.url(), ""));
    let finished = place.run_once(&config, &[]);
    finished.expect_code(0);
    let documents = fake.documents(INDEX);
    assert_eq!(documents.len(), 110);
    let bytes = journal.bytes();
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    for (index, event) in all.iter().enumerate() {
        let id = if (40..50).contains(&index) {
            format!("{}-c", event.id)
        } else {
            event.id.clone()
        };
        let stored = documents
            .iter()
            .find(|document| document.id == id)
            .unwrap_or_else(|| panic!("no {id}"));
        assert_eq!(event_bytes(&stored.source), lines[index]);
    }
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["delivered"], 100);
    assert!(
        finished.stderr.to_lowercase().contains("conflict"),
        "an alarm is an error line: {}",
        finished.stderr
    );
    // Nothing of an event's body in what we say.
    assert!(
        !finished.stderr.contains("nobody") && !finished.stderr.contains("ConfigMap"),
        "{}",
        finished.stderr
    );
}
