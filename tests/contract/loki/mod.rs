//! What an attempt at Loki promises. Every test of [`suite`] runs against the fake and, where its semantics allow, against
//! VictoriaLogs; what only Loki itself does follows, against the fake alone.

/// A sink, driven as delivery would.
pub(crate) mod driver;

/// Refusals, broken answers, rate limits.
mod faults;

/// Passwords, tokens, certificates, tenants.
mod logins;

/// Days of backlog, clock jumps, crashes: nothing lost under a 204.
mod order;

use std::time::Duration;

use auditship::sinks::{Record, RejectionKind};

use self::driver::{Driver, Target, records_ago};
use crate::contract::bench::{expected, lines};
use crate::support::event::Events;
use crate::support::oracle::Verdict;
use crate::support::servers;

/// Declares each check as a test on the fake and as one on the real server.
macro_rules! suite {
    ($($check:ident),+ $(,)?) => {
        mod on_the_fake {
            $(#[test] fn $check() { super::$check(&super::Target::fake()); })+
        }
        mod on_victorialogs {
            $(#[test] fn $check() {
                if let Some(server) = super::servers::loki_api(concat!("on_victorialogs::", stringify!($check))) {
                    super::$check(&super::Target::real(server));
                }
            })+
        }
    };
}

suite! {
    a_batch_is_stored_once_in_one_stream_under_its_ids_byte_for_byte,
    json_in_gzip_stores_the_same,
    lines_that_are_no_event_or_no_text_come_back_as_their_bytes,
    equal_lines_are_lines_of_their_own,
    what_loki_would_refuse_is_found_before_it_is_sent,
    labels_from_the_event_make_streams_that_batches_keep_apart,
    a_push_is_never_larger_than_three_mebibytes,
    check_connect_logs_in_and_writes_nothing,
}

/// One a second, the last of them now.
fn recent(lines: &[Vec<u8>]) -> Vec<Record> {
    let count = lines.len();
    records_ago(lines, |at| Duration::from_secs((count - at) as u64))
}

/// Every line but these is there once, under its id, byte for byte, and nothing else.
#[track_caller]
fn assert_held(target: &Target, lines: &[Vec<u8>], rejected: &Driver) {
    let mut wanted = expected(lines);
    let mut number = 0;
    wanted.retain(|_| {
        number += 1;
        !rejected.rejected.contains_key(&(number - 1))
    });
    let held: Vec<_> = target.lines().iter().map(|line| line.held()).collect();
    Verdict::of_set(&wanted, &held).assert_clean("loki");
}

fn a_batch_is_stored_once_in_one_stream_under_its_ids_byte_for_byte(target: &Target) {
    let lines = lines(1, 500);
    let mut driver = Driver::new(&target.keys(""));
    driver.open().expect("open");
    let records = recent(&lines);
    driver.send(&records);
    assert_eq!(driver.rejected.len(), 0, "{:?}", driver.rejected);
    assert_held(target, &lines, &driver);
    let found = target.lines();
    for (record, line) in records.iter().zip(&found) {
        let nanos =
            i64::from(u16::from_be_bytes([record.head.id.0[0], record.head.id.0[1]]) % 1000);
        assert_eq!(line.time, record.time_us() * 1000 + nanos);
        for (name, value) in [
            ("cluster", "test-cluster"),
            ("node", "test-node"),
            ("source", "apiserver"),
            ("env", "test"),
        ] {
            assert_eq!(line.fields[name], value);
        }
        let event: serde_json::Value = serde_json::from_str(&line.line).expect("an event");
        for (name, pointer) in [
            ("user", "/user/username"),
            ("verb", "/verb"),
            ("resource", "/objectRef/resource"),
            ("namespace", "/objectRef/namespace"),
        ] {
            assert_eq!(
                event.pointer(pointer),
                Some(&line.fields[name].clone().into())
            );
        }
        assert_eq!(
            event["responseStatus"]["code"].to_string(),
            line.fields["code"]
        );
    }
    if let Some(fake) = &target.fake {
        assert_eq!(fake.largest_push().1, 1, "one stream a push");
    }
}

