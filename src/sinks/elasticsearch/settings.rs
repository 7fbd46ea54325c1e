//! The elasticsearch sink's own keys: what they are called, what they mean, which of them go together.
//!
//! Invariants: every mistake is reported at its place; what cannot work (a certificate without its key, a name that
//! no index can have) is refused here and not by the server.

use crate::config::{Choice, Field, FieldDoc, Secret, Section, Spanned, TableDoc};
use crate::event::template::{NameKind, Rendered, Template};
use crate::net::http_client::header::HeaderMap;
use crate::sinks::Record;
use crate::sinks::http_connection::settings::{TLS, endpoint, tls};
use crate::sinks::http_connection::{Access, Auth};
use crate::sinks::http_connection::{BASIC, basic};

/// Its keys, beside the common ones.
pub(super) static FIELDS: &[&dyn FieldDoc] = &[
    &ENDPOINTS,
    &DATA_STREAM,
    &INDEX,
    &AUTH,
    &TLS,
    &PIPELINE,
    &COMPRESSION,
    &DOCUMENT,
    &TEMPLATE,
    &VERIFY_CONFLICTS,
];

static ENDPOINTS: Field<Vec<Spanned<String>>> = Field::new(
    "endpoints",
    "URLs of the servers, such as `https://es.example.com:9200`; a path is kept. Several take turns, and one that \
     fails is left alone for a while.",
)
.required();

static DATA_STREAM: Field<Spanned<String>> = Field::new(
    "data_stream",
    "The data stream to store events in. `logs-kubernetes.audit-default` unless `index` is set.",
);

static INDEX: Field<Spanned<String>> = Field::new(
    "index",
    "The index to store events in, instead of a data stream. A template such as `audit-{event:%Y.%m.%d}` with a \
     literal prefix; after 64 distinct names the rest go to `<prefix>other`.",
);

static AUTH: TableDoc = TableDoc {
    name: "auth",
    doc: "Credentials: one of `api_key` and `basic`. Without it, none are sent (a client certificate may do).",
    fields: &[&API_KEY, &BASIC, &AWS],
};

static API_KEY: Field<Secret> = Field::new(
    "api_key",
    "An API key, encoded as Elasticsearch shows it, or as `id:api_key`.",
);

static AWS: TableDoc = TableDoc {
    name: "aws",
    doc: "Signed requests to AWS. Not built yet.",
    fields: &[],
};

static PIPELINE: Field<Spanned<String>> = Field::new(
    "pipeline",
    "An ingest pipeline for every event. Let it keep `event.hash` or set `event.original`.",
);

static COMPRESSION: Field<Compression> = Field::new(
    "compression",
    "Of requests: `gzip` costs some CPU here and saves most of the bytes on the way.",
)
.default("\"gzip\"");

static DOCUMENT: Field<Document> = Field::new(
    "document",
    "`ecs`: the event under `kubernetes.audit` beside ECS fields; `flat`: the event's own fields at the top.",
)
.default("\"ecs\"");

static TEMPLATE: Field<Mapping> = Field::new(
    "template",
    "`managed`: `auditship check --connect --setup` installs an index template, and the sink starts only where it is \
     in force; `own`: the mapping is yours.",
)
.default("\"managed\"");

static VERIFY_CONFLICTS: Field<bool> = Field::new(
    "verify_conflicts",
    "Whether an id that is taken is read back and compared. `false` needs no right to read, and takes every such \
     event for stored.",
)
.default("true");

const INDEX_NAMES: &str =
    "a name such as `audit-{origin.cluster}-{event:%Y.%m.%d}`, which begins with a literal prefix";

/// Elasticsearch's limit on an index name.
const NAME_BYTES_MAX: usize = 255;

const DEFAULT_DATA_STREAM: &str = "logs-kubernetes.audit-default";

/// `compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    None,
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] =
        &[("gzip", Compression::Gzip), ("none", Compression::None)];
}

/// `document`: where the event stands in what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Ecs,
    Flat,
}

