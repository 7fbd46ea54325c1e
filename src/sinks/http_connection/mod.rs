//! What sinks over HTTP share: the keys of their configuration, the connection that makes requests of endpoints,
//! credentials and certificates, and bounded words for what went wrong. Knows no destination.

#[cfg(any(feature = "elasticsearch", feature = "loki"))]
mod auth;

#[cfg(any(feature = "elasticsearch", feature = "loki"))]
mod connection;

#[cfg(any(feature = "elasticsearch", feature = "loki"))]
mod endpoints;

pub(super) mod settings;

#[cfg(any(feature = "elasticsearch", feature = "loki"))]
pub(super) use self::auth::{Auth, BASIC, basic};
#[cfg(any(feature = "elasticsearch", feature = "loki"))]
pub(super) use self::connection::*;
use super::Outcome;

/// Longest reason of an outcome.
pub(super) const REASON_BYTES_MAX: usize = 512;

/// At most [`REASON_BYTES_MAX`] bytes, one line.
pub(super) fn bounded(mut text: String) -> String {
    if text.contains(['\n', '\r']) {
        text = text.replace(['\n', '\r'], " ");
    }
    if text.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The words of an outcome that is no success, for `check --connect`.
pub(super) fn told(outcome: Outcome) -> String {
    match outcome {
        Outcome::Stop { reason } | Outcome::Retry { reason, .. } => reason,
        Outcome::Split { verdict } => verdict.reason,
        Outcome::Delivered { .. } | Outcome::MarkFirst { .. } => "unexpected answer".to_owned(),
    }
}