fn json_in_gzip_stores_the_same(target: &Target) {
    let lines = lines(2, 200);
    let mut driver = Driver::new(&target.keys("compression = \"gzip\""));
    driver.open().expect("open");
    driver.send(&recent(&lines));
    assert_held(target, &lines, &driver);
    assert_eq!(driver.rejected.len(), 0);
}

fn lines_that_are_no_event_or_no_text_come_back_as_their_bytes(target: &Target) {
    let mut lines = lines(3, 12);
    lines[1] = br#"{"kind":"Event","auditID":"torn","verb":"ge"#.to_vec();
    lines[2] = b"\0\0\0\0".to_vec();
    lines[3] = b"\xff\xfe not text".to_vec();
    lines[4] = Vec::new();
    lines[5] =
        b"{\"kind\":\"Event\",\"auditID\":\"b\",\"requestObject\":{\"a\":\"\xff\xfe\"}}".to_vec();
    lines[6] = b"{}".to_vec();
    lines[7] = b"  { \"kind\" : \"Event\" }  ".to_vec();
    lines[8] = br#"{"kind":"Event","requestObject":{"a":"\ud800 \u0000"}}"#.to_vec();
    for compression in ["snappy", "gzip"] {
        let mut driver = Driver::new(&target.keys(&format!("compression = \"{compression}\"")));
        driver.open().expect("open");
        if compression == "snappy" || target.fake.is_some() {
            driver.send(&recent(&lines));
        }
        assert_eq!(driver.rejected.len(), 0, "{:?}", driver.rejected);
    }
    let found: Vec<Vec<u8>> = target.lines().iter().map(|line| line.event()).collect();
    for line in &lines {
        assert!(found.contains(line), "{}", String::from_utf8_lossy(line));
    }
}

fn equal_lines_are_lines_of_their_own(target: &Target) {
    let line = lines(4, 1).remove(0);
    let lines = vec![line; 50];
    let mut driver = Driver::new(&target.keys(""));
    driver.open().expect("open");
    driver.send(&records_ago(&lines, |_| Duration::from_secs(5)));
    assert_held(target, &lines, &driver);
}

fn what_loki_would_refuse_is_found_before_it_is_sent(target: &Target) {
    let mut lines = lines(5, 10);
    let mut events = Events::new(55);
    lines[2] = events.line(2, 300 << 10);
    let hour = 3600;
    let days = 24 * hour;
    let mut driver = Driver::new(&target.keys(""));
    driver.open().expect("open");
    let mut records = records_ago(&lines, |at| {
        Duration::from_secs([60, 8 * days, 50, 0, 40, 30, 20, 10, 2 * hour, 9][at])
    });
    records[3].head.time_us = Some(driver::now().0 + 700 * 1_000_000);
    driver.send(&records[..8]);
    driver.send(&records[8..]);
    let found: Vec<(u64, &str, RejectionKind)> = driver
        .rejected
        .iter()
        .map(|(number, rejection)| (*number, rejection.class.as_str(), rejection.kind))
        .collect();
    assert_eq!(
        found,
        [
            (1, "too old", RejectionKind::KnownLimit),
            (2, "line too long", RejectionKind::KnownLimit),
            (3, "too new", RejectionKind::Refused),
            (8, "too far behind", RejectionKind::KnownLimit),
        ]
    );
    assert_held(target, &lines, &driver);
    if let Some(fake) = &target.fake {
        assert!(fake.discarded().is_empty(), "{:?}", fake.discarded());
    }
}

