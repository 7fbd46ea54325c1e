//! What a ledger does with chunks, seen through the blocks that it makes.

use super::*;
use crate::event::encoding::{GapReason, GenerationPosition};
use crate::event::{EventId, Generation, LineHash};
use crate::sources::Piece;

const GENERATION: Generation = Generation([7; 32]);

fn ledger() -> Ledger {
    let origin = Origin {
        cluster: "c".into(),
        node: "n".into(),
        source: "s".into(),
    };
    Ledger::new(vec![(origin, OriginState::default(), Vec::new())])
}

fn position(offset: u64) -> Vec<GenerationPosition> {
    vec![GenerationPosition {
        generation: Some(GENERATION),
        offset,
        tail: [0; 32],
        device: 1,
        inode: 2,
    }]
}

fn head(offset: u64, line: &[u8], kind: LineKind) -> RecordHead {
    RecordHead {
        offset,
        length: line.len() as u64,
        kind,
        id: EventId([1; 16]),
        hash: LineHash::of(line),
        time_us: Some(i64::try_from(offset).unwrap()),
        envelope: Vec::new(),
    }
}

/// A chunk of whole lines from `start` on; `!` marks a malformed one.
fn chunk(start: u64, lines: &[&str]) -> Chunk {
    let mut chunk = Chunk::default();
    let mut at = start;
    for line in lines {
        let kind = if line.starts_with('!') {
            LineKind::Malformed
        } else {
            LineKind::Event
        };
        chunk.lines.heads.push(head(at, line.as_bytes(), kind));
        chunk.lines.bytes.extend_from_slice(line.as_bytes());
        at += line.len() as u64 + 1;
    }
    chunk.span = Some(Span {
        generation: GENERATION,
        start,
        end: at,
    });
    chunk.positions = position(at);
    chunk.read_bytes = at - start;
    chunk
}

fn gap(from: u64, to: u64) -> SourceGap {
    SourceGap {
        reason: GapReason::Deleted,
        generation: Some(GENERATION),
        from: Some(from),
        to: Some(to),
        events: None,
        after_us: None,
        before_us: None,
    }
}

/// Kind, records, offset of the position list and read events of every block that waits.
#[track_caller]
fn check(ledger: &Ledger, expect: &[(BlockKind, u32, Option<u64>, u64)]) {
    let seen: Vec<_> = ledger
        .blocks()
        .iter()
        .map(|block| {
            let state = OriginState::decode(block.state).unwrap();
            let offset = state.positions.first().map(|position| position.offset);
            (block.kind, block.count, offset, state.totals.read_events)
        })
        .collect();
    assert_eq!(seen, expect);
}

#[test]
fn chunks_that_follow_each_other_share_a_block_with_the_state_behind_them() {
    let mut ledger = ledger();
    ledger.absorb(0, chunk(0, &["aa", "!b"]));
    ledger.absorb(0, chunk(6, &["cc"]));
    check(&ledger, &[(BlockKind::Data, 3, Some(9), 3)]);
    let blocks = ledger.blocks();
    let span = Span::decode(blocks[0].note).unwrap();
    assert_eq!((span.start, span.end), (0, 9));
    let state = &ledger.origins()[0].state;
    assert_eq!(
        (state.totals.malformed_events, state.totals.read_bytes),
        (1, 9)
    );
    assert_eq!(state.last_event_us, Some(6));
}

#[test]
fn lines_that_do_not_follow_begin_a_block_of_their_own() {
    let mut ledger = ledger();
    ledger.absorb(0, chunk(0, &["aa"]));
    ledger.absorb(0, chunk(100, &["cc"]));
    check(
        &ledger,
        &[
            (BlockKind::Data, 1, Some(3), 1),
            (BlockKind::Data, 1, Some(103), 2),
        ],
    );
}

#[test]
fn after_a_commit_a_new_block_begins() {
    let mut ledger = ledger();
    ledger.absorb(0, chunk(0, &["aa"]));
    ledger.committed();
    assert!(ledger.is_empty());
    ledger.absorb(0, chunk(3, &["bb"]));
    check(&ledger, &[(BlockKind::Data, 1, Some(6), 2)]);
}

