//! Endpoints, credentials and certificates turned into requests, for sinks that speak HTTP. Picks an endpoint for each
//! attempt and notices when a secret or a certificate file has changed. Knows no destination: what an answer means is
//! its sink's to say.
//!
//! Invariants: an attempt keeps to one endpoint, and all its requests together end within the sink's `timeout`; a
//! client that cannot be made anew (a half-written certificate) leaves the one before in use; no secret is shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::auth::Auth;
use super::bounded;
use super::endpoints::{Endpoints, Health};
use crate::clock::{Clock, Micros};
use crate::net::http_client::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use crate::net::http_client::{
    Answer, HeaderValue, HttpClient, HttpError, HttpOptions, Method, Request,
};
use crate::net::tls::TlsFiles;
use crate::sinks::{BuildError, Outcome, SinkContext};

/// Longest answer that is read.
pub(in crate::sinks) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Secrets and certificate files are looked at this often at most; a change is then in use within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where a sink talks to and as whom.
#[derive(Clone, Debug)]
pub(in crate::sinks) struct Access {
    /// URLs without a slash at the end; at least one.
    pub(in crate::sinks) endpoints: Vec<String>,
    pub(in crate::sinks) auth: Option<Auth>,
    pub(in crate::sinks) tls: TlsFiles,
    /// Sent with every request, beside what HTTP and the body need.
    pub(in crate::sinks) headers: HeaderMap,
}

/// What a sink talks through.
pub(in crate::sinks) struct Connection {
    access: Access,
    proxy: Option<String>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    live: Mutex<Live>,
    endpoints: Mutex<Endpoints>,
}

struct Live {
    client: HttpClient,
    authorization: Option<HeaderValue>,
    fingerprint: u64,
    expiry: Option<i64>,
    looked: Duration,
}

impl Connection {
    /// Touches no network. The error is about certificate files and secrets that cannot be used.
    pub(in crate::sinks) fn new(access: Access, context: &SinkContext) -> Result<Self, BuildError> {
        let live = Live {
            client: client(&access, context.proxy.as_ref()).map_err(BuildError)?,
            authorization: authorization(&access).map_err(BuildError)?,
            fingerprint: fingerprint(&access),
            expiry: access.tls.expiry(),
            looked: context.clock.monotonic(),
        };
        Ok(Connection {
            endpoints: Mutex::new(Endpoints::new(access.endpoints.len())),
            proxy: context.proxy.clone(),
            timeout: context.timeout,
            clock: context.clock.clone(),
            live: Mutex::new(live),
            access,
        })
    }

    /// Whether secrets or certificate files are other than those in use.
    pub(in crate::sinks) fn changed(&self) -> bool {
        fingerprint(&self.access) != lock(&self.live).fingerprint
    }

    /// When the first of the certificates in use expires, in seconds since the Unix epoch.
    pub(in crate::sinks) fn certificate_expiry(&self) -> Option<i64> {
        lock(&self.live).expiry
    }

    /// Uses the present secrets and certificates. The error says what cannot be read; what was in use stays so.
    pub(in crate::sinks) fn refresh(&self) -> Result<(), String> {
        let present = fingerprint(&self.access);
        let now = self.clock.monotonic();
        {
            let mut live = lock(&self.live);
            live.looked = now;
            if live.fingerprint == present {
                return Ok(());
            }
        }
        let client = client(&self.access, self.proxy.as_ref())?;
        let authorization = authorization(&self.access)?;
        *lock(&self.live) = Live {
            client,
            authorization,
            fingerprint: present,
            expiry: self.access.tls.expiry(),
            looked: now,
        };
        Ok(())
    }

    /// Begins an attempt: an endpoint, and the time until its end.
    pub(in crate::sinks) fn attempt(&self) -> Attempt<'_> {
        let now = self.clock.monotonic();
        if now.saturating_sub(lock(&self.live).looked) >= LOOK_EVERY
            && let Err(problem) = self.refresh()
        {
            tracing::warn!(
                "changed secrets or certificates cannot be used, those before stay in use: {problem}"
            );
        }
        let (client, authorization) = {
            let live = lock(&self.live);
            (live.client.clone(), live.authorization.clone())
        };
        let index = lock(&self.endpoints).pick(now);
        Attempt {
            connection: self,
            client,
            authorization,
            index,
            deadline: now + self.timeout,
        }
    }

    /// An attempt at each endpoint in turn, to see whether all of them do.
    pub(in crate::sinks) fn attempts(&self) -> impl Iterator<Item = Attempt<'_>> {
        (0..self.access.endpoints.len()).map(|index| Attempt {
            index,
            ..self.attempt()
        })
    }
}

/// Requests of one attempt.
pub(in crate::sinks) struct Attempt<'a> {
    connection: &'a Connection,
    client: HttpClient,
    authorization: Option<HeaderValue>,
    index: usize,
    deadline: Duration,
}

/// One request: what it does, for messages, and its parts.
pub(in crate::sinks) struct Call<'a> {
    /// `bulk request`, …: begins the reason when it fails.
    pub(in crate::sinks) doing: &'static str,
    pub(in crate::sinks) method: Method,
    /// With a leading slash, added to the endpoint.
    pub(in crate::sinks) path: &'a str,
    pub(in crate::sinks) body: Option<Bytes>,
    /// Of the body.
    pub(in crate::sinks) content_type: &'static str,
    /// Of the body; `None`: as it is.
    pub(in crate::sinks) content_encoding: Option<&'static str>,
    /// Whether it stores events, so that it is in doubt when its end is not seen.
    pub(in crate::sinks) stores: bool,
}

