//! What an answer of Elasticsearch or OpenSearch means. Pure: status and body in, a verdict out; `tests.rs` beside it
//! holds the real bodies of both servers.
//!
//! Invariants: whatever is not understood is in doubt and tried again, never taken for stored; what is a matter of
//! configuration stops the sink, never rejects an event; a reason is [`bounded`] and never
//! shows a value of an event (servers quote them: `Preview of field's value: '…'`).

use serde::Deserialize;

use crate::clock::Micros;
use crate::net::http_client::Answer;
use crate::sinks::http_connection::bounded;
use crate::sinks::{Outcome, Rejection, RejectionKind};

/// Verdict on one item of a bulk answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Stored.
    Stored,
    /// Stored, but in the failure store, where no search of the data stream finds it.
    FailureStore,
    /// The id is taken in this index; by what must be read back.
    Conflict {
        /// The concrete index (the backing index of a data stream).
        index: String,
    },
    /// Refused for what it is.
    Rejected(Rejection),
    /// Not now.
    Retry {
        reason: String,
        /// Whether it may be stored all the same.
        in_doubt: bool,
    },
    /// Configuration or rights: no event could be stored like this.
    Stop { reason: String },
}

#[derive(Deserialize)]
struct BulkAnswer {
    items: Vec<BulkItem>,
}

#[derive(Deserialize)]
struct BulkItem {
    #[serde(alias = "index")]
    create: ItemBody,
}

#[derive(Deserialize)]
struct ItemBody {
    #[serde(rename = "_index")]
    index: Option<String>,
    status: u16,
    error: Option<ErrorBody>,
    failure_store: Option<String>,
}

#[derive(Deserialize)]
struct WholeError {
    error: Option<ErrorBody>,
}

/// `"error": {…}`, or a bare string as some answers have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    Object {
        r#type: Option<String>,
        reason: Option<String>,
        caused_by: Option<Cause>,
    },
    Text(String),
}

#[derive(Deserialize)]
struct Cause {
    r#type: Option<String>,
}

