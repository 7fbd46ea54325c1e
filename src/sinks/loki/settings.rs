//! The loki sink's own keys: what they are called, what they mean, which of them go together.
//!
//! Invariants: every mistake is reported at its place; a label that would make a stream of every user, object or
//! request is refused here, with the way out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::FieldPath;
use super::labels::{
    LABELS_MAX, LabelField, LabelValue, METADATA_MAX, ORIGIN, name_problem, value_problem,
};
use super::order::Limits;
use super::push::Encoding;
use crate::config::{ByteSize, Choice, Field, FieldDoc, Secret, Section, Spanned, TableDoc};
use crate::net::http_client::HeaderValue;
use crate::net::http_client::header::{HeaderMap, HeaderName};
use crate::sinks::http_connection::settings::{TLS, endpoint, tls};
use crate::sinks::http_connection::{Access, Auth};
use crate::sinks::http_connection::{BASIC, basic};

/// Its keys, beside the common ones.
pub(super) static FIELDS: &[&dyn FieldDoc] = &[
    &ENDPOINT,
    &TENANT,
    &LABELS,
    &STRUCTURED_METADATA,
    &MAX_BEHIND,
    &MAX_AGE,
    &MAX_AHEAD,
    &LINE_MAX,
    &AUTH,
    &TLS,
    &COMPRESSION,
];

static ENDPOINT: Field<Spanned<String>> = Field::new(
    "endpoint",
    "URL of the server or gateway, such as `https://loki.example.com`; a path is kept, and `/loki/api/v1/push` is added.",
)
.required();

static TENANT: Field<Spanned<String>> = Field::new(
    "tenant",
    "The tenant, sent as `X-Scope-OrgID`. Needed where Loki runs with `auth_enabled` and no gateway sets it.",
);

static LABELS: Field<BTreeMap<String, Spanned<String>>> = Field::new(
    "labels",
    "More labels beside `cluster`, `node` and `source`, which are always there, and `agent.labels`: fixed values, or \
     `{audit.verb}`, `{audit.level}`, `{audit.stage}`. Every set of values is a stream of its own, so what has many \
     values belongs under `structured_metadata`. `job` is `auditship` unless set.",
);

static STRUCTURED_METADATA: Field<BTreeMap<String, Spanned<String>>> = Field::new(
    "structured_metadata",
    "Fields of the event that stand beside the line, to search by: names with paths such as `objectRef.name`. `{}`: \
     none, for a server that does not allow them. Default: `user`, `verb`, `resource`, `namespace` and `code`.",
);

static MAX_BEHIND: Field<Duration> = Field::new(
    "max_behind",
    "How far behind the newest line of its stream a line may be: half of the server's `ingester.max_chunk_age`. Later \
     ones are dead letters, since Loki would lose them, some without a word.",
)
.default("\"1h\"")
.min("\"1m\"");

static MAX_AGE: Field<Duration> = Field::new(
    "max_age",
    "How old a line may be: the server's `limits_config.reject_old_samples_max_age`. Older ones are dead letters.",
)
.default("\"168h\"")
.min("\"1m\"");

static MAX_AHEAD: Field<Duration> = Field::new(
    "max_ahead",
    "How far in the future a line may be: the server's `limits_config.creation_grace_period`. Many of those in a row \
     are the fault of a clock, and the sink stops.",
)
.default("\"10m\"");

static LINE_MAX: Field<ByteSize> = Field::new(
    "line_max",
    "Longest line: the server's `limits_config.max_line_size`. Longer ones are dead letters.",
)
.default("\"256KiB\"")
.min("\"1KiB\"")
.max("\"1MiB\"");

static AUTH: TableDoc = TableDoc {
    name: "auth",
    doc: "Credentials: one of `basic` and `bearer`. Without it, none are sent (a client certificate may do).",
    fields: &[&BASIC, &BEARER],
};

static BEARER: Field<Secret> = Field::new("bearer", "A bearer token.");

static COMPRESSION: Field<Encoding> = Field::new(
    "compression",
    "Of requests: `snappy` is Loki's own protobuf, `gzip` its JSON, smaller on the way and dearer at both ends.",
)
.default("\"snappy\"");

impl Choice for Encoding {
    const WORDS: &'static [(&'static str, Self)] =
        &[("snappy", Encoding::Protobuf), ("gzip", Encoding::Json)];
}

/// What is structured metadata unless configured.
const METADATA: [(&str, &str); 5] = [
    ("code", "responseStatus.code"),
    ("namespace", "objectRef.namespace"),
    ("resource", "objectRef.resource"),
    ("user", "user.username"),
    ("verb", "verb"),
];

