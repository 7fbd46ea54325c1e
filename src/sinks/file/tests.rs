//! The file sink against a simulated disk: delivery is played by [`Agent`], which keeps cursor and mark as the real
//! one does, and is killed or loses power at any call.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::writer::{Compression, Options, Writer};
use crate::clock::{ManualClock, Micros};
use crate::durable_fs::simulated::{Call, Kept, SimulatedFs};
use crate::event::LineKind;
use crate::event::template::{NameKind, Template};
use crate::sinks::envelope::LineFormat;
use crate::sinks::testing::record;
use crate::sinks::{Alarm, Batch, Body, Outcome, Pieces, Record};

const PATH: &str = "/out/audit.jsonl";

/// Ten records fall on each day, for paths that name it.
const DAY_US: i64 = 86_400_000_000;

fn line(number: u64) -> Vec<u8> {
    format!(
        "{{\"n\":{number},\"pad\":\"{}\"}}",
        "x".repeat((number as usize * 7) % 90)
    )
    .into_bytes()
}

/// Oversize every 13th, in pieces of a few bytes.
fn numbered(number: u64) -> Record {
    let line = line(number);
    let mut record = record(number, LineKind::Event, &line);
    record.head.time_us = Some(number as i64 / 10 * DAY_US);
    if number % 13 == 5 {
        record.head.kind = LineKind::Oversize;
        record.body = Body::Pieces(Arc::new(Cut(line)));
    }
    record
}

struct Cut(Vec<u8>);

impl Pieces for Cut {
    fn piece(&self, index: usize) -> std::io::Result<Option<Bytes>> {
        Ok(self.0.chunks(11).nth(index).map(Bytes::copy_from_slice))
    }
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    path: &'static str,
    compression: Compression,
    rotate_bytes: Option<u64>,
    rotate_every: Option<Duration>,
}

const PLAIN: Setup = Setup {
    path: PATH,
    compression: Compression::None,
    rotate_bytes: None,
    rotate_every: None,
};

/// A sink with what delivery keeps of it: cursor and mark, durable only together and only after a settle.
struct Agent {
    setup: Setup,
    fs: SimulatedFs,
    clock: Arc<ManualClock>,
    writer: Writer,
    cursor: u64,
    mark: Option<Vec<u8>>,
    durable: (u64, Option<Vec<u8>>),
    alarms: Vec<Alarm>,
}

impl Agent {
    fn start(
        setup: Setup,
        fs: &SimulatedFs,
        clock: &Arc<ManualClock>,
        durable: (u64, Option<Vec<u8>>),
    ) -> Agent {
        let options = Options {
            path: Template::parse(setup.path, NameKind::Path).expect("a path"),
            rotate_bytes: setup.rotate_bytes,
            rotate_every: setup.rotate_every,
            compression: setup.compression,
            format: LineFormat::Raw,
        };
        let writer = Writer::new(options, Arc::new(fs.clone()), clock.clone());
        let (cursor, mark) = durable.clone();
        Agent {
            setup,
            fs: fs.clone(),
            clock: clock.clone(),
            writer,
            cursor,
            mark,
            durable,
            alarms: Vec::new(),
        }
    }

    fn fresh(setup: Setup) -> Agent {
        let clock = Arc::new(ManualClock::at(Micros(1_764_000_000_000_000)));
        Agent::start(setup, &SimulatedFs::new(), &clock, (0, None))
    }

    /// The process ends at once; the machine keeps what `kept` says; a new process starts.
    fn restart(self, kept: Kept, random: &mut fastrand::Rng) -> Agent {
        self.fs.reboot(kept, random);
        let mut agent = Agent::start(self.setup, &self.fs, &self.clock, self.durable);
        agent.alarms = self.alarms;
        agent
    }

    fn open(&mut self) -> Result<(), Outcome> {
        let opened = self.writer.open(self.mark.as_deref())?;
        self.alarms.extend(opened.alarms);
        Ok(())
    }

    /// Settles, then stores cursor and mark. Delivery's own file is another: its store is atomic here.
    fn store(&mut self) -> Result<(), String> {
        self.writer.settle()?;
        if !self.fs.is_off() {
            self.durable = (self.cursor, self.mark.clone());
        }
        Ok(())
    }

    /// Sends records `cursor..end`, halving and marking as asked, until they are stored or the first failure.
    fn send_to(&mut self, end: u64) -> Result<(), Outcome> {
        let mut take = end - self.cursor;
        while self.cursor < end {
            let last = end.min(self.cursor + take);
            let records = (self.cursor..last).map(numbered).collect();
            match self.writer.send(&Batch {
                records,
                ..Batch::default()
            }) {
                Outcome::Delivered {
                    mark,
                    except,
                    alarms,
                } => {
                    assert!(except.is_empty());
                    self.alarms.extend(alarms);
                    self.mark = mark.or(self.mark.take());
                    self.cursor = last;
                    take = end - last;
                }
                Outcome::MarkFirst { mark } => {
                    assert!(mark.len() <= 4096);
                    self.mark = Some(mark);
                    self.store().map_err(|reason| Outcome::Retry {
                        after: None,
                        reason,
                        in_doubt: false,
                    })?;
                }
                Outcome::Split { .. } => take = (last - self.cursor).div_ceil(2),
                failed => return Err(failed),
            }
        }
        Ok(())
    }

