//! `auditship dead-letter`: rejected events, with reason and position. A running agent is asked by a request file
//! that it takes up within seconds; where none runs, the command does the work itself, under the agent's lock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ConfigFile, Failure, load, tell};
use crate::clock::{self, Clock, SystemClock};
use crate::delivery::State;
use crate::delivery::dead_letter::{Action, DeadLetters, Letter};
use crate::durable_fs::{DurableFs, LockError, SystemFs};
use crate::pipeline::assemble::{Start, StartError, Work, start};
use crate::pipeline::run::Agent;
use crate::pipeline::settings::Settings;
use crate::pipeline::state_dir::StateDirError;

/// Lists, shows, replays and removes rejected events
#[derive(Debug, Subcommand)]
pub enum Arguments {
    /// Lists rejected events, oldest first
    #[command(
        after_help = "Example: auditship dead-letter ls /etc/auditship/auditship.toml --sink search"
    )]
    Ls(List),
    /// Writes the bytes of rejected events to stdout, each with a line feed behind it
    #[command(after_help = "Example: auditship dead-letter show FILE --sink search --record 4711")]
    Show(Several),
    /// Sends rejected events again
    #[command(after_help = "Example: auditship dead-letter replay FILE --sink search")]
    Replay(Several),
    /// Removes rejected events for good; each is recorded as a gap
    #[command(after_help = "Example: auditship dead-letter rm FILE --sink search --record 4711")]
    Rm(Several),
}

/// What to list.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    config: ConfigFile,
    /// Only those of one sink
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Some rejected events.
#[derive(Debug, Args)]
pub struct Several {
    #[command(flatten)]
    config: ConfigFile,
    /// Only those of one sink
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Only these record numbers
    #[arg(long = "record", value_name = "NUMBER")]
    records: Vec<u64>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::Ls(list) => ls(list),
        Arguments::Show(several) => show(several),
        Arguments::Replay(several) => ask(several, Action::Replay),
        Arguments::Rm(several) => ask(several, Action::Remove),
    }
}

fn letters(settings: &Settings) -> DeadLetters {
    let fs: Arc<dyn DurableFs> = Arc::new(SystemFs);
    DeadLetters::look(
        fs,
        &settings.agent.state_dir,
        settings.dead_letter.max_bytes,
    )
}

fn ls(list: &List) -> Result<(), Failure> {
    let settings = load(&list.config)?;
    let found = listed(&settings, list.sink.as_deref())?;
    let mut out = io::stdout().lock();
    for letter in &found {
        if list.json {
            writeln!(out, "{}", serde_json::to_string(letter)?)?;
        } else {
            writeln!(out, "{}", line(letter))?;
        }
    }
    if found.is_empty() && !list.json {
        tell("no dead letters");
    }
    Ok(())
}

fn line(letter: &Letter) -> String {
    format!(
        "{:<12} {:>10}  {}  {:>9} bytes  {}@{}  {}: {}",
        letter.sink,
        letter.record,
        letter.at,
        letter.bytes,
        letter.generation,
        letter.offset,
        letter.class,
        letter.reason
    )
}

