//! The file sink. It has no server: what the network does means nothing to it, and it is its own proof of order.

use std::net::SocketAddr;

use super::{Destination, Endpoint, Need, Running, Store};
use crate::support::oracle::{Held, held_lines};

/// A file.
pub(crate) struct File;

impl Destination for File {
    fn sink(&self) -> &'static str {
        "file"
    }

    fn lacks(&self) -> &'static [(Need, &'static str)] {
        &[
            (Need::Network, "a file is not reached over a network"),
            (Need::PlainText, "a file gives no answers"),
            (Need::Headers, "a file gives no answers"),
            (Need::Secret, "a file wants no secret"),
            (Need::Tls, "a file speaks no TLS"),
            (Need::HostName, "a file has no host"),
            (Need::Restart, "a file has no server"),
            (Need::Poison, "a file takes every line"),
        ]
    }

    fn start(&self) -> Result<Box<dyn Running>, String> {
        Ok(Box::new(Disk))
    }
}

struct Disk;

impl Running for Disk {
    fn version(&self) -> String {
        "file system".to_owned()
    }

    fn upstream(&self) -> Option<SocketAddr> {
        None
    }

    fn store(&self) -> Box<dyn Store + '_> {
        Box::new(Copy(tempfile::tempdir().expect("a temporary directory")))
    }
}

struct Copy(tempfile::TempDir);

impl Store for Copy {
    fn keys(&self, _: &Endpoint) -> String {
        format!(
            "type = \"file\"\npath = \"{}\"\nformat = \"raw\"\n",
            self.0.path().join("copy.jsonl").display()
        )
    }

    fn held(&self) -> Vec<Held> {
        match std::fs::read(self.0.path().join("copy.jsonl")) {
            Ok(bytes) => held_lines(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("read the copy: {error}"),
        }
    }
}