    /// All files in the order they were written, unpacked; lines in a row.
    fn lines(&self) -> Vec<Vec<u8>> {
        let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for path in self.fs.paths() {
            let bytes = self.fs.bytes(&path).expect("listed");
            // A live file is the youngest of its rotated ones.
            let key = if path == Path::new(self.setup.path) {
                path.with_extension("jsonl.~")
            } else {
                path
            };
            files.insert(key, unpack(self.setup.compression, &bytes));
        }
        let all = files.into_values().collect::<Vec<_>>().concat();
        let mut lines: Vec<_> = all
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(lines.pop(), Some(Vec::new()), "the last line is ended");
        lines
    }
}

fn unpack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match compression {
        Compression::None => out = bytes.to_vec(),
        Compression::Gzip => {
            flate2::read::MultiGzDecoder::new(bytes)
                .read_to_end(&mut out)
                .map(drop)
                .expect("whole gzip members");
        }
        Compression::Zstd => {
            out = zstd::decode_all(bytes)
                .unwrap_or_else(|error| panic!("whole zstd frames: {error}: {}", bytes.len()))
        }
    }
    out
}

fn expected(records: u64) -> Vec<Vec<u8>> {
    (0..records).map(line).collect()
}

fn random_setup(random: &mut fastrand::Rng) -> Setup {
    Setup {
        path: PATH,
        compression: *random
            .choice(&[Compression::None, Compression::Gzip, Compression::Zstd])
            .expect("not empty"),
        rotate_bytes: random.bool().then(|| random.u64(1..2000)),
        rotate_every: random
            .bool()
            .then(|| Duration::from_secs(random.u64(1..20))),
    }
}

/// One life after another, each ended at a random call of the file system by a kill or a power cut.
fn live_and_die(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut agent = Agent::fresh(random_setup(&mut random));
    for _life in 0..6 {
        agent.fs.cut_after(random.u64(1..60));
        let mut next = agent.open().map_err(|_| ());
        while next.is_ok() {
            let end = agent.cursor + random.u64(1..12);
            next = agent.send_to(end).map_err(|_| ());
            agent
                .clock
                .advance(Duration::from_millis(random.u64(0..4000)));
            if random.u8(0..3) == 0 {
                next = next.and(agent.store().map_err(|_| ()));
            }
        }
        assert!(agent.fs.is_off(), "seed {seed}: nothing else fails here");
        let kept = *random
            .choice(&[Kept::None, Kept::All, Kept::Some, Kept::Torn])
            .expect("not empty");
        agent = agent.restart(kept, &mut random);
    }
    agent
        .open()
        .unwrap_or_else(|outcome| panic!("seed {seed}: {outcome:?}"));
    let end = agent.cursor + 5;
    agent
        .send_to(end)
        .unwrap_or_else(|outcome| panic!("seed {seed}: {outcome:?}"));
    assert_eq!(agent.alarms, [], "seed {seed}");
    let (found, wanted) = (agent.lines(), expected(end));
    assert_eq!(found.len(), wanted.len(), "seed {seed}: {:?}", agent.setup);
    assert_eq!(found, wanted, "seed {seed}");
}

#[test]
fn records_are_in_order_and_each_once_across_kills_power_cuts_and_rotations() {
    for seed in 0..600 {
        live_and_die(seed);
    }
}

