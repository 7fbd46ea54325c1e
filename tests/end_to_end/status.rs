//! What an operator sees: status, metrics, health; a wrong password that stops the sink and heals; no secret anywhere.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{INDEX, PATIENCE, assert_stored_once, index_sink};
use crate::fakes::elasticsearch::{FakeElasticsearch, Login};
use crate::support::agent::{Place, command, sink};
use crate::support::auditgen::{Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::wait::{self, Stopwatch};

/// Every metric that a file source, an elasticsearch sink and a file sink have, but those that are absent when unknown.
const METRICS: &[&str] = &[
    "auditship_source_read_events_total{source=\"apiserver\"}",
    "auditship_source_read_bytes_total{source=\"apiserver\"}",
    "auditship_source_unread_bytes{source=\"apiserver\"}",
    "auditship_source_held_deleted_bytes{source=\"apiserver\"}",
    "auditship_source_malformed_events_total{source=\"apiserver\"}",
    "auditship_spool_appended_events_total",
    "auditship_spool_bytes",
    "auditship_spool_max_bytes",
    "auditship_spool_blocked",
    "auditship_spool_sync_seconds_bucket",
    "auditship_spool_quarantined_blocks_total",
    "auditship_sink_delivered_events_total{sink=\"search\"}",
    "auditship_sink_not_selected_events_total{sink=\"search\"}",
    "auditship_sink_dead_letter_events_total{sink=\"search\"}",
    "auditship_sink_replayed_events_total{sink=\"search\"}",
    "auditship_sink_gap_events_total{sink=\"search\"}",
    "auditship_sink_pending_events{sink=\"search\"}",
    "auditship_sink_oldest_pending_seconds{sink=\"search\"}",
    "auditship_sink_state{",
    "auditship_sink_attempts_total{",
    "auditship_sink_sent_bytes_total{sink=\"search\"}",
    "auditship_sink_request_seconds_bucket{",
    "auditship_build_info",
    "process_resident_memory_bytes",
];

fn write_events(place: &Place, seed: u64, count: usize) -> crate::support::auditgen::Journal {
    let mut writer = Lumberjack::new(&place.live(), Rotation::default());
    let mut events = Events::new(seed);
    events.size_max = 3 << 10;
    for _ in 0..count {
        let (serial, line) = events.make();
        writer.write_line(Some(serial), &line).expect("write");
    }
    writer.finish()
}

#[test]
fn the_listener_answers_what_the_documents_say() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    write_events(&place, 101, 50);
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "all stored", || fake.count(INDEX) == 50);
    wait::until_true(PATIENCE, "ready", || {
        place.admin("/readyz").is_some_and(|(code, _)| code == 200)
    });
    for path in ["/livez", "/startedz"] {
        assert_eq!(place.admin(path).map(|(code, _)| code), Some(200), "{path}");
    }
    assert_eq!(place.admin("/nonsense").map(|(code, _)| code), Some(404));
    // Each series is there when what it counts has happened, at the latest a second later.
    for name in METRICS {
        wait::until_true(Duration::from_secs(5), format!("the metric {name}"), || {
            place
                .admin("/metrics")
                .is_some_and(|(_, text)| text.contains(name))
        });
    }
    let (_, metrics) = place.admin("/metrics").expect("metrics");
    let ours = |line: &&str| line.starts_with("auditship_") && !line.contains("_seconds");
    assert!(metrics.lines().filter(ours).count() > 20);
    wait::until_true(PATIENCE, "delivered counted", || {
        place.admin("/metrics").is_some_and(|(_, text)| {
            text.contains("auditship_sink_delivered_events_total{sink=\"search\"} 50")
        })
    });
    let (_, live) = place.admin("/status").expect("status");
    let live: Value = serde_json::from_str(&live).expect("JSON");
    let asked = place.status(&config);
    assert_eq!(
        live["spool"]["id"], asked["spool"]["id"],
        "status works beside a running agent"
    );
    agent.stop();
    let stopped = place.lawful_status(&config);
    assert_eq!(stopped["cluster"], "test-cluster");
    assert_eq!(stopped["node"], "test-node");
    assert_eq!(stopped["spool"]["events"], 50);
    assert_eq!(stopped["spool"]["next_record"], 50);
    let listed = command(&["spool", "ls", &config.to_string_lossy()]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("records 0 to 49"), "inclusive: {listed}");
    assert_eq!(sink(&stopped, "search")["delivered"], 50);
}

#[test]
fn counters_go_on_across_a_restart() {
    let place = Place::new();
    write_events(&place, 102, 30);
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "the totals of the run before", || {
        place.admin("/metrics").is_some_and(|(_, text)| {
            text.contains("auditship_source_read_events_total{source=\"apiserver\"} 30")
                && text.contains("auditship_sink_delivered_events_total{sink=\"copy\"} 30")
        })
    });
    agent.stop();
}

#[test]
fn no_state_is_exit_1() {
    let place = Place::new();
    let config = place.config(&place.file_sink());
    let output = command(&["status", &config.to_string_lossy(), "--json"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_wrong_password_drops_nothing_is_named_and_heals_by_itself() {
    const SECRET: &str = "canary-9f1c-password";
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    // base64 of `writer:right`.
    fake.let_in(Login::Authorization("Basic d3JpdGVyOnJpZ2h0".to_owned()));
    let journal = write_events(&place, 103, 100);
    let password = place.path().join("password");
    fs::write(&password, SECRET).expect("write");
    let auth = format!(
        "auth = {{ basic = {{ user = \"writer\", password = {{ file = \"{}\" }} }} }}",
        password.display()
    );
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), &auth)
    ));
    let agent = place.start(&config);
    let (code, reason) = wait::until(PATIENCE, "not ready", || {
        place.admin("/readyz").filter(|(code, _)| *code == 503)
    });
    assert_eq!(code, 503);
    wait::until_true(PATIENCE, "stopped, with the reason", || {
        place
            .admin("/readyz")
            .is_some_and(|(_, text)| text.contains("search") && text.contains("401"))
    });
    let written = 100;
    wait::until_true(PATIENCE, "the file sink goes on", || {
        memchr::memchr_iter(b'\n', &place.copied()).count() == written
    });
    let pages = ["/status", "/metrics", "/readyz"]
        .map(|path| place.admin(path).map(|(_, body)| body).unwrap_or_default());
    let once = place.run_once_elsewhere(&config);
    assert_eq!(
        once.status.code(),
        Some(1),
        "--once gives up where a required sink is stopped: {once:?}"
    );

    fs::write(&password, "right\n").expect("write");
    let mended = Stopwatch::start();
    wait::until_true(PATIENCE, "it heals", || fake.count(INDEX) == written);
    assert!(mended.elapsed().as_secs() < 10, "{:?}", mended.elapsed());
    wait::until_true(PATIENCE, "ready again", || {
        place.admin("/readyz").is_some_and(|(code, _)| code == 200)
    });
    let said = agent.stop();
    for text in pages
        .iter()
        .chain([&said.stderr, &said.stdout, &once.stderr, &reason])
    {
        assert!(
            !text.contains(SECRET) && !text.contains("d3JpdGVyOm"),
            "a secret in {text}"
        );
    }
    assert_stored_once(&fake, INDEX, &journal);
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["dead_letter"], 0);
    assert_eq!(sink(&status, "search")["delivered"], written);
}
