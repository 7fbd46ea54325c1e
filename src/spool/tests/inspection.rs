//! A look from outside, while the writer has the lock.

use super::inspect::{Exported, Look, export, repair};
use super::*;
use crate::durable_fs::DurableFs;

fn fs(bench: &Bench) -> Arc<dyn DurableFs> {
    Arc::new(bench.fs.clone())
}

fn look(bench: &Bench) -> Look {
    Look::at(&fs(bench), Path::new(DIR), 0).unwrap().unwrap()
}

#[test]
fn a_spool_is_looked_at_while_it_is_written_and_nothing_is_changed() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 500;
    assert!(Look::at(&fs(&bench), Path::new(DIR), 0).unwrap().is_none());
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..6u8 {
        append(&mut spool, &[&[n; 40], &[n]], &[n]).unwrap();
    }
    let before = bench.fs.paths();
    let look = look(&bench);
    assert_eq!(look.keys()[0].state, [5]);
    assert_eq!(
        look.report(),
        SpoolReport {
            max_bytes: 0,
            ..spool.reader().report()
        }
    );
    let segments = look.segments();
    assert_eq!(segments.len(), bench.segments().len());
    assert_eq!(
        segments.iter().map(|segment| segment.records).sum::<u64>(),
        12
    );
    let mut kinds = Vec::new();
    look.blocks(segments[0].number, &mut |block| kinds.push(block.kind))
        .unwrap();
    assert_eq!(kinds[..2], ["snapshot", "data"]);
    let verified = look.verify(&mut |finding| panic!("{finding:?}")).unwrap();
    assert_eq!((verified.records, verified.damaged), (12, 0));
    assert_eq!(look.plan().unwrap(), Vec::<String>::new());
    assert_eq!(look.quarantine().unwrap(), []);
    assert_eq!(bench.fs.paths(), before);
    assert!(matches!(
        repair(&fs(&bench), &bench.options, 0),
        Err(OpenError::Locked(_))
    ));
}

#[test]
fn damage_in_an_old_segment_is_found_exported_around_and_set_aside_by_repair() {
    let mut bench = Bench::new();
    bench.options.segment_bytes = 700;
    let (mut spool, _) = bench.open(0).unwrap();
    for n in 0..12u8 {
        append(&mut spool, &[&[n; 40]], &[n]).unwrap();
    }
    drop(spool);
    let path = &bench.segments()[0];
    let mut bytes = bench.fs.bytes(path).unwrap();
    let blocks: Vec<usize> = memchr::memmem::find_iter(&bytes, &block::MAGIC).collect();
    bytes[blocks[1] + 3] ^= 1;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bench.fs.set_bytes(path, &bytes);
    let in_first = look(&bench).segments()[0].records;

    let mut found = Vec::new();
    let verified = look(&bench)
        .verify(&mut |finding| found.push(finding.records))
        .unwrap();
    assert_eq!(found, [Some((0, 0)), Some((in_first - 1, in_first - 1))]);
    assert_eq!((verified.damaged, verified.records), (2, 10));

    let (mut whole, mut lost) = (0, Vec::new());
    export(&look(&bench).reader(), 0, &mut |met| {
        match met {
            Exported::Block(block) => whole += block.count,
            Exported::Damaged { first, last, .. } => lost.push((first, last)),
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(
        (whole, lost),
        (10, vec![(0, 0), (in_first - 1, in_first - 1)])
    );

    assert_eq!(bench.names("quarantine"), Vec::<String>::new());
    let plan = look(&bench).plan().unwrap();
    assert_eq!(repair(&fs(&bench), &bench.options, 0).unwrap(), plan);
    assert_eq!(bench.names("quarantine").len(), 2);
    assert_eq!(
        repair(&fs(&bench), &bench.options, 0).unwrap(),
        plan,
        "a second repair does the same"
    );
    assert_eq!(bench.names("quarantine").len(), 2);
    assert_eq!(
        bench.fs.bytes(path).unwrap(),
        bytes,
        "damaged bytes also stay where they are"
    );
}
