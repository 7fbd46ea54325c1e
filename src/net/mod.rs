//! HTTP and TLS for sinks and the admin listener. Knows no sink.

pub mod http_server;

#[cfg(feature = "elasticsearch")]
pub mod http_client;

#[cfg(feature = "elasticsearch")]
pub mod certificate;

#[cfg(feature = "elasticsearch")]
pub mod tls;
