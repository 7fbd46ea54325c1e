//! Elasticsearch and OpenSearch as they were seen to answer: `_bulk` create with 409 inside one backing index only,
//! rollover, `_mget`, `_search` by ids, data streams, index templates, 413 by inflated size, 401 as text or JSON, the
//! whole-request 400 of an `_id` that is too long. The contract suite runs against this and against the real one, and so
//! keeps it honest.
//!
//! Beside that it fails on demand: see [`Fault`]. What it stored can be read directly.

mod answers;
mod json;
mod store;

use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use serde_json::{Value, json};

use super::http_server::{Answer, HttpServer, Manner, Request};
use crate::support::wait::Stopwatch;
pub(crate) use store::Document;
use store::Store;

/// Whose bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    /// OpenSearch 3.7.0.
    OpenSearch,
    /// Elasticsearch 8.17.4.
    Elasticsearch,
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// Everybody.
    Open,
    /// Whoever sends this `Authorization`.
    Authorization(String),
    /// Whoever showed a certificate of the authority.
    Certificate,
}

/// What happens to a bulk request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status with the body the real ones give, nothing stored; `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// This whole answer, nothing stored.
    Answer(Answer),
    /// Nothing stored, the connection is reset.
    ResetBefore,
    /// All stored, the connection is reset before the answer.
    ResetAfter,
    /// All stored, half of the answer, then an orderly close.
    CutAfter,
    /// Nothing stored, no answer.
    HangBefore,
    /// All stored, no answer.
    HangAfter,
    /// Every n-th item gets 429, the rest is stored.
    ItemsRejected(usize),
}

type Script = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// The mutable part of the fake.
struct Inner {
    store: Store,
    login: Login,
    flavor: Flavor,
    max_content: usize,
    script: Script,
    /// Answers that are not about bulk: path prefix to status.
    forbidden: Vec<(String, u16)>,
    bulk_requests: u64,
    gzip_requests: u64,
    faults: u64,
    refused_logins: u64,
    watch: Stopwatch,
}

/// A running fake.
pub(crate) struct FakeElasticsearch {
    server: HttpServer,
    inner: Arc<Mutex<Inner>>,
    tls: bool,
}

impl FakeElasticsearch {
    /// OpenSearch, plain and open.
    pub(crate) fn start() -> Self {
        Self::start_as(Flavor::OpenSearch, None)
    }

