//! Schema and reference, made from the field docs of the kinds.

use super::reference::{ArrayDoc, KindDoc, Reference};
use super::*;

fn reference() -> Reference {
    Reference {
        fields: vec![&AGENT],
        arrays: vec![ArrayDoc {
            table: &SINK,
            kinds: vec![
                KindDoc {
                    name: "elasticsearch",
                    summary: "Bulk requests.",
                    fields: SEARCH,
                },
                KindDoc {
                    name: "stdout",
                    summary: "Standard output.",
                    fields: &[],
                },
            ],
        }],
    }
}

#[test]
fn the_schema_has_every_key_with_type_default_and_description() {
    let found = serde_json::to_string_pretty(&reference().schema()).unwrap();
    compare(
        &found,
        r##"
{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "auditship configuration",
  "type": "object",
  "properties": {
    "agent": {
      "type": "object",
      "properties": {
        "cluster": {
          "type": "string",
          "description": "Name of the cluster."
        },
        "memory": {
          "type": "string",
          "pattern": "^\\s*[0-9]+\\s*([KMGT]i?)?B\\s*$|\\$",
          "description": "Ceiling of memory.",
          "default": "64MiB"
        },
        "labels": {
          "type": "object",
          "additionalProperties": {
            "type": "string"
          },
          "description": "Static labels."
        }
      },
      "additionalProperties": false,
      "required": [
        "cluster"
      ],
      "description": "The agent."
    },
    "extends": {
      "type": "string",
      "description": "A file that this one is laid over, relative to this one. Tables merge, arrays of tables match by name, lists are replaced whole."
    },
    "sink": {
      "type": "array",
      "description": "A sink.",
      "items": {
        "oneOf": [
          {
            "$ref": "#/$defs/sink.elasticsearch"
          },
          {
            "$ref": "#/$defs/sink.stdout"
          }
        ]
      }
    }
  },
  "additionalProperties": false,
  "$defs": {
    "sink.elasticsearch": {
      "type": "object",
      "properties": {
        "name": {
          "type": "string",
          "pattern": "^[a-z0-9][a-z0-9-]*$|\\$",
          "maxLength": 63,
          "description": "Name."
        },
        "batch": {
          "type": "object",
          "properties": {
            "events": {
              "type": "integer",
              "minimum": 1,
              "maximum": 100000,
              "description": "Events of a batch.",
              "default": 10000
            },
            "wait": {
              "type": "string",
              "pattern": "^\\s*([0-9]+\\s*(d|h|m|s|ms)\\s*)+$|\\$",
              "description": "Longest wait.",
              "default": "1s"
            }
          },
          "additionalProperties": false,
          "description": "Batches."
        },
        "policy": {
          "type": "string",
          "minLength": 1,
          "description": "A policy."
        },
        "rate": {
          "type": "number",
          "maximum": 1.0,
          "description": "A rate."
        },
        "endpoints": {
          "type": "array",
          "items": {
            "type": "string"
          },
          "description": "Where to send."
        },
        "api_key": {
          "oneOf": [
            {
              "type": "object",
              "description": "A file that holds the secret, relative to this one; re-read when it changes.",
              "properties": {
                "file": {
                  "type": "string"
                }
              },
              "required": [
                "file"
              ],
              "additionalProperties": false
            },
            {
              "type": "object",
              "description": "An environment variable that holds the secret.",
              "properties": {
                "env": {
                  "type": "string"
                }
              },
              "required": [
                "env"
              ],
              "additionalProperties": false
            },
            {
              "type": "object",
              "description": "A systemd credential, found in $CREDENTIALS_DIRECTORY.",
              "properties": {
                "credential": {
                  "type": "string"
                }
              },
              "required": [
                "credential"
              ],
              "additionalProperties": false
            },
            {
              "type": "string",
              "description": "The secret itself; `check` warns."
            }
          ],
          "description": "An API key."
        },
        "compression": {
          "enum": [
            "gzip",
            "none"
          ],
          "description": "How to compress.",
          "default": "gzip"
        },
        "verify": {
          "type": "boolean",
          "description": "Whether to verify.",
          "default": true
        },
        "type": {
          "const": "elasticsearch",
          "description": "Which kind it is."
        },
        "enabled": {
          "type": "boolean",
          "description": "`false` takes the table out, also where it comes from the file that this one extends.",
          "default": true
        }
      },
      "additionalProperties": false,
      "required": [
        "type",
        "name",
        "endpoints"
      ],
      "description": "Bulk requests."
    },
    "sink.stdout": {
      "type": "object",
      "properties": {
        "name": {
          "type": "string",
          "pattern": "^[a-z0-9][a-z0-9-]*$|\\$",
          "maxLength": 63,
          "description": "Name."
        },
        "batch": {
          "type": "object",
          "properties": {
            "events": {
              "type": "integer",
              "minimum": 1,
              "maximum": 100000,
              "description": "Events of a batch.",
              "default": 10000
            },
            "wait": {
              "type": "string",
              "pattern": "^\\s*([0-9]+\\s*(d|h|m|s|ms)\\s*)+$|\\$",
              "description": "Longest wait.",
              "default": "1s"
            }
          },
          "additionalProperties": false,
          "description": "Batches."
        },
        "policy": {
          "type": "string",
          "minLength": 1,
          "description": "A policy."
        },
        "rate": {
          "type": "number",
          "maximum": 1.0,
          "description": "A rate."
        },
        "type": {
          "const": "stdout",
          "description": "Which kind it is."
        },
        "enabled": {
          "type": "boolean",
          "description": "`false` takes the table out, also where it comes from the file that this one extends.",
          "default": true
        }
      },
      "additionalProperties": false,
      "required": [
        "type",
        "name"
      ],
      "description": "Standard output."
    }
  }
}"##,
    );
}

