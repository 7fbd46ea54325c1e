//! Keys of a table, declared once: reading, schema and reference are made from the same declaration.

use std::cmp::Ordering;
use std::marker::PhantomData;

use super::document::Document;
use super::node::Value;
use super::section::Section;

/// A key of a table: its name, documentation and type, said once for reading, schema and reference.
#[derive(Debug)]
pub struct Field<T> {
    /// The key.
    pub name: &'static str,
    /// What it is and when to change it, in full sentences, for users.
    pub doc: &'static str,
    /// Default as TOML text; `None`: none.
    pub default: Option<&'static str>,
    /// Whether it must be there.
    pub required: bool,
    /// Least value allowed, as TOML text.
    pub min: Option<&'static str>,
    /// Greatest value allowed, as TOML text.
    pub max: Option<&'static str>,
    check: Option<Check<T>>,
    kind: PhantomData<fn() -> T>,
}

/// What must hold of a value beside its type; the error is as that of [`Value::read`].
pub type Check<T> = fn(&T) -> Result<(), String>;

impl<T> Field<T> {
    /// An optional key without a default.
    pub const fn new(name: &'static str, doc: &'static str) -> Self {
        Field {
            name,
            doc,
            default: None,
            required: false,
            min: None,
            max: None,
            check: None,
            kind: PhantomData,
        }
    }

    /// With a default, as TOML text (`"\"64MiB\""`, `"true"`).
    pub const fn default(mut self, toml: &'static str) -> Self {
        self.default = Some(toml);
        self
    }

    /// Its absence is a mistake.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Less is a mistake. As TOML text, like a default.
    pub const fn min(mut self, toml: &'static str) -> Self {
        self.min = Some(toml);
        self
    }

    /// More is a mistake. As TOML text, like a default.
    pub const fn max(mut self, toml: &'static str) -> Self {
        self.max = Some(toml);
        self
    }

    /// What else must hold.
    pub const fn check(mut self, check: Check<T>) -> Self {
        self.check = Some(check);
        self
    }
}

impl<T: Value> Field<T> {
    /// What is allowed, with the limits.
    pub(crate) fn allowed(&self) -> String {
        let expected = T::expected();
        match (self.min, self.max) {
            (None, None) => expected,
            (Some(min), None) => format!("{expected}, at least `{min}`"),
            (None, Some(max)) => format!("{expected}, at most `{max}`"),
            (Some(min), Some(max)) => format!("{expected}, from `{min}` to `{max}`"),
        }
    }

    /// Refuses what is outside the limits.
    pub(crate) fn within(&self, value: T, section: &Section<'_>) -> Result<T, String> {
        let limit =
            |text: Option<&'static str>| text.map(|text| section.literal::<T>(text)).transpose();
        if let Some(min) = limit(self.min)?
            && value.order(&min) == Some(Ordering::Less)
        {
            return Err(format!(
                "this is less than `{}`",
                self.min.unwrap_or_default()
            ));
        }
        if let Some(max) = limit(self.max)?
            && value.order(&max) == Some(Ordering::Greater)
        {
            return Err(format!(
                "this is more than `{}`",
                self.max.unwrap_or_default()
            ));
        }
        match self.check {
            Some(check) => check(&value).map(|()| value),
            None => Ok(value),
        }
    }
}

/// What schema and reference know of a key.
pub trait FieldDoc: Sync {
    /// The key.
    fn name(&self) -> &'static str;
    /// Documentation for users.
    fn doc(&self) -> &'static str;
    /// Default as TOML text.
    fn default(&self) -> Option<&'static str>;
    /// Whether it must be there.
    fn required(&self) -> bool;
    /// JSON Schema of its value.
    fn schema(&self) -> serde_json::Value;
    /// What is allowed, in words.
    fn allowed(&self) -> String;
    /// Whether its value is shown to nobody.
    fn is_secret(&self) -> bool {
        false
    }
    /// The keys of its table, where it is one.
    fn fields(&self) -> &'static [&'static dyn FieldDoc] {
        &[]
    }
    /// Reads default and limits as a user's values are read: the error is a mistake of the programmer, which a test
    /// over every kind finds.
    fn verify(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<T: Value> FieldDoc for Field<T> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn default(&self) -> Option<&'static str> {
        self.default
    }
    fn required(&self) -> bool {
        self.required
    }
    fn schema(&self) -> serde_json::Value {
        let mut schema = T::schema();
        for (key, limit) in [("minimum", self.min), ("maximum", self.max)] {
            if let Some(number) = limit.and_then(|text| text.parse::<serde_json::Number>().ok()) {
                schema[key] = number.into();
            }
        }
        schema
    }
    fn allowed(&self) -> String {
        Field::allowed(self)
    }
    fn is_secret(&self) -> bool {
        T::SECRET
    }
    fn verify(&self) -> Result<(), String> {
        let document = Document::empty();
        let section = document.root();
        if let Some(text) = self.default {
            let value = section
                .literal::<T>(text)
                .and_then(|value| self.within(value, &section));
            value.map_err(|error| format!("default of `{}`: {error}", self.name))?;
        }
        for text in [self.min, self.max].into_iter().flatten() {
            section
                .literal::<T>(text)
                .map_err(|error| format!("limit of `{}`: {error}", self.name))?;
        }
        Ok(())
    }
}

/// A key whose value is a table with keys of its own (`tls = { ca = … }`, `[[source]]`).
pub struct TableDoc {
    /// The key.
    pub name: &'static str,
    /// Documentation for users.
    pub doc: &'static str,
    /// Its keys.
    pub fields: &'static [&'static dyn FieldDoc],
}

impl FieldDoc for TableDoc {
    fn name(&self) -> &'static str {
        self.name
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn default(&self) -> Option<&'static str> {
        None
    }
    fn required(&self) -> bool {
        false
    }
    fn schema(&self) -> serde_json::Value {
        super::reference::object_schema(self.fields)
    }
    fn allowed(&self) -> String {
        "a table".into()
    }
    fn fields(&self) -> &'static [&'static dyn FieldDoc] {
        self.fields
    }
    fn verify(&self) -> Result<(), String> {
        let verify = |field: &&dyn FieldDoc| {
            field
                .verify()
                .map_err(|error| format!("{}: {error}", self.name))
        };
        self.fields.iter().try_for_each(verify)
    }
}
