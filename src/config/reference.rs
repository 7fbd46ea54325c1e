//! JSON Schema of the configuration and the reference for people, both made from the field docs of each kind.
//!
//! Configuration knows no kinds: whoever does hands in a [`Reference`]. The schema describes a whole configuration; a
//! file that extends another needs only what differs from it.

use serde_json::{Map, Value, json};

use super::section::{FieldDoc, TableDoc};

/// Everything a configuration can say.
pub struct Reference {
    /// The keys of the root, mostly tables: `[agent]`, `[spool]`.
    pub fields: Vec<&'static dyn FieldDoc>,
    /// Its arrays of tables: `[[source]]`, `[[stage]]`, `[[sink]]`.
    pub arrays: Vec<ArrayDoc>,
}

/// An array of tables, each of one kind.
pub struct ArrayDoc {
    /// Its key, and the keys that every kind has (without `type` and `enabled`, which are added here).
    pub table: &'static TableDoc,
    /// The values of `type`.
    pub kinds: Vec<KindDoc>,
}

/// What one `type` adds.
pub struct KindDoc {
    /// The value of `type`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Its own keys.
    pub fields: &'static [&'static dyn FieldDoc],
}

const EXTENDS: &str = "A file that this one is laid over, relative to this one. Tables merge, arrays of tables match \
    by name, lists are replaced whole.";
const ENABLED: &str =
    "`false` takes the table out, also where it comes from the file that this one extends.";
const TYPE: &str = "Which kind it is.";

/// What is true of every key, at the head of the reference.
const INTRODUCTION: &str = "\
# Configuration

A TOML file; `auditship schema --reference` prints this page, `auditship schema` the same as JSON Schema. A key that is
not here is an error. Inside strings `${VAR}` and `${VAR:-default}` are filled in from the environment, and `$$` is `$`;
a variable that is not set and has no default is an error. A secret may be a plain string, but `auditship check` warns
of it; secrets in files are read again when they change. `--set KEY=VALUE` overrides a key, a table of an array by its
name: `--set sink.search.batch.wait=2s`.

";

