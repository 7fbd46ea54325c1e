//! Endpoints, credentials and certificates turned into requests. Picks an endpoint for each attempt and notices when
//! a secret or a certificate file has changed.
//!
//! Invariants: an attempt keeps to one endpoint, and all its requests together end within the sink's `timeout`; a
//! client that cannot be made anew (a half-written certificate) leaves the one before in use; no secret is shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::endpoints::{Endpoints, Health};
use super::verdict;
use super::{Auth, Settings};
use crate::clock::Clock;
use crate::net::http_client::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use crate::net::http_client::{
    Answer, HeaderValue, HttpClient, HttpError, HttpOptions, Method, Request,
};
use crate::sinks::{BuildError, Outcome, SinkContext};

/// Longest answer that is read.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Secrets and certificate files are looked at this often at most; a change is then in use within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a sink talks through.
pub(super) struct Connection {
    settings: Arc<Settings>,
    proxy: Option<String>,
    timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
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
    pub(super) fn new(settings: Arc<Settings>, context: &SinkContext) -> Result<Self, BuildError> {
        let live = Live {
            client: client(&settings, context.proxy.as_ref()).map_err(BuildError)?,
            authorization: authorization(settings.auth.as_ref()).map_err(BuildError)?,
            fingerprint: fingerprint(&settings),
            expiry: settings.tls.expiry(),
            looked: context.clock.monotonic(),
        };
        Ok(Connection {
            endpoints: Mutex::new(Endpoints::new(settings.endpoints.len())),
            proxy: context.proxy.clone(),
            timeout: context.timeout,
            clock: context.clock.clone(),
            live: Mutex::new(live),
            settings,
        })
    }

    /// Whether secrets or certificate files are other than those in use.
    pub(super) fn changed(&self) -> bool {
        fingerprint(&self.settings) != lock(&self.live).fingerprint
    }

    /// When the first of the certificates in use expires, in seconds since the Unix epoch.
    pub(super) fn certificate_expiry(&self) -> Option<i64> {
        lock(&self.live).expiry
    }

    /// Uses the present secrets and certificates. The error says what cannot be read; what was in use stays so.
    pub(super) fn refresh(&self) -> Result<(), String> {
        let present = fingerprint(&self.settings);
        let now = self.clock.monotonic();
        {
            let mut live = lock(&self.live);
            live.looked = now;
            if live.fingerprint == present {
                return Ok(());
            }
        }
        let client = client(&self.settings, self.proxy.as_ref())?;
        let authorization = authorization(self.settings.auth.as_ref())?;
        *lock(&self.live) = Live {
            client,
            authorization,
            fingerprint: present,
            expiry: self.settings.tls.expiry(),
            looked: now,
        };
        Ok(())
    }

    /// Begins an attempt: an endpoint, and the time until its end.
    pub(super) fn attempt(&self) -> Attempt<'_> {
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
    pub(super) fn attempts(&self) -> impl Iterator<Item = Attempt<'_>> {
        (0..self.settings.endpoints.len()).map(|index| Attempt {
            index,
            ..self.attempt()
        })
    }
}

/// Requests of one attempt.
pub(super) struct Attempt<'a> {
    connection: &'a Connection,
    client: HttpClient,
    authorization: Option<HeaderValue>,
    index: usize,
    deadline: Duration,
}

/// One request: what it does, for messages, and its parts.
pub(super) struct Call<'a> {
    /// `bulk request`, …: begins the reason when it fails.
    pub(super) doing: &'static str,
    pub(super) method: Method,
    /// With a leading slash, added to the endpoint.
    pub(super) path: &'a str,
    pub(super) body: Option<Bytes>,
    pub(super) gzip: bool,
    /// Whether it is a bulk body that stores events, so that it is in doubt when its end is not seen.
    pub(super) stores: bool,
}

impl<'a> Call<'a> {
    pub(super) fn get(doing: &'static str, path: &'a str) -> Self {
        Call {
            doing,
            method: Method::GET,
            path,
            body: None,
            gzip: false,
            stores: false,
        }
    }

    pub(super) fn post(doing: &'static str, path: &'a str, body: String) -> Self {
        let body = (!body.is_empty()).then(|| body.into());
        Call {
            doing,
            method: Method::POST,
            path,
            body,
            gzip: false,
            stores: false,
        }
    }
}

impl Attempt<'_> {
    /// Sends one request; an answer of any status is `Ok`, no answer is the outcome that it means.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Answer, Outcome> {
        let (doing, stores) = (call.doing, call.stores);
        self.exchange(call)
            .await
            .map_err(|error| verdict::broken(&error, doing, self.endpoint(), stores))
    }

    /// As [`Attempt::call`], where no answer is the error itself.
    pub(super) async fn exchange(&self, call: Call<'_>) -> Result<Answer, HttpError> {
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if call.body.is_some() {
            let kind = if call.stores {
                "application/x-ndjson"
            } else {
                "application/json"
            };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if call.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
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

    /// As [`Attempt::call`], where any status but 200 is the outcome that it means.
    pub(super) async fn expect_ok(&self, call: Call<'_>) -> Result<Answer, Outcome> {
        let doing = call.doing;
        let answer = self.call(call).await?;
        if answer.status == 200 {
            Ok(answer)
        } else {
            Err(self.refused(&answer, doing))
        }
    }

    /// What an answer other than 200 to a bulk request means.
    pub(super) fn bulk_refused(&self, answer: &Answer, doing: &str) -> Outcome {
        verdict::refused(answer, doing, self.connection.clock.now())
    }

    /// What an answer other than 200 to any other request means: there is no batch in it to be halved.
    pub(super) fn refused(&self, answer: &Answer, doing: &str) -> Outcome {
        match self.bulk_refused(answer, doing) {
            Outcome::Split { verdict } => Outcome::Stop {
                reason: verdict.reason,
            },
            outcome => outcome,
        }
    }

    /// The endpoint in use, for messages.
    pub(super) fn endpoint(&self) -> &str {
        &self.connection.settings.endpoints[self.index]
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

fn client(settings: &Settings, proxy: Option<&String>) -> Result<HttpClient, String> {
    let https = settings
        .endpoints
        .iter()
        .any(|endpoint| endpoint.starts_with("https:"));
    let tls = if https {
        Some(settings.tls.client_config()?)
    } else {
        None
    };
    HttpClient::new(HttpOptions {
        tls,
        proxy: proxy.cloned(),
    })
}

fn fingerprint(settings: &Settings) -> u64 {
    let secrets = match &settings.auth {
        None => 0,
        Some(Auth::ApiKey(key)) => key.fingerprint(),
        Some(Auth::Basic { user, password }) => {
            user.fingerprint().rotate_left(1) ^ password.fingerprint()
        }
    };
    secrets.rotate_left(1) ^ settings.tls.fingerprint()
}

fn authorization(auth: Option<&Auth>) -> Result<Option<HeaderValue>, String> {
    let text = match auth {
        None => return Ok(None),
        Some(Auth::ApiKey(secret)) => {
            let key = secret.reveal()?;
            let key = key.trim();
            // The key as the API gives it apart (`id:api_key`) or, encoded, together.
            let encoded = if key.contains(':') {
                BASE64.encode(key)
            } else {
                key.to_owned()
            };
            Zeroizing::new(format!("ApiKey {encoded}"))
        }
        Some(Auth::Basic { user, password }) => {
            let pair = Zeroizing::new(format!(
                "{}:{}",
                user.reveal()?.as_str(),
                password.reveal()?.as_str()
            ));
            Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes())))
        }
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        "the key under `auth.api_key` holds characters that no API key has".to_owned()
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
