//! Random appends, releases, restarts, failures and power cuts against a model that knows what must be there.
//!
//! Three origins write numbered lines; an origin's state is its next number. Whatever happens, after a restart each
//! origin's lines must lie in the spool in order, each once, exactly up to the recovered state, and that state must
//! not be behind the last acknowledged one.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::*;
use crate::durable_fs::simulated::{Call, Kept};

const ORIGINS: [&[u8]; 3] = [b"origin-a", b"origin-b", b"origin-c"];
const SINK: &[u8] = b"sink";
const KEPT: [Kept; 4] = [Kept::None, Kept::All, Kept::Some, Kept::Torn];

/// What must be in the spool.
#[derive(Clone, Default)]
struct Model {
    /// Origin and number of every record that is known to be there, by record number.
    records: Vec<(usize, u64)>,
    /// Next number of each origin.
    next: [u64; 3],
    gaps: u64,
    /// Records below this may be gone.
    released: u64,
    /// The highest cursor.
    confirmed: u64,
}

struct Run {
    bench: Bench,
    random: fastrand::Rng,
    model: Model,
    spool: Option<Spool>,
    seed: u64,
}

/// The line with this number: short, long, or longer than a block.
fn line(origin: usize, number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number * 3 + origin as u64);
    let mut line = format!("{origin}:{number}:").into_bytes();
    let len = if number % 7 == 3 {
        2_000
    } else {
        random.usize(0..60)
    };
    line.extend(std::iter::repeat_with(|| random.u8(..)).take(len));
    line
}

fn parse(line: &[u8]) -> (usize, u64) {
    let text: String = line.iter().take(24).map(|byte| *byte as char).collect();
    let mut parts = text.split(':');
    (
        parts.next().unwrap().parse().unwrap(),
        parts.next().unwrap().parse().unwrap(),
    )
}

fn is_oversize(number: u64) -> bool {
    number % 7 == 3
}

