//! The agent's own binary on the same log.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Work;
use crate::process::{self, Usage};

/// Runs `auditship run --once` on `core`.
pub(crate) fn measure(
    work: Work,
    log: &Path,
    dir: &Path,
    port: u16,
    core: usize,
) -> Result<Usage, Box<dyn Error>> {
    let state = dir.join(format!("state-{}", work.name()));
    let config = dir.join(format!("{}.toml", work.name()));
    let sink = match work {
        // A destination that is not there, and that `--once` does not wait for. What little it tries is not what is
        // measured: small batches, not compressed.
        Work::Spool => {
            "type = \"elasticsearch\"\nendpoints = [\"http://127.0.0.1:1\"]\nindex = \"audit\"\n\
                        template = \"own\"\nrequired = false\n\
                        compression = \"none\"\nbatch = { bytes = \"64KiB\" }"
                .to_owned()
        }
        Work::Plain | Work::Gzip => format!(
            "type = \"elasticsearch\"\nendpoints = [\"http://127.0.0.1:{port}\"]\nindex = \"audit\"\n\
             template = \"own\"\ncompression = \"{}\"",
            if work == Work::Gzip { "gzip" } else { "none" }
        ),
    };
    fs::write(
        &config,
        format!(
            "[agent]\ncluster = \"c\"\nnode = \"n\"\nstate_dir = \"{}\"\n\
             [spool]\nmin_free = \"0B\"\n[admin]\nlisten = \"off\"\n\
             [[source]]\nname = \"apiserver\"\ntype = \"file\"\npath = \"{}\"\n\
             [[sink]]\nname = \"out\"\n{sink}\n",
            state.display(),
            log.display(),
        ),
    )?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_auditship"));
    command
        .arg("run")
        .arg(&config)
        .arg("--once")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let usage = process::run(&mut command, core)?;
    fs::remove_dir_all(&state)?;
    Ok(usage)
}
