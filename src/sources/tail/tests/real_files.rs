//! The source over a real file system, and over what a real kube-apiserver left behind.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::model::gzip;
use super::super::{Settings, Tail, open};
use super::{Out, drain, gaps, lines, origin, settings};
use crate::clock::SystemClock;
use crate::event::encoding::GenerationPosition;
use crate::sources::{Next, Source, SourceContext};

fn tail_at(live: &Path, settings: Settings, positions: Vec<GenerationPosition>) -> Tail {
    let clock = Arc::new(SystemClock::new());
    open(
        live,
        settings,
        SourceContext {
            origin: origin(),
            clock,
            positions,
            last_event_us: None,
        },
    )
    .unwrap()
}

/// Reads until `count` lines have come.
fn take(tail: &mut Tail, count: usize) -> Vec<Out> {
    let mut out = Vec::new();
    let mut pieces = Vec::new();
    for _ in 0..200 {
        if lines(&out).len() >= count {
            break;
        }
        if let Next::Chunk(chunk) = tail.next(Duration::from_millis(100)).unwrap() {
            out.extend(super::unpack(&chunk, &mut pieces));
        }
    }
    out
}

#[test]
fn log_is_followed_as_it_grows_and_is_rotated_compressed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("audit.log");
    let backup = dir.path().join("audit-2026-01-01T03-00-00.000.log");
    fs::write(&live, "a\n").unwrap();
    let mut tail = tail_at(&live, settings(), Vec::new());
    assert_eq!(lines(&take(&mut tail, 1)), ["a"]);
    fs::write(&live, "a\nb\n").unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test is lumberjack here")]
    fs::rename(&live, &backup).unwrap();
    let gz = dir.path().join("audit-2026-01-01T03-00-00.000.log.gz");
    fs::write(&gz, gzip(b"a\nb\n")).unwrap();
    fs::remove_file(&backup).unwrap();
    fs::remove_file(&gz).unwrap();
    fs::write(&live, "c\n").unwrap();
    let out = take(&mut tail, 2);
    assert_eq!(lines(&out), ["b", "c"]);
    assert_eq!(gaps(&out), []);
}

#[test]
fn reading_goes_on_inside_a_gz() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("audit.log");
    let text: String = (0..500).map(|i| format!("{{\"line\":{i}}}\n")).collect();
    fs::write(&live, &text).unwrap();
    let mut tail = tail_at(&live, settings(), Vec::new());
    let Next::Chunk(chunk) = tail.next(Duration::ZERO).unwrap() else {
        panic!("nothing came")
    };
    drop(tail);
    let read = chunk.lines.heads.len();
    fs::remove_file(&live).unwrap();
    fs::write(
        dir.path().join("audit-2026-01-01T03-00-00.000.log.gz"),
        gzip(text.as_bytes()),
    )
    .unwrap();
    fs::write(&live, "last\n").unwrap();
    let out = take(&mut tail_at(&live, settings(), chunk.positions), 501 - read);
    let expected: Vec<_> = text
        .lines()
        .skip(read)
        .chain(["last"])
        .map(str::to_owned)
        .collect();
    assert_eq!(lines(&out), expected);
    assert_eq!(gaps(&out), []);
}

#[test]
fn planted_fifo_and_symlink_are_ignored_without_hanging() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("audit.log");
    let fifo = dir.path().join("audit-2026-01-01T03-00-00.000.log");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    fs::write(dir.path().join("secret"), "x\n").unwrap();
    std::os::unix::fs::symlink(
        "secret",
        dir.path().join("audit-2026-01-01T04-00-00.000.log"),
    )
    .unwrap();
    fs::write(&live, "a\n").unwrap();
    let mut tail = tail_at(&live, settings(), Vec::new());
    tail.limit_to_present().unwrap();
    assert_eq!(lines(&drain(&mut tail)), ["a"]);
    assert_eq!(tail.report().notes.len(), 2);
    // Put in its place between listing and opening.
    let disk = super::super::disk::RealDisk::new(dir.path().to_owned());
    for name in [
        "audit-2026-01-01T03-00-00.000.log",
        "audit-2026-01-01T04-00-00.000.log",
    ] {
        let Err(error) = super::super::Disk::open(&disk, name) else {
            panic!("{name} was opened")
        };
        assert_eq!(error.to_string(), "not a regular file");
    }
}

#[test]
fn directory_that_is_not_there_yet_is_waited_for() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("audit");
    let live = dir.join("audit.log");
    let mut tail = tail_at(&live, settings(), Vec::new());
    assert!(matches!(tail.next(Duration::ZERO).unwrap(), Next::Idle));
    assert!(tail.report().reason.unwrap().contains("is not there yet"));
    fs::create_dir(&dir).unwrap();
    fs::write(&live, "a\n").unwrap();
    assert_eq!(lines(&take(&mut tail, 1)), ["a"]);
}