/// The sink's own configuration, valid as far as the file tells.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) access: Access,
    /// Beside the origin's and the agent's.
    pub(super) labels: BTreeMap<String, LabelValue>,
    /// Sorted by name.
    pub(super) metadata: Vec<(String, FieldPath)>,
    pub(super) limits: Limits,
    pub(super) line_max: usize,
    pub(super) encoding: Encoding,
}

impl Settings {
    /// Reads the section; mistakes go to its diagnostics, `None` then.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let endpoints = read_endpoint(section);
        let tenant = tenant(section);
        let labels = read_labels(section);
        let metadata = metadata(section, labels.as_ref());
        let windows = (
            section.get(&MAX_AGE),
            section.get(&MAX_AHEAD),
            section.get(&MAX_BEHIND),
        );
        let line_max = section.get(&LINE_MAX);
        let auth = auth(section);
        let tls = tls(section, endpoints.as_deref());
        let encoding = section.get(&COMPRESSION);
        let mut headers = HeaderMap::new();
        if let Some(tenant) = tenant? {
            headers.insert(HeaderName::from_static("x-scope-orgid"), tenant);
        }
        Some(Settings {
            access: Access {
                endpoints: endpoints?,
                auth: auth?,
                tls: tls?,
                headers,
            },
            labels: labels?,
            metadata: metadata?,
            limits: Limits::new(windows.0?, windows.1?, windows.2?),
            line_max: usize::try_from(line_max?.0).unwrap_or(usize::MAX),
            encoding: encoding?,
        })
    }
}

fn read_endpoint(section: &mut Section<'_>) -> Option<Vec<String>> {
    let Spanned { value, at } = section.get(&ENDPOINT)?;
    match endpoint(&value) {
        Ok(endpoint) => Some(vec![endpoint]),
        Err((problem, allowed)) => {
            section.wrong_value(ENDPOINT.name, at, problem, allowed);
            None
        }
    }
}

/// `Some(None)`: none configured. `None`: a mistake.
fn tenant(section: &mut Section<'_>) -> Option<Option<HeaderValue>> {
    // Loki's own alphabet, and the colon of servers that are like it.
    const SIGNS: &str = "!-_.*'():";
    const LONGEST: usize = 150;
    let Some(tenant) = section.get(&TENANT) else {
        return (!section.has(TENANT.name)).then_some(None);
    };
    let bad = |c: &char| !c.is_ascii_alphanumeric() && !SIGNS.contains(*c);
    let problem = match tenant.value.as_str() {
        "" => Some("it is empty".to_owned()),
        "." | ".." => Some("Loki allows no tenant of this name".to_owned()),
        name if name.len() > LONGEST => Some(format!("it has more than {LONGEST} characters")),
        name => name
            .chars()
            .find(bad)
            .map(|c| format!("it holds `{}`", c.escape_debug())),
    };
    let allowed = "letters, digits and ! - _ . * ' ( ) :";
    match (problem, HeaderValue::from_str(&tenant.value)) {
        (None, Ok(value)) => Some(Some(value)),
        (problem, _) => {
            let problem = problem.unwrap_or_else(|| "no header can hold it".to_owned());
            section.wrong_value(TENANT.name, tenant.at, problem, allowed);
            None
        }
    }
}

fn read_labels(section: &mut Section<'_>) -> Option<BTreeMap<String, LabelValue>> {
    let given = match section.get(&LABELS) {
        None if section.has(LABELS.name) => return None,
        given => given.unwrap_or_default(),
    };
    let count = given.len();
    let mut labels =
        BTreeMap::from([("job".to_owned(), LabelValue::Static("auditship".to_owned()))]);
    let mut good = true;
    for (name, Spanned { value, at }) in given {
        match label(&name, &value) {
            Ok(value) => {
                labels.insert(name, value);
            }
            Err((problem, help)) => {
                let message = format!("label `{}`: {problem}", name.escape_debug());
                section.error_at(at, message, Some(help));
                good = false;
            }
        }
    }
    if good && labels.len() + ORIGIN.len() > LABELS_MAX {
        section.error_at(
            section.place_of(LABELS.name),
            format!("{count} labels beside cluster, node, source and job are too many"),
            Some(format!(
                "Loki takes {LABELS_MAX}; move what does not tell streams apart to `structured_metadata`"
            )),
        );
        good = false;
    }
    good.then_some(labels)
}