impl ErrorBody {
    fn kind(&self) -> &str {
        match self {
            ErrorBody::Object { r#type, .. } => r#type.as_deref().unwrap_or("unknown error"),
            ErrorBody::Text(_) => "error",
        }
    }

    fn words(&self) -> &str {
        match self {
            ErrorBody::Object { reason, .. } => reason.as_deref().unwrap_or(""),
            ErrorBody::Text(text) => text,
        }
    }

    fn cause(&self) -> Option<&str> {
        match self {
            ErrorBody::Object {
                caused_by: Some(cause),
                ..
            } => cause.r#type.as_deref(),
            _ => None,
        }
    }

    /// Type, the cause's type, and the reason without values.
    fn tell(&self) -> String {
        let mut line = self.kind().to_owned();
        if let Some(cause) = self.cause() {
            line.push_str(" (");
            line.push_str(cause);
            line.push(')');
        }
        let words = without_values(self.words());
        if !words.is_empty() {
            line.push_str(": ");
            line.push_str(&words);
        }
        bounded(line)
    }

    /// The type and the cause's type, which are the same for refusals that mean the same.
    fn class(&self) -> String {
        match self.cause() {
            Some(cause) => format!("{}/{cause}", self.kind()),
            None => self.kind().to_owned(),
        }
    }
}

/// The verdicts of a bulk answer with status 200, one per item sent, in their order. `Err` says what cannot be
/// understood: everything is in doubt then.
pub(super) fn items(body: &[u8], expected: usize) -> Result<Vec<Item>, String> {
    let answer: BulkAnswer = serde_json::from_slice(body).map_err(|error| {
        // Without serde's words, which can quote the answer.
        format!(
            "the bulk answer cannot be understood (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    if answer.items.len() != expected {
        return Err(format!(
            "the bulk answer has {} items for {expected} that were sent",
            answer.items.len()
        ));
    }
    Ok(answer
        .items
        .into_iter()
        .map(|item| judge(item.create))
        .collect())
}

fn judge(item: ItemBody) -> Item {
    let Some(error) = item.error else {
        return match item.status {
            200 | 201 if item.failure_store.as_deref() == Some("used") => Item::FailureStore,
            200 | 201 => Item::Stored,
            status => Item::Retry {
                reason: format!("item status {status} without an error"),
                in_doubt: true,
            },
        };
    };
    let reason = format!("{} {}", item.status, error.tell());
    let reason = bounded(reason);
    let rejected = |kind| {
        Item::Rejected(Rejection {
            kind,
            class: error.class(),
            reason: reason.clone(),
        })
    };
    match item.status {
        409 => match item.index {
            Some(index) if error.kind() == "version_conflict_engine_exception" => {
                Item::Conflict { index }
            }
            _ => Item::Retry {
                reason,
                in_doubt: true,
            },
        },
        400 => match error.kind() {
            "index_closed_exception" => Item::Stop {
                reason: format!("{reason}; open the index again"),
            },
            "invalid_index_name_exception" => Item::Stop {
                reason: format!("{reason}; correct the index name"),
            },
            "illegal_argument_exception" if no_such_pipeline(&error) => Item::Stop {
                reason: format!("{reason}; make the ingest pipeline or correct `pipeline`"),
            },
            "illegal_argument_exception"
                if error
                    .words()
                    .contains("only write ops with an op_type of create") =>
            {
                rejected(RejectionKind::Refused)
            }
            // Everything else is about the document: its grammar, its mapping, its length, its number of fields.
            _ => rejected(RejectionKind::Unparsable),
        },
        413 => rejected(RejectionKind::TooLarge),
        401 | 403 => Item::Stop {
            reason: format!("{reason}; {RIGHTS}"),
        },
        404 => Item::Stop {
            reason: format!("{reason}; {MISSING}"),
        },
        429 => Item::Retry {
            reason,
            in_doubt: false,
        },
        // A processor fails for what the event holds and would fail again for ever.
        500 if error.kind().contains("processor") || error.kind().contains("pipeline") => {
            rejected(RejectionKind::Unparsable)
        }
        500..=599 => Item::Retry {
            reason,
            in_doubt: true,
        },
        402..=499 => rejected(RejectionKind::Refused),
        _ => Item::Retry {
            reason,
            in_doubt: true,
        },
    }
}

const RIGHTS: &str =
    "check the credentials under `auth` and give them the rights to create and to read there";
const MISSING: &str =
    "install the template with `auditship check --connect --setup FILE`, or make the index";

fn no_such_pipeline(error: &ErrorBody) -> bool {
    error.words().starts_with("pipeline with id [") && error.words().ends_with("does not exist")
}

/// What an answer other than 200 to a request means for the batch. `doing` names the request in the reason.
pub(super) fn refused(answer: &Answer, doing: &str, now: Micros) -> Outcome {
    let error = serde_json::from_slice::<WholeError>(&answer.body)
        .ok()
        .and_then(|whole| whole.error);
    let words = error
        .as_ref()
        .map(|error| format!(": {}", error.tell()))
        .unwrap_or_default();
    let reason =
        |advice: &str| bounded(format!("{doing} answered {}{words}", answer.status)) + advice;
    let stop = |advice: &str| Outcome::Stop {
        reason: reason(&format!("; {advice}")),
    };
    let split = |kind| Outcome::Split {
        verdict: Rejection {
            kind,
            class: error
                .as_ref()
                .map_or_else(|| format!("http {}", answer.status), ErrorBody::class),
            reason: reason(""),
        },
    };
    match answer.status {
        400 => match &error {
            Some(error) if error.kind() == "invalid_index_name_exception" => {
                stop("correct the index name")
            }
            Some(error) if no_such_pipeline(error) => {
                stop("make the ingest pipeline or correct `pipeline`")
            }
            Some(error) if error.words().contains("unrecognized parameter") => stop(
                "the server does not know a request parameter; is it Elasticsearch 8 or OpenSearch 2, or later?",
            ),
            _ => split(RejectionKind::Refused),
        },
        401 => stop("check the credentials under `auth`"),
        403 => stop(RIGHTS),
        404 => stop("check the path in `endpoints`, and that the index or its template exists"),
        405 | 406 | 410 | 411 | 415 | 426 | 501 | 505 => {
            stop("is this an Elasticsearch or OpenSearch server? check `endpoints`")
        }
        407 => stop("the proxy wants credentials: write them into `proxy`"),
        413 => split(RejectionKind::TooLarge),
        300..=399 => {
            let to = answer.location.as_deref().unwrap_or("another place");
            stop(&format!(
                "it redirects to {}; name that in `endpoints` if it is right",
                bounded(to.to_owned())
            ))
        }
        408 | 425 => Outcome::Retry {
            after: answer.retry_after(now),
            reason: reason(""),
            in_doubt: true,
        },
        // Refused before any of it was looked at.
        429 => Outcome::Retry {
            after: answer.retry_after(now),
            reason: reason(""),
            in_doubt: false,
        },
        402..=499 => stop("check `endpoints` and what stands before the server"),
        // 502 and 504 of a load balancer hide what the server did.
        _ => Outcome::Retry {
            after: answer.retry_after(now),
            reason: reason(""),
            in_doubt: true,
        },
    }
}

/// The batch may be stored or not; try again.
pub(super) fn in_doubt(reason: String) -> Outcome {
    Outcome::Retry {
        after: None,
        reason: bounded(reason),
        in_doubt: true,
    }
}

/// Nothing was stored by this; try again.
pub(super) fn again(reason: String) -> Outcome {
    Outcome::Retry {
        after: None,
        reason: bounded(reason),
        in_doubt: false,
    }
}

/// A server's words without anything that it may quote from an event: cut where a preview begins; what stands in
/// quotes, or in brackets as a value, is left out. Field names stay: they say what to mend.
fn without_values(words: &str) -> String {
    const CUTS: [&str; 4] = [
        "Preview of field's value",
        "The prefix of the first immense term",
        "original message",
        "\n",
    ];
    let end = CUTS
        .iter()
        .filter_map(|cut| words.find(cut))
        .min()
        .unwrap_or(words.len());
    let mut out = String::new();
    let mut rest = &words[..end];
    while let Some(at) = rest.find(['\'', '"', '[', '(']) {
        let (before, inside) = (rest[..at].to_ascii_lowercase(), &rest[at + 1..]);
        let (open, close) = match rest.as_bytes()[at] {
            b'[' => ('[', ']'),
            b'(' => ('(', ')'),
            b'"' => ('"', '"'),
            _ => ('\'', '\''),
        };
        let value = VALUE_WORDS.iter().any(|word| before.ends_with(word));
        let shown = match open {
            '[' | '(' => !value,
            _ => before.ends_with("field="),
        };
        // A value may hold the closing sign itself, so its end is the last one.
        let Some(length) = (if shown {
            inside.find(close)
        } else {
            inside.rfind(close)
        }) else {
            out.push_str(&rest[..at]);
            out.push('…');
            return out;
        };
        out.push_str(&rest[..=at]);
        out.push_str(if shown { &inside[..length] } else { "…" });
        out.push(close);
        rest = &inside[length + 1..];
    }
    out.push_str(rest);
    out.trim().to_owned()
}

/// What stands before a value in brackets.
const VALUE_WORDS: [&str; 6] = [
    "date",
    "date field ",
    "value ",
    "found ",
    "string ",
    "token ",
];

#[cfg(test)]
mod tests;
