//! What the tests are made of: a writer that behaves like the API server's, an oracle that knows what was written, the
//! agent as a process, faults in between, servers, and waiting without sleeping.

/// Deadlines and conditions: the only clock of the tests.
pub(crate) mod wait;

/// Audit events as the API server writes them, numbered.
pub(crate) mod event;

/// The API server's writer: rotation, compression, retention.
pub(crate) mod auditgen;

/// What must have become of what was written.
pub(crate) mod oracle;

/// The built binary as a child process.
pub(crate) mod agent;

/// A TCP proxy that breaks connections.
pub(crate) mod proxy;

/// A plain HTTP client for reading back what a server holds.
pub(crate) mod http;

/// What a server of Loki's push API holds.
pub(crate) mod loki;

/// Requests signed as S3 wants them.
pub(crate) mod sigv4;

/// What a bucket holds.
pub(crate) mod s3;

/// Real servers, started once for a test run, and what to do where they cannot be had.
pub(crate) mod servers;

/// Topics made, and read back whole.
pub(crate) mod kafka;
