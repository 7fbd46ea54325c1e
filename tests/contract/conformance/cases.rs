//! The cases. Each is a plain function that panics where a destination does not hold; what it needs stands in its line.

use std::fs;
use std::time::Duration;

use super::trial::{Ground, PATIENCE, SINK, TIMEOUT, check_memory};
use super::{Endpoint, Need, Part, clock_jump};
use crate::end_to_end::setting;
use crate::fakes::certificates::{Certificates, ClientCertificate};
use crate::fakes::impostors::{self, Face, TlsFront};
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::{self, Stopwatch};

/// One column of the table.
pub(crate) struct Case {
    /// As it stands in the table.
    pub(crate) name: &'static str,
    /// What must hold.
    pub(crate) what: &'static str,
    /// What it means nothing without.
    pub(crate) needs: &'static [Need],
    /// Panics where it does not hold.
    pub(crate) run: fn(&Ground<'_>),
}

/// Every case, in the order in which they run on one server.
pub(crate) static CASES: &[Case] = &[
    Case {
        name: "deliver",
        what: "every event is there once, byte for byte",
        needs: &[],
        run: deliver,
    },
    Case {
        name: "empty",
        what: "of an empty log nothing arrives, and a run ends well",
        needs: &[],
        run: empty,
    },
    Case {
        name: "huge batch",
        what: "a batch far beyond what a request may hold arrives in parts",
        needs: &[],
        run: huge_batch,
    },
    Case {
        name: "saturated",
        what: "a destination without room gets everything when it has room again",
        needs: &[Need::Network],
        run: saturated,
    },
    Case {
        name: "lossy",
        what: "connections that break at random cost nothing in the end",
        needs: &[Need::Network],
        run: lossy,
    },
    Case {
        name: "reset after N",
        what: "a reset after any byte of a request or an answer loses and doubles nothing",
        needs: &[Need::Network],
        run: reset_after_every_byte,
    },
    Case {
        name: "slow drip",
        what: "an answer that comes byte by byte ends in the timeout of its attempt",
        needs: &[Need::Network],
        run: slow_drip,
    },
    Case {
        name: "endless headers",
        what: "headers without end cost an attempt, not the memory",
        needs: &[Need::Headers],
        run: endless_headers,
    },
    Case {
        name: "10 GB answer",
        what: "a body of 10 GB costs an attempt, not the memory",
        needs: &[Need::PlainText],
        run: endless_body,
    },
    Case {
        name: "wrong password",
        what: "it stops, says so, loses nothing, and heals within 10 s once it is mended",
        needs: &[Need::Secret],
        run: wrong_password,
    },
    Case {
        name: "12 bad certificates",
        what: "a server that cannot be trusted, or does not trust us, stops the sink and gets not one byte of an event",
        needs: &[Need::Tls],
        run: bad_certificates,
    },
    Case {
        name: "names flapping",
        what: "a host name that moves, or resolves to nothing for a while, loses and doubles nothing",
        needs: &[Need::HostName],
        run: names_flapping,
    },
    Case {
        name: "kill -9 before the answer",
        what: "an agent that is killed between sending and confirmation sends nothing twice",
        needs: &[],
        run: killed_before_the_answer,
    },
    Case {
        name: "clock jump",
        what: "a wall clock that is set on by an hour and back by more costs no event",
        needs: &[Need::WallClock],
        run: clock_jump::run,
    },
    Case {
        name: "poison",
        what: "an event that is refused for what it is becomes a dead letter alone",
        needs: &[Need::Poison],
        run: poison,
    },
    Case {
        name: "restart",
        what: "a server that is killed in the middle and comes back has everything once",
        needs: &[Need::Restart],
        run: restart,
    },
];

fn deliver(ground: &Ground<'_>) {
    let mut trial = ground.trial(1);
    trial.of_any_size();
    trial.write(300);
    let agent = trial.start();
    trial.settle(&agent);
    trial.write(100);
    trial.settle(&agent);
    trial.conclude(agent);
}

fn empty(ground: &Ground<'_>) {
    let trial = ground.trial(2);
    fs::write(trial.place.live(), "").expect("write");
    trial.once();
    assert_eq!(trial.store.held(), []);
    trial.conclude_stopped();
}

fn huge_batch(ground: &Ground<'_>) {
    let mut trial = ground.trial(3);
    trial.of_any_size();
    // About 10 MB, spooled before the first send.
    trial.write(6000);
    let agent = trial.start();
    trial.settle(&agent);
    trial.conclude(agent);
}

fn saturated(ground: &Ground<'_>) {
    let mut trial = ground.trial(4);
    trial.write(50);
    let agent = trial.start();
    trial.settle(&agent);
    ground.running.saturate(trial.proxy(), true);
    trial.write(200);
    trial.wait_for_trouble(&agent);
    let said = trial.said().expect("it listens");
    assert_eq!(said["dead_letter"], 0, "{said:#}");
    ground.running.saturate(trial.proxy(), false);
    trial.settle(&agent);
    trial.conclude(agent);
}

fn lossy(ground: &Ground<'_>) {
    let mut trial = ground.trial(5);
    let mut random = fastrand::Rng::with_seed(5);
    trial.proxy().plan(move |_| match random.u8(..6) {
        0 => Fault::Refuse,
        1 => Fault::ResetRequestAfter(random.u64(..20_000)),
        2 => Fault::ResetAnswerAfter(random.u64(..400)),
        3 => Fault::TruncateAnswerAfter(random.u64(..400)),
        _ => Fault::None,
    });
    let agent = trial.start();
    let watch = Stopwatch::start();
    // Not for longer: waits double with every failure, and a long outage is the business of other tests.
    while watch.elapsed() < Duration::from_secs(3)
        || trial.proxy().struck() == 0 && watch.elapsed() < PATIENCE
    {
        trial.write(20);
        wait::pause(Duration::from_millis(100));
        trial.proxy().break_open();
    }
    assert!(trial.proxy().struck() > 0, "nothing was lost on the way");
    trial.proxy().set(Fault::None);
    trial.settle(&agent);
    trial.conclude(agent);
}

/// Bytes after which a request and an answer are reset: inside a first line, headers, frames, at the ends of things.
const REQUEST_CUTS: &[u64] = &[0, 1, 97, 300, 1500, 4000];
const ANSWER_CUTS: &[u64] = &[0, 1, 9, 64, 150, 400];

fn reset_after_every_byte(ground: &Ground<'_>) {
    let mut trial = ground.trial(6);
    let agent = trial.start();
    // `AUDITSHIP_CUTS=2000`: every one of the first so many bytes instead.
    let every = setting("AUDITSHIP_CUTS", 0);
    let cuts = |few: &[u64]| match every {
        0 => few.to_vec(),
        count => (0..count).collect(),
    };
    let requests = cuts(REQUEST_CUTS).into_iter().map(Fault::ResetRequestAfter);
    let answers = cuts(ANSWER_CUTS).into_iter().map(Fault::ResetAnswerAfter);
    for fault in requests.chain(answers) {
        let before = trial.proxy().struck();
        trial.proxy().set(fault);
        trial.write(20);
        // What ends before the cut arrives unharmed.
        wait::until_true(PATIENCE, format!("{fault:?} or its end"), || {
            trial.proxy().struck() > before || trial.settled()
        });
        // What was cut goes through before the next cut, so that no streak of failures makes the waits long.
        trial.proxy().set(Fault::None);
        trial.settle(&agent);
    }
    let struck = trial.proxy().struck();
    assert!(struck > 5, "only {struck} of the cuts were cuts");
    trial.conclude(agent);
}

fn slow_drip(ground: &Ground<'_>) {
    let mut trial = ground.trial(7);
    let agent = trial.start();
    let before = trial.proxy().struck();
    trial.proxy().set(Fault::Drip(1, Duration::from_millis(25)));
    trial.write(40);
    trial.wait_for_strikes(before, 1);
    wait::until_true(TIMEOUT * 4, "the end of an attempt", || {
        trial
            .said()
            .is_some_and(|said| said["last_error"].is_string())
            || trial.settled()
    });
    trial.proxy().set(Fault::None);
    trial.settle(&agent);
    trial.conclude(agent);
}

fn endless_headers(ground: &Ground<'_>) {
    endless(ground, Part::Headers);
}

fn endless_body(ground: &Ground<'_>) {
    endless(ground, Part::Body);
}

fn endless(ground: &Ground<'_>, part: Part) {
    let mut trial = ground.trial(8);
    trial.write(20);
    let agent = trial.start();
    trial.settle(&agent);
    let before = trial.proxy().struck();
    trial.proxy().set(ground.running.endless(part));
    trial.write(40);
    trial.wait_for_strikes(before, 1);
    trial.wait_for_trouble(&agent);
    check_memory(&agent);
    let said = trial.said().expect("it listens");
    assert_eq!(said["delivered"], 20, "none of it was an answer: {said:#}");
    trial.proxy().set(Fault::None);
    trial.settle(&agent);
    trial.conclude(agent);
}

fn wrong_password(ground: &Ground<'_>) {
    const WRONG: &str = "canary-7b0e-password";
    let mut trial = ground.trial(9);
    let secret = trial.secret();
    fs::write(&secret.file, WRONG).expect("write");
    trial.write(100);
    let agent = trial.start();
    let (_, reason) = wait::until(PATIENCE, "not ready, and why", || {
        trial
            .ready()
            .filter(|(code, text)| *code == 503 && text.contains(SINK))
    });
    wait::until_true(PATIENCE, "stopped", || {
        trial.said().is_some_and(|said| said["state"] == "stopped")
    });
    let said = trial.said().expect("it listens");
    assert_eq!(said["dead_letter"], 0, "{said:#}");
    assert_eq!(trial.store.held(), [], "nothing went there");
    fs::write(&secret.file, &secret.right).expect("write");
    let mended = Stopwatch::start();
    trial.settle(&agent);
    assert!(
        mended.elapsed() < Duration::from_secs(10),
        "healed after {:?}",
        mended.elapsed()
    );
    wait::until_true(PATIENCE, "ready again", || {
        trial.ready().is_some_and(|(code, _)| code == 200)
    });
    let heard = agent.stderr();
    for text in [&reason, &heard, &said.to_string()] {
        assert!(!text.contains(WRONG), "a secret in {text}");
    }
    trial.conclude(agent);
}

fn bad_certificates(ground: &Ground<'_>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ours = Certificates::make(&dir.path().join("ours"), "ours");
    let other = Certificates::make(&dir.path().join("other"), "other");
    let endpoint = |host: &str, front: &TlsFront, tls: &str| Endpoint {
        host: host.to_owned(),
        port: front.port(),
        tls: Some(tls.to_owned()),
    };
    // The right certificates before the same server: what stops the others is nothing else.
    let trusted = ground
        .running
        .tls_front(Face::Tls(ours.server_config(ClientCertificate::Required)));
    let mut endpoints = vec![(
        SINK,
        endpoint("localhost", &trusted, &ours.tls_key(Some(&ours))),
    )];
    let impostors = impostors::all(&ours, &other);
    let mut fronts = Vec::new();
    for impostor in &impostors {
        let front = TlsFront::start(impostor.face.clone(), ground.running.upstream());
        endpoints.push((
            impostor.name,
            endpoint(impostor.host, &front, &impostor.tls),
        ));
        fronts.push(front);
    }
    let mut trial = ground.trial_at(13, &endpoints);
    trial.write(40);
    let agent = trial.start();
    trial.settle(&agent);
    for (impostor, front) in impostors.iter().zip(&fronts) {
        let name = impostor.name;
        wait::until_ok(PATIENCE, || match trial.said_of(name) {
            Some(said) if said["state"] == "stopped" => Ok(()),
            said => Err(format!("{name} is to stop: {said:#?}")),
        });
        assert!(front.connections() > 0, "{name} was never called");
        assert_eq!(front.application_bytes(), 0, "{name} got something");
        let said = trial.said_of(name).expect("it listens");
        for count in ["delivered", "dead_letter", "gap"] {
            assert_eq!(said[count], 0, "{name}: {said:#}");
        }
        let (_, reasons) = trial.ready().expect("it listens");
        assert!(reasons.contains(name), "{name} is not named in {reasons}");
    }
    trial.conclude(agent);
}

/// The name moves between two addresses of this machine, and is unknown in between.
fn names_flapping(ground: &Ground<'_>) {
    const NAME: &str = "audit-destination.test";
    let upstream = ground.running.upstream().expect("it has a network");
    let first = Proxy::start_at(([127, 0, 0, 2], 0).into(), upstream);
    let port = first.address().port();
    let endpoint = Endpoint {
        host: NAME.to_owned(),
        port,
        tls: None,
    };
    let mut trial = ground.trial_at(14, &[(SINK, endpoint)]);
    let hosts = trial.place.path().join("hosts");
    let point_to = |address: Option<u8>| {
        let line = address.map_or(String::new(), |last| format!("127.0.0.{last} {NAME}\n"));
        // In place: the agent sees this very file.
        fs::write(&hosts, format!("127.0.0.1 localhost\n{line}")).expect("write");
    };
    point_to(Some(2));
    let agent = match trial.start_with_hosts(&hosts) {
        Ok(agent) => agent,
        Err(why) => return ground.cannot(why),
    };
    let mut proxy = Some(first);
    for address in [3, 2, 3] {
        trial.write(40);
        trial.settle(&agent);
        drop(proxy.take());
        point_to(None);
        trial.write(40);
        trial.wait_for_trouble(&agent);
        proxy = Some(Proxy::start_at(
            ([127, 0, 0, address], port).into(),
            upstream,
        ));
        point_to(Some(address));
        trial.settle(&agent);
    }
    trial.conclude(agent);
}

/// `AUDITSHIP_KILLS=200` is the long run.
fn killed_before_the_answer(ground: &Ground<'_>) {
    let mut trial = ground.trial(10);
    let mut random = fastrand::Rng::with_seed(10);
    let networked = ground.is_networked();
    for _ in 0..setting("AUDITSHIP_KILLS", 4) {
        trial.write(60);
        if networked {
            // What comes before the events (a login, a look at a template) is small and is answered.
            let before = trial.proxy().struck();
            trial.proxy().set(Fault::HoldAnswersAfter(3000));
            let agent = trial.start();
            trial.wait_for_strikes(before, 1);
            agent.kill();
        } else {
            let agent = trial.start();
            wait::pause(Duration::from_millis(random.u64(20..400)));
            agent.kill();
        }
    }
    if networked {
        trial.proxy().set(Fault::None);
    }
    let agent = trial.start();
    trial.settle(&agent);
    trial.conclude(agent);
}

fn poison(ground: &Ground<'_>) {
    let mut trial = ground.trial(11);
    trial.write(30);
    trial.write_poison();
    trial.write(30);
    let agent = trial.start();
    // A refusal is believed once the destination has taken something after it.
    wait::until_true(PATIENCE, "a dead letter", || {
        if !trial.settled() {
            trial.write(1);
            wait::pause(Duration::from_millis(300));
        }
        trial.said().is_some_and(|said| said["dead_letter"] == 1)
    });
    trial.settle(&agent);
    trial.conclude(agent);
}

fn restart(ground: &Ground<'_>) {
    let mut trial = ground.trial(12);
    let agent = trial.start();
    trial.write(100);
    trial.settle(&agent);
    std::thread::scope(|scope| {
        let restarting = scope.spawn(|| ground.running.restart());
        while !restarting.is_finished() {
            trial.write(20);
            wait::pause(Duration::from_millis(200));
        }
        restarting.join().expect("it comes back");
    });
    trial.settle_within(&agent, PATIENCE * 2);
    trial.conclude(agent);
}
