//! One value of a document, and the types that it can be read as.

use std::cell::Cell;
use std::cmp::Ordering;
use std::path::Path;
use std::rc::Rc;

use super::diagnostics::Diagnostic;
use super::document::Document;
use super::tree::{Item, Tree};
use super::variables::Environment;

/// The error of [`Value::read`] when the mistake was reported already, at a more exact place.
pub const REPORTED: &str = "";

/// A type that a TOML value can be read as.
pub trait Value: Sized {
    /// Whether it is shown to nobody, a value under a misspelt key among it.
    const SECRET: bool = false;
    /// JSON Schema of such a value.
    fn schema() -> serde_json::Value;
    /// What is allowed, for the message: `a size such as "64MiB"`.
    fn expected() -> String;
    /// Reads it. The error's first line says what was found and stands beside the caret; further lines are what to
    /// do. [`Node::wrong_type`] makes it for a value of another type; [`REPORTED`] says that it was said.
    fn read(node: &Node<'_>) -> Result<Self, String>;
    /// Which of two is more, for [`Field::min`] and [`Field::max`]; `None` where there is no such order.
    fn order(&self, _other: &Self) -> Option<Ordering> {
        None
    }
}

/// A value of the document with its span and the file it stands in.
pub struct Node<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) document: &'a Document,
    /// As people address it: `sink.search.batch.wait`.
    pub(crate) path: String,
    pub(crate) failure: Rc<Failure>,
}

impl<'a> Node<'a> {
    /// The string, with variables filled in.
    pub fn as_str(&self) -> Option<&'a str> {
        match &self.tree.item {
            Item::Text(text) => Some(&text.value),
            _ => None,
        }
    }

    /// The whole number.
    pub fn as_integer(&self) -> Option<i64> {
        match self.tree.item {
            Item::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The number with a fraction.
    pub fn as_float(&self) -> Option<f64> {
        match self.tree.item {
            Item::Float(number) => Some(number),
            _ => None,
        }
    }

    /// `true` or `false`.
    pub fn as_bool(&self) -> Option<bool> {
        match self.tree.item {
            Item::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn elements(&self) -> Option<Vec<Node<'a>>> {
        match &self.tree.item {
            Item::Array(elements) | Item::Tables(elements) => Some(
                elements
                    .iter()
                    .enumerate()
                    .map(|(at, tree)| self.child(tree, format!("{}[{at}]", self.path)))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The keys and values of a table, in the order they stand in.
    pub fn entries(&self) -> Option<Vec<(&'a str, Node<'a>)>> {
        match &self.tree.item {
            Item::Table(table) => Some(
                table
                    .entries
                    .iter()
                    .map(|entry| {
                        (
                            entry.key.as_str(),
                            self.child(&entry.tree, joined(&self.path, &entry.key)),
                        )
                    })
                    .collect(),
            ),
            _ => None,
        }
    }

    fn child(&self, tree: &'a Tree, path: String) -> Node<'a> {
        Node {
            tree,
            document: self.document,
            path,
            failure: Rc::clone(&self.failure),
        }
    }

    /// Reads it as `T`; a mistake is reported here.
    pub fn read<T: Value>(&self) -> Option<T> {
        self.outcome(T::read(self), T::expected())
    }

    /// Reports a failed read.
    pub(crate) fn outcome<T>(&self, read: Result<T, String>, allowed: String) -> Option<T> {
        let message = match read {
            Ok(value) => return Some(value),
            Err(message) => message,
        };
        self.failure.mark();
        if message != REPORTED && !matches!(self.tree.item, Item::Broken) {
            let mut lines = message.lines();
            let mut diagnostic = Diagnostic::error(format!("wrong value of `{}`", self.path))
                .label(lines.next().unwrap_or_default())
                .note(format!("allowed is {allowed}"));
            for line in lines {
                diagnostic = diagnostic.help(line);
            }
            self.report(diagnostic);
        }
        None
    }

    /// Adds a message about this value, without failing the read.
    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.document.report(diagnostic.at(self.tree.place));
    }

    /// Never shows this value, in no message.
    pub(crate) fn hide(&self) {
        self.document.hide(self.tree.place);
    }

    /// Whether nothing of this string stands in the file: it was one variable that is set.
    pub(crate) fn is_from_environment(&self) -> bool {
        matches!(&self.tree.item, Item::Text(text) if text.from_environment)
    }

    /// What was found, by its type only: the value may be a secret.
    pub fn found(&self) -> String {
        format!("this is {}", self.tree.item.type_name())
    }

    /// The error for a value of another type.
    pub fn wrong_type(&self) -> String {
        self.found()
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        self.tree.place
    }

    /// As people address it: `sink.search.batch.wait`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The directory of the file it stands in.
    pub fn dir(&self) -> &'a Path {
        self.document.dir(self.tree.place)
    }

    /// The variables of the process.
    pub fn environment(&self) -> &'a Environment {
        self.document.environment()
    }
}

/// A value with where it stands, for mistakes found later.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where: an opaque handle for [`Section::error_at`].
    pub at: Place,
}

/// A place in one of the document's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the file.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}

/// Whether a table or one below it has a mistake.
#[derive(Default)]
pub(crate) struct Failure {
    failed: Cell<bool>,
    parent: Option<Rc<Failure>>,
}

impl Failure {
    pub(crate) fn below(parent: &Rc<Failure>) -> Rc<Failure> {
        Rc::new(Failure {
            failed: Cell::new(false),
            parent: Some(Rc::clone(parent)),
        })
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.failed.get()
    }

    pub(crate) fn mark(&self) {
        self.failed.set(true);
        if let Some(parent) = &self.parent {
            parent.mark();
        }
    }
}

/// The path of a key in a table; the root's is empty.
pub(crate) fn joined(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
