//! One worker per sink: batches from the spool, attempts, retries, dead letters, the cursor. Not here: what an attempt
//! at a destination is (`sinks`), and the spool's own format.
//!
//! Pure parts decide: [`in_flight`] (what became of each record), [`retry`] (when to try again), [`refusal`] (is it the
//! event or the destination), [`numbers`]. `worker` does what they say, with [`batcher`] reading the spool, `place`
//! storing the cursor, `seal` writing down what is about to be sent, [`dead_letter`] and [`replay`] keeping what was
//! refused, [`memory`] bounding the bytes.
//!
//! Invariants: a sink delays no other; a cursor moves only over records that are delivered, dead-lettered or in a
//! recorded gap; nothing is sent beyond the durable send limit, so that after a crash what is in doubt is known.

pub mod batcher;

pub mod in_flight;

pub mod numbers;

mod seal;

pub mod refusal;

pub mod retry;

pub mod memory;

pub mod dead_letter;

pub mod replay;

pub mod report;

mod place;

mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::{self, Clock, Micros};
use crate::durable_fs::DurableFs;
use crate::event::Origin;
use crate::event::encoding::Span;
use crate::sinks::Sink;
use crate::spool::cursor::{CursorFile, CursorRecord};
use batcher::{Batcher, Blocks, Limits};
use dead_letter::DeadLetters;
use in_flight::InFlight;
pub use memory::Memory;
use numbers::Numbers;
use place::{Place, cursor_path};
pub use report::{SinkReport, State};
use retry::{Jitter, Retry};
use seal::{Seals, seals_path};
use worker::{Command, Worker};

/// However many sinks share the memory, a batch has this many bytes.
const BATCH_BYTES_MIN: u64 = 64 << 10;

/// A sink and how it is to be served.
pub struct SinkSpec {
    /// Its name in the configuration.
    pub name: String,
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// `from = "oldest"` (false) or `"now"` (true), for a sink without a cursor.
    pub from_now: bool,
    /// `required`.
    pub required: bool,
    /// `batch.bytes`, encoded, before compression.
    pub batch_bytes: u64,
    /// `batch.events`.
    pub batch_events: u64,
    /// `batch.wait`.
    pub batch_wait: Duration,
    /// `concurrency`.
    pub concurrency: usize,
    /// `timeout`.
    pub timeout: Duration,
    /// `batch.wait` is always waited (see [`crate::sinks::Defaults::waits`]).
    pub waits: bool,
    /// Batches are sealed before they are sent (see [`crate::sinks::Defaults::sealed`]).
    pub sealed: bool,
}

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    /// Reads the spool: a `spool::Reader`.
    pub reader: Arc<dyn Blocks>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The disk.
    pub fs: Arc<dyn DurableFs>,
    /// `<state_dir>`: cursors are `sinks/<name>.cursor`, dead letters lie in `dead-letters/`.
    pub state_dir: PathBuf,
    /// `dead_letter.max_bytes`.
    pub dead_letter_max_bytes: u64,
    /// Bytes that all batches together may hold in memory.
    pub memory: Arc<Memory>,
    /// Puts damaged blocks back, from the source.
    pub rebuild: Arc<dyn Rebuild>,
    /// Where a sink's gap is recorded.
    pub gaps: Arc<dyn GapLog>,
    /// Called whenever the lowest durable cursor may have moved; must not block.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

/// Reads a damaged range once more; implemented by `pipeline`, which knows the sources.
pub trait Rebuild: Send + Sync {
    /// The payload of the block of `origin` that held `span`, encoded as intake did.
    fn payload(&self, origin: &Origin, span: &Span) -> Option<Vec<u8>>;
}

/// Records a sink's gap in the spool; implemented by `pipeline`, whose intake thread appends it.
pub trait GapLog: Send + Sync {
    /// Records that `sink` does not get records `first` to `last` (inclusive); returns when it is durable.
    fn record(&self, sink: &str, gap: SinkGap) -> crate::sinks::BoxFuture<'_, Result<(), String>>;
}

