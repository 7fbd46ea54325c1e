//! Configuration as a checked document: TOML with spans, `extends`, `--set`, variables and secrets. It knows no
//! kinds: each kind reads its own [`Section`] and owns its [`Field`]s, from which schema and reference are made too.
//!
//! Invariants: unknown keys are errors; every mistake is reported at once, each with file, line, snippet and what is
//! allowed; a secret's value never appears in a diagnostic, in `Debug` or in `Display`.

pub mod document;

mod tree;

mod variables;

mod layers;

pub mod section;

mod field;

mod node;

mod values;

pub mod units;

pub mod secrets;

pub mod diagnostics;

pub mod reference;

pub use diagnostics::{Diagnostic, Diagnostics};
pub use document::Document;
pub use secrets::Secret;
pub use section::{Field, FieldDoc, Node, Place, REPORTED, Section, Spanned, TableDoc, Value};
pub use units::ByteSize;
pub use values::{Choice, FilePath, Name, WorkPath};
pub use variables::Environment;

#[cfg(test)]
mod tests;
