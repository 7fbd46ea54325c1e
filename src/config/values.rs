//! The plain types a key can have: strings, numbers, lists, maps, paths, names, and words to choose from. Sizes and
//! durations are in [`super::units`], secrets in [`super::secrets`].

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::diagnostics::near;
use super::section::{Node, REPORTED, Spanned, Value};

/// A path relative to the file it stands in: policies, certificates, rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

/// A path relative to the working directory: sources, file sinks, state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkPath(pub PathBuf);

/// The name of a source, stage or sink: `[a-z0-9][a-z0-9-]*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub String);

/// A few words to choose from. The words stand in messages, schema and reference:
///
/// ```
/// use auditship::config::Choice;
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// enum Compression { Gzip, None }
///
/// impl Choice for Compression {
///     const WORDS: &'static [(&'static str, Self)] = &[("gzip", Compression::Gzip), ("none", Compression::None)];
/// }
/// ```
pub trait Choice: Copy + 'static {
    /// Every word with what it means.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Choice> Value for T {
    fn schema() -> serde_json::Value {
        json!({ "enum": T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }

    fn expected() -> String {
        alternatives(T::WORDS.iter().map(|(word, _)| *word))
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        let text = node.as_str().ok_or_else(|| node.wrong_type())?;
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        Err(unknown_word(text, T::WORDS.iter().map(|(word, _)| *word)))
    }
}

/// The message for a word that is none of some words.
pub(crate) fn unknown_word<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    let found = format!("`{}` is none of them", text.escape_debug());
    match near(text, words) {
        Some(word) => format!("{found}\ndid you mean `\"{word}\"`?"),
        None => found,
    }
}

/// `"a"`, `"b"` or `"c"`.
pub(crate) fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words
        .into_iter()
        .map(|word| format!("`\"{word}\"`"))
        .collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".into(),
    }
}

impl Value for String {
    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }

    fn expected() -> String {
        "a string".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        Ok(node.as_str().ok_or_else(|| node.wrong_type())?.to_owned())
    }
}

impl Value for bool {
    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }

    fn expected() -> String {
        "`true` or `false`".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        match (node.as_bool(), node.as_str()) {
            (Some(value), _) => Ok(value),
            (None, Some(text @ ("true" | "false"))) => {
                Err(format!("{}\nwrite `{text}` without quotes", node.found()))
            }
            _ => Err(node.wrong_type()),
        }
    }
}

macro_rules! whole_number {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn schema() -> serde_json::Value {
                json!({ "type": "integer", "minimum": 0 })
            }

            fn expected() -> String {
                "a whole number".into()
            }

            fn read(node: &Node<'_>) -> Result<Self, String> {
                let number = node.as_integer().ok_or_else(|| match node.as_str() {
                    Some(text) if text.parse::<$type>().is_ok() => {
                        format!("{}\nwrite `{text}` without quotes", node.found())
                    }
                    _ => node.wrong_type(),
                })?;
                <$type>::try_from(number).map_err(|_| {
                    let much = if number < 0 { "less than 0" } else { "too large" };
                    format!("{number} is {much}")
                })
            }

            fn order(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
    )*};
}

whole_number!(u16, u32, u64, usize);

impl Value for f64 {
    fn schema() -> serde_json::Value {
        json!({ "type": "number" })
    }

    fn expected() -> String {
        "a number".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        let number = node
            .as_float()
            .or(node.as_integer().map(|number| number as f64));
        match number.ok_or_else(|| node.wrong_type())? {
            number if number.is_finite() => Ok(number),
            number => Err(format!("{number} is not a number to count with")),
        }
    }

    fn order(&self, other: &Self) -> Option<Ordering> {
        self.partial_cmp(other)
    }
}

impl<T: Value> Value for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn schema() -> serde_json::Value {
        json!({ "type": "array", "items": T::schema() })
    }

    fn expected() -> String {
        format!("a list of: {}", T::expected())
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        let elements = node.elements().ok_or_else(|| match node.as_str() {
            Some(_) => format!("{}\nput it in square brackets", node.found()),
            None => node.wrong_type(),
        })?;
        // Every wrong element is reported, so none may end the loop.
        let read: Vec<Option<T>> = elements.iter().map(Node::read).collect();
        read.into_iter()
            .collect::<Option<Vec<T>>>()
            .ok_or(REPORTED.into())
    }
}

impl<T: Value> Value for BTreeMap<String, T> {
    const SECRET: bool = T::SECRET;

    fn schema() -> serde_json::Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }

    fn expected() -> String {
        format!("a table `{{ key = … }}` of: {}", T::expected())
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        let entries = node.entries().ok_or_else(|| node.wrong_type())?;
        let read: Vec<Option<(String, T)>> = entries
            .iter()
            .map(|(key, value)| Some(((*key).to_owned(), value.read()?)))
            .collect();
        read.into_iter()
            .collect::<Option<BTreeMap<String, T>>>()
            .ok_or(REPORTED.into())
    }
}

/// A value with its place, inside a list.
impl<T: Value> Value for Spanned<T> {
    const SECRET: bool = T::SECRET;

    fn schema() -> serde_json::Value {
        T::schema()
    }

    fn expected() -> String {
        T::expected()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        Ok(Spanned {
            value: T::read(node)?,
            at: node.place(),
        })
    }

    fn order(&self, other: &Self) -> Option<Ordering> {
        self.value.order(&other.value)
    }
}

fn path_text(node: &Node<'_>) -> Result<String, String> {
    let text = node.as_str().ok_or_else(|| node.wrong_type())?;
    match text {
        "" => Err("this path is empty".into()),
        text if text.contains('\0') => Err("a path holds no NUL".into()),
        text => Ok(text.to_owned()),
    }
}

impl Value for FilePath {
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }

    fn expected() -> String {
        "a path, relative to the file it stands in".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        let text = path_text(node)?;
        Ok(FilePath(match node.dir() {
            dir if dir == Path::new("") || dir == Path::new(".") => PathBuf::from(text),
            dir => dir.join(text),
        }))
    }
}

impl Value for WorkPath {
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }

    fn expected() -> String {
        "a path, relative to the working directory".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        path_text(node).map(|text| WorkPath(PathBuf::from(text)))
    }
}

/// Long enough for any name, short enough for a label and a file name.
const NAME_BYTES_MAX: usize = 63;

impl Value for Name {
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": r"^[a-z0-9][a-z0-9-]*$|\$", "maxLength": NAME_BYTES_MAX })
    }

    fn expected() -> String {
        "a name of lowercase letters, digits and `-`, beginning with a letter or digit".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        let text = node.as_str().ok_or_else(|| node.wrong_type())?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.is_empty() {
            return Err("this name is empty".into());
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(format!("a name has at most {NAME_BYTES_MAX} characters"));
        }
        match text
            .chars()
            .enumerate()
            .find(|(at, c)| !plain(*c) && (*at == 0 || *c != '-'))
        {
            None => Ok(Name(text.to_owned())),
            Some((0, '-')) => Err("a name does not begin with `-`".into()),
            Some((_, c)) => Err(format!("a name cannot hold `{c}`")),
        }
    }
}
