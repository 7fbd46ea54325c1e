//! Configuration to running parts, in the order that keeps the promise: lock, pinned names, spool with its positions,
//! sinks, sources, intake.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::intake::{Control, INBOX_BYTES, Intake, IntakeInbox, IntakeState, OriginFacts};
use super::ledger::{BLOCK_BYTES, Ledger};
use super::overview::{Overview, SourceWatch};
use super::pressure::Pressure;
use super::rebuild::{Rereaders, SinkGaps};
use super::run::{Agent, Parts};
use super::settings::{OnFull, Settings, SinkSettings};
use super::sink_gap::{decode_sink_gap, sink_of_key};
use super::source_thread::SourceThread;
use super::state_dir::{PinnedOrigin, StateDir, StateDirError};
use crate::clock::Clock;
use crate::delivery::{Delivery, Memory, Shared, SinkGap, SinkSpec};
use crate::durable_fs::DurableFs;
use crate::event::Origin;
use crate::event::encoding::{OriginState, SourceGap};
use crate::sinks::{BuildError, Sink, SinkContext};
use crate::sources::{Source, SourceContext, SourceError};
use crate::spool::{self, KeyState, OpenError, Recovered, Spool};
use crate::telemetry::Telemetry;

/// What the runtime, code, stacks and small state need of `agent.memory`; batches share the rest.
const RUNTIME_BYTES: u64 = 32 << 20;

/// Blocks kept in memory for sinks that are caught up.
const RECENT_BYTES: u64 = 4 * BLOCK_BYTES as u64;

/// Segments are this large, so that space comes back in small steps and recovery scans little.
const SEGMENT_BYTES: u64 = 32 << 20;

/// What is started for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// To follow the sources until told to stop.
    #[default]
    Follow,
    /// To read what is present now (`--once`).
    Once,
    /// To answer requests about a sink's dead letters; no source is read and no segment freed.
    Letters {
        /// The sink.
        sink: String,
    },
}

/// How a run differs from the plain one.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// What it is for.
    pub work: Work,
    /// Other names than the pinned ones are taken over (`--new-origin`).
    pub new_origin: bool,
}

/// The agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent, other names, or the disk.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] OpenError),
    /// A sink's configuration refers to something that cannot be used.
    #[error("sink {name}: {error}")]
    Sink {
        /// Its name.
        name: String,
        /// What.
        error: BuildError,
    },
    /// A source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What the spool keeps of a source cannot be read.
    #[error("the spool's state of {what} cannot be read: {problem}")]
    State {
        /// Whose.
        what: String,
        /// Why.
        problem: String,
    },
    /// The delivery of a sink.
    #[error(transparent)]
    Delivery(#[from] crate::delivery::StartError),
    /// The sinks' cursors.
    #[error("read the sinks' cursors: {0}")]
    Cursors(std::io::Error),
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
}

/// Starts everything. The agent runs until it is stopped.
pub fn start(
    settings: &Settings,
    how: &Start,
    clock: Arc<dyn Clock>,
    fs: Arc<dyn DurableFs>,
    runtime: &Handle,
) -> Result<Agent, StartError> {
    let state_dir = StateDir::new(&settings.agent.state_dir);
    let lock = state_dir.lock(&*fs)?;
    let names = pin_names(settings, how, &state_dir, &*fs)?;
    let (spool, known) = open_spool(settings, &state_dir, &clock, &fs)?;
    let telemetry = Arc::new(Telemetry::default());
    let inbox = Arc::new(IntakeInbox::new(INBOX_BYTES));
    let (sources, ledger) = build_sources(settings, how, &known, &clock)?;
    let shared = Shared {
        reader: Arc::new(spool.reader()),
        clock: Arc::clone(&clock),
        fs: Arc::clone(&fs),
        state_dir: state_dir.root().to_owned(),
        dead_letter_max_bytes: settings.dead_letter.max_bytes,
        memory: Memory::new(
            settings
                .agent
                .memory
                .saturating_sub(RUNTIME_BYTES + RECENT_BYTES),
        ),
        rebuild: rereaders(&sources, &ledger),
        gaps: Arc::new(SinkGaps::new(Arc::clone(&inbox))),
        wake: wake_intake(&inbox),
    };
    let specs = specs(settings, how, &spool.reader().report().id, &clock, &fs)?;
    let delivery = Arc::new(Delivery::start(specs, &shared, runtime)?);
    let state = Arc::new(Mutex::new(IntakeState {
        origins: ledger.origins().iter().map(OriginFacts::of).collect(),
        sink_gaps: known.sink_gaps,
        ..IntakeState::default()
    }));
    let pressure = Arc::new(Pressure::default());
    let stop = Arc::new(AtomicBool::new(false));
    let watches: Vec<SourceWatch> = settings
        .sources
        .iter()
        .map(|source| SourceWatch::new(source.name.clone()))
        .collect();
    let overview = Arc::new(Overview {
        names,
        sources: watches.clone(),
        intake: Arc::clone(&state),
        reader: spool.reader(),
        delivery: Arc::clone(&delivery),
        telemetry: Arc::clone(&telemetry),
        clock: Arc::clone(&clock),
        state_dir: state_dir.clone(),
        fs: Arc::clone(&fs),
    });
    let finished = watch::Sender::new(None);
    let intake = Intake {
        spool,
        ledger,
        inbox: Arc::clone(&inbox),
        state,
        delivery: Arc::clone(&delivery),
        telemetry,
        clock: Arc::clone(&clock),
        sync_interval: settings.spool.sync_interval,
        pressure: Arc::clone(&pressure),
        drop_oldest: settings.spool.on_full == OnFull::DropOldest,
        running: sources.len(),
        finished: finished.clone(),
        frees: !matches!(how.work, Work::Letters { .. }),
    };
    let wakers = sources.iter().map(|source| source.waker()).collect();
    let thread = |(index, (source, watch))| SourceThread {
        index,
        source,
        inbox: Arc::clone(&inbox),
        watch,
        pressure: Arc::clone(&pressure),
        stop: Arc::clone(&stop),
        clock: Arc::clone(&clock),
    };
    let threads = sources
        .into_iter()
        .zip(watches)
        .enumerate()
        .map(thread)
        .map(|thread| spawn("source", move || thread.run()))
        .collect::<Result<_, _>>()?;
    let intake = spawn("intake", move || intake.run())?;
    let parts = Parts {
        inbox,
        stop,
        wakers,
        sources: threads,
        finished,
        _lock: lock,
    };
    Ok(Agent::new(overview, parts, intake, runtime))
}

