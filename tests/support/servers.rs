//! Real servers, started by the tests themselves (`tests/servers/`), each once for a test run and only when a test asks
//! for it. Where one cannot be had (no Java, no Maven, no network) a test says so loudly and is skipped: on standard
//! output, and in the file that `AUDITSHIP_SKIPS` names, so that a green run shows what it did not run.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::http::Http;

/// The script's exit code for "cannot be had here".
const ABSENT: i32 = 3;

/// A running server. It lives as long as this value, and no longer than this process: the script ends it when its
/// standard input does.
pub(crate) struct Server {
    /// Where it is.
    pub(crate) url: String,
    /// Its directory; `certs` below it where it speaks TLS.
    pub(crate) dir: PathBuf,
    /// The script, and what it says.
    script: Mutex<(Child, BufReader<ChildStdout>)>,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that panicked while it talked to the script ends it all the same.
        let script = self.script.get_mut();
        let (process, _) = script.unwrap_or_else(PoisonError::into_inner);
        drop(process.stdin.take());
        process.wait().expect("a child of ours can be waited for");
    }
}

impl Server {
    /// Kills it, starts it again with its data and its ports, and waits until it is ready.
    pub(crate) fn restart(&self) {
        assert_eq!(self.ask("restart"), self.url, "it comes back where it was");
    }

    /// Gives the script a command and waits until it is done.
    pub(crate) fn command(&self, command: &str) {
        let answer = self.ask(command);
        assert_eq!(answer, "done", "{command}: see {}", self.dir.display());
    }

    fn ask(&self, line: &str) -> String {
        let mut script = self.script.lock().expect("no holder panics");
        let (process, said) = &mut *script;
        let stdin = process.stdin.as_mut().expect("piped, and never taken");
        writeln!(stdin, "{line}").expect("the script reads");
        let mut answer = String::new();
        said.read_line(&mut answer).expect("the script answers");
        answer.trim().to_owned()
    }

    /// Logged in with this basic authorization where the server wants one.
    pub(crate) fn http(&self, user_password_base64: Option<&str>) -> Http {
        let tls = self.url.starts_with("https");
        Http {
            url: self.url.clone(),
            ca: tls.then(|| self.dir.join("certs/ca.crt")),
            authorization: user_password_base64.map(|encoded| format!("Basic {encoded}")),
        }
    }
}

/// `admin:admin-secret`.
pub(crate) const ADMIN: &str = "YWRtaW46YWRtaW4tc2VjcmV0";

/// `Ok` or why it cannot be had.
pub(crate) type Had = Result<Server, String>;

static OPENSEARCH: LazyLock<Had> =
    LazyLock::new(|| start("opensearch", &[], &["http.max_content_length=2mb"]));
static OPENSEARCH_SECURE: LazyLock<Had> = LazyLock::new(|| start("opensearch", &["--secure"], &[]));
static ELASTICSEARCH: LazyLock<Had> = LazyLock::new(|| start("elasticsearch", &[], &[]));
static S3: LazyLock<Had> = LazyLock::new(|| start("s3", &[], &[]));
static S3_SECURE: LazyLock<Had> = LazyLock::new(|| start("s3", &["--secure"], &[]));
static KAFKA: LazyLock<Had> = LazyLock::new(|| start("kafka", &[], &[]));
static LOKI_API: LazyLock<Had> = LazyLock::new(|| start("loki-api", &[], &[]));
static LOKI_API_SECURE: LazyLock<Had> = LazyLock::new(|| start("loki-api", &["--secure"], &[]));

/// VictoriaLogs, which takes Loki's push API and judges nothing; the path of its endpoint is `/insert`.
pub(crate) fn loki_api(test: &str) -> Option<&'static Server> {
    or_skip(&LOKI_API, test)
}

/// The same over HTTPS, for user `writer` with password `writer-secret`.
pub(crate) fn loki_api_secure(test: &str) -> Option<&'static Server> {
    or_skip(&LOKI_API_SECURE, test)
}

/// OpenSearch 3.7.0, plain and open, with a limit of 2 MiB on a request.
pub(crate) fn opensearch(test: &str) -> Option<&'static Server> {
    or_skip(&OPENSEARCH, test)
}

