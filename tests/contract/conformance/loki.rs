//! Loki: the fake, which is as strict as Loki itself, and VictoriaLogs, which takes the push API and judges nothing. Cases
//! share a server and are kept apart by the label `job`.

use std::fs;
use std::net::SocketAddr;

use super::{Destination, Endpoint, Need, Running, Secret, Store};
use crate::contract::loki::driver::{Target, unique};
use crate::fakes::loki::Login;
use crate::support::event::Events;
use crate::support::oracle::Held;
use crate::support::proxy::{Fault, Proxy};
use crate::support::servers::{self, Server};

/// The fake, which wants a password.
pub(crate) struct Fake;

/// VictoriaLogs, plain and open.
pub(crate) struct VictoriaLogs;

/// `writer:writer-secret`.
const LOGIN: &str = "Basic d3JpdGVyOndyaXRlci1zZWNyZXQ=";

impl Destination for Fake {
    fn sink(&self) -> &'static str {
        "loki"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        &[(Need::Restart, "a fake has no disk to come back from")]
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        let target = Target::fake();
        let fake = target.fake.as_ref().expect("the fake");
        fake.let_in(Login::Authorization(LOGIN.to_owned()));
        Ok(Box::new(Logs {
            target,
            server: None,
        }))
    }
}

impl Destination for VictoriaLogs {
    fn sink(&self) -> &'static str {
        "loki"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        &[
            (Need::Secret, "it is started without a password"),
            (
                Need::Restart,
                "killed, it loses what it confirmed in the last second; Loki does not",
            ),
        ]
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        let server = servers::start("loki-api", &[], &[])?;
        Ok(Box::new(Logs {
            target: Target::real(&server),
            server: Some(server),
        }))
    }
}

struct Logs {
    target: Target,
    /// `None`: the fake.
    server: Option<Server>,
}

impl Running for Logs {
    fn version(&self) -> String {
        // The one that was built; it does not know its own.
        const PINNED: &str = include_str!("../../servers/loki-api.d/go.mod");
        let version = PINNED
            .lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("github.com/VictoriaMetrics/VictoriaLogs ")
            })
            .and_then(|version| version.split(['-', ' ']).next())
            .expect("go.mod names it");
        match &self.server {
            None => "fake of Loki 3.7.6".to_owned(),
            Some(_) => format!("VictoriaLogs {version}"),
        }
    }

    fn upstream(&self) -> Option<SocketAddr> {
        let authority = self.target.url.split("://").nth(1).expect("a URL");
        let authority = authority.split('/').next().expect("never empty");
        Some(authority.parse().expect("an address and a port"))
    }

    fn store(&self) -> Box<dyn Store + '_> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let secret = Secret {
            file: dir.path().join("password"),
            right: "writer-secret".to_owned(),
        };
        fs::write(&secret.file, &secret.right).expect("write");
        Box::new(Stream {
            of: self,
            job: unique(),
            secret,
            // Longer than a line may be.
            poison: Events::new(0x51c0).line(0, 300 << 10),
            _dir: dir,
        })
    }

    fn saturate(&self, proxy: &Proxy, on: bool) {
        match &self.target.fake {
            Some(fake) => {
                fake.limit(|limits| limits.tenant_burst = if on { 0 } else { usize::MAX });
            }
            None => proxy.set(if on { Fault::Refuse } else { Fault::None }),
        }
    }
}

struct Stream<'a> {
    of: &'a Logs,
    job: String,
    secret: Secret,
    poison: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Store for Stream<'_> {
    fn keys(&self, endpoint: &Endpoint) -> String {
        let scheme = if endpoint.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let path = if self.of.server.is_some() {
            "/insert"
        } else {
            ""
        };
        let mut keys = format!(
            "type = \"loki\"\nendpoint = \"{scheme}://{}{path}\"\nlabels = {{ job = \"{}\" }}\n",
            endpoint.authority(),
            self.job
        );
        if let Some(tls) = &endpoint.tls {
            keys.push_str(&format!("tls = {tls}\n"));
        }
        if self.of.server.is_none() {
            keys.push_str(&format!(
                "auth = {{ basic = {{ user = \"writer\", password = {{ file = \"{}\" }} }} }}\n",
                self.secret.file.display()
            ));
        }
        keys
    }

    fn held(&self) -> Vec<Held> {
        let lines = self.of.target.lines_with(&self.job, None);
        lines.iter().map(|line| line.held()).collect()
    }

    /// To Loki a line that is sent again is the same line; VictoriaLogs has it twice.
    fn once(&self) -> bool {
        self.of.server.is_none()
    }

    fn secret(&self) -> Option<Secret> {
        self.of.server.is_none().then(|| self.secret.clone())
    }

    fn poison(&self) -> Option<Vec<u8>> {
        Some(self.poison.clone())
    }
}
