//! A sink on the bench: built from its configuration through the public API, fed batches made by hand, beside the server
//! that it talks to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auditship::clock::{Micros, SystemClock};
use auditship::config::Document;
use auditship::durable_fs::SystemFs;
use auditship::event::encoding::RecordHead;
use auditship::event::{EventId, Generation, LineHash, LineKind, Origin};
use auditship::sinks::{
    Alarm, Batch, Body, Form, Opened, Outcome, Record, SINKS, Sink, SinkConfig, SinkContext,
    Verdict,
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::fakes::elasticsearch::{Document as Stored, FakeElasticsearch};
use crate::support::agent::ORIGIN;
use crate::support::event::Events;
use crate::support::http::Http;
use crate::support::oracle::{Expected, Held, event_id, expected_of_bytes, first_line_hash, hex};
use crate::support::servers::Server;

/// A server to write to: the fake, or a real one that tests share.
pub(crate) struct Target {
    /// Where.
    pub(crate) url: String,
    /// For looking at it.
    pub(crate) http: Http,
    /// The fake, for what only it can do.
    pub(crate) fake: Option<FakeElasticsearch>,
    unique: String,
}

impl Target {
    /// A fake of its own.
    pub(crate) fn fake() -> Self {
        let fake = FakeElasticsearch::start();
        Target {
            url: fake.url(),
            http: Http::open(&fake.url()),
            fake: Some(fake),
            unique: unique(),
        }
    }

    /// A real server without login.
    pub(crate) fn real(server: &Server) -> Self {
        Target {
            url: server.url.clone(),
            http: server.http(None),
            fake: None,
            unique: unique(),
        }
    }

    /// A real server, looked at as its administrator.
    pub(crate) fn real_as(server: &Server, administrator: &str) -> Self {
        Target {
            url: server.url.clone(),
            http: server.http(Some(administrator)),
            fake: None,
            unique: unique(),
        }
    }

    /// A data stream that no other test uses.
    pub(crate) fn data_stream(&self) -> String {
        format!("logs-kubernetes.audit-{}", self.unique)
    }

    /// An index that no other test uses.
    pub(crate) fn index(&self) -> String {
        format!("audit-{}", self.unique)
    }

    /// Another one.
    pub(crate) fn another_index(&self) -> String {
        format!("audit-{}", unique())
    }

    /// Everything in an index or data stream.
    pub(crate) fn documents(&self, name: &str) -> Vec<Stored> {
        match &self.fake {
            Some(fake) => fake.documents(name),
            None => read_all(&self.http, name),
        }
    }

    /// A new backing index.
    pub(crate) fn rollover(&self, name: &str) {
        self.http.ok("POST", &format!("/{name}/_rollover"), "");
    }

    /// Makes the index of [`Target::index`] with a mapping that takes any document. Without it a server maps every key
    /// of every body, and refuses what goes beyond 1,000 of them.
    pub(crate) fn make_index(&self) {
        self.http.ok(
            "PUT",
            &format!("/{}", self.index()),
            r#"{"mappings":{"dynamic":false}}"#,
        );
    }

    /// Writes a document as a stranger.
    pub(crate) fn forge(&self, name: &str, id: &str, source: &str) {
        let body = format!("{{\"create\":{{\"_id\":\"{id}\"}}}}\n{source}\n");
        let answer = self.http.ok("POST", &format!("/{name}/_bulk"), body);
        assert!(
            String::from_utf8_lossy(&answer).contains("\"errors\":false"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// Reads a real index to its end, `_source` byte for byte.
pub(crate) fn read_all(http: &Http, name: &str) -> Vec<Stored> {
    #[derive(serde::Deserialize)]
    struct Page<'a> {
        _scroll_id: String,
        #[serde(borrow)]
        hits: Hits<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Hits<'a> {
        #[serde(borrow)]
        hits: Vec<Hit<'a>>,
    }
    #[derive(serde::Deserialize)]
    struct Hit<'a> {
        _index: String,
        _id: String,
        #[serde(borrow)]
        _source: &'a RawValue,
    }
    http.ok("POST", &format!("/{name}/_refresh"), "");
    let mut answer = http.ok(
        "POST",
        &format!("/{name}/_search?scroll=1m"),
        r#"{"size":500,"sort":["_doc"]}"#,
    );
    let mut all = Vec::new();
    loop {
        let page: Page<'_> = serde_json::from_slice(&answer).expect("a page of hits");
        if page.hits.hits.is_empty() {
            http.ok(
                "DELETE",
                "/_search/scroll",
                format!("{{\"scroll_id\":\"{}\"}}", page._scroll_id),
            );
            return all;
        }
        for hit in page.hits.hits {
            all.push(Stored {
                index: hit._index,
                id: hit._id,
                source: hit._source.get().as_bytes().to_vec(),
            });
        }
        let next = format!(
            "{{\"scroll\":\"1m\",\"scroll_id\":\"{}\"}}",
            page._scroll_id
        );
        answer = http.ok("POST", "/_search/scroll", next);
    }
}

/// What an ecs document holds of an event, its hash computed from the bytes of `kubernetes.audit`.
pub(crate) fn held(document: &Stored) -> Held {
    Held {
        id: Some(document.id.clone()),
        hash: hex(&Sha256::digest(event_bytes(&document.source))),
    }
}

/// The bytes of `kubernetes.audit`, or what `event.original` says in their place.
pub(crate) fn event_bytes(source: &[u8]) -> Vec<u8> {
    let text = |value: &RawValue| serde_json::from_str::<String>(value.get()).expect("a string");
    let object = |value: &[u8]| -> BTreeMap<String, Box<RawValue>> {
        serde_json::from_slice(value).expect("an object")
    };
    let top = object(source);
    let event = object(top["event"].get().as_bytes());
    match event.get("original") {
        None => {
            let kubernetes = object(top["kubernetes"].get().as_bytes());
            kubernetes["audit"].get().as_bytes().to_vec()
        }
        Some(original) => {
            let auditship = top
                .get("auditship")
                .map(|value| object(value.get().as_bytes()));
            match auditship
                .as_ref()
                .and_then(|fields| fields.get("encoding"))
                .map(|value| text(value))
            {
                Some(encoding) if encoding == "base64" => {
                    use base64::Engine as _;
                    base64::engine::general_purpose::STANDARD
                        .decode(text(original))
                        .expect("base64")
                }
                _ => text(original).into_bytes(),
            }
        }
    }
}

/// A name part that no other test of any run uses.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "t{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::SeqCst)
    )
}

/// A sink under test.
pub(crate) struct Bench {
    config: Box<dyn SinkConfig>,
    context: SinkContext,
    sink: Arc<dyn Sink>,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Builds a sink of this kind from its own keys.
    pub(crate) fn new(kind: &str, keys: &str) -> Self {
        Self::with_timeout(kind, keys, Duration::from_secs(60))
    }

    /// As [`Bench::new`]; an attempt ends after this long.
    pub(crate) fn with_timeout(kind: &str, keys: &str, timeout: Duration) -> Self {
        Self::within(kind, keys, |context| context.timeout = timeout)
    }

    /// As [`Bench::with_timeout`], for an agent with this spool.
    pub(crate) fn of_spool(kind: &str, keys: &str, timeout: Duration, spool: &str) -> Self {
        Self::within(kind, keys, |context| {
            context.timeout = timeout;
            spool.clone_into(&mut context.spool);
        })
    }

    /// As [`Bench::new`], in surroundings that differ from the usual ones.
    pub(crate) fn within(kind: &str, keys: &str, change: impl FnOnce(&mut SinkContext)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = read_config(kind, keys, dir.path());
        let agent = Origin {
            cluster: "test-cluster".into(),
            node: "test-node".into(),
            source: String::new(),
        };
        let mut context = SinkContext {
            name: "search".into(),
            agent,
            labels: BTreeMap::from([("env".to_owned(), "test".to_owned())]),
            timeout: Duration::from_secs(60),
            proxy: None,
            batch_bytes: 5 << 20,
            spool: "00c0ffee".to_owned(),
            clock: Arc::new(SystemClock::new()),
            fs: Arc::new(SystemFs),
            state_dir: dir.path().join("state/sinks/search"),
        };
        change(&mut context);
        let sink = config
            .build(&context)
            .unwrap_or_else(|error| panic!("build: {error}"));
        Bench {
            config,
            context,
            sink,
            runtime: Runtime::new().expect("a runtime"),
            _dir: dir,
        }
    }

    /// An elasticsearch sink for this data stream, its template installed.
    pub(crate) fn for_data_stream(target: &Target, name: &str) -> Self {
        let keys = format!(
            "endpoints = [\"{}\"]\ndata_stream = \"{name}\"\n",
            target.url
        );
        // A real server may be slow on a busy machine; the fake is slow only where a test wants it.
        let timeout = Duration::from_secs(if target.fake.is_some() { 5 } else { 60 });
        let bench = Bench::with_timeout("elasticsearch", &keys, timeout);
        bench.connect(true).expect("setup");
        bench.open().expect("the template is there");
        bench
    }

    /// `check --connect`, with setup or without.
    pub(crate) fn connect(&self, setup: bool) -> Result<Vec<String>, String> {
        self.runtime
            .block_on(self.config.connect(&self.context, setup))
    }

    /// Opens it.
    pub(crate) fn open(&self) -> Result<Opened, Outcome> {
        self.runtime.block_on(self.sink.open(None))
    }

    /// Whether its secrets are others than those it uses.
    pub(crate) fn secrets_changed(&self) -> bool {
        self.sink.secrets_changed()
    }

    /// One attempt.
    pub(crate) fn send(&self, records: Vec<Record>) -> Outcome {
        self.attempt(Batch {
            records,
            form: Form::Normal,
            in_doubt: false,
            ..Batch::default()
        })
    }

    /// One attempt at records that may be there already.
    pub(crate) fn send_in_doubt(&self, records: Vec<Record>) -> Outcome {
        self.attempt(Batch {
            records,
            form: Form::Normal,
            in_doubt: true,
            ..Batch::default()
        })
    }

    /// One attempt that is dropped after this long, wherever it is then.
    pub(crate) fn send_and_drop(&self, records: Vec<Record>, after: Duration) -> Option<Outcome> {
        let batch = Arc::new(Batch {
            records,
            ..Batch::default()
        });
        self.runtime
            .block_on(async { auditship::clock::timeout(after, self.sink.send(batch)).await })
    }

    /// One attempt as fallback documents.
    pub(crate) fn send_fallback(&self, records: Vec<Record>) -> Outcome {
        self.attempt(Batch {
            records,
            form: Form::Fallback,
            in_doubt: false,
            ..Batch::default()
        })
    }

    /// The sink, for what has no method here.
    pub(crate) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Waits for what the sink does.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Several attempts at once.
    pub(crate) fn send_together(&self, batches: Vec<Vec<Record>>) -> Vec<Outcome> {
        self.runtime.block_on(async {
            let mut attempts = tokio::task::JoinSet::new();
            for records in batches {
                let sink = Arc::clone(&self.sink);
                attempts.spawn(async move {
                    sink.send(Arc::new(Batch {
                        records,
                        form: Form::Normal,
                        in_doubt: false,
                        ..Batch::default()
                    }))
                    .await
                });
            }
            attempts.join_all().await
        })
    }

    /// One attempt at a batch made by hand.
    pub(crate) fn attempt(&self, batch: Batch) -> Outcome {
        self.runtime.block_on(self.sink.send(Arc::new(batch)))
    }
}

/// Reads a kind's own keys, which must be right.
pub(crate) fn read_config(kind: &str, keys: &str, dir: &Path) -> Box<dyn SinkConfig> {
    let kind = SINKS
        .iter()
        .find(|known| known.name == kind)
        .expect("a kind of sink");
    let document = Document::parse("test.toml", keys, dir)
        .unwrap_or_else(|error| panic!("{}", error.render(false)));
    let config = (kind.read)(&mut document.root());
    document
        .finish()
        .unwrap_or_else(|error| panic!("{}", error.render(false)));
    config.expect("no mistakes were reported")
}

/// Real-shaped events of up to 100 KiB.
pub(crate) fn lines(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut events = Events::new(seed);
    events.size_max = 100 << 10;
    (0..count).map(|_| events.make().1).collect()
}

/// What the oracle expects of lines that are one generation.
pub(crate) fn expected(lines: &[Vec<u8>]) -> Vec<Expected> {
    let mut generation = lines.join(&b'\n');
    generation.push(b'\n');
    expected_of_bytes([generation.as_slice()], ORIGIN)
}

/// Records of one generation whose lines are these, numbered from 0.
pub(crate) fn records(lines: &[Vec<u8>]) -> Vec<Record> {
    let generation = lines.iter().fold(Vec::new(), |mut bytes, line| {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        bytes
    });
    let first = first_line_hash(&generation);
    let origin = Origin {
        cluster: "test-cluster".into(),
        node: "test-node".into(),
        source: "apiserver".into(),
    };
    assert_eq!(origin.to_string(), ORIGIN);
    let origin = Arc::new(origin);
    let mut offset = 0;
    let mut all = Vec::new();
    for (number, line) in (0..).zip(lines) {
        let hash: [u8; 32] = Sha256::digest(line).into();
        let head = RecordHead {
            offset,
            length: line.len() as u64,
            kind: if serde_json::from_slice::<&RawValue>(line)
                .is_ok_and(|value| value.get().starts_with('{'))
            {
                LineKind::Event
            } else {
                LineKind::Malformed
            },
            id: EventId(unhex(&event_id(ORIGIN, &first, offset, &hash))),
            hash: LineHash(hash),
            time_us: Some(1_767_225_600_000_000),
            envelope: Vec::new(),
        };
        all.push(Record {
            number,
            origin: Arc::clone(&origin),
            generation: Generation(first),
            head,
            appended: Micros(1_767_225_600_000_000),
            body: Body::Whole(bytes::Bytes::copy_from_slice(line)),
        });
        offset += line.len() as u64 + 1;
    }
    all
}

fn unhex(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).expect("our own hex");
    }
    bytes
}

/// What was stored, refused, and alarmed of a delivered batch.
#[track_caller]
pub(crate) fn delivered(outcome: Outcome) -> (Vec<(u64, Verdict)>, Vec<Alarm>) {
    match outcome {
        Outcome::Delivered { except, alarms, .. } => (except, alarms),
        other => panic!("not delivered: {other:?}"),
    }
}

/// Panics unless the whole batch was stored without an alarm.
#[track_caller]
pub(crate) fn all_delivered(outcome: Outcome) {
    assert_eq!(delivered(outcome), (Vec::new(), Vec::new()));
}
