//! An HTTP/1.1 client for sinks: one request, one bounded answer, and errors in the terms a sink acts on. It never
//! retries and follows no redirect (credentials must not wander).
//!
//! Invariants: an answer's body is never held beyond the bound that the caller gives; every call ends by its limit;
//! an error never shows a header or a body, so neither a secret nor an event.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};

use crate::clock::{self, Micros};

pub use reqwest::header::{self, HeaderName, HeaderValue};
pub use reqwest::{Method, Url};

/// A connection that does not come about in this time is given up, so that another endpoint gets its turn.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connections are dropped before load balancers usually drop them (60 s), which would break a request midway.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Connections kept idle per endpoint: the greatest `concurrency` that is sensible.
const IDLE_PER_HOST: usize = 8;

/// How a client is made.
#[derive(Debug, Default)]
pub struct HttpOptions {
    /// For `https`; `None`: only `http` is called.
    pub tls: Option<rustls::ClientConfig>,
    /// Proxy for every request; `None`: as `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    pub proxy: Option<String>,
}

/// A client with its pool of connections. Cheap to clone; made anew when certificates change.
#[derive(Clone, Debug)]
pub struct HttpClient {
    inner: reqwest::Client,
}

/// One request. Header values that are secrets are marked sensitive by whoever makes them.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Whole URL, without user or password.
    pub url: String,
    /// Headers beside those that HTTP itself needs.
    pub headers: HeaderMap,
    /// Its body, already encoded.
    pub body: Option<Bytes>,
}

/// An answer, read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// `Retry-After` as sent.
    pub retry_after: Option<String>,
    /// `Location` as sent.
    pub location: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// How long the destination asks to wait: seconds, or until an HTTP date, as of `now`.
    pub fn retry_after(&self, now: Micros) -> Option<Duration> {
        let text = self.retry_after.as_deref()?.trim();
        if let Ok(seconds) = text.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let at = jiff::fmt::rfc2822::parse(text)
            .ok()?
            .timestamp()
            .as_microsecond();
        Some(Duration::from_micros(
            u64::try_from(at.saturating_sub(now.0)).unwrap_or(0),
        ))
    }
}

/// An answer with its headers, read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// All of them.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No connection: the request was not sent.
    #[error("connect: {0}")]
    Unreachable(String),
    /// The other side is not trusted, or does not trust us: configuration, and nothing was sent.
    #[error("tls: {0}")]
    Untrusted(String),
    /// The request may have been carried out, but its answer was not seen to the end.
    #[error("{0}")]
    Unfinished(String),
    /// As `Unfinished`: the answer is longer than the bound.
    #[error("the answer is longer than {0} bytes")]
    AnswerTooLarge(usize),
}

impl HttpClient {
    /// Makes a client.
    pub fn new(options: HttpOptions) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("auditship/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_HOST);
        if let Some(proxy) = options.proxy {
            let proxy = reqwest::Proxy::all(proxy)
                .map_err(|error| format!("use proxy: {}", tell(error)))?;
            builder = builder.proxy(proxy);
        }
        builder = match options.tls {
            Some(config) => builder.tls_backend_preconfigured(config),
            // Else reqwest would read the system's authorities for nothing.
            None => builder.tls_certs_only([]),
        };
        let inner = builder
            .build()
            .map_err(|error| format!("make http client: {}", tell(error)))?;
        Ok(HttpClient { inner })
    }

    /// Sends one request and reads the answer, of `body_max` bytes at most, within `limit`.
    pub async fn send(
        &self,
        request: Request,
        body_max: usize,
        limit: Duration,
    ) -> Result<Answer, HttpError> {
        let reply = self.call(request, body_max, limit).await?;
        let header = |name| {
            reply
                .headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
                .map(str::to_owned)
        };
        Ok(Answer {
            status: reply.status,
            retry_after: header(RETRY_AFTER),
            location: header(LOCATION),
            body: reply.body,
        })
    }

    /// As [`HttpClient::send`], with all headers of the answer.
    pub async fn call(
        &self,
        request: Request,
        body_max: usize,
        limit: Duration,
    ) -> Result<Reply, HttpError> {
        match clock::timeout(limit, self.exchange(request, body_max)).await {
            Some(result) => result,
            None => Err(HttpError::Unfinished(format!(
                "no complete answer within {limit:.1?}"
            ))),
        }
    }

    async fn exchange(&self, request: Request, body_max: usize) -> Result<Reply, HttpError> {
        let mut builder = self
            .inner
            .request(request.method, request.url)
            .headers(request.headers);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let mut response = builder.send().await.map_err(classify)?;
        let headers = std::mem::take(response.headers_mut());
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(classify)? {
            if body.len() + chunk.len() > body_max {
                return Err(HttpError::AnswerTooLarge(body_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status,
            headers,
            body: body.into(),
        })
    }
}

/// An error in the terms a sink acts on. A certificate's alert may come after the handshake (TLS 1.3), so it is
/// looked for in every error, not only in those of connecting.
fn classify(error: reqwest::Error) -> HttpError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(problem) = rustls_error(current).and_then(distrust) {
            return HttpError::Untrusted(problem);
        }
        cause = current.source();
    }
    if error.is_connect() {
        HttpError::Unreachable(tell(error))
    } else {
        HttpError::Unfinished(tell(error))
    }
}

/// The TLS error that `error` is, under as many I/O errors as it was wrapped in; `source` leaves those out.
fn rustls_error<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    while let Some(io) = error.downcast_ref::<std::io::Error>() {
        error = io.get_ref()?;
    }
    error.downcast_ref::<rustls::Error>()
}

/// What is wrong, where it is a matter of certificates or protocol and not of the moment.
fn distrust(error: &rustls::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, Error};
    match error {
        Error::InvalidCertificate(_) => Some(format!("{error}")),
        Error::NoCertificatesPresented => Some("the server shows no certificate".to_owned()),
        Error::InvalidMessage(_) => Some("the server does not speak TLS here".to_owned()),
        Error::PeerIncompatible(_) => Some(format!("no common protocol: {error}")),
        Error::AlertReceived(
            alert @ (Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::UnrecognisedName
            | Alert::CertificateRequired),
        ) => Some(format!("the server refuses us: {alert:?}")),
        _ => None,
    }
}

/// The error and its causes in one line, without the URL.
fn tell(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let text = current.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = current.source();
    }
    line
}
