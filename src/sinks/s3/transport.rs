//! The AWS SDK's HTTP client, made of ours: one HTTP and TLS stack in the process, with its bounds on answers, its
//! proxies and its own authorities.
//!
//! Invariants: no answer is longer than [`ANSWER_BYTES_MAX`]; nothing is retried here; our error is the source of the
//! SDK's, so that a verdict can tell what happened.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient as AwsHttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt as _;

use crate::net::http_client::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use crate::net::http_client::{HeaderValue, HttpClient, HttpOptions, Method, Request};
use crate::net::tls::TlsFiles;

/// Longest answer that is read: a page of a listing has less.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A request could not be made: configuration, and nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) String);

/// What the SDK sends requests through.
#[derive(Clone)]
pub(super) struct Transport {
    clients: Arc<Clients>,
    /// Longest time of one request.
    limit: Duration,
}

/// Made when first used: in most configurations only one of them is.
struct Clients {
    tls: TlsFiles,
    /// For `https`, and for `http` where `proxies_plain`.
    proxy: Option<String>,
    proxies_plain: bool,
    plain: OnceLock<HttpClient>,
    secure: OnceLock<HttpClient>,
}

impl Transport {
    /// For the bucket.
    pub(super) fn to_bucket(tls: TlsFiles, proxy: Option<String>, limit: Duration) -> Self {
        Self::new(tls, proxy, true, limit)
    }

    /// For those who give credentials: AWS's own authorities, and no proxy to the machine's metadata, which are
    /// plain HTTP on the machine itself.
    pub(super) fn to_credentials(proxy: Option<String>, limit: Duration) -> Self {
        Self::new(TlsFiles::default(), proxy, false, limit)
    }

    fn new(tls: TlsFiles, proxy: Option<String>, proxies_plain: bool, limit: Duration) -> Self {
        let clients = Clients {
            tls,
            proxy,
            proxies_plain,
            plain: OnceLock::new(),
            secure: OnceLock::new(),
        };
        Transport {
            clients: Arc::new(clients),
            limit,
        }
    }

    /// Whether requests of this scheme could be sent, as far as files tell.
    pub(super) fn try_files(&self, secure: bool) -> Result<(), String> {
        self.client(secure).map(drop)
    }

    fn client(&self, secure: bool) -> Result<HttpClient, String> {
        let Clients {
            tls,
            proxy,
            proxies_plain,
            plain,
            ..
        } = &*self.clients;
        let slot = if secure { &self.clients.secure } else { plain };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let client = HttpClient::new(HttpOptions {
            tls: if secure {
                Some(tls.client_config()?)
            } else {
                None
            },
            proxy: proxy.clone().filter(|_| secure || *proxies_plain),
        })?;
        Ok(slot.get_or_init(|| client).clone())
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let unusable = |problem: String| ConnectorError::user(Unusable(problem).into());
        let client = self
            .client(request.uri().starts_with("https:"))
            .map_err(unusable)?;
        let request = ours(request).await.map_err(unusable)?;
        let reply = client
            .call(request, ANSWER_BYTES_MAX, self.limit)
            .await
            .map_err(|error| ConnectorError::io(error.into()))?;
        let unread = |problem: String| ConnectorError::io(problem.into());
        let status = StatusCode::try_from(reply.status)
            .map_err(|error| unread(format!("status {}: {error}", reply.status)))?;
        let mut response = HttpResponse::new(status, SdkBody::from(reply.body));
        for (name, value) in &reply.headers {
            // What is not text is no header that S3 sends.
            if let Ok(value) = value.to_str() {
                response
                    .headers_mut()
                    .try_append(name.as_str().to_owned(), value.to_owned())
                    .map_err(|error| unread(format!("header {name}: {error}")))?;
            }
        }
        Ok(response)
    }
}

/// A request of the SDK as one of ours. A body that is held in one piece stays that piece.
async fn ours(mut request: HttpRequest) -> Result<Request, String> {
    let body = request.take_body();
    let body = body
        .collect()
        .await
        .map_err(|error| format!("read the body of a request: {error}"))?
        .to_bytes();
    let method = Method::from_bytes(request.method().as_bytes())
        .map_err(|error| format!("method {}: {error}", request.method()))?;
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers() {
        let name = HeaderName::try_from(name).map_err(|error| format!("header {name}: {error}"))?;
        let mut value =
            HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
        // HTTP needs it, and finds it by itself.
        if name == CONTENT_LENGTH {
            continue;
        }
        value.set_sensitive(name == "authorization" || name == "x-amz-security-token");
        headers.append(name, value);
    }
    let without_body = body.is_empty() && !matches!(method, Method::PUT | Method::POST);
    Ok(Request {
        method,
        url: request.uri().to_owned(),
        headers,
        body: (!without_body).then_some(body),
    })
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let transport = self.clone();
        HttpConnectorFuture::new(async move { transport.exchange(request).await })
    }
}

impl AwsHttpClient for Transport {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        // The machine's metadata are asked with a short one: where there is no such machine, nobody answers. A timeout
        // for connecting alone, which the SDK always sets, says nothing of how long an answer may take.
        let wanted = settings
            .read_timeout()
            .map(|read| read + settings.connect_timeout().unwrap_or_default());
        SharedHttpConnector::new(Transport {
            clients: self.clients.clone(),
            limit: wanted.map_or(self.limit, |wanted| wanted.min(self.limit)),
        })
    }
}
