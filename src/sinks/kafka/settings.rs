//! The kafka sink's own keys: what they are called, what they mean, which of them go together.
//!
//! Invariants: every mistake is reported at its place; what librdkafka would refuse is refused here; a certificate's
//! checks cannot be turned off.

use std::collections::BTreeMap;

use super::options;
use crate::config::{Choice, Field, FieldDoc, FilePath, Place, Secret, Section, Spanned, TableDoc};
use crate::event::template::{NameKind, Rendered, Template};
use crate::net::tls::TlsFiles;
use crate::sinks::Record;

/// Its keys, beside the common ones.
pub(super) static FIELDS: &[&dyn FieldDoc] =
    &[&BROKERS, &TOPIC, &KEY, &COMPRESSION, &SASL, &TLS, &OPTIONS];

static BROKERS: Field<Vec<Spanned<String>>> = Field::new(
    "brokers",
    "Brokers to ask for the others, as `host:port`. Two or three of a cluster are enough.",
)
.required();

static TOPIC: Field<Spanned<String>> = Field::new(
    "topic",
    "The topic to write to; it must exist, or the brokers must make it. May be a template such as \
     `audit-{origin.cluster}` with a literal prefix; after 64 distinct names the rest go to `<prefix>other`.",
)
.required();

static KEY: Field<Key> = Field::new(
    "key",
    "The key of a record. `id`: the event id, which spreads events over partitions and lets a reader recognise a \
     repeated one; `origin`: cluster, node and source, which keeps each log in order in one partition, with one \
     attempt at a time.",
)
.default("\"id\"");

static COMPRESSION: Field<Compression> = Field::new(
    "compression",
    "Of what is sent, and of what the brokers keep unless they are told otherwise.",
)
.default("\"zstd\"");

static SASL: TableDoc = TableDoc {
    name: "sasl",
    doc: "How to log in. Without it there is no login (a client certificate may be one).",
    fields: &[&MECHANISM, &USER, &PASSWORD],
};

static MECHANISM: Field<Mechanism> = Field::new(
    "mechanism",
    "As the brokers are set up. PLAIN shows the password to whoever reads the connection, so use it with `tls`.",
)
.required();

static USER: Field<Secret> = Field::new("user", "The user's name.").required();

static PASSWORD: Field<Secret> = Field::new("password", "The user's password.").required();

static TLS: TableDoc = TableDoc {
    name: "tls",
    doc: "Speak TLS, and whom to trust and who we are; `tls = {}` trusts the system's authorities. The brokers' \
          certificates and host names are always verified.",
    fields: &[&CA, &CERT, &PRIVATE_KEY],
};

static CA: Field<FilePath> = Field::new(
    "ca",
    "PEM file with the authorities to trust instead of the system's. Re-read when it changes.",
);

static CERT: Field<FilePath> =
    Field::new("cert", "PEM file with our certificate; goes with `key`.");

static PRIVATE_KEY: Field<FilePath> = Field::new("key", "PEM file with the private key of `cert`.");

static TRANSACTIONAL: TableDoc = TableDoc {
    name: "transactional",
    doc: "Each batch in a transaction, one at a time: readers that read committed see every event exactly once, \
          also after a crash of the agent.",
    fields: &[&MARKER_TOPIC],
};

static MARKER_TOPIC: Field<Spanned<String>> = Field::new(
    "marker_topic",
    "A compacted topic in which each transaction leaves what it stored; agents may share it. \
     `auditship check --connect --setup` makes it.",
)
.required();

static OPTIONS: Field<BTreeMap<String, Spanned<String>>> = Field::new(
    "options",
    "Options of librdkafka, as strings, for what has no key here: `{ \"message.max.bytes\" = \"8000000\" }`. Those \
     that delivery relies on, and all about logging in and certificates, cannot be set.",
);

/// `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Id,
    Origin,
}

impl Choice for Key {
    const WORDS: &'static [(&'static str, Self)] = &[("id", Key::Id), ("origin", Key::Origin)];
}

/// `compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Zstd,
    Lz4,
    Gzip,
    None,
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("zstd", Compression::Zstd),
        ("lz4", Compression::Lz4),
        ("gzip", Compression::Gzip),
        ("none", Compression::None),
    ];
}

impl Compression {
    /// As librdkafka calls it, too.
    pub(super) fn word(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Gzip => "gzip",
            Compression::None => "none",
        }
    }
}

/// `sasl.mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Choice for Mechanism {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("PLAIN", Mechanism::Plain),
        ("SCRAM-SHA-256", Mechanism::ScramSha256),
        ("SCRAM-SHA-512", Mechanism::ScramSha512),
    ];
}

