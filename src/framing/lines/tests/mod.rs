//! The framer against a model that sees all bytes at once, and its hazards by name.

mod corpus;

mod model;

use fastrand::Rng;

use super::*;
use crate::event::fields::{EVENT_START, is_event, stage_timestamp_us};
use crate::framing::lines;
use model::model;

/// What was framed, pieces of one line put together.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Line {
        offset: u64,
        end: u64,
        kind: LineKind,
        time_us: Option<i64>,
        bytes: Vec<u8>,
    },
    Oversize {
        offset: u64,
        bytes: Vec<u8>,
        done: OversizeEnd,
    },
    Gap {
        from: u64,
        to: u64,
    },
}

impl Seen {
    fn range(&self) -> (u64, u64) {
        match self {
            Seen::Line { offset, end, .. } => (*offset, *end),
            Seen::Oversize { offset, done, .. } => (*offset, done.end),
            Seen::Gap { from, to } => (*from, *to),
        }
    }
}

/// Collects what a framer gives out.
#[derive(Default)]
struct Collect {
    seen: Vec<Seen>,
    pieces: Vec<u8>,
    piece_lengths: Vec<usize>,
}

impl Collect {
    fn take(&mut self, framed: Framed<'_>) {
        match framed {
            Framed::Line {
                offset,
                end,
                kind,
                time_us,
                bytes,
            } => {
                assert!(self.pieces.is_empty(), "a line between pieces");
                self.seen.push(Seen::Line {
                    offset,
                    end,
                    kind,
                    time_us,
                    bytes: bytes.to_vec(),
                });
            }
            Framed::Piece {
                offset,
                bytes,
                done,
            } => {
                self.pieces.extend_from_slice(bytes);
                self.piece_lengths.push(bytes.len());
                if let Some(done) = done {
                    self.seen.push(Seen::Oversize {
                        offset,
                        bytes: std::mem::take(&mut self.pieces),
                        done,
                    });
                }
            }
            Framed::NulGap { from, to } => self.seen.push(Seen::Gap { from, to }),
        }
    }
}

/// Small bounds, so that a few hundred bytes meet all of them.
#[derive(Clone, Copy)]
struct Bounds {
    line_max: usize,
    piece_max: usize,
    nul_max: usize,
}

impl Bounds {
    fn framer(self, offset: u64) -> Framer {
        let Bounds {
            line_max,
            piece_max,
            nul_max,
        } = self;
        Framer {
            piece_max,
            nul_max,
            ..Framer::new(line_max, offset)
        }
    }
}

/// All of `bytes` in one push, then the end.
fn frame(bounds: Bounds, bytes: &[u8]) -> Vec<Seen> {
    let mut framer = bounds.framer(0);
    let mut collect = Collect::default();
    let mut out = |framed: Framed<'_>| {
        collect.take(framed);
        true
    };
    assert_eq!(framer.push(bytes, &mut out), bytes.len());
    framer.finish(&mut out);
    collect.seen
}