impl Choice for Document {
    const WORDS: &'static [(&'static str, Self)] =
        &[("ecs", Document::Ecs), ("flat", Document::Flat)];
}

impl Document {
    /// As the configuration spells it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Document::Ecs => "ecs",
            Document::Flat => "flat",
        }
    }
}

/// `template`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapping {
    Managed,
    Own,
}

impl Choice for Mapping {
    const WORDS: &'static [(&'static str, Self)] =
        &[("managed", Mapping::Managed), ("own", Mapping::Own)];
}

/// Where events go.
#[derive(Clone, Debug)]
pub(super) enum Target {
    DataStream(String),
    Index(String),
    /// The name depends on the event.
    Template(IndexTemplate),
}

impl Target {
    /// The data stream, where it is one.
    pub(super) fn data_stream(&self) -> Option<&str> {
        match self {
            Target::DataStream(name) => Some(name),
            Target::Index(_) | Target::Template(_) => None,
        }
    }

    /// The part of the name that never varies.
    pub(super) fn literal(&self) -> &str {
        match self {
            Target::DataStream(name) | Target::Index(name) => name,
            Target::Template(template) => template.prefix(),
        }
    }

    /// An expression that matches every name.
    pub(super) fn pattern(&self) -> String {
        match self {
            Target::DataStream(name) | Target::Index(name) => name.clone(),
            Target::Template(template) => format!("{}*", template.prefix()),
        }
    }

    /// A name as events might get it.
    pub(super) fn example(&self) -> String {
        match self {
            Target::DataStream(name) | Target::Index(name) => name.clone(),
            Target::Template(template) => format!("{}other", template.prefix()),
        }
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        self.pattern()
    }
}

/// An index name with placeholders.
#[derive(Clone, Debug)]
pub(super) struct IndexTemplate(Template);

impl IndexTemplate {
    /// What stands before the first placeholder; never empty.
    pub(super) fn prefix(&self) -> &str {
        self.0.literal_prefix()
    }

    /// The index of a record, before the set of names is asked.
    pub(super) fn index_of(&self, record: &Record) -> Rendered {
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
    pub(super) access: Access,
    pub(super) target: Target,
    pub(super) pipeline: Option<String>,
    pub(super) gzip: bool,
    pub(super) document: Document,
    pub(super) managed_template: bool,
    pub(super) verify_conflicts: bool,
}

impl Settings {
    /// Reads the section; mistakes go to its diagnostics, `None` then.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let endpoints = endpoints(section);
        let target = target(section);
        let auth = auth(section);
        let tls = tls(section, endpoints.as_deref());
        let pipeline = pipeline(section);
        let compression = section.get(&COMPRESSION);
        let document = section.get(&DOCUMENT);
        let template = section.get(&TEMPLATE);
        let verify_conflicts = section.get(&VERIFY_CONFLICTS);
        Some(Settings {
            access: Access {
                endpoints: endpoints?,
                auth: auth?,
                tls: tls?,
                headers: HeaderMap::new(),
            },
            target: target?,
            pipeline: pipeline?,
            gzip: compression? == Compression::Gzip,
            document: document?,
            managed_template: template? == Mapping::Managed,
            verify_conflicts: verify_conflicts?,
        })
    }
}

fn endpoints(section: &mut Section<'_>) -> Option<Vec<String>> {
    let given = section.get(&ENDPOINTS)?;
    if given.is_empty() {
        let help = Some("name at least one, such as \"https://localhost:9200\"".to_owned());
        section.error_at(section.place_of("endpoints"), "no endpoint is named", help);
        return None;
    }
    let mut endpoints = Vec::new();
    for Spanned { value, at } in given.iter().cloned() {
        match endpoint(&value) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err((problem, allowed)) => section.wrong_value("endpoints", at, problem, allowed),
        }
    }
    (endpoints.len() == given.len()).then_some(endpoints)
}

