//! The command line: what a person types, what comes out where, and exit codes. Text for people goes to stderr, data
//! to stdout; a closed stdout ends quietly.
//!
//! Exit codes: 0 done, 1 the command's own bad news, 2 usage or configuration.

pub mod run;

pub mod check;

pub mod status;

pub mod spool;

pub mod dead_letter;

pub mod schema;

mod summary;

mod view;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Diagnostics, Document};
use crate::pipeline::settings::Settings;

/// Ships Kubernetes audit logs: every event read once, kept until confirmed, stored once.
#[derive(Debug, Parser)]
#[command(
    name = "auditship",
    version,
    about,
    max_term_width = 100,
    after_help = "Example: auditship run pipelines/quickstart.toml --once"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the pipeline
    Run(run::Arguments),
    /// Checks a configuration; with --connect also the destinations
    Check(check::Arguments),
    /// Shows totals, positions and what is wrong
    Status(status::Arguments),
    /// Looks into the spool
    #[command(
        subcommand,
        after_help = "Example: auditship spool verify /etc/auditship/auditship.toml"
    )]
    Spool(spool::Arguments),
    /// Lists, shows, replays and removes rejected events
    #[command(
        subcommand,
        after_help = "Example: auditship dead-letter ls /etc/auditship/auditship.toml"
    )]
    DeadLetter(dead_letter::Arguments),
    /// Prints the JSON Schema of the configuration, or its reference for people
    Schema(schema::Arguments),
}

/// The configuration that a command works on.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Pipeline file
    #[arg(
        value_name = "FILE",
        env = "AUDITSHIP_CONFIG",
        default_value = "/etc/auditship/auditship.toml"
    )]
    file: PathBuf,
    /// Overrides one key, such as sink.search.batch.wait=2s
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Usage or configuration: exit 2. The diagnostics say all.
    Config(Diagnostics),
    /// Anything else: exit 1.
    Other(anyhow::Error),
    /// Usage or configuration, reported already: exit 2.
    Usage,
    /// Reported already: exit 1.
    Reported,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Other(error.into())
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let parsed = match CommandLine::try_parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed stdout or stderr leaves nobody to tell.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let result = match parsed.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Spool(arguments) => spool::run(&arguments),
        Command::DeadLetter(arguments) => dead_letter::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(Failure::Usage) => ExitCode::from(2),
        Err(Failure::Config(diagnostics)) => {
            tell(&diagnostics.render(io::stderr().is_terminal()));
            ExitCode::from(2)
        }
        Err(Failure::Other(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Other(error)) => {
            tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Reads the configuration; warnings are shown, mistakes end the command.
pub(crate) fn load(config: &ConfigFile) -> Result<Settings, Failure> {
    let document = Document::load(&config.file, &config.set).map_err(Failure::Config)?;
    let settings = Settings::read(&document);
    match (document.finish(), settings) {
        (Ok(()), Some(settings)) => Ok(settings),
        (Err(diagnostics), _) => Err(Failure::Config(diagnostics)),
        (Ok(()), None) => Err(Failure::Other(anyhow::anyhow!(
            "the configuration could not be read, and no mistake was found"
        ))),
    }
}

/// A line for people.
pub(crate) fn tell(text: &str) {
    // Nobody is left to be told that stderr is closed.
    drop(writeln!(io::stderr().lock(), "{}", text.trim_end()));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
