//! The built binary, driven as a user drives it: a configuration, an audit log, destinations, and everything that goes
//! wrong in between. What must hold is what users were promised; the oracle and the law of the totals decide.

/// Rotated sets, read once: byte for byte to a file, once each to a server.
mod rotated_once;

/// SIGKILL at random moments, with faults at the destination and rollovers.
mod kill9;

/// Rotations while the agent is down, within what retention keeps and beyond.
mod stopped_across_rotations;

/// A destination that is down, and what the others and the memory make of it.
mod outage;

/// Several destinations at once, sick and healthy, coming and going.
mod fan_out;

/// All kinds of destinations at once, and SIGKILL.
mod four_destinations;

/// Lines that are no events, or events that few parsers take.
mod hostile_lines;

/// Documents made beforehand under our ids, and audit ids that a client chose.
mod forgery;

/// Events that a destination refuses: fallback, dead letter, replay, and refusal as such.
mod dead_letters;

/// Days of backlog for Loki, which loses what is not in order.
mod loki_backlog;

/// Mistakes in a configuration: all at once, each in its place.
mod config_errors;

/// Two agents on one state directory.
mod two_agents;

/// SIGTERM at any moment.
mod term;

/// Status and the admin listener; a wrong password that heals.
mod status;

use std::time::Duration;

use crate::contract::bench::held;
use crate::fakes::elasticsearch::{FakeElasticsearch, bare_template};
use crate::support::agent::{ORIGIN, Place};
use crate::support::auditgen::Journal;
use crate::support::http::Http;
use crate::support::oracle::{Held, Verdict, expected, held_lines};

/// Long enough for anything on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The index of [`index_sink`].
pub(crate) const INDEX: &str = "audit-test";

/// The data stream of [`stream_sink`].
pub(crate) const STREAM: &str = "logs-kubernetes.audit-test";

/// An elasticsearch sink named `search`, in index mode.
pub(crate) fn index_sink(url: &str, more: &str) -> String {
    search_sink(url, &format!("index = \"{INDEX}\"\n{more}"))
}

/// An elasticsearch sink named `search`, in data-stream mode, with a template of the server's own.
pub(crate) fn stream_sink(url: &str, more: &str) -> String {
    search_sink(url, &format!("data_stream = \"{STREAM}\"\n{more}"))
}

fn search_sink(url: &str, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"search\"\ntype = \"elasticsearch\"\nendpoints = [\"{url}\"]\ntemplate = \"own\"\ntimeout = \"2s\"\n\
         batch = {{ wait = \"100ms\" }}\n{more}\n"
    )
}

/// A fake with a template for [`STREAM`].
pub(crate) fn fake_with_stream() -> FakeElasticsearch {
    let fake = FakeElasticsearch::start();
    Http::open(&fake.url()).ok(
        "PUT",
        "/_index_template/audit",
        bare_template(STREAM).to_string(),
    );
    fake
}

/// Lost 0, twice 0, altered 0, spurious 0 at the fake.
#[track_caller]
pub(crate) fn assert_stored_once(fake: &FakeElasticsearch, name: &str, journal: &Journal) {
    let there: Vec<Held> = fake.documents(name).iter().map(held).collect();
    Verdict::of_set(&expected(journal, ORIGIN), &there).assert_clean(name);
}

/// Lost 0, twice 0, order kept in the file sink.
#[track_caller]
pub(crate) fn assert_copied_once(place: &Place, journal: &Journal) {
    Verdict::of_sequence(&expected(journal, ORIGIN), &held_lines(&place.copied()))
        .assert_clean("the file sink");
}

/// A number from the environment, for longer runs than the usual one.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => usual,
    }
}
