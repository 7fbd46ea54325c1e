//! auditship follows the audit log of a kube-apiserver, keeps every event in a durable spool and delivers it.
//!
//! The modules stand in the order in which an event meets them; each imports only what stands in its line of the
//! import table (`tests/tidy/imports.rs`), so there is no cycle. Decisions, rules and hazards that comments name by number
//! ("design D3", "rule R6", "hazard H9") are in `docs/design.md`.
//!
//! ```text
//!  audit.log, audit-<ts>.log(.gz)
//!          └──── sources          bytes + position
//!                   └── framing   one line = one event
//!                          └── spool      one append makes records, totals AND position durable
//!                                 └── delivery     one worker and one cursor per sink
//!                                        └── sinks     one attempt at one batch
//! ```
//!
//! Architecture invariants:
//! - Nothing is sent that is not in the spool; the source advances with the same durable append.
//! - There is no file of positions: they live in the spool's blocks.
//! - A sink never retries and knows no cursor; `delivery` never knows what kind a sink is.
//! - Bytes stay bytes: nothing is re-serialised that was not changed.

/// Settings of the memory allocator; the only unsafe code.
pub mod allocator;

/// The only wall clock, timer and sleep.
pub mod clock;

/// The only fsync, rename and directory lock.
pub mod durable_fs;

/// One audit event: raw bytes, origin, position, id, lazy fields.
pub mod event;

/// TOML with spans, typed sections, diagnostics, secrets.
pub mod config;

/// Metric names, the log, the status document.
pub mod telemetry;

/// Where one event ends.
pub mod framing;

/// HTTP client and server, TLS.
pub mod net;

/// The durable spool: segments, cursors, quarantine; opaque bytes only.
pub mod spool;

/// The audit log across rotations, and standard input.
pub mod sources;

/// One attempt at one batch.
pub mod sinks;

/// Batches, retries, dead letters, cursors: one worker per sink.
pub mod delivery;

/// The admin listener.
pub mod admin;

/// Configuration to running parts; the only place that knows every kind.
pub mod pipeline;

/// Commands, standard output, exit codes.
pub mod cli;
