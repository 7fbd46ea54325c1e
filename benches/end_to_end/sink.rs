//! A compiled Elasticsearch stand-in: takes `_bulk` bodies, counts their documents, says that all were created.

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::process::Pinned;

/// The stand-in as a process of its own; ends with the value.
pub(crate) struct Process {
    child: Child,
    port: u16,
}

impl Process {
    pub(crate) fn start(core: usize) -> Result<Self, Box<dyn Error>> {
        let mut child = {
            let _pinned = Pinned::to(core)?;
            Command::new(std::env::current_exe()?)
                .arg("sink")
                .stdout(Stdio::piped())
                .spawn()?
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        Ok(Process {
            child,
            port: line.trim().parse()?,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Serves until it is killed; prints its port first.
pub(crate) fn serve() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        loop {
            let (stream, _) = listener.accept().await?;
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    eprintln!("connection: {error}");
                }
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let bulk = request.uri().path().ends_with("/_bulk");
    let packed = request.headers().contains_key("content-encoding");
    let body = request.into_body().collect().await?.to_bytes();
    let text = if bulk {
        created(&body, packed)
    } else {
        r#"{"version":{"number":"8.17.4"},"tagline":"You Know, for Search"}"#.to_owned()
    };
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    headers.insert(
        "x-elastic-product",
        hyper::header::HeaderValue::from_static("Elasticsearch"),
    );
    Ok(response)
}

fn created(body: &[u8], packed: bool) -> String {
    let lines = if packed {
        let mut plain = Vec::with_capacity(8 << 20);
        match flate2::read::GzDecoder::new(body).read_to_end(&mut plain) {
            Ok(_) => memchr::memchr_iter(b'\n', &plain).count(),
            Err(_) => 0,
        }
    } else {
        memchr::memchr_iter(b'\n', body).count()
    };
    let mut text = String::with_capacity(lines * 16 + 64);
    text.push_str(r#"{"took":1,"errors":false,"items":["#);
    for at in 0..lines / 2 {
        text.push_str(if at == 0 { "" } else { "," });
        text.push_str(r#"{"create":{"status":201}}"#);
    }
    text.push_str("]}");
    text
}
