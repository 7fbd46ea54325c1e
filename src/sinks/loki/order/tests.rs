//! Plans, one by one, and then at random against a model of Loki that loses what is too far behind without a word.

use std::collections::BTreeSet;

use super::*;

const MINUTE: Nanos = 60_000_000_000;
const HOUR: Nanos = 60 * MINUTE;
const NOW: Nanos = 1_767_225_600_000_000_000;

fn limits() -> Limits {
    let hours = |n: u64| Duration::from_secs(3600 * n);
    Limits::new(hours(168), Duration::from_secs(600), hours(1))
}

fn key(n: u8) -> StreamKey {
    StreamKey::of(&n.to_string())
}

#[test]
fn a_line_is_judged_against_now_and_the_newest_of_its_stream() {
    let mut order = Order::new(limits());
    order.sending(key(1), NOW - HOUR, NOW - HOUR);
    let newest = NOW - HOUR;
    let times = [
        NOW + 10 * MINUTE,
        NOW - 2 * HOUR,
        NOW + 10 * MINUTE + 1,
        NOW - 2 * HOUR - 1,
        NOW - 168 * HOUR - 1,
        i64::MAX,
        i64::MIN,
    ];
    use Timeliness::{Behind, Good, TooNew, TooOld};
    assert_eq!(
        order.plan(key(1), NOW, &times[2..]),
        Plan::Push(vec![TooNew, Behind { newest }, TooOld, TooNew, TooOld])
    );
    assert_eq!(order.plan(key(1), NOW, &times[..1]), Plan::MarkFirst);
    assert_eq!(order.plan(key(1), NOW, &times[..1]), Plan::Push(vec![Good]));
    assert_eq!(
        order.plan(key(2), NOW, &[NOW - 168 * HOUR]),
        Plan::Push(vec![Good]),
        "another stream has its own newest"
    );
}

#[test]
fn a_mark_counts_only_where_no_other_batch_came_between() {
    use Timeliness::Good;
    let mut order = Order::new(limits());
    order.sending(key(1), NOW - 2 * HOUR, NOW - 2 * HOUR);
    let batch = [NOW - HOUR / 2];
    assert_eq!(order.plan(key(1), NOW, &batch), Plan::MarkFirst);
    // What held the cursor back is sent first.
    assert_eq!(order.plan(key(2), NOW, &[NOW]), Plan::Push(vec![Good]));
    assert_eq!(order.plan(key(1), NOW, &batch), Plan::MarkFirst);
    assert_eq!(order.plan(key(1), NOW, &batch), Plan::Push(vec![Good]));
}

#[test]
fn lines_that_are_too_far_apart_are_no_push_but_what_is_left_out_does_not_count() {
    let mut order = Order::new(limits());
    assert_eq!(order.plan(key(1), NOW, &[NOW - HOUR, NOW + 1]), Plan::Halve);
    assert!(matches!(
        order.plan(key(1), NOW, &[NOW - HOUR, NOW]),
        Plan::Push(_)
    ));
    assert!(matches!(
        order.plan(key(1), NOW, &[NOW - HOUR, NOW, NOW + HOUR, 0]),
        Plan::Push(_)
    ));
}

#[test]
fn the_mark_is_stored_before_a_stream_leaves_what_may_have_to_be_sent_again() {
    let mut order = Order::new(limits());
    let start = NOW - 10 * HOUR;
    let mut marks = 0;
    for minute in (0..600).step_by(10) {
        let time = start + minute * MINUTE;
        if order.plan(key(1), NOW, &[time]) == Plan::MarkFirst {
            marks += 1;
            assert!(matches!(order.plan(key(1), NOW, &[time]), Plan::Push(_)));
        }
        order.sending(key(1), time, time);
    }
    assert_eq!(marks, 8, "about once an hour of log time");
}

#[test]
fn a_mark_is_read_back_and_never_lowers_what_is_known() {
    let mut order = Order::new(limits());
    order.sending(key(1), 5, 7);
    order.sending(key(2), -9, -8);
    let mark = order.mark();
    let mut other = Order::new(limits());
    other.sending(key(1), 90, 90);
    assert!(other.restore(&mark) && other.restore(&[]));
    assert_eq!(other.find(key(1)).map(|s| s.newest), Some(90));
    assert_eq!(other.find(key(2)).map(|s| s.newest), Some(-8));
    for bad in [&mark[..mark.len() - 1], &[2], &[0, 1]] {
        assert!(!other.restore(bad), "{bad:?}");
    }
}

#[test]
fn a_mark_holds_the_streams_used_last() {
    let mut order = Order::new(limits());
    for n in 0..=255 {
        order.sending(key(n), 1, 1);
        order.sending(key(0), 1, 1);
    }
    let mark = order.mark();
    assert!(mark.len() <= MARK_BYTES_MAX, "{}", mark.len());
    assert_eq!(order.streams.len(), STREAMS_MAX);
    for (n, known) in [(0, true), (1, false), (2, true), (255, true)] {
        assert_eq!(order.find(key(n)).is_some(), known, "{n}");
    }
}

