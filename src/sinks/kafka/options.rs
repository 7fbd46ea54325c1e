//! What librdkafka is told: our own options, those of the user beside them, and which the user may not set.
//!
//! Invariants: idempotent, acks=all, without a message timeout (the spool owns time); both verifications of TLS are
//! on; nothing that the user sets can change any of that.

use std::ops::RangeInclusive;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use super::settings::{Compression, Settings};

/// Where the user says nothing, a record may be as large as a line of the default `line_max` with its headers. Far
/// above librdkafka's own 1 MB: what the brokers take is theirs to say, and they measure it compressed.
pub(super) const MESSAGE_BYTES_MAX: usize = (4 << 20) + (128 << 10);

/// Longest answer of a broker that is read. Those of a producer are small; what says it is longer is no broker.
const ANSWER_BYTES_MAX: &str = "16777216";

/// Options that a user cannot set, with the reason why not.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is `brokers`"),
    ("metadata.broker.list", "it is `brokers`"),
    ("compression.codec", "it is `compression`"),
    ("compression.type", "it is `compression`"),
    ("enable.idempotence", IDEMPOTENCE),
    ("acks", IDEMPOTENCE),
    ("request.required.acks", IDEMPOTENCE),
    ("retries", IDEMPOTENCE),
    ("message.send.max.retries", IDEMPOTENCE),
    ("max.in.flight", IDEMPOTENCE),
    ("max.in.flight.requests.per.connection", IDEMPOTENCE),
    (
        "enable.gapless.guarantee",
        "a record that a broker refuses is a dead letter, not the end",
    ),
    ("message.timeout.ms", TIME),
    ("delivery.timeout.ms", TIME),
    ("transaction.timeout.ms", TIME),
    ("transactional.id", "it is `transactional`"),
    ("queue.buffering.max.messages", MEMORY),
    ("queue.buffering.max.kbytes", MEMORY),
    ("receive.message.max.bytes", MEMORY),
    (
        "isolation.level",
        "the marker topic is always read committed",
    ),
    ("fetch.max.bytes", MEMORY),
    ("fetch.message.max.bytes", MEMORY),
    ("max.partition.fetch.bytes", MEMORY),
    ("queued.max.messages.kbytes", MEMORY),
    ("group.id", "it consumes nothing in a group"),
    (
        "enable.partition.eof",
        "the end of the marker topic must be seen",
    ),
    (
        "auto.offset.reset",
        "the marker topic is read from its start",
    ),
    ("log.queue", "log lines come through the agent's own log"),
    (
        "client.dns.lookup",
        "certificates are verified for the names as they are configured",
    ),
    ("https.ca.location", "it is `tls`"),
    ("https.ca.pem", "it is `tls`"),
];

const IDEMPOTENCE: &str = "every event is stored once and by all replicas in sync";
const TIME: &str =
    "how long an attempt may take says `timeout`, and the spool keeps what is not delivered";
const MEMORY: &str = "memory is bounded by `batch.bytes`";

/// Families of options that are ours whole: what they would change is decided by `sasl` and `tls`, or they are not
/// for production.
const OUR_FAMILIES: &[(&str, &str)] = &[
    ("sasl.", "it is `sasl`"),
    ("security.", "it is `tls` and `sasl`"),
    ("enable.sasl.", "it is `sasl`"),
    ("ssl.", "it is `tls`"),
    ("enable.ssl.", "certificates are always verified"),
    ("plugin.", "no code is loaded at run time"),
    ("test.", "it is for tests of librdkafka"),
];

/// Options of those families that weaken no verification.
const HARMLESS: &[&str] = &["ssl.cipher.suites", "ssl.curves.list", "ssl.sigalgs.list"];

/// What is wrong with an option of the user's, and what to do.
pub(super) fn problem(name: &str, value: &str) -> Option<(String, String)> {
    let ours = OURS.iter().find(|(ours, _)| *ours == name);
    let family = OUR_FAMILIES
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix) && !HARMLESS.contains(&name));
    if let Some((_, why)) = ours.or(family) {
        return Some((
            format!("the option `{name}` cannot be set: {why}"),
            "take it out".to_owned(),
        ));
    }
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(_, problem, ..)) => Some((
            format!("librdkafka refuses the option `{name}`: {}", problem.trim()),
            "see librdkafka's CONFIGURATION.md for names and values".to_owned(),
        )),
        Err(error) => Some((
            format!("librdkafka refuses the option `{name}`: {error}"),
            "take it out".to_owned(),
        )),
    }
}

