//! Who is let in, and whom we trust: passwords, API keys, certificates, on the fake and on real servers.

use auditship::sinks::Outcome;
use serde_json::{Value, json};

use super::{assert_held, lines};
use crate::contract::bench::{Bench, Target, all_delivered, records};
use crate::fakes::certificates::{Certificates, ClientCertificate};
use crate::fakes::elasticsearch::{FakeElasticsearch, Flavor, Login};
use crate::support::servers;

#[test]
fn a_wrong_login_stops_the_sink_until_it_is_mended() {
    for flavor in [Flavor::OpenSearch, Flavor::Elasticsearch] {
        let fake = FakeElasticsearch::start_as(flavor, None);
        fake.let_in(Login::Authorization("Basic YWxpY2U6cmlnaHQ=".to_owned()));
        let keys = format!(
            "endpoints = [\"{}\"]\nindex = \"audit-x\"\ntemplate = \"own\"\n[auth]\nbasic = {{ user = \"alice\", password = \"wrong\" }}\n",
            fake.url()
        );
        let bench = Bench::new("elasticsearch", &keys);
        match bench.send(records(&lines(27, 3))) {
            Outcome::Stop { reason } => assert!(!reason.contains("wrong"), "no secret in {reason}"),
            other => panic!("not stopped: {other:?}"),
        }
        assert!(fake.refused_logins() > 0);
        fake.let_in(Login::Authorization("Basic YWxpY2U6d3Jvbmc=".to_owned()));
        all_delivered(bench.send(records(&lines(27, 3))));
        assert_eq!(fake.count("audit-x"), 3);
    }
}

#[test]
fn an_api_key_is_sent_as_it_is() {
    let fake = FakeElasticsearch::start_as(Flavor::Elasticsearch, None);
    fake.let_in(Login::Authorization("ApiKey aWQ6a2V5".to_owned()));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("key");
    std::fs::write(&file, "aWQ6a2V5\n").expect("write");
    let keys = format!(
        "endpoints = [\"{}\"]\nindex = \"audit-x\"\ntemplate = \"own\"\n[auth]\napi_key = {{ file = \"{}\" }}\n",
        fake.url(),
        file.display()
    );
    all_delivered(Bench::new("elasticsearch", &keys).send(records(&lines(28, 3))));
    assert_eq!(fake.count("audit-x"), 3);
}

#[test]
fn tls_is_verified_on_both_sides() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ours = Certificates::make(&dir.path().join("ours"), "ours");
    let other = Certificates::make(&dir.path().join("other"), "other");
    let tls = ours.server_config(ClientCertificate::Required);
    let fake = FakeElasticsearch::start_as(Flavor::OpenSearch, Some(tls));
    fake.let_in(Login::Certificate);
    let url = fake.url().replace("127.0.0.1", "localhost");
    let keys = |ca: &Certificates, client: Option<&Certificates>| {
        let client = client.map_or(String::new(), |pair| {
            format!(
                ", cert = \"{}\", key = \"{}\"",
                pair.file("client.crt").display(),
                pair.file("client.key").display()
            )
        });
        format!(
            "endpoints = [\"{url}\"]\nindex = \"audit-x\"\ntemplate = \"own\"\ntls = {{ ca = \"{}\"{client} }}\n",
            ca.file("ca.crt").display()
        )
    };
    for (name, keys) in [
        ("another authority", keys(&other, Some(&ours))),
        ("no client certificate", keys(&ours, None)),
        (
            "a client certificate of another authority",
            keys(&ours, Some(&other)),
        ),
    ] {
        // In TLS 1.3 the server judges a client certificate after the client has gone on, and its alert can come too
        // late for the attempt; the next one, which delivery makes, sees it.
        let bench = Bench::new("elasticsearch", &keys);
        let stopped = (0..20).any(|_| match bench.send(records(&lines(29, 2))) {
            Outcome::Stop { .. } => true,
            Outcome::Retry { .. } => false,
            other => panic!("{name}: {other:?}"),
        });
        assert!(stopped, "{name}: never called a mistake");
    }
    assert_eq!(fake.bulk_requests(), 0, "not one byte of an event was sent");
    all_delivered(
        Bench::new("elasticsearch", &keys(&ours, Some(&ours))).send(records(&lines(29, 2))),
    );
    assert_eq!(fake.count("audit-x"), 2);
}

