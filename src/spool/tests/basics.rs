//! Append, read, reopen.

use super::*;

#[test]
fn records_are_read_back_from_disk_and_from_memory() {
    for memory_bytes in [0, 1 << 20] {
        let mut bench = Bench::new();
        bench.options.memory_bytes = memory_bytes;
        let (mut spool, _) = bench.open(0).unwrap();
        let reader = spool.reader();
        append(&mut spool, &[b"a", b"bb"], b"1").unwrap();
        let appended = append(&mut spool, &[b"ccc"], b"2").unwrap();
        assert_eq!(appended.next_record, 3);
        for (record, first, expected) in [(0, 0, 2), (1, 0, 2), (2, 2, 1)] {
            let block = reader.block_at(record).unwrap().unwrap();
            assert_eq!((block.first, block.count), (first, expected));
            assert_eq!(
                (&block.key[..], &block.note[..]),
                (&b"origin"[..], &b"span"[..])
            );
        }
        assert_eq!(
            bodies(&reader.block_at(2).unwrap().unwrap()),
            [b"ccc".to_vec()]
        );
        assert!(reader.block_at(3).unwrap().is_none());
        assert_eq!(*reader.watch().borrow(), 3);
    }
}

#[test]
fn a_spool_goes_on_where_it_was_left() {
    let bench = Bench::new();
    let (mut spool, recovered) = bench.open(0).unwrap();
    assert!(recovered.keys.is_empty());
    append(&mut spool, &[b"a"], b"1").unwrap();
    let id = spool.reader().report().id;
    drop(spool);
    let (mut spool, recovered) = bench.open(0).unwrap();
    assert_eq!(recovered.notes, Vec::<String>::new());
    assert_eq!(
        recovered.keys,
        [KeyState {
            key: b"origin".to_vec(),
            state: b"1".to_vec(),
            gaps: vec![]
        }]
    );
    append(&mut spool, &[b"b"], b"2").unwrap();
    let reader = spool.reader();
    assert_eq!(reader.report().id, id);
    assert_eq!(
        bodies(&reader.block_at(0).unwrap().unwrap()),
        [b"a".to_vec()]
    );
    assert_eq!(
        bodies(&reader.block_at(1).unwrap().unwrap()),
        [b"b".to_vec()]
    );
    assert_eq!(bench.segments().len(), 1);
}

#[test]
fn a_spool_on_the_machines_file_system_goes_on_too() {
    let home = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    bench.options.dir = home.path().join("state/spool");
    bench.options.segment_bytes = 2_000;
    let open = || {
        let fs = Arc::new(crate::durable_fs::SystemFs);
        Spool::open(fs, bench.clock.clone(), bench.options.clone(), 0)
    };
    let (mut spool, _) = open().unwrap();
    for n in 0..20u8 {
        append(&mut spool, &[&[n; 300], b"second"], &[n]).unwrap();
    }
    assert!(matches!(open(), Err(OpenError::Locked(_))));
    drop(spool);
    let (mut spool, recovered) = open().unwrap();
    assert_eq!(
        (recovered.notes.len(), &recovered.keys[0].state[..]),
        (0, &[19][..])
    );
    let reader = spool.reader();
    for n in 0..20u8 {
        assert_eq!(
            bodies(&reader.block_at(2 * u64::from(n)).unwrap().unwrap())[0],
            [n; 300]
        );
    }
    assert!(reader.report().segments > 1);
    spool.release(40).unwrap();
    assert_eq!(reader.report().segments, 1);
}