/// A range that a sink does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkGap {
    /// Why.
    pub reason: SinkGapReason,
    /// First record.
    pub first: u64,
    /// Last record, inclusive.
    pub last: u64,
}

/// Gap reasons of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkGapReason {
    /// The spool was full and the sink was the one furthest behind.
    Overtaken,
    /// A damaged block could not be rebuilt.
    Damaged,
    /// Dead letters removed by a person.
    Removed,
}

impl SinkGapReason {
    /// As status, metrics and logs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            SinkGapReason::Overtaken => "overtaken",
            SinkGapReason::Damaged => "damaged",
            SinkGapReason::Removed => "removed",
        }
    }
}

/// What a worker lets others see.
struct Published {
    report: Mutex<SinkReport>,
    progress: Arc<watch::Sender<u64>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Published {
    fn change(&self, change: impl FnOnce(&mut SinkReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&self) -> SinkReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn durable_cursor(&self) -> u64 {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .durable
            .cursor
    }

    /// A cursor is stored.
    fn stored(&self, durable: &CursorRecord) {
        self.change(|report| report.durable = durable.clone());
        self.progress.send_modify(|version| *version += 1);
        (self.wake)();
    }

    /// What the sink is doing.
    fn state(&self, state: State, confirmed: u64, retry_at: Option<Micros>) {
        let mut changed = false;
        self.change(|report| {
            changed = report.state != state || report.confirmed != confirmed;
            (report.state, report.confirmed, report.retry_at) = (state, confirmed, retry_at);
        });
        if changed {
            self.progress.send_modify(|version| *version += 1);
        }
    }
}

/// A sink could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start sink {sink}: {error}")]
pub struct StartError {
    /// Its name.
    pub sink: String,
    /// What the disk says.
    pub error: io::Error,
}

/// How waiting for a sink ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything is confirmed, durably.
    Confirmed,
    /// It is stopped, for this reason.
    Stopped(String),
    /// It had no success for as long as one was willing to wait; the last error.
    GivenUp(String),
}

/// What came of asking for room in a full spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overtaking {
    /// No sink holds the segment; it can be released.
    NotNeeded,
    /// These sinks were asked to give it up; they do, with a gap, once no attempt is open on it.
    Asked(Vec<String>),
    /// Nobody may be overtaken now: required sinks hold it, and the source is not about to lose anything, or no other
    /// sink is past it.
    Refused,
}

/// All sinks at work.
pub struct Delivery {
    sinks: Vec<Running>,
    progress: Arc<watch::Sender<u64>>,
    clock: Arc<dyn Clock>,
}

struct Running {
    name: String,
    required: bool,
    commands: mpsc::UnboundedSender<Command>,
    published: Arc<Published>,
    /// Taken by the one that stops it.
    task: Mutex<Option<JoinHandle<()>>>,
    work: tokio::task::AbortHandle,
}