/// A label's value; else what is wrong with it, and what to do.
fn label(name: &str, value: &str) -> Result<LabelValue, (String, String)> {
    let fields = LabelField::ALL.map(|field| format!("`{}`", field.placeholder()));
    let allowed = format!("a fixed value, or one of {}", fields.join(", "));
    if ORIGIN.contains(&name) {
        return Err((
            "this label says where an event came from".to_owned(),
            "take it out: it is always there".to_owned(),
        ));
    }
    if let Some(problem) = name_problem(name) {
        return Err((
            problem,
            "letters, digits and `_`, no digit first".to_owned(),
        ));
    }
    if let Some(field) = LabelField::ALL.iter().find(|f| f.placeholder() == value) {
        return Ok(LabelValue::Field(*field));
    }
    let inner = value.trim_matches(['{', '}']);
    let path = inner.strip_prefix("audit.").unwrap_or(inner);
    // `env = "stage"` may be meant as it stands, `stage = "stage"` or `id = "auditID"` hardly.
    let word = matches!(path, "verb" | "level" | "stage") && name != path;
    let meant = value.contains(['{', '}'])
        || value.starts_with("audit.")
        || FieldPath::named(path).is_some() && !word;
    match value_problem(value) {
        _ if meant => Err(no_label(name, value, path, allowed)),
        _ if value.is_empty() => Err((
            "to Loki a label without a value is none".to_owned(),
            allowed,
        )),
        Some(problem) => Err((problem, allowed)),
        None => Ok(LabelValue::Static(value.to_owned())),
    }
}

/// Why what was meant as a field of the event is no label, and what to do.
fn no_label(name: &str, value: &str, path: &str, allowed: String) -> (String, String) {
    let right = format!("{{audit.{path}}}");
    if LabelField::ALL.iter().any(|f| f.placeholder() == right) {
        return (
            format!("`{value}` is no fixed value"),
            format!("write `{right}`"),
        );
    }
    if FieldPath::named(path).is_some() {
        return (
            format!("`{path}` has too many values: each would be a stream of its own"),
            format!("put it under `structured_metadata = {{ {name} = \"{path}\" }}`"),
        );
    }
    (
        format!("`{}` is nothing that can be a label", value.escape_debug()),
        allowed,
    )
}

fn metadata(
    section: &mut Section<'_>,
    labels: Option<&BTreeMap<String, LabelValue>>,
) -> Option<Vec<(String, FieldPath)>> {
    if !section.has(STRUCTURED_METADATA.name) {
        let named =
            |(name, path): &(&str, &str)| Some(((*name).to_owned(), FieldPath::named(path)?));
        // Loki would rename one that is also a label, which is as good to search by.
        let apart =
            |(name, _): &(String, FieldPath)| labels.is_none_or(|all| !all.contains_key(name));
        return Some(METADATA.iter().filter_map(named).filter(apart).collect());
    }
    let given = section.get(&STRUCTURED_METADATA)?;
    let (count, mut found) = (given.len(), Vec::new());
    for (name, Spanned { value, at }) in given {
        let is_label = ORIGIN.contains(&name.as_str())
            || labels.is_some_and(|labels| labels.contains_key(&name));
        let problem = match name_problem(&name) {
            Some(problem) => Some((
                problem,
                "letters, digits and `_`, no digit first".to_owned(),
            )),
            None if is_label => Some((
                "there is a label of this name, and Loki would rename this".to_owned(),
                "give it another name".to_owned(),
            )),
            None => None,
        };
        match (problem, FieldPath::named(&value)) {
            (None, Some(path)) => found.push((name, path)),
            (Some((problem, help)), _) => {
                section.error_at(
                    at,
                    format!("`structured_metadata.{name}`: {problem}"),
                    Some(help),
                );
            }
            (None, None) => {
                let known: Vec<String> = FieldPath::all().map(FieldPath::name).collect();
                section.error_at(
                    at,
                    format!(
                        "`{}` is no field that can stand there",
                        value.escape_debug()
                    ),
                    Some(format!("one of {}", known.join(", "))),
                );
            }
        }
    }
    if count > METADATA_MAX {
        section.error_at(
            section.place_of(STRUCTURED_METADATA.name),
            format!("{count} fields are more than the {METADATA_MAX} that fit beside a line"),
            None,
        );
        return None;
    }
    (found.len() == count).then_some(found)
}

/// `Some(None)`: none configured. `None`: a mistake.
fn auth(section: &mut Section<'_>) -> Option<Option<Auth>> {
    if !section.has(AUTH.name) {
        return Some(None);
    }
    let mut auth = section.table(&AUTH)?;
    let (basic, bearer) = (basic(&mut auth), auth.get(&BEARER));
    let place = auth.place();
    match (basic, bearer) {
        (Some(_), Some(_)) => {
            auth.error_at(
                place,
                "`basic` and `bearer` are two ways to log in",
                Some("take one of them out".to_owned()),
            );
            None
        }
        (Some(basic), None) => basic.map(Some),
        (None, Some(token)) => Some(Some(Auth::Bearer(token))),
        (None, None) if auth.failed() => None,
        (None, None) => {
            auth.error_at(
                place,
                "`auth` names no credentials",
                Some("set `basic` or `bearer`".to_owned()),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