/// Pins cluster and node in the state directory, or refuses other ones than were pinned.
fn pin_names(
    settings: &Settings,
    how: &Start,
    state_dir: &StateDir,
    fs: &dyn DurableFs,
) -> Result<PinnedOrigin, StartError> {
    let names = PinnedOrigin {
        cluster: settings.agent.cluster.clone(),
        node: settings.agent.node.clone(),
    };
    if state_dir.pin(fs, &names, how.new_origin)? {
        tracing::warn!(cluster = %names.cluster, node = %names.node, "event ids are made from new names from here on");
    }
    Ok(names)
}

/// Opens the spool, which also tells where every source stands.
fn open_spool(
    settings: &Settings,
    state_dir: &StateDir,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
) -> Result<(Spool, Known), StartError> {
    let stored =
        crate::delivery::stored_sinks(&**fs, state_dir.root()).map_err(StartError::Cursors)?;
    let cursors = stored.iter().map(|(_, cursor)| cursor.cursor);
    let (spool, recovered) = Spool::open(
        Arc::clone(fs),
        Arc::clone(clock),
        spool_options(settings, state_dir),
        cursors.max().unwrap_or(0),
    )?;
    for note in &recovered.notes {
        tracing::warn!("{note}");
    }
    let known = Known::read(&recovered)?;
    Ok((spool, known))
}

/// The sources that can read a range once more, by origin.
fn rereaders(sources: &Sources, ledger: &Ledger) -> Arc<Rereaders> {
    let origins = ledger.origins().iter().map(|facts| facts.origin.clone());
    let rereads = sources.iter().map(|source| source.reread());
    Arc::new(Rereaders::new(origins.zip(rereads)))
}

/// The sinks that are to work, built.
fn specs(
    settings: &Settings,
    how: &Start,
    spool: &str,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
) -> Result<Vec<SinkSpec>, StartError> {
    let wanted = |sink: &&SinkSettings| match &how.work {
        Work::Letters { sink: only } => sink.name == *only,
        Work::Follow | Work::Once => true,
    };
    let sinks = settings.sinks.iter().filter(wanted);
    sinks
        .map(|sink| spec(settings, sink, spool, clock, fs))
        .collect()
}

/// Tells the intake that segments may be free now.
fn wake_intake(inbox: &Arc<IntakeInbox>) -> Arc<dyn Fn() + Send + Sync> {
    let inbox = Arc::clone(inbox);
    Arc::new(move || inbox.put_urgent(Control::CursorMoved))
}

/// A plain thread with a small stack: nothing here recurses.
fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, StartError> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(512 << 10)
        .spawn(work)
        .map_err(StartError::Thread)
}

/// How the spool of this configuration behaves.
pub fn spool_options(settings: &Settings, state_dir: &StateDir) -> spool::Options {
    spool::Options {
        dir: state_dir.spool(),
        max_bytes: settings.spool.max_bytes.saturating_sub(
            settings
                .dead_letter
                .max_bytes
                .min(settings.spool.max_bytes / 4),
        ),
        min_free: settings.spool.min_free,
        compress: settings.spool.compress,
        segment_bytes: SEGMENT_BYTES.min(settings.spool.max_bytes / 8),
        memory_bytes: RECENT_BYTES,
    }
}

/// What the spool gave back, decoded.
struct Known {
    origins: BTreeMap<Origin, (OriginState, Vec<SourceGap>)>,
    sink_gaps: BTreeMap<String, Vec<SinkGap>>,
}