impl Delivery {
    /// Starts a worker for each sink. Blocking, for as long as it takes to read a few small files.
    pub fn start(
        specs: Vec<SinkSpec>,
        shared: &Shared,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Delivery, StartError> {
        let progress = Arc::new(watch::Sender::new(0));
        let at = |sink: &str| {
            let sink = sink.to_owned();
            move |error| StartError { sink, error }
        };
        let letters = DeadLetters::open(
            Arc::clone(&shared.fs),
            &shared.state_dir,
            shared.dead_letter_max_bytes,
        );
        let letters = Arc::new(letters.map_err(at("(dead letters)"))?);
        shared
            .fs
            .create_dir(&shared.state_dir.join("sinks"))
            .map_err(at("(all)"))?;
        let mut workers = Vec::new();
        for spec in fitted(specs, shared.memory.unused()) {
            let name = spec.name.clone();
            workers.push(prepare(spec, shared, &letters, &progress).map_err(at(&name))?);
        }
        let sinks = workers
            .into_iter()
            .map(|(worker, commands)| spawn(worker, commands, runtime))
            .collect();
        Ok(Delivery {
            sinks,
            progress,
            clock: Arc::clone(&shared.clock),
        })
    }

    /// The lowest durable cursor of any sink: the spool may release everything below. `None` without sinks.
    pub fn lowest_cursor(&self) -> Option<u64> {
        self.sinks
            .iter()
            .map(|sink| sink.published.durable_cursor())
            .min()
    }

    /// Every sink as it is now, in the order of the configuration.
    pub fn reports(&self) -> Vec<SinkReport> {
        self.sinks
            .iter()
            .map(|sink| sink.published.report())
            .collect()
    }

    /// Changes whenever a cursor or a state did.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// The spool is full and its oldest segment ends with record `last`: asks who may be overtaken to give it up
    /// (design D3). Does not wait; [`Shared::wake`] tells when the cursor has moved. `losing`: the source is about to
    /// lose bytes. `drop_oldest`: `spool.on_full`.
    pub fn overtake(&self, last: u64, losing: bool, drop_oldest: bool) -> Overtaking {
        let mut behind: Vec<(u64, &Running)> = self
            .sinks
            .iter()
            .map(|sink| (sink.published.durable_cursor(), sink))
            .filter(|(at, _)| *at <= last)
            .collect();
        if behind.is_empty() {
            return Overtaking::NotNeeded;
        }
        behind.sort_by_key(|(cursor, _)| *cursor);
        let another_is_past = behind.len() < self.sinks.len();
        let required = behind.iter().any(|(_, sink)| sink.required);
        let asked: Vec<&Running> = if drop_oldest || !required {
            behind.iter().map(|(_, sink)| *sink).collect()
        } else {
            // Those not required first; a required one only where the alternative is a loss for all.
            let optional = behind.iter().filter(|(_, sink)| !sink.required);
            let lowest = behind
                .iter()
                .find(|(_, sink)| sink.required)
                .filter(|_| losing && another_is_past);
            optional.chain(lowest).map(|(_, sink)| *sink).collect()
        };
        if asked.is_empty() {
            return Overtaking::Refused;
        }
        for sink in &asked {
            sink.tell(Command::Overtake(last + 1));
        }
        Overtaking::Asked(asked.iter().map(|sink| sink.name.clone()).collect())
    }

    /// Waits, for every required sink, until everything below `up_to` is confirmed durably, it stops, or it had no
    /// success for `give_up`. By name, in the order of the configuration.
    pub async fn flushed(&self, up_to: u64, give_up: Duration) -> Vec<(String, Flushed)> {
        let mut results = Vec::new();
        for sink in &self.sinks {
            sink.tell(Command::Flush(up_to));
        }
        let since = self.clock.monotonic();
        for sink in self.sinks.iter().filter(|sink| sink.required) {
            results.push((
                sink.name.clone(),
                self.flushed_one(sink, up_to, give_up, since).await,
            ));
        }
        results
    }

    /// The orderly stop: nothing more is sent, attempts may end within `deadline`, cursors are stored. What was not
    /// seen to end by then is in doubt at the next start.
    pub async fn stop(&self, deadline: Duration) {
        let by = self.clock.monotonic() + deadline;
        for sink in &self.sinks {
            sink.tell(Command::Stop(by));
        }
        for sink in &self.sinks {
            let task = sink
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(task) = task
                && let Err(error) = task.await
            {
                tracing::error!(sink = sink.name, "stop: {error}");
            }
        }
    }

    /// Ends everything at once, as a crash would: what is in flight is in doubt at the next start.
    pub fn abort(self) {
        for sink in &self.sinks {
            if let Some(task) = &*sink.task.lock().unwrap_or_else(PoisonError::into_inner) {
                task.abort();
            }
            sink.work.abort();
        }
    }

    async fn flushed_one(
        &self,
        sink: &Running,
        up_to: u64,
        give_up: Duration,
        since: Duration,
    ) -> Flushed {
        let mut progress = self.progress.subscribe();
        loop {
            progress.mark_unchanged();
            let report = sink.published.report();
            if report.durable.cursor >= up_to {
                return Flushed::Confirmed;
            }
            let why = report
                .last_error
                .unwrap_or_else(|| "no answer yet".to_owned());
            if report.state == State::Stopped {
                return Flushed::Stopped(why);
            }
            let until = report.last_success.max(since) + give_up;
            let left = until.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Flushed::GivenUp(why);
            }
            // Either way the report is looked at again; the sender lives as long as `self`.
            clock::timeout(left, progress.changed()).await;
        }
    }
}