fn labels_from_the_event_make_streams_that_batches_keep_apart(target: &Target) {
    let lines: Vec<Vec<u8>> = ["get", "list", "get", "no-verb-of-ours", "list"]
        .iter()
        .map(|verb| format!("{{\"kind\":\"Event\",\"verb\":\"{verb}\"}}").into_bytes())
        .collect();
    let keys = target.keys("labels.verb = \"{audit.verb}\"");
    let mut driver = Driver::new(&keys);
    driver.open().expect("open");
    let all = recent(&lines);
    let mut batches: std::collections::BTreeMap<_, Vec<Record>> = Default::default();
    for record in all {
        let key = driver.sink().batch_key(&record);
        batches.entry(key).or_default().push(record);
    }
    let sizes: Vec<usize> = batches.values().map(Vec::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 5);
    assert_eq!(sizes.len(), 3, "get, list, other");
    for batch in batches.values() {
        driver.send(batch);
    }
    assert_held(target, &lines, &driver);
    let mut verbs: Vec<String> = target
        .lines()
        .iter()
        .map(|l| l.fields["verb"].clone())
        .collect();
    verbs.sort();
    assert_eq!(verbs, ["get", "get", "list", "list", "other"]);
}

fn a_push_is_never_larger_than_three_mebibytes(target: &Target) {
    let mut events = Events::new(7);
    let lines: Vec<Vec<u8>> = (0..40).map(|n| events.line(n, 200 << 10)).collect();
    for compression in ["snappy", "gzip"] {
        let more = format!("compression = \"{compression}\"");
        let mut driver = Driver::new(&target.keys(&more));
        driver.open().expect("open");
        if compression == "snappy" || target.fake.is_some() {
            driver.send(&recent(&lines));
        }
        assert_eq!(driver.rejected.len(), 0);
    }
    if let Some(fake) = &target.fake {
        let (largest, _) = fake.largest_push();
        assert!((1 << 20..=3 << 20).contains(&largest), "{largest}");
    } else {
        let driver = Driver::new(&target.keys(""));
        assert_held(target, &lines, &driver);
    }
}

fn check_connect_logs_in_and_writes_nothing(target: &Target) {
    let driver = Driver::new(&target.keys(""));
    let said = driver.connect(true).expect("it is let in");
    assert!(
        said[0].contains("may push to") && said[1].contains("nothing installed"),
        "{said:?}"
    );
    assert_eq!(target.lines(), []);
}

#[test]
fn a_seal_is_a_function_of_records_and_settings() {
    let target = Target::fake();
    let lines = lines(8, 30);
    let records = recent(&lines);
    let seal = |more: &str| {
        Driver::new(&target.keys(more))
            .seal(&records)
            .expect("a seal")
    };
    let first = seal("");
    assert_eq!(first, seal(""));
    let name = String::from_utf8(first.target.clone()).expect("a label string");
    assert!(
        name.contains("node=\"test-node\", source=\"apiserver\""),
        "{name}"
    );
    for more in [
        "compression = \"gzip\"",
        "structured_metadata = {}",
        "line_max = \"100KiB\"",
        "labels.team = \"x\"",
    ] {
        let other = seal(more);
        assert_ne!(first.encoder, other.encoder, "{more}");
    }
    for more in ["max_age = \"10h\"", "max_behind = \"2h\"", "tenant = \"t\""] {
        assert_eq!(first, seal(more), "{more}");
    }
    let mut driver = Driver::new(&target.keys(""));
    driver.open().expect("open");
    driver.send(&records);
    assert_eq!(
        driver.seal(&records),
        Some(first),
        "sending changes nothing"
    );
    assert_ne!(driver.seal(&records), driver.seal(&records[1..]));
}

#[test]
fn a_push_that_is_sent_again_is_the_same_lines() {
    let target = Target::fake();
    let lines = lines(9, 300);
    let mut driver = Driver::new(&target.keys(""));
    driver.open().expect("open");
    let records = recent(&lines);
    driver.send(&records[..200]);
    driver.send(&records[..200]);
    driver.send(&records[100..]);
    assert_held(&target, &lines, &driver);
    assert_eq!(driver.rejected.len(), 0);
}
