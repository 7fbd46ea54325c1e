//! Mistakes in a configuration as people read them: file, line, column, the source line, a caret, what was found,
//! what is allowed, a near name.
//!
//! Invariant: what is shown of a file never shows a secret. The places of secrets that were read are cut out
//! exactly; where a mistake keeps a secret from being read, so is whatever stands behind a key that sounds like one.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use super::section::Place;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but somebody should look at it.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    title: String,
    place: Option<Place>,
    label: Option<String>,
    related: Vec<(Place, String)>,
    notes: Vec<String>,
    help: Vec<String>,
}

impl Diagnostic {
    /// A mistake that keeps the configuration from being used.
    pub fn error(title: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            title: title.into(),
            place: None,
            label: None,
            related: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Something to look at.
    pub fn warning(title: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(title)
        }
    }

    /// Where it stands.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// What was found there, written beside the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Another place that has to do with it.
    pub fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push((place, label.into()));
        self
    }

    /// What is allowed.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Where it stands.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }
}

/// A file that diagnostics point into.
pub(crate) struct SourceFile {
    /// As people know it: the path as given, or `--set`.
    pub(crate) name: String,
    /// What it is called in the file system, where it is a file.
    pub(crate) path: Option<PathBuf>,
    /// What its paths are relative to.
    pub(crate) dir: PathBuf,
    pub(crate) text: String,
}

impl SourceFile {
    /// The line that holds byte `at`, without its line feed.
    pub(crate) fn line_of(&self, at: usize) -> Range<usize> {
        let at = self.text.floor_char_boundary(at);
        let start = self.text[..at].rfind('\n').map_or(0, |feed| feed + 1);
        let end = self.text[at..]
            .find('\n')
            .map_or(self.text.len(), |feed| at + feed);
        start..end
    }
}

/// Shows only the name: the text may hold a secret.
impl std::fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// All mistakes of a configuration at once. `Display` renders them as rustc does, without colour.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    files: Vec<Arc<SourceFile>>,
    secrets: Vec<Place>,
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Diagnostics {
            list: vec![diagnostic],
            ..Diagnostics::default()
        }
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// More than anybody reads at once, and a bound for the time it takes.
const SHOWN_MAX: usize = 200;

impl Diagnostics {
    /// Sorted by file and place; what has no place comes first. The same mistake twice counts once.
    pub(crate) fn new(found: &[Diagnostic], files: &[Arc<SourceFile>], secrets: &[Place]) -> Self {
        let mut sorted: Vec<&Diagnostic> = found.iter().collect();
        sorted.sort_by_key(|diagnostic| diagnostic.place.map(|place| (place.file, place.start)));
        let mut list: Vec<Diagnostic> = Vec::with_capacity(sorted.len());
        for diagnostic in sorted {
            let mut here = list
                .iter()
                .rev()
                .take_while(|other| other.place == diagnostic.place);
            if !here.any(|other| other == diagnostic) {
                list.push(diagnostic.clone());
            }
        }
        Diagnostics {
            list,
            files: files.to_vec(),
            secrets: secrets.to_vec(),
        }
    }

    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.list
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .count()
    }

    /// The number of warnings.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// As [`std::fmt::Display`], with colour where `color`. Ends in a line feed unless empty.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let shown: Vec<Shown> = self
            .files
            .iter()
            .enumerate()
            .map(|(index, file)| self.shown(index, file))
            .collect();
        let mut text = String::new();
        for diagnostic in self.list.iter().take(SHOWN_MAX) {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&renderer.render(&[report(diagnostic, &shown)]));
            text.push('\n');
        }
        if let Some(more @ 1..) = self.list.len().checked_sub(SHOWN_MAX) {
            text.push_str(&format!("\nand {more} more\n"));
        }
        text
    }

    /// What may be shown of a file.
    fn shown<'a>(&self, index: usize, file: &'a SourceFile) -> Shown<'a> {
        let mut hidden = secret_looking(&file.text);
        hidden.extend(
            self.secrets
                .iter()
                .filter(|place| place.file == index)
                .map(|place| place.start..place.end),
        );
        Shown::new(file, hidden)
    }
}

fn report<'a>(diagnostic: &'a Diagnostic, files: &'a [Shown<'a>]) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(diagnostic.title.as_str()));
    if let Some((place, shown)) = diagnostic
        .place
        .and_then(|place| Some((place, files.get(place.file)?)))
    {
        let label = diagnostic.label.as_deref();
        let mut snippet =
            shown
                .snippet()
                .annotation(shown.annotation(AnnotationKind::Primary, place, label));
        for (other, label) in &diagnostic.related {
            if other.file == place.file {
                snippet = snippet.annotation(shown.annotation(
                    AnnotationKind::Context,
                    *other,
                    Some(label),
                ));
            }
        }
        group = group.element(snippet);
        for (other, label) in diagnostic
            .related
            .iter()
            .filter(|(other, _)| other.file != place.file)
        {
            if let Some(shown) = files.get(other.file) {
                let annotation = shown.annotation(AnnotationKind::Primary, *other, Some(label));
                group = group.element(shown.snippet().annotation(annotation));
            }
        }
    } else if let Some(label) = &diagnostic.label {
        group = group.element(Level::NOTE.message(label.as_str()));
    }
    let notes = diagnostic
        .notes
        .iter()
        .map(|note| Level::NOTE.message(note.as_str()));
    let help = diagnostic
        .help
        .iter()
        .map(|help| Level::HELP.message(help.as_str()));
    group.elements(notes).elements(help)
}

