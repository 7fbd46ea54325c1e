//! S3 as it was seen to answer (versitygw, MinIO, SeaweedFS) and as its documentation says (AWS): signatures checked in
//! full, payload hashes and checksums, `If-None-Match`, uploads in parts, Object Lock, KMS, listings. The contract suite
//! runs against this and against a real server, and so keeps it honest.
//!
//! Beside that it fails on demand: see [`Fault`]. What it holds is read with the tests' own requests.

mod access;
mod answers;
mod store;

use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use self::access::Access;
use self::store::Store;
use super::http_server::{Answer, HttpServer, Manner, Request};
use crate::support::sigv4::decoded;
use crate::support::wait::unix_ms;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `PUT` of an object.
    Put,
    /// `HEAD` of an object.
    Head,
    /// `GET` of an object.
    Get,
    /// `DELETE` of an object.
    Delete,
    /// Begins an upload in parts.
    Begin,
    /// Sends a part.
    Part,
    /// Completes an upload.
    Complete,
    /// Aborts one.
    Abort,
    /// About the bucket: which.
    Bucket(About),
}

/// What a request about a bucket asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Whether it is there.
    Existence,
    /// Its objects.
    Objects,
    /// Its versions.
    Versions,
    /// Its unfinished uploads.
    Uploads,
    /// Its Object Lock.
    Lock,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Refused with this status and code, nothing done.
    Refuse(u16, &'static str),
    /// The same with a message.
    Say(u16, &'static str, &'static str),
    /// 503 SlowDown with `Retry-After` in seconds.
    SlowDown(Option<u64>),
    /// This whole answer, nothing done.
    Answer(Answer),
    /// Nothing done, the connection is reset.
    ResetBefore,
    /// Done, the connection is reset before the answer.
    ResetAfter,
    /// Nothing done, no answer.
    HangBefore,
    /// Done, no answer.
    HangAfter,
    /// The body is taken for one that lacks its last byte.
    CutBody,
}

/// Whether the server heeds `If-None-Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// It does.
    Heeded,
    /// It writes all the same.
    Ignored,
    /// It answers 501.
    Refused,
}

type Script = Box<dyn FnMut(Operation) -> Option<Fault> + Send>;

/// The mutable part of the fake.
struct Inner {
    store: Store,
    access: Access,
    conditions: Conditions,
    script: Script,
    asked: Vec<Operation>,
    hosts: Vec<String>,
    /// Of the server's clock, before ours.
    ahead_ms: i64,
}

/// A running fake, with the buckets `audit`, `versioned` and `locked`.
pub(crate) struct FakeS3 {
    server: HttpServer,
    inner: Arc<Mutex<Inner>>,
    tls: bool,
}

impl FakeS3 {
    /// Plain.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// With TLS where configured.
    pub(crate) fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            store: Store::with_buckets(),
            access: Access::usual(),
            conditions: Conditions::Heeded,
            script: Box::new(|_| None),
            asked: Vec::new(),
            hosts: Vec::new(),
            ahead_ms: 0,
        }));
        let serving = Arc::clone(&inner);
        let with_tls = tls.is_some();
        let server = HttpServer::start(tls, move |request| {
            serving.lock().expect("no holder panics").answer(request)
        });
        FakeS3 {
            server,
            inner,
            tls: with_tls,
        }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.server.address())
    }

    /// What happens to each request from now on.
    pub(crate) fn script(&self, script: impl FnMut(Operation) -> Option<Fault> + Send + 'static) {
        self.with(|inner| inner.script = Box::new(script));
    }

    /// These faults, one for each request of this kind, then none.
    pub(crate) fn next_faults(&self, of: Operation, faults: impl IntoIterator<Item = Fault>) {
        let mut faults = faults.into_iter().collect::<Vec<_>>().into_iter();
        self.script(move |operation| (operation == of).then(|| faults.next()).flatten());
    }

    /// Whether `If-None-Match` is heeded.
    pub(crate) fn conditions(&self, conditions: Conditions) {
        self.with(|inner| inner.conditions = conditions);
    }

    /// What has been asked for since this was last asked.
    pub(crate) fn take_asked(&self) -> Vec<Operation> {
        self.with(|inner| std::mem::take(&mut inner.asked))
    }

    /// Hosts that requests named.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.with(|inner| inner.hosts.clone())
    }

    /// Sets the server's clock ahead of ours.
    pub(crate) fn set_clock_ahead(&self, seconds: i64) {
        self.with(|inner| inner.ahead_ms = seconds * 1000);
    }

    /// Requests must carry this session token; `None`: they carry none.
    pub(crate) fn session_token(&self, token: Option<&str>) {
        self.with(|inner| inner.access.token = token.map(str::to_owned));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().expect("no holder panics"))
    }
}

