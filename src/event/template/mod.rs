//! Names made from an event and its origin: index, topic, file path. `audit-{origin.cluster}-{event:%Y.%m.%d}`.
//!
//! Placeholders: `{origin.cluster}`, `{origin.node}`, `{origin.source}`, `{event:…}` (the event's time in UTC, by
//! strftime directives), and where the kind of name allows: `{audit.verb}`, `{audit.level}`, `{audit.stage}`,
//! `{audit.objectRef.resource}`, `{audit.objectRef.namespace}` (`none` where absent).
//!
//! Invariants: a client of the API server chooses parts of a name at most, never its beginning, and no byte outside
//! `[A-Za-z0-9._-]`; [`BoundedNames`] keeps it from choosing more than 64 of them.

mod bounded;

#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub use bounded::{Admission, BoundedNames};

use super::{Origin, fields};

/// What the name is for: which placeholders it may have and which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// An index: begins with a literal, `[a-z0-9._-]`, at most 255 bytes, first byte a letter or digit.
    Index,
    /// A topic of Kafka: begins with a literal, `[A-Za-z0-9._-]`, at most 249 bytes, first byte no `.` or `-`.
    Topic,
    /// A path of a file: no fields of the event but its time; nothing from a placeholder is a `/` (but those that
    /// the template's author writes between strftime directives) or begins with a dot.
    Path,
}

/// A name with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    kind: NameKind,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Origin(OriginField),
    /// Strftime directives, checked.
    Time(String),
    Audit(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OriginField {
    Cluster,
    Node,
    Source,
}

/// Placeholders of the event's own fields, and their paths.
const AUDIT: [(&str, &[&str]); 5] = [
    ("audit.verb", &["verb"]),
    ("audit.level", &["level"]),
    ("audit.stage", &["stage"]),
    ("audit.objectRef.resource", &["objectRef", "resource"]),
    ("audit.objectRef.namespace", &["objectRef", "namespace"]),
];

const ORIGIN: [(&str, OriginField); 3] = [
    ("origin.cluster", OriginField::Cluster),
    ("origin.node", OriginField::Node),
    ("origin.source", OriginField::Source),
];

/// What a template says that it cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TemplateError {
    /// Index of the first byte that is wrong, in the template's text.
    pub at: usize,
    /// How many bytes are wrong, at least one unless the text is empty.
    pub length: usize,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// A name for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The name.
    pub name: String,
    /// The name without the event's time, where fields of the event are in it: what is counted by [`BoundedNames`].
    /// Time is left out because the API server writes it, and because 64 daily names would be full after 64 days.
    pub distinct: Option<String>,
}

impl NameKind {
    /// What it is, for messages.
    fn noun(self) -> &'static str {
        match self {
            NameKind::Index => "an index",
            NameKind::Topic => "a topic",
            NameKind::Path => "a path",
        }
    }

    /// Longest name, bytes, where whoever is given the name refuses a longer one.
    fn bytes_max(self) -> Option<usize> {
        match self {
            NameKind::Index => Some(255),
            NameKind::Topic => Some(249),
            NameKind::Path => None,
        }
    }
}

impl Template {
    /// Reads a template; all of its mistakes at once.
    pub fn parse(text: &str, kind: NameKind) -> Result<Self, Vec<TemplateError>> {
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let parsed = if rest.starts_with('{') {
                placeholder(rest, kind)
            } else {
                literal(rest, at, kind)
            };
            match parsed {
                Ok((part, length)) => {
                    parts.push(part);
                    at += length;
                }
                Err((error, length)) => {
                    errors.push(TemplateError {
                        at: at + error.at,
                        ..error
                    });
                    at += length;
                }
            }
        }
        if text.is_empty() || kind != NameKind::Path && text.starts_with('{') {
            let problem = if text.is_empty() {
                "is empty"
            } else {
                "must begin with a literal prefix, such as `audit-`"
            };
            let length = text.find('}').map_or(text.len(), |end| end + 1);
            let error = TemplateError {
                at: 0,
                length,
                problem: problem.to_owned(),
            };
            errors.insert(0, error);
        }
        if errors.is_empty() {
            Ok(Template { kind, parts })
        } else {
            Err(errors)
        }
    }

    /// The literal that it begins with; empty where it begins with a placeholder.
    pub fn literal_prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// What all names of an agent begin with: everything before the first placeholder of source, time or event.
    pub fn prefix_of_agent(&self, cluster: &str, node: &str) -> String {
        let mut prefix = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => prefix.push_str(literal),
                Part::Origin(OriginField::Cluster) => prefix.push_str(&self.clean(cluster)),
                Part::Origin(OriginField::Node) => prefix.push_str(&self.clean(node)),
                Part::Origin(OriginField::Source) | Part::Time(_) | Part::Audit(_) => break,
            }
        }
        prefix
    }

    /// Whether names differ by origin.
    pub fn uses_origin(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Origin(_)))
    }

    /// Whether names differ by the event's time.
    pub fn uses_time(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Time(_)))
    }

    /// Whether names differ by fields of the event other than its time.
    pub fn uses_audit(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Audit(_)))
    }

    /// The name for an event; `line` may be malformed, then its fields are absent. `time_us` is the event's time in
    /// microseconds since the Unix epoch.
    pub fn render(&self, origin: &Origin, time_us: i64, line: &[u8]) -> Rendered {
        let mut name = String::new();
        let mut distinct = String::new();
        for part in &self.parts {
            let text = self.part(part, origin, time_us, line);
            name.push_str(&text);
            if !matches!(part, Part::Time(_)) {
                distinct.push_str(&text);
            }
        }
        let distinct = self.uses_audit().then_some(distinct);
        if let Some(bytes) = self.kind.bytes_max() {
            // All bytes are ASCII here.
            name.truncate(bytes);
        }
        Rendered { name, distinct }
    }

    fn part(&self, part: &Part, origin: &Origin, time_us: i64, line: &[u8]) -> String {
        match part {
            Part::Literal(literal) => literal.clone(),
            Part::Origin(OriginField::Cluster) => self.clean(&origin.cluster),
            Part::Origin(OriginField::Node) => self.clean(&origin.node),
            Part::Origin(OriginField::Source) => self.clean(&origin.source),
            Part::Time(directives) => {
                let text = format_time(directives, time_us).unwrap_or_default();
                if self.kind == NameKind::Path {
                    text
                } else {
                    self.clean(&text)
                }
            }
            Part::Audit(path) => {
                let text = fields::find(line, path).and_then(fields::text);
                match text {
                    Some(text) if !text.is_empty() => self.clean(&text),
                    _ => "none".to_owned(),
                }
            }
        }
    }

    /// What may stand in a name of this kind; `-` for every other character.
    fn clean(&self, text: &str) -> String {
        let clean = |char: char| match (self.kind, char.to_ascii_lowercase()) {
            (NameKind::Index, lower @ ('a'..='z' | '0'..='9' | '.' | '_' | '-')) => lower,
            (NameKind::Path | NameKind::Topic, 'a'..='z' | '0'..='9' | '.' | '_' | '-') => char,
            _ => '-',
        };
        let text: String = text.chars().map(clean).collect();
        match text.strip_prefix('.') {
            Some(rest) if self.kind == NameKind::Path => format!("-{rest}"),
            _ => text,
        }
    }
}

