//! SIGKILL at random moments, while the log is written, rotated and compressed and the destination fails at random: lost
//! 0, twice 0, order kept in the file sink, the law after each kill.
//!
//! The usual run is short; `AUDITSHIP_KILLS=200 AUDITSHIP_RATE=5000` is the long one.

use std::time::Duration;

use serde_json::Value;

use super::{
    INDEX, PATIENCE, STREAM, assert_copied_once, assert_stored_once, fake_with_stream, index_sink,
    setting, stream_sink,
};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{Place, sink, source};
use crate::support::auditgen::{Load, Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::oracle::check_law;
use crate::support::wait;

#[test]
fn nothing_is_lost_or_doubled_in_an_index() {
    let fake = FakeElasticsearch::start();
    let sinks = index_sink(&fake.url(), "");
    drill(1, &fake, INDEX, &sinks, 0);
}

#[test]
fn nothing_is_lost_or_doubled_in_a_data_stream_that_rolls_over() {
    let fake = fake_with_stream();
    let sinks = stream_sink(&fake.url(), "");
    let kills = setting("AUDITSHIP_KILLS", 15);
    drill(2, &fake, STREAM, &sinks, if kills >= 100 { 20 } else { 5 });
}

/// Kills, and rolls over after every `rollover` of them (0: never).
fn drill(seed: u64, fake: &FakeElasticsearch, name: &str, sinks: &str, rollover: u64) {
    let (kills, rate) = (
        setting("AUDITSHIP_KILLS", 15),
        setting("AUDITSHIP_RATE", 1500),
    );
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let config = place.config(&format!("{}{sinks}", place.file_sink()));
    fake.chaos(seed, 4);
    let writer = Lumberjack::new(&place.live(), Rotation::default());
    let load = Load::start(writer, Events::new(seed), rate);
    let mut lawful = 0;
    for kill in 1..=kills {
        let agent = place.start(&config);
        wait::pause(Duration::from_millis(random.u64(20..1200)));
        let killed = agent.kill();
        assert!(
            killed.status.code().is_none(),
            "it ended by itself before kill {kill}: {killed:?}"
        );
        if let Some(status) = place.status_if_any(&config) {
            if let Err(broken) = check_law(&status) {
                panic!("after kill {kill} of seed {seed}: {broken}\n{status:#}");
            }
            lawful += 1;
        }
        if rollover > 0 && kill % rollover == 0 && fake.count(name) > 0 {
            fake.rollover(name);
        }
    }
    assert!(
        lawful > kills / 2,
        "only {lawful} of {kills} kills left a state to look at"
    );
    assert!(
        fake.faults() > 0,
        "no fault struck: the drill has shown nothing"
    );
    let journal = load.stop();
    fake.calm();
    let agent = place.start(&config);
    let written = journal.lines().count() as u64;
    // The backlog is what an agent that was killed all the time did not get done, so it may be most of what was written.
    wait::until_ok(PATIENCE + Duration::from_millis(written), || {
        let (_, text) = place.admin("/status").ok_or("nothing listens")?;
        let status: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let sent = ["copy", "search"]
            .iter()
            .all(|name| sink(&status, name)["pending"] == 0);
        let read = source(&status)["read_events"] == written;
        if sent && read {
            Ok(())
        } else {
            Err(format!("{written} written, {status:#}; {}", agent.stderr()))
        }
    });
    agent.stop();
    assert_copied_once(&place, &journal);
    assert_stored_once(fake, name, &journal);
    let status = place.lawful_status(&config);
    assert_eq!(source(&status)["gaps_total"], 0);
    for name in ["copy", "search"] {
        assert_eq!(sink(&status, name)["delivered"], written);
    }
}
