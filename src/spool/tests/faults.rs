//! Failing calls, full disks, and power cuts at every call.

use std::io;
use std::time::Duration;

use super::*;
use crate::durable_fs::simulated::{CALLS, Call, Kept};

/// All bodies in the spool, in order.
fn all(spool: &Spool) -> Vec<Vec<u8>> {
    let reader = spool.reader();
    let mut found = Vec::new();
    let mut record = reader.oldest_record();
    while let Some(block) = reader.block_at(record).unwrap() {
        found.extend(bodies(&block));
        record = block.first + u64::from(block.count);
    }
    found
}

#[test]
fn after_a_failed_sync_the_blocks_are_written_again_to_a_new_segment() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    bench.fs.fail(Call::Sync, 0, 1, io::ErrorKind::Other);
    assert_eq!(append(&mut spool, &[b"b"], b"2").unwrap().next_record, 2);
    assert!(bench.fs.failed());
    assert_eq!(bench.segments().len(), 2);
    append(&mut spool, &[b"c"], b"3").unwrap();
    assert_eq!(all(&spool), [b"a", b"b", b"c"]);
    bench
        .fs
        .reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
    let (spool, recovered) = bench.open(0).unwrap();
    assert_eq!(all(&spool), [b"a", b"b", b"c"]);
    assert_eq!(recovered.keys[0].state, b"3");
}

#[test]
fn what_a_given_up_segment_still_holds_behind_its_acknowledged_end_is_never_read() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    bench.fs.fail(Call::Sync, 0, 1, io::ErrorKind::Other);
    bench.fs.fail(Call::SetLen, 0, 1, io::ErrorKind::Other);
    append(&mut spool, &[b"b"], b"2").unwrap();
    append(&mut spool, &[b"c"], b"3").unwrap();
    assert!(bench.fs.failed());
    assert_eq!(all(&spool), [b"a", b"b", b"c"]);
    drop(spool);
    let (spool, recovered) = bench.open(0).unwrap();
    assert_eq!(all(&spool), [b"a", b"b", b"c"]);
    assert_eq!(recovered.notes, Vec::<String>::new());
    let fs: Arc<dyn crate::durable_fs::DurableFs> = Arc::new(bench.fs.clone());
    let look = inspect::Look::at(&fs, Path::new(DIR), 0).unwrap().unwrap();
    let verified = look.verify(&mut |finding| panic!("{finding:?}")).unwrap();
    assert_eq!((verified.records, verified.blocks), (3, 5));
}

#[test]
fn when_the_new_segment_fails_too_durability_is_lost_and_nothing_is_accepted() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    bench.fs.fail(Call::Sync, 0, 2, io::ErrorKind::Other);
    assert!(matches!(
        append(&mut spool, &[b"b"], b"2"),
        Err(AppendError::Lost(_))
    ));
    assert!(matches!(
        append(&mut spool, &[b"b"], b"2"),
        Err(AppendError::Lost(_))
    ));
    drop(spool);
    let (spool, _) = bench.open(0).unwrap();
    assert_eq!(all(&spool), [b"a"]);
}

#[test]
fn a_full_disk_refuses_without_a_trace_and_accepts_again_when_it_has_room() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    for free in [0, 1, 50, 100, 120] {
        bench.fs.set_free(free);
        let two = payload(&[b"refused"]);
        let blocks = [data(&two, 1, b"2"), data(&two, 1, b"3")];
        assert!(
            matches!(spool.append(&blocks), Err(AppendError::Full(_))),
            "{free} bytes free"
        );
        assert!(spool.reader().report().blocked);
    }
    bench.fs.set_free(1 << 30);
    bench.clock.advance(Duration::from_secs(2));
    append(&mut spool, &[b"b"], b"2").unwrap();
    assert!(!spool.reader().report().blocked);
    bench.fs.reboot(Kept::All, &mut fastrand::Rng::with_seed(1));
    let (spool, recovered) = bench.open(0).unwrap();
    assert_eq!(recovered.notes, Vec::<String>::new());
    assert_eq!(all(&spool), [b"a", b"b"]);
}