#[test]
fn waker_ends_a_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut tail = tail_at(&dir.path().join("audit.log"), settings(), Vec::new());
    let waker = tail.waker();
    std::thread::spawn(move || waker());
    assert!(matches!(
        tail.next(Duration::from_secs(600)).unwrap(),
        Next::Idle
    ));
}

/// A recorded set, or nothing where it is not there: then it is said.
fn corpus(set: &str) -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/corpus/kube-apiserver-1.37.2")
        .join(set);
    let found =
        std::env::var_os("AUDITSHIP_CORPUS").map_or(shared, |dir| PathBuf::from(dir).join(set));
    if !found.join("audit.log").is_file() {
        eprintln!("SKIPPED: there is no recorded log at {}", found.display());
        return None;
    }
    Some(found)
}

/// The generations one behind the other, plain before `.gz`.
fn concatenated(dir: &Path) -> Vec<u8> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.retain(|name| name != "audit.log");
    let plain = names.clone();
    names.retain(|name| !plain.iter().any(|plain| *name == format!("{plain}.gz")));
    names.push("audit.log".to_owned());
    let mut all = Vec::new();
    for name in names {
        let bytes = fs::read(dir.join(&name)).unwrap();
        if name.ends_with(".gz") {
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_end(&mut all)
                .unwrap();
        } else {
            all.extend(bytes);
        }
    }
    all
}

fn once(
    live: &Path,
    positions: Vec<GenerationPosition>,
    mut seen: impl FnMut(&crate::sources::Chunk),
) {
    let settings = Settings {
        line_max: 4 << 20,
        sizes: super::super::Sizes::default(),
        ..settings()
    };
    let mut tail = tail_at(live, settings, positions);
    tail.limit_to_present().unwrap();
    loop {
        match tail.next(Duration::ZERO).unwrap() {
            Next::Chunk(chunk) => seen(&chunk),
            Next::Idle => {}
            Next::Finished => return,
        }
    }
}

#[test]
fn recorded_logs_come_out_as_their_generations_in_order() {
    for set in ["rotated", "crashed"] {
        let Some(dir) = corpus(set) else { continue };
        let expected = concatenated(&dir);
        let mut out = Vec::new();
        let mut read_bytes = 0;
        once(&dir.join("audit.log"), Vec::new(), |chunk| {
            assert_eq!(chunk.gaps, []);
            assert!(chunk.piece.is_none());
            read_bytes += chunk.read_bytes;
            for (head, line) in chunk.lines.iter() {
                out.extend_from_slice(line);
                let next = out.len();
                // A line that is glued to the next has no line feed of its own.
                if expected.get(next) == Some(&b'\n') {
                    out.push(b'\n');
                }
                assert_eq!(head.length, line.len() as u64);
            }
        });
        assert_eq!(read_bytes, expected.len() as u64, "{set}");
        assert!(out == expected, "{set}: other bytes came out");
    }
}

#[test]
fn recorded_logs_can_be_resumed_at_every_97th_line() {
    for set in ["rotated", "crashed"] {
        let Some(dir) = corpus(set) else { continue };
        let live = dir.join("audit.log");
        let mut all = Vec::new();
        // Cut every 97 lines, which gives a position there.
        let settings = Settings {
            line_max: 4 << 20,
            ..settings()
        };
        let sizes = super::super::Sizes {
            read: 64 << 10,
            parcel: usize::MAX,
            lines: 97,
        };
        let mut tail = tail_at(&live, Settings { sizes, ..settings }, Vec::new());
        tail.limit_to_present().unwrap();
        let mut resumes = Vec::new();
        loop {
            match tail.next(Duration::ZERO).unwrap() {
                Next::Chunk(chunk) => {
                    all.extend(chunk.lines.heads.iter().map(|head| head.id));
                    resumes.push((all.len(), chunk.positions));
                }
                Next::Idle => {}
                Next::Finished => break,
            }
        }
        for (count, positions) in resumes {
            // Only the first thousand lines behind it: whether it goes on at the right place shows at once.
            let mut rest = Vec::new();
            let settings = Settings {
                line_max: 4 << 20,
                sizes: super::super::Sizes::default(),
                ..super::settings()
            };
            let mut tail = tail_at(&live, settings, positions);
            tail.limit_to_present().unwrap();
            while rest.len() < 1000 {
                match tail.next(Duration::ZERO).unwrap() {
                    Next::Chunk(chunk) => {
                        assert_eq!(chunk.gaps, []);
                        rest.extend(chunk.lines.heads.iter().map(|head| head.id));
                    }
                    Next::Idle => {}
                    Next::Finished => {
                        assert_eq!(rest.len(), all.len() - count);
                        break;
                    }
                }
            }
            assert!(
                all[count..].starts_with(&rest),
                "{set}: resumed behind line {count}"
            );
        }
    }
}
