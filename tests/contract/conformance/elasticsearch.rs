//! Elasticsearch and OpenSearch: the fake, and each real server that the sink's own tests use. They all keep to one index
//! with a mapping that takes any event, since templates and data streams are the business of the tests beside this.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::{Destination, Endpoint, Need, Running, Secret, Store};
use crate::contract::bench::{Target, held};
use crate::fakes::elasticsearch::Login;
use crate::support::event::Events;
use crate::support::oracle::Held;
use crate::support::proxy::{Fault, Proxy};
use crate::support::servers::{self, ADMIN, Server};

/// The fake, which wants a password.
pub(crate) struct Fake;

/// A real server.
pub(crate) struct Real {
    name: &'static str,
    script: &'static str,
    options: &'static [&'static str],
    lacks: &'static [(Need, &'static str)],
    /// It wants a password and speaks TLS.
    secure: bool,
}

/// OpenSearch, plain and open.
pub(crate) const OPENSEARCH: Real = Real {
    name: "OpenSearch",
    script: "opensearch",
    options: &[],
    lacks: &[(Need::Secret, "it is started without its security plugin")],
    secure: false,
};

/// OpenSearch with its security plugin.
pub(crate) const OPENSEARCH_SECURE: Real = Real {
    name: "secured OpenSearch",
    options: &["--secure"],
    lacks: SECURE_LACKS,
    secure: true,
    ..OPENSEARCH
};

/// Elasticsearch with its security feature.
pub(crate) const ELASTICSEARCH: Real = Real {
    name: "secured Elasticsearch",
    script: "elasticsearch",
    options: &[],
    lacks: SECURE_LACKS,
    secure: true,
};

const SECURE_LACKS: &[(Need, &str)] = &[
    (
        Need::PlainText,
        "it speaks TLS, in which a proxy cannot answer for it",
    ),
    (
        Need::Headers,
        "it speaks TLS, in which a proxy cannot answer for it",
    ),
    (
        Need::Tls,
        "its TLS is its own; a proxy's is shown before the plain one",
    ),
];

/// Largest request that the real servers take here.
const CONTENT_MAX: &str = "http.max_content_length=2mb";

/// What the fake refuses an event for.
const NEEDLE: &str = "poison-51c0";

impl Destination for Fake {
    fn sink(&self) -> &'static str {
        "elasticsearch"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        &[(Need::Restart, "a fake has no disk to come back from")]
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        let mut target = Target::fake();
        let fake = target.fake.as_ref().expect("the fake");
        fake.let_in(Login::Authorization(format!("Basic {ADMIN}")));
        fake.refuse_documents_with(NEEDLE);
        target.http.authorization = Some(format!("Basic {ADMIN}"));
        Ok(Box::new(Search {
            name: "fake of OpenSearch",
            target,
            server: None,
            secure: false,
        }))
    }
}

impl Destination for Real {
    fn sink(&self) -> &'static str {
        "elasticsearch"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        self.lacks
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        let server = servers::start(self.script, self.options, &[CONTENT_MAX])?;
        let target = if self.secure {
            Target::real_as(&server, ADMIN)
        } else {
            Target::real(&server)
        };
        Ok(Box::new(Search {
            name: self.name,
            target,
            server: Some(server),
            secure: self.secure,
        }))
    }
}

struct Search {
    name: &'static str,
    target: Target,
    /// `None`: the fake.
    server: Option<Server>,
    secure: bool,
}

impl Running for Search {
    fn version(&self) -> String {
        let answer = self.target.http.ok("GET", "/_nodes", "");
        let nodes: Value = serde_json::from_slice(&answer).expect("JSON");
        let nodes = nodes["nodes"].as_object().expect("nodes");
        let version = &nodes.values().next().expect("a node")["version"];
        format!("{} {}", self.name, version.as_str().expect("a version"))
    }

    fn upstream(&self) -> Option<SocketAddr> {
        let (_, authority) = self.target.url.split_once("://").expect("a URL");
        Some(authority.parse().expect("an address and a port"))
    }

    fn store(&self) -> Box<dyn Store + '_> {
        let index = self.target.another_index();
        self.target.http.ok(
            "PUT",
            &format!("/{index}"),
            r#"{"mappings":{"dynamic":false},"settings":{"number_of_replicas":0}}"#,
        );
        let dir = tempfile::tempdir().expect("a temporary directory");
        let secret = Secret {
            file: dir.path().join("password"),
            right: "admin-secret".to_owned(),
        };
        fs::write(&secret.file, &secret.right).expect("write");
        Box::new(Index {
            of: self,
            name: index,
            secret,
            _dir: dir,
        })
    }

    fn saturate(&self, proxy: &Proxy, on: bool) {
        match &self.target.fake {
            Some(fake) if on => fake.forbid("/", 429),
            Some(fake) => fake.permit_all(),
            None => proxy.set(if on { Fault::Refuse } else { Fault::None }),
        }
    }

    fn restart(&self) {
        self.server
            .as_ref()
            .expect("only a real server is restarted")
            .restart();
    }
}

struct Index<'a> {
    of: &'a Search,
    name: String,
    secret: Secret,
    _dir: tempfile::TempDir,
}

impl Index<'_> {
    fn wants_login(&self) -> bool {
        self.of.target.http.authorization.is_some()
    }

    fn ca(&self) -> Option<PathBuf> {
        let server = self.of.server.as_ref()?;
        self.of.secure.then(|| server.dir.join("certs/ca.crt"))
    }
}

impl Store for Index<'_> {
    fn keys(&self, endpoint: &Endpoint) -> String {
        // The certificate of a secured server is for localhost, whatever name the case gives it.
        let own = self.ca().map(|ca| {
            format!(
                "{{ ca = \"{}\", server_name = \"localhost\" }}",
                ca.display()
            )
        });
        let tls = endpoint.tls.as_ref().or(own.as_ref());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut keys = format!(
            "type = \"elasticsearch\"\nendpoints = [\"{scheme}://{}\"]\nindex = \"{}\"\ntemplate = \"own\"\n",
            endpoint.authority(),
            self.name
        );
        if let Some(tls) = tls {
            keys.push_str(&format!("tls = {tls}\n"));
        }
        if self.wants_login() {
            keys.push_str(&format!(
                "auth = {{ basic = {{ user = \"admin\", password = {{ file = \"{}\" }} }} }}\n",
                self.secret.file.display()
            ));
        }
        keys
    }

    fn held(&self) -> Vec<Held> {
        self.of
            .target
            .documents(&self.name)
            .iter()
            .map(held)
            .collect()
    }

    fn secret(&self) -> Option<Secret> {
        self.wants_login().then(|| self.secret.clone())
    }

    fn poison(&self) -> Option<Vec<u8>> {
        Some(match self.of.server {
            None => format!(r#"{{"kind":"Event","auditID":"{NEEDLE}"}}"#).into_bytes(),
            // Larger than a request may be, so it is too large alone.
            Some(_) => Events::new(1).line(0, 5 << 19),
        })
    }
}