/// An event, perhaps with another event, or only the start of one, in its body or in a string.
fn event(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let mut event = EVENT_START.to_vec();
    event.extend_from_slice(br#"v1","stageTimestamp":"2026-01-02T03:04:05.6789"#);
    event.extend_from_slice(format!(r#"0{}Z","requestObject":"#, rng.u8(..10)).as_bytes());
    match rng.u8(..6) {
        0 if depth < 4 => event.extend_from_slice(&self::event(rng, depth + 1)),
        1 if depth < 4 => {
            event.push(b'[');
            event.extend_from_slice(&self::event(rng, depth + 1));
            event.push(b']');
        }
        2 => {
            event.extend_from_slice(br#""{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"}""#)
        }
        3 => event.extend_from_slice(br#"{"a":[1,{"b":"}\\"}]}"#),
        _ => event.extend_from_slice(b"null"),
    }
    if rng.bool() {
        let filler = rng.usize(..120);
        event.extend_from_slice(format!(r#","userAgent":"{}""#, "x".repeat(filler)).as_bytes());
    }
    event.push(b'}');
    event
}

/// Lines whole, torn, glued, changed, with NULs in them, long and short.
fn input(rng: &mut Rng, nul_max: usize) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..rng.usize(1..12) {
        let mut part = match rng.u8(..12) {
            0..5 => event(rng, 0),
            5 => EVENT_START.to_vec(),
            6 => vec![0; rng.usize(..=nul_max)],
            7 => vec![0; nul_max + rng.usize(..3 * nul_max)],
            8 => b"{\"a\":".repeat(rng.usize(..30)),
            9 => b"}]\"".to_vec(),
            10 => (0..rng.usize(..40)).map(|_| rng.u8(..)).collect(),
            _ => b"\r".to_vec(),
        };
        if rng.u8(..3) == 0 {
            part.truncate(rng.usize(..=part.len()));
        }
        if rng.u8(..12) == 0 && !part.is_empty() {
            let at = rng.usize(..part.len());
            part[at] = *rng.choice(b"{}[]\",:\\\0 \xff").unwrap();
        }
        input.append(&mut part);
        if rng.u8(..3) > 0 {
            input.push(b'\n');
        }
    }
    input
}

fn bounds(rng: &mut Rng) -> Bounds {
    Bounds {
        line_max: rng.usize(60..600),
        piece_max: rng.usize(1..200),
        nul_max: rng.usize(1..20),
    }
}

/// Pushes `bytes` in random chunks to a framer whose taker stops at random, and which is now and then thrown away for
/// one that starts at its resume offset.
fn frame_in_pieces(bounds: Bounds, bytes: &[u8], rng: &mut Rng) -> Vec<Seen> {
    let mut framer = bounds.framer(0);
    let mut collect = Collect::default();
    let mut at = 0;
    let stop = rng.u32(1..6);
    let mut restarts = rng.u8(..4);
    while at < bytes.len() {
        let longest = [3, 40, 1000][rng.usize(..3)];
        let chunk = rng.usize(1..=longest).min(bytes.len() - at);
        let taken = framer.push(&bytes[at..at + chunk], &mut |framed| {
            collect.take(framed);
            rng.u32(..stop) == 0
        });
        assert!(taken <= chunk);
        at += taken;
        assert_eq!(framer.resume_offset() + framer.pending(), at as u64);
        assert!(
            framer.held.len() <= bounds.line_max + bounds.piece_max + bounds.nul_max + 1 + 1000
        );
        if restarts > 0 && rng.u8(..8) == 0 {
            restarts -= 1;
            at = usize::try_from(framer.resume_offset()).unwrap();
            framer = bounds.framer(at as u64);
            collect.pieces.clear();
        }
    }
    let mut calls = 0;
    while calls == 0 || framer.pending() > 0 {
        framer.finish(&mut |framed| {
            collect.take(framed);
            false
        });
        calls += 1;
    }
    assert_eq!(framer.resume_offset(), bytes.len() as u64);
    collect.seen
}

#[test]
fn any_chunks_stops_and_restarts_give_what_the_model_gives() {
    for seed in 0..10_000 {
        let mut rng = Rng::with_seed(seed);
        let bounds = bounds(&mut rng);
        let bytes = input(&mut rng, bounds.nul_max);
        let expected = model(bounds, &bytes);
        assert_eq!(frame(bounds, &bytes), expected, "seed {seed}");
        assert_eq!(
            frame_in_pieces(bounds, &bytes, &mut rng),
            expected,
            "seed {seed}"
        );
        let mut at = 0;
        for seen in &expected {
            let (from, to) = seen.range();
            assert_eq!(from, at, "seed {seed}: a byte missing or twice");
            at = to;
        }
        assert_eq!(at, bytes.len() as u64, "seed {seed}");
    }
}

const REAL: Bounds = Bounds {
    line_max: 4 << 20,
    piece_max: Framer::PIECE_MAX,
    nul_max: Framer::NUL_RUN_MAX,
};

const WHOLE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","verb":"get","stageTimestamp":"1970-01-01T00:00:01Z"}"#;

/// The bytes of what was framed as `event …`, `malformed …`, `oversize …` or `gap from-to`.
#[track_caller]
fn check(bounds: Bounds, bytes: &[u8], expected: &[String]) {
    let seen = frame(bounds, bytes);
    let shown = |kind: &str, bytes: &[u8]| format!("{kind} {}", String::from_utf8_lossy(bytes));
    let seen: Vec<String> = seen
        .iter()
        .map(|seen| match seen {
            Seen::Line {
                kind: LineKind::Event,
                bytes,
                ..
            } => shown("event", bytes),
            Seen::Line { bytes, .. } => shown("malformed", bytes),
            Seen::Oversize { bytes, .. } => shown("oversize", bytes),
            Seen::Gap { from, to } => format!("gap {from}-{to}"),
        })
        .collect();
    assert_eq!(seen, expected);
}

fn event_of(line: &str) -> String {
    format!("event {line}")
}

fn malformed(line: &str) -> String {
    format!("malformed {line}")
}

#[test]
fn h8_a_partial_last_line_is_held_until_its_line_feed_comes() {
    let mut framer = Framer::new(4 << 20, 7);
    let mut seen = Collect::default();
    let mut out = |framed: Framed<'_>| {
        seen.take(framed);
        true
    };
    let (head, tail) = WHOLE.split_at(40);
    assert_eq!(framer.push(head.as_bytes(), &mut out), 40);
    assert_eq!((framer.resume_offset(), framer.pending()), (7, 40));
    framer.push(tail.as_bytes(), &mut out);
    assert_eq!(framer.resume_offset(), 7);
    framer.push(b"\n", &mut out);
    let end = 7 + WHOLE.len() as u64 + 1;
    assert_eq!((framer.resume_offset(), framer.pending()), (end, 0));
    let (bytes, kind) = (WHOLE.into(), LineKind::Event);
    assert_eq!(
        seen.seen,
        [Seen::Line {
            offset: 7,
            end,
            kind,
            time_us: Some(1_000_000),
            bytes
        }]
    );
}

#[test]
fn h8_a_partial_last_line_of_a_final_generation_becomes_a_line() {
    check(REAL, WHOLE.as_bytes(), &[event_of(WHOLE)]);
    check(REAL, &WHOLE.as_bytes()[..50], &[malformed(&WHOLE[..50])]);
    check(REAL, b"", &[]);
}

#[test]
fn h9_every_torn_head_is_malformed_and_the_event_glued_to_it_is_an_event() {
    for cut in 1..WHOLE.len() {
        let torn = &WHOLE[..cut];
        let bytes = format!("{torn}{WHOLE}\n{WHOLE}\n");
        check(
            REAL,
            bytes.as_bytes(),
            &[malformed(torn), event_of(WHOLE), event_of(WHOLE)],
        );
    }
}

#[test]
fn h9_two_torn_heads_and_an_event_are_one_malformed_line_and_the_event() {
    let torn = &WHOLE[..70];
    let bytes = format!("{torn}{torn}{WHOLE}\r\n");
    check(
        REAL,
        bytes.as_bytes(),
        &[
            malformed(&format!("{torn}{torn}")),
            event_of(&format!("{WHOLE}\r")),
        ],
    );
}

#[test]
fn h9_a_whole_object_before_an_event_is_malformed_too() {
    check(
        REAL,
        format!("{WHOLE}{WHOLE}\n").as_bytes(),
        &[malformed(WHOLE), event_of(WHOLE)],
    );
    check(
        REAL,
        format!("{{}}{WHOLE}\n").as_bytes(),
        &[malformed("{}"), event_of(WHOLE)],
    );
}

#[test]
fn h9_an_event_forged_in_a_request_body_is_not_taken_for_one() {
    let real = format!(
        r#"{EVENT}v1","requestObject":{WHOLE},"verb":"patch"}}"#,
        EVENT = start()
    );
    check(REAL, format!("{real}\n").as_bytes(), &[event_of(&real)]);
    let torn = &WHOLE[..60];
    check(
        REAL,
        format!("{torn}{real}\n").as_bytes(),
        &[malformed(torn), event_of(&real)],
    );
    let torn = &real[..real.len() - 1];
    check(REAL, format!("{torn}\n").as_bytes(), &[malformed(torn)]);
}

#[test]
fn h9_a_line_that_ends_with_the_forged_event_of_a_torn_one_gives_it_out_as_the_rule_says() {
    // Nothing tells it from an event that was glued on: the rule takes it, and the torn head stands before it.
    let torn = format!(r#"{}v1","requestObject":"#, start());
    check(
        REAL,
        format!("{torn}{WHOLE}\n").as_bytes(),
        &[malformed(&torn), event_of(WHOLE)],
    );
}

fn start() -> &'static str {
    std::str::from_utf8(EVENT_START).unwrap()
}

#[test]
fn h10_nuls_up_to_64_kib_are_a_malformed_line_and_the_event_behind_them_is_an_event() {
    for length in [1, 100, Framer::NUL_RUN_MAX] {
        let nuls = "\0".repeat(length);
        check(
            REAL,
            format!("{nuls}{WHOLE}\n").as_bytes(),
            &[malformed(&nuls), event_of(WHOLE)],
        );
        check(
            REAL,
            format!("{nuls}\n{WHOLE}\n").as_bytes(),
            &[malformed(&nuls), event_of(WHOLE)],
        );
    }
}

#[test]
fn h10_a_longer_run_of_nuls_is_a_gap_with_its_exact_range() {
    let length = Framer::NUL_RUN_MAX + 1;
    let nuls = "\0".repeat(length);
    let gap = |from: usize, line_feed: usize| format!("gap {from}-{}", from + length + line_feed);
    check(
        REAL,
        format!("{nuls}{WHOLE}\n").as_bytes(),
        &[gap(0, 0), event_of(WHOLE)],
    );
    check(
        REAL,
        format!("{nuls}\n{WHOLE}\n").as_bytes(),
        &[gap(0, 1), event_of(WHOLE)],
    );
    check(REAL, nuls.as_bytes(), &[gap(0, 0)]);
    let torn = &WHOLE[..30];
    check(
        REAL,
        format!("{torn}{nuls}{WHOLE}\n").as_bytes(),
        &[malformed(torn), gap(30, 0), event_of(WHOLE)],
    );
    check(
        REAL,
        format!("{WHOLE}\n{torn}{nuls}\n").as_bytes(),
        &[event_of(WHOLE), malformed(torn), gap(WHOLE.len() + 31, 1)],
    );
}

#[test]
fn h10_a_gigabyte_hole_is_not_buffered() {
    let mut framer = Framer::new(4 << 20, 0);
    let chunk = vec![0; 1 << 20];
    for _ in 0..1024 {
        framer.push(&chunk, &mut |_| panic!("nothing ended yet"));
        assert!(framer.held.capacity() <= 2 << 20);
    }
    assert_eq!((framer.resume_offset(), framer.pending()), (0, 1 << 30));
    let mut seen = Collect::default();
    framer.finish(&mut |framed| {
        seen.take(framed);
        true
    });
    assert_eq!(
        seen.seen,
        [Seen::Gap {
            from: 0,
            to: 1 << 30
        }]
    );
}

#[test]
fn a_whole_event_inside_a_chunk_is_not_copied() {
    let chunk = format!("{WHOLE}\n{WHOLE}\n");
    let place = chunk.as_bytes().as_ptr_range();
    let mut lines = 0;
    Framer::new(4 << 20, 0).push(chunk.as_bytes(), &mut |framed| {
        let Framed::Line { bytes, .. } = framed else {
            panic!("{framed:?}");
        };
        assert!(place.contains(&bytes.as_ptr()));
        lines += 1;
        true
    });
    assert_eq!(lines, 2);
}

#[test]
fn a_stop_between_a_torn_head_and_its_event_can_be_resumed_by_another_framer() {
    let torn = &WHOLE[..30];
    let bytes = format!("{torn}{WHOLE}\n");
    let mut framer = Framer::new(4 << 20, 0);
    framer.push(bytes.as_bytes(), &mut |_| false);
    assert_eq!(framer.resume_offset(), 30);
    let mut again = Framer::new(4 << 20, 30);
    let mut seen = Collect::default();
    again.push(&bytes.as_bytes()[30..], &mut |framed| {
        seen.take(framed);
        true
    });
    let (end, kind) = (bytes.len() as u64, LineKind::Event);
    let bytes = WHOLE.into();
    assert_eq!(
        seen.seen,
        [Seen::Line {
            offset: 30,
            end,
            kind,
            time_us: Some(1_000_000),
            bytes
        }]
    );
}

#[test]
fn empty_lines_count_and_a_carriage_return_stays() {
    check(
        REAL,
        format!("\n\r\n{WHOLE}\r\n").as_bytes(),
        &[
            malformed(""),
            malformed("\r"),
            event_of(&format!("{WHOLE}\r")),
        ],
    );
}

#[test]
fn an_oversize_line_comes_in_pieces_of_at_most_1_mib_with_its_hash() {
    let line = format!(
        r#"{}v1","verb":"list","responseObject":"{}"}}"#,
        start(),
        "x".repeat(10 << 20)
    );
    let mut framer = Framer::new(4 << 20, 0);
    let mut seen = Collect::default();
    let mut largest = 0;
    for chunk in format!("{line}\n{WHOLE}\n").as_bytes().chunks(256 << 10) {
        framer.push(chunk, &mut |framed| {
            seen.take(framed);
            true
        });
        largest = largest.max(framer.held.len());
    }
    assert!(largest <= (4 << 20) + (1 << 20) + (256 << 10), "{largest}");
    assert!(framer.held.capacity() <= Framer::KEPT_MAX);
    assert!(
        seen.piece_lengths
            .iter()
            .all(|length| *length <= Framer::PIECE_MAX)
    );
    let [
        Seen::Oversize {
            offset: 0,
            bytes,
            done,
        },
        Seen::Line { .. },
    ] = &seen.seen[..]
    else {
        panic!("{} things", seen.seen.len());
    };
    assert!(bytes == line.as_bytes());
    assert_eq!(done.hash, LineHash::of(line.as_bytes()));
    assert_eq!(done.length, line.len() as u64);
    assert_eq!(done.end, line.len() as u64 + 1);
    assert_eq!(done.envelope, br#"{"verb":"list"}"#);
}

#[test]
fn an_event_behind_an_oversize_torn_head_is_an_event_of_its_own() {
    let bounds = Bounds {
        line_max: 150,
        piece_max: 64,
        nul_max: 16,
    };
    let torn = format!(r#"{}v1","userAgent":"{}"#, start(), "x".repeat(400));
    let expected = [format!("oversize {torn}"), event_of(WHOLE), event_of(WHOLE)];
    check(
        bounds,
        format!("{torn}{WHOLE}\n{WHOLE}\n").as_bytes(),
        &expected,
    );
}

#[test]
fn the_search_behind_a_torn_head_is_linear_on_hostile_lines() {
    // Each of these has 80,000 starts; tried one by one up to the line's end, they would take minutes.
    let nested = format!(r#"{}v1","a":"#, start());
    let closed = format!(r#"{}v1"}}"#, start());
    let count = (4 << 20) / nested.len() - 3;
    for line in [
        nested.repeat(count),
        closed.repeat(count),
        start().repeat(count),
    ] {
        let line = format!("x{line}x\n");
        let kinds: Vec<_> = frame(REAL, line.as_bytes())
            .iter()
            .map(Seen::range)
            .collect();
        assert_eq!(kinds, [(0, line.len() as u64)]);
    }
    let all = format!("{}{}\n", nested.repeat(count), WHOLE);
    check(
        REAL,
        all.as_bytes(),
        &[malformed(&nested.repeat(count)), event_of(WHOLE)],
    );
}

#[path = "../../../../fuzz/checks/framer.rs"]
mod framer_check;

#[test]
fn any_cuts_of_real_sizes_give_the_same() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let mut bytes = input(&mut rng, 100);
        bytes.extend_from_slice(&vec![0; rng.usize(..3) * 40_000]);
        bytes.append(&mut input(&mut rng, 100));
        let cuts: Vec<u8> = (0..rng.usize(1..5)).map(|_| rng.u8(..)).collect();
        framer_check::check(rng.usize(1..1000), &bytes, &cuts);
    }
}