#[test]
fn a_server_that_asks_for_no_certificate_is_verified_all_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ours = Certificates::make(&dir.path().join("ours"), "ours");
    for client in [ClientCertificate::No, ClientCertificate::Optional] {
        let fake =
            FakeElasticsearch::start_as(Flavor::Elasticsearch, Some(ours.server_config(client)));
        let url = fake.url().replace("127.0.0.1", "localhost");
        let keys = |tls: &str| {
            format!("endpoints = [\"{url}\"]\nindex = \"audit-x\"\ntemplate = \"own\"\n{tls}\n")
        };
        let ca = ours.file("ca.crt");
        // The certificate is for localhost; a server of another name is another server.
        let other = format!(
            "tls = {{ ca = \"{}\", server_name = \"other.example\" }}",
            ca.display()
        );
        for (name, tls) in [("an unknown authority", ""), ("another name", &other)] {
            match Bench::new("elasticsearch", &keys(tls)).send(records(&lines(35, 2))) {
                Outcome::Stop { .. } => {}
                outcome => panic!("{name}: {outcome:?}"),
            }
        }
        assert_eq!(fake.bulk_requests(), 0, "not one byte of an event was sent");
        let tls = format!("tls = {{ ca = \"{}\" }}", ca.display());
        all_delivered(Bench::new("elasticsearch", &keys(&tls)).send(records(&lines(35, 2))));
    }
}

#[test]
fn opensearch_with_security_takes_a_certificate_and_names_a_wrong_password() {
    let Some(server) = servers::opensearch_secure("opensearch_with_security") else {
        return;
    };
    let target = Target::real_as(server, servers::ADMIN);
    let name = target.data_stream();
    let certs = server.dir.join("certs");
    let keys = |auth: &str| {
        format!(
            "endpoints = [\"{}\"]\ndata_stream = \"{name}\"\ntls = {{ ca = \"{c}/ca.crt\" {auth} }}\n",
            target.url.replace("127.0.0.1", "localhost"),
            c = certs.display()
        )
    };
    let wrong = Bench::new(
        "elasticsearch",
        &format!(
            "{}[auth]\nbasic = {{ user = \"writer\", password = \"no\" }}\n",
            keys("")
        ),
    );
    match wrong.send(records(&lines(31, 2))) {
        Outcome::Stop { reason } => assert!(reason.contains("401"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    let bench = Bench::new(
        "elasticsearch",
        &keys(&format!(
            ", cert = \"{c}/client.crt\", key = \"{c}/client.key\"",
            c = certs.display()
        )),
    );
    bench.connect(true).expect("setup");
    bench.open().expect("open");
    let lines = lines(31, 200);
    all_delivered(bench.send(records(&lines)));
    all_delivered(bench.send_in_doubt(records(&lines)));
    assert_held(&target, &name, &lines);
}

#[test]
fn elasticsearch_takes_an_api_key_and_names_a_revoked_one() {
    let Some(server) = servers::elasticsearch("elasticsearch_takes_an_api_key") else {
        return;
    };
    let target = Target::real_as(server, servers::ADMIN);
    let made = target.http.ok(
        "POST",
        "/_security/api_key",
        r#"{"name":"agent","role_descriptors":{"agent":{"cluster":["monitor"],
            "index":[{"names":["audit*"],"privileges":["create_doc","auto_configure","read"]}]}}}"#,
    );
    let made: Value = serde_json::from_slice(&made).expect("a key");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let key = dir.path().join("key");
    std::fs::write(&key, made["encoded"].as_str().expect("encoded")).expect("write");
    let keys = format!(
        "endpoints = [\"{}\"]\nindex = \"{}\"\ntemplate = \"own\"\ntls = {{ ca = \"{}\" }}\n[auth]\napi_key = {{ file = \"{}\" }}\n",
        target.url.replace("127.0.0.1", "localhost"),
        target.index(),
        server.dir.join("certs/ca.crt").display(),
        key.display()
    );
    target.make_index();
    let bench = Bench::new("elasticsearch", &keys);
    bench.open().expect("open");
    let lines = lines(32, 200);
    all_delivered(bench.send(records(&lines)));
    all_delivered(bench.send_in_doubt(records(&lines)));
    assert_held(&target, &target.index(), &lines);
    let revoke = json!({"ids": [made["id"]]}).to_string();
    target.http.ok("DELETE", "/_security/api_key", revoke);
    match bench.send(records(&lines)) {
        Outcome::Stop { reason } => assert!(reason.contains("401"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
}
