//! A small HTTP/1.1 server for pages that are made in memory: no request bodies, no keep-alive, hard limits.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] connections are open, each for at most [`CONNECTION_TIME_MAX`]; a request's
//! head has at most [`HEAD_MAX`] bytes and must be there within [`HEAD_TIME_MAX`]; pages are made outside the async
//! workers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock;

/// Connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// For the head of a request.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// For a whole connection: a reader that takes its answer too slowly is cut off.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of a request's head.
pub const HEAD_MAX: usize = 16 << 10;

/// After a failed accept (out of descriptors, say) the next one waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether the method is GET.
    pub is_get: bool,
    /// The path without the query.
    pub path: String,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub content_type: &'static str,
    /// The page.
    pub body: Vec<u8>,
}

impl Answer {
    /// Plain text.
    pub fn text(status: u16, body: String) -> Self {
        Answer {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into_bytes(),
        }
    }
}

/// Makes a page; may block.
pub type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A bound socket.
#[derive(Debug)]
pub struct Listener(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "held for its drop")] OwnPath,
    ),
}

/// Removes the socket's file at the end.
#[derive(Debug)]
struct OwnPath(PathBuf);

impl Drop for OwnPath {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "remove socket");
        }
    }
}

impl Listener {
    /// Binds an address.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Listener(Socket::Tcp(TcpListener::bind(address).await?)))
    }

    /// Binds a path, mode 0600. A socket that nobody answers any more is replaced; anything else there is an error.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let left_over = std::os::unix::net::UnixStream::connect(path);
        if left_over.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let own = OwnPath(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Listener(Socket::Unix(listener, own)))
    }

    /// The address in use; `None` for a path.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Answers requests until the future is dropped; open connections end with it.
pub async fn serve(listener: Listener, handler: Handler) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        let accepted: io::Result<Box<dyn Stream>> = match &listener.0 {
            Socket::Tcp(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Box::new(stream) as Box<dyn Stream>),
            Socket::Unix(listener, _) => listener
                .accept()
                .await
                .map(|(stream, _)| Box::new(stream) as Box<dyn Stream>),
        };
        match accepted {
            Ok(stream) => {
                let handler = handler.clone();
                connections.spawn(async move {
                    if clock::timeout(CONNECTION_TIME_MAX, answer_one(stream, handler))
                        .await
                        .is_none()
                    {
                        tracing::debug!("a reader was too slow and was cut off");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                clock::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_one(stream: Box<dyn Stream>, handler: Handler) {
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let request = Request {
                is_get: request.method() == Method::GET,
                path: request.uri().path().to_owned(),
            };
            let handler = handler.clone();
            async move {
                let made = tokio::task::spawn_blocking(move || handler(&request)).await;
                let answer = made.unwrap_or_else(|_| {
                    Answer::text(500, "this page could not be made\n".to_owned())
                });
                Ok::<_, Infallible>(response(answer))
            }
        });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request was not answered");
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    if answer.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}
