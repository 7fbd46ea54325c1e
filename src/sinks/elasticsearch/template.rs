//! The index template: what it says, putting it there, and whether it is in force. With it no field of an event can
//! get the event refused (bodies are not looked into, odd values are left out of the index), and no event can add
//! fields.
//!
//! Invariants: it maps by name and never by what events bring (`dynamic: false`); it marks its mapping with `_meta`,
//! by which it is found in force whoever installed it and under whatever name.

use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::{Attempt, Call, Refused as _, expect_ok};
use super::{Document, Settings, Target};
use crate::net::http_client::Method;
use crate::sinks::{Alarm, Outcome};

/// Version of the mapping below; a server with an older one keeps working and is told about.
const VERSION: u64 = 1;

/// Beats the templates that servers bring for `logs-*-*` (100 and 200).
const PRIORITY: u32 = 250;

/// A longer string is not searched for; its length in UTF-8 stays below Lucene's limit of 32,766 bytes, above which
/// the whole document is refused.
const KEYWORD_CHARS_MAX: u32 = 8191;

/// See [`KEYWORD_CHARS_MAX`]; for each value of an annotation.
const FLATTENED_CHARS_MAX: u32 = 1024;

/// Whose dialect is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Elasticsearch,
    OpenSearch,
}

/// The name of the template for this target.
pub(super) fn name(settings: &Settings) -> String {
    format!(
        "auditship-{}",
        settings.target.literal().trim_end_matches(['-', '_', '.'])
    )
}

/// The template's text.
pub(super) fn template(settings: &Settings, product: Product) -> Value {
    let mut template = json!({
        "index_patterns": [settings.target.pattern()],
        "priority": PRIORITY,
        "_meta": { "description": "Kubernetes audit events, installed by auditship" },
        "template": { "mappings": mappings(settings.document, product) },
    });
    if settings.target.data_stream().is_some() {
        template["data_stream"] = json!({});
    }
    if product == Product::Elasticsearch {
        // Not `logsdb`, which a server may choose for `logs-*`: its source is put together anew, and what is stored
        // could no longer be compared byte by byte. OpenSearch knows no such setting.
        template["template"]["settings"] = json!({ "index": { "mode": "standard" } });
    }
    template
}

fn mappings(document: Document, product: Product) -> Value {
    let keyword = || json!({ "type": "keyword", "ignore_above": KEYWORD_CHARS_MAX });
    let mut properties = match document {
        Document::Ecs => json!({
            "event": { "properties": { "id": keyword(), "kind": keyword(), "hash": keyword() } },
            "orchestrator": { "properties": { "cluster": { "properties": { "name": keyword() } } } },
            "host": { "properties": { "name": keyword() } },
            "labels": flattened(product),
            "auditship": { "properties": { "encoding": keyword() } },
            "kubernetes": { "properties": { "audit": { "properties": audit(product) } } },
        }),
        Document::Flat => {
            let mut own = audit(product);
            own["auditship"] = json!({ "properties": {
                "id": keyword(), "hash": keyword(), "cluster": keyword(), "node": keyword(), "source": keyword(),
                "encoding": keyword(),
            } });
            own
        }
    };
    properties["@timestamp"] = json!({ "type": "date_nanos" });
    json!({
        "dynamic": false,
        "_meta": { "auditship": { "template": VERSION, "document": document.word() } },
        "properties": properties,
    })
}

/// Strings under keys that clients choose: one field, however many keys.
fn flattened(product: Product) -> Value {
    match product {
        Product::Elasticsearch => {
            json!({ "type": "flattened", "ignore_above": FLATTENED_CHARS_MAX })
        }
        // OpenSearch 3.7 refuses `ignore_above` here; an event with a longer value is stored in the fallback form.
        Product::OpenSearch => json!({ "type": "flat_object" }),
    }
}

/// The fields of an audit event (audit.k8s.io/v1) that people search by.
fn audit(product: Product) -> Value {
    let keyword = || json!({ "type": "keyword", "ignore_above": KEYWORD_CHARS_MAX });
    let date = || json!({ "type": "date", "ignore_malformed": true });
    let body = || json!({ "type": "object", "enabled": false });
    let user = || {
        json!({ "properties": {
            "username": keyword(), "uid": keyword(), "groups": keyword(), "extra": flattened(product),
        } })
    };
    json!({
        "auditID": keyword(), "level": keyword(), "stage": keyword(), "verb": keyword(), "requestURI": keyword(),
        "user": user(),
        "impersonatedUser": user(),
        "authenticationMetadata": { "properties": { "impersonationConstraint": keyword() } },
        "sourceIPs": { "type": "ip", "ignore_malformed": true },
        "userAgent": keyword(),
        "objectRef": { "properties": {
            "resource": keyword(), "namespace": keyword(), "name": keyword(), "uid": keyword(),
            "apiGroup": keyword(), "apiVersion": keyword(), "resourceVersion": keyword(), "subresource": keyword(),
        } },
        "responseStatus": { "properties": {
            "code": { "type": "integer", "ignore_malformed": true },
            "status": keyword(), "reason": keyword(), "details": body(),
        } },
        "requestObject": body(),
        "responseObject": body(),
        "requestReceivedTimestamp": date(),
        "stageTimestamp": date(),
        "annotations": flattened(product),
    })
}

