//! Servers that must not be trusted, and servers that do not trust us: twelve wrong certificates and one that speaks no
//! TLS at all. Each listens by itself and counts what an application behind it would have seen.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::certificates::{Certificates, ClientCertificate, self_signed};
use super::http_server::turn_away;

/// What a server shows.
#[derive(Clone)]
pub(crate) enum Face {
    /// A handshake as TLS has it.
    Tls(Arc<ServerConfig>),
    /// These bytes, whatever comes.
    Bytes(Vec<u8>),
}

/// One way to be wrong.
pub(crate) struct Impostor {
    /// A word for it that can be a sink's name.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) face: Face,
    /// The host by which the sink calls it.
    pub(crate) host: &'static str,
    /// The value of the sink's key `tls`.
    pub(crate) tls: String,
}

/// All of them, before a client that trusts `ours`; `other` is an authority that nobody knows.
pub(crate) fn all(ours: &Certificates, other: &Certificates) -> Vec<Impostor> {
    let trusting = ours.tls_key(None);
    let showing = |pair| Face::Tls(ours.server_config_with(&pair, ClientCertificate::No));
    let asking = || Face::Tls(ours.server_config(ClientCertificate::Required));
    let one = |name, face| Impostor {
        name,
        face,
        host: "localhost",
        tls: trusting.clone(),
    };
    let named = |name: &'static str| {
        ours.sign(|params| {
            let names = [name.to_owned()];
            params.subject_alt_names = rcgen::CertificateParams::new(names)
                .expect("a valid name")
                .subject_alt_names;
        })
    };
    vec![
        one(
            "expired",
            showing(ours.sign(|params| {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
            })),
        ),
        one(
            "not-yet-valid",
            showing(ours.sign(|params| {
                params.not_before = date_time_ymd(2090, 1, 1);
                params.not_after = date_time_ymd(2091, 1, 1);
            })),
        ),
        one("wrong-host", showing(named("other.example"))),
        Impostor {
            host: "127.0.0.1",
            ..one("name-for-an-address", showing(named("localhost")))
        },
        one("wrong-authority", showing(other.sign(|_| {}))),
        one("self-signed", showing(self_signed())),
        one("chain-incomplete", showing(ours.sign_without_link())),
        one(
            "wrong-key-usage",
            showing(ours.sign(|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            })),
        ),
        one("no-certificate", Face::Bytes(hello_without_certificate())),
        one("tls-1-1", Face::Bytes(server_hello([3, 2]))),
        one("client-certificate-missing", asking()),
        Impostor {
            tls: ours.tls_key(Some(other)),
            ..one("client-certificate-unknown", asking())
        },
        one(
            "plain-http",
            Face::Bytes(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ),
    ]
}

/// A record of a handshake message.
fn handshake(version: [u8; 2], kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a small message");
    let mut record = vec![22, version[0], version[1]];
    record.extend((length + 4).to_be_bytes());
    record.extend([kind, 0]);
    record.extend(length.to_be_bytes());
    record.extend_from_slice(body);
    record
}

/// A server's first message that chooses this version of TLS, with ECDHE_ECDSA and AES-128: with GCM from 1.2 on, with CBC
/// and SHA-1 before.
fn server_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(if version == [3, 3] {
        [0xc0, 0x2b]
    } else {
        [0xc0, 0x09]
    });
    body.push(0);
    handshake(version, 2, &body)
}

/// TLS 1.2 and an empty list of certificates, a key that nobody has signed, and the end of the server's part.
fn hello_without_certificate() -> Vec<u8> {
    let version = [3, 3];
    let mut exchange = vec![3, 0, 29, 32];
    exchange.extend([9; 32]);
    exchange.extend([4, 3, 0, 8]);
    exchange.extend([5; 8]);
    [
        server_hello(version),
        handshake(version, 11, &[0, 0, 0]),
        handshake(version, 12, &exchange),
        handshake(version, 14, &[]),
    ]
    .concat()
}

/// A listener with such a face, before a plain server where there is one.
pub(crate) struct TlsFront {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    face: Face,
    upstream: Option<SocketAddr>,
    connections: AtomicU64,
    application_bytes: AtomicU64,
    over: AtomicBool,
}

impl TlsFront {
    /// At a free port. What gets through the handshake goes on to `upstream`.
    pub(crate) fn start(face: Face, upstream: Option<SocketAddr>) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), face, upstream)
    }

    /// At this address.
    pub(crate) fn start_at(address: SocketAddr, face: Face, upstream: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            face,
            upstream,
            connections: AtomicU64::new(0),
            application_bytes: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let sharing = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if sharing.over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                sharing.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&sharing);
                // A connection's error ends that connection, which is what its client sees too.
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        TlsFront {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How often a client came.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes that an application would have seen, in clear or behind a handshake.
    pub(crate) fn application_bytes(&self) -> u64 {
        self.shared.application_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            thread.join().expect("accepting does not panic");
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        match &self.face {
            Face::Bytes(bytes) => self.recite(stream, bytes),
            Face::Tls(config) => {
                let mut session =
                    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                let mut socket = stream;
                while session.is_handshaking() {
                    if let Err(error) = session.complete_io(&mut socket) {
                        return turn_away(socket, error);
                    }
                }
                self.pass(StreamOwned::new(session, socket))
            }
        }
    }

    /// Says its bytes after the client's first, and counts what comes beside handshake and alerts.
    fn recite(&self, mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut said = false;
        loop {
            let mut head = [0; 5];
            stream.read_exact(&mut head)?;
            let length = u64::from(u16::from_be_bytes([head[3], head[4]]));
            let body = io::copy(&mut (&mut stream).take(length), &mut io::sink())?;
            // Change of cipher, alert, handshake; all else, TLS or not, is an application's.
            if !matches!(head[0], 20..=22) {
                self.application_bytes.fetch_add(5 + body, Ordering::SeqCst);
            }
            if !said {
                stream.write_all(bytes)?;
                said = true;
            }
        }
    }

    /// Passes on what comes, in turns.
    fn pass(&self, mut client: StreamOwned<ServerConnection, TcpStream>) -> io::Result<()> {
        let turn = Some(Duration::from_millis(2));
        client.sock.set_read_timeout(turn)?;
        let mut server = self.upstream.map(TcpStream::connect).transpose()?;
        if let Some(server) = &server {
            server.set_read_timeout(turn)?;
            server.set_nodelay(true)?;
        }
        let mut buffer = vec![0; 64 << 10];
        while !self.over.load(Ordering::SeqCst) {
            if let Some(count) = in_turn(client.read(&mut buffer))? {
                self.application_bytes
                    .fetch_add(count as u64, Ordering::SeqCst);
                match &mut server {
                    Some(server) if count > 0 => server.write_all(&buffer[..count])?,
                    _ => break,
                }
            }
            let Some(server) = &mut server else { continue };
            if let Some(count) = in_turn(server.read(&mut buffer))? {
                if count == 0 {
                    break;
                }
                client.sock.set_read_timeout(Some(Duration::from_secs(5)))?;
                client.write_all(&buffer[..count])?;
                client.flush()?;
                client.sock.set_read_timeout(turn)?;
            }
        }
        client.sock.shutdown(Shutdown::Both)
    }
}

/// `None`: nothing came in this turn.
fn in_turn(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(count) => Ok(Some(count)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