impl Mechanism {
    /// As the protocol calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// `sasl`.
#[derive(Clone, Debug)]
pub(super) struct Sasl {
    pub(super) mechanism: Mechanism,
    pub(super) user: Secret,
    pub(super) password: Secret,
}

/// Where events go.
#[derive(Clone, Debug)]
pub(super) enum Topic {
    Fixed(String),
    /// The name depends on the event.
    Template(TopicTemplate),
}

impl Topic {
    /// For messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Topic::Fixed(name) => name.clone(),
            Topic::Template(template) => format!("{}*", template.prefix()),
        }
    }

    /// The topic, where there is only one.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self {
            Topic::Fixed(name) => Some(name),
            Topic::Template(_) => None,
        }
    }
}

/// A topic's name with placeholders.
#[derive(Clone, Debug)]
pub(super) struct TopicTemplate(Template);

impl TopicTemplate {
    /// What stands before the first placeholder; never empty.
    pub(super) fn prefix(&self) -> &str {
        self.0.literal_prefix()
    }

    /// The topic of a record, before the set of names is asked.
    pub(super) fn topic_of(&self, record: &Record) -> Rendered {
        self.0.render(
            &record.origin,
            record.time_us(),
            record.body.whole().unwrap_or_default(),
        )
    }
}

/// The sink's own configuration, valid as far as the file tells.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `host:port`, at least one.
    pub(super) brokers: Vec<String>,
    pub(super) topic: Topic,
    pub(super) key: Key,
    pub(super) compression: Compression,
    pub(super) sasl: Option<Sasl>,
    /// `None`: no TLS.
    pub(super) tls: Option<TlsFiles>,
    /// The marker topic; `None`: no transactions.
    pub(super) marker_topic: Option<String>,
    /// The user's own for librdkafka; none of ours among them.
    pub(super) options: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the section; mistakes go to its diagnostics, `None` then.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let brokers = brokers(section);
        let topic = topic(section);
        let key = section.get(&KEY);
        let compression = section.get(&COMPRESSION);
        let tls = tls(section);
        let sasl = sasl(section);
        let marker_topic = marker_topic(section);
        let options = options(section);
        Some(Settings {
            brokers: brokers?,
            topic: topic?,
            key: key?,
            compression: compression?,
            sasl: sasl?,
            tls: tls?,
            marker_topic: marker_topic?,
            options: options?,
        })
    }

    /// A value that changes whenever one of its secrets or certificate files does.
    pub(super) fn fingerprint(&self) -> u64 {
        let login = self.sasl.as_ref().map_or(0, |sasl| {
            sasl.user.fingerprint().rotate_left(1) ^ sasl.password.fingerprint()
        });
        let files = self.tls.as_ref().map_or(0, TlsFiles::fingerprint);
        login.rotate_left(1) ^ files
    }
}

fn brokers(section: &mut Section<'_>) -> Option<Vec<String>> {
    let given = section.get(&BROKERS)?;
    if given.is_empty() {
        let help = Some("name at least one, such as \"kafka-1.example.com:9092\"".to_owned());
        section.error_at(section.place_of("brokers"), "no broker is named", help);
        return None;
    }
    let mut brokers = Vec::new();
    for Spanned { value, at } in given.iter().cloned() {
        match broker_problem(&value) {
            None => brokers.push(value),
            Some(problem) => section.wrong_value(
                "brokers",
                at,
                problem,
                "a host and a port, such as \"kafka-1.example.com:9092\"",
            ),
        }
    }
    (brokers.len() == given.len()).then_some(brokers)
}

fn broker_problem(text: &str) -> Option<String> {
    if text.contains("://") {
        return Some("a broker is no URL; whether to use TLS says `tls`".to_owned());
    }
    let port = text.rsplit_once(':').map(|(host, port)| {
        let fine = !host.is_empty() && host.bytes().all(is_host_byte);
        (fine, port.parse::<u16>().is_ok_and(|port| port != 0))
    });
    match port {
        Some((true, true)) => None,
        Some((false, _)) => Some("this is no host name or address".to_owned()),
        Some((true, false)) => Some("this is no port".to_owned()),
        None => Some("the port is missing".to_owned()),
    }
}

/// Of names, IPv4 and `[IPv6]`; a comma would make it several.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte)
}

