//! Who is let in, and whom we trust: passwords, certificates, rights, on a real broker.

use std::path::Path;
use std::time::Duration;

use auditship::sinks::Outcome;

use super::{Cluster, assert_held, keys, lines};
use crate::contract::bench::{Bench, all_delivered, records};
use crate::fakes::certificates::Certificates;
use crate::fakes::impostors::{self, Impostor, TlsFront};
use crate::support::kafka::{Isolation, listener, read_all};
use crate::support::servers::{self, Server};

/// Ports behind the plain one.
const LOGIN: u16 = 2;
const CERTIFICATE: u16 = 3;
const TLS_LOGIN: u16 = 4;

fn sasl(mechanism: &str, password: &Path) -> String {
    format!(
        "sasl = {{ mechanism = \"{mechanism}\", user = \"alice\", password = {{ file = \"{}\" }} }}\n",
        password.display()
    )
}

fn ca(server: &Server) -> String {
    server.dir.join("certs/ca.crt").display().to_string()
}

#[track_caller]
fn assert_stopped(outcome: Option<Outcome>, word: &str) {
    match outcome {
        Some(Outcome::Stop { reason }) => {
            assert!(reason.contains(word), "{reason}");
            assert!(!reason.contains("secret"), "no secret in {reason}");
        }
        other => panic!("not stopped: {other:?}"),
    }
}

#[test]
fn every_mechanism_logs_in_and_a_wrong_password_stops_the_sink_until_it_is_mended() {
    let Some(server) = servers::kafka("kafka::logins::every_mechanism") else {
        return;
    };
    let cluster = Cluster::real(server);
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let topic = cluster.topic(1);
        std::fs::write(&password, "not-the-secret\n").expect("written");
        let keys = keys(&listener(&cluster.addresses, LOGIN), &topic) + &sasl(mechanism, &password);
        let bench = Bench::with_timeout("kafka", &keys, Duration::from_secs(30));
        let lines = lines(30, 10);
        assert_stopped(bench.open().err(), "sasl");
        assert_stopped(Some(bench.send(records(&lines))), "sasl");
        assert!(
            bench
                .connect(false)
                .is_err_and(|reason| reason.contains("sasl"))
        );
        std::fs::write(&password, "alice-secret\n").expect("written");
        assert!(bench.secrets_changed());
        bench.open().expect("it goes on");
        all_delivered(bench.send(records(&lines)));
        assert_held(&cluster.read(&topic), &lines, mechanism);
    }
}

#[test]
fn both_sides_are_verified_before_a_byte_of_an_event_is_sent() {
    let Some(server) = servers::kafka("kafka::logins::both_sides_are_verified") else {
        return;
    };
    let cluster = Cluster::real(server);
    let topic = cluster.topic(1);
    let dir = tempfile::tempdir().expect("a directory");
    let others = Certificates::make(&dir.path().join("others"), "others");
    let client = |dir: &Path| {
        let file = |name: &str| dir.join(name).display().to_string();
        format!(
            "cert = \"{}\", key = \"{}\"",
            file("client.crt"),
            file("client.key")
        )
    };
    let ours = client(&server.dir.join("certs"));
    let theirs = client(&dir.path().join("others"));
    let other_ca = others.file("ca.crt").display().to_string();
    let port = |addresses: &str| listener(addresses, CERTIFICATE);
    let at = port(&cluster.addresses);
    let wrong: [(&str, String, &str); 4] = [
        (
            &at,
            format!("tls = {{ ca = \"{other_ca}\", {ours} }}\n"),
            "tls",
        ),
        (&at, format!("tls = {{ {ours} }}\n"), "tls"),
        (
            &at,
            format!("tls = {{ ca = \"{}\" }}\n", ca(server)),
            "certificate",
        ),
        (
            &at,
            format!("tls = {{ ca = \"{}\", {theirs} }}\n", ca(server)),
            "certificate",
        ),
    ];
    for (at, tls, word) in &wrong {
        let keys = keys(at, &topic) + tls;
        let bench = Bench::with_timeout("kafka", &keys, Duration::from_secs(15));
        assert_stopped(bench.open().err(), word);
        assert_stopped(Some(bench.send(records(&lines(31, 3)))), word);
    }
    assert_eq!(cluster.read(&topic).len(), 0);
    let right = keys(&at, &topic) + &format!("tls = {{ ca = \"{}\", {ours} }}\n", ca(server));
    let bench = Bench::new("kafka", &right);
    bench.open().expect("let in");
    let lines = lines(31, 30);
    all_delivered(bench.send(records(&lines)));
    assert_held(&cluster.read(&topic), &lines, "tls");
}