fn show(several: &Several) -> Result<(), Failure> {
    let settings = load(&several.config)?;
    let letters = letters(&settings);
    let chosen = choose(&settings, several)?;
    let mut out = io::stdout().lock();
    for letter in &chosen {
        tell(&line(letter));
        letters.show(&letter.sink, letter.record, &mut out)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// All letters, or those of one sink. A sink that is neither configured nor has letters from earlier is a mistake in
/// the name: "no dead letters" would be a false answer.
fn listed(settings: &Settings, sink: Option<&str>) -> Result<Vec<Letter>, Failure> {
    let found = letters(settings).list(sink)?;
    if let Some(name) = sink
        && found.is_empty()
        && settings.sinks.iter().all(|known| known.name != name)
    {
        let known: Vec<&str> = settings.sinks.iter().map(|sink| &*sink.name).collect();
        let known = known.join(", ");
        return Err(anyhow::anyhow!("there is no sink {name}, there are {known}").into());
    }
    Ok(found)
}

/// The letters that are meant. Naming one that is not there is a mistake.
fn choose(settings: &Settings, several: &Several) -> Result<Vec<Letter>, Failure> {
    let mut found = listed(settings, several.sink.as_deref())?;
    if let Some(missing) = several
        .records
        .iter()
        .find(|record| found.iter().all(|letter| letter.record != **record))
    {
        return Err(anyhow::anyhow!("there is no dead letter of record {missing}").into());
    }
    found.retain(|letter| several.records.is_empty() || several.records.contains(&letter.record));
    if found.is_empty() {
        tell("no dead letters");
    }
    Ok(found)
}

fn ask(several: &Several, action: Action) -> Result<(), Failure> {
    let settings = load(&several.config)?;
    let letters = letters(&settings);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut wanted: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for letter in choose(&settings, several)? {
        wanted.entry(letter.sink).or_default().push(letter.record);
    }
    let mut left = 0;
    for (sink, records) in &wanted {
        if settings.sinks.iter().all(|known| known.name != *sink) {
            return Err(anyhow::anyhow!("the configuration has no sink {sink}").into());
        }
        letters.ask(action, sink, records, clock.now())?;
        match work(&settings, sink, &letters, Arc::clone(&clock))? {
            Done::ByAgent => tell(&format!(
                "sink {sink}: asked the running agent for {}; see `auditship dead-letter ls`",
                records.len()
            )),
            Done::Here => {
                let still = letters
                    .records(sink)?
                    .iter()
                    .filter(|record| records.contains(record))
                    .count();
                tell(&format!(
                    "sink {sink}: {} done, {still} left",
                    records.len() - still
                ));
                left += still;
            }
        }
    }
    if left > 0 {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

/// Who does the work.
enum Done {
    ByAgent,
    Here,
}

/// Does the work with the one sink and no source, unless an agent holds the lock.
fn work(
    settings: &Settings,
    sink: &str,
    letters: &DeadLetters,
    clock: Arc<dyn Clock>,
) -> Result<Done, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let how = Start {
        work: Work::Letters {
            sink: sink.to_owned(),
        },
        new_origin: false,
    };
    let agent = match start(
        settings,
        &how,
        Arc::clone(&clock),
        Arc::new(SystemFs),
        &handle,
    ) {
        Ok(agent) => agent,
        Err(StartError::StateDir(StateDirError::Lock(LockError::Held { .. }))) => {
            return Ok(Done::ByAgent);
        }
        Err(error) => return Err(error.into()),
    };
    runtime.block_on(until_answered(settings, sink, letters, agent, &*clock))?;
    runtime.shutdown_background();
    Ok(Done::Here)
}

/// Waits until the request is answered or the sink cannot go on.
async fn until_answered(
    settings: &Settings,
    sink: &str,
    letters: &DeadLetters,
    agent: Agent,
    clock: &dyn Clock,
) -> Result<(), Failure> {
    const LOOK: Duration = Duration::from_millis(50);
    let limit = clock.monotonic() + Duration::from_secs(300);
    let overview = agent.overview();
    let mut problem = None;
    while !letters.requests(sink)?.is_empty() && problem.is_none() {
        let report = overview
            .sinks()
            .into_iter()
            .find(|report| report.name == sink);
        if let Some(report) = report
            && (report.state == State::Stopped || clock.monotonic() > limit)
        {
            problem = report.last_error.or(Some("no answer in time".to_owned()));
        }
        clock::sleep(LOOK).await;
    }
    agent.stop(settings.agent.shutdown_timeout).await?;
    match problem {
        Some(problem) => Err(anyhow::anyhow!(
            "sink {sink}: {problem}; the request stays for the next start"
        )
        .into()),
        None => Ok(()),
    }
}
