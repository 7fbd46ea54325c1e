//! Typed reads of one table.
//!
//! A kind declares its keys as [`Field`]s and reads them from its [`Section`]. Every mistake goes to the document's
//! list and reading goes on, so that a person sees all of them at once.
//!
//! Invariant: where [`Section::failed`] is true, the document has an error to show for it.

use std::rc::Rc;

use super::diagnostics::{Diagnostic, listed, near};
use super::document::Document;
pub use super::field::{Check, Field, FieldDoc, TableDoc};
use super::layers::identity;
use super::node::{Failure, joined};
pub use super::node::{Node, Place, REPORTED, Spanned, Value};
use super::tree::{self, Entry, Item, Table, Tree};
use super::values::{alternatives, unknown_word};

/// A table being read. It knows which keys its documentation names and which were asked for; when it is dropped or
/// [`Section::finish`]ed, every other key is reported as unknown, with a near name.
pub struct Section<'a> {
    document: &'a Document,
    table: &'a Table,
    place: Place,
    /// As people address it: `sink.search`; empty for the root.
    path: String,
    /// Keys that may be there, documented or asked for.
    known: Vec<&'static str>,
    /// Keys of the tables below, for a key that stands one level too high.
    below: Vec<(&'static str, &'static str)>,
    /// Keys that must be there and are not, each with what is allowed.
    missing: Vec<(&'static str, String)>,
    /// Those of them that are secrets.
    secret: Vec<&'static str>,
    /// Keys that were reported as not built yet.
    postponed: Vec<&'a str>,
    /// What its keys mean is not known, so none of them is called unknown.
    lenient: bool,
    /// It stands for something that was reported as no table, so that nothing is missing in it.
    stand_in: bool,
    failure: Rc<Failure>,
}

static EMPTY: Table = Table {
    entries: Vec::new(),
};

impl<'a> Section<'a> {
    pub(crate) fn new(document: &'a Document, table: &'a Table, place: Place) -> Self {
        Section {
            document,
            table,
            place,
            path: String::new(),
            known: Vec::new(),
            below: Vec::new(),
            missing: Vec::new(),
            secret: Vec::new(),
            postponed: Vec::new(),
            lenient: false,
            stand_in: false,
            failure: Rc::default(),
        }
    }