type Parsed = Result<(Part, usize), (TemplateError, usize)>;

/// The literal that `rest` begins with; `at` is 0 for the first one.
fn literal(rest: &str, at: usize, kind: NameKind) -> Parsed {
    let length = rest.find('{').unwrap_or(rest.len());
    let literal = &rest[..length];
    let bad = literal
        .char_indices()
        .find(|&(index, char)| match (kind, char) {
            (_, '}') | (NameKind::Path, '\0') => true,
            (NameKind::Path, _) => false,
            (NameKind::Index, 'a'..='z' | '0'..='9') => false,
            (NameKind::Topic, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_') => false,
            (NameKind::Index, '.' | '_' | '-') | (NameKind::Topic, '.' | '-') => at + index == 0,
            (NameKind::Index | NameKind::Topic, _) => true,
        });
    let Some((index, char)) = bad else {
        return Ok((Part::Literal(literal.to_owned()), length));
    };
    let problem = match char {
        '}' => "`}` without `{` before it".to_owned(),
        '.' | '_' | '-' => format!("{} cannot begin with `{char}`", kind.noun()),
        _ if kind == NameKind::Path => "a path cannot have a NUL in it".to_owned(),
        _ => format!(
            "`{char}` cannot be in the name of {}: allowed are {}a-z, 0-9, `.`, `_` and `-`",
            kind.noun(),
            if kind == NameKind::Topic { "A-Z, " } else { "" }
        ),
    };
    Err((
        TemplateError {
            at: index,
            length: char.len_utf8(),
            problem,
        },
        length,
    ))
}

/// The placeholder that `rest` begins with.
fn placeholder(rest: &str, kind: NameKind) -> Parsed {
    let Some(end) = rest.find('}') else {
        let problem = "`{` without `}` behind it".to_owned();
        return Err((
            TemplateError {
                at: 0,
                length: 1,
                problem,
            },
            rest.len(),
        ));
    };
    let name = &rest[1..end];
    let length = end + 1;
    let error = |problem| {
        Err((
            TemplateError {
                at: 0,
                length,
                problem,
            },
            length,
        ))
    };
    if let Some(directives) = name.strip_prefix("event:") {
        return match format_time(directives, 0) {
            Some(text) if !directives.is_empty() && !text.is_empty() => {
                Ok((Part::Time(directives.to_owned()), length))
            }
            _ => error(format!(
                "`{directives}` is no date format: use strftime directives such as `%Y-%m-%d`"
            )),
        };
    }
    if let Some((_, field)) = ORIGIN.iter().find(|(known, _)| *known == name) {
        return Ok((Part::Origin(*field), length));
    }
    match AUDIT.iter().find(|(known, _)| *known == name) {
        Some((_, path)) if kind != NameKind::Path => Ok((Part::Audit(path), length)),
        Some(_) => error(format!(
            "`{{{name}}}` cannot be in a path: allowed are {}",
            allowed(kind)
        )),
        None => error(format!(
            "unknown placeholder `{{{name}}}`: allowed are {}",
            allowed(kind)
        )),
    }
}

fn allowed(kind: NameKind) -> String {
    let mut names = vec!["{event:%Y-%m-%d}".to_owned()];
    names.extend(ORIGIN.iter().map(|(name, _)| format!("{{{name}}}")));
    if kind != NameKind::Path {
        names.extend(AUDIT.iter().map(|(name, _)| format!("{{{name}}}")));
    }
    names.join(", ")
}

/// `None` where `directives` are no strftime format.
fn format_time(directives: &str, time_us: i64) -> Option<String> {
    let range = Timestamp::MIN.as_microsecond()..=Timestamp::MAX.as_microsecond();
    let time = Timestamp::from_microsecond(time_us.clamp(*range.start(), *range.end())).ok()?;
    jiff::fmt::strtime::format(directives, &time.to_zoned(jiff::tz::TimeZone::UTC)).ok()
}
