//! One suite for every destination: the same cases, run by the built binary against each server that a sink is for, fake
//! and real. What an attempt promises in detail stands beside this, a module for each sink; here is what every sink owes
//! to whoever relies on it, whatever the network and the server do.
//!
//! A destination joins by its line in the list of [`DESTINATIONS`]. What a case means nothing for is declared there, with
//! the reason, and shown as `-`; a server that cannot be had is skipped loudly. When the last destination is through, the
//! table of what passed against which server is printed; `AUDITSHIP_BLESS=1` also writes it into `docs/conformance.md`.
//! `AUDITSHIP_CASE=NAME` runs one case.

/// The cases, as plain functions.
mod cases;

/// The case that needs another clock, and so the sink in this process.
mod clock_jump;

/// One case under way: a place, a writer, a proxy, the agent.
mod trial;

/// Rows, and what is made of them.
mod table;

/// Elasticsearch and OpenSearch.
mod elasticsearch;

/// Kafka, with transactions and without.
mod kafka;

/// Loki.
mod loki;

/// S3.
mod s3;

/// The file sink.
mod file;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::fakes::impostors::{Face, TlsFront};
use crate::support::oracle::Held;
use crate::support::proxy::{Fault, Proxy};

/// Declares the list and a test for each of its lines, so that destinations run beside each other and can be run alone.
macro_rules! destinations {
    ($($name:ident: $destination:expr),+ $(,)?) => {
        /// Every destination: a sink and a kind of server.
        pub(crate) static DESTINATIONS: &[(&str, &dyn Destination)] =
            &[$((stringify!($name), &$destination)),+];

        $(#[test] fn $name() { table::hold(stringify!($name), &$destination); })+
    };
}

destinations! {
    elasticsearch_fake: elasticsearch::Fake,
    elasticsearch_opensearch: elasticsearch::OPENSEARCH,
    elasticsearch_opensearch_secure: elasticsearch::OPENSEARCH_SECURE,
    elasticsearch_elasticsearch: elasticsearch::ELASTICSEARCH,
    kafka: kafka::PLAIN,
    kafka_transactional: kafka::TRANSACTIONAL,
    loki_fake: loki::Fake,
    loki_victorialogs: loki::VictoriaLogs,
    s3_fake: s3::Fake,
    s3_versitygw: s3::Versitygw,
    file: file::File,
}

/// What a case needs of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It is reached over TCP, through a proxy.
    Network,
    /// It is plain TCP without TLS, so that the proxy can answer in its place.
    PlainText,
    /// Its answers begin with something like headers.
    Headers,
    /// It wants a secret that stands in a file.
    Secret,
    /// Its sink speaks TLS, and the server can stand behind a proxy that ends it.
    Tls,
    /// Its endpoint is a host name of the operator's choice.
    HostName,
    /// It can be killed and started again with its data.
    Restart,
    /// It refuses some event for what it is.
    Poison,
    /// An attempt that is made in this process, with a clock of the test's, shows something.
    WallClock,
}

/// A sink and a kind of server, one line of the table.
pub(crate) trait Destination: Sync {
    /// The sink's `type`.
    fn sink(&self) -> &'static str;

    /// What means nothing here, and why. All else must be there.
    fn lacks(&self) -> &'static [(Need, &'static str)];

    /// Starts a server of its own; `Err`: it cannot be had on this machine.
    fn start(&self) -> Result<Box<dyn Running>, String>;
}

/// A running server; ends when dropped.
pub(crate) trait Running: Sync {
    /// Name and version, as the server itself says.
    fn version(&self) -> String;

    /// Where it listens; `None` only where [`Need::Network`] is lacking.
    fn upstream(&self) -> Option<SocketAddr>;

    /// A proxy before it. A server that clients find by an address it advertises owns its proxy and gives the same one
    /// each time, healed.
    fn proxy(&self) -> Option<Arc<Proxy>> {
        self.upstream()
            .map(|upstream| Arc::new(Proxy::start(upstream)))
    }

    /// An empty index, topic, bucket or stream that no other case uses.
    fn store(&self) -> Box<dyn Store + '_>;

    /// A front that speaks TLS before it, at an address that a client can go on with.
    fn tls_front(&self, face: Face) -> TlsFront {
        TlsFront::start(face, self.upstream())
    }

    /// From now on it has no room for more, until it has again. Where a server cannot be made to say so, nobody reaches it.
    fn saturate(&self, proxy: &Proxy, on: bool) {
        proxy.set(if on { Fault::Refuse } else { Fault::None });
    }

    /// Kills it and starts it again, with its data and at its address; comes back when it is ready.
    fn restart(&self) {
        unreachable!("a destination that can be restarted says how");
    }

    /// An answer whose part never ends. The default is HTTP's.
    fn endless(&self, part: Part) -> Fault {
        match part {
            Part::Headers => Fault::Flood(b"HTTP/1.1 200 OK\r\n", b"x-filler: 0123456789abcdef\r\n"),
            Part::Body => Fault::Flood(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10737418240\r\n\r\n",
                &[b' '; 64 << 10],
            ),
        }
    }
}

/// The part of an answer that never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What stands before a body.
    Headers,
    /// 10 GB.
    Body,
}

/// Where one case's events go.
pub(crate) trait Store {
    /// The sink's `type` and its own keys, as they stand below `[[sink]]`; `name`, `timeout` and `batch` are the case's.
    fn keys(&self, endpoint: &Endpoint) -> String;

    /// What is there, read from the server itself and not through the proxy. Without ids: in the order that the
    /// destination promises.
    fn held(&self) -> Vec<Held>;

    /// Whether each event is there once, whatever happened; else what was in flight may be there twice.
    fn once(&self) -> bool {
        true
    }

    /// The secret of [`Store::keys`]; `None` only where [`Need::Secret`] is lacking.
    fn secret(&self) -> Option<Secret> {
        None
    }

    /// The line of an event that it refuses for what it is, where it has no more than that against it; `None` only
    /// where [`Need::Poison`] is lacking.
    fn poison(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Where a sink is pointed to.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `127.0.0.1`, or a name.
    pub(crate) host: String,
    /// The port there.
    pub(crate) port: u16,
    /// The value of the key `tls` where the case speaks TLS to it, whatever the server itself speaks.
    pub(crate) tls: Option<String>,
}

impl Endpoint {
    /// An address as it is, without TLS of the case's own.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Endpoint {
            host: address.ip().to_string(),
            port: address.port(),
            tls: None,
        }
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A secret in a file.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    /// The file that the configuration names.
    pub(crate) file: PathBuf,
    /// What stands there when all is well.
    pub(crate) right: String,
}