    /// This flavor, with TLS where configured.
    pub(crate) fn start_as(flavor: Flavor, tls: Option<Arc<ServerConfig>>) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            store: Store::new(),
            login: Login::Open,
            flavor,
            max_content: 100 << 20,
            script: Box::new(|_| None),
            forbidden: Vec::new(),
            bulk_requests: 0,
            gzip_requests: 0,
            faults: 0,
            refused_logins: 0,
            watch: Stopwatch::start(),
        }));
        let serving = Arc::clone(&inner);
        let with_tls = tls.is_some();
        let server = HttpServer::start(tls, move |request| answer(&serving, &request));
        FakeElasticsearch {
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

    /// For a proxy in between.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// Who is let in from now on.
    pub(crate) fn let_in(&self, login: Login) {
        self.with(|inner| inner.login = login);
    }

    /// The largest inflated body (`http.max_content_length`).
    pub(crate) fn max_content(&self, bytes: usize) {
        self.with(|inner| inner.max_content = bytes);
    }

    /// `action.auto_create_index`.
    pub(crate) fn auto_create(&self, on: bool) {
        self.with(|inner| inner.store.auto_create = on);
    }

    /// Documents that contain these bytes are refused with an item 400, as a mapping conflict would.
    pub(crate) fn refuse_documents_with(&self, needle: &str) {
        self.with(|inner| inner.store.refused.push(needle.as_bytes().to_vec()));
    }

    /// Documents that contain these bytes go to the failure store: 201, but not into the data stream.
    pub(crate) fn divert_documents_with(&self, needle: &str) {
        self.with(|inner| inner.store.diverted.push(needle.as_bytes().to_vec()));
    }

    /// Every document is refused as long as this is on.
    pub(crate) fn refuse_everything(&self, on: bool) {
        self.with(|inner| inner.store.refuse_everything = on);
    }

    /// Paths that begin so are answered with this status.
    pub(crate) fn forbid(&self, path: &str, status: u16) {
        self.with(|inner| inner.forbidden.push((path.to_owned(), status)));
    }

    /// Nothing is forbidden any more.
    pub(crate) fn permit_all(&self) {
        self.with(|inner| inner.forbidden.clear());
    }

    /// What happens to each bulk request from now on.
    pub(crate) fn script(&self, script: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.with(|inner| inner.script = Box::new(script));
    }

    /// These faults, one a bulk request, then none.
    pub(crate) fn next_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut faults = faults.into_iter().collect::<Vec<_>>().into_iter();
        self.script(move |_| faults.next());
    }

    /// One bulk request of `every` meets a fault drawn by chance.
    pub(crate) fn chaos(&self, seed: u64, every: usize) {
        let mut random = fastrand::Rng::with_seed(seed);
        self.script(move |_| {
            (random.usize(..every) == 0).then(|| match random.u8(..8) {
                0 => Fault::Status(429, None),
                1 => Fault::Status(503, Some(1)),
                2 => Fault::ResetBefore,
                3 => Fault::ResetAfter,
                4 => Fault::CutAfter,
                5 => Fault::ItemsRejected(random.usize(2..5)),
                6 => Fault::HangAfter,
                _ => Fault::HangBefore,
            })
        });
    }

    /// No faults any more.
    pub(crate) fn calm(&self) {
        self.script(|_| None);
    }

    /// Starts a new backing index.
    pub(crate) fn rollover(&self, data_stream: &str) {
        self.with(|inner| inner.store.rollover(data_stream))
            .expect("a data stream");
    }

    /// Everything in an index or data stream, in order of arrival.
    pub(crate) fn documents(&self, name: &str) -> Vec<Document> {
        self.with(|inner| inner.store.documents(name))
    }

    /// How much there is.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.with(|inner| inner.store.count(name))
    }

    /// What went to the failure store.
    pub(crate) fn failures(&self) -> Vec<Document> {
        self.with(|inner| inner.store.failures.clone())
    }

    /// Names of all indices, backing ones too.
    pub(crate) fn indices(&self) -> Vec<String> {
        self.with(|inner| inner.store.names())
    }

    /// Bulk requests that were let in.
    pub(crate) fn bulk_requests(&self) -> u64 {
        self.with(|inner| inner.bulk_requests)
    }

    /// Those of them that came compressed.
    pub(crate) fn gzip_requests(&self) -> u64 {
        self.with(|inner| inner.gzip_requests)
    }

    /// Faults that did strike.
    pub(crate) fn faults(&self) -> u64 {
        self.with(|inner| inner.faults)
    }

    /// Requests that were answered with 401.
    pub(crate) fn refused_logins(&self) -> u64 {
        self.with(|inner| inner.refused_logins)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().expect("no holder panics"))
    }
}

fn answer(inner: &Mutex<Inner>, request: &Request) -> Answer {
    let mut answer = {
        let mut inner = inner.lock().expect("no holder panics");
        let now = inner.watch.elapsed();
        inner.store.now = now;
        inner.answer(request)
    };
    if inner.lock().expect("no holder panics").flavor == Flavor::Elasticsearch {
        answer = answer.with("x-elastic-product", "Elasticsearch");
    }
    answer
}

