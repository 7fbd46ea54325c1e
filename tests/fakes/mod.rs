//! Destinations in this process that answer as the real ones were seen to answer, and that can fail on demand.

/// HTTP/1.1 over TCP or TLS, with answers that break off.
pub(crate) mod http_server;

/// Certificates of a test's own authority.
pub(crate) mod certificates;

/// Grafana Loki.
pub(crate) mod loki;

/// Servers that must not be trusted.
pub(crate) mod impostors;

/// Elasticsearch and OpenSearch.
pub(crate) mod elasticsearch;

/// S3.
pub(crate) mod s3;
