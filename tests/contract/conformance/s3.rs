//! S3: the fake, and versitygw. Cases share a bucket and are kept apart by the key's prefix.

use std::fs;
use std::net::SocketAddr;

use super::{Destination, Endpoint, Need, Running, Secret, Store};
use crate::contract::s3::Target;
use crate::fakes::s3::{Fault as Refusal, Operation};
use crate::support::oracle::{Held, held_lines};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{ACCESS_KEY, SECRET_KEY};
use crate::support::servers::{self, Server};

/// The fake, which checks signatures as AWS does.
pub(crate) struct Fake;

/// versitygw, plain.
pub(crate) struct Versitygw;

const ANY_BYTES: (Need, &str) = (Need::Poison, "it stores any bytes");

impl Destination for Fake {
    fn sink(&self) -> &'static str {
        "s3"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        &[
            ANY_BYTES,
            (Need::Restart, "a fake has no disk to come back from"),
        ]
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        Ok(Box::new(Objects {
            target: Target::fake(),
            server: None,
        }))
    }
}

impl Destination for Versitygw {
    fn sink(&self) -> &'static str {
        "s3"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        &[ANY_BYTES]
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        let server = servers::start("s3", &[], &[])?;
        Ok(Box::new(Objects {
            target: Target::real(&server),
            server: Some(server),
        }))
    }
}

struct Objects {
    target: Target,
    /// `None`: the fake.
    server: Option<Server>,
}

impl Running for Objects {
    fn version(&self) -> String {
        if self.server.is_none() {
            return "fake of S3".to_owned();
        }
        // The server does not tell; what it was built from does.
        let modules = include_str!("../../servers/s3.d/go.mod");
        let version = modules
            .split("github.com/versity/versitygw v")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        format!("versitygw {}", version.expect("it is pinned"))
    }

    fn upstream(&self) -> Option<SocketAddr> {
        let (_, authority) = self.target.url.split_once("://").expect("a URL");
        Some(authority.parse().expect("an address and a port"))
    }

    fn store(&self) -> Box<dyn Store + '_> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let secret = Secret {
            file: dir.path().join("secret-key"),
            right: SECRET_KEY.to_owned(),
        };
        fs::write(&secret.file, &secret.right).expect("write");
        Box::new(Prefix {
            of: self,
            prefix: Target::another_prefix(),
            secret,
            _dir: dir,
        })
    }

    fn saturate(&self, proxy: &Proxy, on: bool) {
        match &self.target.fake {
            Some(fake) => fake.script(move |operation| {
                (on && operation == Operation::Put).then_some(Refusal::SlowDown(None))
            }),
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

struct Prefix<'a> {
    of: &'a Objects,
    prefix: String,
    secret: Secret,
    _dir: tempfile::TempDir,
}

impl Store for Prefix<'_> {
    fn keys(&self, endpoint: &Endpoint) -> String {
        let scheme = match endpoint.tls {
            Some(_) => "https",
            None => "http",
        };
        let mut keys = format!(
            "type = \"s3\"\nbucket = \"audit\"\nendpoint = \"{scheme}://{}\"\nkey_prefix = \"{}{{event:%Y/%m/%d}}/\"\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = {{ file = \"{}\" }}\n",
            endpoint.authority(),
            self.prefix,
            self.secret.file.display()
        );
        if let Some(tls) = &endpoint.tls {
            keys.push_str(&format!("tls = {tls}\n"));
        }
        keys
    }

    /// Keys are in record order, so lines are in that of the log.
    fn held(&self) -> Vec<Held> {
        let bucket = self.of.target.bucket("audit");
        bucket
            .keys(&self.prefix)
            .iter()
            .flat_map(|key| held_lines(&bucket.content(key)))
            .collect()
    }

    fn secret(&self) -> Option<Secret> {
        Some(self.secret.clone())
    }
}