impl Inner {
    fn answer(&mut self, request: &Request) -> Answer {
        let welcome = match &self.login {
            Login::Open => true,
            Login::Authorization(value) => request.header("authorization") == Some(value),
            Login::Certificate => request.certificate,
        };
        if !welcome {
            self.refused_logins += 1;
            return answers::unauthorized(self.flavor, request);
        }
        if request.body.len() > self.max_content {
            return Answer::empty(413);
        }
        if let Some((_, status)) = self
            .forbidden
            .iter()
            .find(|(path, _)| request.path.starts_with(path.as_str()))
        {
            return answers::refused(self.flavor, *status);
        }
        let segments: Vec<&str> = request
            .path
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        match (request.method.as_str(), segments.as_slice()) {
            ("GET" | "HEAD", []) => answers::root(self.flavor),
            ("POST" | "PUT", ["_bulk"]) => self.bulk(request, None),
            ("POST" | "PUT", [target, "_bulk"]) => self.bulk(request, Some(target)),
            ("GET" | "POST", ["_mget"]) => self.store.mget(None, &request.body),
            ("GET" | "POST", [target, "_mget"]) => self.store.mget(Some(target), &request.body),
            ("GET" | "POST", [target, "_search"]) => self.store.search(target, &request.body),
            ("GET" | "POST", [target, "_count"]) => {
                Answer::json(200, json!({"count": self.store.count(target)}).to_string())
            }
            ("GET" | "POST", [target, "_refresh"]) => self.store.refresh(target),
            ("POST", [target, "_rollover"]) => self.store.rollover_answer(target),
            ("GET", [target, "_mapping"]) => self.store.mappings(target),
            ("GET", ["_data_stream", name]) => self.store.data_stream(name),
            ("PUT" | "POST", ["_index_template", "_simulate_index", name]) => {
                self.store.simulate(name)
            }
            ("POST", ["_index_template", "_simulate_index"]) => {
                answers::bad_request("no index named")
            }
            ("PUT" | "POST", ["_index_template", name]) => {
                self.store.put_template(name, &request.body)
            }
            ("GET" | "HEAD", ["_index_template", name]) => self.store.template(name),
            ("PUT", ["_data_stream", name]) => self.store.create_data_stream(name),
            ("PUT", [name]) => self.store.create_index(name),
            ("GET" | "HEAD", [name]) if !name.starts_with('_') => self.store.describe(name),
            ("GET", ["_cluster", "health"]) => {
                Answer::json(200, json!({"status": "green"}).to_string())
            }
            ("GET", ["_nodes", ..]) => Answer::json(
                200,
                json!({"nodes": {"n1": {"version": answers::version(self.flavor)}}}).to_string(),
            ),
            _ => answers::bad_request(&format!(
                "no handler found for uri [{}] and method [{}]",
                request.path, request.method
            )),
        }
    }

    fn bulk(&mut self, request: &Request, target: Option<&str>) -> Answer {
        self.bulk_requests += 1;
        self.gzip_requests += u64::from(request.gzip);
        let fault = (self.script)(request);
        if fault.is_some() {
            self.faults += 1;
        }
        let mut reject_every = None;
        match &fault {
            Some(Fault::Status(status, after)) => {
                let answer = answers::refused(self.flavor, *status);
                return match after {
                    Some(seconds) => answer.with("Retry-After", seconds),
                    None => answer,
                };
            }
            Some(Fault::Answer(answer)) => return answer.clone(),
            Some(Fault::ResetBefore) => return Answer::empty(200).sent(Manner::ResetAfter(0)),
            Some(Fault::HangBefore) => return Answer::empty(200).sent(Manner::Hang),
            Some(Fault::ItemsRejected(every)) => reject_every = Some(*every),
            _ => {}
        }
        let answer = self.store.bulk(
            self.flavor,
            target,
            &request.query,
            &request.body,
            reject_every,
        );
        match fault {
            Some(Fault::ResetAfter) => answer.sent(Manner::ResetAfter(0)),
            Some(Fault::HangAfter) => answer.sent(Manner::Hang),
            Some(Fault::CutAfter) => {
                let half = answer.body.len() / 2 + 60;
                answer.sent(Manner::CloseAfter(half))
            }
            _ => answer,
        }
    }
}

/// What a template is taken from: for tests that make their own.
pub(crate) fn bare_template(pattern: &str) -> Value {
    json!({"index_patterns": [pattern], "data_stream": {}, "priority": 300, "template": {
        "settings": {"number_of_replicas": 0},
        "mappings": {"dynamic": false, "properties": {"@timestamp": {"type": "date_nanos"}}}}})
}
