//! One case under way: an audit log of its own, a store of its own, a proxy before the server, and the agent between
//! them. What was written must be what is held, once, with the law kept and nothing given up.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Destination, Endpoint, Need, Running, Secret, Store};
use crate::support::agent::{Agent, Finished, MEMORY, ORIGIN, Place, sink};
use crate::support::auditgen::{Lumberjack, Rotation};
use crate::support::event::Events;
use crate::support::oracle::{Expected, Verdict, expected, held_lines};
use crate::support::proxy::Proxy;
use crate::support::wait;

/// The sink's name in every configuration.
pub(crate) const SINK: &str = "dest";

/// Long enough for anything on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `timeout`: long enough for a real server that other tests keep busy, short enough to be waited for.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(4);

/// What a case is run on.
pub(crate) struct Ground<'a> {
    /// The line of the table.
    pub(crate) destination: &'a dyn Destination,
    /// Its server.
    pub(crate) running: &'a dyn Running,
    /// Why the case could not be run on this machine.
    absent: RefCell<Option<String>>,
}

impl<'a> Ground<'a> {
    /// For one case.
    pub(crate) fn new(destination: &'a dyn Destination, running: &'a dyn Running) -> Self {
        Ground {
            destination,
            running,
            absent: RefCell::default(),
        }
    }

    /// The case cannot be run on this machine: it has neither passed nor failed.
    pub(crate) fn cannot(&self, why: String) {
        *self.absent.borrow_mut() = Some(why);
    }

    /// What the case said to [`Ground::cannot`].
    pub(crate) fn absent(self) -> Option<String> {
        self.absent.into_inner()
    }

    /// A trial behind a proxy.
    pub(crate) fn trial(&self, seed: u64) -> Trial<'a> {
        let proxy = self.running.proxy();
        // A destination without a network looks at no endpoint.
        let endpoint = match &proxy {
            Some(proxy) => Endpoint::at(proxy.address()),
            None => Endpoint::at(([127, 0, 0, 1], 0).into()),
        };
        Trial {
            proxy,
            ..self.trial_at(seed, &[(SINK, endpoint)])
        }
    }

    /// A trial with a sink for each endpoint, all for one store. The first must be [`SINK`].
    pub(crate) fn trial_at(&self, seed: u64, endpoints: &[(&str, Endpoint)]) -> Trial<'a> {
        let place = Place::new();
        let store = self.running.store();
        let timeout = if self.is_networked() {
            format!("timeout = \"{}s\"\n", TIMEOUT.as_secs())
        } else {
            String::new()
        };
        let sinks: String = endpoints
            .iter()
            .map(|(name, endpoint)| {
                format!(
                    "[[sink]]\nname = \"{name}\"\nbatch = {{ wait = \"100ms\" }}\n{timeout}{}\n",
                    store.keys(endpoint)
                )
            })
            .collect();
        let config = place.config(&sinks);
        let rotation = Rotation {
            max_bytes: 256 << 20,
            ..Rotation::default()
        };
        let writer = Lumberjack::new(&place.live(), rotation);
        let mut events = Events::new(seed);
        events.size_max = 8 << 10;
        Trial {
            place,
            proxy: None,
            store,
            config,
            writer,
            events,
            poison: Vec::new(),
        }
    }

    /// Whether it is reached over a network.
    pub(crate) fn is_networked(&self) -> bool {
        let lacks = self.destination.lacks();
        !lacks.iter().any(|(need, _)| *need == Need::Network)
    }
}

/// See the module.
pub(crate) struct Trial<'a> {
    /// Where the agent lives.
    pub(crate) place: Place,
    proxy: Option<Arc<Proxy>>,
    /// Where its events go.
    pub(crate) store: Box<dyn Store + 'a>,
    config: PathBuf,
    writer: Lumberjack,
    events: Events,
    /// Hashes of the lines that are to be refused.
    poison: Vec<String>,
}

