//! One log, several destinations at once: one dead, one slow, one that rejects, and the others keep pace. The spool frees
//! what the lowest cursor has passed, gives up what it must and no more, and knows a sink by its name.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{INDEX, PATIENCE, assert_copied_once, assert_stored_once};
use crate::contract::bench::held;
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{Place, sink};
use crate::support::auditgen::{Journal, Load, Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::oracle::{self, Held};
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait;

/// Longest that an event may take to a healthy sink beside sick ones.
const DELAY_MAX: Duration = Duration::from_secs(4);

/// Large enough to cross several segments of a spool of the smallest size.
const BACKLOG: usize = 1800;

/// An elasticsearch sink of this name.
fn search(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\ntype = \"elasticsearch\"\nendpoints = [\"{url}\"]\nindex = \"{INDEX}\"\n\
         template = \"own\"\ntimeout = \"2s\"\nbatch = {{ wait = \"100ms\" }}\n{more}\n"
    )
}

/// As [`Place::config`], with the smallest spool there is, which counts every byte.
fn small_spool(place: &Place, source: &str, sinks: &str) -> PathBuf {
    let text = fs::read_to_string(place.config_with(source, sinks)).expect("read");
    let small = "[spool]\nmax_bytes = \"64MiB\"\ncompression = \"none\"\n";
    place.write_config("small.toml", &text.replace("[spool]\n", small))
}

/// About 110 MB, in generations of this size.
fn backlog(place: &Place, max_bytes: u64) -> Journal {
    let rotation = Rotation {
        max_bytes,
        compress: false,
        ..Rotation::default()
    };
    let mut writer = Lumberjack::new(&place.live(), rotation);
    let mut events = Events::new(61);
    for serial in 0..BACKLOG as u64 {
        let line = events.line(serial, 60 << 10);
        writer.write_line(Some(serial), &line).expect("write");
    }
    writer.finish()
}

fn live_status(place: &Place) -> Option<Value> {
    let (_, text) = place.admin("/status")?;
    Some(serde_json::from_str(&text).expect("status is JSON"))
}

fn copied(place: &Place) -> u64 {
    memchr::memchr_iter(b'\n', &place.copied()).count() as u64
}

#[test]
fn one_dead_one_slow_and_one_that_rejects_delay_nobody_else() {
    let place = Place::new();
    let servers: Vec<_> = (0..4).map(|_| FakeElasticsearch::start()).collect();
    let [healthy, dead, slow, rejecting] = &servers[..] else {
        unreachable!("four were started")
    };
    let (to_dead, to_slow) = (Proxy::start(dead.address()), Proxy::start(slow.address()));
    to_dead.set(Fault::Refuse);
    to_slow.set(Fault::Drip(64, Duration::from_millis(20)));
    rejecting.refuse_everything(true);
    let config = place.config(
        &[
            place.file_sink(),
            search("healthy", &healthy.url(), ""),
            search("dead", &to_dead.url(), ""),
            search("slow", &to_slow.url(), ""),
            search("rejecting", &rejecting.url(), ""),
        ]
        .concat(),
    );
    let load = Load::start(
        Lumberjack::new(&place.live(), Rotation::default()),
        Events::new(62),
        500,
    );
    let agent = place.start(&config);
    for _ in 0..4 {
        let written = load.written();
        wait::until_true(
            DELAY_MAX,
            format!("{written} events at the healthy"),
            || copied(&place) >= written && healthy.count(INDEX) as u64 >= written,
        );
        wait::pause(Duration::from_millis(500));
    }
    wait::until_true(PATIENCE, "the one that rejects has stopped", || {
        live_status(&place).is_some_and(|status| sink(&status, "rejecting")["state"] == "stopped")
    });
    let status = live_status(&place).expect("it listens");
    for name in ["dead", "rejecting"] {
        let said = sink(&status, name);
        assert_eq!(said["delivered"], 0, "{said:#}");
        assert_eq!(said["dead_letter"], 0, "{said:#}");
    }
    let journal = load.stop();
    let written = journal.lines().count();

    to_dead.set(Fault::None);
    to_slow.set(Fault::None);
    rejecting.refuse_everything(false);
    wait::until_true(PATIENCE, "everything everywhere", || {
        copied(&place) as usize >= written
            && servers.iter().all(|server| server.count(INDEX) >= written)
    });
    agent.stop();
    assert_copied_once(&place, &journal);
    for server in &servers {
        assert_stored_once(server, INDEX, &journal);
    }
    let status = place.lawful_status(&config);
    for name in ["copy", "healthy", "dead", "slow", "rejecting"] {
        assert_eq!(sink(&status, name)["delivered"], written, "{name}");
    }
}

#[test]
fn the_spool_keeps_what_the_lowest_cursor_has_not_passed_and_frees_it_then() {
    let place = Place::new();
    let (healthy, late) = (FakeElasticsearch::start(), FakeElasticsearch::start());
    let proxy = Proxy::start(late.address());
    proxy.set(Fault::Refuse);
    let sinks = [
        place.file_sink(),
        search("healthy", &healthy.url(), ""),
        search("late", &proxy.url(), ""),
    ]
    .concat();
    let config = small_spool(&place, "", &sinks);
    let journal = backlog(&place, 256 << 20);
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "a source that waits for room", || {
        live_status(&place).is_some_and(|status| status["sources"][0]["state"] == "waiting")
    });
    let status = live_status(&place).expect("it listens");
    assert_eq!(status["spool"]["oldest_record"], 0, "nothing was freed");
    assert_eq!(sink(&status, "late")["gap"], 0, "and nobody was overtaken");
    wait::until_true(PATIENCE, "the others have what is there", || {
        live_status(&place).is_some_and(|status| {
            ["copy", "healthy"]
                .iter()
                .all(|name| sink(&status, name)["pending"] == 0)
        })
    });

    proxy.set(Fault::None);
    wait::until_true(PATIENCE, "all of it at both", || {
        late.count(INDEX) >= BACKLOG && healthy.count(INDEX) >= BACKLOG
    });
    wait::until_true(PATIENCE, "room again", || {
        live_status(&place).is_some_and(|status| status["spool"]["oldest_record"] != 0)
    });
    agent.stop();
    assert_copied_once(&place, &journal);
    for server in [&healthy, &late] {
        assert_stored_once(server, INDEX, &journal);
    }
    place.lawful_status(&config);
}

