//! A destination that fails in every way, against the books: nothing lost, nothing twice, the law at every step.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::sinks::RejectionKind;

impl InFlight {
    /// Fills one batch with `[next, end)` and opens an attempt at it.
    fn open_new(&mut self, end: u64) -> u64 {
        let records = Numbers::range(self.next..end);
        self.fill(vec![(u64::MAX, records)], end);
        self.open_filled(u64::MAX).unwrap()
    }

    /// Opens an attempt at the lowest waiting task's records below `end`.
    fn open_lowest(&mut self, end: u64) -> u64 {
        let records = self.lowest_waiting().unwrap().records.split_at(end).0;
        self.open_waiting(&records).unwrap()
    }

    /// Every record of `[cursor, next)` is in exactly one place.
    pub(super) fn check(&self) {
        let mut places: BTreeMap<u64, &str> = BTreeMap::new();
        let mut put = |number: u64, place: &'static str| {
            if let Some(other) = places.insert(number, place) {
                panic!("record {number} is {other} and {place}");
            }
        };
        self.filling
            .values()
            .flat_map(|t| t.records.iter())
            .for_each(|n| put(n, "filling"));
        self.open
            .values()
            .flat_map(|t| t.records.iter())
            .for_each(|n| put(n, "open"));
        self.waiting
            .values()
            .flat_map(|t| t.records.iter())
            .for_each(|n| put(n, "waiting"));
        self.refusals.held_numbers().for_each(|n| put(n, "held"));
        self.condemned.keys().for_each(|n| put(*n, "condemned"));
        self.done
            .iter()
            .flat_map(|(first, (end, _))| *first..*end)
            .for_each(|n| put(n, "done"));
        let all: Vec<u64> = places.into_keys().collect();
        assert_eq!(all, (self.cursor()..self.next).collect::<Vec<_>>());
        for (first, (end, counts)) in &self.done {
            assert_eq!(
                end - first,
                counts.delivered + counts.dead_letter + counts.gap
            );
        }
        assert!(
            self.waiting
                .iter()
                .all(|(first, task)| task.records.first() == Some(*first))
        );
    }
}

fn delivered(except: Vec<(u64, Verdict)>) -> Outcome {
    Outcome::Delivered {
        mark: None,
        except,
        alarms: Vec::new(),
    }
}

fn rejected(kind: RejectionKind) -> Rejection {
    Rejection {
        kind,
        class: "mapper".to_owned(),
        reason: "no".to_owned(),
    }
}

fn start() -> InFlight {
    InFlight::resume(CursorRecord::default())
}

#[test]
fn the_cursor_waits_for_the_lowest_attempt_and_the_counts_wait_with_it() {
    let mut books = start();
    let (a, b) = (books.open_new(10), books.open_new(30));
    books.finish(b, delivered(Vec::new()));
    assert_eq!((books.cursor(), books.record().delivered), (0, 0));
    assert_eq!(books.clean_send_limit(), 30);
    books.finish(a, delivered(Vec::new()));
    assert_eq!((books.cursor(), books.record().delivered), (30, 30));
    assert_eq!(books.clean_send_limit(), 30);
}

#[test]
fn a_pinned_cursor_costs_one_range_however_far_the_sink_goes_on() {
    let mut books = start();
    books.open_new(1);
    for n in 1..10_000 {
        let seq = books.open_new(n + 1);
        books.finish(seq, delivered(Vec::new()));
    }
    assert_eq!(books.done.len(), 1);
}

#[test]
fn a_split_ends_in_single_records_whose_verdict_counts() {
    let mut books = start();
    books.open_new(3);
    let mut sizes = Vec::new();
    let mut seq = 0;
    loop {
        let task = books.task(seq).unwrap().clone();
        sizes.push(task.records.len());
        let poison = task.records.contains(1);
        let outcome = if poison {
            Outcome::Split {
                verdict: rejected(RejectionKind::TooLarge),
            }
        } else {
            delivered(vec![])
        };
        books.finish(seq, outcome);
        books.check();
        match books.lowest_waiting().and_then(|t| t.records.end()) {
            Some(end) => seq = books.open_lowest(end),
            None => break,
        }
    }
    assert_eq!(sizes, [3, 2, 1, 1, 1]);
    assert_eq!(books.condemned().map(|(n, _)| n).collect::<Vec<_>>(), [1]);
}

