//! `auditship status`: totals, positions and what is wrong, from the running agent or from the state directory.

use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;

use super::{ConfigFile, Failure, load, tell};
use crate::admin::client;
use crate::durable_fs::{DurableFs, SystemFs};
use crate::pipeline::overview::stopped_status;
use crate::pipeline::settings::Settings;
use crate::pipeline::state_dir::StateDir;
use crate::telemetry::status::Status;
use crate::telemetry::status_text;

/// Shows totals, positions and what is wrong
#[derive(Debug, Args)]
#[command(after_help = "Example: auditship status /etc/auditship/auditship.toml --json")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = load(&arguments.config)?;
    let status = find(&settings)?;
    let format = if arguments.json {
        StatusFormat::Json
    } else {
        StatusFormat::Text
    };
    write(&status, format, &mut io::stdout().lock())?;
    Ok(())
}

/// Asks the running agent, which knows what its sinks are doing; else reads the durable facts from the disk.
fn find(settings: &Settings) -> Result<Status, Failure> {
    let state_dir = StateDir::new(&settings.agent.state_dir);
    let Some(names) = state_dir.pinned(&SystemFs)? else {
        return Err(
            anyhow::anyhow!("{}: no agent has run here yet", state_dir.root().display()).into(),
        );
    };
    let listen = settings.admin.listen.parse().map_err(anyhow::Error::msg)?;
    match client::status(&listen) {
        Ok(status) if status.cluster == names.cluster && status.node == names.node => {
            return Ok(status);
        }
        Ok(_) => tell("another agent answers on admin.listen; showing what is on disk"),
        // No agent runs, or its listener is off.
        Err(_) => {}
    }
    let sinks: Vec<String> = settings
        .sinks
        .iter()
        .map(|sink| sink.name.clone())
        .collect();
    let fs: Arc<dyn DurableFs> = Arc::new(SystemFs);
    Ok(stopped_status(&state_dir, &fs, &names, &sinks).map_err(anyhow::Error::msg)?)
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatusFormat {
    /// Tables for people.
    Text,
    /// One JSON document, as promised to users.
    Json,
}

/// Writes the document. A closed output is the caller's to judge.
fn write(status: &Status, format: StatusFormat, out: &mut dyn Write) -> io::Result<()> {
    match format {
        StatusFormat::Text => out.write_all(status_text::render(status).as_bytes())?,
        StatusFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, status)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{SinkStatus, SourceStatus};

    #[test]
    fn json_has_the_promised_keys_in_their_order_with_null_for_the_unknown() {
        let status = Status {
            sources: vec![SourceStatus::default()],
            sinks: vec![SinkStatus::default()],
            ..Status::default()
        };
        let mut out = Vec::new();
        write(&status, StatusFormat::Json, &mut out).expect("write to memory");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let keys = |value: &serde_json::Value| {
            value
                .as_object()
                .expect("object")
                .keys()
                .cloned()
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(
            keys(&value),
            "version,cluster,node,sources,stages,spool,sinks"
        );
        assert_eq!(
            keys(&value["sources"][0]),
            "name,state,positions,read_events,unread_bytes,malformed_events,gaps_total,gaps"
        );
        assert_eq!(
            keys(&value["spool"]),
            "id,events,bytes,oldest_record,next_record"
        );
        assert_eq!(
            keys(&value["sinks"][0]),
            "name,state,delivered,not_selected,dead_letter,replayed,gap,pending,gaps,last_error,retry_at"
        );
        assert_eq!(value["sources"][0]["unread_bytes"], serde_json::Value::Null);
        assert_eq!(value["sinks"][0]["state"], serde_json::Value::Null);
    }
}
