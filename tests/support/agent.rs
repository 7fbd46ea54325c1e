//! The built binary as a child process: started, killed, asked, measured. What it says goes to files beside its state, so
//! that a failing test can show it and no pipe can fill.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::oracle::assert_law;
use super::wait;

const BINARY: &str = env!("CARGO_BIN_EXE_auditship");

/// Cluster, node and source of every test, as in the event id.
pub(crate) const ORIGIN: &str = "test-cluster/test-node/apiserver";

/// One agent's place on disk: log directory, state, configuration, output.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// An empty place.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("auditship-test-")
            .tempdir()
            .expect("a temporary directory");
        fs::create_dir(dir.path().join("log")).expect("a log directory");
        Place { dir }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The live audit file.
    pub(crate) fn live(&self) -> PathBuf {
        self.path().join("log/audit.log")
    }

    /// What a file sink of [`Place::config`] writes.
    pub(crate) fn out(&self) -> PathBuf {
        self.path().join("out.jsonl")
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Writes a configuration: agent, a file source on the live file, and what `sinks` says.
    pub(crate) fn config(&self, sinks: &str) -> PathBuf {
        self.config_with("", sinks)
    }

    /// As [`Place::config`], with more keys for the source.
    pub(crate) fn config_with(&self, source: &str, sinks: &str) -> PathBuf {
        let text = format!(
            r#"
[agent]
cluster = "test-cluster"
node = "test-node"
state_dir = "{state}"
shutdown_timeout = "5s"

[spool]
min_free = "1MiB"

[admin]
listen = "unix:{admin}"

[[source]]
name = "apiserver"
type = "file"
path = "{live}"
{source}
{sinks}
"#,
            state = self.state().display(),
            admin = self.admin_socket().display(),
            live = self.live().display(),
        );
        self.write_config("auditship.toml", &text)
    }

    /// Writes a configuration as it stands.
    pub(crate) fn write_config(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("the configuration can be written");
        path
    }

    /// A raw file sink named `copy`.
    pub(crate) fn file_sink(&self) -> String {
        format!(
            "[[sink]]\nname = \"copy\"\ntype = \"file\"\npath = \"{}\"\nformat = \"raw\"\n",
            self.out().display()
        )
    }

    /// What the file sink holds.
    pub(crate) fn copied(&self) -> Vec<u8> {
        match fs::read(self.out()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("read {}: {error}", self.out().display()),
        }
    }

    /// Where the admin listener of [`Place::config`] is.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path().join("admin.sock")
    }

    /// Asks the admin listener; status and body, `None` where nothing listens.
    pub(crate) fn admin(&self, path: &str) -> Option<(u16, String)> {
        super::http::get_unix(&self.admin_socket(), path).ok()
    }

    /// Starts `auditship run`.
    pub(crate) fn start(&self, config: &Path) -> Agent {
        Agent::spawn(self.path(), &["run", &config.to_string_lossy()])
    }

    /// As [`Place::start`], where host names resolve as the file `hosts` says at the moment. `Err`: this machine gives no
    /// mount namespace.
    pub(crate) fn start_with_hosts(&self, config: &Path, hosts: &Path) -> Result<Agent, String> {
        const ENTER: &str = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        let unshare = |rest: &[&str]| {
            let mut command = Command::new("unshare");
            command
                .args([
                    "--user",
                    "--map-root-user",
                    "--mount",
                    "sh",
                    "-c",
                    ENTER,
                    "sh",
                ])
                .arg(hosts)
                .args(rest);
            command
        };
        let tried = unshare(&["true"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("unshare: {error}"))?;
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned());
        }
        let command = unshare(&[BINARY, "run", &config.to_string_lossy()]);
        Ok(Agent::spawn_command(self.path(), command))
    }

    /// `auditship run --once`, to its end.
    pub(crate) fn run_once(&self, config: &Path, more: &[&str]) -> Finished {
        let config = config.to_string_lossy();
        let mut arguments = vec!["run", &*config, "--once"];
        arguments.extend_from_slice(more);
        Agent::spawn(self.path(), &arguments).wait(Duration::from_secs(120))
    }

    /// As [`Place::run_once`] with a state directory of its own, beside a running agent.
    pub(crate) fn run_once_elsewhere(&self, config: &Path) -> Finished {
        let state = format!(
            "agent.state_dir={}",
            self.path().join("other-state").display()
        );
        let copy = format!(
            "sink.copy.path={}",
            self.path().join("other-out.jsonl").display()
        );
        self.run_once(
            config,
            &["--set", "admin.listen=off", "--set", &state, "--set", &copy],
        )
    }

    /// `auditship status --json` from the state directory.
    pub(crate) fn status(&self, config: &Path) -> Value {
        let output = command(&["status", &config.to_string_lossy(), "--json"]);
        assert!(
            output.status.success(),
            "status: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("status --json prints JSON")
    }

    /// As [`Place::status`]; `None` where the agent was killed before it made a state.
    pub(crate) fn status_if_any(&self, config: &Path) -> Option<Value> {
        let output = command(&["status", &config.to_string_lossy(), "--json"]);
        match output.status.code() {
            Some(0) => {
                Some(serde_json::from_slice(&output.stdout).expect("status --json prints JSON"))
            }
            Some(1) => None,
            _ => panic!("status: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// The status, with the law checked; only of a stopped agent.
    #[track_caller]
    pub(crate) fn lawful_status(&self, config: &Path) -> Value {
        let status = self.status(config);
        assert_law(&status);
        status
    }
}

/// One sink of a status document.
#[track_caller]
pub(crate) fn sink<'a>(status: &'a Value, name: &str) -> &'a Value {
    named(status, "sinks", name)
}

/// The source of a status document.
#[track_caller]
pub(crate) fn source(status: &Value) -> &Value {
    named(status, "sources", "apiserver")
}

#[track_caller]
fn named<'a>(status: &'a Value, list: &str, name: &str) -> &'a Value {
    let items = status[list].as_array().expect("a list");
    items
        .iter()
        .find(|item| item["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {list} of {status:#}"))
}

