//! Lines that are no events, and events that few parsers take: no panic, memory in its bound, the neighbours untouched,
//! every byte kept.

use std::fs;
use std::time::Duration;

use super::{INDEX, index_sink};
use crate::contract::bench::{event_bytes, held};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{Agent, MEMORY, ORIGIN, Place, sink, source};
use crate::support::event::Events;
use crate::support::oracle::{Verdict, expected_of_bytes};

/// Each alone on its line, between two innocent events. What must be `malformed` by RFC 8259's grammar is marked so.
fn hostile() -> Vec<(&'static str, bool, Vec<u8>)> {
    let event = |body: &str| {
        format!("{{\"kind\":\"Event\",\"auditID\":\"x\",\"requestObject\":{body}}}").into_bytes()
    };
    let deep = |open: &str, close: &str| {
        event(&format!(
            "{}1{}",
            open.repeat(100_000),
            close.repeat(100_000)
        ))
    };
    vec![
        ("NULs", true, vec![0; 5000]),
        (
            "NULs before an event's end",
            true,
            b"\0\0\0\"a\":1}".to_vec(),
        ),
        ("not UTF-8 outside of a string", true, b"\xff\xfe{".to_vec()),
        (
            "not UTF-8 inside of a string",
            false,
            b"{\"kind\":\"Event\",\"userAgent\":\"\xc3\x28\xff\"}".to_vec(),
        ),
        ("arrays 100,000 deep", false, deep("[", "]")),
        ("objects 100,000 deep", false, deep("{\"a\":", "}")),
        (
            "100,000 brackets that never close",
            true,
            vec![b'['; 100_000],
        ),
        (
            "duplicate keys",
            false,
            br#"{"kind":"Event","verb":"get","verb":"delete","auditID":"x"}"#.to_vec(),
        ),
        (
            "a key in escapes",
            false,
            br#"{"kind":"Event","\u0076erb":"get","auditID":"x"}"#.to_vec(),
        ),
        (
            "lone surrogates",
            false,
            event(r#"{"a":"\ud800","b":"\udc00\ud800"}"#),
        ),
        ("a number out of all range", false, event("-1e999999999")),
        ("an empty line", true, Vec::new()),
        ("a space", true, b" ".to_vec()),
        (
            "a carriage return before the end",
            false,
            b"{\"kind\":\"Event\"\r}".to_vec(),
        ),
        ("not an object", true, b"[1,2]".to_vec()),
        (
            "a control character in a string",
            true,
            b"{\"kind\":\"a\x01b\"}".to_vec(),
        ),
        ("a trailing comma", true, b"{\"kind\":\"Event\",}".to_vec()),
        (
            "an action line of a bulk request",
            false,
            br#"{"delete":{"_index":"audit-test","_id":"1"}}"#.to_vec(),
        ),
        (
            "legacy format",
            true,
            br#"2026-11-24T10:00:00Z AUDIT: id="x" stage="ResponseComplete""#.to_vec(),
        ),
    ]
}

fn neighbours(count: usize) -> Vec<Vec<u8>> {
    let mut events = Events::new(51);
    events.size_max = 4 << 10;
    (0..count).map(|_| events.make().1).collect()
}

fn join(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = lines.join(&b'\n');
    bytes.push(b'\n');
    bytes
}

#[test]
fn each_is_kept_byte_for_byte_and_its_neighbours_are_untouched() {
    let innocent = neighbours(hostile().len() + 1);
    let mut lines = Vec::new();
    let mut malformed = 0;
    for ((_, bad, line), before) in hostile().into_iter().zip(&innocent) {
        lines.push(before.clone());
        lines.push(line);
        malformed += u64::from(bad);
    }
    lines.push(innocent.last().expect("one more").clone());
    let bytes = join(&lines);

    let place = Place::new();
    let fake = FakeElasticsearch::start();
    fs::write(place.live(), &bytes).expect("write");
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    let (finished, peak) =
        Agent::spawn(place.path(), &["run", &config.to_string_lossy(), "--once"])
            .wait_measuring(Duration::from_secs(120));
    finished.expect_code(0);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(peak <= MEMORY, "peak RSS {} MiB", peak >> 20);
    assert!(
        place.copied() == bytes,
        "the file sink differs from the source"
    );
    let status = place.lawful_status(&config);
    assert_eq!(source(&status)["read_events"], lines.len());
    assert_eq!(source(&status)["malformed_events"], malformed);
    assert_eq!(source(&status)["gaps_total"], 0);
    assert_eq!(
        sink(&status, "search")["dead_letter"],
        0,
        "{}",
        finished.stderr
    );
    let there: Vec<_> = fake.documents(INDEX).iter().map(held).collect();
    Verdict::of_set(&expected_of_bytes([bytes.as_slice()], ORIGIN), &there)
        .assert_clean("the server");
}

#[test]
fn two_events_glued_to_one_line_are_both_delivered_and_a_forged_one_in_a_body_is_not() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    let forged = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"forged"}"#;
    let torn = format!(r#"{{"kind":"Event","auditID":"a","requestObject":{forged},"x":"to"#);
    let good = format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"b","requestObject":{forged}}}"#
    );
    fs::write(
        place.live(),
        format!("{torn}{good}\n\0\0\0{good}\n{torn}\n"),
    )
    .expect("write");
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    place.run_once(&config, &[]).expect_code(0);
    // Behind a torn head or NULs, the leftmost complete object that ends at the line feed is an event of its own.
    let expected = format!("{torn}\n{good}\n\0\0\0\n{good}\n{torn}\n");
    assert_eq!(String::from_utf8_lossy(&place.copied()), expected);
    let status = place.lawful_status(&config);
    assert_eq!(source(&status)["read_events"], 5);
    assert_eq!(source(&status)["malformed_events"], 3);
    let mut stored: Vec<Vec<u8>> = fake
        .documents(INDEX)
        .iter()
        .map(|document| event_bytes(&document.source))
        .collect();
    stored.sort();
    let mut wanted: Vec<Vec<u8>> = expected
        .trim_end_matches('\n')
        .split('\n')
        .map(|line| line.as_bytes().to_vec())
        .collect();
    wanted.sort();
    assert_eq!(stored, wanted);
}

