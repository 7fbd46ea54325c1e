//! Metric names, the log and the status document as plain data. Knows no HTTP server and no other module: whoever
//! counts is handed a [`Telemetry`], whoever is asked fills a [`status::Status`].

pub mod status;

pub mod status_text;

pub mod metrics;

pub mod process;

pub mod log;

mod repeats;

pub use metrics::Telemetry;

/// The agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
