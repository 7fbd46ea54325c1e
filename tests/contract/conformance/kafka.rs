//! Kafka: a real broker, reached with a login, with transactions and without. Without, what was in flight may be there
//! twice, recognisable by its key.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Destination, Endpoint, Need, Part, Running, Secret, Store};
use crate::support::event::Events;
use crate::support::kafka::{Isolation, create_topic, held, listener, read_all};
use crate::support::oracle::Held;
use crate::support::proxy::{Fault, Proxy};
use crate::support::servers::{self, Server};

/// Kafka, with transactions or without.
pub(crate) struct Kafka {
    transactional: bool,
}

/// Without.
pub(crate) const PLAIN: Kafka = Kafka {
    transactional: false,
};

/// With.
pub(crate) const TRANSACTIONAL: Kafka = Kafka {
    transactional: true,
};

/// The listener with a login is so many ports behind the plain one.
const LOGIN: u16 = 2;

const ADVERTISED: &str = "brokers send clients on to the address that they advertise; its own suite has the certificates";

const LACKS: &[(Need, &str)] = &[
    (Need::Headers, "answers have no headers"),
    (Need::Tls, ADVERTISED),
    (Need::HostName, ADVERTISED),
];

const TRANSACTIONAL_LACKS: &[(Need, &str)] = &[
    (Need::Headers, "answers have no headers"),
    (Need::Tls, ADVERTISED),
    (Need::HostName, ADVERTISED),
    (
        Need::Restart,
        "a lone broker that is killed in the middle of a transaction can leave it open; nothing is sent until it ends",
    ),
];

impl Destination for Kafka {
    fn sink(&self) -> &'static str {
        "kafka"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        match self.transactional {
            true => TRANSACTIONAL_LACKS,
            false => LACKS,
        }
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        let port = free_port();
        let server = servers::start("kafka", &["--advertise", &port.to_string()], &[])?;
        let upstream = listener(&server.url, LOGIN).parse().expect("an address");
        let proxy = Proxy::start_at(([127, 0, 0, 1], port).into(), upstream);
        Ok(Box::new(Broker {
            transactional: self.transactional,
            server,
            upstream,
            proxy: Arc::new(proxy),
        }))
    }
}

/// A port on which nothing listens now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

struct Broker {
    transactional: bool,
    server: Server,
    upstream: SocketAddr,
    /// Whose address the broker advertises.
    proxy: Arc<Proxy>,
}

impl Running for Broker {
    fn version(&self) -> String {
        // Brokers do not tell clients; what was fetched does.
        let pinned = include_str!("../../servers/kafka.pom.xml");
        let version = pinned
            .split("<kafka.version>")
            .nth(1)
            .and_then(|rest| rest.split('<').next());
        let kind = if self.transactional {
            "transactional, "
        } else {
            ""
        };
        format!("{kind}Apache Kafka {}", version.expect("it is pinned"))
    }

    fn upstream(&self) -> Option<SocketAddr> {
        Some(self.upstream)
    }

    fn proxy(&self) -> Option<Arc<Proxy>> {
        self.proxy.set(Fault::None);
        Some(self.proxy.clone())
    }

    fn store(&self) -> Box<dyn Store + '_> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("audit-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        create_topic(&self.server.url, &name, 3, &[]);
        let markers = format!("{name}-markers");
        if self.transactional {
            create_topic(&self.server.url, &markers, 1, &[]);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let secret = Secret {
            file: dir.path().join("password"),
            right: "alice-secret".to_owned(),
        };
        fs::write(&secret.file, &secret.right).expect("write");
        Box::new(Topic {
            of: self,
            name,
            markers,
            secret,
            _dir: dir,
        })
    }

    fn restart(&self) {
        self.server.command("kill 1");
        self.server.command("start 1");
    }

    /// A frame begins with its length, here 2 GB.
    fn endless(&self, _part: Part) -> Fault {
        Fault::Flood(&[0x7f, 0xff, 0xff, 0xff], &[0; 64 << 10])
    }
}

struct Topic<'a> {
    of: &'a Broker,
    name: String,
    markers: String,
    secret: Secret,
    _dir: tempfile::TempDir,
}

impl Store for Topic<'_> {
    fn keys(&self, endpoint: &Endpoint) -> String {
        let transactional = if self.of.transactional {
            format!(
                "transactional = {{ marker_topic = \"{}\" }}\n",
                self.markers
            )
        } else {
            String::new()
        };
        format!(
            "type = \"kafka\"\nbrokers = [\"{}\"]\ntopic = \"{}\"\noptions = {{ \"message.max.bytes\" = \"1000000\" }}\n\
             sasl = {{ mechanism = \"PLAIN\", user = \"alice\", password = {{ file = \"{}\" }} }}\n{transactional}",
            endpoint.authority(),
            self.name,
            self.secret.file.display()
        )
    }

    fn held(&self) -> Vec<Held> {
        let stored = read_all(&self.of.server.url, &self.name, Isolation::Committed);
        stored.iter().map(held).collect()
    }

    fn once(&self) -> bool {
        self.of.transactional
    }

    fn secret(&self) -> Option<Secret> {
        Some(self.secret.clone())
    }

    fn poison(&self) -> Option<Vec<u8>> {
        Some(Events::new(1).line(0, 5 << 19))
    }
}
