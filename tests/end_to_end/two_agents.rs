//! Two agents on one state directory: the second ends at once, names the first and changes nothing.

use std::time::Duration;

use super::PATIENCE;
use crate::support::agent::{Agent, Place};
use crate::support::auditgen::{Load, Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::wait::{self, Stopwatch};

#[test]
fn the_second_agent_ends_at_once_and_the_first_goes_on() {
    let place = Place::new();
    let config = place.config(&place.file_sink());
    let writer = Lumberjack::new(&place.live(), Rotation::default());
    let load = Load::start(writer, Events::new(81), 500);
    let first = place.start(&config);
    wait::until_true(PATIENCE, "the first agent at work", || {
        !place.copied().is_empty()
    });
    for arguments in [["run"].as_slice(), &["run", "--once"]] {
        let watch = Stopwatch::start();
        let path = config.to_string_lossy();
        let second = Agent::spawn(place.path(), &[arguments, &[&*path]].concat())
            .wait(Duration::from_secs(5));
        assert_eq!(second.status.code(), Some(1), "{arguments:?}: {second:?}");
        assert!(
            second.stderr.contains(&first.id().to_string()),
            "it names process {}: {}",
            first.id(),
            second.stderr
        );
        assert!(
            watch.elapsed() < Duration::from_secs(3),
            "{:?}",
            watch.elapsed()
        );
    }
    let journal = load.stop();
    let written = journal.lines().count();
    wait::until_true(PATIENCE, "everything copied", || {
        memchr::memchr_iter(b'\n', &place.copied()).count() == written
    });
    first.stop();
    super::assert_copied_once(&place, &journal);
    place.lawful_status(&config);
}

#[test]
fn a_lock_left_by_a_killed_agent_holds_nobody_up() {
    let place = Place::new();
    std::fs::write(place.live(), "{\"a\":1}\n").expect("write");
    let config = place.config(&place.file_sink());
    let first = place.start(&config);
    wait::until_true(PATIENCE, "the first event", || !place.copied().is_empty());
    first.kill();
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(place.copied(), b"{\"a\":1}\n");
    place.lawful_status(&config);
}