impl Trial<'_> {
    /// The proxy of a destination that is reached over a network.
    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the case needs a network")
    }

    /// Writes so many events.
    pub(crate) fn write(&mut self, count: usize) {
        for _ in 0..count {
            let (serial, line) = self.events.make();
            self.writer.write_line(Some(serial), &line).expect("write");
        }
    }

    /// Lets events be as large as they really are.
    pub(crate) fn of_any_size(&mut self) {
        self.events.size_max = 220 << 10;
    }

    /// Writes an event that the destination refuses.
    pub(crate) fn write_poison(&mut self) {
        let line = self.store.poison().expect("the case needs a poison");
        self.writer.write_line(None, &line).expect("write");
        self.poison.push(held_lines(&line).remove(0).hash);
    }

    /// The secret of a destination that wants one.
    pub(crate) fn secret(&self) -> Secret {
        self.store.secret().expect("the case needs a secret")
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Agent {
        self.place.start(&self.config)
    }

    /// Starts the agent in a place where names resolve as this file says.
    pub(crate) fn start_with_hosts(&self, hosts: &std::path::Path) -> Result<Agent, String> {
        self.place.start_with_hosts(&self.config, hosts)
    }

    /// `run --once`, which must succeed.
    #[track_caller]
    pub(crate) fn once(&self) -> Finished {
        let finished = self.place.run_once(&self.config, &[]);
        finished.expect_code(0);
        finished
    }

    /// What the running agent says of the sink; `None` until it listens.
    pub(crate) fn said(&self) -> Option<Value> {
        self.said_of(SINK)
    }

    /// As [`Trial::said`], of another sink.
    pub(crate) fn said_of(&self, name: &str) -> Option<Value> {
        let (_, text) = self.place.admin("/status")?;
        let status: Value = serde_json::from_str(&text).expect("status is JSON");
        Some(sink(&status, name).clone())
    }

    /// `/readyz`, once it listens.
    pub(crate) fn ready(&self) -> Option<(u16, String)> {
        self.place.admin("/readyz")
    }

    /// Waits until the sink has failed at something and says so.
    #[track_caller]
    pub(crate) fn wait_for_trouble(&self, agent: &Agent) -> String {
        wait::until(
            PATIENCE,
            format!("an error in status; the agent: {}", agent.stderr()),
            || {
                self.said()?["last_error"]
                    .as_str()
                    .map(std::borrow::ToOwned::to_owned)
            },
        )
    }

    /// Waits until so many faults have struck since `before`.
    #[track_caller]
    pub(crate) fn wait_for_strikes(&self, before: u64, count: u64) {
        wait::until_true(PATIENCE, format!("{count} faults that strike"), || {
            self.proxy().struck() >= before + count
        });
    }

    /// Waits until all that was written is confirmed.
    #[track_caller]
    pub(crate) fn settle(&self, agent: &Agent) {
        self.settle_within(agent, PATIENCE);
    }

    /// As [`Trial::settle`].
    #[track_caller]
    pub(crate) fn settle_within(&self, agent: &Agent, limit: Duration) {
        wait::until_ok(limit, || match self.unconfirmed() {
            None => Ok(()),
            Some(why) => Err(format!("{why}; the agent: {}", agent.stderr())),
        });
    }

    /// Whether all that was written is confirmed now.
    pub(crate) fn settled(&self) -> bool {
        self.unconfirmed().is_none()
    }

    fn unconfirmed(&self) -> Option<String> {
        let written = self.writer.journal().lines().count();
        let Some((_, text)) = self.place.admin("/status") else {
            return Some("nothing listens".to_owned());
        };
        let status: Value = serde_json::from_str(&text).expect("status is JSON");
        let sink = sink(&status, SINK);
        // `pending` of a running agent is 0 also between the reading of an event and its coming to the sink.
        let done = ["delivered", "dead_letter", "gap"]
            .map(|part| sink[part].as_u64().expect("a count"))
            .iter()
            .sum::<u64>();
        let settled = done == written as u64;
        (!settled).then(|| format!("{written} written; {status:#}"))
    }

    /// Stops the agent and looks at everything.
    #[track_caller]
    pub(crate) fn conclude(self, agent: Agent) {
        check_memory(&agent);
        agent.stop();
        self.conclude_stopped();
    }

    /// All is there, once, as it was; the law holds; nothing was given up but the poison.
    #[track_caller]
    pub(crate) fn conclude_stopped(self) {
        let journal = self.writer.finish();
        let mut expected = expected(&journal, ORIGIN);
        let written = expected.len() as u64;
        expected.retain(|event| !self.poison.contains(&event.hash));
        let poisoned = self.poison.len() as u64;
        assert_held(&*self.store, &expected);
        let status = self.place.lawful_status(&self.config);
        let sink = sink(&status, SINK);
        assert_eq!(sink["dead_letter"], poisoned, "{sink:#}");
        assert_eq!(sink["gap"], 0, "{sink:#}");
        assert_eq!(sink["pending"], 0, "{sink:#}");
        assert_eq!(sink["delivered"], written - poisoned, "{sink:#}");
    }
}

/// Every event is there once, as it was, and nothing else.
#[track_caller]
pub(crate) fn assert_held(store: &dyn Store, expected: &[Expected]) {
    let held = store.held();
    let mut verdict = if held.iter().all(|one| one.id.is_some()) {
        Verdict::of_set(expected, &held)
    } else {
        Verdict::of_sequence(expected, &held)
    };
    if !store.once() {
        verdict.twice.clear();
        verdict.out_of_order.clear();
    }
    verdict.assert_clean("what the destination holds");
}

/// Panics where it took more than it may.
#[track_caller]
pub(crate) fn check_memory(agent: &Agent) {
    let peak = agent.peak_rss();
    assert!(peak <= MEMORY, "peak RSS {} MiB", peak >> 20);
}