#[test]
fn a_sink_that_is_not_required_is_overtaken_with_a_gap_that_says_exactly_what_it_misses() {
    overtaken("required = false\n", "", 256 << 20);
}

#[test]
fn a_required_sink_is_overtaken_only_before_the_source_would_lose_data_for_all() {
    // That it waits where nothing is about to be lost is shown above; here backups are deleted within seconds.
    overtaken("", "retention = { age = \"30s\" }\n", 16 << 20);
}

/// Fills the spool beside a dead sink with these keys, and looks at what it misses in the end.
fn overtaken(keys: &str, source: &str, generation_bytes: u64) {
    let place = Place::new();
    let late = FakeElasticsearch::start();
    let proxy = Proxy::start(late.address());
    proxy.set(Fault::Refuse);
    let sinks = [place.file_sink(), search("late", &proxy.url(), keys)].concat();
    let config = small_spool(&place, source, &sinks);
    let journal = backlog(&place, generation_bytes);
    let agent = place.start(&config);
    wait::until_true(PATIENCE, "the dead one is overtaken", || {
        live_status(&place).is_some_and(|status| {
            sink(&status, "late")["gap"]
                .as_u64()
                .is_some_and(|gap| gap > 0)
        })
    });
    proxy.set(Fault::None);
    wait::until_true(PATIENCE, "the late one has the rest", || {
        live_status(&place).is_some_and(|status| {
            if copied(&place) < BACKLOG as u64 {
                return false;
            }
            let said = sink(&status, "late");
            said["pending"] == 0 && said["state"] == "idle"
        })
    });
    agent.stop();
    assert_copied_once(&place, &journal);
    let status = place.lawful_status(&config);
    let said = sink(&status, "late");
    let gap = said["gap"].as_u64().expect("a count");
    assert!(gap > 0 && gap < BACKLOG as u64, "{said:#}");

    // The ranges of the gaps are the events that are not there, no more and no fewer.
    let mut missing = HashSet::new();
    for one in said["gaps"].as_array().expect("a list") {
        assert_eq!(one["reason"], "overtaken", "{said:#}");
        let bound = |name: &str| one[name].as_u64().expect("a record number");
        missing.extend(bound("first")..=bound("last"));
    }
    assert_eq!(missing.len() as u64, gap, "{said:#}");
    let expected: Vec<_> = oracle::expected(&journal, crate::support::agent::ORIGIN)
        .into_iter()
        .zip(0..)
        .filter(|(_, number)| !missing.contains(number))
        .map(|(event, _)| event)
        .collect();
    let there: Vec<Held> = late.documents(INDEX).iter().map(held).collect();
    oracle::Verdict::of_set(&expected, &there).assert_clean("the late sink");
    assert_eq!(
        sink(&status, "copy")["gap"],
        0,
        "a required sink has no gap"
    );
}

#[test]
fn a_sink_is_known_by_its_name_when_others_come_and_go() {
    let place = Place::new();
    let fake = FakeElasticsearch::start();
    let another = FakeElasticsearch::start();
    let mut writer = Lumberjack::new(&place.live(), Rotation::default());
    let mut events = Events::new(63);
    let mut write = |count: usize| {
        for _ in 0..count {
            let (serial, line) = events.make();
            writer.write_line(Some(serial), &line).expect("write");
        }
        writer.journal()
    };
    let run = |sinks: &str| {
        let config = place.config(&[&place.file_sink(), sinks].concat());
        place.run_once(&config, &[]).expect_code(0);
        place.lawful_status(&config)
    };
    let first = search("first", &fake.url(), "");

    write(30);
    let status = run(&first);
    assert_eq!(sink(&status, "first")["delivered"], 30);

    // Removed: detached, with what it had.
    write(30);
    let status = run("");
    let said = sink(&status, "first");
    assert_eq!(said["state"], "detached", "{said:#}");
    assert_eq!(
        (&said["delivered"], &said["pending"]),
        (&30.into(), &30.into())
    );
    assert_eq!(sink(&status, "copy")["delivered"], 60);

    // Back again, beside a new one: it goes on where it was, and the new one starts at the oldest that is spooled.
    let journal = write(30);
    let status = run(&[&*first, &search("second", &another.url(), "")].concat());
    assert_eq!(sink(&status, "first")["delivered"], 90);
    assert_eq!(sink(&status, "second")["delivered"], 90);
    assert_stored_once(&fake, INDEX, &journal);
    assert_stored_once(&another, INDEX, &journal);

    // Renamed: a new sink to us, and the old name stays as it was; the server knows the events by their ids.
    let journal = write(30);
    let status = run(&search("renamed", &fake.url(), ""));
    assert_eq!(sink(&status, "renamed")["delivered"], 120);
    for name in ["first", "second"] {
        let said = sink(&status, name);
        assert_eq!(said["state"], "detached", "{said:#}");
        assert_eq!(
            (&said["delivered"], &said["pending"]),
            (&90.into(), &30.into())
        );
    }
    assert_stored_once(&fake, INDEX, &journal);
    assert_copied_once(&place, &journal);
}
