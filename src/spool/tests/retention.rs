//! Releasing, oversize records, readers beside the writer.

use super::*;
use crate::durable_fs::simulated::{Call, Kept};

fn piece<'a>(key: &'a [u8], payload: &'a [u8]) -> Append<'a> {
    Append {
        anew: false,
        kind: BlockKind::Piece,
        key,
        state: b"before",
        note: b"span",
        count: 0,
        payload,
    }
}

/// A spool that begins a new segment with every append.
fn one_append_a_segment() -> Bench {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 1;
    bench
}

fn parts(reader: &Reader, block: &Block) -> Vec<Vec<u8>> {
    block
        .pieces
        .iter()
        .map(|piece| reader.piece(*piece).unwrap().to_vec())
        .collect()
}

#[test]
fn release_frees_whole_segments_below_the_record_and_never_the_newest() {
    let bench = one_append_a_segment();
    let (mut spool, _) = bench.open(0).unwrap();
    let reader = spool.reader();
    assert_eq!(spool.oldest_segment_last_record(), None);
    for n in 0..5u8 {
        append(&mut spool, &[&[n], &[n]], &[n]).unwrap();
    }
    assert_eq!(spool.oldest_segment_last_record(), Some(1));
    spool.release(3).unwrap();
    assert_eq!((reader.oldest_record(), bench.segments().len()), (2, 4));
    assert_eq!(reader.block_at(0).unwrap().unwrap().first, 2);
    spool.release(10).unwrap();
    assert_eq!((reader.oldest_record(), bench.segments().len()), (8, 1));
    let calls = bench.fs.calls();
    spool.release(10).unwrap();
    assert_eq!(bench.fs.calls(), calls, "nothing to free costs nothing");
    bench
        .fs
        .reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
    let (spool, recovered) = bench.open(10).unwrap();
    assert_eq!(recovered.keys[0].state, [4]);
    assert_eq!(spool.reader().report().next_record, 10);
}

#[test]
fn a_segment_that_cannot_be_removed_now_is_removed_by_the_next_release() {
    let bench = one_append_a_segment();
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..4u8 {
        append(&mut spool, &[&[n]], &[n]).unwrap();
    }
    bench.fs.fail(Call::Remove, 1, 1, std::io::ErrorKind::Other);
    assert!(spool.release(3).is_err());
    assert_eq!(spool.reader().oldest_record(), 3);
    assert_eq!(bench.segments().len(), 3);
    spool.release(3).unwrap();
    assert_eq!(bench.segments().len(), 1);
}

#[test]
fn a_reader_goes_on_in_a_segment_that_is_removed_under_it() {
    let mut bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..3u8 {
        append(&mut spool, &[&[n]], &[n]).unwrap();
    }
    let reader = spool.reader();
    assert_eq!(reader.block_at(0).unwrap().unwrap().first, 0);
    drop(spool);
    bench.options.segment_bytes = 1;
    let (mut spool, _) = bench.open(0).unwrap();
    let fresh = spool.reader();
    assert_eq!(fresh.block_at(0).unwrap().unwrap().first, 0);
    append(&mut spool, &[b"new"], b"3").unwrap();
    spool.release(3).unwrap();
    assert_eq!(
        fresh.block_at(1).unwrap().unwrap().first,
        3,
        "released records are stepped over, not damage"
    );
    // The older reader still believes in the segment; its descriptor is open.
    assert_eq!(reader.block_at(1).unwrap().unwrap().first, 1);
}