fn topic(section: &mut Section<'_>) -> Option<Topic> {
    let topic = section.get(&TOPIC)?;
    match Template::parse(&topic.value, NameKind::Topic) {
        Ok(template) if template.literal_prefix() == topic.value => Some(Topic::Fixed(topic.value)),
        Ok(template) => Some(Topic::Template(TopicTemplate(template))),
        Err(problems) => {
            const ALLOWED: &str =
                "a name such as `audit-{origin.cluster}`, which begins with a literal prefix";
            for problem in problems {
                section.wrong_value("topic", topic.at, problem.to_string(), ALLOWED);
            }
            None
        }
    }
}

/// `Some(None)`: none configured. `None`: a mistake.
fn sasl(section: &mut Section<'_>) -> Option<Option<Sasl>> {
    if !section.has("sasl") {
        return Some(None);
    }
    let plain_text = !section.has("tls");
    let mut table = section.table(&SASL)?;
    let mechanism = table.get_spanned(&MECHANISM);
    let (user, password) = (table.get(&USER), table.get(&PASSWORD));
    let mechanism = mechanism?;
    if mechanism.value == Mechanism::Plain && plain_text {
        let help = Some("add `tls = {}`, with `ca` where the authority is your own".to_owned());
        table.warn_at(
            mechanism.at,
            "without `tls` the password is readable on the network",
            help,
        );
    }
    Some(Some(Sasl {
        mechanism: mechanism.value,
        user: user?,
        password: password?,
    }))
}

/// `Some(None)`: none configured. `None`: a mistake.
fn tls(section: &mut Section<'_>) -> Option<Option<TlsFiles>> {
    if !section.has("tls") {
        return Some(None);
    }
    let at = section.place_of("tls");
    let mut table = section.table(&TLS)?;
    let path = |path: FilePath| path.0;
    let files = TlsFiles {
        ca: table.get(&CA).map(path),
        cert: table.get(&CERT).map(path),
        key: table.get(&PRIVATE_KEY).map(path),
        server_name: None,
    };
    let mut mistakes: Vec<(Place, String, &str)> = Vec::new();
    match (table.has("cert"), table.has("key")) {
        (true, false) => mistakes.push((
            table.place_of("cert"),
            "a certificate without its key".into(),
            "add `key`",
        )),
        (false, true) => mistakes.push((
            table.place_of("key"),
            "a key without its certificate".into(),
            "add `cert`",
        )),
        _ => {}
    }
    const RELATIVE: &str = "paths are relative to the file they stand in";
    for (key, problem) in files.problems() {
        mistakes.push((table.place_of(key), problem, RELATIVE));
    }
    // rustls takes no part in the connection, but it tells a pair that does not go together.
    if mistakes.is_empty()
        && !table.failed()
        && let Err(problem) = files.client_config()
    {
        mistakes.push((at, problem, RELATIVE));
    }
    let good = mistakes.is_empty() && !table.failed();
    for (place, problem, help) in mistakes {
        table.error_at(place, problem, Some(help.to_owned()));
    }
    good.then_some(Some(files))
}

/// `Some(None)`: no transactions. `None`: a mistake.
fn marker_topic(section: &mut Section<'_>) -> Option<Option<String>> {
    if !section.has(TRANSACTIONAL.name) {
        return Some(None);
    }
    let topic = section.get(&TOPIC).map(|topic| topic.value);
    let mut table = section.table(&TRANSACTIONAL)?;
    let marker = table.get(&MARKER_TOPIC)?;
    let problem = match Template::parse(&marker.value, NameKind::Topic) {
        Err(problems) => problems.first().map(ToString::to_string),
        Ok(template) if template.literal_prefix() != marker.value => {
            Some("it is one topic, without placeholders".to_owned())
        }
        Ok(_) if topic.as_ref() == Some(&marker.value) => {
            Some("events and markers need two topics".to_owned())
        }
        Ok(_) => None,
    };
    if let Some(problem) = problem {
        table.wrong_value(
            MARKER_TOPIC.name,
            marker.at,
            problem,
            "a name such as \"auditship-markers\"",
        );
        return None;
    }
    Some(Some(marker.value))
}

fn options(section: &mut Section<'_>) -> Option<BTreeMap<String, String>> {
    if !section.has("options") {
        return Some(BTreeMap::new());
    }
    let given = section.get(&OPTIONS)?;
    let mut options = BTreeMap::new();
    for (name, Spanned { value, at }) in given {
        match options::problem(&name, &value) {
            None => {
                options.insert(name, value);
            }
            Some((problem, help)) => section.error_at(at, problem, Some(help)),
        }
    }
    (!section.failed()).then_some(options)
}
