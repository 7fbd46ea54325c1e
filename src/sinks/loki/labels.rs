//! The label set of a record's stream, and its structured metadata: what goes where, and what is refused because every
//! value of a label makes a stream of its own.
//!
//! Invariants: cluster, node and source are always labels, so that two origins never share a stream; a label made from
//! the event has a closed set of values (others are `other`, absent ones `none`), because a client chooses the HTTP
//! method that becomes the verb; names and values are ones that Loki takes.

use std::collections::BTreeMap;

use super::fields::{self, FieldPath};
use crate::event::Origin;
use crate::sinks::Record;

/// Labels that Loki takes (its `max_label_names_per_series`; `service_name`, which it adds, does not count).
pub(super) const LABELS_MAX: usize = 15;

/// Longest value that Loki takes.
pub(super) const VALUE_BYTES_MAX: usize = 2048;

/// Longest name that Loki takes.
pub(super) const NAME_BYTES_MAX: usize = 1024;

/// The labels that say where an event came from.
pub(super) const ORIGIN: [&str; 3] = ["cluster", "node", "source"];

/// Structured metadata of one line; Loki takes 128.
pub(super) const METADATA_MAX: usize = 24;

/// Longest value of structured metadata, so that all of a line's stays under the 64 KB that Loki takes.
const METADATA_VALUE_BYTES_MAX: usize = 2048;

/// What a usual value has, with its frame, for weighing.
pub(super) const METADATA_VALUE_BYTES: u64 = 48;

/// Where a label's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LabelValue {
    /// The same for every event.
    Static(String),
    /// A field of the event with few values.
    Field(LabelField),
}

/// Fields of an event that may be a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelField {
    Verb,
    Level,
    Stage,
}

impl LabelField {
    /// All of them.
    pub(super) const ALL: [LabelField; 3] =
        [LabelField::Verb, LabelField::Level, LabelField::Stage];

    /// As a configuration spells it.
    pub(super) fn placeholder(self) -> &'static str {
        match self {
            LabelField::Verb => "{audit.verb}",
            LabelField::Level => "{audit.level}",
            LabelField::Stage => "{audit.stage}",
        }
    }

    fn path(self) -> &'static str {
        match self {
            LabelField::Verb => "verb",
            LabelField::Level => "level",
            LabelField::Stage => "stage",
        }
    }

    /// The values that the API server writes by itself.
    fn known(self) -> &'static [&'static str] {
        match self {
            LabelField::Verb => &[
                "get",
                "list",
                "watch",
                "create",
                "update",
                "patch",
                "delete",
                "deletecollection",
                "head",
                "options",
                "post",
                "put",
            ],
            LabelField::Level => &["None", "Metadata", "Request", "RequestResponse"],
            LabelField::Stage => &[
                "RequestReceived",
                "ResponseStarted",
                "ResponseComplete",
                "Panic",
            ],
        }
    }

    fn value(self, found: Option<&str>) -> &'static str {
        let Some(found) = found else { return "none" };
        let known = self.known().iter().find(|known| **known == found);
        known.copied().unwrap_or("other")
    }
}

/// Makes label sets.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    fixed: Vec<(String, String)>,
    fields: Vec<(String, LabelField)>,
    paths: Vec<FieldPath>,
}

impl Labels {
    /// The sink's own labels over the agent's. The error is about the agent's labels, which no Loki need have been in
    /// mind for.
    pub(super) fn new(
        own: &BTreeMap<String, LabelValue>,
        agent: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut all = own.clone();
        for (name, value) in agent {
            // As Loki itself writes a name that it would not take.
            let label = sanitised(name);
            let problem = name_problem(&label).or_else(|| value_problem(value));
            if let Some(problem) = problem {
                return Err(format!(
                    "`agent.labels.{name}` cannot be a Loki label: {problem}"
                ));
            }
            if ORIGIN.contains(&label.as_str()) {
                return Err(format!(
                    "`agent.labels.{name}`: the Loki label `{label}` says where an event came from; rename yours"
                ));
            }
            all.entry(label)
                .or_insert(LabelValue::Static(value.clone()));
        }
        if all.len() + ORIGIN.len() > LABELS_MAX {
            return Err(format!(
                "with `agent.labels` a stream would have {} labels, and Loki takes {LABELS_MAX}; take some out",
                all.len() + ORIGIN.len()
            ));
        }
        let mut labels = Labels {
            fixed: Vec::new(),
            fields: Vec::new(),
            paths: Vec::new(),
        };
        for (name, value) in all {
            match value {
                LabelValue::Static(text) => labels.fixed.push((name, text)),
                LabelValue::Field(field) => {
                    labels.fields.push((name, field));
                    labels.paths.extend(FieldPath::named(field.path()));
                }
            }
        }
        Ok(labels)
    }