#[test]
fn a_line_of_a_hundred_megabytes_is_one_event_in_bounded_memory() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    let innocent = neighbours(20);
    let mut huge =
        br#"{"kind":"Event","auditID":"huge","verb":"create","requestObject":{"data":""#.to_vec();
    huge.resize(100 << 20, b'x');
    huge.extend_from_slice(br#""},"stageTimestamp":"2026-01-01T00:00:00.000000Z"}"#);
    let bytes = [join(&innocent[..10]), join(&[huge]), join(&innocent[10..])].concat();
    fs::write(place.live(), &bytes).expect("write");
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    let (finished, peak) =
        Agent::spawn(place.path(), &["run", &config.to_string_lossy(), "--once"])
            .wait_measuring(Duration::from_secs(120));
    finished.expect_code(0);
    assert!(peak <= MEMORY, "peak RSS {} MiB", peak >> 20);
    assert!(
        place.copied() == bytes,
        "the file sink differs from the source"
    );
    let status = place.lawful_status(&config);
    assert_eq!(source(&status)["read_events"], 21);
    assert_eq!(sink(&status, "copy")["delivered"], 21);
    let search = sink(&status, "search");
    let kept =
        search["delivered"].as_u64().unwrap_or(0) + search["dead_letter"].as_u64().unwrap_or(0);
    assert_eq!(
        kept, 21,
        "delivered or a dead letter, nothing else: {search}"
    );
    assert!(
        search["delivered"].as_u64() >= Some(20),
        "the neighbours are delivered: {search}"
    );
}

#[test]
fn a_long_run_of_nuls_is_a_gap_with_its_exact_range() {
    let place = Place::new();
    let innocent = neighbours(4);
    let (before, after) = (join(&innocent[..2]), join(&innocent[2..]));
    fs::write(
        place.live(),
        [&before[..], &[0; 200_000], &after[..]].concat(),
    )
    .expect("write");
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    assert!(
        place.copied() == [before.clone(), after].concat(),
        "the neighbours are kept, the hole is not"
    );
    let status = place.lawful_status(&config);
    let gap = &source(&status)["gaps"][0];
    assert_eq!(gap["reason"], "nul", "{status:#}");
    assert_eq!(gap["from"], before.len());
    assert_eq!(gap["to"], before.len() + 200_000);
}