/// Loki as a sharded stream is: what is too far behind is lost and nobody is told.
#[derive(Default)]
struct Silent {
    newest: Option<Nanos>,
    held: BTreeSet<Nanos>,
    lost: Vec<Nanos>,
}

impl Silent {
    fn push(&mut self, lines: &[Nanos]) {
        for line in lines {
            let newest = self.newest.unwrap_or(i64::MIN);
            if *line < newest.saturating_sub(HOUR) && !self.held.contains(line) {
                self.lost.push(*line);
                continue;
            }
            assert!(
                *line >= newest.saturating_sub(HOUR),
                "sent again, it was refused, and would be a dead letter beside the stored line"
            );
            self.newest = Some(newest.max(*line));
            self.held.insert(*line);
        }
    }
}

/// Delivery as it is to a sink that seals: batches in order, each sent until it is answered; cursor and mark are stored
/// now and then; after a crash what is not settled there is sent again in the same batches.
struct Run {
    random: fastrand::Rng,
    order: Order,
    server: Silent,
    settled: BTreeSet<Nanos>,
    refused: BTreeSet<Nanos>,
    durable: (BTreeSet<Nanos>, Vec<u8>),
}

impl Run {
    fn new(seed: u64) -> Self {
        Run {
            random: fastrand::Rng::with_seed(seed),
            order: Order::new(limits()),
            server: Silent::default(),
            settled: BTreeSet::new(),
            refused: BTreeSet::new(),
            durable: Default::default(),
        }
    }

    /// Times that go on, but for a jump now and then; from more than a week ago.
    fn lines(&mut self) -> Vec<Nanos> {
        let random = &mut self.random;
        let mut time = NOW - 170 * HOUR;
        let pace = [MINUTE / 10, MINUTE, 20 * MINUTE, 3 * HOUR][random.usize(..4)];
        (0..random.usize(1..120))
            .map(|_| {
                time += match random.u8(..40) {
                    0 => -random.i64(0..4 * HOUR),
                    1 => random.i64(0..30 * HOUR),
                    2..6 => -random.i64(0..10 * MINUTE),
                    _ => random.i64(0..pace),
                };
                // Apart, as the id makes them.
                time + random.i64(0..1000)
            })
            .collect()
    }

    fn store(&mut self) {
        self.durable = (self.settled.clone(), self.order.mark());
    }

    fn crash(&mut self) {
        self.settled = self.durable.0.clone();
        let settled = &self.settled;
        self.refused.retain(|line| settled.contains(line));
        self.order = Order::new(limits());
        assert!(self.order.restore(&self.durable.1));
    }

    /// One batch until it is done; `false`: the process died.
    fn send(&mut self, batch: &[Nanos]) -> bool {
        loop {
            match self.order.plan(key(1), NOW, batch) {
                Plan::Halve => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    return self.send(first) && self.send(second);
                }
                Plan::MarkFirst => {
                    self.store();
                    continue;
                }
                Plan::Push(verdicts) => self.push(batch, &verdicts),
            }
            match self.random.u8(..10) {
                0 => return false,
                1 => {} // The answer was not seen: once more.
                _ => {
                    self.settled.extend(batch);
                    return true;
                }
            }
        }
    }

    fn push(&mut self, batch: &[Nanos], verdicts: &[Timeliness]) {
        let mut good = Vec::new();
        for (line, verdict) in batch.iter().zip(verdicts) {
            match verdict {
                Timeliness::Good => good.push(*line),
                _ => _ = self.refused.insert(*line),
            }
        }
        good.sort_unstable();
        if let (Some(first), Some(last)) = (good.first(), good.last()) {
            self.order.sending(key(1), *first, *last);
            self.server.push(&good);
        }
    }
}

#[test]
fn nothing_that_is_sent_is_ever_lost_without_a_word_nor_refused_when_sent_again() {
    let mut held = 0;
    for seed in 0..2000 {
        let mut run = Run::new(seed);
        let lines = run.lines();
        let mut batches: Vec<&[Nanos]> = Vec::new();
        let mut rest = lines.as_slice();
        while !rest.is_empty() {
            let (batch, more) = rest.split_at(run.random.usize(1..=rest.len().min(20)));
            batches.push(batch);
            rest = more;
        }
        let mut at = 0;
        while at < batches.len() {
            let left = |line: &&Nanos| !run.settled.contains(line);
            let batch: Vec<Nanos> = batches[at].iter().filter(left).copied().collect();
            if !batch.is_empty() && !run.send(&batch) {
                run.crash();
                at = 0;
                continue;
            }
            at += 1;
            if run.random.u8(..4) == 0 {
                run.store();
            }
        }
        assert!(run.server.lost.is_empty(), "seed {seed}");
        for line in &lines {
            let (held, refused) = (run.server.held.contains(line), run.refused.contains(line));
            assert!(
                held != refused,
                "seed {seed}: held {held}, refused {refused}"
            );
        }
        held += run.server.held.len();
    }
    assert!(held > 50_000, "{held} lines were held at all");
}
