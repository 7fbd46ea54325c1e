//! A loki sink on the bench, driven as delivery drives a sink that seals: batches in order, each until it is done;
//! cursor and mark stored now and then; after a crash, what was sent beyond them once more in the same batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use auditship::clock::{Clock, Micros, SystemClock};
use auditship::durable_fs::SystemFs;
use auditship::event::Origin;
use auditship::sinks::{
    Batch, Outcome, Record, Rejection, Seal, Sink, SinkConfig, SinkContext, Verdict,
};
use tokio::runtime::Runtime;

use crate::contract::bench::{read_config, records};
use crate::fakes::loki::FakeLoki;
use crate::support::http::Http;
use crate::support::loki::{Line, of_fake, query};
use crate::support::servers::Server;
use crate::support::wait::unix_ms;

/// A server to push to: the fake, or VictoriaLogs, which tests share.
pub(crate) struct Target {
    /// The endpoint.
    pub(crate) url: String,
    /// The fake, for what only it can do.
    pub(crate) fake: Option<FakeLoki>,
    http: Http,
    /// A label that no other test has.
    job: String,
}

impl Target {
    /// A fake of its own.
    pub(crate) fn fake() -> Self {
        let fake = FakeLoki::start();
        Target {
            url: fake.url(),
            http: Http::open(&fake.url()),
            fake: Some(fake),
            job: unique(),
        }
    }

    /// The real server.
    pub(crate) fn real(server: &Server) -> Self {
        Target {
            url: format!("{}/insert", server.url),
            http: server.http(None),
            fake: None,
            job: unique(),
        }
    }

    /// The real server behind a login, looked at with these credentials.
    pub(crate) fn real_as(server: &Server, user_password_base64: &str) -> Self {
        Target {
            http: server.http(Some(user_password_base64)),
            ..Target::real(server)
        }
    }

    /// The sink's keys, with more of them.
    pub(crate) fn keys(&self, more: &str) -> String {
        format!(
            "endpoint = \"{}\"\n{more}\nlabels.job = \"{}\"\n",
            self.url, self.job
        )
    }

    /// Everything that this test pushed, in time order.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines_of(None)
    }

    /// The same of a tenant, which is a number.
    pub(crate) fn lines_of(&self, tenant: Option<u32>) -> Vec<Line> {
        self.lines_with(&self.job, tenant)
    }

    /// Everything with this `job`.
    pub(crate) fn lines_with(&self, job: &str, tenant: Option<u32>) -> Vec<Line> {
        let Some(fake) = &self.fake else {
            return query(&self.http, &format!("{{job=\"{job}\"}}"), tenant);
        };
        let mut all = of_fake(match tenant {
            None => fake.lines(),
            Some(tenant) => fake.lines_of(&tenant.to_string()),
        });
        all.retain(|line| line.fields["job"] == job);
        all
    }
}

/// A label that no other test of any run has.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::SeqCst);
    format!("t{}-{next}-{}", std::process::id(), unix_ms())
}

/// Lines as records of one generation, numbered from 0, at these times before now.
pub(crate) fn records_ago(lines: &[Vec<u8>], ago: impl Fn(usize) -> Duration) -> Vec<Record> {
    let now = unix_ms() * 1000;
    let mut all = records(lines);
    for (at, record) in all.iter_mut().enumerate() {
        let ago = i64::try_from(ago(at).as_micros()).expect("not that long ago");
        record.head.time_us = Some(now - ago);
    }
    all
}

/// A sink and what became of what it was given.
pub(crate) struct Driver {
    config: Box<dyn SinkConfig>,
    context: SinkContext,
    sink: Arc<dyn Sink>,
    runtime: Runtime,
    _dir: tempfile::TempDir,
    mark: Option<Vec<u8>>,
    /// Records that were rejected or delivered, and the mark, as stored.
    durable: (BTreeSet<u64>, Option<Vec<u8>>),
    /// Records that were rejected.
    pub(crate) rejected: BTreeMap<u64, Rejection>,
    /// Records that were reported as stored.
    pub(crate) delivered: BTreeSet<u64>,
    /// How often a mark had to be stored first.
    pub(crate) marks_first: usize,
}

impl Driver {
    /// Builds a sink from its own keys.
    pub(crate) fn new(keys: &str) -> Self {
        Self::with(keys, Duration::from_secs(30), Arc::new(SystemClock::new()))
    }

    /// The same; an attempt ends after this long, and this is the time.
    pub(crate) fn with(keys: &str, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = read_config("loki", keys, dir.path());
        let context = SinkContext {
            name: "grafana".into(),
            agent: Origin {
                cluster: "test-cluster".into(),
                node: "test-node".into(),
                source: String::new(),
            },
            labels: BTreeMap::from([("env".to_owned(), "test".to_owned())]),
            timeout,
            proxy: None,
            batch_bytes: 2 << 20,
            spool: "00c0ffee".to_owned(),
            clock,
            fs: Arc::new(SystemFs),
            state_dir: dir.path().join("state"),
        };
        let sink = config
            .build(&context)
            .unwrap_or_else(|error| panic!("build: {error}"));
        Driver {
            config,
            context,
            sink,
            runtime: Runtime::new().expect("a runtime"),
            _dir: dir,
            mark: None,
            durable: (BTreeSet::new(), None),
            rejected: BTreeMap::new(),
            delivered: BTreeSet::new(),
            marks_first: 0,
        }
    }