impl Running {
    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!(sink = self.name, "the sink's worker has ended");
        }
    }
}

/// Every sink has one batch reserved. Where those together are more than there is, all batches are cut smaller, so that
/// the ceiling of the process's memory holds however many sinks there are.
fn fitted(mut specs: Vec<SinkSpec>, memory: u64) -> Vec<SinkSpec> {
    let wanted: u64 = specs.iter().map(worker::batch_memory).sum();
    if wanted > memory {
        for spec in &mut specs {
            let share = u128::from(spec.batch_bytes) * u128::from(memory) / u128::from(wanted);
            let share = u64::try_from(share).unwrap_or(spec.batch_bytes);
            spec.batch_bytes = share.max(BATCH_BYTES_MIN.min(spec.batch_bytes));
            tracing::info!(
                sink = spec.name,
                bytes = spec.batch_bytes,
                "its batches are cut smaller than configured: `agent.memory` holds one of each sink"
            );
        }
    }
    specs
}

/// Reads a sink's place and makes its worker.
fn prepare(
    spec: SinkSpec,
    shared: &Shared,
    letters: &Arc<DeadLetters>,
    progress: &Arc<watch::Sender<u64>>,
) -> io::Result<(Worker, mpsc::UnboundedSender<Command>)> {
    let now = shared.clock.monotonic();
    let path = cursor_path(&shared.state_dir, &spec.name);
    let (mut place, stored) = Place::open(Arc::clone(&shared.fs), path, now)?;
    let spool = shared.reader.watch();
    let begin = Begin::new(
        stored,
        spec.from_now,
        shared.reader.oldest_record(),
        *spool.borrow(),
    );
    if begin.anew {
        place.begin(&begin.record)?;
    }
    letters.forget_from(&spec.name, begin.record.cursor)?;
    let (seals, sealed) = open_seals(&spec, shared, begin.anew)?;
    let mut report = SinkReport {
        name: spec.name.clone(),
        required: spec.required,
        durable: begin.record.clone(),
        confirmed: begin.record.cursor,
        last_success: now,
        ..SinkReport::default()
    };
    if let Some(alarm) = &begin.alarm {
        tracing::error!(sink = spec.name, alarm = "spool_lost", "{alarm}");
        report.alarms.insert("spool_lost", 1);
        report.last_error = Some(alarm.clone());
    }
    let published = Published {
        report: Mutex::new(report),
        progress: Arc::clone(progress),
        wake: Arc::clone(&shared.wake),
    };
    let seed = spec
        .name
        .bytes()
        .fold(shared.clock.now().0 as u64, |seed, byte| {
            seed.rotate_left(7) ^ u64::from(byte)
        });
    // Unbounded so that the intake thread never waits for a sink; it asks a few times a second at most, and a worker
    // keeps no more than the greatest of what was asked.
    let (sender, commands) = mpsc::unbounded_channel();
    let worker = Worker {
        account: shared.memory.account(worker::batch_memory(&spec)),
        batcher: Batcher {
            blocks: Arc::clone(&shared.reader),
            rebuild: Arc::clone(&shared.rebuild),
            sink: Arc::clone(&spec.sink),
            limits: Limits {
                bytes: spec.batch_bytes,
                events: spec.batch_events,
            },
        },
        mark: begin.record.mark.clone(),
        books: InFlight::resume_with(begin.record, sealed),
        seals,
        retry: Retry::new(Jitter::new(seed)),
        gone: begin.gone,
        letters: Arc::clone(letters),
        published: Arc::new(published),
        freed: shared.memory.freed(),
        shared: shared.clone(),
        work: worker::Work::default(),
        place,
        commands,
        spool,
        spec,
    };
    Ok((worker, sender))
}

type Sealed = Vec<(Numbers, crate::sinks::Seal)>;

