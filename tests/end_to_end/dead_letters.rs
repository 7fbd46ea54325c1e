//! Events that a destination refuses for what they are: first as they are, then as their line, and only then a dead letter,
//! which can be looked at and sent again. A destination that refuses everything is a matter of configuration: the sink
//! stops, and nothing is dead-lettered.

use super::{INDEX, PATIENCE, index_sink};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{Place, command, sink};
use crate::support::auditgen::{Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::wait;

/// A log of 100 events of which the 30th is poison: the server refuses it in every form.
fn poisoned(place: &Place) {
    let mut writer = Lumberjack::new(&place.live(), Rotation::default());
    let mut events = Events::new(71);
    events.size_max = 2 << 10;
    for number in 0..100 {
        let (serial, line) = events.make();
        match number {
            30 => writer
                .write_line(
                    Some(serial),
                    br#"{"kind":"Event","auditID":"p","verb":"poison-51c9"}"#,
                )
                .expect("write"),
            _ => writer.write_line(Some(serial), &line).expect("write"),
        }
    }
    writer.finish();
}

#[test]
fn a_refused_event_becomes_a_dead_letter_that_can_be_shown_and_replayed() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    fake.refuse_documents_with("poison-51c9");
    poisoned(&place);
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    place.run_once(&config, &[]).expect_code(0);
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["delivered"], 99);
    assert_eq!(sink(&status, "search")["dead_letter"], 1);
    assert_eq!(
        sink(&status, "copy")["delivered"],
        100,
        "the other sink has it"
    );
    assert_eq!(fake.count(INDEX), 99);
    place.run_once(&config, &["--strict"]).expect_code(1);

    let config_text = config.to_string_lossy();
    let listed = command(&["dead-letter", "ls", &config_text]);
    assert!(listed.status.success());
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("search") && listed.contains("30"),
        "sink and record number: {listed}"
    );
    let misnamed = command(&["dead-letter", "ls", &config_text, "--sink", "serach"]);
    assert_eq!(misnamed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&misnamed.stderr).into_owned();
    assert!(
        said.contains("serach") && said.contains("copy, search"),
        "{said}"
    );
    let shown = command(&["dead-letter", "show", &config_text, "--sink", "search"]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("poison-51c9"),
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );

    // The server mends its ways.
    let mended = FakeElasticsearch::start();
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&mended.url(), "")
    ));
    let replayed = command(&["dead-letter", "replay", &config_text, "--sink", "search"]);
    assert!(
        replayed.status.success(),
        "{}",
        String::from_utf8_lossy(&replayed.stderr)
    );
    assert_eq!(mended.count(INDEX), 1);
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["dead_letter"], 1, "it never falls");
    assert_eq!(sink(&status, "search")["replayed"], 1);
}

#[test]
fn a_server_that_refuses_everything_stops_the_sink_and_costs_no_event() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    fake.refuse_everything(true);
    let mut writer = Lumberjack::new(&place.live(), Rotation::default());
    let mut events = Events::new(72);
    events.size_max = 2 << 10;
    for _ in 0..200 {
        let (serial, line) = events.make();
        writer.write_line(Some(serial), &line).expect("write");
    }
    let journal = writer.finish();
    let config = place.config(&format!(
        "{}{}",
        place.file_sink(),
        index_sink(&fake.url(), "")
    ));
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "the sink stops", || {
        place
            .admin("/status")
            .is_some_and(|(_, body)| body.contains("\"stopped\""))
    });
    let (code, reason) = place.admin("/readyz").expect("it listens");
    assert_eq!(code, 503);
    assert!(reason.contains("search"), "{reason}");
    fake.refuse_everything(false);
    wait::until_true(PATIENCE, "it goes on by itself", || {
        fake.count(INDEX) == 200
    });
    agent.stop();
    super::assert_stored_once(&fake, INDEX, &journal);
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["dead_letter"], 0);
    assert_eq!(sink(&status, "search")["delivered"], 200);
}
