//! What well-known tools do on the same machine and log, for orientation.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Prints one line per tool, or that it is not installed.
pub(crate) fn print(log: &Path) {
    println!();
    said(
        "openssl speed",
        Command::new("openssl").args(["speed", "-seconds", "1", "-bytes", "1638", "sha256"]),
    );
    said(
        "zstd -b1",
        Command::new("zstd")
            .args(["-b1", "-i1", "-B1048576"])
            .arg(log),
    );
    gzip(log);
}

fn said(name: &str, command: &mut Command) {
    match command.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let last = text
                .split(['\n', '\r'])
                .rfind(|line| line.contains("sha256") || line.contains("MB/s"));
            println!("{name}: {}", last.unwrap_or("printed nothing").trim());
        }
        Err(error) => println!("{name}: not run: {error}"),
    }
}

fn gzip(log: &Path) {
    let run = || -> std::io::Result<(u64, f64)> {
        let file = File::open(log)?;
        let bytes = file.metadata()?.len();
        let began = Instant::now();
        Command::new("gzip")
            .args(["-1", "-c"])
            .stdin(file)
            .stdout(Stdio::null())
            .status()?;
        Ok((bytes, began.elapsed().as_secs_f64()))
    };
    match run() {
        Ok((bytes, seconds)) => println!("gzip -1: {:.0} MB/s", bytes as f64 / 1e6 / seconds),
        Err(error) => println!("gzip -1: not run: {error}"),
    }
}