fn target(section: &mut Section<'_>) -> Option<Target> {
    let (data_stream, index) = (section.get(&DATA_STREAM), section.get(&INDEX));
    match (data_stream, index) {
        (Some(name), Some(index)) => {
            // What is wrong with either of them is said at once.
            valid_name(section, &name);
            index_target(section, &index);
            let help = Some("take one of them out".to_owned());
            section.error_at(
                index.at,
                "`index` and `data_stream` name two places for the same events",
                help,
            );
            None
        }
        (Some(name), None) => {
            valid_name(section, &name)?;
            Some(Target::DataStream(name.value))
        }
        (None, Some(index)) => index_target(section, &index),
        (None, None) if section.has("data_stream") || section.has("index") => None,
        (None, None) => Some(Target::DataStream(DEFAULT_DATA_STREAM.to_owned())),
    }
}

fn index_target(section: &Section<'_>, index: &Spanned<String>) -> Option<Target> {
    match Template::parse(&index.value, NameKind::Index) {
        Ok(template) if template.literal_prefix() == index.value => {
            Some(Target::Index(index.value.clone()))
        }
        Ok(template) => Some(Target::Template(IndexTemplate(template))),
        Err(problems) => {
            for problem in problems {
                section.wrong_value("index", index.at, problem.to_string(), INDEX_NAMES);
            }
            None
        }
    }
}

fn valid_name(section: &Section<'_>, name: &Spanned<String>) -> Option<()> {
    match problem(&name.value) {
        None => Some(()),
        Some(problem) => {
            section.wrong_value(
                "data_stream",
                name.at,
                problem,
                "a name such as `logs-kubernetes.audit-default`",
            );
            None
        }
    }
}

/// What is wrong with the name of a data stream.
pub(super) fn problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("a name may not be empty".to_owned());
    }
    if let Some(first) = text.chars().next().filter(|c| !c.is_ascii_alphanumeric()) {
        return Some(format!("a data stream may not begin with `{first}`"));
    }
    let fine = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
    if let Some(bad) = text.chars().find(|c| !fine(c)) {
        return Some(format!(
            "`{bad}` cannot be in the name of a data stream: allowed are a-z, 0-9, `.`, `_` and `-`"
        ));
    }
    (text.len() > NAME_BYTES_MAX).then(|| format!("a name has at most {NAME_BYTES_MAX} bytes"))
}

/// `Some(None)`: none configured. `None`: a mistake.
fn auth(section: &mut Section<'_>) -> Option<Option<Auth>> {
    if !section.has("auth") {
        return Some(None);
    }
    let mut auth = section.table(&AUTH)?;
    let place = auth.place();
    if auth.has("aws") {
        auth.error_at(
            auth.place_of("aws"),
            "signed requests to AWS are not built yet",
            None,
        );
        auth.ignore_rest();
        return None;
    }
    let api_key = auth.get(&API_KEY);
    let basic = basic(&mut auth);
    let both = auth.has("api_key") && auth.has("basic");
    if both {
        auth.error_at(
            place,
            "`api_key` and `basic` are two ways to log in",
            Some("take one of them out".to_owned()),
        );
        return None;
    }
    match (api_key, basic) {
        (Some(key), _) => Some(Some(Auth::ApiKey(key))),
        (None, Some(basic)) => basic.map(Some),
        (None, None) if auth.failed() => None,
        (None, None) => {
            auth.error_at(
                place,
                "`auth` names no credentials",
                Some("set `api_key` or `basic`".to_owned()),
            );
            None
        }
    }
}

/// `Some(None)`: none given. `None`: a mistake.
fn pipeline(section: &mut Section<'_>) -> Option<Option<String>> {
    let Some(name) = section.get(&PIPELINE) else {
        return (!section.has("pipeline")).then_some(None);
    };
    // It goes into a URL as it is.
    if name.value.is_empty()
        || !name
            .value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.~@".contains(&b))
    {
        let help = Some("letters, digits and - _ . ~ @".to_owned());
        section.error_at(name.at, "a pipeline's name may not hold this", help);
        return None;
    }
    Some(Some(name.value))
}
