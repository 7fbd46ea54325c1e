//! SIGTERM at any moment: exit 0 within `agent.shutdown_timeout`, nothing lost, nothing doubled; a second one ends it at
//! once.

use std::time::Duration;

use super::{INDEX, PATIENCE, assert_copied_once, assert_stored_once, index_sink, setting};
use crate::fakes::elasticsearch::{FakeElasticsearch, Fault};
use crate::support::agent::{Place, sink};
use crate::support::auditgen::{Load, Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::wait::{self, Stopwatch};

/// `agent.shutdown_timeout` of [`Place::config`], and half a second.
const END_MAX: Duration = Duration::from_millis(5500);

#[test]
fn any_moment_will_do() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    let writer = Lumberjack::new(&place.live(), Rotation::default());
    let load = Load::start(writer, Events::new(91), 1000);
    let mut random = fastrand::Rng::with_seed(91);
    for _ in 0..setting("AUDITSHIP_TERMS", 10) {
        let agent = place.start(&config);
        wait::pause(Duration::from_millis(random.u64(0..600)));
        // Before the handler is there SIGTERM kills it, as it does any process; startedz says that it is.
        wait::until_true(PATIENCE, "started", || {
            place
                .admin("/startedz")
                .is_some_and(|(code, _)| code == 200)
        });
        let watch = Stopwatch::start();
        agent.stop();
        assert!(watch.elapsed() < END_MAX, "{:?}", watch.elapsed());
        place.lawful_status(&config);
    }
    let journal = load.stop();
    place.run_once(&config, &[]).expect_code(0);
    assert_copied_once(&place, &journal);
    assert_stored_once(&fake, INDEX, &journal);
    let status = place.lawful_status(&config);
    assert_eq!(
        sink(&status, "search")["delivered"],
        journal.lines().count()
    );
}

#[test]
fn a_hanging_server_does_not_hold_it_up() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    fake.script(|_| Some(Fault::HangBefore));
    std::fs::write(place.live(), "{\"a\":1}\n").expect("write");
    let config =
        place.config(&index_sink(&fake.url(), "").replace("timeout = \"2s\"", "timeout = \"60s\""));
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "an attempt under way", || fake.faults() > 0);
    let watch = Stopwatch::start();
    agent.stop();
    assert!(watch.elapsed() < END_MAX, "{:?}", watch.elapsed());
    let status = place.lawful_status(&config);
    assert_eq!(
        sink(&status, "search")["pending"],
        1,
        "the backlog stays in the spool"
    );
    fake.calm();
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(fake.count(INDEX), 1);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    fake.script(|_| Some(Fault::HangBefore));
    std::fs::write(place.live(), "{\"a\":1}\n").expect("write");
    let config =
        place.config(&index_sink(&fake.url(), "").replace("timeout = \"2s\"", "timeout = \"60s\""));
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "an attempt under way", || fake.faults() > 0);
    let watch = Stopwatch::start();
    agent.term();
    wait::until_true(PATIENCE, "it says that it is ending", || {
        agent.stderr().to_lowercase().contains("stop")
    });
    agent.term();
    agent.wait(Duration::from_secs(3));
    assert!(
        watch.elapsed() < Duration::from_secs(3),
        "{:?}",
        watch.elapsed()
    );
    fake.calm();
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(fake.count(INDEX), 1);
    place.lawful_status(&config);
}