/// Calls fail and heal; the process lives on, or is killed at last.
fn fail_and_heal(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut agent = Agent::fresh(random_setup(&mut random));
    let calls = [
        Call::Create,
        Call::Open,
        Call::Rename,
        Call::SyncDir,
        Call::Write,
        Call::Len,
        Call::SetLen,
        Call::Sync,
    ];
    let kinds = [
        std::io::ErrorKind::StorageFull,
        std::io::ErrorKind::PermissionDenied,
        std::io::ErrorKind::Other,
    ];
    let mut is_open = false;
    for _ in 0..40 {
        if random.bool() {
            let (call, kind) = (
                *random.choice(&calls).expect("some"),
                *random.choice(&kinds).expect("some"),
            );
            agent
                .fs
                .fail(call, random.u64(0..6), random.u64(1..3), kind);
        }
        is_open = is_open || agent.open().is_ok();
        if is_open {
            let end = agent.cursor + random.u64(1..8);
            if let Err(Outcome::Stop { .. }) = agent.send_to(end) {
                is_open = false;
            }
            if random.bool() && agent.store().is_err() {
                assert!(agent.durable.0 <= agent.cursor);
            }
        }
        agent
            .clock
            .advance(Duration::from_millis(random.u64(0..4000)));
    }
    agent.fs.mend();
    if random.bool() {
        agent = agent.restart(Kept::All, &mut random);
    }
    agent
        .open()
        .unwrap_or_else(|outcome| panic!("seed {seed}: {outcome:?}"));
    let end = agent.cursor + 3;
    agent
        .send_to(end)
        .unwrap_or_else(|outcome| panic!("seed {seed}: {outcome:?}"));
    agent
        .store()
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    agent = agent.restart(Kept::None, &mut random);
    agent
        .open()
        .unwrap_or_else(|outcome| panic!("seed {seed}: {outcome:?}"));
    assert_eq!(agent.alarms, [], "seed {seed}");
    assert_eq!(
        agent.lines(),
        expected(end),
        "seed {seed}: {:?}",
        agent.setup
    );
}

#[test]
fn records_are_in_order_and_each_once_when_calls_fail_and_heal() {
    for seed in 0..600 {
        fail_and_heal(seed);
    }
}

#[test]
fn the_first_write_to_a_file_waits_for_its_mark() {
    let mut agent = Agent::fresh(PLAIN);
    agent.open().expect("open");
    let batch = Batch {
        records: vec![numbered(0)],
        ..Batch::default()
    };
    assert!(matches!(
        agent.writer.send(&batch),
        Outcome::MarkFirst { .. }
    ));
    assert_eq!(
        agent.fs.paths(),
        Vec::<PathBuf>::new(),
        "nothing is written before the mark is durable"
    );
    assert!(matches!(
        agent.writer.send(&batch),
        Outcome::Delivered { .. }
    ));
}

#[test]
fn what_stood_in_the_file_before_us_stays_and_its_last_line_is_ended() {
    let mut agent = Agent::fresh(PLAIN);
    agent.fs.set_bytes(Path::new(PATH), b"someone else's");
    agent.open().expect("open");
    agent.send_to(2).expect("sent");
    let bytes = agent.fs.bytes(Path::new(PATH)).expect("there");
    assert_eq!(
        bytes,
        [
            b"someone else's\n".to_vec(),
            line(0),
            b"\n".to_vec(),
            line(1),
            b"\n".to_vec()
        ]
        .concat()
    );
}

/// Sends ten records, lets `harm` happen while the agent is stopped or while it runs, sends five more.
#[track_caller]
fn harmed(
    setup: Setup,
    stopped: bool,
    harm: impl FnOnce(&SimulatedFs),
) -> (Agent, Vec<&'static str>) {
    let mut agent = Agent::fresh(setup);
    agent.open().expect("open");
    agent.send_to(10).expect("sent");
    agent.store().expect("stored");
    harm(&agent.fs);
    if stopped {
        agent = agent.restart(Kept::None, &mut fastrand::Rng::with_seed(0));
        agent.open().expect("open again");
    }
    agent.send_to(15).expect("sent");
    let reasons = agent.alarms.iter().map(|alarm| alarm.reason).collect();
    (agent, reasons)
}

#[test]
fn a_file_longer_than_its_mark_is_cut_to_it() {
    for stopped in [true, false] {
        let (agent, alarms) = harmed(PLAIN, stopped, |fs| {
            let bytes = fs.bytes(Path::new(PATH)).expect("there");
            fs.set_bytes(
                Path::new(PATH),
                &[bytes, b"{\"unconfirmed\":".to_vec()].concat(),
            );
        });
        assert_eq!(
            (agent.lines(), alarms),
            (expected(15), vec![]),
            "stopped: {stopped}"
        );
    }
}

#[test]
fn a_file_shorter_than_its_mark_is_an_alarm_and_is_appended_to() {
    for stopped in [true, false] {
        let (agent, alarms) = harmed(PLAIN, stopped, |fs| {
            let bytes = fs.bytes(Path::new(PATH)).expect("there");
            fs.set_bytes(Path::new(PATH), &bytes[..bytes.len() - 3]);
        });
        let mut wanted = expected(15);
        let torn = wanted[9].len() - 2;
        wanted[9].truncate(torn);
        assert_eq!(
            (agent.lines(), alarms),
            (wanted, vec!["short_file"]),
            "stopped: {stopped}"
        );
    }
}

