//! One test binary; each module says what it holds.

/// What the tests are made of: writer, oracle, agent, proxy, servers, waiting.
mod support;

/// Destinations in this process that answer as the real ones do, and fail on demand.
mod fakes;

/// One suite for a destination, run against its fake and against the real server.
mod contract;

/// The built binary, from an audit log to its destinations, through everything that goes wrong on the way.
mod end_to_end;

/// One test a bug, each named after what a user saw.
mod regression;

/// The shape of the tree: imports, headers, what must not be left over.
mod tidy;

/// What README and docs say of the binary.
mod documentation;

/// Every file under pipelines/, checked and run.
mod pipelines;