/// Runs a command of the binary to its end.
pub(crate) fn command(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started")
}

/// What the process may hold, whatever happens: `agent.memory` as it is by default. The code of a build that is not
/// optimised is itself some MiB larger, and it is part of what is measured.
pub(crate) const MEMORY: u64 = if cfg!(debug_assertions) {
    76 << 20
} else {
    64 << 20
};

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// An agent that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How.
    pub(crate) status: ExitStatus,
    /// All of its standard output.
    pub(crate) stdout: String,
    /// All of its standard error.
    pub(crate) stderr: String,
}

impl Finished {
    /// Panics with what it said unless it ended with this exit code.
    #[track_caller]
    pub(crate) fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

impl Agent {
    /// Starts the binary in `dir` with these arguments.
    pub(crate) fn spawn(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        Self::spawn_command(dir, command)
    }

    fn spawn_command(dir: &Path, mut command: Command) -> Self {
        // Numbered, since a test starts many in one place.
        let number = fs::read_dir(dir).expect("the place is there").count();
        let (stdout, stderr) = (
            dir.join(format!("stdout-{number}")),
            dir.join(format!("stderr-{number}")),
        );
        let child = command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&stdout).expect("create"))
            .stderr(fs::File::create(&stderr).expect("create"))
            .spawn()
            .expect("the binary can be started");
        Agent {
            child,
            stdout,
            stderr,
        }
    }

    /// What it said so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).expect("read stderr")).into_owned()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and the wait for its end.
    pub(crate) fn kill(mut self) -> Finished {
        self.child.kill().expect("a child of ours can be killed");
        self.wait(Duration::from_secs(10))
    }

    /// SIGTERM, without waiting.
    pub(crate) fn term(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Any signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a child of ours can be signalled");
    }

    /// SIGTERM, and an end with exit code 0.
    #[track_caller]
    pub(crate) fn stop(self) -> Finished {
        self.term();
        let finished = self.wait(Duration::from_secs(30));
        finished.expect_code(0);
        finished
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child of ours can be waited for")
            .is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self, limit: Duration) -> Finished {
        let stderr = self.stderr.clone();
        let said = || String::from_utf8_lossy(&fs::read(&stderr).unwrap_or_default()).into_owned();
        let watch = wait::Stopwatch::start();
        let status = wait::until(limit + Duration::from_secs(1), "the agent's end", || {
            assert!(
                watch.elapsed() < limit,
                "the agent does not end in {limit:?}; it said:\n{}",
                said()
            );
            self.child
                .try_wait()
                .expect("a child of ours can be waited for")
        });
        let text = |path: &Path| {
            String::from_utf8_lossy(&fs::read(path).expect("read output")).into_owned()
        };
        Finished {
            status,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }

    /// Waits for its end and gives the highest peak seen on the way.
    #[track_caller]
    pub(crate) fn wait_measuring(mut self, limit: Duration) -> (Finished, u64) {
        let mut peak = 0;
        wait::until_true(limit, "the agent's end", || {
            let running = self.is_running();
            if running {
                peak = peak.max(self.peak_rss());
            }
            !running
        });
        (self.wait(limit), peak)
    }

    /// Peak resident memory so far, in bytes (VmHWM).
    pub(crate) fn peak_rss(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        // A process that has ended and was not yet waited for has none any more.
        let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) else {
            return 0;
        };
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse::<u64>()
            .expect("a number")
            << 10
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("a child of ours can be killed");
            self.child.wait().expect("a killed child ends");
        }
    }
}