#[test]
fn a_write_that_the_disk_had_no_room_for_leaves_nothing_behind_a_shorter_one() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    let long = payload(&[&[b'x'; 300]]);
    // The first block goes in whole, the second does not; and the cut that would take them off fails as well.
    bench.fs.fail(Call::Write, 1, 1, io::ErrorKind::StorageFull);
    let blocks = [data(&long, 1, b"2"), data(&long, 1, b"3")];
    assert!(matches!(spool.append(&blocks), Err(AppendError::Full(_))));
    append(&mut spool, &[b"b"], b"2").unwrap();
    bench.fs.reboot(Kept::All, &mut fastrand::Rng::with_seed(1));
    let (mut spool, _) = bench.open(0).unwrap();
    assert_eq!(all(&spool), [b"a", b"b"]);
    bench.fs.fail(Call::Write, 1, 1, io::ErrorKind::StorageFull);
    assert!(matches!(spool.append(&blocks), Err(AppendError::Full(_))));
    bench.fs.fail(Call::SetLen, 0, 1, io::ErrorKind::Other);
    append(&mut spool, &[b"c"], b"3").unwrap();
    assert_eq!(all(&spool), [b"a", b"b", b"c"]);
}

#[test]
fn max_bytes_refuses_until_segments_are_released_but_lets_gaps_through() {
    let mut bench = Bench::new();
    bench.options.max_bytes = 4_000;
    bench.options.compress = false;
    let (mut spool, _) = bench.open(0).unwrap();
    let mut appended = 0;
    let refused = loop {
        match append(&mut spool, &[&[b'x'; 200]], b"1") {
            Ok(_) => appended += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("max_bytes"), "{refused}");
    assert!(spool.reader().report().bytes <= 4_000);
    let gap = Append {
        anew: false,
        kind: BlockKind::Gap,
        key: b"sink",
        state: b"",
        note: b"overtaken",
        count: 0,
        payload: b"",
    };
    spool.append(&[gap]).unwrap();
    let last = spool.oldest_segment_last_record().unwrap();
    spool.release(last + 1).unwrap();
    append(&mut spool, &[&[b'x'; 200]], b"1").unwrap();
    assert!(appended > 4);
}

#[test]
fn min_free_is_looked_at_once_a_second_and_after_a_release() {
    let mut bench = Bench::new();
    bench.options.min_free = 1 << 20;
    bench.fs.set_free(2 << 20);
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    bench.fs.fail(Call::FreeBytes, 0, 1, io::ErrorKind::Other);
    append(&mut spool, &[b"b"], b"2").unwrap();
    assert!(
        !bench.fs.failed(),
        "free space was looked at twice in a second"
    );
    bench.fs.mend();
    bench.fs.set_free(1 << 19);
    bench.clock.advance(Duration::from_secs(1));
    let refused = append(&mut spool, &[b"c"], b"3").unwrap_err().to_string();
    assert!(refused.contains("min_free"), "{refused}");
}

#[test]
fn blocks_beyond_the_limits_are_refused_before_anything_is_written() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    let one = payload(&[b"a"]);
    let long = vec![0; 2 << 20];
    for block in [
        Append {
            count: 0,
            ..data(&one, 1, b"")
        },
        Append {
            anew: false,
            kind: BlockKind::Gap,
            ..data(&one, 1, b"")
        },
        Append {
            key: &long,
            ..data(&one, 1, b"")
        },
        Append {
            note: &long,
            ..data(&one, 1, b"")
        },
        Append {
            state: &long,
            ..data(&one, 1, b"")
        },
    ] {
        assert!(matches!(
            spool.append(&[data(&one, 1, b""), block]),
            Err(AppendError::Refused(_))
        ));
    }
    assert_eq!(spool.reader().report().next_record, 0);
}

/// A short life of a spool; how many records were acknowledged, `Err` where it ended early.
fn life(bench: &Bench, acknowledged: &mut u64, released: &mut u64) -> Result<(), ()> {
    for round in 0..2 {
        let (mut spool, _) = bench.open(0).map_err(drop)?;
        for _ in 0..4 {
            let body = (*acknowledged).to_le_bytes();
            match append(
                &mut spool,
                &[&body, b"second"],
                &(*acknowledged + 2).to_le_bytes(),
            ) {
                Ok(appended) => *acknowledged = appended.next_record,
                Err(_) => return Err(()),
            }
        }
        if round == 1 {
            *released = 6;
            spool.release(*released).map_err(drop)?;
        }
    }
    Ok(())
}

/// After whatever happened, all that was acknowledged is there and the spool goes on.
fn check(bench: &Bench, acknowledged: u64, released: u64, what: &str) {
    let (mut spool, recovered) = bench
        .open(0)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let reader = spool.reader();
    let next = reader.report().next_record;
    assert!(
        next == acknowledged || next == acknowledged + 2,
        "{what}: {next} after {acknowledged}"
    );
    if next > 0 {
        assert_eq!(recovered.keys[0].state, next.to_le_bytes(), "{what}");
    }
    for record in released..next {
        let block = reader
            .block_at(record)
            .unwrap_or_else(|error| panic!("{what}: {error}"))
            .unwrap();
        let expected = (record - record % 2).to_le_bytes();
        assert_eq!(bodies(&block)[0], expected, "{what}: record {record}");
    }
    append(&mut spool, &[b"more"], &(next + 1).to_le_bytes())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(
        reader.report().quarantined_blocks,
        0,
        "{what}: {:?}",
        recovered.notes
    );
}

