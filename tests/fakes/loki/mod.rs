//! Grafana Loki 3.7.6 as it was seen to answer a push: who is let in, what cannot be read, what a rejected line does to
//! the others, which rejections are never heard of, rate limits, and that one line sent twice is one line.
//!
//! Beside that it fails on demand: see [`Fault`]. What it keeps can be read directly, with what it threw away.

mod store;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

pub(crate) use self::store::{Kept, Limits};
use self::store::{Said, Store};
use super::http_server::{Answer, HttpServer, Manner, Request};
use crate::support::wait::unix_ms;

/// What happens to a push with lines.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This whole answer, nothing kept.
    Answer(Answer),
    /// Nothing kept, the connection is reset.
    ResetBefore,
    /// All kept, the connection is reset before the answer.
    ResetAfter,
    /// All kept, a part of the answer, then an orderly close.
    CutAfter,
    /// Nothing kept, no answer.
    HangBefore,
    /// All kept, no answer.
    HangAfter,
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

type Script = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

struct Inner {
    limits: Limits,
    /// `auth_enabled`: a push names its tenant.
    tenants: bool,
    blocked: Vec<String>,
    login: Login,
    stores: BTreeMap<String, Store>,
    script: Script,
    /// Whether rate limits begin anew before every push.
    idle: bool,
    /// Nanoseconds since the Unix epoch; `None`: the machine's.
    now: Option<i64>,
    pushes: u64,
    faults: u64,
    largest: usize,
    streams_max: usize,
}

/// A running fake.
pub(crate) struct FakeLoki {
    server: HttpServer,
    inner: Arc<Mutex<Inner>>,
    tls: bool,
}

/// The only tenant where there are none.
const NOBODY: &str = "fake";

impl FakeLoki {
    /// Plain, open, for one tenant.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// With TLS where configured.
    pub(crate) fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            limits: Limits::default(),
            tenants: false,
            blocked: Vec::new(),
            login: Login::Open,
            stores: BTreeMap::new(),
            script: Box::new(|_| None),
            idle: false,
            now: None,
            pushes: 0,
            faults: 0,
            largest: 0,
            streams_max: 0,
        }));
        let serving = Arc::clone(&inner);
        let with_tls = tls.is_some();
        let server = HttpServer::start(tls, move |request| {
            serving.lock().expect("no holder panics").answer(&request)
        });
        FakeLoki {
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

    /// Changes what it is configured with.
    pub(crate) fn limit(&self, change: impl FnOnce(&mut Limits)) {
        self.with(|inner| change(&mut inner.limits));
    }

    /// `auth_enabled`.
    pub(crate) fn tenants(&self, on: bool) {
        self.with(|inner| inner.tenants = on);
    }

    /// Ingestion of these tenants is blocked.
    pub(crate) fn block(&self, tenants: &[&str]) {
        self.with(|inner| inner.blocked = tenants.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Who is let in from now on.
    pub(crate) fn let_in(&self, login: Login) {
        self.with(|inner| inner.login = login);
    }

    /// Its clock stands at this moment, in microseconds.
    pub(crate) fn stands_at(&self, us: i64) {
        self.with(|inner| inner.now = Some(us * 1000));
    }

    /// Rate limits begin anew.
    pub(crate) fn refill(&self) {
        self.with(|inner| inner.stores.values_mut().for_each(Store::refill));
    }

    /// Rate limits are as at first before every push.
    pub(crate) fn time_passes_between_pushes(&self) {
        self.with(|inner| inner.idle = true);
    }

    /// What happens to each push with lines from now on.
    pub(crate) fn script(&self, script: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.with(|inner| inner.script = Box::new(script));
    }

    /// These faults, one a push, then none.
    pub(crate) fn next_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut faults = faults.into_iter().collect::<Vec<_>>().into_iter();
        self.script(move |_| faults.next());
    }

    /// One push of `every` meets a fault drawn by chance.
    pub(crate) fn chaos(&self, seed: u64, every: usize) {
        let mut random = fastrand::Rng::with_seed(seed);
        self.script(move |_| {
            (random.usize(..every) == 0).then(|| match random.u8(..6) {
                0 => Fault::Answer(said((429, "ingestion rate limit exceeded".to_owned()))),
                1 => Fault::Answer(said((500, "empty ring".to_owned()))),
                2 => Fault::ResetBefore,
                3 => Fault::ResetAfter,
                4 => Fault::CutAfter,
                _ => Fault::Answer(Answer::text(503, "upstream connect error")),
            })
        });
    }

    /// Every line of a tenant with the name of its stream.
    pub(crate) fn lines_of(&self, tenant: &str) -> Vec<(String, Kept)> {
        self.with(|inner| {
            inner
                .stores
                .get(tenant)
                .map(Store::lines)
                .unwrap_or_default()
        })
    }

    /// Every line, where there are no tenants.
    pub(crate) fn lines(&self) -> Vec<(String, Kept)> {
        self.lines_of(NOBODY)
    }

    /// Lines thrown away, by reason (`loki_discarded_samples_total`).
    pub(crate) fn discarded(&self) -> BTreeMap<&'static str, u64> {
        self.with(|inner| {
            let mut all = BTreeMap::new();
            for store in inner.stores.values() {
                for (reason, count) in &store.discarded {
                    *all.entry(*reason).or_default() += count;
                }
            }
            all
        })
    }

    /// Pushes with lines that were let in.
    pub(crate) fn pushes(&self) -> u64 {
        self.with(|inner| inner.pushes)
    }

    /// Faults that did strike.
    pub(crate) fn faults(&self) -> u64 {
        self.with(|inner| inner.faults)
    }

    /// Bytes of the largest push before compression, and streams of the one with most.
    pub(crate) fn largest_push(&self) -> (usize, usize) {
        self.with(|inner| (inner.largest, inner.streams_max))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().expect("no holder panics"))
    }
}

