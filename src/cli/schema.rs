//! `auditship schema`: the JSON Schema of the configuration, or its reference for people, from the same field docs
//! that the configuration is read with.

use std::io::{self, Write};

use clap::Args;

use super::Failure;
use crate::pipeline::settings;

/// Prints the JSON Schema of the configuration, or its reference for people
#[derive(Debug, Args)]
#[command(after_help = "Example: auditship schema > auditship.schema.json")]
pub struct Arguments {
    /// Prints the reference in Markdown instead
    #[arg(long)]
    reference: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reference = settings::reference();
    let text = if arguments.reference {
        reference.markdown()
    } else {
        serde_json::to_string_pretty(&reference.schema())? + "\n"
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
