//! At most 64 names that a client of the API server has a part in; the rest share one. Pure: whoever uses it keeps the
//! names, and keeps a new one before its first use (design rule R7), so that after a restart the same event goes to
//! the same place.

use std::collections::BTreeSet;

/// The names in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundedNames {
    prefix: String,
    /// Never more than [`BoundedNames::MAX`] by [`BoundedNames::add`].
    names: BTreeSet<String>,
}

/// What is to be done with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is one of those in use.
    Known,
    /// There is room for it: keep it, [`BoundedNames::add`] it, then use it.
    New,
    /// There is none: use [`BoundedNames::other`].
    Full,
}

impl BoundedNames {
    /// How many names there can be.
    pub const MAX: usize = 64;

    /// The names kept so far, and the literal that the template begins with.
    pub fn new(prefix: &str, names: impl IntoIterator<Item = String>) -> Self {
        BoundedNames {
            prefix: prefix.to_owned(),
            names: names.into_iter().collect(),
        }
    }

    /// The names to be kept, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether `name` can be used.
    pub fn admission(&self, name: &str) -> Admission {
        if self.names.contains(name) {
            Admission::Known
        } else if self.names.len() < Self::MAX {
            Admission::New
        } else {
            Admission::Full
        }
    }

    /// Adds a name that was found [`Admission::New`]; returns whether it is in use now.
    pub fn add(&mut self, name: String) -> bool {
        match self.admission(&name) {
            Admission::Known => true,
            Admission::New => self.names.insert(name),
            Admission::Full => false,
        }
    }

    /// The name that the rest share.
    pub fn other(&self) -> String {
        format!("{}other", self.prefix)
    }
}
