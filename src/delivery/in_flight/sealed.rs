//! Sealed batches with several keys against a destination that keeps objects by their records: nothing lost, nothing
//! twice, whatever dies when.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

struct World {
    rng: fastrand::Rng,
    seed: u64,
    end: u64,
    /// Key of each record.
    keys: Vec<u64>,
    durable: CursorRecord,
    /// Newest last.
    seals: Vec<(Numbers, Seal)>,
    objects: BTreeSet<Vec<u64>>,
    batches: BTreeMap<u64, u64>,
}

fn seal(records: &Numbers) -> Seal {
    let target = records.iter().flat_map(u64::to_le_bytes).collect();
    Seal {
        target,
        encoder: [1; 16],
        sha256: [2; 32],
    }
}

fn delivered() -> Outcome {
    Outcome::Delivered {
        mark: None,
        except: Vec::new(),
        alarms: Vec::new(),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let keys = rng.u64(1..4);
        World {
            keys: (0..200).map(|_| rng.u64(0..keys)).collect(),
            end: 0,
            rng,
            seed,
            durable: CursorRecord::default(),
            seals: Vec::new(),
            objects: BTreeSet::new(),
            batches: BTreeMap::new(),
        }
    }

    fn start(&mut self) -> InFlight {
        self.batches.clear();
        let cursor = self.durable.cursor;
        // A slot below the cursor may have been used again.
        let rng = &mut self.rng;
        self.seals
            .retain(|(records, _)| records.end() > Some(cursor) || rng.bool());
        let newest_first = self.seals.iter().rev().cloned().collect();
        InFlight::resume_sealed(self.durable.clone(), newest_first)
    }

    fn key(&self, records: &Numbers) -> Option<u64> {
        records
            .first()
            .map(|n| self.keys[usize::try_from(n).unwrap()])
    }

    /// Reads some records on, each into the batch of its key.
    fn fill(&mut self, books: &mut InFlight) {
        let to = self.end.min(books.next() + self.rng.u64(1..6));
        let mut parts: BTreeMap<u64, Numbers> = BTreeMap::new();
        for n in books.next()..to {
            let key = self.keys[usize::try_from(n).unwrap()];
            let batch = *self.batches.entry(key).or_insert_with(|| n + 1000);
            parts.entry(batch).or_default().push(n);
        }
        books.fill(parts.into_iter().collect(), to.max(books.next()));
    }

    /// Seals what is not sealed, sends it.
    fn send(&mut self, books: &mut InFlight, seq: u64) {
        let task = books.task(seq).unwrap().clone();
        let key = self.key(&task.records);
        assert!(
            task.records
                .iter()
                .all(|n| Some(self.keys[usize::try_from(n).unwrap()]) == key),
            "keys mixed, seed {}",
            self.seed
        );
        match &task.seal {
            Some(before) => assert_eq!(*before, seal(&task.records), "seed {}", self.seed),
            None => {
                let seal = seal(&task.records);
                self.seals.push((task.records.clone(), seal.clone()));
                books.sealed(seq, seal);
            }
        }
    }

    fn open(&mut self, books: &mut InFlight) {
        if let Some(task) = books.lowest_waiting().cloned() {
            // Only the first key's records fit into one batch, and without a seal it may be cut short.
            let key = self.key(&task.records);
            let mut records = Numbers::default();
            let most = self.rng.u64(1..30);
            for n in task.records.iter() {
                let same = Some(self.keys[usize::try_from(n).unwrap()]) == key;
                if same && (task.seal.is_some() || records.len() < most) {
                    records.push(n);
                }
            }
            if task.seal.is_some() && !task.seal_is_whole() {
                return self.ask(books, &task);
            }
            if let Some(seq) = books.open_waiting(&records) {
                self.send(books, seq);
            }
        } else if let Some(key) = self
            .rng
            .choice(self.batches.keys().copied().collect::<Vec<_>>())
        {
            let batch = self.batches.remove(&key).unwrap();
            if let Some(seq) = books.open_filled(batch) {
                self.send(books, seq);
            }
        }
    }

    /// The destination is asked for a batch of which the cursor took a part.
    fn ask(&mut self, books: &mut InFlight, task: &Task) {
        let seq = books.open_waiting(&task.records).unwrap();
        let target = &task.seal.as_ref().unwrap().target;
        let numbers = target
            .chunks(8)
            .map(|n| u64::from_le_bytes(n.try_into().unwrap()));
        if self.objects.contains(&numbers.collect::<Vec<_>>()) {
            books.finish(seq, delivered());
        } else {
            books.withdraw_seal(seq, false);
        }
    }

    fn store(&mut self, records: &Numbers) {
        self.objects.insert(records.iter().collect());
    }

    fn end_one(&mut self, books: &mut InFlight) {
        let open: Vec<u64> = books.open.keys().copied().collect();
        let Some(seq) = self.rng.choice(open) else {
            return;
        };
        let records = books.task(seq).unwrap().records.clone();
        let stored = self.rng.bool();
        if stored {
            self.store(&records);
        }
        let outcome = match (stored, self.rng.bool()) {
            (true, true) => delivered(),
            (_, true) => Outcome::Retry {
                after: None,
                reason: String::new(),
                in_doubt: true,
            },
            (true, false) => delivered(),
            (false, false) => Outcome::Stop {
                reason: String::new(),
            },
        };
        books.finish(seq, outcome);
    }

    fn run(&mut self) {
        let mut books = self.start();
        for _ in 0..400 {
            match self.rng.u32(0..20) {
                0..=3 => self.end = (self.end + self.rng.u64(0..6)).min(self.keys.len() as u64),
                4..=8 => self.fill(&mut books),
                9..=12 if books.open_count() < 3 => self.open(&mut books),
                13..=16 => self.end_one(&mut books),
                17 => {
                    books.release_filling();
                    self.batches.clear();
                }
                18 => self.durable = books.record().clone(),
                19 if self.rng.u32(0..4) == 0 => {
                    // What was in flight when it was killed may have been stored.
                    for task in books.open.values().cloned().collect::<Vec<_>>() {
                        if self.rng.bool() {
                            self.store(&task.records);
                        }
                    }
                    books = self.start();
                }
                _ => {}
            }
            books.check();
        }
        while books.cursor() < self.end {
            self.fill(&mut books);
            self.open(&mut books);
            self.end_one(&mut books);
        }
    }
}