#[test]
fn an_unparsable_record_is_sent_alone_in_its_fallback_form_before_it_is_refused() {
    let mut books = start();
    let seq = books.open_new(5);
    let verdict = || Verdict::Rejected(rejected(RejectionKind::Unparsable));
    books.finish(seq, delivered(vec![(2, verdict())]));
    let task = books.lowest_waiting().unwrap();
    assert_eq!(
        (task.form, task.records.clone()),
        (Form::Fallback, Numbers::range(2..3))
    );
    assert_eq!(books.condemned().count(), 0);
    let seq = books.open_lowest(3);
    books.finish(seq, delivered(vec![(2, verdict())]));
    assert_eq!(books.condemned().map(|(n, _)| n).collect::<Vec<_>>(), [2]);
    books.dead_lettered(&Numbers::range(2..3));
    assert_eq!((books.cursor(), books.record().dead_letter), (5, 1));
}

#[test]
fn a_batch_refused_whole_in_both_forms_stops_the_sink_and_goes_out_as_it_was() {
    let mut books = start();
    let all = || {
        (0..50)
            .map(|n| (n, Verdict::Rejected(rejected(RejectionKind::Unparsable))))
            .collect()
    };
    let seq = books.open_new(50);
    assert_eq!(books.finish(seq, delivered(all())).stop, None);
    let seq = books.open_lowest(50);
    assert!(books.finish(seq, delivered(all())).stop.is_some());
    let task = books.lowest_waiting().unwrap();
    assert_eq!(
        (task.form, task.records.clone()),
        (Form::Normal, Numbers::range(0..50))
    );
    assert_eq!(books.condemned().count(), 0);
}

#[test]
fn a_verdict_on_a_record_that_was_not_sent_is_not_believed() {
    let mut books = start();
    let seq = books.open_new(5);
    let finish = books.finish(
        seq,
        delivered(vec![(
            9,
            Verdict::Rejected(rejected(RejectionKind::Refused)),
        )]),
    );
    assert!(finish.retry.is_some());
    assert!(books.lowest_waiting().unwrap().in_doubt);
    assert_eq!(books.cursor(), 0);
}

#[test]
fn a_large_record_is_condemned_by_what_was_accepted_of_its_halved_batch() {
    let mut books = start();
    let whole = books.open_new(4);
    let verdict = || rejected(RejectionKind::TooLarge);
    books.finish(whole, Outcome::Split { verdict: verdict() });
    let lower = books.open_lowest(2);
    let upper = books.open_lowest(4);
    books.finish(upper, delivered(Vec::new()));
    books.finish(lower, Outcome::Split { verdict: verdict() });
    let first = books.open_lowest(1);
    books.finish(first, Outcome::Split { verdict: verdict() });
    assert_eq!(
        books.condemned().count(),
        0,
        "a part of the batch is undecided"
    );
    let second = books.open_lowest(2);
    books.finish(second, delivered(Vec::new()));
    let condemned: Vec<u64> = books.condemned().map(|(number, _)| number).collect();
    assert_eq!(condemned, [0]);
}

#[test]
fn a_halved_batch_refused_for_the_most_part_stops_the_sink() {
    let mut books = start();
    let verdict = || rejected(RejectionKind::Refused);
    let whole = books.open_new(32);
    books.finish(whole, Outcome::Split { verdict: verdict() });
    let mut stopped = None;
    while let Some(task) = books.lowest_waiting().cloned() {
        let seq = books.open_lowest(u64::MAX);
        let good = task.records.len() == 1 && task.records.contains(31);
        let finish = match good {
            true => books.finish(seq, delivered(Vec::new())),
            false => books.finish(seq, Outcome::Split { verdict: verdict() }),
        };
        if finish.stop.is_some() {
            stopped = finish.stop;
            break;
        }
    }
    assert!(stopped.is_some_and(|why| why.contains("refused")));
    assert_eq!(books.condemned().count(), 0);
}

#[test]
fn a_sink_that_only_asks_for_marks_backs_off() {
    let mut books = start();
    let mut seq = books.open_new(1);
    for _ in 0..MARKS_MAX {
        assert!(
            books
                .finish(seq, Outcome::MarkFirst { mark: vec![1] })
                .mark_first
        );
        seq = books.open_lowest(1);
    }
    assert!(
        books
            .finish(seq, Outcome::MarkFirst { mark: vec![1] })
            .retry
            .is_some()
    );
}

