//! Who is let in: keys from files that rotate, the AWS default chain, certificates, clocks; and a server that goes away
//! and comes back.

use std::fs;
use std::path::Path;
use std::process::Command;

use auditship::clock::{ManualClock, Micros};

use super::*;
use crate::fakes::certificates::{Certificates, ClientCertificate};
use crate::fakes::http_server::{Answer, HttpServer, Request};
use crate::support::wait::unix_ms;

suite! {
    a_wrong_secret_stops_the_sink_and_a_right_one_heals_it,
    an_account_without_rights_stops_the_sink,
    an_unknown_account_stops_the_sink,
    a_wrong_region_stops_the_sink_and_the_right_one_is_named,
    a_clock_that_is_wrong_by_far_is_set_right_and_alarmed_once,
}

fn with_secret(target: &Target, secret: &Path) -> String {
    let line = format!("secret_key = \"{SECRET_KEY}\"");
    target.keys().replace(
        &line,
        &format!("secret_key = {{ file = \"{}\" }}", secret.display()),
    )
}

#[track_caller]
fn stopped<T: std::fmt::Debug>(result: Result<T, Outcome>, part: &str) {
    match result {
        Err(Outcome::Stop { reason }) => {
            assert!(reason.contains(part), "{reason}");
            assert!(!reason.contains(SECRET_KEY), "{reason}");
        }
        other => panic!("not stopped: {other:?}"),
    }
}