/// A file's text without its secrets.
struct Shown<'a> {
    name: &'a str,
    text: String,
    /// What was cut out of the file, in order and apart.
    hidden: Vec<Range<usize>>,
}

/// Stands where a secret was; of one length, so that it does not tell the secret's.
const MASK: &str = "***";

impl<'a> Shown<'a> {
    fn new(file: &'a SourceFile, mut ranges: Vec<Range<usize>>) -> Self {
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut hidden: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let start = file.text.floor_char_boundary(range.start);
            let end = file.text.ceil_char_boundary(range.end);
            match hidden.last_mut() {
                Some(last) if start < last.end => last.end = last.end.max(end),
                _ => hidden.push(start..end),
            }
        }
        let mut text = String::with_capacity(file.text.len());
        let mut at = 0;
        for range in &hidden {
            text.push_str(&file.text[at..range.start]);
            text.push_str(MASK);
            at = range.end;
        }
        text.push_str(&file.text[at..]);
        Shown {
            name: &file.name,
            text,
            hidden,
        }
    }

    fn snippet<'b>(&'b self) -> Snippet<'b, Annotation<'b>> {
        Snippet::source(self.text.as_str()).path(self.name)
    }

    /// Where byte `at` of the file is in what is shown of it.
    fn offset(&self, at: usize, is_end: bool) -> usize {
        let (mut cut, mut added) = (0, 0);
        for range in &self.hidden {
            if at <= range.start {
                break;
            }
            if at < range.end {
                return range.start - cut + added + if is_end { MASK.len() } else { 0 };
            }
            cut += range.len();
            added += MASK.len();
        }
        self.text.floor_char_boundary(at - cut + added)
    }

    /// The first line of a place, which is all that fits under one caret.
    fn annotation<'b>(
        &self,
        kind: AnnotationKind,
        place: Place,
        label: Option<&'b str>,
    ) -> Annotation<'b> {
        let start = self.offset(place.start, false);
        let line_end = self.text[start..]
            .find(['\n', '\r'])
            .map_or(self.text.len(), |feed| start + feed);
        let end = self
            .offset(place.end, true)
            .clamp(start, line_end.max(start));
        kind.span(start..end).label(label)
    }
}

/// Words in a key that make its value look like a secret.
const SECRET_WORDS: [&str; 5] = ["pass", "secret", "token", "api_key", "apikey"];

/// What stands behind a key that sounds like a secret's: a string without its quotes, or a bare word.
fn secret_looking(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let bytes = line.as_bytes();
        for (equals, _) in line.match_indices('=') {
            let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-\"' \t.".contains(byte);
            let key_start = bytes[..equals]
                .iter()
                .rposition(|byte| !is_key(byte))
                .map_or(0, |at| at + 1);
            let key = line
                .get(key_start..equals)
                .unwrap_or_default()
                .to_ascii_lowercase();
            let last = key.trim().rsplit('.').next().unwrap_or_default();
            if SECRET_WORDS.iter().any(|word| last.contains(word)) {
                found.extend(
                    value_behind(line, equals + 1)
                        .map(|r| line_start + r.start..line_start + r.end),
                );
            }
        }
        line_start += line.len();
    }
    found.extend(user_info(text));
    found
}

/// The user and password of every URL.
fn user_info(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, separator)| {
        let start = at + separator.len();
        let authority = &text[start..];
        let end = authority
            .find(['/', '"', '\'', ' ', '\t', '\n', ','])
            .unwrap_or(authority.len());
        authority[..end].rfind('@').map(|at| start..start + at)
    })
}

/// The scalar that begins behind `at`, or to the end of the line where it does not end.
fn value_behind(line: &str, at: usize) -> Option<Range<usize>> {
    let rest = line[at..].trim_end();
    let start = at + rest.len() - rest.trim_start().len();
    let rest = rest.trim_start();
    let first = rest.chars().next()?;
    match first {
        '{' | '[' | '\n' => None,
        '"' | '\'' => {
            let inside = &rest[1..];
            let mut escaped = false;
            let end = inside.find(|c| {
                let ends = c == first && !escaped;
                escaped = c == '\\' && first == '"' && !escaped;
                ends
            });
            // An empty pair opens a string of several lines, whose first line may hold all of it.
            match end {
                Some(0) if inside.len() > 1 => Some(start + 1..start + rest.len()),
                Some(0) => None,
                Some(end) => Some(start + 1..start + 1 + end),
                None => Some(start + 1..start + rest.len()),
            }
        }
        _ => Some(start..start + rest.find([',', '}', '#']).unwrap_or(rest.len())),
    }
}

/// The nearest of some names, if it is near enough to be meant.
pub(crate) fn near<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    names
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&word, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| {
            *distance <= (name.chars().count().max(word.chars().count()) / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Names in a row for a message: `a`, `b`, `c`.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
