//! A plain, blocking HTTP/1.1 client for reading back what a server holds and for asking the admin listener. One request a
//! connection; not for load.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::fakes::http_server::read_chunked;

const TIMEOUT: Duration = Duration::from_secs(60);

/// `GET` on a Unix socket.
pub(crate) fn get_unix(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let reply = exchange(stream, "GET", path, &[], b"")?;
    Ok((
        reply.status,
        String::from_utf8_lossy(&reply.body).into_owned(),
    ))
}

/// An answer with its headers.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

/// Where a server is and how to be let in.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// `http://127.0.0.1:9200`.
    pub(crate) url: String,
    /// For `https`.
    pub(crate) ca: Option<PathBuf>,
    /// The value of `Authorization`.
    pub(crate) authorization: Option<String>,
}

impl Http {
    /// Plain and open.
    pub(crate) fn open(url: &str) -> Self {
        Http {
            url: url.to_owned(),
            ca: None,
            authorization: None,
        }
    }

    /// One request with a JSON body.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        self.request_with(method, path, &[], body)
    }

    /// The same with more headers.
    pub(crate) fn request_with(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        let (_, host) = self.parts()?;
        let mut headers = vec![("host", host), ("content-type", "application/json")];
        headers.extend_from_slice(more);
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization", authorization));
        }
        let reply = self.call(method, path, &headers, body)?;
        Ok((reply.status, reply.body))
    }

    /// Scheme and host.
    fn parts(&self) -> io::Result<(&str, &str)> {
        self.url
            .split_once("://")
            .ok_or_else(|| io::Error::other("no scheme"))
    }

    /// One request with these headers and no others but for length and connection.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let (scheme, host) = self.parts()?;
        let stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        if scheme == "http" {
            return exchange(stream, method, path, headers, body);
        }
        let ca = self
            .ca
            .as_ref()
            .ok_or_else(|| io::Error::other("https needs a ca"))?;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(ca).map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        exchange(
            StreamOwned::new(session, stream),
            method,
            path,
            headers,
            body,
        )
    }

    /// As [`Http::request`]; anything but a 2xx is a panic that shows the answer.
    #[track_caller]
    pub(crate) fn ok(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
        match self.request(method, path, body.as_ref()) {
            Ok((200..300, answer)) => answer,
            Ok((status, answer)) => panic!(
                "{method} {path}: {status} {}",
                String::from_utf8_lossy(&answer)
            ),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }
}

fn exchange<S: Read + Write>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {line:?}")))?;
    let (mut length, mut chunked) = (None, false);
    let mut found = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let name = name.to_ascii_lowercase();
        found.push((name.clone(), value.trim().to_owned()));
        match name.as_str() {
            "content-length" => length = Some(value.trim().parse().map_err(io::Error::other)?),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut answer = Vec::new();
    match length {
        _ if method == "HEAD" => {}
        _ if chunked => answer = read_chunked(&mut stream)?,
        Some(length) => {
            answer.resize(length, 0);
            stream.read_exact(&mut answer)?;
        }
        None => {
            stream.read_to_end(&mut answer)?;
        }
    }
    Ok(Reply {
        status,
        headers: found,
        body: answer,
    })
}
