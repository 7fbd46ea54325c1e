//! The other end of the admin listener: how `auditship status` asks a running agent. One GET of one page of ours, with
//! short limits; not an HTTP client for anything else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Listen;
use crate::telemetry::status::Status;

/// Longest wait for each step; the agent is on this machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// A status document is some KiB; 100 gaps for each of many sinks stay far below this.
const ANSWER_MAX: u64 = 8 << 20;

/// The status of the agent that listens there; an error where nobody does or what answers is not an agent.
pub fn status(listen: &Listen) -> io::Result<Status> {
    match listen {
        Listen::Off => Err(io::Error::other("the admin listener is off")),
        Listen::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            ask(stream)
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            ask(stream)
        }
    }
}

/// An agent that listens on every address is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn ask(mut stream: impl Read + Write) -> io::Result<Status> {
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: auditship\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let body = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| &answer[at + 4..])
        .filter(|_| answer.starts_with(b"HTTP/1.1 200 "))
        .ok_or_else(|| io::Error::other("not the answer of an agent"))?;
    serde_json::from_slice(body).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer that is ready, whatever is asked.
    struct Ready(io::Cursor<Vec<u8>>);

    impl Read for Ready {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Ready {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(answer: &str) -> io::Result<Status> {
        ask(Ready(io::Cursor::new(answer.as_bytes().to_vec())))
    }

    #[test]
    fn the_document_of_an_agent_is_read() {
        let status = Status {
            cluster: "prod".into(),
            ..Status::default()
        };
        let body = serde_json::to_string(&status).unwrap();
        let read = check(&format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}"
        ))
        .unwrap();
        assert_eq!(read, status);
    }

    #[test]
    fn what_is_not_an_agent_is_an_error() {
        assert!(check("HTTP/1.1 404 Not Found\r\n\r\n{}").is_err());
        assert!(check("HTTP/1.1 200 OK\r\n\r\nhello").is_err());
        assert!(check("").is_err());
    }
}
