//! The fake against what was seen of Loki 3.7.6: what a rejected line does to the others, and what is said about it.

use super::store::{Limits, Said, Store};
use super::wire::{PushedEntry, PushedStream};

const SECOND: i64 = 1_000_000_000;
const NOW: i64 = 1_767_225_600 * SECOND;

/// A stream `{t="NAME"}` with lines so many seconds before now.
fn stream(name: &str, ago: &[i64]) -> PushedStream {
    let entry = |ago: &i64| PushedEntry {
        time: NOW - ago * SECOND,
        line: format!("{name} {ago}"),
        metadata: Vec::new(),
    };
    PushedStream {
        labels: format!("{{t=\"{name}\"}}"),
        entries: ago.iter().map(entry).collect(),
    }
}

fn push(store: &mut Store, streams: Vec<PushedStream>) -> Said {
    store.push(&Limits::default(), NOW, streams)
}

fn held(store: &Store) -> Vec<String> {
    store
        .lines()
        .into_iter()
        .map(|(_, kept)| kept.line)
        .collect()
}

#[test]
fn a_line_that_the_distributor_refuses_is_a_400_and_the_others_are_stored() {
    let mut store = Store::default();
    let week = 168 * 3600;
    let (status, body) = push(
        &mut store,
        vec![stream("a", &[week + 5, 10]), stream("b", &[-700, 20])],
    );
    assert_eq!(status, 400, "{body}");
    assert!(body.starts_with("2 errors like: entry for stream '{service_name=\"unknown_service\", t=\"a\"}' has timestamp too old: "), "{body}");
    assert_eq!(held(&store), ["a 10", "b 20"]);
}

#[test]
fn the_last_stream_alone_is_heard_of_what_is_too_far_behind() {
    for (order, status) in [(["a", "b"], 204), (["b", "a"], 400)] {
        let mut store = Store::default();
        push(&mut store, vec![stream("a", &[0])]);
        let late = |name: &&str| stream(name, if *name == "a" { &[3601] } else { &[3602] });
        let (found, _) = push(&mut store, order.iter().map(late).collect());
        assert_eq!((found, held(&store).len()), (status, 2), "{order:?}");
        assert_eq!(store.discarded["too_far_behind"], 1);
    }
}

#[test]
fn a_sharded_stream_loses_lines_without_a_word() {
    let limits = Limits {
        shards: 4,
        ..Limits::default()
    };
    let mut store = Store::default();
    let mut said = Vec::new();
    for _ in 0..8 {
        store.push(&limits, NOW, vec![stream("a", &[0])]);
        said.push(
            store
                .push(&limits, NOW, vec![stream("a", &[4000, 3, 2, 1])])
                .0,
        );
    }
    assert!(said.contains(&204) && said.contains(&400), "{said:?}");
    assert_eq!(
        (held(&store).len(), store.discarded["too_far_behind"]),
        (4, 8)
    );
}

#[test]
fn in_one_push_the_order_matters() {
    let mut store = Store::default();
    assert_eq!(push(&mut store, vec![stream("a", &[9000, 0])]).0, 204);
    assert_eq!(push(&mut store, vec![stream("b", &[0, 9000])]).0, 400);
    assert_eq!(held(&store).len(), 3);
}

#[test]
fn the_same_time_line_and_metadata_is_one_line() {
    let mut store = Store::default();
    for _ in 0..3 {
        assert_eq!(push(&mut store, vec![stream("a", &[5, 5])]).0, 204);
    }
    let mut other = stream("a", &[5]);
    other.entries[0]
        .metadata
        .push(("user.name".to_owned(), "u".to_owned()));
    other.entries[0]
        .metadata
        .push(("t".to_owned(), "x".to_owned()));
    push(&mut store, vec![other]);
    let lines = store.lines();
    assert_eq!(lines.len(), 2);
    let names: Vec<&String> = lines[1].1.metadata.keys().collect();
    assert_eq!(names, ["t_extracted", "user_name"]);
}

#[test]
fn what_refuses_a_whole_push() {
    let mut store = Store::default();
    let bad = PushedStream {
        labels: "{a-b=\"c\"}".to_owned(),
        ..stream("b", &[1])
    };
    assert_eq!(push(&mut store, vec![stream("a", &[1]), bad]).0, 400);
    assert_eq!(push(&mut store, Vec::new()).0, 422);
    assert_eq!(push(&mut store, vec![stream("a", &[])]).0, 204);
    for limits in [
        Limits {
            tenant_burst: 5,
            ..Limits::default()
        },
        Limits {
            streams: 0,
            ..Limits::default()
        },
        Limits {
            stream_burst: 5,
            ..Limits::default()
        },
    ] {
        assert_eq!(store.push(&limits, NOW, vec![stream("a", &[1, 2])]).0, 429);
    }
    let limits = Limits {
        message: 5,
        ..Limits::default()
    };
    let (status, body) = store.push(&limits, NOW, vec![stream("a", &[1, 2])]);
    assert!(status == 500 && body.contains("larger than max"), "{body}");
    assert_eq!(held(&store), [""; 0]);
}

#[test]
fn labels_lines_and_metadata_have_limits() {
    let mut store = Store::default();
    let mut check = |labels: String, line: usize, metadata: usize, expected: &str| {
        let mut one = stream("a", &[1]);
        one.labels = labels;
        one.entries[0].line = "x".repeat(line);
        one.entries[0].metadata = (0..metadata)
            .map(|n| (format!("m{n}"), "v".to_owned()))
            .collect();
        let (status, body) = push(&mut store, vec![one]);
        let said = if status == 204 { "" } else { &body };
        assert!(
            said.contains(expected) && (status == 204) == expected.is_empty(),
            "{status} {body}"
        );
    };
    let labels = |n: usize| {
        let all: Vec<String> = (0..n).map(|n| format!("l{n}=\"x\"")).collect();
        format!("{{{}}}", all.join(", "))
    };
    check(labels(15), 262_144, 128, "");
    check(labels(16), 1, 0, "has 16 label names; limit 15");
    check(
        labels(1),
        262_145,
        0,
        "max entry size '262144' bytes exceeded",
    );
    check(
        labels(1),
        1,
        129,
        "too many structured metadata labels: '129'",
    );
    check(
        format!("{{a=\"{}\"}}", "v".repeat(2049)),
        1,
        0,
        "label value too long",
    );
    check(
        "{a=\"1\", a=\"2\"}".to_owned(),
        1,
        0,
        "duplicate label name: 'a'",
    );
}