    fn section(&self, table: &'a Table, place: Place, path: String, doc: &TableDoc) -> Section<'a> {
        let mut section = Section::new(self.document, table, place);
        section.path = path;
        section.failure = Failure::below(&self.failure);
        section.allow(doc.fields);
        section
    }

    /// Names keys that may be there, so that they are known even where reading ends early.
    pub fn allow(&mut self, fields: &[&'static dyn FieldDoc]) {
        for field in fields {
            self.known.push(field.name());
            self.secret
                .extend(field.is_secret().then_some(field.name()));
            self.below.extend(
                field
                    .fields()
                    .iter()
                    .map(|below| (field.name(), below.name())),
            );
        }
    }

    /// The value of a key; its default where absent; `None` where absent without default or wrong (then reported).
    pub fn get<T: Value>(&mut self, field: &Field<T>) -> Option<T> {
        self.get_spanned(field).map(|spanned| spanned.value)
    }

    /// As `get`, with its place (of the table's head where the default counts).
    pub fn get_spanned<T: Value>(&mut self, field: &Field<T>) -> Option<Spanned<T>> {
        self.known.push(field.name);
        if let Some(tree) = self.table.get(field.name) {
            let node = self.node(tree, joined(&self.path, field.name));
            let read = T::read(&node).and_then(|value| field.within(value, self));
            return node.outcome(read, field.allowed()).map(|value| Spanned {
                value,
                at: tree.place,
            });
        }
        if let Some(text) = field.default {
            return match self.literal(text) {
                Ok(value) => Some(Spanned {
                    value,
                    at: self.place,
                }),
                Err(error) => {
                    self.error_at(
                        self.place,
                        format!("the default of `{}` is wrong: {error}", field.name),
                        None,
                    );
                    None
                }
            };
        }
        if field.required {
            self.must_have(field.name, field.allowed());
        }
        None
    }

    /// Remembers that a key is missing. Said at the end: a key that was meant may be there under a near name.
    fn must_have(&mut self, name: &'static str, allowed: String) {
        self.failure.mark();
        self.missing.push((name, allowed));
    }

    /// Reads a default or limit, which is TOML text of ours.
    pub(crate) fn literal<T: Value>(&self, text: &str) -> Result<T, String> {
        let mut tree = tree::parse_value(self.place.file, 0, text, &mut Vec::new())
            .ok_or_else(|| format!("`{text}` is not TOML"))?;
        tree.move_to(self.place);
        let node = Node {
            tree: &tree,
            document: self.document,
            path: text.into(),
            failure: Rc::clone(&self.failure),
        };
        T::read(&node)
    }

    fn node(&self, tree: &'a Tree, path: String) -> Node<'a> {
        Node {
            tree,
            document: self.document,
            path,
            failure: Rc::clone(&self.failure),
        }
    }

    /// The table under a key, `None` where absent or no table (then reported).
    pub fn table(&mut self, doc: &TableDoc) -> Option<Section<'a>> {
        self.known.push(doc.name);
        let tree = self.table.get(doc.name)?;
        let path = joined(&self.path, doc.name);
        match &tree.item {
            Item::Table(table) => Some(self.section(table, tree.place, path, doc)),
            _ => {
                let node = self.node(tree, path);
                node.outcome::<()>(Err(node.wrong_type()), format!("a table `[{}]`", node.path))?;
                None
            }
        }
    }

    /// As [`Section::table`], but an empty table where it is absent or wrong, so that its defaults count.
    pub fn table_or_default(&mut self, doc: &TableDoc) -> Section<'a> {
        if let Some(section) = self.table(doc) {
            return section;
        }
        let mut section = self.section(&EMPTY, self.place, joined(&self.path, doc.name), doc);
        // What was reported as no table is not also reported as empty.
        section.stand_in = self.has(doc.name);
        section
    }

    /// The array of tables under a key, in order; empty where absent.
    pub fn tables(&mut self, doc: &TableDoc) -> Vec<Section<'a>> {
        self.known.push(doc.name);
        let Some(tree) = self.table.get(doc.name) else {
            return Vec::new();
        };
        let path = joined(&self.path, doc.name);
        let (Item::Tables(elements) | Item::Array(elements)) = &tree.item else {
            let node = self.node(tree, path);
            let found = match tree.item {
                Item::Table(_) => format!(
                    "{}\nwrite `[[{}]]` with two brackets",
                    node.found(),
                    doc.name
                ),
                _ => node.wrong_type(),
            };
            node.outcome::<()>(
                Err(found),
                format!("any number of tables `[[{}]]`", node.path),
            );
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(elements.len());
        for (at, element) in elements.iter().enumerate() {
            let Item::Table(table) = &element.item else {
                let node = self.node(element, format!("{path}[{at}]"));
                node.outcome::<()>(Err(node.wrong_type()), "a table `{ key = … }`".into());
                continue;
            };
            let path = match identity(doc.name, table) {
                Some(name) => joined(&path, name),
                None => format!("{path}[{at}]"),
            };
            sections.push(self.section(table, element.place, path, doc));
        }
        sections
    }

    /// Reads `type` and gives the index of its kind, whose keys are then known. An unknown one is reported with a
    /// near name; one of `later` as not built yet.
    pub fn kind(
        &mut self,
        kinds: &[(&'static str, &'static [&'static dyn FieldDoc])],
        later: &[&str],
    ) -> Option<usize> {
        const TYPE: Field<String> = Field::new("type", "");
        self.known.push(TYPE.name);
        let allowed = alternatives(kinds.iter().map(|(name, _)| *name));
        let Some(tree) = self.table.get(TYPE.name) else {
            self.must_have(TYPE.name, allowed);
            self.lenient = true;
            return None;
        };
        let node = self.node(tree, joined(&self.path, TYPE.name));
        let read = String::read(&node).and_then(|word| {
            let known = kinds.iter().position(|(name, _)| *name == word);
            known.ok_or_else(|| match later.contains(&word.as_str()) {
                true => format!("`{word}` is not built yet\na later version will have it"),
                false => unknown_word(
                    &word,
                    kinds
                        .iter()
                        .map(|(name, _)| *name)
                        .chain(later.iter().copied()),
                ),
            })
        });
        let index = node.outcome(read, allowed);
        match index.and_then(|index| kinds.get(index)) {
            Some((_, fields)) => self.allow(fields),
            None => self.lenient = true,
        }
        index
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// As people address it: `sink.search`; empty for the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the table's head stands.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Where a key's value stands; the table's head where it is absent.
    pub fn place_of(&self, key: &str) -> Place {
        self.table.get(key).map_or(self.place, |tree| tree.place)
    }

    /// Whether there is no table `[[…]]` of this name: none is written, or none is left once `enabled = false` counts.
    pub fn has_none(&self, doc: &TableDoc) -> bool {
        self.table.get(doc.name).is_none_or(|tree| {
            matches!(&tree.item, Item::Tables(elements) | Item::Array(elements) if elements.is_empty())
        })
    }

    /// Reports the value of a key that can be read, but means nothing that works: what is wrong with it goes under the
    /// caret, `allowed` behind it.
    pub fn wrong_value(&self, key: &str, place: Place, problem: impl Into<String>, allowed: &str) {
        let path = joined(&self.path, key);
        let mut diagnostic = Diagnostic::error(format!("wrong value of `{path}`"))
            .at(place)
            .label(problem);
        if !allowed.is_empty() {
            diagnostic = diagnostic.note(format!("allowed is {allowed}"));
        }
        self.error(diagnostic);
    }

    /// Reports a mistake: what was found, and what to do.
    pub fn error_at(&self, place: Place, message: impl Into<String>, help: Option<String>) {
        let diagnostic = Diagnostic::error(message).at(place);
        self.error(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// Reports something to look at, which is not a mistake.
    pub fn warn_at(&self, place: Place, message: impl Into<String>, help: Option<String>) {
        let diagnostic = Diagnostic::warning(message).at(place);
        self.document.report(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// Reports a mistake that was put together by hand.
    pub fn error(&self, diagnostic: Diagnostic) {
        self.failure.mark();
        self.document.report(diagnostic);
    }

    /// Whether a mistake was reported in this table (or below it) so far.
    pub fn failed(&self) -> bool {
        self.failure.is_marked()
    }

    /// Ends reading: reports every key that nobody asked for.
    pub fn finish(self) {}

    /// Reports each of these keys that is there as not built yet: a later version has it.
    pub fn later(&mut self, keys: &[&str]) {
        for entry in &self.table.entries {
            if keys.contains(&entry.key.as_str()) {
                self.error(
                    Diagnostic::error(format!(
                        "`{}` is not built yet",
                        joined(&self.path, &entry.key)
                    ))
                    .at(entry.key_place)
                    .label("a later version will have it"),
                );
                self.postponed.push(entry.key.as_str());
            }
        }
    }

    /// Does not call the other keys unknown: what they mean cannot be told (the kind is not known).
    pub fn ignore_rest(&mut self) {
        self.lenient = true;
    }

    /// `sink.search`, or the whole.
    fn title(&self) -> String {
        match self.path.as_str() {
            "" => "the configuration".into(),
            path => format!("`{path}`"),
        }
    }

    fn report_unknown(&self, entry: &Entry) {
        let key = entry.key.as_str();
        let mut known: Vec<&str> = self.known.clone();
        known.sort_unstable();
        known.dedup();
        let mut diagnostic =
            Diagnostic::error(format!("unknown key `{}`", joined(&self.path, key)))
                .at(entry.key_place)
                .label(format!("not a key of {}", self.title()));
        if !known.is_empty() {
            diagnostic = diagnostic.note(format!("allowed are {}", listed(known.iter().copied())));
        }
        if let Some(name) = near(key, known.iter().copied()) {
            diagnostic = diagnostic.help(format!("did you mean `{name}`?"));
        } else if let Some((table, name)) = self.below.iter().find(|(_, name)| *name == key) {
            diagnostic = diagnostic.help(format!("did you mean `{table}.{name}`?"));
        }
        if near(key, self.secret.iter().copied().chain(SECRET_NAMES)).is_some() {
            self.document.hide(entry.tree.place);
        }
        self.error(diagnostic);
    }

    fn report_missing(&self, name: &str, allowed: &str) {
        self.error(
            Diagnostic::error(format!("{} has no `{name}`", self.title()))
                .at(self.place)
                .label(format!("`{name}` must be set"))
                .note(format!("allowed is {allowed}")),
        );
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let is_known = |key: &str| self.known.contains(&key) || self.postponed.contains(&key);
        let mut unknown: Vec<&Entry> = Vec::new();
        if !self.lenient {
            unknown.extend(
                self.table
                    .entries
                    .iter()
                    .filter(|entry| !is_known(&entry.key)),
            );
        }
        for entry in &unknown {
            self.report_unknown(entry);
        }
        if self.stand_in || self.document.is_incomplete() {
            return;
        }
        for (name, allowed) in &self.missing {
            // A key under a near name was just reported.
            if !unknown
                .iter()
                .any(|entry| near(&entry.key, [*name]).is_some())
            {
                self.report_missing(name, allowed);
            }
        }
    }
}

/// What a secret is called anywhere; a key near to it may hold one.
const SECRET_NAMES: [&str; 5] = ["password", "passwd", "secret", "token", "api_key"];
