//! `auditship check`: parses, resolves, builds; with `--connect` also logs in to each destination.

use std::sync::Arc;

use clap::Args;

use super::{ConfigFile, Failure, load, tell};
use crate::clock::{Clock, SystemClock};
use crate::durable_fs::{DurableFs, SystemFs};
use crate::pipeline::assemble;

/// Checks a configuration; with --connect also the destinations
#[derive(Debug, Args)]
#[command(after_help = "Example: auditship check pipelines/elasticsearch.toml --connect --setup")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Logs in to each sink and checks its rights, without writing an event
    #[arg(long)]
    connect: bool,
    /// Installs what a sink needs, such as an index template
    #[arg(long, requires = "connect")]
    setup: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = load(&arguments.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let fs: Arc<dyn DurableFs> = Arc::new(SystemFs);
    let problems = assemble::build_problems(&settings, &clock, &fs);
    problems
        .iter()
        .for_each(|problem| tell(&format!("error: {problem}")));
    if !problems.is_empty() {
        return Err(Failure::Usage);
    }
    let mut unreachable = false;
    if arguments.connect {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let seen = runtime.block_on(assemble::connect(&settings, &clock, &fs, arguments.setup));
        for (sink, result) in seen {
            match result {
                Ok(seen) => seen
                    .iter()
                    .for_each(|line| tell(&format!("{sink}: {line}"))),
                Err(problem) => {
                    unreachable = true;
                    tell(&format!("{sink}: {problem}"));
                }
            }
        }
    }
    if unreachable {
        return Err(Failure::Reported);
    }
    tell(&format!(
        "{}: ok, {} and {}",
        arguments.config.file.display(),
        counted(settings.sources.len(), "source"),
        counted(settings.sinks.len(), "sink"),
    ));
    Ok(())
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
