//! HTTP and TLS for sinks and the admin listener. Knows no sink.

pub mod http_server;

#[cfg(feature = "http")]
pub mod http_client;

#[cfg(feature = "tls")]
pub mod certificate;

#[cfg(feature = "tls")]
pub mod tls;
