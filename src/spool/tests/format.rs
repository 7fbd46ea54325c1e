//! Format 1 as files in `tests/data/spool-format-1/`, which every later version must open.

use std::path::PathBuf;

use super::*;

/// Segments of format 1, written by `make_golden_files` and never again.
const GOLDEN: &str = "tests/data/spool-format-1";

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN)
}

/// Writes what the golden files hold: every kind of block, in two segments, with and without compression.
fn write(bench: &mut Bench) {
    let line = "{\"kind\":\"Event\",\"level\":\"Metadata\"}".repeat(6);
    let two = payload(&[line.as_bytes(), b"two"]);
    let one = payload(&[b"other"]);
    let end = payload(&[b""]);
    let last = payload(&[b"last"]);
    let piece = |payload| Append {
        anew: false,
        kind: BlockKind::Piece,
        count: 0,
        payload,
        ..data(&two, 0, b"at 2")
    };
    let position = Append {
        anew: false,
        kind: BlockKind::Position,
        note: b"",
        ..data(b"", 0, b"at 3")
    };
    let gap = Append {
        anew: false,
        kind: BlockKind::Gap,
        key: b"sink",
        state: b"",
        note: b"gap 0-1",
        count: 0,
        payload: b"",
    };
    let (mut spool, _) = bench.open(0).unwrap();
    spool
        .append(&[data(&two, 2, b"at 2"), gap, piece(b"first part, ")])
        .unwrap();
    spool
        .append(&[
            Append {
                key: b"other origin",
                ..data(&one, 1, b"o")
            },
            piece(b"second part"),
        ])
        .unwrap();
    drop(spool);
    bench.options.segment_bytes = 1;
    bench.options.compress = false;
    // A restart voids pieces, so the row is written whole once more.
    let (mut spool, _) = bench.open(0).unwrap();
    spool
        .append(&[
            piece(b"first part, "),
            piece(b"second part"),
            data(&end, 1, b"at 3"),
            position,
        ])
        .unwrap();
    bench.options.segment_bytes = 1 << 20;
    drop(spool);
    bench
        .open(0)
        .unwrap()
        .0
        .append(&[data(&last, 1, b"at 4")])
        .unwrap();
}

fn check(bench: &Bench) {
    let (spool, recovered) = bench.open(5).unwrap();
    assert_eq!(recovered.notes, Vec::<String>::new());
    let keys: Vec<_> = recovered
        .keys
        .iter()
        .map(|known| (&known.key[..], &known.state[..], known.gaps.len()))
        .collect();
    assert_eq!(
        keys,
        [
            (&b"origin"[..], &b"at 4"[..], 0),
            (b"other origin", b"o", 0),
            (b"sink", b"", 1)
        ]
    );
    assert_eq!(recovered.keys[2].gaps, [b"gap 0-1"]);
    let reader = spool.reader();
    assert_eq!(reader.report().next_record, 5);
    let first = reader.block_at(0).unwrap().unwrap();
    assert_eq!(
        (first.count, first.appended, &first.note[..]),
        (2, Micros(1_000_000), &b"span"[..])
    );
    assert_eq!(bodies(&first)[0].len(), 6 * 35);
    assert_eq!(bodies(&reader.block_at(2).unwrap().unwrap()), [b"other"]);
    let oversize = reader.block_at(3).unwrap().unwrap();
    let parts: Vec<_> = oversize
        .pieces
        .iter()
        .map(|piece| reader.piece(*piece).unwrap())
        .collect();
    assert_eq!(parts, [&b"first part, "[..], b"second part"]);
    assert_eq!(bodies(&reader.block_at(4).unwrap().unwrap()), [b"last"]);
}

/// Run once for a format, with `cargo test make_golden_files -- --ignored`; refuses to write over older files.
#[test]
#[ignore = "writes tests/data, once for each format version"]
fn make_golden_files() {
    let mut bench = Bench::new();
    write(&mut bench);
    std::fs::create_dir_all(golden_dir().parent().unwrap()).unwrap();
    std::fs::create_dir(golden_dir()).unwrap();
    for path in bench.segments() {
        std::fs::write(
            golden_dir().join(path.file_name().unwrap()),
            bench.fs.bytes(&path).unwrap(),
        )
        .unwrap();
    }
}

#[test]
fn files_of_format_1_are_opened_and_read() {
    let bench = Bench::new();
    let mut files = 0;
    for entry in std::fs::read_dir(golden_dir()).unwrap() {
        let entry = entry.unwrap();
        bench.fs.set_bytes(
            &Path::new(DIR).join(entry.file_name()),
            &std::fs::read(entry.path()).unwrap(),
        );
        files += 1;
    }
    assert_eq!(files, 2);
    check(&bench);
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"more"], b"at 5").unwrap();
}

#[test]
fn what_is_written_today_is_format_1() {
    let mut bench = Bench::new();
    write(&mut bench);
    check(&bench);
}

#[test]
fn a_spool_of_a_newer_version_is_refused_and_nothing_is_changed() {
    let bench = Bench::new();
    let (mut spool, _) = bench.open(0).unwrap();
    append(&mut spool, &[b"a"], b"1").unwrap();
    drop(spool);
    let path = bench.segments()[0].clone();
    let mut bytes = bench.fs.bytes(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..76]);
    bytes[76..80].copy_from_slice(&crc.to_le_bytes());
    // What else is in it, this version cannot know.
    bytes.truncate(90);
    bench.fs.set_bytes(&path, &bytes);
    let before = bench.fs.paths();
    match bench.open(0) {
        Err(OpenError::Newer {
            found: 2, known: 1, ..
        }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
    assert_eq!(bench.fs.paths(), before);
    assert_eq!(bench.fs.bytes(&path).unwrap(), bytes);
}