#[test]
fn pieces_of_several_records_interleave_and_survive_a_restart() {
    for memory_bytes in [0, 1 << 20] {
        let mut bench = one_append_a_segment();
        bench.options.memory_bytes = memory_bytes;
        let (mut spool, _) = bench.open(0).unwrap();
        let one = payload(&[b"one"]);
        let end = payload(&[b""]);
        spool
            .append(&[piece(b"a", b"a1"), piece(b"b", b"b1"), piece(b"a", b"a2")])
            .unwrap();
        spool
            .append(&[
                Append {
                    key: b"c",
                    ..data(&one, 1, b"c")
                },
                piece(b"b", b"b2"),
            ])
            .unwrap();
        spool
            .append(&[
                Append {
                    key: b"b",
                    ..data(&end, 1, b"b")
                },
                piece(b"a", b"a3"),
            ])
            .unwrap();
        spool
            .append(&[Append {
                key: b"a",
                ..data(&end, 1, b"a")
            }])
            .unwrap();
        for _ in 0..2 {
            let reader = spool.reader();
            assert!(reader.block_at(0).unwrap().unwrap().pieces.is_empty());
            let b = reader.block_at(1).unwrap().unwrap();
            assert_eq!(parts(&reader, &b), [b"b1", b"b2"]);
            let a = reader.block_at(2).unwrap().unwrap();
            assert_eq!(parts(&reader, &a), [b"a1", b"a2", b"a3"]);
            assert!(a.pieces.iter().all(|piece| piece.record == 2));
            drop(spool);
            spool = bench.open(0).unwrap().0;
        }
        // Record 2 has its first pieces in the first segment: that goes only with it.
        spool.release(2).unwrap();
        let reader = spool.reader();
        assert_eq!(
            parts(&reader, &reader.block_at(2).unwrap().unwrap()),
            [b"a1", b"a2", b"a3"]
        );
    }
}

#[test]
fn segments_with_pieces_of_an_unfinished_record_are_kept() {
    let bench = one_append_a_segment();
    let (mut spool, _) = bench.open(0).unwrap();
    let end = payload(&[b""]);
    append(&mut spool, &[b"x"], b"1").unwrap();
    spool.append(&[piece(b"a", b"a1")]).unwrap();
    append(&mut spool, &[b"y"], b"2").unwrap();
    append(&mut spool, &[b"z"], b"3").unwrap();
    spool.release(3).unwrap();
    assert_eq!(
        bench.segments().len(),
        3,
        "only the segment before the piece may go"
    );
    spool
        .append(&[Append {
            key: b"a",
            ..data(&end, 1, b"a")
        }])
        .unwrap();
    let reader = spool.reader();
    assert_eq!(
        parts(&reader, &reader.block_at(3).unwrap().unwrap()),
        [b"a1"]
    );
}

#[test]
fn what_begins_anew_voids_unfinished_pieces() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    let end = payload(&[b""]);
    let first = |bytes| Append {
        anew: true,
        ..piece(b"a", bytes)
    };
    let whole = Append {
        key: b"a",
        anew: true,
        ..data(&end, 1, b"whole")
    };
    let last = Append {
        key: b"a",
        ..data(&end, 1, b"a")
    };
    spool
        .append(&[
            first(b"read in vain"),
            first(b"a1"),
            piece(b"a", b"a2"),
            last,
        ])
        .unwrap();
    spool.append(&[first(b"never finished")]).unwrap();
    spool.append(&[whole]).unwrap();
    let reader = spool.reader();
    let a = reader.block_at(0).unwrap().unwrap();
    assert_eq!(parts(&reader, &a), [b"a1", b"a2"]);
    assert!(reader.block_at(1).unwrap().unwrap().pieces.is_empty());
    assert_eq!(spool.oldest_open_piece(), None);
}

#[test]
fn a_restart_and_a_gap_void_unfinished_pieces() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    let one = payload(&[b"whole"]);
    spool
        .append(&[piece(b"origin", b"never finished")])
        .unwrap();
    drop(spool);
    let (mut spool, recovered) = bench.open(0).unwrap();
    assert_eq!(recovered.keys[0].state, b"before");
    spool.append(&[data(&one, 1, b"1")]).unwrap();
    let gap = Append {
        anew: false,
        kind: BlockKind::Gap,
        note: b"lost",
        ..data(b"", 0, b"2")
    };
    spool
        .append(&[
            piece(b"origin", b"lost at its source"),
            gap,
            data(&one, 1, b"3"),
        ])
        .unwrap();
    for record in [0, 1] {
        assert!(
            spool
                .reader()
                .block_at(record)
                .unwrap()
                .unwrap()
                .pieces
                .is_empty()
        );
    }
}