#[test]
fn a_compressed_file_that_was_cut_is_set_aside_so_that_what_follows_can_be_read() {
    for stopped in [true, false] {
        let setup = Setup {
            compression: Compression::Zstd,
            ..PLAIN
        };
        let mut torn = Vec::new();
        let (agent, alarms) = harmed(setup, stopped, |fs| {
            let bytes = fs.bytes(Path::new(PATH)).expect("there");
            torn = bytes[..bytes.len() - 3].to_vec();
            fs.set_bytes(Path::new(PATH), &torn);
        });
        assert_eq!(alarms, ["short_file"], "stopped: {stopped}");
        let lives = unpack(
            Compression::Zstd,
            &agent.fs.bytes(Path::new(PATH)).expect("a new file"),
        );
        assert_eq!(
            lives,
            (10..15)
                .flat_map(|n| [line(n), b"\n".to_vec()].concat())
                .collect::<Vec<_>>()
        );
        assert!(
            agent
                .fs
                .paths()
                .iter()
                .any(|path| agent.fs.bytes(path).as_ref() == Some(&torn)),
            "it is kept"
        );
    }
}

#[test]
fn a_missing_file_is_an_alarm_and_a_new_file() {
    for stopped in [true, false] {
        let (agent, alarms) = harmed(PLAIN, stopped, |fs| fs.lose(Path::new(PATH)));
        let wanted: Vec<_> = (10..15).map(line).collect();
        assert_eq!(
            (agent.lines(), alarms),
            (wanted, vec!["missing_file"]),
            "stopped: {stopped}"
        );
    }
}

#[test]
fn a_rotated_file_bears_its_moment_and_nothing_of_it_is_lost() {
    let (agent, _) = harmed(
        Setup {
            rotate_bytes: Some(1),
            ..PLAIN
        },
        false,
        |_| {},
    );
    let names: Vec<_> = agent
        .fs
        .paths()
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(names, [PATH, "/out/audit.jsonl.2025-11-24T16-00-00.000"]);
    assert_eq!(agent.lines(), expected(15));
}

#[test]
fn a_full_disk_is_tried_again_and_a_forbidden_one_stops_with_what_to_do() {
    for (kind, retries, says) in [
        (std::io::ErrorKind::StorageFull, true, "make room"),
        (std::io::ErrorKind::Other, true, "planned failure"),
        (
            std::io::ErrorKind::PermissionDenied,
            false,
            "give the agent's user the right",
        ),
        (
            std::io::ErrorKind::ReadOnlyFilesystem,
            false,
            "mount it writable",
        ),
    ] {
        let mut agent = Agent::fresh(PLAIN);
        agent.open().expect("open");
        agent.fs.fail(Call::Write, 0, 1, kind);
        let outcome = agent.send_to(3).expect_err("the write fails");
        let (Outcome::Retry { reason, .. } | Outcome::Stop { reason }) = &outcome else {
            panic!("{outcome:?}")
        };
        assert!(reason.contains(says) && reason.contains(PATH), "{reason}");
        assert_eq!(
            matches!(
                outcome,
                Outcome::Retry {
                    in_doubt: false,
                    ..
                }
            ),
            retries
        );
        agent.open().expect("open again");
        agent.send_to(3).expect("it has healed");
        assert_eq!(agent.lines(), expected(3));
    }
}

#[test]
fn a_failed_sync_is_made_good_through_a_new_descriptor() {
    let mut agent = Agent::fresh(PLAIN);
    agent.open().expect("open");
    agent.send_to(10).expect("sent");
    agent.fs.fail(Call::Sync, 0, 1, std::io::ErrorKind::Other);
    assert!(agent.store().is_err());
    agent.store().expect("the second time");
    let agent = agent.restart(Kept::None, &mut fastrand::Rng::with_seed(1));
    assert_eq!(
        agent.lines(),
        expected(10),
        "what was called durable is on the disk"
    );
}

#[test]
fn a_mark_of_a_newer_version_stops_with_what_to_do() {
    let mut agent = Agent::fresh(PLAIN);
    agent.mark = Some(b"\x02whatever".to_vec());
    let outcome = agent.open().expect_err("refused");
    assert!(
        matches!(&outcome, Outcome::Stop { reason } if reason.contains("newer auditship")),
        "{outcome:?}"
    );
}

#[test]
fn a_path_that_names_the_day_takes_each_record_to_its_day() {
    let mut agent = Agent::fresh(Setup {
        path: "/out/{origin.source}/{event:%Y-%m-%d}.jsonl",
        ..PLAIN
    });
    agent.open().expect("open");
    for end in [7, 35, 40] {
        agent.send_to(end).expect("sent");
        agent.store().expect("stored");
        agent = agent.restart(Kept::None, &mut fastrand::Rng::with_seed(2));
        agent.open().expect("open again");
    }
    let names: Vec<_> = agent
        .fs
        .paths()
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let days = [1, 2, 3, 4].map(|day| format!("/out/apiserver/1970-01-0{day}.jsonl"));
    assert_eq!((names, agent.lines()), (days.to_vec(), expected(40)));
    assert_eq!(agent.alarms, []);
}