/// OpenSearch 2.19.3 with its security plugin.
pub(crate) fn opensearch_secure(test: &str) -> Option<&'static Server> {
    or_skip(&OPENSEARCH_SECURE, test)
}

/// Elasticsearch 8.17.4 with its security feature.
pub(crate) fn elasticsearch(test: &str) -> Option<&'static Server> {
    or_skip(&ELASTICSEARCH, test)
}

/// versitygw 1.8.0, plain.
pub(crate) fn s3(test: &str) -> Option<&'static Server> {
    or_skip(&S3, test)
}

/// versitygw 1.8.0 over TLS.
pub(crate) fn s3_secure(test: &str) -> Option<&'static Server> {
    or_skip(&S3_SECURE, test)
}

/// A versitygw of the test's own, on data that outlive it: another one on the same port goes on where it was killed.
pub(crate) fn s3_on(test: &str, data: &Path, port: Option<u16>) -> Option<Server> {
    let mut settings = vec![format!("data={}", data.display())];
    settings.extend(port.map(|port| format!("port={port}")));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    or_skip_owned(start("s3", &[], &settings), test)
}

/// One broker of Kafka 4.3.1, which tests share and nobody ends.
pub(crate) fn kafka(test: &str) -> Option<&'static Server> {
    or_skip(&KAFKA, test)
}

/// Brokers of Kafka 4.3.1 for one test, which may end them and start them again.
pub(crate) fn kafka_to_break(test: &str, brokers: usize) -> Option<Server> {
    let brokers = brokers.to_string();
    or_skip_owned(start("kafka", &["--brokers", &brokers], &[]), test)
}

fn or_skip_owned(had: Had, test: &str) -> Option<Server> {
    had.map_err(|why| skip(test, &why)).ok()
}

fn or_skip(had: &'static Had, test: &str) -> Option<&'static Server> {
    match had {
        Ok(server) => Some(server),
        Err(why) => {
            skip(test, why);
            None
        }
    }
}

/// Says that a test was not run, and why.
pub(crate) fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    // Not `println!`: the test harness captures that of a test that passes.
    std::io::stdout()
        .write_all(line.as_bytes())
        .expect("standard output");
    if let Some(path) = std::env::var_os("AUDITSHIP_SKIPS") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("AUDITSHIP_SKIPS names a file");
        file.write_all(line.as_bytes()).expect("append");
    }
}

/// A server of a test's own, for what would disturb the others: it ends when dropped.
pub(crate) fn start(script: &str, options: &[&str], settings: &[&str]) -> Had {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/servers")
        .join(script);
    let fetched = Command::new(&path)
        .args(options)
        .arg("fetch")
        .stdin(Stdio::null())
        .output();
    let fetched = fetched.map_err(|error| format!("{}: {error}", path.display()))?;
    if !fetched.status.success() {
        let said = String::from_utf8_lossy(&fetched.stderr).trim().to_owned();
        assert_eq!(
            fetched.status.code(),
            Some(ABSENT),
            "fetching {script} failed: {said}"
        );
        return Err(said);
    }
    let dir = tempfile::Builder::new()
        .prefix("auditship-server-")
        .tempdir()
        .expect("a temporary directory");
    let mut process = Command::new(&path)
        .args(options)
        .arg("run")
        .arg(dir.path())
        .args(settings)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(dir.path().join("script-stderr")).expect("create"))
        .spawn()
        .expect("the script was run a moment ago");
    let mut url = String::new();
    let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
    stdout
        .read_line(&mut url)
        .expect("read the script's output");
    if url.is_empty() {
        let status = process.wait().expect("it can be waited for");
        let said = fs::read_to_string(dir.path().join("script-stderr")).unwrap_or_default();
        assert_eq!(
            status.code(),
            Some(ABSENT),
            "{script} did not start: {said}"
        );
        return Err(said.trim().to_owned());
    }
    Ok(Server {
        url: url.trim().to_owned(),
        dir: dir.path().to_owned(),
        script: Mutex::new((process, stdout)),
        _dir: dir,
    })
}