#[test]
fn a_gap_stands_before_the_lines_behind_it_with_the_positions_before_them() {
    let mut ledger = ledger();
    ledger.absorb(0, chunk(0, &["aa"]));
    ledger.absorb(
        0,
        Chunk {
            gaps: vec![gap(3, 50)],
            ..chunk(50, &["cc"])
        },
    );
    check(
        &ledger,
        &[
            (BlockKind::Data, 1, Some(3), 1),
            (BlockKind::Gap, 0, Some(3), 1),
            (BlockKind::Data, 1, Some(53), 2),
        ],
    );
    assert_eq!(ledger.origins()[0].state.totals.gaps.total(), 1);
}

#[test]
fn a_gap_found_again_after_a_crash_is_recorded_once() {
    let origin = Origin {
        cluster: "c".into(),
        node: "n".into(),
        source: "s".into(),
    };
    let mut ledger = Ledger::new(vec![(origin, OriginState::default(), vec![gap(3, 50)])]);
    ledger.absorb(
        0,
        Chunk {
            gaps: vec![gap(3, 50)],
            ..chunk(50, &["cc"])
        },
    );
    check(&ledger, &[(BlockKind::Data, 1, Some(53), 1)]);
    ledger.absorb(
        0,
        Chunk {
            gaps: vec![gap(3, 50)],
            ..chunk(70, &["dd"])
        },
    );
    assert_eq!(ledger.origins()[0].state.totals.gaps.total(), 1);
}

#[test]
fn an_oversize_line_counts_once_with_its_last_piece() {
    let mut ledger = ledger();
    let piece = |bytes: &[u8], first, head| Chunk {
        piece: Some(Piece {
            bytes: bytes.to_vec(),
            first,
            head,
        }),
        span: Some(Span {
            generation: GENERATION,
            start: 0,
            end: 9,
        }),
        positions: position(0),
        ..Chunk::default()
    };
    ledger.absorb(0, piece(b"aaaa", true, None));
    let end = Chunk {
        positions: position(9),
        ..piece(
            b"bbbb",
            false,
            Some(head(0, b"aaaabbbb", LineKind::Oversize)),
        )
    };
    ledger.absorb(0, end);
    check(
        &ledger,
        &[
            (BlockKind::Piece, 0, None, 0),
            (BlockKind::Piece, 0, Some(0), 0),
            (BlockKind::Data, 1, Some(9), 1),
        ],
    );
}

#[test]
fn a_line_given_up_in_the_middle_leaves_no_pieces_to_the_next() {
    let mut ledger = ledger();
    let piece = |start, first, head| Chunk {
        piece: Some(Piece {
            bytes: b"aaaa".to_vec(),
            first,
            head,
        }),
        span: Some(Span {
            generation: GENERATION,
            start,
            end: start + 4,
        }),
        positions: position(0),
        ..Chunk::default()
    };
    let head = head(0, b"aaaaaaaa", LineKind::Oversize);
    ledger.absorb(0, piece(0, true, None));
    ledger.absorb(0, piece(0, true, None));
    ledger.absorb(0, piece(4, false, Some(head)));
    ledger.absorb(0, piece(9, true, None));
    ledger.absorb(0, chunk(20, &["bb"]));
    let anew: Vec<_> = ledger
        .blocks()
        .iter()
        .map(|block| (block.kind, block.anew))
        .collect();
    assert_eq!(
        anew,
        [
            (BlockKind::Piece, true),
            (BlockKind::Piece, true),
            (BlockKind::Piece, false),
            (BlockKind::Data, false),
            (BlockKind::Piece, true),
            (BlockKind::Data, true),
        ]
    );
}

#[test]
fn only_the_newest_of_positions_that_moved_alone_is_kept() {
    let mut ledger = ledger();
    for offset in [1, 2, 3] {
        ledger.absorb(
            0,
            Chunk {
                positions: position(offset),
                ..Chunk::default()
            },
        );
    }
    check(&ledger, &[(BlockKind::Position, 0, Some(3), 0)]);
    assert!(!ledger.has_records());
    ledger.committed();
    ledger.absorb(
        0,
        Chunk {
            positions: position(3),
            ..Chunk::default()
        },
    );
    assert!(ledger.is_empty());
}

#[test]
fn equal_lines_give_an_equal_payload_however_they_came() {
    let mut whole = Vec::new();
    encode_payload(&chunk(0, &["aa", "bb"]).lines, &mut whole);
    let mut parts = Vec::new();
    encode_payload(&chunk(0, &["aa"]).lines, &mut parts);
    encode_payload(&chunk(3, &["bb"]).lines, &mut parts);
    assert_eq!(whole, parts);
}
