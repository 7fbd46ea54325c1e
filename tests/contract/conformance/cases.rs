//! The cases. Each is a plain function that panics where a destination does not hold; what it needs stands in its line.

use std::fs;
use std::time::Duration;

use super::trial::{Ground, PATIENCE, TIMEOUT, check_memory};
use super::{Need, Part};
use crate::end_to_end::setting;
use crate::support::proxy::Fault;
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
        name: "kill -9 before the answer",
        what: "an agent that is killed between sending and confirmation sends nothing twice",
        needs: &[],
        run: killed_before_the_answer,
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
    trial.proxy().plan(move |_| match random.u8(..8) {
        0 => Fault::Refuse,
        1 => Fault::ResetRequestAfter(random.u64(..20_000)),
        2 => Fault::ResetAnswerAfter(random.u64(..400)),
        3 => Fault::TruncateAnswerAfter(random.u64(..400)),
        _ => Fault::None,
    });
    let agent = trial.start();
    for _ in 0..8 {
        let before = trial.proxy().struck();
        trial.write(40);
        // Quiet until something was sent, or until the next fault.
        let sent = trial.proxy().sent();
        wait::until_true(PATIENCE, "something that passes or breaks", || {
            trial.proxy().struck() > before || trial.proxy().sent() > sent + 20_000
        });
        trial.proxy().break_open();
    }
    trial.proxy().set(Fault::None);
    trial.settle(&agent);
    trial.conclude(agent);
}

/// Bytes after which a request and an answer are reset: inside a first line, headers, frames, at the ends of things.
const REQUEST_CUTS: &[u64] = &[0, 1, 16, 97, 300, 700, 1500, 4000, 9000];
const ANSWER_CUTS: &[u64] = &[0, 1, 9, 17, 64, 150, 400, 1200];

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
        trial.proxy().set(Fault::None);
        trial.settle(&agent);
    }
    let struck = trial.proxy().struck();
    assert!(struck > 8, "only {struck} of the cuts were cuts");
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
            .filter(|(code, text)| *code == 503 && text.contains(super::trial::SINK))
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

/// `AUDITSHIP_KILLS=200` is the long run.
fn killed_before_the_answer(ground: &Ground<'_>) {
    let mut trial = ground.trial(10);
    let mut random = fastrand::Rng::with_seed(10);
    let networked = !ground
        .destination
        .lacks()
        .iter()
        .any(|(need, _)| *need == Need::Network);
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
    trial.settle(&agent);
    let said = trial.said().expect("it listens");
    assert_eq!(said["dead_letter"], 1, "{said:#}");
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
