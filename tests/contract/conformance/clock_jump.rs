//! The wall clock is set between two attempts: forward by an hour, then back beyond where it was. The binary takes its
//! clock from the machine, so this one case has the sink in this process, on a clock of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use auditship::clock::{Clock, Micros, SystemClock};
use auditship::sinks::{Batch, Outcome, Record, Sink};

use super::Endpoint;
use super::trial::{Ground, TIMEOUT, assert_held};
use crate::contract::bench::{Bench, delivered, records};
use crate::support::agent::ORIGIN;
use crate::support::event::Events;
use crate::support::oracle::expected_of_bytes;

/// The machine's clock, set to another time.
struct Set {
    clock: SystemClock,
    off_us: AtomicI64,
}

impl Clock for Set {
    fn now(&self) -> Micros {
        Micros(self.clock.now().0 + self.off_us.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// Seconds off, one batch each. Back by no more than a destination takes events from the future for.
const JUMPS: [i64; 3] = [0, 3600, -300];

const BATCH: usize = 40;

pub(super) fn run(ground: &Ground<'_>) {
    let clock = Arc::new(Set {
        clock: SystemClock::new(),
        off_us: AtomicI64::new(0),
    });
    let proxy = ground.running.proxy();
    let endpoint = match &proxy {
        Some(proxy) => Endpoint::at(proxy.address()),
        None => Endpoint::at(([127, 0, 0, 1], 0).into()),
    };
    let store = ground.running.store();
    // Without `type`, which is not one of the sink's own keys.
    let keys = store.keys(&endpoint);
    let keys: String = keys
        .lines()
        .filter(|line| !line.starts_with("type ="))
        .map(|line| format!("{line}\n"))
        .collect();
    let bench = Bench::within(ground.destination.sink(), &keys, |context| {
        context.timeout = TIMEOUT;
        context.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    });
    bench.open().expect("it opens");

    let mut events = Events::new(15);
    events.size_max = 8 << 10;
    let lines: Vec<Vec<u8>> = (0..BATCH * JUMPS.len()).map(|_| events.make().1).collect();
    let mut all = records(&lines);
    let now = clock.now();
    for record in &mut all {
        (record.head.time_us, record.appended) = (Some(now.0), now);
    }
    for (off, part) in JUMPS.iter().zip(all.chunks(BATCH)) {
        clock.off_us.store(off * 1_000_000, Ordering::SeqCst);
        let mut outcome = bench.attempt(batch(bench.sink(), part));
        // A new file is announced before it is written to.
        if let Outcome::MarkFirst { .. } = outcome {
            outcome = bench.attempt(batch(bench.sink(), part));
        }
        let (except, alarms) = delivered(outcome);
        assert_eq!(except, []);
        // A destination that checks the time of a request may say that ours is wrong.
        assert!(
            alarms.iter().all(|alarm| alarm.reason == "clock_skew"),
            "{alarms:?}"
        );
    }
    bench.wait(bench.sink().settle()).expect("it settles");

    let log = lines.join(&b'\n');
    let expected = expected_of_bytes([[&*log, b"\n"].concat().as_slice()], ORIGIN);
    assert_held(&*store, &expected);
}

/// As delivery makes one: a body where the sink builds it, and a seal.
fn batch(sink: &dyn Sink, records: &[Record]) -> Batch {
    let mut batch = Batch::default();
    match sink.begin_body() {
        None => batch.records = records.to_vec(),
        Some(mut body) => {
            for record in records {
                body.push(record).expect("a line that is held whole");
            }
            batch.body = Some(body.finish().expect("memory"));
        }
    }
    batch.seal = sink.seal(&batch);
    batch
}