#[test]
fn overtaking_gives_up_what_is_not_done_but_never_under_an_open_attempt() {
    let mut books = start();
    let (a, b) = (books.open_new(10), books.open_new(20));
    books.finish(b, delivered(Vec::new()));
    assert_eq!(books.unconfirmed_below(15), None);
    books.finish(
        a,
        Outcome::Retry {
            after: None,
            reason: String::new(),
            in_doubt: true,
        },
    );
    assert_eq!(
        books
            .unconfirmed_below(25)
            .unwrap()
            .ranges()
            .collect::<Vec<_>>(),
        [0..10, 20..25]
    );
    books.overtake(25);
    books.check();
    assert_eq!(
        (books.cursor(), books.record().gap, books.record().delivered),
        (25, 15, 10)
    );
}

/// Everything that outlives a kill, and a destination that fails at random.
struct World {
    rng: fastrand::Rng,
    seed: u64,
    end: u64,
    durable: CursorRecord,
    stored: BTreeMap<u64, u32>,
    letters: BTreeSet<u64>,
    gaps: BTreeSet<u64>,
    poison: BTreeSet<u64>,
    broken: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let end = rng.u64(1..120);
        let poison = (0..rng.u64(0..6)).map(|_| rng.u64(0..end)).collect();
        World {
            rng,
            seed,
            end,
            durable: CursorRecord::default(),
            stored: BTreeMap::new(),
            letters: BTreeSet::new(),
            gaps: BTreeSet::new(),
            poison,
            broken: false,
        }
    }

    /// The destination takes a record; only what is in doubt is looked up there first.
    fn store(&mut self, number: u64, in_doubt: bool) {
        let copies = self.stored.entry(number).or_default();
        if *copies > 0 && in_doubt {
            return;
        }
        *copies += 1;
        assert_eq!(
            *copies, 1,
            "record {number} stored twice, seed {}",
            self.seed
        );
    }

    /// An attempt whose end nobody sees may have stored any part of it.
    fn store_some(&mut self, task: &Task) {
        let poison = self.poison.clone();
        for number in task.records.iter().filter(|n| !poison.contains(n)) {
            if self.rng.bool() {
                self.store(number, task.in_doubt);
            }
        }
    }

    fn outcome(&mut self, task: &Task, calm: bool) -> Outcome {
        match if calm { 9 } else { self.rng.u32(0..14) } {
            0 => Outcome::Retry {
                after: None,
                reason: String::new(),
                in_doubt: false,
            },
            1 => {
                self.store_some(task);
                Outcome::Retry {
                    after: None,
                    reason: String::new(),
                    in_doubt: true,
                }
            }
            // A sink looks up what is in doubt before it says that a batch of one cannot be stored.
            2 if !task.records.iter().any(|n| self.stored.contains_key(&n)) => Outcome::Split {
                verdict: rejected(RejectionKind::TooLarge),
            },
            3 => Outcome::Stop {
                reason: String::new(),
            },
            4 => Outcome::MarkFirst { mark: vec![7] },
            _ => self.answer(task, calm),
        }
    }

    fn answer(&mut self, task: &Task, calm: bool) -> Outcome {
        let mut except = Vec::new();
        for number in task.records.iter() {
            let known = task.in_doubt && self.stored.contains_key(&number);
            if !known && (self.poison.contains(&number) || self.broken) {
                let kind =
                    [RejectionKind::Unparsable, RejectionKind::Refused][self.rng.usize(0..2)];
                except.push((number, Verdict::Rejected(rejected(kind))));
            } else if !calm && self.rng.u32(0..10) == 0 {
                let in_doubt = self.rng.bool();
                if in_doubt && self.rng.bool() {
                    self.store(number, task.in_doubt);
                }
                except.push((
                    number,
                    Verdict::Retry {
                        reason: String::new(),
                        in_doubt,
                    },
                ));
            } else {
                self.store(number, task.in_doubt);
            }
        }
        delivered(except)
    }

    fn sync(&mut self, books: &InFlight) {
        let send_limit = self
            .durable
            .send_limit
            .max(books.next() + self.rng.u64(0..20));
        self.durable = CursorRecord {
            send_limit,
            ..books.record().clone()
        };
        let r = &self.durable;
        assert_eq!(
            r.cursor,
            r.delivered + r.not_selected + r.dead_letter + r.gap
        );
    }

    fn start(&mut self) -> InFlight {
        // Letters at or behind the cursor are decided anew; see `DeadLetters::forget_from`.
        self.letters.retain(|n| *n < self.durable.cursor);
        InFlight::resume(self.durable.clone())
    }

    fn condemned(&mut self, books: &mut InFlight) {
        let numbers: Numbers = books.condemned().map(|(n, _)| n).collect();
        self.letters.extend(numbers.iter());
        books.dead_lettered(&numbers);
    }

    fn send_next(&mut self, books: &mut InFlight) {
        if let Some(task) = books.lowest_waiting().cloned() {
            let end = task.records.end().unwrap();
            let cut = if self.rng.bool() {
                end
            } else {
                self.rng.u64(task.records.first().unwrap() + 1..=end)
            };
            books.open_lowest(cut);
        } else if books.next() < self.end {
            let mut end = self.rng.u64(books.next() + 1..=self.end);
            if books.next() < books.in_doubt_end() {
                end = end.min(books.in_doubt_end());
            }
            if end > self.durable.send_limit {
                self.sync(books);
                self.durable.send_limit = self.durable.send_limit.max(end);
            }
            books.open_new(end);
        } else if books.open_count() == 0 && books.refusals().held() > 0 {
            books.send_held_again();
        }
    }

    fn end_one(&mut self, books: &mut InFlight, calm: bool) {
        let open: Vec<u64> = books.open.keys().copied().collect();
        let Some(seq) = self.rng.choice(open) else {
            return;
        };
        let task = books.task(seq).unwrap().clone();
        let outcome = self.outcome(&task, calm);
        books.finish(seq, outcome);
    }

    fn overtake(&mut self, books: &mut InFlight) {
        let to = self
            .rng
            .u64(books.cursor()..=self.end.min(books.cursor() + 5));
        if let Some(records) = books.unconfirmed_below(to) {
            self.gaps.extend(records.iter());
            books.overtake(to);
        }
    }

    fn kill(&mut self, books: &mut InFlight) {
        let open: Vec<Task> = books.open.values().cloned().collect();
        for task in &open {
            self.store_some(task);
        }
        *books = self.start();
    }

    /// A stop that lets attempts end; afterwards only what the books say is in doubt.
    fn stop(&mut self, books: &mut InFlight) {
        while books.open_count() > 0 {
            self.end_one(books, false);
        }
        self.condemned(books);
        self.durable = CursorRecord {
            send_limit: books.clean_send_limit(),
            ..books.record().clone()
        };
        *books = self.start();
    }

    fn run(&mut self) {
        let mut books = self.start();
        for _ in 0..300 {
            match self.rng.u32(0..40) {
                0..=11 if books.open_count() < 4 => self.send_next(&mut books),
                12..=25 => self.end_one(&mut books, false),
                26..=28 => self.condemned(&mut books),
                29..=33 => self.sync(&books),
                34 => self.overtake(&mut books),
                35 => self.kill(&mut books),
                36 => self.stop(&mut books),
                37 => self.broken = self.rng.bool(),
                _ => {}
            }
            books.check();
        }
        self.heal(&mut books);
    }

    /// The destination is well again; one more event that it takes lets held ones be judged.
    fn heal(&mut self, books: &mut InFlight) {
        self.broken = false;
        self.end += 1;
        for _ in 0..10_000 {
            self.send_next(books);
            self.end_one(books, true);
            self.condemned(books);
            books.check();
            if books.cursor() == self.end {
                break;
            }
            if books.next() == self.end
                && books.lowest_waiting().is_none()
                && books.open_count() == 0
            {
                self.end += 1;
            }
        }
        assert_eq!(books.cursor(), self.end, "never done, seed {}", self.seed);
        self.sync(books);
    }

    fn judge(&self) {
        let r = &self.durable;
        assert_eq!(
            self.end,
            r.delivered + r.dead_letter + r.gap,
            "the law, seed {}",
            self.seed
        );
        for n in 0..self.end {
            let (stored, letter, gap) = (
                self.stored.contains_key(&n),
                self.letters.contains(&n),
                self.gaps.contains(&n),
            );
            assert!(
                stored || letter || gap,
                "record {n} is lost, seed {}",
                self.seed
            );
            assert!(
                !(stored && letter),
                "record {n} is stored and a dead letter, seed {}",
                self.seed
            );
            assert!(!(stored && self.poison.contains(&n)), "seed {}", self.seed);
        }
        assert_eq!(
            self.letters.len() as u64,
            r.dead_letter,
            "seed {}",
            self.seed
        );
    }
}

#[test]
fn nothing_is_lost_or_stored_twice_under_any_outcomes_kills_and_stops() {
    for seed in 0..2_000 {
        let mut world = World::new(seed);
        world.run();
        world.judge();
    }
}
