//! One rotated log to Elasticsearch, Kafka, S3, Loki and a file at once, the agent killed again and again: what each server
//! gives back is the log, once, byte for byte.
//!
//! Kafka and S3 are real servers; Elasticsearch and Loki are fakes, since those answer as strictly as the real ones and
//! fail on demand. The usual run is short; `AUDITSHIP_KILLS=100 AUDITSHIP_RATE=5000` is the long one.

use std::time::Duration;

use serde_json::Value;

use super::{INDEX, PATIENCE, assert_copied_once, assert_stored_once, index_sink, setting};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::fakes::loki::FakeLoki;
use crate::support::agent::{ORIGIN, Place, sink, source};
use crate::support::auditgen::{Journal, Load, Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::http::Http;
use crate::support::kafka::{self, Isolation};
use crate::support::loki::of_fake;
use crate::support::oracle::{Held, Verdict, check_law, expected, held_lines};
use crate::support::s3::{ACCESS_KEY, Bucket, SECRET_KEY};
use crate::support::{servers, wait};

const SINKS: [&str; 6] = ["copy", "search", "exact", "stream", "archive", "logs"];

/// The servers of one run, and the configuration of the sinks before them.
struct Destinations {
    search: FakeElasticsearch,
    loki: FakeLoki,
    kafka: &'static servers::Server,
    s3: &'static servers::Server,
    /// Names that no other run uses begin with this.
    run: String,
}

impl Destinations {
    fn start(test: &str) -> Option<Self> {
        let (kafka, s3) = (servers::kafka(test)?, servers::s3(test)?);
        let run = format!("four-{}", std::process::id());
        kafka::create_topic(&kafka.url, &format!("{run}-plain"), 2, &[]);
        kafka::create_topic(&kafka.url, &format!("{run}-exact"), 2, &[]);
        let compact = [("cleanup.policy", "compact")];
        kafka::create_topic(&kafka.url, &format!("{run}-markers"), 1, &compact);
        Some(Destinations {
            search: FakeElasticsearch::start(),
            loki: FakeLoki::start(),
            kafka,
            s3,
            run,
        })
    }

    fn sinks(&self) -> String {
        let (run, brokers) = (&self.run, &self.kafka.url);
        let kafka = |name: &str, topic: &str, more: &str| {
            format!(
                "[[sink]]\nname = \"{name}\"\ntype = \"kafka\"\nbrokers = [\"{brokers}\"]\ntopic = \"{run}-{topic}\"\n\
                 timeout = \"10s\"\n{more}\n"
            )
        };
        let marker = format!("transactional = {{ marker_topic = \"{run}-markers\" }}");
        let archive = format!(
            "[[sink]]\nname = \"archive\"\ntype = \"s3\"\nbucket = \"audit\"\nendpoint = \"{}\"\n\
             key_prefix = \"{run}/\"\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n\
             batch = {{ bytes = \"64KiB\", wait = \"1s\" }}\ntimeout = \"10s\"\n",
            self.s3.url
        );
        let logs = format!(
            "[[sink]]\nname = \"logs\"\ntype = \"loki\"\nendpoint = \"{}\"\ntimeout = \"2s\"\n",
            self.loki.url()
        );
        [
            index_sink(&self.search.url(), ""),
            kafka("exact", "exact", &marker),
            kafka("stream", "plain", ""),
            archive,
            logs,
        ]
        .concat()
    }

    /// What each server gives back is the journal.
    fn assert_hold(&self, journal: &Journal, late: &Value) {
        assert_stored_once(&self.search, INDEX, journal);
        let expected = expected(journal, ORIGIN);
        let topic = |name: &str| {
            let topic = format!("{}-{name}", self.run);
            let stored = kafka::read_all(&self.kafka.url, &topic, Isolation::Committed);
            stored.iter().map(kafka::held).collect::<Vec<Held>>()
        };
        Verdict::of_set(&expected, &topic("exact")).assert_clean("transactional Kafka");
        // The plain one may repeat what was in flight, under the same key.
        let mut plain = topic("plain");
        plain.sort_by(|a, b| a.id.cmp(&b.id));
        plain.dedup_by(|a, b| a.id == b.id && a.hash == b.hash);
        Verdict::of_set(&expected, &plain).assert_clean("Kafka, by key");
        let bucket = Bucket {
            http: Http::open(&self.s3.url),
            name: "audit".to_owned(),
        };
        let prefix = format!("{}/", self.run);
        let lines = bucket.lines(&prefix).join(&b'\n');
        Verdict::of_sequence(&expected, &held_lines(&lines)).assert_clean("S3");
        assert_eq!(bucket.uploads(&prefix), Vec::<String>::new());
        // Loki takes no line over 256 KiB: those are dead letters.
        let lines = of_fake(self.loki.lines());
        let letters = late["dead_letter"].as_u64().expect("a count");
        assert_eq!(lines.len() as u64 + letters, expected.len() as u64, "Loki");
        let held: Vec<Held> = lines.iter().map(|line| line.held()).collect();
        let there: std::collections::HashSet<_> = held.iter().map(|held| held.id.clone()).collect();
        let taken = expected
            .iter()
            .filter(|one| there.contains(&Some(one.id.clone())));
        Verdict::of_set(&taken.cloned().collect::<Vec<_>>(), &held).assert_clean("Loki");
    }
}

#[test]
fn every_destination_holds_the_log_once_however_often_the_agent_is_killed() {
    let Some(destinations) = Destinations::start("four_destinations") else {
        return;
    };
    let (kills, rate) = (
        setting("AUDITSHIP_KILLS", 8),
        setting("AUDITSHIP_RATE", 800),
    );
    let mut random = fastrand::Rng::with_seed(71);
    let place = Place::new();
    let config = place.config(&(place.file_sink() + &destinations.sinks()));
    destinations.search.chaos(71, 6);
    destinations.loki.chaos(71, 6);
    let writer = Lumberjack::new(&place.live(), Rotation::default());
    let load = Load::start(writer, Events::new(71), rate);
    for kill in 1..=kills {
        let agent = place.start(&config);
        wait::pause(Duration::from_millis(random.u64(20..4000)));
        let killed = agent.kill();
        assert!(
            killed.status.code().is_none(),
            "it ended by itself before kill {kill}: {killed:?}"
        );
        if let Some(status) = place.status_if_any(&config)
            && let Err(broken) = check_law(&status)
        {
            panic!("after kill {kill}: {broken}\n{status:#}");
        }
    }
    let journal = load.stop();
    destinations.search.calm();
    destinations.loki.script(|_| None);
    let agent = place.start(&config);
    let written = journal.lines().count() as u64;
    wait::until_ok(PATIENCE * 2 + Duration::from_millis(written * 2), || {
        let (_, text) = place.admin("/status").ok_or("nothing listens")?;
        let status: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let done = |name: &&str| sink(&status, name)["pending"] == 0;
        match source(&status)["read_events"] == written && SINKS.iter().all(done) {
            true => Ok(()),
            false => Err(format!("{written} written, {status:#}; {}", agent.stderr())),
        }
    });
    let peak = agent.peak_rss();
    agent.stop();
    let status = place.lawful_status(&config);
    assert_eq!(source(&status)["gaps_total"], 0);
    assert_copied_once(&place, &journal);
    destinations.assert_hold(&journal, sink(&status, "logs"));
    assert!(peak <= 96 << 20, "{peak} bytes resident with six sinks");
}