    /// `check --connect`.
    pub(crate) fn connect(&self, setup: bool) -> Result<Vec<String>, String> {
        self.runtime
            .block_on(self.config.connect(&self.context, setup))
    }

    /// Opens it with what was stored last.
    pub(crate) fn open(&self) -> Result<(), Outcome> {
        let mark = self.durable.1.as_deref();
        self.runtime.block_on(self.sink.open(mark)).map(|_| ())
    }

    /// This mark was stored last.
    pub(crate) fn resume_with(&mut self, mark: Vec<u8>) {
        self.durable.1 = Some(mark);
    }

    /// What is written down of a batch.
    pub(crate) fn seal(&self, records: &[Record]) -> Option<Seal> {
        self.sink.seal(&batch(records, false))
    }

    /// Whether its secrets are others now.
    pub(crate) fn secrets_changed(&self) -> bool {
        self.sink.secrets_changed()
    }

    /// The sink itself.
    pub(crate) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// One attempt.
    pub(crate) fn attempt(&self, records: &[Record], in_doubt: bool) -> Outcome {
        let mut batch = batch(records, in_doubt);
        // As delivery does; without it the push is encoded when it is sent, which must come to the same.
        if records.len().is_multiple_of(2) {
            batch.seal = self.sink.seal(&batch);
        }
        self.runtime.block_on(self.sink.send(Arc::new(batch)))
    }

    /// One batch until all of it is stored or rejected.
    pub(crate) fn send(&mut self, records: &[Record]) {
        assert!(
            self.until_done(records, false, &mut || false),
            "nothing cuts it short"
        );
    }

    /// Stores the cursor, as far as it has come, with the mark.
    fn store(&mut self) {
        let rejected = self.rejected.keys().copied();
        let settled = rejected.chain(self.delivered.iter().copied()).collect();
        self.durable = (settled, self.mark.clone());
    }

    /// `false`: `dies` said that the process did, after an attempt.
    fn until_done(
        &mut self,
        records: &[Record],
        mut in_doubt: bool,
        dies: &mut impl FnMut() -> bool,
    ) -> bool {
        for _ in 0..500 {
            let outcome = self.attempt(records, in_doubt);
            match outcome {
                Outcome::Delivered {
                    mark,
                    except,
                    alarms,
                } => {
                    assert_eq!(alarms, []);
                    self.mark = mark.or(self.mark.take());
                    let mut stored: BTreeSet<u64> = records.iter().map(|r| r.number).collect();
                    for (number, verdict) in except {
                        let Verdict::Rejected(rejection) = verdict else {
                            panic!("loki rejects or takes: {verdict:?}");
                        };
                        assert!(stored.remove(&number), "a record of this batch");
                        self.rejected.insert(number, rejection);
                    }
                    self.delivered.extend(stored);
                    return !dies();
                }
                Outcome::Retry {
                    in_doubt: maybe, ..
                } => in_doubt |= maybe,
                Outcome::Split { verdict } if records.len() == 1 => {
                    self.rejected.insert(records[0].number, verdict);
                    return !dies();
                }
                Outcome::Split { .. } => {
                    let (first, second) = records.split_at(records.len() / 2);
                    return self.until_done(first, in_doubt, dies)
                        && self.until_done(second, in_doubt, dies);
                }
                Outcome::MarkFirst { mark } => {
                    self.marks_first += 1;
                    self.mark = Some(mark);
                    self.store();
                    continue;
                }
                Outcome::Stop { reason } => panic!("stopped: {reason}"),
            }
            if dies() {
                return false;
            }
        }
        panic!("500 attempts at one batch");
    }

    /// All batches to the end, the process dying once in so many attempts (0: never).
    pub(crate) fn run(
        &mut self,
        batches: &[Vec<Record>],
        random: &mut fastrand::Rng,
        one_in: usize,
    ) {
        self.open().expect("it opens");
        let (mut at, mut sent) = (0, 0);
        while at < batches.len() {
            let settled = &self.durable.0;
            let left = |record: &&Record| !settled.contains(&record.number);
            let batch: Vec<Record> = batches[at].iter().filter(left).cloned().collect();
            let mut dies = || one_in > 0 && random.usize(..one_in) == 0;
            let in_doubt = at < sent;
            sent = sent.max(at + 1);
            if batch.is_empty() || self.until_done(&batch, in_doubt, &mut dies) {
                at += 1;
                if random.u8(..4) == 0 {
                    self.store();
                }
            } else {
                at = 0;
                self.mark = self.durable.1.clone();
                self.delivered
                    .retain(|number| self.durable.0.contains(number));
                self.rejected
                    .retain(|number, _| self.durable.0.contains(number));
                self.sink = self
                    .config
                    .build(&self.context)
                    .unwrap_or_else(|error| panic!("build: {error}"));
                self.open().expect("it opens");
            }
        }
    }
}

fn batch(records: &[Record], in_doubt: bool) -> Batch {
    Batch {
        records: records.to_vec(),
        in_doubt,
        ..Batch::default()
    }
}

/// Now, for a clock that stands.
pub(crate) fn now() -> Micros {
    Micros(unix_ms() * 1000)
}