#[test]
fn the_reference_has_a_row_for_every_key() {
    let text = reference().markdown();
    let tables = text.find("| key").expect("the first table");
    compare(
        &text[tables..],
        r#"
| key | what it is | allowed | default |
|---|---|---|---|
| `extends` | A file that this one is laid over, relative to this one. Tables merge, arrays of tables match by name, lists are replaced whole. | a path | – |

## `[agent]`

The agent.

| key | what it is | allowed | default |
|---|---|---|---|
| `cluster` | Name of the cluster. | a string | required |
| `memory` | Ceiling of memory. | a size such as `"64MiB"` or `"10GB"`, from `"32MiB"` to `"1GiB"` | `"64MiB"` |
| `labels` | Static labels. | a table `{ key = … }` of: a string | – |

## `[[sink]]`

A sink.

| key | what it is | allowed | default |
|---|---|---|---|
| `type` | Which kind it is. | `"elasticsearch"`, `"stdout"` | required |
| `enabled` | `false` takes the table out, also where it comes from the file that this one extends. | `true` or `false` | `true` |
| `name` | Name. | a name of lowercase letters, digits and `-`, beginning with a letter or digit | required |
| `batch.events` | Events of a batch. | a whole number, from `1` to `100000` | `10000` |
| `batch.wait` | Longest wait. | a duration such as `"100ms"`, `"30s"`, `"2h"` or `"30d"` | `"1s"` |
| `policy` | A policy. | a path, relative to the file it stands in | – |
| `rate` | A rate. | a number, at most `1.0` | – |

### `[[sink]]` of type `elasticsearch`

Bulk requests.

| key | what it is | allowed | default |
|---|---|---|---|
| `endpoints` | Where to send. | a list of: a string | required |
| `api_key` | An API key. | a secret: `{ file = "…" }`, `{ env = "…" }` or `{ credential = "…" }` | – |
| `compression` | How to compress. | `"gzip"` or `"none"` | `"gzip"` |
| `verify` | Whether to verify. | `true` or `false` | `true` |

### `[[sink]]` of type `stdout`

Standard output."#,
    );
}

#[test]
fn docs_that_are_wrong_in_themselves_are_found() {
    assert_eq!(reference().verify(), Vec::<String>::new());
    const BAD: Field<ByteSize> = Field::new("bad", "no sentence").default("64");
    const LOW: Field<u64> = Field::new("low", "Low.").default("1").min("5");
    const TWICE: Field<u64> = Field::new("low", "Low.").default("?");
    let reference = Reference {
        fields: vec![&BAD, &LOW, &TWICE],
        arrays: Vec::new(),
    };
    compare(
        &reference.verify().join("\n"),
        r#"
bad: its documentation does not end in a sentence
bad: default of `bad`: this size has no unit
did you mean `"64MiB"`?
low: default of `low`: this is less than `5`
low: the key is taken
low: default of `low`: `?` is not TOML"#,
    );
}
