//! The admin listener: GET only, loopback by default; no event bodies, no secrets, nothing that changes anything.
//! It knows no other part of the agent: what it shows is handed in as a [`View`].

pub mod client;

pub mod health;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use self::health::{Health, unready};
use crate::net::http_server::{Answer, Listener, Request, serve};
use crate::telemetry::metrics;
use crate::telemetry::status::Status;

/// What the listener shows. Calls may take locks; they run outside the async workers.
pub trait View: Send + Sync + 'static {
    /// The status document.
    fn status(&self) -> Status;
    /// What the probes are answered from.
    fn health(&self) -> Health;
    /// The metrics page.
    fn metrics(&self) -> String;
}

/// `admin.listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:9465`
    Tcp(SocketAddr),
    /// `unix:/run/auditship/admin.sock`
    Unix(PathBuf),
    /// `off`
    Off,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = || {
            format!(
                "`{text}` is not an address to listen on: allowed are \"127.0.0.1:9465\", \"unix:/path\", \"off\""
            )
        };
        if text == "off" {
            return Ok(Listen::Off);
        }
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Listen::Unix(path.into())),
            Some(_) => Err(allowed()),
            None => text.parse().map(Listen::Tcp).map_err(|_| allowed()),
        }
    }
}

/// A bound admin listener.
pub struct Admin {
    listener: Listener,
}

impl Admin {
    /// Binds the address; `None` for `off`. The error is one line with what to do.
    pub async fn bind(listen: &Listen) -> Result<Option<Admin>, String> {
        let bound = match listen {
            Listen::Off => return Ok(None),
            Listen::Tcp(address) => Listener::tcp(*address)
                .await
                .map_err(|error| format!("listen on {address}: {error}")),
            Listen::Unix(path) => Listener::unix(path)
                .map_err(|error| format!("listen on {}: {error}", path.display())),
        };
        let listener = bound
            .map_err(|error| format!("{error}: change `admin.listen`, or set it to \"off\""))?;
        Ok(Some(Admin { listener }))
    }

    /// The address in use, for port 0 in tests.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, view: Arc<dyn View>) {
        serve(
            self.listener,
            Arc::new(move |request: &Request| answer(&*view, request)),
        )
        .await;
    }
}

fn answer(view: &dyn View, request: &Request) -> Answer {
    let answer = match request.path.as_str() {
        "/" => Answer::text(200, POINTER.to_owned()),
        "/livez" => Answer::text(200, "ok\n".to_owned()),
        "/startedz" if view.health().started => Answer::text(200, "ok\n".to_owned()),
        "/startedz" => Answer::text(503, "starting\n".to_owned()),
        "/readyz" => match unready(&view.health()) {
            reasons if reasons.is_empty() => Answer::text(200, "ok\n".to_owned()),
            reasons => Answer::text(503, reasons.join("\n") + "\n"),
        },
        "/status" => match serde_json::to_vec(&view.status()) {
            Ok(body) => Answer {
                status: 200,
                content_type: "application/json",
                body,
            },
            Err(error) => Answer::text(500, format!("encode status: {error}\n")),
        },
        "/metrics" => Answer {
            status: 200,
            content_type: metrics::CONTENT_TYPE,
            body: view.metrics().into_bytes(),
        },
        _ => Answer::text(404, format!("no such page\n\n{POINTER}")),
    };
    if request.is_get {
        answer
    } else {
        Answer::text(405, "only GET\n".to_owned())
    }
}

const POINTER: &str = "\
auditship admin listener

  /status    what was read, spooled and delivered, as JSON (for people: `auditship status`)
  /readyz    200 while every source and required sink makes progress, else why not
  /startedz  200 once the agent has started
  /livez     200 while the process answers
  /metrics   Prometheus
";

#[cfg(test)]
mod tests;