/// A block with its own bytes.
struct Owned {
    kind: BlockKind,
    key: &'static [u8],
    state: Vec<u8>,
    payload: Vec<u8>,
    note: Vec<u8>,
    count: u32,
    records: Vec<(usize, u64)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        bench.options.segment_bytes = random.u64(300..6_000);
        bench.options.memory_bytes = if random.bool() {
            0
        } else {
            random.u64(0..4_000)
        };
        bench.options.compress = random.bool();
        Run {
            bench,
            random,
            model: Model::default(),
            spool: None,
            seed,
        }
    }

    fn run(mut self, steps: usize) {
        self.start();
        for _ in 0..steps {
            match self.random.u8(0..20) {
                0 => self.bench.fs.cut_after(self.random.u64(0..25)),
                1 => self.plan_failure(),
                2 => self.restart(),
                3 => self.release(),
                4 => self.verify(),
                5 => self.confirm(),
                _ => self.append(),
            }
            if self.spool.is_none() || self.bench.fs.is_off() {
                self.power_cycle();
            }
            self.bench.clock.advance(Duration::from_millis(300));
        }
        self.restart();
        self.verify();
    }

    fn plan_failure(&mut self) {
        let call = [
            Call::Write,
            Call::Sync,
            Call::SetLen,
            Call::Create,
            Call::SyncDir,
            Call::Remove,
            Call::FreeBytes,
        ];
        let kind = [io::ErrorKind::Other, io::ErrorKind::StorageFull][self.random.usize(..2)];
        let (after, times) = (self.random.u64(0..6), self.random.u64(1..4));
        self.bench
            .fs
            .fail(call[self.random.usize(..call.len())], after, times, kind);
    }

    /// Ends the process, sometimes with the power, and starts again until that succeeds.
    fn power_cycle(&mut self) {
        self.spool = None;
        let kept = KEPT[self.random.usize(..4)];
        self.bench.fs.reboot(kept, &mut self.random);
        // A start may lose the power too, and the one after it.
        for _ in 0..self.random.usize(0..3) {
            self.bench.fs.cut_after(self.random.u64(0..30));
            if self.bench.open(self.model.confirmed).is_ok() && self.random.bool() {
                continue;
            }
            let kept = KEPT[self.random.usize(..4)];
            self.bench.fs.reboot(kept, &mut self.random);
        }
        let kept = KEPT[self.random.usize(..4)];
        self.bench.fs.reboot(kept, &mut self.random);
        self.start();
        self.verify();
        if self.random.u8(..) < 50 {
            // What a start has shown to the sources and sinks must outlast the next cut.
            self.spool = None;
            self.bench.fs.reboot(Kept::None, &mut self.random);
            self.start();
        }
    }

    fn restart(&mut self) {
        self.spool = None;
        self.bench.fs.mend();
        if self.bench.fs.is_off() {
            return self.power_cycle();
        }
        if self.random.bool() {
            self.bench.fs.reboot(Kept::All, &mut self.random);
        }
        match self.bench.open(self.model.confirmed) {
            Ok((spool, recovered)) => self.started(spool, recovered),
            Err(_) => self.power_cycle(),
        }
    }

    fn start(&mut self) {
        let (spool, recovered) = self.bench.open(self.model.confirmed).unwrap();
        self.started(spool, recovered);
    }

    /// Compares what was recovered with the model, and takes over what was recovered beyond it.
    fn started(&mut self, spool: Spool, recovered: Recovered) {
        let seed = self.seed;
        let reader = spool.reader();
        let report = reader.report();
        assert!(
            report.next_record >= self.model.records.len() as u64,
            "seed {seed}: acknowledged records are gone"
        );
        assert_eq!(
            report.quarantined_blocks, 0,
            "seed {seed}: {:?}",
            recovered.notes
        );
        let mut state: BTreeMap<Vec<u8>, KeyState> = BTreeMap::new();
        state.extend(
            recovered
                .keys
                .into_iter()
                .map(|known| (known.key.clone(), known)),
        );
        while (self.model.records.len() as u64) < report.next_record {
            let record = self.model.records.len() as u64;
            let block = reader.block_at(record).unwrap().unwrap();
            let body = body(&reader, &block, record);
            let (origin, number) = parse(&body);
            assert_eq!(
                number, self.model.next[origin],
                "seed {seed}: record {record} twice or out of order"
            );
            assert_eq!(body, line(origin, number), "seed {seed}: record {record}");
            self.model.next[origin] += 1;
            self.model.records.push((origin, number));
        }
        for (origin, key) in ORIGINS.iter().enumerate() {
            let next = state.get(*key).map_or(0, |known| {
                u64::from_le_bytes(known.state[..].try_into().unwrap())
            });
            assert_eq!(
                next, self.model.next[origin],
                "seed {seed}: state of origin {origin}"
            );
        }
        let gaps = state.get(SINK).map_or(0, |known| {
            u64::from_le_bytes(known.gaps.last().unwrap()[..].try_into().unwrap()) + 1
        });
        assert!(
            (self.model.gaps..=self.model.gaps + 3).contains(&gaps),
            "seed {seed}: {gaps} gaps"
        );
        self.model.gaps = gaps;
        self.spool = Some(spool);
    }

    /// Every record that was not released can be read, with its own bytes.
    fn verify(&mut self) {
        self.bench.fs.mend();
        let Some(spool) = &self.spool else { return };
        if self.bench.fs.is_off() {
            return;
        }
        let reader = spool.reader();
        assert!(
            reader.oldest_record() <= self.model.released,
            "seed {}: freed too much",
            self.seed
        );
        let mut record = reader.oldest_record();
        while record < self.model.records.len() as u64 {
            let block = match reader.block_at(record) {
                Ok(block) => block.unwrap(),
                Err(_) if self.bench.fs.is_off() => return,
                Err(error) => panic!("seed {}: record {record}: {error}", self.seed),
            };
            let end = block.first + u64::from(block.count);
            assert!((block.first..end).contains(&record));
            for record in record..end {
                if record < self.model.released {
                    // Still there by chance: a release that was cut short may have freed its pieces.
                    continue;
                }
                let (origin, number) = self.model.records[record as usize];
                let body = match read_body(&reader, &block, record) {
                    Ok(body) => body,
                    Err(_) if self.bench.fs.is_off() => return,
                    Err(error) => panic!("seed {}: record {record}: {error}", self.seed),
                };
                assert_eq!(
                    body,
                    line(origin, number),
                    "seed {}: record {record}",
                    self.seed
                );
            }
            record = end;
        }
        if let Ok(end) = reader.block_at(record) {
            assert!(end.is_none());
        }
    }

    fn confirm(&mut self) {
        let end = self.model.records.len() as u64;
        self.model.confirmed = self.random.u64(self.model.confirmed..=end);
    }

    fn release(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        self.model.released = self.random.u64(self.model.released..=self.model.confirmed);
        // A failed removal is made up for by the next release or never; the model allows either.
        drop(spool.release(self.model.released));
    }

    fn append(&mut self) {
        let mut model = self.model.clone();
        let mut blocks = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            self.draw(&mut model, &mut blocks);
        }
        // An append may end in the middle of a record's pieces.
        let cut = self.random.usize(1..=blocks.len());
        let rest = blocks.split_off(if self.random.u8(..) < 60 {
            cut
        } else {
            blocks.len()
        });
        for blocks in [blocks, rest] {
            if !self.append_blocks(&blocks) {
                return;
            }
        }
    }

    /// Appends and takes over into the model what was acknowledged. Whether to go on.
    fn append_blocks(&mut self, blocks: &[Owned]) -> bool {
        let Some(spool) = &mut self.spool else {
            return false;
        };
        let appends: Vec<_> = blocks
            .iter()
            .map(|block| Append {
                anew: false,
                kind: block.kind,
                key: block.key,
                state: &block.state,
                note: &block.note,
                count: block.count,
                payload: &block.payload,
            })
            .collect();
        match spool.append(&appends) {
            Ok(appended) => {
                for block in blocks {
                    self.model.gaps += u64::from(block.kind == BlockKind::Gap);
                    for (origin, number) in &block.records {
                        self.model.records.push((*origin, *number));
                        self.model.next[*origin] = number + 1;
                    }
                }
                assert_eq!(
                    appended.next_record,
                    self.model.records.len() as u64,
                    "seed {}",
                    self.seed
                );
                true
            }
            Err(AppendError::Full(_)) => {
                // The source begins again at the position before: unfinished pieces are void.
                self.void_pieces();
                false
            }
            Err(AppendError::Lost(_)) => {
                self.spool = None;
                false
            }
            Err(error @ AppendError::Refused(_)) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn void_pieces(&mut self) {
        self.restart();
    }

    /// Draws the blocks of one more piece of work.
    fn draw(&mut self, model: &mut Model, blocks: &mut Vec<Owned>) {
        let origin = self.random.usize(..3);
        let block = |kind, key, state: u64, payload, count, records| Owned {
            kind,
            key,
            state: state.to_le_bytes().to_vec(),
            payload,
            note: b"span".to_vec(),
            count,
            records,
        };
        let next = model.next[origin];
        if self.random.u8(..) < 30 {
            let mut gap = block(BlockKind::Gap, SINK, 0, vec![], 0, vec![]);
            gap.state.clear();
            gap.note = model.gaps.to_le_bytes().to_vec();
            model.gaps += 1;
            blocks.push(gap);
        } else if self.random.u8(..) < 20 {
            blocks.push(block(
                BlockKind::Position,
                ORIGINS[origin],
                next,
                vec![],
                0,
                vec![],
            ));
        } else if is_oversize(next) {
            for part in line(origin, next).chunks(700) {
                blocks.push(block(
                    BlockKind::Piece,
                    ORIGINS[origin],
                    next,
                    part.to_vec(),
                    0,
                    vec![],
                ));
            }
            let payload = payload(&[b""]);
            let records = vec![(origin, next)];
            blocks.push(block(
                BlockKind::Data,
                ORIGINS[origin],
                next + 1,
                payload,
                1,
                records,
            ));
            model.next[origin] = next + 1;
        } else {
            let wanted = next + self.random.u64(1..5);
            let end = (next..wanted)
                .find(|number| is_oversize(*number))
                .unwrap_or(wanted);
            let mut bytes = Vec::new();
            for number in next..end {
                record::push(&mut bytes, b"head", &line(origin, number));
            }
            let records: Vec<_> = (next..end).map(|number| (origin, number)).collect();
            blocks.push(block(
                BlockKind::Data,
                ORIGINS[origin],
                end,
                bytes,
                (end - next) as u32,
                records,
            ));
            model.next[origin] = end;
        }
    }
}

fn body(reader: &Reader, block: &Block, record: u64) -> Vec<u8> {
    read_body(reader, block, record).unwrap()
}

fn read_body(reader: &Reader, block: &Block, record: u64) -> Result<Vec<u8>, ReadError> {
    if block.pieces.is_empty() {
        return Ok(bodies(block)[(record - block.first) as usize].clone());
    }
    let mut body = Vec::new();
    for piece in &block.pieces {
        assert_eq!(piece.record, record);
        body.extend_from_slice(&reader.piece(*piece)?);
    }
    Ok(body)
}

#[test]
fn acknowledged_records_survive_failures_and_power_cuts_at_any_call() {
    let seeds = std::env::var("SPOOL_SEEDS").map_or(500, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        Run::new(seed).run(60);
    }
}
