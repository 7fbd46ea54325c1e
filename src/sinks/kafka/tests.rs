//! What a configuration may say, and what librdkafka is told for it. The sink as a whole is tested against brokers by
//! the contract suite under `tests/`.

use std::path::Path;

use super::Config;
use super::options;
use super::settings::{Key, Settings};
use crate::config::Document;
use crate::sinks::SinkConfig as _;

const SHORTEST: &str = "brokers = [\"h:9092\"]\ntopic = \"audit\"\n";

fn read(text: &str) -> Result<Settings, String> {
    let document =
        Document::parse("test.toml", text, Path::new(".")).map_err(|error| error.render(false))?;
    let settings = Settings::read(&mut document.root());
    document.finish().map_err(|error| error.render(false))?;
    Ok(settings.expect("no mistakes were reported"))
}

#[track_caller]
fn check_error(more: &str, expected: &str) {
    let error = read(&format!("{SHORTEST}{more}")).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[track_caller]
fn told(more: &str) -> impl Fn(&str) -> Option<String> {
    let settings = read(&format!("{SHORTEST}{more}")).unwrap_or_else(|error| panic!("{error}"));
    let config = options::producer(&settings, 1 << 20, None).unwrap();
    move |name| config.get(name).map(str::to_owned)
}

#[test]
fn what_delivery_relies_on_is_always_told() {
    for more in ["", "options = { \"linger.ms\" = \"50\" }\n", "tls = {}\n"] {
        let told = told(more);
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("message.timeout.ms", "0"),
            ("enable.ssl.certificate.verification", "true"),
            ("ssl.endpoint.identification.algorithm", "https"),
            ("compression.type", "zstd"),
        ] {
            assert_eq!(told(name).as_deref(), Some(value), "{name}");
        }
    }
}

#[test]
fn options_of_the_user_are_beside_ours() {
    let told = told("options = { \"linger.ms\" = \"50\", \"message.max.bytes\" = \"8000000\" }\n");
    assert_eq!(told("linger.ms").as_deref(), Some("50"));
    assert_eq!(told("message.max.bytes").as_deref(), Some("8000000"));
}

#[test]
fn options_that_are_ours_are_refused_by_name_at_their_place() {
    for name in [
        "bootstrap.servers",
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "enable.ssl.certificate.verification",
        "ssl.endpoint.identification.algorithm",
        "ssl.ca.location",
        "security.protocol",
        "sasl.password",
        "sasl.kerberos.kinit.cmd",
        "plugin.library.paths",
        "transactional.id",
    ] {
        let more = format!("options = {{ \"{name}\" = \"1\" }}\n");
        check_error(&more, &format!("the option `{name}` cannot be set"));
        check_error(&more, "test.toml:3:");
    }
    check_error(
        "options = { \"no.such\" = \"1\" }\n",
        "refuses the option `no.such`",
    );
    check_error(
        "options = { \"linger.ms\" = \"soon\" }\n",
        "refuses the option `linger.ms`",
    );
}

#[test]
fn login_and_tls_decide_the_protocol() {
    const LOGIN: &str =
        "sasl = { mechanism = \"SCRAM-SHA-512\", user = \"u\", password = \"p\" }\n";
    for (more, protocol) in [
        (String::new(), "plaintext"),
        (LOGIN.to_owned(), "sasl_plaintext"),
        ("tls = {}\n".to_owned(), "ssl"),
        (format!("tls = {{}}\n{LOGIN}"), "sasl_ssl"),
    ] {
        assert_eq!(told(&more)("security.protocol").as_deref(), Some(protocol));
    }
    let told = told(LOGIN);
    assert_eq!(told("sasl.mechanism").as_deref(), Some("SCRAM-SHA-512"));
    assert_eq!(told("sasl.username").as_deref(), Some("u"));
}

#[test]
fn mistakes_say_what_is_allowed() {
    let check = |text: &str, expected: &str| {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check("topic = \"a\"\n", "brokers");
    check("brokers = [\"h:1\"]\n", "topic");
    check("brokers = []\ntopic = \"a\"\n", "no broker is named");
    check("brokers = [\"h\"]\ntopic = \"a\"\n", "the port is missing");
    check("brokers = [\"h:x\"]\ntopic = \"a\"\n", "this is no port");
    check(
        "brokers = [\"a:1,b:2\"]\ntopic = \"a\"\n",
        "this is no host name",
    );
    check(
        "brokers = [\"https://h:1\"]\ntopic = \"a\"\n",
        "a broker is no URL",
    );
    check(
        "brokers = [\"h:1\"]\ntopic = \"a b\"\n",
        "cannot be in the name of a topic",
    );
    check(
        "brokers = [\"h:1\"]\ntopic = \"{audit.verb}\"\n",
        "must begin with a literal prefix",
    );
    check_error("compression = \"snappy\"\n", "zstd");
    check_error(
        "sasl = { mechanism = \"GSSAPI\", user = \"u\", password = \"p\" }\n",
        "PLAIN",
    );
    check_error(
        "tls = { cert = \"/nowhere\" }\n",
        "a certificate without its key",
    );
    check_error("tls = { verify = false }\n", "verify");
    check_error("transactional = {}\n", "marker_topic");
    check_error(
        "transactional = { marker_topic = \"audit\" }\n",
        "need two topics",
    );
    check_error(
        "transactional = { marker_topic = \"m-{audit.verb}\" }\n",
        "without placeholders",
    );
}

#[test]
fn order_and_transactions_allow_one_attempt_at_a_time() {
    let most = |key, marker_topic: Option<&str>| {
        let mut settings = read(SHORTEST).unwrap();
        settings.key = key;
        settings.marker_topic = marker_topic.map(str::to_owned);
        Config(settings.into())
            .concurrency_max()
            .map(|(most, _)| most)
    };
    assert_eq!(most(Key::Id, None), None);
    assert_eq!(most(Key::Origin, None), Some(1));
    assert_eq!(most(Key::Id, Some("markers")), Some(1));
}
