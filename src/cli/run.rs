//! `auditship run`: starts the agent and stays with it until it is told to stop or, with `--once`, until everything
//! that was there has reached every required sink.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigFile, Failure, load, summary, tell};
use crate::admin::Admin;
use crate::clock::{self, Clock, SystemClock};
use crate::config::units;
use crate::delivery::{Flushed, SinkReport, State};
use crate::durable_fs::SystemFs;
use crate::pipeline::assemble::{Start, Work, start};
use crate::pipeline::overview::Overview;
use crate::pipeline::run::{Agent, Finished, Lost};
use crate::pipeline::settings::Settings;
use crate::telemetry::log;

use super::view::AgentView;

/// Runs the pipeline
#[derive(Debug, Args)]
#[command(after_help = "Example: auditship run pipelines/quickstart.toml --once")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Reads what is there now, delivers it to every required sink and exits
    #[arg(long)]
    once: bool,
    /// With --once: dead letters and gaps make the exit code 1
    #[arg(long, requires = "once")]
    strict: bool,
    /// With --once: exit when a required sink has had no success for so long
    #[arg(long, requires = "once", value_name = "DURATION", default_value = "60s", value_parser = units::duration_of_text)]
    give_up: Duration,
    /// Takes over another cluster or node name than the state directory was made with
    #[arg(long)]
    new_origin: bool,
}

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = load(&arguments.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    log::init(
        settings.agent.log_level,
        settings.agent.log_format,
        Arc::clone(&clock),
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()?;
    let result = runtime.block_on(stay(arguments, &settings, clock));
    // Whatever still blocks (a read from a dead disk) must not hold the exit.
    runtime.shutdown_background();
    result
}

async fn stay(
    arguments: &Arguments,
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let work = if arguments.once {
        Work::Once
    } else {
        Work::Follow
    };
    let how = Start {
        work,
        new_origin: arguments.new_origin,
    };
    let listen = settings.admin.listen.parse().map_err(anyhow::Error::msg)?;
    // First the state directory, then the address: a second agent is told about the first one, not about a port.
    let agent = start(
        settings,
        &how,
        clock,
        Arc::new(SystemFs),
        &tokio::runtime::Handle::current(),
    )?;
    let overview = agent.overview();
    let admin = match Admin::bind(&listen).await {
        Ok(admin) => admin,
        Err(problem) => {
            agent.stop(settings.agent.shutdown_timeout).await?;
            return Err(anyhow::anyhow!(problem).into());
        }
    };
    if let Some(admin) = admin {
        tokio::spawn(admin.serve(Arc::new(AgentView::new(Arc::clone(&overview)))));
    }
    tracing::info!(config = %arguments.config.file.display(), state_dir = %settings.agent.state_dir.display(), "started");
    if arguments.once {
        once(arguments, settings, agent, &overview, &mut signals).await
    } else {
        until_told(settings, agent, &mut signals).await
    }
}

/// Runs until a signal comes, the disk fails, or every source has ended by itself (standard input).
async fn until_told(
    settings: &Settings,
    agent: Agent,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let overview = agent.overview();
    let told = tokio::select! {
        () = signals.end() => true,
        lost = delivered_to_the_end(&agent) => {
            lost?;
            false
        }
        () = stdout_closed(&overview) => false,
    };
    if told {
        tracing::info!("SIGTERM or SIGINT: stopping; what is unsent stays in the spool");
    }
    match signals
        .or(agent.stop(settings.agent.shutdown_timeout))
        .await
    {
        Some(end) => {
            end?;
            tracing::info!("stopped");
        }
        None => tracing::warn!("told a second time: stopping at once"),
    }
    Ok(())
}

/// Waits until nobody reads our standard output any more (`| head`).
async fn stdout_closed(overview: &Overview) {
    let mut progress = overview.progress();
    loop {
        let closed = |sink: &SinkReport| {
            sink.state == State::Stopped && sink.last_error.as_deref().is_some_and(is_closed_stdout)
        };
        if overview.sinks().iter().any(closed) {
            return;
        }
        if progress.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until every source has ended and the sinks have all of it. A source that failed does not end the agent: what
/// is spooled is still delivered, and `/readyz` says what is wrong.
async fn delivered_to_the_end(agent: &Agent) -> Result<(), Lost> {
    /// Without `--once` there is no giving up.
    const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
    let finished = agent.sources_finished().await?;
    if !finished.problems.is_empty() {
        std::future::pending::<()>().await;
    }
    agent.flushed(finished.next_record, FOREVER).await;
    Ok(())
}

/// Reads and delivers what was there at the start.
async fn once(
    arguments: &Arguments,
    settings: &Settings,
    agent: Agent,
    overview: &Arc<Overview>,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let progress = tokio::spawn(show_progress(Arc::clone(overview)));
    let work = async {
        let finished = agent.sources_finished().await?;
        let flushed = agent.flushed(finished.next_record, arguments.give_up).await;
        Ok::<_, Lost>((finished, flushed))
    };
    let done = tokio::select! {
        done = work => Some(done),
        () = signals.end() => None,
    };
    progress.abort();
    let end = signals
        .or(agent.stop(settings.agent.shutdown_timeout))
        .await;
    let status = overview.status();
    let notes = overview
        .sources()
        .iter()
        .flat_map(|source| source.look().0.notes);
    notes.for_each(|note| tell(&format!("note: {note}")));
    tell(&summary::table(&status));
    let Some(done) = done else {
        tell("stopped before the end; the next run goes on from here");
        return Ok(());
    };
    let mut problems = match done {
        Ok((finished, flushed)) => unfinished(finished, flushed),
        Err(lost) => vec![lost.to_string()],
    };
    if end.is_none() {
        problems.push("stopped at once, by a second signal".to_owned());
    }
    if arguments.strict && summary::has_loss(&status) {
        problems.push("there are dead letters or gaps (--strict)".to_owned());
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems
        .iter()
        .for_each(|problem| tell(&format!("error: {problem}")));
    tell(&format!(
        "everything read is kept in {}; the next run goes on from there",
        settings.agent.state_dir.display()
    ));
    Err(Failure::Reported)
}

/// What was not reached, one line each.
fn unfinished(finished: Finished, flushed: Vec<(String, Flushed)>) -> Vec<String> {
    let sinks = flushed
        .into_iter()
        .filter_map(|(sink, flushed)| match flushed {
            Flushed::Confirmed => None,
            // Whoever read our output has seen enough.
            Flushed::Stopped(reason) if is_closed_stdout(&reason) => None,
            Flushed::Stopped(reason) => Some(format!("sink {sink} has stopped: {reason}")),
            Flushed::GivenUp(reason) => {
                Some(format!("sink {sink} had no success for a while: {reason}"))
            }
        });
    finished.problems.into_iter().chain(sinks).collect()
}

#[cfg(feature = "stdout")]
fn is_closed_stdout(reason: &str) -> bool {
    reason == crate::sinks::stdout::CLOSED
}

#[cfg(not(feature = "stdout"))]
fn is_closed_stdout(_reason: &str) -> bool {
    false
}

/// One line that is written over on a terminal, a line now and then otherwise.
async fn show_progress(overview: Arc<Overview>) {
    let terminal = io::stderr().is_terminal();
    let every = if terminal { PROGRESS / 10 } else { PROGRESS };
    loop {
        clock::sleep(every).await;
        let line = summary::progress(&overview.status());
        let mut stderr = io::stderr().lock();
        // Nobody is left to be told that stderr is closed.
        drop(if terminal {
            write!(stderr, "\r\x1b[2K{line}\r")
        } else {
            writeln!(stderr, "{line}")
        });
    }
}

/// The signals that concern us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reload.recv() => {
                    tracing::error!("SIGHUP: reloading is not built yet, nothing was changed: restart to use a new configuration");
                }
            }
        }
    }

    /// Runs `work` to its end; `None` when told a second time meanwhile.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.end() => None,
        }
    }
}