/// What most requests that store nothing carry.
#[cfg(feature = "elasticsearch")]
const JSON: &str = "application/json";

#[cfg(feature = "elasticsearch")]
impl<'a> Call<'a> {
    /// Asks for a page.
    pub(in crate::sinks) fn get(doing: &'static str, path: &'a str) -> Self {
        Call {
            doing,
            method: Method::GET,
            path,
            body: None,
            content_type: JSON,
            content_encoding: None,
            stores: false,
        }
    }

    /// Posts JSON, or nothing.
    pub(in crate::sinks) fn post(doing: &'static str, path: &'a str, body: String) -> Self {
        let body = (!body.is_empty()).then(|| body.into());
        Call {
            doing,
            method: Method::POST,
            path,
            body,
            content_type: JSON,
            content_encoding: None,
            stores: false,
        }
    }
}

impl Attempt<'_> {
    /// Sends one request; an answer of any status is `Ok`, no answer is the outcome that it means.
    pub(in crate::sinks) async fn call(&self, call: Call<'_>) -> Result<Answer, Outcome> {
        let (doing, stores) = (call.doing, call.stores);
        self.exchange(call)
            .await
            .map_err(|error| broken(&error, doing, self.endpoint(), stores))
    }

    /// As [`Attempt::call`], where no answer is the error itself.
    pub(in crate::sinks) async fn exchange(&self, call: Call<'_>) -> Result<Answer, HttpError> {
        let mut headers = self.connection.access.headers.clone();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if call.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(call.content_type));
        }
        if let Some(encoding) = call.content_encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let url = format!("{}{}", self.endpoint(), call.path);
        let request = Request {
            method: call.method,
            url,
            headers,
            body: call.body,
        };
        let limit = self
            .deadline
            .saturating_sub(self.connection.clock.monotonic());
        let result = self.client.send(request, ANSWER_BYTES_MAX, limit).await;
        self.report(&result);
        result
    }

    /// The wall clock, for `Retry-After`.
    pub(in crate::sinks) fn now(&self) -> Micros {
        self.connection.clock.now()
    }

    /// The endpoint in use, for messages.
    pub(in crate::sinks) fn endpoint(&self) -> &str {
        &self.connection.access.endpoints[self.index]
    }

    fn report(&self, result: &Result<Answer, HttpError>) {
        let health = match result {
            Ok(answer) if matches!(answer.status, 502..=504) => Health::Failed,
            Ok(_) | Err(HttpError::AnswerTooLarge(_)) => Health::Answered,
            Err(HttpError::Unreachable(_) | HttpError::Untrusted(_)) => Health::Unreachable,
            Err(HttpError::Unfinished(_)) => Health::Failed,
        };
        lock(&self.connection.endpoints).report(
            self.index,
            health,
            self.connection.clock.monotonic(),
        );
    }
}

/// What is behind these locks is whole at every moment, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn client(access: &Access, proxy: Option<&String>) -> Result<HttpClient, String> {
    let https = access
        .endpoints
        .iter()
        .any(|endpoint| endpoint.starts_with("https:"));
    let tls = if https {
        Some(access.tls.client_config()?)
    } else {
        None
    };
    HttpClient::new(HttpOptions {
        tls,
        proxy: proxy.cloned(),
    })
}

fn fingerprint(access: &Access) -> u64 {
    let secrets = access.auth.as_ref().map_or(0, Auth::fingerprint);
    secrets.rotate_left(1) ^ access.tls.fingerprint()
}

fn authorization(access: &Access) -> Result<Option<HeaderValue>, String> {
    access.auth.as_ref().map(Auth::authorization).transpose()
}

/// What a request without an answer means. `may_have_stored`: whether it was one that stores.
pub(in crate::sinks) fn broken(
    error: &HttpError,
    doing: &str,
    endpoint: &str,
    may_have_stored: bool,
) -> Outcome {
    let reason = bounded(format!("{doing} at {endpoint}: {error}"));
    match error {
        HttpError::Untrusted(_) => Outcome::Stop {
            reason: format!("{reason}; check `tls` and the certificate at the endpoint"),
        },
        HttpError::Unreachable(_) => Outcome::Retry {
            after: None,
            reason,
            in_doubt: false,
        },
        HttpError::Unfinished(_) | HttpError::AnswerTooLarge(_) => Outcome::Retry {
            after: None,
            reason,
            in_doubt: may_have_stored,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_request_is_in_doubt_only_when_it_was_sent() {
        let check = |error: HttpError| broken(&error, "push", "http://server:1", true);
        assert!(matches!(
            check(HttpError::Unreachable("refused".into())),
            Outcome::Retry {
                in_doubt: false,
                ..
            }
        ));
        assert!(matches!(
            check(HttpError::Unfinished("reset".into())),
            Outcome::Retry { in_doubt: true, .. }
        ));
        assert!(matches!(
            check(HttpError::AnswerTooLarge(9)),
            Outcome::Retry { in_doubt: true, .. }
        ));
        assert!(matches!(
            check(HttpError::Untrusted("UnknownIssuer".into())),
            Outcome::Stop { .. }
        ));
    }
}