/// The seals of a sink that seals, and what they hold. Of a sink that begins anew they are about other records.
fn open_seals(
    spec: &SinkSpec,
    shared: &Shared,
    anew: bool,
) -> io::Result<(Option<Seals>, Option<Sealed>)> {
    if !spec.sealed {
        return Ok((None, None));
    }
    let path = seals_path(&shared.state_dir, &spec.name);
    let mut seals = Seals::open(Arc::clone(&shared.fs), path)?;
    if anew {
        seals.clear()?;
    }
    let sealed = seals.read()?;
    Ok((Some(seals), Some(sealed)))
}

fn spawn(
    worker: Worker,
    commands: mpsc::UnboundedSender<Command>,
    runtime: &tokio::runtime::Handle,
) -> Running {
    let (name, required) = (worker.spec.name.clone(), worker.spec.required);
    let published = Arc::clone(&worker.published);
    let seen = Arc::clone(&published);
    let work = runtime.spawn(worker.run());
    let abort = work.abort_handle();
    // A worker that fails is seen as a stopped sink; its records are pending and its cursor is on disk.
    let task = runtime.spawn(async move {
        if let Err(error) = work.await {
            let why = if error.is_panic() {
                "panicked"
            } else {
                "was ended"
            };
            let reason = format!("the sink's worker {why}: restart the agent; nothing is lost");
            tracing::error!("{reason}");
            seen.change(|report| {
                report.last_error = Some(reason);
                *report.alarms.entry("panic").or_default() += 1;
            });
            let cursor = seen.durable_cursor();
            seen.state(State::Stopped, cursor, None);
        }
    });
    Running {
        name,
        required,
        commands,
        published,
        task: Mutex::new(Some(task)),
        work: abort,
    }
}

/// Where a sink begins.
struct Begin {
    record: CursorRecord,
    /// Whether that is another place than the stored one.
    anew: bool,
    /// Records that it should have and that the spool no longer holds.
    gone: Option<Numbers>,
    alarm: Option<String>,
}

impl Begin {
    fn new(stored: Option<CursorRecord>, from_now: bool, oldest: u64, next: u64) -> Begin {
        let fresh = |cursor| CursorRecord {
            cursor,
            send_limit: cursor,
            not_selected: cursor,
            ..CursorRecord::default()
        };
        let Some(record) = stored else {
            let record = fresh(if from_now { next } else { oldest });
            return Begin {
                record,
                anew: true,
                gone: None,
                alarm: None,
            };
        };
        if record.cursor > next {
            let alarm = format!(
                "the cursor stands at record {}, but the spool ends before {next}: it is another spool;                  beginning at its oldest record {oldest}, counts begin anew",
                record.cursor
            );
            let record = CursorRecord {
                mark: record.mark,
                ..fresh(oldest)
            };
            return Begin {
                record,
                anew: true,
                gone: None,
                alarm: Some(alarm),
            };
        }
        if record.cursor < oldest {
            let gone = Numbers::range(record.cursor..oldest);
            let alarm = format!(
                "records {} to {} are no longer in the spool",
                record.cursor,
                oldest - 1
            );
            return Begin {
                record,
                anew: false,
                gone: Some(gone),
                alarm: Some(alarm),
            };
        }
        Begin {
            record,
            anew: false,
            gone: None,
            alarm: None,
        }
    }
}

/// What is stored of every sink that ever had a cursor here, by name: for `status` without an agent, for the sinks that
/// left the configuration (detached: they keep their cursor and hold nothing back), and for the highest cursor that
/// the spool is opened with.
pub fn stored_sinks(
    fs: &dyn DurableFs,
    state_dir: &Path,
) -> io::Result<Vec<(String, CursorRecord)>> {
    let dir = state_dir.join("sinks");
    let listed = match fs.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut sinks = Vec::new();
    for name in listed
        .iter()
        .filter_map(|listed| listed.name.strip_suffix(".cursor"))
    {
        if let Some(record) = CursorFile::peek(fs, &cursor_path(state_dir, name))? {
            sinks.push((name.to_owned(), record));
        }
    }
    Ok(sinks)
}

#[cfg(test)]
mod tests;
