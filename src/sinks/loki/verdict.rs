//! What an answer of Loki to a push means. Pure: status and body in, an outcome out. `tests.rs` beside it holds the
//! bodies of Loki 3.7.6.
//!
//! Invariants: only 204 and 200 are success (260 is how Loki says that it threw a push away); what is a matter of
//! configuration stops the sink and rejects no event; a reason is bounded and shows nothing of a line.
//!
//! A 400 says little: most lines of the push are stored all the same, and which are not is not told. Since sending a
//! line again does no harm, the push is halved until the line that is still refused stands alone.

use crate::clock::Micros;
use crate::net::http_client::Answer;
use crate::sinks::http_connection::bounded;
use crate::sinks::{Outcome, Rejection, RejectionKind};

/// Longest part of a server's words that is shown.
const WORDS_BYTES_MAX: usize = 360;

/// What a 400 is about, by words of Loki's body. The first that is found counts.
const REFUSALS: &[(&str, Means)] = &[
    ("no org id", Means::Stop(TENANT)),
    ("multiple org IDs present", Means::Stop(TENANT)),
    ("tenant ID", Means::Stop(TENANT)),
    // VictoriaLogs' words for a tenant that is no number.
    ("cannot parse accountID", Means::Stop(TENANT)),
    ("couldn't parse labels", Means::Stop(LABELS)),
    ("label names; limit", Means::Stop(LABELS)),
    ("label name too long", Means::Stop(LABELS)),
    ("label value too long", Means::Stop(LABELS)),
    ("duplicate label name", Means::Stop(LABELS)),
    ("missing required labels", Means::Stop(LABELS)),
    ("at least one label pair", Means::Stop(LABELS)),
    (
        "includes structured metadata, but this feature is disallowed",
        Means::Stop("set `structured_metadata = {}`, or have it allowed there"),
    ),
    ("entry too far behind", Means::Refused("too far behind")),
    ("timestamp too old", Means::Refused("too old")),
    ("timestamp too new", Means::Refused("too new")),
    ("max entry size", Means::TooLarge("line too long")),
    (
        "structured metadata too large",
        Means::TooLarge("structured metadata too large"),
    ),
    (
        "too many structured metadata labels",
        Means::Refused("too much structured metadata"),
    ),
    ("larger than max", Means::TooLarge("push too large")),
    ("body too large", Means::TooLarge("push too large")),
];

const TENANT: &str = "check `tenant`";
const LABELS: &str = "check `labels` and `agent.labels` against the limits there";
const SERVER: &str = "is this Loki? check `endpoint`: `/loki/api/v1/push` is added to it";

#[derive(Clone, Copy)]
enum Means {
    /// Configuration: what to do.
    Stop(&'static str),
    /// Something about a line: the class.
    Refused(&'static str),
    /// The size of a line or of the push: the class.
    TooLarge(&'static str),
}

/// `None`: all lines are stored. Else what the answer means for the push. `doing` begins the reason.
pub(super) fn refused(answer: &Answer, doing: &str, now: Micros) -> Option<Outcome> {
    if matches!(answer.status, 200 | 204) {
        return None;
    }
    let body = String::from_utf8_lossy(&answer.body);
    let said = words(&body);
    let reason = match said.as_str() {
        "" => format!("{doing} answered {}", answer.status),
        said => format!("{doing} answered {}: {said}", answer.status),
    };
    let stop = |advice: &str| Outcome::Stop {
        reason: format!("{}; {advice}", bounded(reason.clone())),
    };
    let retry = |in_doubt| Outcome::Retry {
        after: answer.retry_after(now),
        reason: bounded(reason.clone()),
        in_doubt,
    };
    let split = |kind, class: &str| Outcome::Split {
        verdict: Rejection {
            kind,
            class: class.to_owned(),
            reason: bounded(reason.clone()),
        },
    };
    let known = REFUSALS
        .iter()
        .find(|(sign, _)| body.contains(sign))
        .map(|(_, means)| *means);
    Some(match (answer.status, known) {
        (201..=299, _) => stop("nothing is stored: ingestion may be blocked for this tenant"),
        (300..=399, _) => {
            let to = answer.location.as_deref().unwrap_or("another place");
            stop(&format!(
                "it redirects to {}; name that in `endpoint` if it is right",
                bounded(to.to_owned())
            ))
        }
        (400 | 422, Some(Means::Stop(advice))) => stop(advice),
        (400 | 422 | 500, Some(Means::TooLarge(class))) => split(RejectionKind::TooLarge, class),
        (400 | 422, Some(Means::Refused(class))) => split(RejectionKind::Refused, class),
        (400 | 422, None) => split(RejectionKind::Refused, &format!("http {}", answer.status)),
        (401 | 403, _) => stop("check `auth` and `tenant`"),
        (404 | 405 | 406 | 410 | 411 | 415 | 426 | 501 | 505, _) => stop(SERVER),
        (407, _) => stop("the proxy wants credentials: write them into `proxy`"),
        (413, _) => split(RejectionKind::TooLarge, "push too large"),
        // With a rate limit on the stream some of the lines may be stored.
        (408 | 425 | 429, _) => retry(true),
        (402..=499, _) => stop("check `endpoint` and what stands before the server"),
        // Whatever a balancer hides, and a server that is only starting.
        _ => retry(true),
    })
}

/// As [`refused`], for a request without a batch that could be halved.
pub(super) fn login(answer: &Answer, doing: &str, now: Micros) -> Option<Outcome> {
    match refused(answer, doing, now)? {
        // Whatever it thinks of a stream without lines, it let us in and knows the tenant.
        Outcome::Split { .. } => None,
        outcome => Some(outcome),
    }
}

/// A server's words in one line, without the label set that each message repeats, and cut where a parser's error begins
/// to quote the body.
fn words(body: &str) -> String {
    const QUOTES: [&str; 3] = ["error found in", "...|", "|..."];
    let end = QUOTES
        .iter()
        .filter_map(|quote| body.find(quote))
        .min()
        .unwrap_or(body.len());
    let mut out = String::new();
    let mut depth = 0_usize;
    for char in body[..end].trim().chars() {
        match char {
            '{' => {
                depth += 1;
                if depth == 1 {
                    out.push_str("{…}");
                }
            }
            '}' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            char if char.is_control() => out.push(' '),
            char => out.push(char),
        }
        if out.len() >= WORDS_BYTES_MAX {
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests;
