//! A destination is down: the others are not delayed, memory stays in its bound, and on its return everything arrives.
//!
//! The usual run is short; `AUDITSHIP_OUTAGE_SECONDS=600 AUDITSHIP_RATE=5000` with a release build is the long one, which
//! also wants the backlog drained at three times the intake.

use std::time::Duration;

use super::{INDEX, PATIENCE, assert_copied_once, assert_stored_once, index_sink, setting};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{Agent, MEMORY, Place, sink};
use crate::support::auditgen::{Load, Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::{self, Stopwatch};

/// Longest that an event may take to the file sink while the other sink is down.
const DELAY_MAX: Duration = Duration::from_secs(3);

#[test]
fn a_dead_server_delays_nobody_costs_no_memory_and_gets_everything_in_the_end() {
    let (seconds, rate) = (
        setting("AUDITSHIP_OUTAGE_SECONDS", 8),
        setting("AUDITSHIP_RATE", 1500),
    );
    let fake = FakeElasticsearch::start();
    let proxy = Proxy::start(fake.address());
    let place = Place::new();
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&proxy.url(), "")
    ));
    let writer = Lumberjack::new(
        &place.live(),
        Rotation {
            max_bytes: 8 << 20,
            ..Rotation::default()
        },
    );
    let load = Load::start(writer, Events::new(41), rate);
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "the first event at the server", || {
        fake.count(INDEX) > 0
    });

    // Down in each of the ways of a network.
    let down = Stopwatch::start();
    let mut stored = 0;
    for fault in [Fault::Refuse, Fault::Hang, Fault::ResetRequestAfter(1000)]
        .iter()
        .cycle()
    {
        proxy.set(*fault);
        stored = fake.count(INDEX);
        let written = load.written();
        wait::until_true(
            DELAY_MAX,
            format!("{written} events in the file during the outage"),
            || lines(&place) >= written,
        );
        wait::pause(
            Duration::from_secs(seconds)
                .div_f64(6.0)
                .min(Duration::from_secs(5)),
        );
        check_memory(&agent);
        if down.elapsed() > Duration::from_secs(seconds) {
            break;
        }
    }
    assert!(fake.count(INDEX) - stored < 20_000, "the outage was one");
    assert!(proxy.struck() > 0, "no fault struck");

    let backlog = load.written() - fake.count(INDEX) as u64;
    proxy.set(Fault::None);
    let drain = Stopwatch::start();
    wait::until_ok(PATIENCE + Duration::from_secs(seconds), || {
        let left = load.written().saturating_sub(fake.count(INDEX) as u64);
        let after = drain.elapsed().as_secs();
        match left <= rate {
            true => Ok(()),
            false => Err(format!(
                "{left} of a backlog of {backlog} are left after {after} s"
            )),
        }
    });
    let drained = drain.elapsed();
    let journal = load.stop();
    let written = journal.lines().count();
    wait::until_true(PATIENCE, "the rest", || {
        fake.count(INDEX) >= written && lines(&place) >= written as u64
    });
    check_memory(&agent);
    agent.stop();
    assert_stored_once(&fake, INDEX, &journal);
    assert_copied_once(&place, &journal);
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["delivered"], written);
    if seconds >= 60 {
        // Retries are up to 60 s apart, so the clock starts a minute late at worst; what counts is the rate.
        let per_second = backlog as f64 / drained.as_secs_f64() + rate as f64;
        assert!(
            per_second >= 3.0 * rate as f64,
            "drained {per_second:.0} events/s at an intake of {rate}"
        );
    }
}

#[test]
fn a_full_spool_makes_the_source_wait_and_loses_nothing() {
    let fake = FakeElasticsearch::start();
    fake.forbid("/", 503);
    let place = Place::new();
    let config = place.config(&index_sink(&fake.url(), ""));
    let text = std::fs::read_to_string(&config).expect("read");
    let config = place.write_config(
        "small.toml",
        &text.replace(
            "[spool]\n",
            "[spool]\nmax_bytes = \"64MiB\"\ncompression = \"none\"\n",
        ),
    );
    let mut writer = Lumberjack::new(
        &place.live(),
        Rotation {
            max_bytes: 128 << 20,
            ..Rotation::default()
        },
    );
    let mut events = Events::new(42);
    for _ in 0..1800 {
        let line = events.line(0, 60 << 10);
        writer.write_line(None, &line).expect("write");
    }
    let journal = writer.finish();
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "a source that waits", || {
        place
            .admin("/status")
            .is_some_and(|(_, body)| body.contains("\"waiting\""))
    });
    check_memory(&agent);
    fake.permit_all();
    wait::until_true(PATIENCE, "all at the server", || fake.count(INDEX) >= 1800);
    check_memory(&agent);
    agent.stop();
    assert_stored_once(&fake, INDEX, &journal);
    place.lawful_status(&config);
}

#[track_caller]
fn check_memory(agent: &Agent) {
    let peak = agent.peak_rss();
    assert!(peak <= MEMORY, "peak RSS {} MiB", peak >> 20);
}

fn lines(place: &Place) -> u64 {
    memchr::memchr_iter(b'\n', &place.copied()).count() as u64
}