/// The largest record, key and headers included.
pub(super) fn message_bytes_max(settings: &Settings) -> usize {
    settings
        .options
        .get("message.max.bytes")
        .and_then(|text| text.parse().ok())
        .unwrap_or(MESSAGE_BYTES_MAX)
}

/// What every client of librdkafka is told here. Fails where a secret cannot be read.
pub(super) fn client(settings: &Settings) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    // Defaults that a user may change.
    config
        .set("client.id", "auditship")
        .set("reconnect.backoff.ms", "100")
        // A broker that comes back is seen within seconds, not within librdkafka's ten.
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.connection.setup.timeout.ms", "10000")
        .set("socket.keepalive.enable", "true");
    for (name, value) in &settings.options {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", settings.brokers.join(","))
        .set("receive.message.max.bytes", ANSWER_BYTES_MAX)
        .set("enable.ssl.certificate.verification", "true")
        .set("ssl.endpoint.identification.algorithm", "https")
        .set(
            "security.protocol",
            match (&settings.tls, &settings.sasl) {
                (None, None) => "plaintext",
                (None, Some(_)) => "sasl_plaintext",
                (Some(_), None) => "ssl",
                (Some(_), Some(_)) => "sasl_ssl",
            },
        );
    if let Some(files) = &settings.tls {
        let named = [
            ("ssl.ca.location", &files.ca),
            ("ssl.certificate.location", &files.cert),
            ("ssl.key.location", &files.key),
        ];
        for (name, path) in named {
            let Some(path) = path else { continue };
            let text = path
                .to_str()
                .ok_or_else(|| format!("the path {} is not UTF-8", path.display()))?;
            config.set(name, text);
        }
    }
    if let Some(sasl) = &settings.sasl {
        config
            .set("sasl.mechanism", sasl.mechanism.word())
            .set("sasl.username", sasl.user.reveal()?.as_str())
            .set("sasl.password", sasl.password.reveal()?.as_str());
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    Ok(config)
}

/// What makes a producer transactional.
pub(super) struct Transactional {
    /// The transactional id.
    pub(super) id: String,
    /// `timeout`: brokers abort what takes longer, so that a dead agent holds no reader back for long.
    pub(super) timeout: Duration,
}

/// Least and greatest time of a transaction, in milliseconds: a request of librdkafka's needs some; brokers refuse more
/// unless they are told otherwise.
const TRANSACTION_MS: RangeInclusive<u128> = 10_000..=900_000;

/// What a producer is told. `queue_bytes` is the most that may wait in it.
pub(super) fn producer(
    settings: &Settings,
    queue_bytes: usize,
    transactional: Option<&Transactional>,
) -> Result<ClientConfig, String> {
    let mut config = client(settings)?;
    let mut default = |name: &str, value: String| {
        if !settings.options.contains_key(name) {
            config.set(name, value);
        }
    };
    default("message.max.bytes", MESSAGE_BYTES_MAX.to_string());
    // A batch is handed over at once; what comes within this time goes into one request.
    default("linger.ms", "5".to_owned());
    // An unknown topic is said to be unknown after this, which leaves a broker time to make it.
    default("topic.metadata.propagation.max.ms", "5000".to_owned());
    if matches!(settings.compression, Compression::Zstd | Compression::Gzip) {
        // Twice the speed of the default level, for a few percent of size.
        default("compression.level", "1".to_owned());
    }
    if let Some(Transactional { id, timeout }) = transactional {
        let (least, most) = (*TRANSACTION_MS.start(), *TRANSACTION_MS.end());
        let ms = timeout.as_millis().clamp(least, most);
        default("socket.timeout.ms", ms.min(60_000).to_string());
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", ms.to_string());
    }
    config
        .set("compression.type", settings.compression.word())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        // Permits keep the queue below a half of this, so that it is never full.
        .set(
            "queue.buffering.max.kbytes",
            (2 * queue_bytes).div_ceil(1024).to_string(),
        )
        .set("queue.buffering.max.messages", "0");
    Ok(config)
}
