//! Round trips, and that only one form of each value is taken.

use std::fmt::Debug;

use fastrand::Rng;

use super::*;

fn number(rng: &mut Rng) -> u64 {
    match rng.u8(..4) {
        0 => [0, 1, 127, 128, 16_383, 16_384, u64::MAX, 1 << 63][rng.usize(..8)],
        1 => rng.u64(..200),
        _ => rng.u64(..) >> rng.u32(..64),
    }
}

fn option<T>(rng: &mut Rng, value: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    if rng.bool() { Some(value(rng)) } else { None }
}

fn array<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut array = [0; N];
    rng.fill(&mut array);
    array
}

fn text(rng: &mut Rng) -> String {
    (0..rng.usize(..20)).map(|_| rng.char(..)).collect()
}

fn time(rng: &mut Rng) -> i64 {
    if rng.bool() {
        1_767_323_045_678_901 + rng.i64(..1 << 30)
    } else {
        rng.i64(..)
    }
}

fn head(rng: &mut Rng) -> RecordHead {
    RecordHead {
        offset: number(rng),
        length: number(rng),
        kind: [LineKind::Event, LineKind::Malformed, LineKind::Oversize][rng.usize(..3)],
        id: EventId(array(rng)),
        hash: LineHash(array(rng)),
        time_us: option(rng, time),
        envelope: (0..[0, 0, 1, 300][rng.usize(..4)])
            .map(|_| rng.u8(..))
            .collect(),
    }
}

fn head_bytes(head: &RecordHead) -> Vec<u8> {
    let mut out = Vec::new();
    head.encode(&mut out);
    out
}

fn origin(rng: &mut Rng) -> Origin {
    Origin {
        cluster: text(rng),
        node: text(rng),
        source: text(rng),
    }
}

fn span(rng: &mut Rng) -> Span {
    let (a, b) = (number(rng), number(rng));
    Span {
        generation: Generation(array(rng)),
        start: a.min(b),
        end: a.max(b),
    }
}

fn state(rng: &mut Rng) -> OriginState {
    let position = |rng: &mut Rng| GenerationPosition {
        generation: option(rng, |rng| Generation(array(rng))),
        offset: number(rng),
        tail: array(rng),
        device: number(rng),
        inode: number(rng),
    };
    OriginState {
        positions: (0..rng.usize(..4)).map(|_| position(rng)).collect(),
        totals: Totals {
            read_events: number(rng),
            read_bytes: number(rng),
            malformed_events: number(rng),
            gaps: GapCounts(std::array::from_fn(|_| number(rng))),
            dropped: (0..rng.usize(..4))
                .map(|_| (text(rng), number(rng)))
                .collect(),
        },
        last_event_us: option(rng, time),
    }
}

fn gap(rng: &mut Rng) -> SourceGap {
    SourceGap {
        reason: GAP_REASONS[rng.usize(..GAP_REASONS.len())],
        generation: option(rng, |rng| Generation(array(rng))),
        from: option(rng, number),
        to: option(rng, number),
        events: option(rng, number),
        after_us: option(rng, time),
        before_us: option(rng, time),
    }
}

/// Round trips of 2,000 values, every cut of some, and 20 changed or random inputs for each value: whatever decodes
/// encodes to the same bytes again.
fn check<T: Clone + PartialEq + Debug>(
    make: impl Fn(&mut Rng) -> T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    for seed in 0..2000 {
        let mut rng = Rng::with_seed(seed);
        let value = make(&mut rng);
        let bytes = encode(&value);
        assert_eq!(encode(&value.clone()), bytes, "seed {seed}");
        assert_eq!(decode(&bytes).as_ref(), Ok(&value), "seed {seed}");
        for _ in 0..20 {
            let mut other = bytes.clone();
            match rng.u8(..4) {
                0 => other.truncate(rng.usize(..=bytes.len())),
                1 => other.push(rng.u8(..)),
                2 => {
                    let at = rng.usize(..other.len());
                    other[at] = rng.u8(..);
                }
                _ => other = (0..rng.usize(..100)).map(|_| rng.u8(..)).collect(),
            }
            if let Ok(value) = decode(&other) {
                assert_eq!(encode(&value), other, "seed {seed}");
            }
        }
    }
}

#[test]
fn record_heads_come_back_as_they_were() {
    check(head, head_bytes, RecordHead::decode);
}

#[test]
fn origin_keys_come_back_as_they_were() {
    check(origin, Origin::encode, Origin::decode);
}

#[test]
fn spans_come_back_as_they_were() {
    check(span, Span::encode, Span::decode);
}

#[test]
fn origin_states_come_back_as_they_were() {
    check(state, OriginState::encode, OriginState::decode);
}

#[test]
fn source_gaps_come_back_as_they_were() {
    check(gap, SourceGap::encode, SourceGap::decode);
}

#[test]
fn record_head_of_an_ordinary_event_is_at_most_64_bytes() {
    let head = RecordHead {
        offset: 90 << 20,
        length: 1660,
        kind: LineKind::Event,
        id: EventId([7; 16]),
        hash: LineHash([8; 32]),
        time_us: Some(1_767_323_045_678_901),
        envelope: Vec::new(),
    };
    let bytes = head_bytes(&head);
    assert!(bytes.len() <= 64, "{}", bytes.len());
}

#[test]
fn a_huge_count_in_few_bytes_is_an_error_and_no_reservation() {
    let mut bytes = vec![VERSION];
    Writer(&mut bytes).number(u64::MAX);
    assert_eq!(
        OriginState::decode(&bytes),
        Err(DecodeError {
            what: "origin state",
            problem: "cut short"
        })
    );
}

#[test]
fn a_later_version_is_refused() {
    let mut bytes = SourceGap {
        reason: GapReason::Nul,
        generation: None,
        from: Some(1),
        to: Some(2),
        events: None,
        after_us: None,
        before_us: None,
    }
    .encode();
    bytes[0] = 2;
    assert_eq!(
        SourceGap::decode(&bytes).map_err(|e| e.to_string()),
        Err("decode source gap: unknown version".into())
    );
}