impl Reference {
    /// JSON Schema, draft 2020-12.
    pub fn schema(&self) -> Value {
        let mut schema = object_schema(&self.fields);
        let mut kinds = Map::new();
        let properties = &mut schema["properties"];
        properties["extends"] = json!({ "type": "string", "description": EXTENDS });
        for array in &self.arrays {
            let name = |kind: &KindDoc| format!("{}.{}", array.table.name, kind.name);
            let references: Vec<Value> = array
                .kinds
                .iter()
                .map(|kind| json!({ "$ref": format!("#/$defs/{}", name(kind)) }))
                .collect();
            properties[array.table.name] = json!({ "type": "array", "description": array.table.doc, "items": { "oneOf": references } });
            kinds.extend(
                array
                    .kinds
                    .iter()
                    .map(|kind| (name(kind), array.kind_schema(kind))),
            );
        }
        let mut whole = Map::new();
        whole.insert(
            "$schema".into(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        whole.insert("title".into(), "auditship configuration".into());
        if let Value::Object(schema) = schema {
            whole.extend(schema);
        }
        whole.insert("$defs".into(), Value::Object(kinds));
        Value::Object(whole)
    }

    /// The reference as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from(INTRODUCTION);
        let plain: Vec<_> = self
            .fields
            .iter()
            .copied()
            .filter(|field| field.fields().is_empty())
            .collect();
        let extends = Row {
            key: "extends".into(),
            doc: EXTENDS.into(),
            allowed: "a path".into(),
            default: None,
        };
        table(&mut text, [extends].into_iter().chain(rows("", &plain)));
        for field in self
            .fields
            .iter()
            .filter(|field| !field.fields().is_empty())
        {
            text.push_str(&format!("\n## `[{}]`\n\n{}\n\n", field.name(), field.doc()));
            table(&mut text, rows("", field.fields()).into_iter());
        }
        for array in &self.arrays {
            let name = array.table.name;
            text.push_str(&format!("\n## `[[{name}]]`\n\n{}\n\n", array.table.doc));
            let words: Vec<String> = array
                .kinds
                .iter()
                .map(|kind| format!("`\"{}\"`", kind.name))
                .collect();
            let common = [
                Row {
                    key: "type".into(),
                    doc: TYPE.into(),
                    allowed: words.join(", "),
                    default: None,
                }
                .required(),
                Row {
                    key: "enabled".into(),
                    doc: ENABLED.into(),
                    allowed: "`true` or `false`".into(),
                    default: Some("`true`".into()),
                },
            ];
            table(
                &mut text,
                common.into_iter().chain(rows("", array.table.fields)),
            );
            for kind in &array.kinds {
                text.push_str(&format!(
                    "\n### `[[{name}]]` of type `{}`\n\n{}\n",
                    kind.name, kind.summary
                ));
                if !kind.fields.is_empty() {
                    text.push('\n');
                    table(&mut text, rows("", kind.fields).into_iter());
                }
            }
        }
        text
    }

    /// What is wrong with the docs themselves: a default that cannot be read, a key twice, a key without a sentence.
    pub fn verify(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        verify("", &self.fields, &mut wrong);
        for array in &self.arrays {
            for kind in &array.kinds {
                let fields: Vec<_> = array
                    .table
                    .fields
                    .iter()
                    .chain(kind.fields)
                    .copied()
                    .collect();
                verify(
                    &format!("{}.{}.", array.table.name, kind.name),
                    &fields,
                    &mut wrong,
                );
            }
        }
        wrong
    }
}

fn verify(path: &str, fields: &[&'static dyn FieldDoc], wrong: &mut Vec<String>) {
    for (at, field) in fields.iter().enumerate() {
        let name = field.name();
        if !field.doc().ends_with('.') {
            wrong.push(format!(
                "{path}{name}: its documentation does not end in a sentence"
            ));
        }
        if fields[..at].iter().any(|other| other.name() == name)
            || matches!(name, "type" | "enabled" | "extends")
        {
            wrong.push(format!("{path}{name}: the key is taken"));
        }
        if let Err(error) = field.verify() {
            wrong.push(format!("{path}{name}: {error}"));
        }
        verify(&format!("{path}{name}."), field.fields(), wrong);
    }
}

impl ArrayDoc {
    fn kind_schema(&self, kind: &KindDoc) -> Value {
        let fields: Vec<&dyn FieldDoc> = self
            .table
            .fields
            .iter()
            .chain(kind.fields)
            .copied()
            .collect();
        let mut schema = object_schema(&fields);
        schema["description"] = kind.summary.into();
        schema["properties"]["type"] = json!({ "const": kind.name, "description": TYPE });
        schema["properties"]["enabled"] =
            json!({ "type": "boolean", "description": ENABLED, "default": true });
        match &mut schema["required"] {
            Value::Array(required) => required.insert(0, "type".into()),
            absent => *absent = json!(["type"]),
        }
        schema
    }
}

/// JSON Schema of a table with these keys and no others.
pub fn object_schema(fields: &[&dyn FieldDoc]) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| (field.name().to_owned(), property(*field)))
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| field.required())
        .map(|field| field.name())
        .collect();
    let mut schema =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(field: &dyn FieldDoc) -> Value {
    let mut schema = field.schema();
    schema["description"] = field.doc().into();
    if let Some(default) = field.default().and_then(json_of) {
        schema["default"] = default;
    }
    schema
}

/// TOML text as JSON.
fn json_of(toml: &str) -> Option<Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {toml}")).ok()?;
    serde_json::to_value(table.remove("value")?).ok()
}

/// A key in the reference.
struct Row {
    key: String,
    doc: String,
    allowed: String,
    default: Option<String>,
}

impl Row {
    fn required(self) -> Self {
        Row {
            default: Some("required".into()),
            ..self
        }
    }
}

/// A row for each key, the keys of tables below among them.
fn rows(path: &str, fields: &[&dyn FieldDoc]) -> Vec<Row> {
    let mut rows = Vec::new();
    for field in fields {
        let key = format!("{path}{}", field.name());
        if !field.fields().is_empty() {
            rows.extend(self::rows(&format!("{key}."), field.fields()));
            continue;
        }
        let default = field.default().map(|default| format!("`{default}`"));
        let row = Row {
            key,
            doc: field.doc().into(),
            allowed: field.allowed(),
            default,
        };
        rows.push(if field.required() {
            row.required()
        } else {
            row
        });
    }
    rows
}

fn table(text: &mut String, rows: impl Iterator<Item = Row>) {
    text.push_str("| key | what it is | allowed | default |\n|---|---|---|---|\n");
    for row in rows {
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let default = row.default.as_deref().unwrap_or("–");
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            cell(&row.key),
            cell(&row.doc),
            cell(&row.allowed),
            cell(default)
        ));
    }
}