#[test]
fn sealed_batches_are_stored_once_each_record_in_one_of_them_across_kills() {
    for seed in 0..500 {
        let mut world = World::new(seed);
        world.run();
        let mut seen: Vec<u64> = world.objects.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..world.end).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_seal_of_which_the_cursor_took_a_part_is_kept_to_be_asked_for() {
    let record = CursorRecord {
        cursor: 5,
        delivered: 5,
        ..CursorRecord::default()
    };
    let whole = Numbers::range(3..10);
    let books = InFlight::resume_sealed(record, vec![(whole.clone(), seal(&whole))]);
    let task = books.lowest_waiting().unwrap();
    assert_eq!(
        (&task.records, &task.seal),
        (&Numbers::range(5..10), &Some(seal(&whole)))
    );
    assert!(task.in_doubt && !task.seal_is_whole());
}

#[test]
fn what_a_marker_must_not_claim_is_what_is_not_stored() {
    let mut books = InFlight::resume(CursorRecord::default());
    books.fill(vec![(1, Numbers::range(0..10))], 10);
    let first = books.open_filled(1).unwrap();
    books.fill(vec![(2, Numbers::range(10..20))], 20);
    let second = books.open_filled(2).unwrap();
    let rejection = Rejection {
        kind: crate::sinks::RejectionKind::KnownLimit,
        class: "size".to_owned(),
        reason: "too long".to_owned(),
    };
    let outcome = Outcome::Delivered {
        mark: None,
        except: vec![(4, Verdict::Rejected(rejection))],
        alarms: Vec::new(),
    };
    books.finish(first, outcome);
    let batch = books.task(second).unwrap().records.clone();
    let hole = Numbers::range(4..5);
    assert_eq!(
        books.holes(0, &batch),
        hole,
        "it is to become a dead letter"
    );
    books.dead_lettered(&hole);
    assert_eq!(books.cursor(), 10);
    assert_eq!(
        books.holes(0, &batch),
        hole,
        "the letter counts when the cursor is durable"
    );
    assert_eq!(books.holes(10, &batch), Numbers::default());
}

#[test]
fn what_the_destination_does_not_hold_below_its_marker_is_sent() {
    let mut books = InFlight::resume(CursorRecord {
        send_limit: 50,
        ..CursorRecord::default()
    });
    books.confirmed_to(9, &Numbers::range(4..6));
    books.check();
    assert_eq!((books.cursor(), books.next()), (4, 10));
    assert_eq!(
        books.lowest_waiting().unwrap().records,
        Numbers::range(4..6)
    );
}