/// Puts the template there. Gives a line that says so.
pub(super) async fn install(
    attempt: &Attempt<'_>,
    settings: &Settings,
    product: Product,
) -> Result<String, Outcome> {
    const DOING: &str = "installing the index template";
    let name = name(settings);
    let path = format!("/_index_template/{name}");
    let call = Call {
        method: Method::PUT,
        ..Call::post(DOING, &path, template(settings, product).to_string())
    };
    expect_ok(attempt, call).await?;
    Ok(format!(
        "installed index template {name} for {}",
        settings.target.pattern()
    ))
}

/// What is known of the mapping that the target has or would get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InForce {
    Ours,
    OtherDocument,
    NotOurs,
    /// Not allowed to see it, or a server that does not tell.
    Unknown,
}

/// Checks that the target has the mapping of the template, or would get it. An alarm where that may not be seen.
pub(super) async fn check(
    attempt: &Attempt<'_>,
    settings: &Settings,
) -> Result<Option<Alarm>, Outcome> {
    let target = settings.target.describe();
    let existing = existing(attempt, settings).await?;
    let mend = "run `auditship check --connect --setup FILE`, or set `template = \"own\"`";
    if let Some(state) =
        existing.filter(|state| matches!(state, InForce::NotOurs | InForce::OtherDocument))
    {
        let what = if state == InForce::NotOurs {
            "another mapping"
        } else {
            "the mapping of another `document`"
        };
        let then = match &settings.target {
            Target::DataStream(name) => format!("then roll it over (POST /{name}/_rollover)"),
            Target::Index(_) | Target::Template(_) => {
                "and name an index that is not there yet".to_owned()
            }
        };
        return Err(Outcome::Stop {
            reason: format!("{target} exists with {what}; {mend}, {then}"),
        });
    }
    if existing == Some(InForce::Ours) {
        return Ok(None);
    }
    match to_be(attempt, settings).await? {
        InForce::Ours => Ok(None),
        InForce::NotOurs => Err(Outcome::Stop {
            reason: format!("{target} has no auditship index template; {mend}"),
        }),
        InForce::OtherDocument => Err(Outcome::Stop {
            reason: format!("the index template of {target} is for another `document`; {mend}"),
        }),
        InForce::Unknown => Ok(Some(Alarm {
            reason: "template_unchecked",
            message: format!(
                "the credentials may not see the mapping of {target}, so it is not known whether the auditship index \
                 template is in force; give them `view_index_metadata` there, or set `template = \"own\"`"
            ),
        })),
    }
}

/// The mapping of the index that is written to; `None` where there is no such index yet or its name varies.
async fn existing(attempt: &Attempt<'_>, settings: &Settings) -> Result<Option<InForce>, Outcome> {
    const DOING: &str = "checking the mapping";
    let (Target::DataStream(name) | Target::Index(name)) = &settings.target else {
        return Ok(None);
    };
    let answer = attempt
        .call(Call::get(DOING, &format!("/{name}/_mapping")))
        .await?;
    match answer.status {
        200 => {
            let indices: std::collections::BTreeMap<String, Value> =
                serde_json::from_slice(&answer.body).unwrap_or_default();
            // Backing indices sort by their generation, the last is the one written to.
            let newest = indices.values().next_back();
            Ok(newest.map(|index| judge(index.pointer("/mappings"), settings.document)))
        }
        // Not there yet, or not to be seen: the template that a new one would get decides.
        400 | 403 | 404 | 405 => Ok(None),
        _ => Err(attempt.refused(&answer, DOING)),
    }
}

/// The mapping that a new index of this name would get.
async fn to_be(attempt: &Attempt<'_>, settings: &Settings) -> Result<InForce, Outcome> {
    const DOING: &str = "checking the index template";
    let path = format!(
        "/_index_template/_simulate_index/{}",
        settings.target.example()
    );
    let answer = attempt
        .call(Call::post(DOING, &path, String::new()))
        .await?;
    match answer.status {
        200 => {
            let simulated: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            Ok(judge(
                simulated.pointer("/template/mappings"),
                settings.document,
            ))
        }
        400 | 403 | 404 | 405 => Ok(InForce::Unknown),
        _ => Err(attempt.refused(&answer, DOING)),
    }
}

fn judge(mappings: Option<&Value>, document: Document) -> InForce {
    #[derive(Deserialize)]
    struct Mark {
        document: String,
    }
    let mark = mappings.and_then(|mappings| mappings.pointer("/_meta/auditship"));
    match mark.map(Mark::deserialize) {
        Some(Ok(mark)) if mark.document == document.word() => InForce::Ours,
        Some(Ok(_)) => InForce::OtherDocument,
        _ => InForce::NotOurs,
    }
}