impl Known {
    fn read(recovered: &Recovered) -> Result<Self, StartError> {
        let mut known = Known {
            origins: BTreeMap::new(),
            sink_gaps: BTreeMap::new(),
        };
        for key in &recovered.keys {
            known.add(key)?;
        }
        Ok(known)
    }

    fn add(&mut self, key: &KeyState) -> Result<(), StartError> {
        let bad = |what: &str, problem: String| StartError::State {
            what: what.to_owned(),
            problem,
        };
        if let Some(sink) = sink_of_key(&key.key) {
            let gaps: Option<_> = key.gaps.iter().map(|note| decode_sink_gap(note)).collect();
            let gaps =
                gaps.ok_or_else(|| bad(sink, "a gap that this version cannot read".to_owned()))?;
            self.sink_gaps.insert(sink.to_owned(), gaps);
            return Ok(());
        }
        let origin =
            Origin::decode(&key.key).map_err(|error| bad("an origin", error.to_string()))?;
        let name = origin.to_string();
        let state =
            OriginState::decode(&key.state).map_err(|error| bad(&name, error.to_string()))?;
        let gaps = key
            .gaps
            .iter()
            .map(|note| SourceGap::decode(note))
            .collect::<Result<_, _>>();
        let gaps = gaps.map_err(|error| bad(&name, error.to_string()))?;
        self.origins.insert(origin, (state, gaps));
        Ok(())
    }
}

type Sources = Vec<Box<dyn Source>>;

/// Sources with their positions, and the ledger that goes on from them. Origins that left the configuration stay in
/// the spool's snapshots.
fn build_sources(
    settings: &Settings,
    how: &Start,
    known: &Known,
    clock: &Arc<dyn Clock>,
) -> Result<(Sources, Ledger), StartError> {
    let mut sources: Sources = Vec::new();
    let mut origins = Vec::new();
    for source in &settings.sources {
        if matches!(how.work, Work::Letters { .. }) {
            continue;
        }
        let origin = settings.agent.origin(&source.name);
        let (state, gaps) = known.origins.get(&origin).cloned().unwrap_or_default();
        let mut built = source.config.build(SourceContext {
            origin: origin.clone(),
            clock: Arc::clone(clock),
            positions: state.positions.clone(),
            last_event_us: state.last_event_us,
        })?;
        if how.work == Work::Once {
            built.limit_to_present()?;
        }
        sources.push(built);
        origins.push((origin, state, gaps));
    }
    Ok((sources, Ledger::new(origins)))
}

/// Stands for the spool's id where a sink is made without a spool, for a look at it or its destination.
const NO_SPOOL: &str = "00000000";

fn context(
    settings: &Settings,
    sink: &SinkSettings,
    spool: &str,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
) -> SinkContext {
    SinkContext {
        name: sink.name.clone(),
        agent: settings.agent.origin(""),
        labels: settings.agent.labels.clone(),
        timeout: sink.timeout,
        proxy: sink.proxy.clone(),
        batch_bytes: sink.batch_bytes,
        spool: spool.to_owned(),
        clock: Arc::clone(clock),
        fs: Arc::clone(fs),
        state_dir: StateDir::new(&settings.agent.state_dir).sink(&sink.name),
    }
}

fn build(
    settings: &Settings,
    sink: &SinkSettings,
    spool: &str,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
) -> Result<Arc<dyn Sink>, StartError> {
    let context = context(settings, sink, spool, clock, fs);
    sink.config
        .build(&context)
        .map_err(|error| StartError::Sink {
            name: sink.name.clone(),
            error,
        })
}

fn spec(
    settings: &Settings,
    sink: &SinkSettings,
    spool: &str,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
) -> Result<SinkSpec, StartError> {
    Ok(SinkSpec {
        name: sink.name.clone(),
        sink: build(settings, sink, spool, clock, fs)?,
        from_now: sink.from_now,
        required: sink.required,
        batch_bytes: sink.batch_bytes,
        batch_events: sink.batch_events,
        batch_wait: sink.batch_wait,
        concurrency: sink.concurrency,
        timeout: sink.timeout,
        waits: sink.defaults.waits,
        sealed: sink.defaults.sealed,
    })
}

/// Builds every sink and drops it again: what reading the configuration alone does not find.
pub fn build_problems(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
) -> Vec<StartError> {
    settings
        .sinks
        .iter()
        .filter_map(|sink| build(settings, sink, NO_SPOOL, clock, fs).err())
        .collect()
}

/// `check --connect`: what each sink saw at its destination, or what is wrong there, by name.
pub async fn connect(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    fs: &Arc<dyn DurableFs>,
    setup: bool,
) -> Vec<(String, Result<Vec<String>, String>)> {
    let mut seen = Vec::with_capacity(settings.sinks.len());
    for sink in &settings.sinks {
        let context = context(settings, sink, NO_SPOOL, clock, fs);
        seen.push((
            sink.name.clone(),
            sink.config.connect(&context, setup).await,
        ));
    }
    seen
}