#[test]
fn a_login_over_tls_writes() {
    let Some(server) = servers::kafka("kafka::logins::a_login_over_tls_writes") else {
        return;
    };
    let cluster = Cluster::real(server);
    let topic = cluster.topic(1);
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    std::fs::write(&password, "alice-secret").expect("written");
    let keys = keys(&listener(&cluster.addresses, TLS_LOGIN), &topic)
        + &format!("tls = {{ ca = \"{}\" }}\n", ca(server))
        + &sasl("SCRAM-SHA-512", &password);
    let bench = Bench::new("kafka", &keys);
    let seen = bench.connect(false).expect("it can be reached");
    assert!(seen.iter().any(|line| line.contains(&topic)), "{seen:?}");
    bench.open().expect("open");
    let lines = lines(32, 30);
    all_delivered(bench.send(records(&lines)));
    assert_held(&cluster.read(&topic), &lines, "login over tls");
}

#[test]
fn a_topic_that_we_may_not_write_to_stops_the_sink() {
    let Some(server) = servers::kafka("kafka::logins::a_topic_that_we_may_not_write_to") else {
        return;
    };
    let cluster = Cluster::real(server);
    let topic = cluster.topic(1);
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    std::fs::write(&password, "alice-secret").expect("written");
    let acl = |action: &str, operation: &str| {
        server.command(&format!(
            "tool org.apache.kafka.tools.AclCommand --bootstrap-server {} --{action} --deny-principal User:alice --operation {operation} --topic {topic} --force",
            cluster.addresses
        ));
    };
    acl("add", "Write");
    let keys = keys(&listener(&cluster.addresses, LOGIN), &topic) + &sasl("PLAIN", &password);
    let bench = Bench::with_timeout("kafka", &keys, Duration::from_secs(30));
    assert_stopped(
        Some(bench.send(records(&lines(33, 3)))),
        "not allowed to write",
    );
    assert_eq!(
        read_all(&cluster.addresses, &topic, Isolation::Uncommitted).len(),
        0
    );
    acl("remove", "Write");
    bench.open().expect("it goes on");
    all_delivered(bench.send(records(&lines(33, 3))));
}

/// Impostors need no Kafka behind them: nobody gets as far as that.
#[test]
fn no_impostor_gets_a_byte_of_an_event() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = Certificates::make(&dir.path().join("ours"), "ours");
    let other = Certificates::make(&dir.path().join("other"), "other");
    std::thread::scope(|scope| {
        for impostor in impostors::all(&ours, &other) {
            scope.spawn(move || assert_stopped_by(&impostor));
        }
    });
}

fn assert_stopped_by(impostor: &Impostor) {
    let name = impostor.name;
    let front = TlsFront::start(impostor.face.clone(), None);
    let address = format!("{}:{}", impostor.host, front.port());
    let keys = keys(&address, "audit") + &format!("tls = {}\n", impostor.tls);
    let bench = Bench::with_timeout("kafka", &keys, Duration::from_secs(30));
    for outcome in [bench.open().err(), Some(bench.send(records(&lines(34, 3))))] {
        match outcome {
            Some(Outcome::Stop { reason }) => assert!(reason.contains("tls"), "{name}: {reason}"),
            other => panic!("{name} does not stop it: {other:?}"),
        }
    }
    assert!(front.connections() > 0, "{name} was never called");
    assert_eq!(front.application_bytes(), 0, "{name} got something");
}
