//! The TOML values of one or several files as one tree, each with the place it stands in. It knows nothing of keys
//! and types; [`super::section`] reads it.
//!
//! Invariant: an [`Item::Broken`] was reported when it was made, so reading it fails without another message.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Diagnostic;
use super::section::Place;

/// A value and where it stands.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) item: Item,
    /// Of a table with a header, the header.
    pub(crate) place: Place,
}

/// What a value is.
#[derive(Clone)]
pub(crate) enum Item {
    Text(Text),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Datetime,
    Array(Vec<Tree>),
    /// `[[key]]` tables, as against a list that is written inline.
    Tables(Vec<Tree>),
    Table(Table),
    /// Wrong in itself, and reported.
    Broken,
}

/// A string, after its variables were filled in.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Whether nothing of it stands in the file: it was one variable that is set.
    pub(crate) from_environment: bool,
}

/// Keys and values, in the order of their places.
#[derive(Clone, Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) tree: Tree,
}

impl Table {
    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        self.entry(key).map(|entry| &entry.tree)
    }

    /// The key with its value.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key, to change it.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Tree> {
        self.entries
            .iter_mut()
            .find(|entry| entry.key == key)
            .map(|entry| &mut entry.tree)
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index))
    }

    /// Puts a key in, in place of one of the same name.
    pub(crate) fn set(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|old| old.key == entry.key) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }

    /// A string under a key.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.item {
            Item::Text(text) => Some(&text.value),
            _ => None,
        }
    }
}

impl Tree {
    /// Puts a value and all below it at one place: a default stands where it is missing.
    pub(crate) fn move_to(&mut self, place: Place) {
        self.place = place;
        match &mut self.item {
            Item::Array(elements) | Item::Tables(elements) => {
                elements
                    .iter_mut()
                    .for_each(|element| element.move_to(place));
            }
            Item::Table(table) => table.entries.iter_mut().for_each(|entry| {
                entry.key_place = place;
                entry.tree.move_to(place);
            }),
            _ => {}
        }
    }
}

impl Item {
    /// Its type with an article, for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Item::Text(_) => "a string",
            Item::Integer(_) => "a whole number",
            Item::Float(_) => "a number with a fraction",
            Item::Bool(_) => "true or false",
            Item::Datetime => "a date",
            Item::Array(_) => "a list",
            Item::Tables(_) => "an array of tables",
            Item::Table(_) => "a table",
            Item::Broken => "a broken value",
        }
    }
}

/// More mistakes of one file than anybody reads: it is no TOML at all.
const SYNTAX_ERRORS_MAX: usize = 100;

/// Reads a file's text as far as it can be read; everything that is not TOML is a mistake.
pub(crate) fn parse(file: usize, text: &str, mistakes: &mut Vec<Diagnostic>) -> Table {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
        let span = error.span().unwrap_or(text.len()..text.len());
        let place = Place {
            file,
            start: span.start,
            end: span.end,
        };
        mistakes.push(
            Diagnostic::error("this is not TOML")
                .at(place)
                .label(error.message()),
        );
    }
    Reader {
        file,
        offset: 0,
        text,
        mistakes,
    }
    .table(table.into_inner())
}

/// Reads one value that begins at `offset` of its file, or nothing where it is not TOML.
pub(crate) fn parse_value(
    file: usize,
    offset: usize,
    text: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Tree> {
    let value = DeValue::parse(text).ok()?;
    Some(
        Reader {
            file,
            offset,
            text,
            mistakes,
        }
        .tree(value),
    )
}

struct Reader<'a> {
    file: usize,
    /// Where in the file `text` begins.
    offset: usize,
    text: &'a str,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place {
            file: self.file,
            start: self.offset + span.start,
            end: self.offset + span.end,
        }
    }

    fn table(&mut self, table: DeTable<'_>) -> Table {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let key_place = self.place(key.span());
            entries.push(Entry {
                key: key.into_inner().into_owned(),
                key_place,
                tree: self.tree(value),
            });
        }
        // The parser sorts by name; people read from top to bottom.
        entries.sort_by_key(|entry| entry.key_place.start);
        Table { entries }
    }

    fn tree(&mut self, value: Spanned<DeValue<'_>>) -> Tree {
        let span = value.span();
        let place = self.place(span.clone());
        let item = match value.into_inner() {
            DeValue::String(text) => Item::Text(Text {
                value: text.into_owned(),
                from_environment: false,
            }),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Item::Integer(number),
                    Err(_) => self.broken(place, "this number does not fit into 64 bits"),
                }
            }
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Item::Float(number),
                Err(_) => self.broken(place, "this is not a number"),
            },
            DeValue::Boolean(value) => Item::Bool(value),
            DeValue::Datetime(_) => Item::Datetime,
            DeValue::Array(array) => {
                let elements: Vec<Tree> = array
                    .into_iter()
                    .map(|element| self.tree(element))
                    .collect();
                match self.has_headers(&elements) {
                    true => Item::Tables(elements),
                    false => Item::Array(elements),
                }
            }
            DeValue::Table(table) => Item::Table(self.table(table)),
        };
        Tree { item, place }
    }

    /// Whether these are `[[key]]` tables; the parser does not tell, but such a table's span is its header.
    fn has_headers(&self, elements: &[Tree]) -> bool {
        let headed = |element: &Tree| {
            let text = self.text.get(element.place.start - self.offset..);
            matches!(element.item, Item::Table(_))
                && text.is_some_and(|text| text.starts_with("[["))
        };
        !elements.is_empty() && elements.iter().all(headed)
    }

    fn broken(&mut self, place: Place, title: &str) -> Item {
        self.mistakes.push(Diagnostic::error(title).at(place));
        Item::Broken
    }
}