/// Bodies end with a line feed.
fn said((status, body): Said) -> Answer {
    match status {
        204 => Answer::empty(204),
        _ => Answer::text(status, &format!("{body}\n")),
    }
}

impl Inner {
    fn answer(&mut self, request: &Request) -> Answer {
        match (request.method.as_str(), request.path.as_str()) {
            (_, "/ready") => return Answer::text(200, "ready\n"),
            (method, path) if path.ends_with("/loki/api/v1/push") => {
                if method != "POST" {
                    return Answer::empty(405);
                }
            }
            _ => return Answer::text(404, "404 page not found\n"),
        }
        let welcome = match &self.login {
            Login::Open => true,
            Login::Authorization(value) => request.header("authorization") == Some(value),
            Login::Certificate => request.certificate,
        };
        if !welcome {
            return Answer::text(401, "Unauthorized\n");
        }
        let tenant = match self.tenant(request) {
            Ok(tenant) => tenant,
            Err(answer) => return said(answer),
        };
        let streams = match read(request) {
            Ok(streams) => streams,
            Err(problem) => return said((400, problem)),
        };
        let lines: usize = streams.iter().map(|stream| stream.entries.len()).sum();
        if lines == 0 {
            return self.keep(&tenant, streams);
        }
        self.pushes += 1;
        self.streams_max = self.streams_max.max(streams.len());
        self.largest = self.largest.max(uncompressed(request));
        let fault = (self.script)(request);
        self.faults += u64::from(fault.is_some());
        match fault {
            None => self.keep(&tenant, streams),
            Some(Fault::Answer(answer)) => answer,
            Some(Fault::ResetBefore) => Answer::empty(204).sent(Manner::ResetAfter(0)),
            Some(Fault::HangBefore) => Answer::empty(204).sent(Manner::Hang),
            Some(Fault::ResetAfter) => self.keep(&tenant, streams).sent(Manner::ResetAfter(0)),
            Some(Fault::CutAfter) => self.keep(&tenant, streams).sent(Manner::CloseAfter(9)),
            Some(Fault::HangAfter) => self.keep(&tenant, streams).sent(Manner::Hang),
        }
    }

    fn tenant(&self, request: &Request) -> Result<String, Said> {
        if !self.tenants {
            return Ok(NOBODY.to_owned());
        }
        let Some(tenant) = request
            .header("x-scope-orgid")
            .filter(|name| !name.is_empty())
        else {
            return Err((401, "no org id".to_owned()));
        };
        let bad = |c: &char| !c.is_ascii_alphanumeric() && !"!-_.*'()".contains(*c);
        if tenant.contains('|') {
            return Err((400, "multiple org IDs present".to_owned()));
        }
        if let Some(bad) = tenant.chars().find(bad) {
            let text = format!("tenant ID '{tenant}' contains unsupported character '{bad}'");
            return Err((400, text));
        }
        if tenant.len() > 150 {
            return Err((400, "tenant ID is too long: max 150 characters".to_owned()));
        }
        if self.blocked.iter().any(|name| name == tenant) {
            let text = format!(
                "ingestion blocked for user '{tenant}' until '2036-01-01T00:00:00Z' with status code '260'"
            );
            return Err((260, text));
        }
        Ok(tenant.to_owned())
    }

    fn keep(&mut self, tenant: &str, streams: Vec<wire::PushedStream>) -> Answer {
        let now = self.now.unwrap_or_else(|| unix_ms() * 1_000_000);
        let store = self.stores.entry(tenant.to_owned()).or_default();
        if self.idle {
            store.refill();
        }
        said(store.push(&self.limits, now, streams))
    }
}

fn read(request: &Request) -> Result<Vec<wire::PushedStream>, String> {
    let Some(kind) = request.header("content-type") else {
        return Err("mime: no media type".to_owned());
    };
    match (kind.split(';').next(), request.header("content-encoding")) {
        (_, Some(other)) if !matches!(other, "gzip" | "snappy") => {
            Err(format!("Content-Encoding {other:?} not supported"))
        }
        (Some("application/json"), _) => wire::json(&request.body),
        (_, Some("gzip")) => Err("snappy: corrupt input".to_owned()),
        _ => wire::protobuf(&request.body),
    }
}

fn uncompressed(request: &Request) -> usize {
    if request.gzip {
        return request.body.len();
    }
    snap::raw::decompress_len(&request.body).unwrap_or(request.body.len())
}

#[cfg(test)]
mod tests;