impl Inner {
    fn answer(&mut self, mut request: Request) -> Answer {
        let now = unix_ms() + self.ahead_ms;
        // Through a proxy, the whole URL is there.
        if let Some(rest) = request.path.strip_prefix("http://") {
            let path = rest.find('/').map_or("/", |at| &rest[at..]);
            request.path = path.to_owned();
        }
        let host = request.header("host").unwrap_or_default().to_owned();
        self.hosts.push(host.clone());
        let answer = match self.access.refuse(&request, now) {
            Some(refusal) => refusal,
            None => self.serve(&request, &host),
        };
        let date = jiff::Timestamp::from_millisecond(now).expect("a time");
        answer
            .with("date", date.strftime("%a, %d %b %Y %H:%M:%S GMT"))
            .with("x-amz-request-id", "FAKE")
    }

    fn serve(&mut self, request: &Request, host: &str) -> Answer {
        let path = decoded(&request.path);
        let path = path.trim_start_matches('/');
        let (bucket, key) = match host.split_once(".s3.fake") {
            Some((bucket, _)) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        let Some(operation) = operation(request, key) else {
            return answers::error(501, "NotImplemented", "");
        };
        self.asked.push(operation);
        let mut body = request.body.clone();
        let fault = (self.script)(operation);
        match &fault {
            Some(Fault::Refuse(status, code)) => return answers::error(*status, code, ""),
            Some(Fault::Say(status, code, message)) => {
                return answers::error(*status, code, message);
            }
            Some(Fault::SlowDown(after)) => {
                let answer = answers::error(503, "SlowDown", "Please reduce your request rate.");
                return match after {
                    Some(seconds) => answer.with("retry-after", seconds),
                    None => answer,
                };
            }
            Some(Fault::Answer(answer)) => return answer.clone(),
            Some(Fault::ResetBefore) => return Answer::empty(200).sent(Manner::ResetAfter(0)),
            Some(Fault::HangBefore) => return Answer::empty(200).sent(Manner::Hang),
            Some(Fault::CutBody) => {
                body.pop();
            }
            _ => {}
        }
        if let Some(refusal) = access::refuse_body(request, &body) {
            return refusal;
        }
        let conditions = self.conditions;
        let answer = self
            .store
            .act(operation, conditions, bucket, key, request, body);
        match fault {
            Some(Fault::ResetAfter) => answer.sent(Manner::ResetAfter(0)),
            Some(Fault::HangAfter) => answer.sent(Manner::Hang),
            _ => answer,
        }
    }
}

fn operation(request: &Request, key: &str) -> Option<Operation> {
    let has = |name: &str| {
        request
            .query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    if key.is_empty() {
        return Some(Operation::Bucket(match request.method.as_str() {
            "HEAD" => About::Existence,
            "GET" if has("uploads") => About::Uploads,
            "GET" if has("versions") => About::Versions,
            "GET" if has("object-lock") => About::Lock,
            "GET" if has("list-type") => About::Objects,
            _ => return None,
        }));
    }
    Some(match request.method.as_str() {
        "PUT" if has("uploadId") => Operation::Part,
        "PUT" => Operation::Put,
        "POST" if has("uploads") => Operation::Begin,
        "POST" if has("uploadId") => Operation::Complete,
        "DELETE" if has("uploadId") => Operation::Abort,
        "DELETE" => Operation::Delete,
        "HEAD" => Operation::Head,
        "GET" => Operation::Get,
        _ => return None,
    })
}
