//! Decay: flipped bits, lost headers, missing files; quarantine and rebuilding.

use super::*;
use crate::durable_fs::simulated::Kept;

fn damaged(result: Result<Option<Arc<Block>>, ReadError>) -> (u64, u64) {
    match result {
        Err(ReadError::Damaged { first, last, .. }) => (first, last),
        other => panic!("{other:?}"),
    }
}

/// Four blocks of two records each in one segment; where each block begins.
fn four_blocks(bench: &Bench) -> Vec<usize> {
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..4u8 {
        append(&mut spool, &[&[b'a' + n; 40], &[b'A' + n; 40]], &[n]).unwrap();
    }
    drop(spool);
    let bytes = bench.fs.bytes(&bench.segments()[0]).unwrap();
    // The first is the snapshot.
    memchr::memmem::find_iter(&bytes, &block::MAGIC)
        .skip(1)
        .collect()
}

fn flip(bench: &Bench, byte: usize) {
    let path = &bench.segments()[0];
    let mut bytes = bench.fs.bytes(path).unwrap();
    bytes[byte] ^= 0x10;
    bench.fs.set_bytes(path, &bytes);
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    let lines: Vec<Vec<u8>> = (0..24u8)
        .map(|n| format!("line {n} {}", "x".repeat(n.into())).into_bytes())
        .collect();
    for pair in lines.chunks(3) {
        let bodies: Vec<&[u8]> = pair.iter().map(Vec::as_slice).collect();
        append(&mut spool, &bodies, b"state").unwrap();
    }
    drop(spool);
    let path = bench.segments()[0].clone();
    let good = bench.fs.bytes(&path).unwrap();
    assert!((1_500..4_096).contains(&good.len()), "{}", good.len());
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bench.fs.set_bytes(&path, &bytes);
        for name in bench.names("quarantine") {
            bench.fs.lose(&Path::new(DIR).join("quarantine").join(name));
        }
        // All was confirmed: whatever is not returned must be reported.
        let (spool, _) = match bench.open(24) {
            Ok(opened) => opened,
            Err(error) => panic!("bit {bit}: {error}"),
        };
        let reader = spool.reader();
        let mut record = 0;
        let mut lost = 0;
        while record < 24 {
            match reader.block_at(record) {
                Ok(Some(block)) => {
                    for (at, body) in bodies(&block).iter().enumerate() {
                        assert_eq!(body, &lines[block.first as usize + at], "bit {bit}");
                    }
                    record = block.first + u64::from(block.count);
                }
                Err(ReadError::Damaged { first, last, .. }) => {
                    assert!(first <= record && record <= last, "bit {bit}");
                    lost += last + 1 - record;
                    record = last + 1;
                }
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        assert!(lost <= 3, "bit {bit} cost {lost} records");
        // A segment that cannot be brought back whole leaves at least a number in the report.
        drop(spool);
        bench.fs.set_bytes(&path, &good);
        for extra in bench.segments().iter().skip(1) {
            bench.fs.lose(extra);
        }
    }
}

#[test]
fn a_damaged_payload_in_the_middle_is_set_aside_counted_and_reported_with_its_range() {
    let bench = Bench::new();
    let blocks = four_blocks(&bench);
    flip(&bench, blocks[2] - 5);
    let (mut spool, recovered) = bench.open(0).unwrap();
    assert_eq!(recovered.notes.len(), 1, "{:?}", recovered.notes);
    assert_eq!(recovered.keys[0].state, [3]);
    let reader = spool.reader();
    assert_eq!(reader.report().quarantined_blocks, 1);
    assert_eq!(bench.names("quarantine").len(), 1);
    assert_eq!(reader.block_at(1).unwrap().unwrap().first, 0);
    match reader.block_at(3) {
        Err(ReadError::Damaged {
            first: 2,
            last: 3,
            key,
            note,
            payload_crc: Some(_),
            segment: 0,
            ..
        }) => {
            assert_eq!((&key[..], &note[..]), (&b"origin"[..], &b"span"[..]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reader.block_at(4).unwrap().unwrap().first, 4);
    assert_eq!(append(&mut spool, &[b"e"], b"9").unwrap().next_record, 9);
    // A second start finds the same and copies to the same place.
    drop(spool);
    let (spool, _) = bench.open(0).unwrap();
    assert_eq!(bench.names("quarantine").len(), 1);
    assert_eq!(damaged(spool.reader().block_at(2)), (2, 3));
}

#[test]
fn the_range_of_a_lost_header_comes_from_its_neighbours() {
    let bench = Bench::new();
    let blocks = four_blocks(&bench);
    flip(&bench, blocks[1] + 20);
    flip(&bench, blocks[2] + 3);
    let (spool, _) = bench.open(0).unwrap();
    let reader = spool.reader();
    assert_eq!(damaged(reader.block_at(2)), (2, 5));
    assert_eq!(damaged(reader.block_at(5)), (2, 5));
    assert_eq!(reader.block_at(6).unwrap().unwrap().first, 6);
    assert_eq!(reader.block_at(0).unwrap().unwrap().first, 0);
}

#[test]
fn a_bad_last_block_that_nobody_confirmed_is_a_torn_tail_and_not_counted() {
    let bench = Bench::new();
    let blocks = four_blocks(&bench);
    flip(&bench, blocks[3] + 100);
    let (mut spool, recovered) = bench.open(6).unwrap();
    assert_eq!(
        recovered.keys[0].state,
        [2],
        "the source reads again from the position before it"
    );
    assert_eq!(spool.reader().report().quarantined_blocks, 0);
    assert_eq!(spool.reader().report().next_record, 6);
    assert!(bench.names("quarantine")[0].ends_with(".torn"));
    append(&mut spool, &[b"again"], &[3]).unwrap();
    assert_eq!(
        bodies(&spool.reader().block_at(6).unwrap().unwrap()),
        [b"again"]
    );
    drop(spool);
    let (spool, recovered) = bench.open(6).unwrap();
    assert_eq!(recovered.notes, Vec::<String>::new());
    assert_eq!(
        bodies(&spool.reader().block_at(6).unwrap().unwrap()),
        [b"again"]
    );
}

#[test]
fn a_bad_last_block_that_a_sink_confirmed_is_damage_and_its_numbers_are_not_used_again() {
    // Its header is whole: range, note and state are known.
    let bench = Bench::new();
    let blocks = four_blocks(&bench);
    let path = bench.segments()[0].clone();
    let len = bench.fs.bytes(&path).unwrap().len();
    flip(&bench, len - 1);
    let (mut spool, recovered) = bench.open(7).unwrap();
    assert_eq!(recovered.keys[0].state, [3]);
    assert_eq!(damaged(spool.reader().block_at(7)), (6, 7));
    assert_eq!(append(&mut spool, &[b"e"], &[4]).unwrap().next_record, 9);
    drop(spool);
    // Its header is lost with the file's end: the range is what was confirmed.
    let bench = Bench::new();
    assert_eq!(four_blocks(&bench), blocks);
    let bytes = bench.fs.bytes(&path).unwrap();
    bench.fs.set_bytes(&path, &bytes[..blocks[3] + 10]);
    let (mut spool, recovered) = bench.open(8).unwrap();
    assert!(
        recovered
            .notes
            .iter()
            .any(|note| note.contains("records 6 to 7")),
        "{:?}",
        recovered.notes
    );
    assert_eq!(damaged(spool.reader().block_at(6)), (6, 7));
    assert_eq!(append(&mut spool, &[b"e"], &[4]).unwrap().next_record, 9);
    for _ in 0..2 {
        assert_eq!(damaged(spool.reader().block_at(6)), (6, 7));
        assert_eq!(spool.reader().block_at(8).unwrap().unwrap().first, 8);
        drop(spool);
        spool = bench.open(8).unwrap().0;
    }
}

#[test]
fn a_spool_that_is_gone_does_not_give_out_confirmed_numbers_again() {
    let bench = Bench::new();
    let (mut spool, recovered) = bench.open(500).unwrap();
    assert_eq!(recovered.notes.len(), 1);
    assert_eq!(spool.reader().oldest_record(), 500);
    assert_eq!(append(&mut spool, &[b"a"], b"1").unwrap().next_record, 501);
    assert_eq!(spool.reader().block_at(3).unwrap().unwrap().first, 500);
}

#[test]
fn a_damaged_block_is_restored_from_the_same_bytes_only() {
    let bench = Bench::new();
    let blocks = four_blocks(&bench);
    let lost = payload(&[&[b'b'; 40], &[b'B'; 40]]);
    flip(&bench, blocks[2] - 5);
    let (mut spool, _) = bench.open(0).unwrap();
    let reader = spool.reader();
    let error = reader.block_at(2).unwrap_err();
    assert!(!reader.restore(&error, &payload(&[b"another"])).unwrap());
    assert_eq!(damaged(reader.block_at(2)), (2, 3));
    assert!(reader.restore(&error, &lost).unwrap());
    let block = reader.block_at(3).unwrap().unwrap();
    assert_eq!(
        (block.first, block.count, &block.payload[..]),
        (2, 2, &lost[..])
    );
    // It survives a power cut, and goes with its segment.
    drop(spool);
    bench
        .fs
        .reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
    spool = bench.open(0).unwrap().0;
    assert_eq!(spool.reader().block_at(2).unwrap().unwrap().payload, lost);
    assert_eq!(bench.names("rebuilt").len(), 1);
    spool.release(8).unwrap();
    assert_eq!(
        bench.names("rebuilt").len(),
        1,
        "the newest segment is never removed"
    );
    drop(spool);
    let mut bench = bench;
    bench.options.segment_bytes = 1;
    spool = bench.open(0).unwrap().0;
    append(&mut spool, &[b"next"], b"5").unwrap();
    spool.release(8).unwrap();
    assert_eq!(bench.names("rebuilt"), Vec::<String>::new());
    assert_eq!(
        bench.names("quarantine").len(),
        1,
        "damage is never deleted"
    );
}

#[test]
fn a_lost_snapshot_is_made_up_for_from_the_segment_before() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 300;
    let (mut spool, _) = bench.open(0).unwrap();
    let one = payload(&[b"a"]);
    spool
        .append(&[Append {
            key: b"other",
            ..data(&one, 1, b"old")
        }])
        .unwrap();
    while bench.segments().len() < 2 {
        append(&mut spool, &[b"a"], b"new").unwrap();
    }
    append(&mut spool, &[b"a"], b"newest").unwrap();
    drop(spool);
    let path = bench.segments()[1].clone();
    for byte in [10, 90, 80 + 96 + 3] {
        let good = bench.fs.bytes(&path).unwrap();
        let mut bytes = good.clone();
        bytes[byte] ^= 1;
        bench.fs.set_bytes(&path, &bytes);
        let (spool, _) = bench.open(0).unwrap();
        drop(spool);
        let (_spool, recovered) = bench.open(0).unwrap();
        let states: Vec<_> = recovered
            .keys
            .iter()
            .map(|known| known.state.clone())
            .collect();
        assert_eq!(states, [b"newest".to_vec(), b"old".to_vec()], "byte {byte}");
        bench.fs.set_bytes(&path, &good);
    }
}

#[test]
fn a_segment_that_somebody_removed_is_reported_and_its_neighbours_are_read() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 1;
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..4u8 {
        append(&mut spool, &[&[n]], &[n]).unwrap();
    }
    bench.fs.lose(&bench.segments()[1]);
    assert_eq!(damaged(spool.reader().block_at(1)), (1, 1));
    drop(spool);
    let (spool, recovered) = bench.open(0).unwrap();
    assert!(
        recovered.notes.iter().any(|note| note.contains("missing")),
        "{:?}",
        recovered.notes
    );
    let reader = spool.reader();
    assert_eq!(bodies(&reader.block_at(0).unwrap().unwrap()), [[0]]);
    assert_eq!(damaged(reader.block_at(1)), (1, 1));
    assert_eq!(bodies(&reader.block_at(2).unwrap().unwrap()), [[2]]);
}

#[test]
fn bytes_inside_a_payload_never_pass_as_a_block() {
    let mut bench = Bench::new();
    bench.options.compress = false;
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    // A client sends, in an event, a copy of a real block; it names another segment or spool.
    let mut forged = bench.fs.bytes(&bench.segments()[0]).unwrap()[80..].to_vec();
    forged[16] ^= 1;
    let crc = crc32c::crc32c(&forged[..92]);
    forged[92..96].copy_from_slice(&crc.to_le_bytes());
    append(&mut spool, &[&forged], b"2").unwrap();
    append(&mut spool, &[b"c"], b"3").unwrap();
    drop(spool);
    let bytes = bench.fs.bytes(&bench.segments()[0]).unwrap();
    let blocks: Vec<usize> = memchr::memmem::find_iter(&bytes, &block::MAGIC).collect();
    flip(&bench, blocks[2] + 9);
    let (spool, _) = bench.open(0).unwrap();
    assert_eq!(damaged(spool.reader().block_at(1)), (1, 1));
    assert_eq!(
        bodies(&spool.reader().block_at(2).unwrap().unwrap()),
        [b"c"]
    );
}
