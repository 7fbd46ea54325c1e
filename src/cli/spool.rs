//! `auditship spool`: a look into the spool. `ls`, `verify` and `export` take no lock and change nothing, while an
//! agent may be writing; `repair` shows its plan and changes nothing without `--apply`.

use std::io::{self, Write};
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{ConfigFile, Failure, load, tell};
use crate::durable_fs::{DurableFs, SystemFs};
use crate::event::encoding::RecordHead;
use crate::pipeline::assemble::spool_options;
use crate::pipeline::settings::Settings;
use crate::pipeline::state_dir::StateDir;
use crate::spool::inspect::{self, Exported, Finding, Look};
use crate::spool::{Block, Reader, record};
use crate::telemetry::status_text::{count, size};

/// Looks into the spool
#[derive(Debug, Subcommand)]
pub enum Arguments {
    /// Lists segments, and with --blocks every block
    #[command(after_help = "Example: auditship spool ls /etc/auditship/auditship.toml")]
    Ls(List),
    /// Reads everything and reports damage
    #[command(after_help = "Example: auditship spool verify /etc/auditship/auditship.toml")]
    Verify(ConfigFile),
    /// Writes the records' lines to stdout
    #[command(after_help = "Example: auditship spool export FILE --from 4711 > events.jsonl")]
    Export(Export),
    /// Shows what would be set aside, and does it with --apply
    #[command(after_help = "Example: auditship spool repair /etc/auditship/auditship.toml --apply")]
    Repair(Repair),
}

/// What to list.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    config: ConfigFile,
    /// Lists every block too
    #[arg(long)]
    blocks: bool,
}

/// What to write.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    config: ConfigFile,
    /// First record
    #[arg(long, value_name = "RECORD", default_value_t = 0)]
    from: u64,
}

/// Whether to change anything.
#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    config: ConfigFile,
    /// Does it; no agent may be running
    #[arg(long)]
    apply: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::Ls(list) => ls(&load(&list.config)?, list.blocks),
        Arguments::Verify(config) => verify(&load(config)?),
        Arguments::Export(export) => lines(&load(&export.config)?, export.from),
        Arguments::Repair(repair) => mend(&load(&repair.config)?, repair.apply),
    }
}

fn look(settings: &Settings) -> Result<Look, Failure> {
    let fs: Arc<dyn DurableFs> = Arc::new(SystemFs);
    let state_dir = StateDir::new(&settings.agent.state_dir);
    let dir = state_dir.spool();
    let confirmed = confirmed(&*fs, &state_dir)?;
    Look::at(&fs, &dir, confirmed)?
        .ok_or_else(|| anyhow::anyhow!("{}: there is no spool", dir.display()).into())
}

/// The highest cursor of any sink: records below it were acknowledged once.
fn confirmed(fs: &dyn DurableFs, state_dir: &StateDir) -> Result<u64, Failure> {
    let cursors = crate::delivery::stored_sinks(fs, state_dir.root())?;
    Ok(cursors
        .iter()
        .map(|(_, cursor)| cursor.cursor)
        .max()
        .unwrap_or(0))
}

fn ls(settings: &Settings, blocks: bool) -> Result<(), Failure> {
    let look = look(settings)?;
    let mut out = io::stdout().lock();
    for segment in look.segments() {
        writeln!(
            out,
            "{}  {:>12} records from {:>12}  {:>10}",
            segment.name,
            count(segment.records),
            segment.first,
            size(segment.bytes)
        )?;
        if blocks {
            let mut written = Ok(());
            look.blocks(segment.number, &mut |block| {
                if written.is_ok() {
                    written = writeln!(
                        out,
                        "  {:>10}  {:<8} {:>6} records from {:>12}  {:>9} bytes, {:>9} unpacked  {}",
                        block.offset,
                        block.kind,
                        block.records,
                        block.first,
                        block.bytes,
                        block.payload_bytes,
                        block.appended.rfc3339()
                    );
                }
            })?;
            written?;
        }
    }
    let report = look.report();
    // Ranges of records are inclusive everywhere a person sees them.
    let records = match report.next_record.checked_sub(1) {
        Some(newest) if newest >= report.oldest_record => {
            format!("records {} to {newest}", report.oldest_record)
        }
        _ => "no records".to_owned(),
    };
    writeln!(
        out,
        "spool {}: {records}, {} in {} segments",
        report.id,
        size(report.bytes),
        report.segments
    )?;
    for set_aside in look.quarantine()? {
        writeln!(
            out,
            "quarantine/{}  {}",
            set_aside.name,
            size(set_aside.len)
        )?;
    }
    Ok(())
}

fn verify(settings: &Settings) -> Result<(), Failure> {
    let look = look(settings)?;
    let verified = look.verify(&mut |finding| tell(&told(&finding)))?;
    tell(&format!(
        "{} blocks with {} records in {} segments, {}: {}",
        count(verified.blocks),
        count(verified.records),
        verified.segments,
        size(verified.bytes),
        if verified.damaged == 0 {
            "whole".to_owned()
        } else {
            format!("{} damaged places", verified.damaged)
        }
    ));
    if verified.damaged > 0 {
        tell(
            "damaged ranges are read again from the source where it still has them, else recorded as gaps",
        );
        return Err(Failure::Reported);
    }
    Ok(())
}

fn told(finding: &Finding) -> String {
    let records = match finding.records {
        Some((first, last)) => format!(", records {first} to {last}"),
        None => String::new(),
    };
    let what = match (finding.torn, finding.restored) {
        (true, _) => "torn end of an append that never counted",
        (_, true) => "damage, read again from its source",
        _ => "damage",
    };
    format!(
        "{what}: segment {} bytes {} to {}{records}: {}",
        finding.segment, finding.offset, finding.end, finding.problem
    )
}

fn lines(settings: &Settings, from: u64) -> Result<(), Failure> {
    let reader = look(settings)?.reader();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut damaged = false;
    inspect::export(&reader, from, &mut |exported| match exported {
        Exported::Block(block) => write_block(&reader, block, from, &mut out),
        Exported::Damaged {
            first,
            last,
            problem,
        } => {
            damaged = true;
            tell(&format!("records {first} to {last} are damaged: {problem}"));
            Ok(())
        }
    })?;
    out.flush()?;
    if damaged {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

fn write_block(reader: &Reader, block: &Block, from: u64, out: &mut dyn Write) -> io::Result<()> {
    for (number, record) in (block.first..).zip(record::iter(&block.payload)) {
        let (head, body) = record.map_err(io::Error::other)?;
        if number < from {
            continue;
        }
        for piece in &block.pieces {
            out.write_all(&reader.piece(*piece).map_err(io::Error::other)?)?;
        }
        // A head that cannot be read says that the body may not be what it seems.
        RecordHead::decode(&block.payload[head]).map_err(io::Error::other)?;
        out.write_all(&block.payload[body])?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn mend(settings: &Settings, apply: bool) -> Result<(), Failure> {
    let look = look(settings)?;
    let plan = look.plan()?;
    if plan.is_empty() {
        tell("nothing to repair");
        return Ok(());
    }
    if !apply {
        plan.iter().for_each(|step| tell(step));
        tell("nothing was changed: --apply does it");
        return Err(Failure::Reported);
    }
    let fs: Arc<dyn DurableFs> = Arc::new(SystemFs);
    let state_dir = StateDir::new(&settings.agent.state_dir);
    let confirmed = confirmed(&*fs, &state_dir)?;
    let done = inspect::repair(&fs, &spool_options(settings, &state_dir), confirmed)?;
    done.iter().for_each(|step| tell(step));
    Ok(())
}
