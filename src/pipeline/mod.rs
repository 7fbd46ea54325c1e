//! Configuration to running parts, and back to rest. The only place that knows every kind of part.
//!
//! Threads: one per source, one intake (totals, blocks, the only writer of the spool), and the runtime's for sinks.
//! Invariant: the source's position, the records and the totals become durable in one append, by the intake alone.

pub mod settings;

pub mod state_dir;

pub mod assemble;

mod source_thread;

mod inbox;

mod intake;

mod ledger;

mod pressure;

mod rebuild;

mod sink_gap;

pub mod overview;

pub mod run;
