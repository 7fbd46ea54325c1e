//! Who is let in, and whom we trust: passwords, tokens, tenants, certificates, on the fake and on the real server.

use auditship::sinks::Outcome;

use super::driver::{Driver, Target};
use super::{assert_held, lines, recent};
use crate::fakes::certificates::{Certificates, ClientCertificate};
use crate::fakes::loki::{FakeLoki, Login};
use crate::support::servers;

#[track_caller]
fn stopped(outcome: Result<(), Outcome>) -> String {
    match outcome {
        Err(Outcome::Stop { reason }) => reason,
        other => panic!("not stopped: {other:?}"),
    }
}

fn attempt(driver: &Driver) -> Result<(), Outcome> {
    match driver.attempt(&recent(&lines(40, 3)), false) {
        Outcome::Delivered { .. } => Ok(()),
        other => Err(other),
    }
}

#[test]
fn a_wrong_login_stops_the_sink_until_it_is_mended() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("a fake");
    fake.let_in(Login::Authorization("Basic YWxpY2U6cmlnaHQ=".to_owned()));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("password");
    std::fs::write(&file, "wrong\n").expect("write");
    let auth = format!(
        "auth = {{ basic = {{ user = \"alice\", password = {{ file = \"{}\" }} }} }}",
        file.display()
    );
    let driver = Driver::new(&target.keys(&auth));
    for outcome in [driver.open(), attempt(&driver)] {
        let reason = stopped(outcome);
        assert!(
            reason.contains("`auth`") && !reason.contains("wrong"),
            "{reason}"
        );
    }
    assert!(
        driver
            .connect(false)
            .expect_err("not let in")
            .contains("401")
    );
    assert!(!driver.secrets_changed());
    std::fs::write(&file, "right\n").expect("write");
    assert!(driver.secrets_changed());
    driver.open().expect("it goes on");
    attempt(&driver).expect("stored");
    assert_eq!(target.lines().len(), 3);
}

#[test]
fn a_bearer_token_is_sent_as_it_is() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("a fake");
    fake.let_in(Login::Authorization("Bearer abc.def".to_owned()));
    attempt(&Driver::new(
        &target.keys("auth = { bearer = \"abc.def\" }"),
    ))
    .expect("stored");
    let reason = stopped(attempt(&Driver::new(
        &target.keys("auth = { bearer = \"other\" }"),
    )));
    assert!(!reason.contains("other"), "{reason}");
}

#[test]
fn tenants_are_kept_apart_and_a_wrong_one_stops_the_sink() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("a fake");
    fake.tenants(true);
    fake.block(&["9"]);
    let driver = |tenant: &str| Driver::new(&target.keys(&format!("tenant = \"{tenant}\"")));
    attempt(&driver("7")).expect("stored");
    assert_eq!(
        (
            target.lines_of(Some(7)).len(),
            target.lines_of(Some(8)).len()
        ),
        (3, 0)
    );
    let none = Driver::new(&target.keys(""));
    for outcome in [none.open(), attempt(&none)] {
        assert!(stopped(outcome).contains("`tenant`"));
    }
    assert!(stopped(attempt(&driver("a:b"))).contains("`tenant`"));
    let blocked = driver("9");
    assert!(stopped(blocked.open()).contains("ingestion blocked"));
    assert!(stopped(attempt(&blocked)).contains("nothing is stored"));
}

#[test]
fn a_tenant_of_victorialogs_is_a_number_and_another_stops_the_sink() {
    let name = "a_tenant_of_victorialogs_is_a_number_and_another_stops_the_sink";
    let Some(server) = servers::loki_api(name) else {
        return;
    };
    let target = Target::real(server);
    attempt(&Driver::new(&target.keys("tenant = \"7\""))).expect("stored");
    assert_eq!(
        (target.lines_of(Some(7)).len(), target.lines().len()),
        (3, 0)
    );
    let other = Driver::new(&target.keys("tenant = \"platform\""));
    assert!(stopped(attempt(&other)).contains("`tenant`"));
}

#[test]
fn another_server_than_loki_stops_the_sink() {
    let target = Target::fake();
    let elsewhere = format!("{}/elsewhere", target.url);
    let keys = target.keys("").replace(&target.url, &elsewhere);
    attempt(&Driver::new(&keys)).expect("a path is kept, and this fake takes any");
    let fake = crate::fakes::elasticsearch::FakeElasticsearch::start();
    fake.forbid("/loki", 404);
    let keys = target.keys("").replace(&target.url, &fake.url());
    assert!(stopped(attempt(&Driver::new(&keys))).contains("`endpoint`"));
}

#[test]
fn tls_is_verified_on_both_sides() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ours = Certificates::make(&dir.path().join("ours"), "ours");
    let other = Certificates::make(&dir.path().join("other"), "other");
    let fake = FakeLoki::start_with(Some(ours.server_config(ClientCertificate::Required)));
    fake.let_in(Login::Certificate);
    let url = fake.url().replace("127.0.0.1", "localhost");
    let keys = |ca: &Certificates, client: Option<&Certificates>, more: &str| {
        let client = client.map_or(String::new(), |pair| {
            format!(
                ", cert = \"{}\", key = \"{}\"",
                pair.file("client.crt").display(),
                pair.file("client.key").display()
            )
        });
        let ca = ca.file("ca.crt");
        format!(
            "endpoint = \"{url}\"\ntls = {{ ca = \"{}\"{client}{more} }}\n",
            ca.display()
        )
    };
    for (name, keys) in [
        ("another authority", keys(&other, Some(&ours), "")),
        (
            "another name",
            keys(&ours, Some(&ours), ", server_name = \"other.example\""),
        ),
        ("no client certificate", keys(&ours, None, "")),
        (
            "a client certificate of another authority",
            keys(&ours, Some(&other), ""),
        ),
    ] {
        // The server may judge a client certificate after the client has gone on; the next attempt sees it.
        let driver = Driver::new(&keys);
        let stopped = (0..20).any(|_| match attempt(&driver) {
            Err(Outcome::Stop { .. }) => true,
            Err(Outcome::Retry { .. }) => false,
            other => panic!("{name}: {other:?}"),
        });
        assert!(stopped, "{name}: never called a mistake");
    }
    assert_eq!(fake.pushes(), 0, "not one byte of an event was taken");
    attempt(&Driver::new(&keys(&ours, Some(&ours), ""))).expect("stored");
    assert_eq!(fake.lines().len(), 3);
}

#[test]
fn the_real_server_is_reached_over_tls_with_a_password() {
    let name = "the_real_server_is_reached_over_tls_with_a_password";
    let Some(server) = servers::loki_api_secure(name) else {
        return;
    };
    // `writer:writer-secret`.
    let target = Target::real_as(server, "d3JpdGVyOndyaXRlci1zZWNyZXQ=");
    let keys = |password: &str| {
        let ca = server.dir.join("certs/ca.crt");
        target.keys(&format!(
            "tls = {{ ca = \"{}\" }}\nauth = {{ basic = {{ user = \"writer\", password = \"{password}\" }} }}",
            ca.display()
        ))
    };
    stopped(Driver::new(&keys("wrong")).open());
    let all = lines(41, 50);
    let mut driver = Driver::new(&keys("writer-secret"));
    driver.open().expect("open");
    driver.send(&recent(&all));
    assert_held(&target, &all, &driver);
}