fn small() -> Bench {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 450;
    bench
}

#[test]
fn every_call_of_every_class_may_fail_once() {
    for call in CALLS {
        for after in 0.. {
            let bench = small();
            bench.fs.fail(call, after, 1, io::ErrorKind::Other);
            let (mut acknowledged, mut released) = (0, 0);
            let ended = life(&bench, &mut acknowledged, &mut released);
            let failed = bench.fs.failed();
            bench.fs.mend();
            check(&bench, acknowledged, released, &format!("{call:?} {after}"));
            bench
                .fs
                .reboot(Kept::None, &mut fastrand::Rng::with_seed(after));
            drop(
                bench
                    .open(0)
                    .unwrap_or_else(|error| panic!("{call:?} {after}: {error}")),
            );
            if !failed {
                assert!(ended.is_ok());
                break;
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_call_and_another_during_recovery_lose_nothing_acknowledged() {
    let mut random = fastrand::Rng::with_seed(3);
    for kept in [Kept::None, Kept::All, Kept::Some, Kept::Torn] {
        for at in 0.. {
            let bench = small();
            bench.fs.cut_after(at);
            let (mut acknowledged, mut released) = (0, 0);
            if life(&bench, &mut acknowledged, &mut released).is_ok() {
                break;
            }
            bench.fs.reboot(kept, &mut random);
            for second in 0.. {
                bench.fs.cut_after(second);
                let opened = bench.open(0).is_ok();
                bench.fs.reboot(kept, &mut random);
                if opened {
                    break;
                }
            }
            check(
                &bench,
                acknowledged,
                released,
                &format!("{kept:?}, cut at {at}"),
            );
        }
    }
}

#[test]
fn what_a_start_has_found_after_a_kill_outlasts_a_power_cut() {
    let mut random = fastrand::Rng::with_seed(4);
    for at in 0.. {
        let bench = small();
        bench.fs.cut_after(at);
        let (mut acknowledged, mut released) = (0, 0);
        if life(&bench, &mut acknowledged, &mut released).is_ok() {
            break;
        }
        // The process dies here, the machine goes on; what was written may be in its cache alone.
        bench.fs.reboot(Kept::All, &mut random);
        let (spool, found) = bench.open(0).unwrap();
        let next = spool.reader().report().next_record;
        drop(spool);
        bench.fs.reboot(Kept::None, &mut random);
        let (spool, again) = bench.open(0).unwrap();
        assert_eq!(spool.reader().report().next_record, next, "killed at {at}");
        assert_eq!(again.keys, found.keys, "killed at {at}");
        drop(spool);

        // And so must what is appended behind it, although the segment was made by the process that was killed.
        let bench = small();
        bench.fs.cut_after(at);
        life(&bench, &mut 0, &mut 0).unwrap_err();
        bench.fs.reboot(Kept::All, &mut random);
        let (mut spool, _) = bench.open(0).unwrap();
        let appended = append(&mut spool, &[b"more"], b"more").unwrap();
        drop(spool);
        bench.fs.reboot(Kept::None, &mut random);
        let (spool, _) = bench.open(0).unwrap();
        assert_eq!(
            spool.reader().report().next_record,
            appended.next_record,
            "killed at {at}"
        );
    }
}

#[test]
fn torn_ends_do_not_fill_the_disk() {
    let bench = Bench::new();
    for n in 0..50u8 {
        let (mut spool, _) = bench.open(0).unwrap();
        append(&mut spool, &[b"whole"], &[n]).unwrap();
        bench.fs.fail(Call::Write, 0, 1, io::ErrorKind::StorageFull);
        bench.fs.fail(Call::SetLen, 0, 1, io::ErrorKind::Other);
        append(&mut spool, &[b"torn"], &[n]).unwrap_err();
        drop(spool);
        bench.fs.reboot(Kept::All, &mut fastrand::Rng::with_seed(1));
    }
    let (spool, _) = bench.open(0).unwrap();
    assert_eq!(spool.reader().report().next_record, 50);
    assert_eq!(bench.names("quarantine").len(), 32);
}