#[test]
fn a_damaged_piece_names_its_record_and_can_be_restored() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    let end = payload(&[b""]);
    append(&mut spool, &[b"before"], b"1").unwrap();
    spool
        .append(&[
            piece(b"origin", b"a part of a long line"),
            data(&end, 1, b"2"),
        ])
        .unwrap();
    append(&mut spool, &[b"behind"], b"3").unwrap();
    let reader = spool.reader();
    let block = reader.block_at(1).unwrap().unwrap();
    let path = &bench.segments()[0];
    let mut bytes = bench.fs.bytes(path).unwrap();
    let at = memchr::memmem::find(&bytes, b"a part of a long line").unwrap();
    bytes[at] ^= 1;
    bench.fs.set_bytes(path, &bytes);
    let error = reader.piece(block.pieces[0]).unwrap_err();
    assert!(
        matches!(&error, ReadError::Damaged { first: 1, last: 1, note, .. } if note == b"span"),
        "{error}"
    );
    assert_eq!(reader.report().quarantined_blocks, 1);
    assert!(reader.restore(&error, b"a part of a long line").unwrap());
    assert_eq!(parts(&reader, &block), [b"a part of a long line"]);
}

#[test]
fn recent_blocks_are_read_from_memory_within_its_bound() {
    let mut bench = Bench::new();
    bench.options.memory_bytes = 1_000;
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..10u8 {
        append(&mut spool, &[&[n; 284]], &[n]).unwrap();
    }
    let reader = spool.reader();
    let calls = bench.fs.calls();
    for record in 7..10 {
        assert_eq!(
            bodies(&reader.block_at(record).unwrap().unwrap()),
            [[record as u8; 284]]
        );
    }
    assert_eq!(
        bench.fs.calls(),
        calls,
        "a caught-up reader touches no disk"
    );
    assert_eq!(bodies(&reader.block_at(6).unwrap().unwrap()), [[6; 284]]);
    assert!(bench.fs.calls() > calls);
}

#[test]
fn reading_in_order_does_not_walk_the_segment_again() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..200u8 {
        append(&mut spool, &[&[n]], &[n]).unwrap();
    }
    let reader = spool.reader();
    let before = bench.fs.calls();
    for record in 0..200 {
        assert_eq!(reader.block_at(record).unwrap().unwrap().first, record);
    }
    // One open, the snapshot's header, and for each block its header and its body.
    assert_eq!(bench.fs.calls() - before, 1 + 1 + 2 * 200);
}

#[test]
fn a_start_reads_each_older_segment_once_and_scans_the_last_alone() {
    let bench = one_append_a_segment();
    let (mut spool, _) = bench.open(0).unwrap();
    let mut cost = Vec::new();
    for segments in [50u8, 100] {
        for n in 0..50 {
            append(&mut spool, &[&[n; 200], &[n], &[n]], &[n]).unwrap();
        }
        drop(spool);
        let before = bench.fs.calls();
        spool = bench.open(0).unwrap().0;
        assert_eq!(bench.segments().len(), usize::from(segments));
        cost.push(bench.fs.calls() - before);
    }
    assert_eq!(
        cost[1] - cost[0],
        2 * 50,
        "an open and a read of the header for each segment more"
    );
}

#[test]
fn readers_beside_a_writer_see_only_what_is_durable() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 3_000;
    let (mut spool, _) = bench.open(0).unwrap();
    let reading = |reader: Reader| {
        let mut watch = reader.watch();
        move || {
            let mut next = 0;
            while next < 400 {
                let end = *watch.borrow_and_update();
                while next < end {
                    let block = reader.block_at(next).unwrap().unwrap();
                    assert!(block.first >= next || block.first + u64::from(block.count) > next);
                    for (at, body) in bodies(&block).iter().enumerate() {
                        assert_eq!(body[..], (block.first + at as u64).to_le_bytes());
                    }
                    next = block.first + u64::from(block.count);
                }
                if end == next {
                    std::thread::yield_now();
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(reading(spool.reader()));
        scope.spawn(reading(spool.reader()));
        for n in 0..200u64 {
            append(
                &mut spool,
                &[&(2 * n).to_le_bytes(), &(2 * n + 1).to_le_bytes()],
                b"s",
            )
            .unwrap();
            if n % 10 == 9 {
                spool.release(n).unwrap();
            }
        }
    });
}