fn a_wrong_secret_stops_the_sink_and_a_right_one_heals_it(target: &Target) {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("secret");
    fs::write(&secret, "wrong\n").expect("written");
    let bench = Bench::new("s3", &with_secret(target, &secret));
    stopped(bench.open(), "correct `secret_key`");
    assert!(!bench.sink().secrets_changed());
    let told = bench.connect(false).expect_err("told");
    assert!(
        told.contains("SignatureDoesNotMatch") || told.contains("403"),
        "{told}"
    );
    fs::write(&secret, format!("{SECRET_KEY}\n")).expect("written");
    assert!(bench.sink().secrets_changed());
    bench.open().expect("it goes on");
    assert!(!bench.sink().secrets_changed());
    let lines = lines(30, 10);
    let all = records(&lines);
    all_delivered(bench.attempt(sealed(&bench, &all)));
    // Rotated while it runs: the next request has it.
    fs::write(&secret, "wrong again").expect("written");
    match bench.attempt(sealed(&bench, &all)) {
        Outcome::Stop { reason } => assert!(reason.contains("`secret_key`"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    fs::remove_file(&secret).expect("removed");
    match bench.attempt(sealed(&bench, &all)) {
        Outcome::Stop { reason } => assert!(reason.contains("no credentials"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    assert_held(target, &lines);
}

fn an_account_without_rights_stops_the_sink(target: &Target) {
    let keys = target
        .keys()
        .replace(SECRET_KEY, "guest-secret")
        .replace(&format!("\"{ACCESS_KEY}\""), "\"guest\"");
    stopped(Bench::new("s3", &keys).open(), "s3:PutObject");
}

fn an_unknown_account_stops_the_sink(target: &Target) {
    let keys = target
        .keys()
        .replace(&format!("\"{ACCESS_KEY}\""), "\"nobody\"");
    stopped(Bench::new("s3", &keys).open(), "`access_key`");
}

fn a_wrong_region_stops_the_sink_and_the_right_one_is_named(target: &Target) {
    let keys = target.keys() + "region = \"eu-west-1\"\n";
    stopped(Bench::new("s3", &keys).open(), "`region = \"us-east-1\"`");
}

fn a_clock_that_is_wrong_by_far_is_set_right_and_alarmed_once(target: &Target) {
    let all = records(&lines(31, 5));
    for minutes in [20, -20, 60 * 24 * 400] {
        let now = Micros((unix_ms() + minutes * 60_000) * 1000);
        let bench = Bench::within("s3", &target.keys(), |context| {
            context.clock = Arc::new(ManualClock::at(now));
        });
        let opened = bench.open().expect("open");
        assert_eq!(opened.alarms.len(), 1, "{opened:?}");
        assert_eq!(opened.alarms[0].reason, "clock_skew");
        let direction = if minutes > 0 { "ahead of" } else { "behind" };
        assert!(opened.alarms[0].message.contains(direction), "{opened:?}");
        all_delivered(bench.attempt(sealed(&bench, &all)));
    }
}

#[test]
fn a_clock_that_goes_wrong_between_attempts_costs_none_of_them() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("the fake");
    let bench = target.bench();
    let all = records(&lines(32, 5));
    all_delivered(bench.attempt(sealed(&bench, &all[..2])));
    fake.set_clock_ahead(3600);
    let (_, alarms) = delivered(bench.attempt(sealed(&bench, &all[2..])));
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    all_delivered(bench.attempt(sealed(&bench, &all[2..])));
}

#[test]
fn temporary_credentials_that_expire_stop_the_sink_until_their_files_are_renewed() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("the fake");
    fake.session_token(Some("first"));
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    fs::write(&token, "first").expect("written");
    let keys = format!(
        "{}session_token = {{ file = \"{}\" }}\n",
        target.keys(),
        token.display()
    );
    let bench = Bench::new("s3", &keys);
    bench.open().expect("open");
    let all = records(&lines(33, 5));
    all_delivered(bench.attempt(sealed(&bench, &all)));
    fake.session_token(Some("second"));
    match bench.attempt(sealed(&bench, &all)) {
        Outcome::Stop { reason } => assert!(reason.contains("ExpiredToken"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    fs::write(&token, "second").expect("written");
    bench.open().expect("it goes on");
    all_delivered(bench.attempt(sealed(&bench, &all)));
}

#[test]
fn a_certificate_that_is_not_trusted_stops_the_sink_before_anything_is_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = Certificates::make(&dir.path().join("ours"), "ours");
    let theirs = Certificates::make(&dir.path().join("theirs"), "theirs");
    let fake = FakeS3::start_with(Some(theirs.server_config(ClientCertificate::No)));
    let target = Target {
        url: fake.url(),
        fake: Some(fake),
        ca: Some(theirs.file("ca.crt")),
        unique: unique(),
    };
    let keys = |ca: &Certificates| {
        format!(
            "{}tls = {{ ca = \"{}\" }}\n",
            target.keys(),
            ca.file("ca.crt").display()
        )
    };
    let bench = Bench::new("s3", &keys(&ours));
    stopped(bench.open(), "tls");
    match bench.attempt(sealed(&bench, &records(&lines(34, 5)))) {
        Outcome::Stop { reason } => assert!(reason.contains("certificate"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    let named = format!(
        "{}tls = {{ ca = \"{}\", server_name = \"elsewhere.example\" }}\n",
        target.keys(),
        theirs.file("ca.crt").display()
    );
    stopped(Bench::new("s3", &named).open(), "tls");
    let fake = target.fake.as_ref().expect("the fake");
    assert_eq!(fake.hosts(), Vec::<String>::new(), "a request arrived");
    let bench = Bench::new("s3", &keys(&theirs));
    bench.open().expect("open");
    let lines = lines(34, 5);
    all_delivered(bench.attempt(sealed(&bench, &records(&lines))));
    assert_held(&target, &lines);
}

#[test]
fn a_real_server_with_an_authority_of_its_own_is_trusted_when_it_is_named() {
    let Some(server) = servers::s3_secure("s3::a_real_server_with_an_authority_of_its_own") else {
        return;
    };
    let ca = server.dir.join("certs/ca.crt");
    let target = Target {
        ca: Some(ca.clone()),
        ..Target::real(server)
    };
    stopped(Bench::new("s3", &target.keys()).open(), "tls");
    let bench = Bench::new(
        "s3",
        &format!("{}tls = {{ ca = \"{}\" }}\n", target.keys(), ca.display()),
    );
    bench.open().expect("open");
    assert!(bench.sink().certificate_expiry().is_some());
    let lines = lines(35, 50);
    all_delivered(bench.attempt(sealed(&bench, &records(&lines))));
    assert_held(&target, &lines);
}

#[test]
fn a_server_that_is_killed_in_the_middle_gets_each_object_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let test = "s3::a_server_that_is_killed_in_the_middle";
    let Some(server) = servers::s3_on(test, dir.path(), None) else {
        return;
    };
    let target = Target::real(&server);
    let port = server
        .url
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let bench = target.bench();
    let lines = lines(36, 60);
    let all = records(&lines);
    let batch = |range: std::ops::Range<usize>| sealed(&bench, &all[range]);
    all_delivered(bench.attempt(batch(0..20)));
    drop(server);
    match bench.attempt(batch(20..40)) {
        Outcome::Retry { .. } => {}
        other => panic!("not retried: {other:?}"),
    }
    let again = servers::s3_on(test, dir.path(), port).expect("it was there a moment ago");
    for range in [0..20, 20..40, 40..60] {
        all_delivered(bench.attempt(batch(range)));
    }
    assert_held(&target, &lines);
    drop(again);
}

/// The agent's own `check --connect` with nothing but these variables, and without keys in its configuration.
fn connects(target: &Target, variables: &[(&str, String)]) -> (bool, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let keys: String = target
        .keys()
        .lines()
        .filter(|line| !line.contains("_key ="))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = dir.path().join("audit.toml");
    let text = format!(
        "[agent]\ncluster = \"c\"\nnode = \"n\"\nstate_dir = \"{0}/state\"\n[[source]]\nname = \"apiserver\"\ntype = \"file\"\npath = \"{0}/audit.log\"\n[[sink]]\nname = \"archive\"\ntype = \"s3\"\n{keys}",
        dir.path().display()
    );
    fs::write(&config, text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_auditship"))
        .args(["check", "--connect"])
        .arg(&config)
        .env_clear()
        .env("HOME", dir.path())
        // Nobody asks the machine that runs the tests, unless a test says where.
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
        .envs(
            variables
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        )
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout) + &text(&output.stderr),
    )
}

/// A server that gives credentials in each of the ways that machines and clusters do.
fn giver() -> HttpServer {
    let json = format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"LastUpdated\":\"2026-01-01T00:00:00Z\",\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\"Token\":\"temporary\",\"Expiration\":\"2099-01-01T00:00:00Z\"}}"
    );
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>temporary</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    );
    HttpServer::start(None, move |request: Request| {
        match (request.method.as_str(), request.path.as_str()) {
            ("PUT", "/latest/api/token") => {
                Answer::text(200, "token").with("x-aws-ec2-metadata-token-ttl-seconds", 21600)
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") => Answer::text(200, "role"),
            ("GET", "/latest/meta-data/iam/security-credentials/role" | "/container") => {
                Answer::json(200, json.clone())
            }
            ("POST", "/")
                if String::from_utf8_lossy(&request.body).contains("the-web-identity") =>
            {
                Answer {
                    content_type: Some("text/xml"),
                    ..Answer::json(200, xml.clone())
                }
            }
            _ => Answer::empty(404),
        }
    })
}

#[test]
fn credentials_come_from_wherever_aws_programs_look_for_them() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("the fake");
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let giver = giver();
    let url = format!("http://{}", giver.address());
    let profile = format!(
        "[other]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    let lasting = [
        vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ],
        vec![
            ("AWS_SHARED_CREDENTIALS_FILE", file("credentials", profile)),
            ("AWS_PROFILE", "other".to_owned()),
        ],
    ];
    for variables in lasting {
        let (good, said) = connects(&target, &variables);
        assert!(good, "{variables:?}: {said}");
    }
    fake.session_token(Some("temporary"));
    let temporary = [
        vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.clone())],
        vec![(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{url}/container"),
        )],
        vec![
            (
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                file("token", "the-web-identity".to_owned()),
            ),
            (
                "AWS_ROLE_ARN",
                "arn:aws:iam::111122223333:role/audit".to_owned(),
            ),
            ("AWS_ENDPOINT_URL_STS", url),
        ],
    ];
    for variables in temporary {
        let (good, said) = connects(&target, &variables);
        assert!(good, "{variables:?}: {said}");
    }
    let (good, said) = connects(&target, &[]);
    assert!(!good && said.contains("no credentials"), "{said}");
}
