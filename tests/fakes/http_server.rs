//! A small HTTP/1.1 server for fakes: a thread per connection, TCP or TLS, and full control of the bytes, so that an
//! answer can be reset, cut or withheld at any byte. Not a general server: what it does not understand closes the
//! connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// One request, its body inflated where it was compressed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `GET`, `POST`, …
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// Behind the question mark.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Inflated.
    pub(crate) body: Vec<u8>,
    /// Whether the body came compressed.
    pub(crate) gzip: bool,
    /// Whether the client showed a certificate that the server trusts.
    pub(crate) certificate: bool,
}

impl Request {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What is sent back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Beside length and type.
    pub(crate) headers: Vec<(String, String)>,
    /// `None`: no content type, as some real answers.
    pub(crate) content_type: Option<&'static str>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// How the bytes go out.
    pub(crate) manner: Manner,
}

/// How an answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Whole.
    Whole,
    /// So many bytes of it, then a reset (0: none at all).
    ResetAfter(usize),
    /// So many bytes of it, then an orderly close.
    CloseAfter(usize),
    /// Nothing, while the client cares to wait.
    Hang,
    /// A byte at a time, this long apart.
    Drip(Duration),
}

impl Answer {
    /// JSON, whole.
    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let content_type = Some("application/json; charset=UTF-8");
        Answer {
            status,
            headers: Vec::new(),
            content_type,
            body: body.into(),
            manner: Manner::Whole,
        }
    }

    /// Plain text, whole.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Answer {
            content_type: Some("text/plain; charset=UTF-8"),
            ..Answer::json(status, body)
        }
    }

    /// No body and no type.
    pub(crate) fn empty(status: u16) -> Self {
        Answer {
            content_type: None,
            ..Answer::json(status, "")
        }
    }

    /// With one more header.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sent in this manner.
    pub(crate) fn sent(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    fn bytes(&self, head_only: bool) -> Vec<u8> {
        let mut text = format!(
            "HTTP/1.1 {} -\r\ncontent-length: {}\r\n",
            self.status,
            self.body.len()
        );
        if let Some(content_type) = self.content_type {
            text.push_str(&format!("content-type: {content_type}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// A running server; ends when dropped.
pub(crate) struct HttpServer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Serves `handler` on a free port of 127.0.0.1.
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let over = Arc::new(AtomicBool::new(false));
        let handler: Arc<dyn Fn(Request) -> Answer + Send + Sync> = Arc::new(handler);
        let ended = Arc::clone(&over);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (handler, tls, ended) = (Arc::clone(&handler), tls.clone(), Arc::clone(&ended));
                // A connection's error ends that connection, which is what its client sees too.
                std::thread::spawn(move || serve(stream, tls, &*handler, &ended));
            }
        });
        HttpServer {
            address,
            over,
            accepting: Some(accepting),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes `incoming`; should it fail, the listener is gone already.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            thread.join().expect("accepting does not panic");
        }
    }
}

type Handler = dyn Fn(Request) -> Answer + Send + Sync;

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    handler: &Handler,
    over: &AtomicBool,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = stream.try_clone()?;
    match tls {
        None => converse(
            BufReader::with_capacity(1 << 16, stream),
            &socket,
            false,
            handler,
            over,
        ),
        Some(config) => {
            let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
            let mut handshake = stream;
            while session.is_handshaking() {
                if let Err(error) = session.complete_io(&mut handshake) {
                    return turn_away(handshake, error);
                }
            }
            let certificate = session.peer_certificates().is_some();
            let stream = BufReader::with_capacity(1 << 16, StreamOwned::new(session, handshake));
            converse(stream, &socket, certificate, handler, over)
        }
    }
}

/// After a failed handshake: a close with bytes unread would be a reset, and the alert that says why might be lost.
pub(crate) fn turn_away(mut socket: TcpStream, error: io::Error) -> io::Result<()> {
    socket.shutdown(std::net::Shutdown::Write)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut socket, &mut io::sink())?;
    Err(error)
}

fn converse<S: Read + Write>(
    mut stream: BufReader<S>,
    socket: &TcpStream,
    certificate: bool,
    handler: &Handler,
    over: &AtomicBool,
) -> io::Result<()> {
    while let Some(mut request) = read_request(&mut stream)? {
        request.certificate = certificate;
        let head_only = request.method == "HEAD";
        let answer = handler(request);
        let bytes = answer.bytes(head_only);
        match answer.manner {
            Manner::Whole => stream.get_mut().write_all(&bytes)?,
            Manner::CloseAfter(count) => {
                return stream.get_mut().write_all(&bytes[..count.min(bytes.len())]);
            }
            Manner::ResetAfter(count) => {
                stream
                    .get_mut()
                    .write_all(&bytes[..count.min(bytes.len())])?;
                return reset(socket);
            }
            Manner::Hang => return wait_for_close(socket, over),
            Manner::Drip(each) => {
                for byte in bytes {
                    if over.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    stream.get_mut().write_all(&[byte])?;
                    crate::support::wait::pause(each);
                }
            }
        }
        stream.get_mut().flush()?;
        if over.load(Ordering::SeqCst) {
            break;
        }
    }
    Ok(())
}

/// Makes the close of this socket a reset.
pub(crate) fn reset(socket: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    Ok(())
}

fn wait_for_close(socket: &TcpStream, over: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut byte = [0];
    while !over.load(Ordering::SeqCst) {
        match socket.peek(&mut byte) {
            Ok(0) => break,
            Ok(_) => crate::support::wait::pause(Duration::from_millis(50)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_request<S: Read>(stream: &mut BufReader<S>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::other(format!("not a request line: {line:?}")));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request {
        method,
        path,
        query,
        headers,
        body: Vec::new(),
        gzip: false,
        certificate: false,
    };
    if request
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        request.body = read_chunked(stream)?;
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().map_err(io::Error::other)?];
        stream.read_exact(&mut request.body)?;
    }
    if request.header("content-encoding") == Some("gzip") {
        request.gzip = true;
        let mut inflated = Vec::new();
        // What is not gzip becomes an empty body, which is what the real servers complain of.
        if flate2::read::GzDecoder::new(&*request.body)
            .read_to_end(&mut inflated)
            .is_err()
        {
            inflated.clear();
        }
        request.body = inflated;
    }
    Ok(Some(request))
}

/// Reads a chunked body; shared with the tests' client.
pub(crate) fn read_chunked<R: BufRead>(stream: &mut R) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16)
            .map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..])?;
        line.clear();
        stream.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}
