//! The agent is down while the log rotates. Within what retention keeps nothing is lost or doubled; beyond it the loss is a
//! recorded gap, and everything that still exists is delivered.

use serde_json::Value;

use super::{INDEX, PATIENCE, assert_copied_once, assert_stored_once, index_sink};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{ORIGIN, Place, sink, source};
use crate::support::auditgen::{Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::oracle::{Verdict, expected, held_lines};
use crate::support::wait;

/// Writes events until so many more rotations have happened.
fn write_rotations(writer: &mut Lumberjack, events: &mut Events, rotations: usize) {
    let until = writer.journal().generations.len() + rotations;
    while writer.journal().generations.len() < until {
        write(writer, events, 20);
    }
    write(writer, events, 20);
}

fn write(writer: &mut Lumberjack, events: &mut Events, count: usize) {
    for _ in 0..count {
        let (serial, line) = events.make();
        writer.write_line(Some(serial), &line).expect("write");
    }
}

fn events(seed: u64) -> Events {
    let mut events = Events::new(seed);
    events.size_max = 30 << 10;
    events
}

/// Runs until the source has read so many lines, then ends it.
fn read_until(place: &Place, config: &std::path::Path, lines: u64, kill: bool) {
    let agent = place.start(config);
    wait::until_true(PATIENCE, format!("{lines} lines read"), || {
        let status = place
            .admin("/status")
            .and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        status.is_some_and(|status| source(&status)["read_events"].as_u64() >= Some(lines))
    });
    if kill {
        agent.kill();
    } else {
        agent.stop();
    }
}

#[test]
fn five_rotations_with_compression_lose_and_double_nothing() {
    for kill in [false, true] {
        let place = Place::new();
        let fake = FakeElasticsearch::start();
        let config = place.config(&format!(
            "{}{}",
            place.file_sink(),
            index_sink(&fake.url(), "")
        ));
        let rotation = Rotation {
            max_bytes: 256 << 10,
            max_backups: 0,
            compress: true,
        };
        let mut writer = Lumberjack::new(&place.live(), rotation);
        let mut events = events(31);
        // The position is left in the middle of a generation, which is then rotated and compressed.
        write(&mut writer, &mut events, 60);
        read_until(&place, &config, 60, kill);
        place.lawful_status(&config);
        write_rotations(&mut writer, &mut events, 5);
        let journal = writer.finish();
        place.run_once(&config, &[]).expect_code(0);
        assert_copied_once(&place, &journal);
        assert_stored_once(&fake, INDEX, &journal);
        let status = place.lawful_status(&config);
        assert_eq!(source(&status)["gaps_total"], 0);
        assert_eq!(source(&status)["read_events"], journal.lines().count());
    }
}

#[test]
fn what_retention_deleted_unread_is_a_gap_and_the_rest_arrives() {
    let place = Place::new();
    let config = place.config(&place.file_sink());
    let rotation = Rotation {
        max_bytes: 128 << 10,
        max_backups: 2,
        compress: true,
    };
    let mut writer = Lumberjack::new(&place.live(), rotation);
    let mut events = events(32);
    write(&mut writer, &mut events, 30);
    let read = writer.journal().lines().count() as u64;
    read_until(&place, &config, read, false);
    let before = place.lawful_status(&config);
    let position = &source(&before)["positions"][0];
    write_rotations(&mut writer, &mut events, 6);
    let journal = writer.finish();
    assert!(
        journal.generations[0].deleted,
        "retention deleted the position's own generation"
    );
    place.run_once(&config, &[]).expect_code(0);
    place.run_once(&config, &["--strict"]).expect_code(1);

    let status = place.lawful_status(&config);
    let gaps = source(&status)["gaps"].as_array().expect("gaps");
    assert_eq!(source(&status)["gaps_total"], gaps.len());
    assert!(!gaps.is_empty());
    assert!(
        gaps.iter().all(|gap| gap["reason"] == "deleted"),
        "{gaps:?}"
    );
    assert_eq!(gaps[0]["generation"], position["generation"]);
    assert_eq!(gaps[0]["from"], position["offset"]);
    assert!(
        gaps[0]["after"].is_string() && gaps[0]["before"].is_string(),
        "times around it: {}",
        gaps[0]
    );

    let all = expected(&journal, ORIGIN);
    let verdict = Verdict::of_sequence(&all, &held_lines(&place.copied()));
    assert_eq!(
        (
            verdict.twice.len(),
            verdict.spurious.len(),
            verdict.out_of_order.len()
        ),
        (0, 0, 0),
        "{}",
        verdict.summary()
    );
    // Lost is what stood in deleted generations behind what had been read, and no more.
    let mut deleted_lines = 0;
    for generation in journal
        .generations
        .iter()
        .filter(|generation| generation.deleted)
    {
        deleted_lines += generation.lines.len() as u64;
    }
    assert_eq!(verdict.lost.len() as u64, deleted_lines - read);
    assert_eq!(
        sink(&status, "copy")["delivered"],
        journal.lines().count() as u64 - (deleted_lines - read)
    );
}

#[test]
fn a_torn_line_and_the_event_glued_to_it_are_both_kept() {
    let place = Place::new();
    let config = place.config(&place.file_sink());
    let mut writer = Lumberjack::new(&place.live(), Rotation::default()).keep_bytes();
    let mut events = events(33);
    write(&mut writer, &mut events, 3);
    let (_, torn) = events.make();
    writer.kill_tearing(&torn[..torn.len() / 2]).expect("write");
    write(&mut writer, &mut events, 3);
    let journal = writer.finish();
    place.run_once(&config, &[]).expect_code(0);
    // Two records stand on the glued line, so the raw copy has one line feed more, behind the torn head.
    let bytes = journal.bytes();
    let at = memchr::memmem::find(&bytes, &torn[..torn.len() / 2]).expect("the torn head")
        + torn.len() / 2;
    let expected = [&bytes[..at], b"\n", &bytes[at..]].concat();
    assert!(
        place.copied() == expected,
        "the copy is not torn head, line feed, event"
    );
    let status = place.lawful_status(&config);
    assert_eq!(source(&status)["read_events"], 7);
    assert_eq!(source(&status)["malformed_events"], 1);
}

#[test]
fn a_file_truncated_behind_the_agents_back_is_a_gap_and_reading_goes_on() {
    let place = Place::new();
    let config = place.config(&place.file_sink());
    let mut writer = Lumberjack::new(&place.live(), Rotation::default());
    let mut events = events(34);
    write(&mut writer, &mut events, 50);
    read_until(&place, &config, 50, false);
    let before = place.copied();
    // As an outside logrotate does; its copy is no backup of lumberjack's, and is taken away.
    writer.copytruncate().expect("copytruncate");
    for name in crate::support::auditgen::backups(&place.live()).expect("list") {
        std::fs::remove_file(place.live().with_file_name(name)).expect("remove");
    }
    write(&mut writer, &mut events, 10);
    let journal = writer.finish();
    place.run_once(&config, &[]).expect_code(0);
    assert!(place.copied().starts_with(&before), "what was read stays");
    assert_copied_once(&place, &journal);
    let status = place.lawful_status(&config);
    assert!(
        source(&status)["gaps_total"].as_u64() >= Some(1),
        "{status:#}"
    );
}
