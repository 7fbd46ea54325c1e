//! Days of backlog into a Loki that shards its streams and breaks connections, the agent killed again and again: every line
//! is readable or a dead letter with a reason, none is missing, none is there twice, and none was lost under a 204.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{PATIENCE, setting};
use crate::fakes::loki::FakeLoki;
use crate::support::agent::{ORIGIN, Place, command, sink};
use crate::support::auditgen::{Lumberjack, Rotation};
use crate::support::event::time_text;
use crate::support::loki::of_fake;
use crate::support::oracle::{Expected, Held, Verdict, check_law, expected};
use crate::support::servers;
use crate::support::wait::{self, unix_ms};

const HOUR_MS: i64 = 3_600_000;

fn loki_sink(url: &str) -> String {
    format!(
        "[[sink]]\nname = \"grafana\"\ntype = \"loki\"\nendpoint = \"{url}\"\ntimeout = \"2s\"\nbatch = {{ wait = \"100ms\" }}\n"
    )
}

/// From eight days ago until now, as busy as `per_hour`, with a clock that is set back once, and one line of the year 2090.
fn write_backlog(place: &Place, per_hour: i64) -> Vec<Expected> {
    let mut writer = Lumberjack::new(&place.live(), Rotation::default());
    let step = HOUR_MS / per_hour;
    let start = unix_ms() - 192 * HOUR_MS;
    for number in 0..192 * per_hour {
        let mut time = start + number * step;
        if number / per_hour == 100 {
            time -= 3 * HOUR_MS;
        }
        let time = match number == 150 * per_hour {
            true => "2090-01-01T00:00:00.000000Z".to_owned(),
            false => time_text(time),
        };
        let verb = ["get", "list", "create", "get"][usize::try_from(number % 4).expect("small")];
        let line = format!(
            r#"{{"kind":"Event","auditID":"{number}","verb":"{verb}","user":{{"username":"u"}},"stageTimestamp":"{time}"}}"#
        );
        writer.write_line(None, line.as_bytes()).expect("write");
    }
    expected(&writer.finish(), ORIGIN)
}

/// Record number and reason of every dead letter.
fn dead_letters(config: &str) -> BTreeMap<u64, String> {
    let listed = command(&["dead-letter", "ls", config, "--json"]);
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|letter| {
            let record = letter["record"].as_u64().expect("a number");
            (
                record,
                letter["reason"].as_str().expect("a reason").to_owned(),
            )
        })
        .collect()
}

fn drill(seed: u64, per_hour: i64, keys: &str) {
    let fake = FakeLoki::start();
    fake.limit(|limits| limits.shards = 8);
    fake.chaos(seed, 15);
    let place = Place::new();
    let written = write_backlog(&place, per_hour);
    let config = place.config(&format!("{}{keys}\n", loki_sink(&fake.url())));
    let mut random = fastrand::Rng::with_seed(seed);
    for kill in 0..setting("AUDITSHIP_KILLS", 12) {
        let agent = place.start(&config);
        wait::pause(Duration::from_millis(random.u64(20..500)));
        agent.kill();
        if let Some(status) = place.status_if_any(&config)
            && let Err(broken) = check_law(&status)
        {
            panic!("after kill {kill} of seed {seed}: {broken}\n{status:#}");
        }
    }
    let agent = place.start(&config);
    wait::until_ok(PATIENCE * 2, || {
        let (_, text) = place.admin("/status").ok_or("nothing listens")?;
        let status: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let sink = sink(&status, "grafana");
        let done =
            sink["delivered"].as_u64().unwrap_or(0) + sink["dead_letter"].as_u64().unwrap_or(0);
        match done == written.len() as u64 {
            true => Ok(()),
            false => Err(format!("{status:#}; {}", agent.stderr())),
        }
    });
    agent.stop();
    assert!(
        fake.discarded().is_empty(),
        "lost or refused there: {:?}",
        fake.discarded()
    );
    let letters = dead_letters(&config.to_string_lossy());
    let mut wanted = written.clone();
    let mut number = 0..;
    wanted.retain(|_| !letters.contains_key(&number.next().expect("endless")));
    let lines = of_fake(fake.lines());
    let held: Vec<Held> = lines.iter().map(|line| line.held()).collect();
    Verdict::of_set(&wanted, &held).assert_clean("loki");
    let reasons: BTreeSet<&str> = letters
        .values()
        .map(|reason| {
            ["max_age", "max_behind", "max_ahead"]
                .into_iter()
                .find(|limit| reason.contains(limit))
                .unwrap_or_else(|| panic!("another reason: {reason}"))
        })
        .collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "grafana")["dead_letter"], letters.len());
    assert_eq!(sink(&status, "grafana")["delivered"], held.len());
    // A day of the eight, the two hours that the clock was set back by too much, and the line of 2090.
    let few = letters.len() as i64 - 24 * per_hour;
    assert!(
        (0..=4 * per_hour).contains(&few),
        "{} dead letters",
        letters.len()
    );
}

#[test]
fn a_quiet_week_is_readable_or_a_dead_letter_with_its_reason() {
    drill(1, 2, "");
}

#[test]
fn a_busy_week_is_readable_or_a_dead_letter_with_its_reason() {
    drill(2, 60, "");
}

#[test]
fn a_week_in_several_streams_is_readable_or_a_dead_letter_with_its_reason() {
    drill(3, 8, "labels = { verb = \"{audit.verb}\" }");
}

#[test]
fn a_week_is_whole_at_victorialogs() {
    let Some(server) = servers::loki_api("a_week_is_whole_at_victorialogs") else {
        return;
    };
    let place = Place::new();
    let written = write_backlog(&place, 10);
    let job = format!("backlog-{}", unix_ms());
    let keys = format!(
        "{}labels = {{ job = \"{job}\" }}\nmax_age = \"10000h\"\n",
        loki_sink(&format!("{}/insert", server.url))
    );
    let config = place.config(&keys);
    place.run_once(&config, &[]).expect_code(0);
    let letters = dead_letters(&config.to_string_lossy());
    let mut wanted = written;
    let mut number = 0..;
    wanted.retain(|_| !letters.contains_key(&number.next().expect("endless")));
    let lines =
        crate::support::loki::query(&server.http(None), &format!("{{job=\"{job}\"}}"), None);
    let held: Vec<Held> = lines.iter().map(|line| line.held()).collect();
    Verdict::of_set(&wanted, &held).assert_clean("VictoriaLogs");
    assert!((1..40).contains(&letters.len()), "{letters:?}");
}
