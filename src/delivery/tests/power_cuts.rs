//! The real spool and the real cursor on a disk that loses power at any call, and a destination that fails at random:
//! every record is stored once or is a dead letter, and the law holds after every cut.

use super::*;
use crate::durable_fs::simulated::Kept;
use crate::spool::{Append, BlockKind, Options, Spool};

/// What outlives a power cut: the disk, and what the destination holds.
struct World {
    rng: fastrand::Rng,
    seed: u64,
    fs: SimulatedFs,
    clock: Arc<dyn Clock>,
    sink: Arc<FakeSink>,
    acknowledged: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let fs = SimulatedFs::new();
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock(tokio::time::Instant::now()));
        let sink = fake_sink("sink", &clock, &Arc::new(fs.clone()));
        World {
            rng: fastrand::Rng::with_seed(seed),
            seed,
            fs,
            clock,
            sink,
            acknowledged: 0,
        }
    }

    fn open(&self) -> Spool {
        let fs: Arc<dyn DurableFs> = Arc::new(self.fs.clone());
        let stored = stored_sinks(&*fs, Path::new("/state")).unwrap();
        let confirmed = stored
            .iter()
            .map(|(_, record)| record.cursor)
            .max()
            .unwrap_or(0);
        let options = Options {
            dir: "/state/spool".into(),
            max_bytes: 1 << 30,
            min_free: 0,
            compress: true,
            segment_bytes: 16 << 10,
            memory_bytes: 4 << 10,
        };
        fs.create_dir(Path::new("/state/spool")).unwrap();
        Spool::open(fs, Arc::clone(&self.clock), options, confirmed)
            .unwrap()
            .0
    }

    fn start(&self, spool: &Spool) -> io::Result<Delivery> {
        let rig = Rig::new();
        let shared = Shared {
            reader: Arc::new(spool.reader()),
            fs: Arc::new(self.fs.clone()),
            clock: Arc::clone(&self.clock),
            ..rig.shared()
        };
        let spec = SinkSpec {
            sink: Arc::clone(&self.sink) as _,
            concurrency: 3,
            batch_events: 20,
            ..rig.spec()
        };
        Delivery::start(vec![spec], &shared, &tokio::runtime::Handle::current())
            .map_err(|error| error.error)
    }

    /// Appends some records; whether the disk still works.
    fn append(&mut self, spool: &mut Spool) -> bool {
        let first = *spool.reader().watch().borrow();
        let count = self.rng.u64(1..30);
        let mut payload = Vec::new();
        for number in first..first + count {
            let line = line(number);
            let mut encoded = Vec::new();
            head(number, line.len() as u64, LineKind::Event).encode(&mut encoded);
            record::push(&mut payload, &encoded, line.as_bytes());
        }
        let origin = Origin {
            cluster: "c".into(),
            node: "n".into(),
            source: "s".into(),
        };
        let span = Span {
            generation: Generation([7; 32]),
            start: first * 100,
            end: (first + count) * 100,
        };
        let append = Append {
            anew: false,
            kind: BlockKind::Data,
            key: &origin.encode(),
            state: b"state",
            note: &span.encode(),
            count: u32::try_from(count).unwrap(),
            payload: &payload,
        };
        let appended = spool.append(&[append]);
        if let Ok(appended) = &appended {
            self.acknowledged = appended.next_record;
        }
        appended.is_ok()
    }

    /// Numbers that end in 7 are refused for ever; all else is taken sooner or later.
    fn fail_at_random(&mut self) {
        let mut rng = self.rng.fork();
        self.sink.answer(move |batch| {
            let pause = Duration::from_millis(rng.u64(0..1500));
            let refuse =
                |n: u64| (n % 10 == 7).then(|| Verdict::Rejected(no(RejectionKind::Refused)));
            let outcome = match rng.u32(0..10) {
                0 => retry(Some(pause)),
                1 => return Step::Hang,
                2 if !batch.in_doubt => Outcome::Split {
                    verdict: no(RejectionKind::TooLarge),
                },
                3 => all_but(batch, |n| match n % 3 {
                    0 => Some(Verdict::Retry {
                        reason: "429".into(),
                        in_doubt: false,
                    }),
                    _ => refuse(n),
                }),
                _ => all_but(batch, refuse),
            };
            Step::After(pause, outcome)
        });
    }

    async fn live(&mut self) {
        let mut spool = self.open();
        self.fail_at_random();
        let Ok(delivery) = self.start(&spool) else {
            return;
        };
        self.fs.cut_after(self.rng.u64(0..400));
        for _ in 0..self.rng.u64(0..40) {
            if self.rng.bool() && !self.append(&mut spool) {
                break;
            }
            clock::sleep(Duration::from_millis(self.rng.u64(0..700))).await;
            if let Some(lowest) = delivery.lowest_cursor()
                && spool.release(lowest).is_err()
            {
                break;
            }
        }
        delivery.abort();
        clock::sleep(s(1)).await;
    }

    fn reboot(&mut self) {
        let kept = [Kept::None, Kept::All, Kept::Some, Kept::Torn][self.rng.usize(0..4)];
        self.fs.reboot(kept, &mut self.rng);
        let stored = stored_sinks(&self.fs, Path::new("/state")).unwrap();
        for (_, r) in stored {
            assert_eq!(
                r.cursor,
                r.delivered + r.not_selected + r.dead_letter + r.gap,
                "seed {}",
                self.seed
            );
        }
    }

    /// All is well again: everything acknowledged arrives.
    async fn end(&mut self) {
        let mut spool = self.open();
        assert!(
            *spool.reader().watch().borrow() >= self.acknowledged,
            "seed {}",
            self.seed
        );
        self.sink.answer(|batch| {
            Step::Now(all_but(batch, |n| {
                (n % 10 == 7).then(|| Verdict::Rejected(no(RejectionKind::Refused)))
            }))
        });
        let delivery = self.start(&spool).unwrap();
        assert!(self.append(&mut spool) && self.append(&mut spool));
        let next = *spool.reader().watch().borrow();
        while next % 10 == 8 && !self.append(&mut spool) {}
        for _ in 0..3000 {
            if delivery.reports()[0].durable.cursor >= next {
                break;
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
        let durable = delivery.reports().remove(0).durable;
        assert!(
            durable.cursor >= next,
            "seed {}: {:#?}",
            self.seed,
            delivery.reports()
        );
        let stored = self.sink.stored();
        let fs: Arc<dyn DurableFs> = Arc::new(self.fs.clone());
        let letters = DeadLetters::look(fs, Path::new("/state"), 0)
            .records("sink")
            .unwrap();
        for number in 0..next {
            let copies = stored.get(&number).copied().unwrap_or(0);
            let letter = u32::from(letters.contains(&number));
            assert_eq!(
                copies + letter,
                1,
                "record {number}, seed {}: {copies} and {letter}",
                self.seed
            );
        }
        assert_eq!(
            durable.delivered + durable.dead_letter,
            durable.cursor,
            "seed {}",
            self.seed
        );
        delivery.abort();
    }
}

#[test]
fn every_record_is_stored_once_or_is_a_dead_letter_across_power_cuts() {
    for seed in 0..60 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new(seed);
            for _ in 0..world.rng.usize(1..6) {
                world.live().await;
                world.reboot();
            }
            world.end().await;
        });
    }
}
