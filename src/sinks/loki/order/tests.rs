//! Plans, one by one, and then at random against a model of Loki that loses what is too far behind without a word.

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
    held: std::collections::BTreeSet<Nanos>,
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
/// now and then; after a crash what was sent beyond them is sent again in the same batches.
struct Run {
    random: fastrand::Rng,
    order: Order,
    server: Silent,
    durable: (usize, Vec<u8>),
    refused: std::collections::BTreeSet<Nanos>,
    now: Nanos,
}

impl Run {
    /// One batch until it is done; `false`: the process died.
    fn send(&mut self, batch: &[Nanos], done: usize) -> bool {
        loop {
            match self.order.plan(key(1), self.now, batch) {
                Plan::Halve => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    return self.send(first, done) && self.send(second, done);
                }
                Plan::MarkFirst => {
                    self.durable = (done, self.order.mark());
                    continue;
                }
                Plan::Push(verdicts) => {
                    let good = |wanted: bool| {
                        let lines = batch.iter().zip(&verdicts);
                        lines
                            .filter(move |(_, verdict)| (**verdict == Timeliness::Good) == wanted)
                            .map(|(line, _)| *line)
                    };
                    let mut lines: Vec<Nanos> = good(true).collect();
                    lines.sort_unstable();
                    self.refused.extend(good(false));
                    if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
                        self.order.sending(key(1), *first, *last);
                        self.server.push(&lines);
                    }
                }
            }
            match self.random.u8(..10) {
                0 => return false,
                1 => {} // The answer was not seen: once more.
                _ => return true,
            }
        }
    }
}

#[test]
fn nothing_that_is_sent_is_ever_lost_without_a_word_nor_refused_when_sent_again() {
    for seed in 0..3000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut time = NOW - 200 * HOUR;
        let pace = [MINUTE / 10, MINUTE, 20 * MINUTE, 3 * HOUR][random.usize(..4)];
        let lines: Vec<Nanos> = (0..random.usize(1..120))
            .map(|_| {
                time += match random.u8(..40) {
                    0 => -random.i64(0..4 * HOUR),
                    1 => random.i64(0..30 * HOUR),
                    2..6 => -random.i64(0..10 * MINUTE),
                    _ => random.i64(0..pace),
                };
                // Apart, as the id makes them.
                time + random.i64(..1000)
            })
            .collect();
        let mut cuts: Vec<usize> = (0..lines.len()).filter(|_| random.u8(..6) == 0).collect();
        cuts.push(lines.len());
        let mut run = Run {
            order: Order::new(limits()),
            server: Silent::default(),
            durable: (0, Vec::new()),
            refused: Default::default(),
            now: NOW,
            random,
        };
        let mut at = 0;
        while at < cuts.len() {
            let from = if at == 0 { 0 } else { cuts[at - 1] };
            let batch = lines[from..cuts[at]].to_vec();
            if run.send(&batch, at) {
                at += 1;
                if run.random.u8(..4) == 0 {
                    run.durable = (at, run.order.mark());
                }
            } else {
                at = run.durable.0;
                run.order = Order::new(limits());
                assert!(run.order.restore(&run.durable.1));
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
    }
}