    /// The label set of a record's stream, by name.
    pub(super) fn of(&self, record: &Record) -> LabelSet<'_> {
        let found = match self.fields.as_slice() {
            [] => Vec::new(),
            _ => fields::values(record, &self.paths),
        };
        let values = self
            .fields
            .iter()
            .zip(&found)
            .map(|((name, field), found)| (name.as_str(), field.value(found.as_deref())));
        self.with(&record.origin, values)
    }

    /// What records of the same stream, and only they, have in common.
    pub(super) fn key(&self, record: &Record) -> Vec<u8> {
        let mut key = record.origin.to_string().into_bytes();
        if !self.fields.is_empty() {
            let found = fields::values(record, &self.paths);
            for ((_, field), found) in self.fields.iter().zip(&found) {
                key.push(0);
                key.extend_from_slice(field.value(found.as_deref()).as_bytes());
            }
        }
        key
    }

    /// A label set as some event might have it, for a push without lines.
    pub(super) fn example(&self, origin: &Origin) -> LabelSet<'_> {
        let values = self.fields.iter().map(|(name, _)| (name.as_str(), "none"));
        self.with(origin, values)
    }

    fn with<'a>(
        &'a self,
        origin: &Origin,
        fields: impl Iterator<Item = (&'a str, &'static str)>,
    ) -> LabelSet<'a> {
        let mut set: BTreeMap<&str, String> = self
            .fixed
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        let parts = [&origin.cluster, &origin.node, &origin.source];
        for (name, value) in ORIGIN.iter().zip(parts) {
            set.insert(name, value.clone());
        }
        set.extend(fields.map(|(name, value)| (name, value.to_owned())));
        // To Loki a label without a value is no label.
        set.retain(|_, value| !value.is_empty());
        LabelSet(set)
    }
}

/// The labels of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelSet<'a>(BTreeMap<&'a str, String>);

impl LabelSet<'_> {
    /// `{cluster="c", job="auditship"}`, sorted by name, as Loki writes it.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("{");
        for (name, value) in &self.0 {
            if text.len() > 1 {
                text.push_str(", ");
            }
            text.push_str(name);
            text.push_str("=\"");
            // Control characters are no part of a value (`value_problem`), so this is all that needs escaping.
            for char in value.chars() {
                if matches!(char, '"' | '\\') {
                    text.push('\\');
                }
                text.push(char);
            }
            text.push('"');
        }
        text.push('}');
        text
    }

    /// Names and values, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

/// The structured metadata of a record: name and value, those that are absent or empty left out.
pub(super) fn metadata<'a>(
    record: &Record,
    names: &'a [String],
    paths: &[FieldPath],
) -> Vec<(&'a str, String)> {
    if names.is_empty() {
        return Vec::new();
    }
    let found = fields::values(record, paths);
    names
        .iter()
        .zip(found)
        .filter_map(|(name, value)| Some((name.as_str(), cut(&value?))))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn cut(value: &str) -> String {
    let mut end = value.len().min(METADATA_VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

/// What Loki would say against a name of a label.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let good =
        |at: usize, c: char| c.is_ascii_alphabetic() || c == '_' || at > 0 && c.is_ascii_digit();
    if name.is_empty() {
        return Some("a label has a name".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!(
            "Loki takes names of at most {NAME_BYTES_MAX} bytes"
        ));
    }
    if name.starts_with("__") {
        return Some("names that begin with `__` are Loki's own".to_owned());
    }
    let bad = name.chars().enumerate().find(|(at, c)| !good(*at, *c))?.1;
    Some(format!(
        "a label's name cannot hold `{}` here",
        bad.escape_debug()
    ))
}

/// What Loki, or this sink, would say against a label's value.
pub(super) fn value_problem(value: &str) -> Option<String> {
    if value.len() > VALUE_BYTES_MAX {
        return Some(format!(
            "Loki takes values of at most {VALUE_BYTES_MAX} bytes"
        ));
    }
    let control = value.chars().any(char::is_control);
    control.then(|| "a label's value holds no control characters".to_owned())
}

fn sanitised(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(plain).collect();
    match name.chars().next() {
        Some(c) if c.is_ascii_digit() => format!("key_{name}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests;
