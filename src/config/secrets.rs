//! Secrets: from a file, the environment or a systemd credential; re-read when they change; never shown.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::json;
use zeroize::Zeroizing;

use super::diagnostics::Diagnostic;
use super::section::{Node, REPORTED, Value};
use super::variables::Environment;

/// Where a secret comes from, and its value when asked. `Debug` shows only the origin.
#[derive(Clone)]
pub struct Secret {
    origin: Origin,
}

#[derive(Clone)]
enum Origin {
    File(PathBuf),
    Variable(String, Environment),
    Credential(PathBuf),
    Bare(Arc<Zeroizing<String>>),
}

/// Greater than any key or token; a secret file that is larger is some other file.
const BYTES_MAX: u64 = 64 * 1024;

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.origin_text())
    }
}

/// Where it comes from, never what it is.
impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.origin_text())
    }
}

impl Secret {
    /// Reads the present value (files are read anew each time; a trailing line feed is cut). Never logged.
    pub fn reveal(&self) -> Result<Zeroizing<String>, String> {
        let value = match &self.origin {
            Origin::File(path) | Origin::Credential(path) => read_file(path)?,
            Origin::Variable(name, environment) => Zeroizing::new(environment.get(name)?),
            Origin::Bare(value) => Zeroizing::clone(value),
        };
        if value.is_empty() {
            return Err(format!("the secret in {} is empty", self.origin_text()));
        }
        Ok(value)
    }

    /// A value that changes whenever the secret does, without telling it: hashed with a key of this process. A
    /// secret that cannot be read has one too.
    pub fn fingerprint(&self) -> u64 {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        let revealed = self.reveal().map_err(|_| ());
        KEY.get_or_init(RandomState::new)
            .hash_one(revealed.as_ref().map(|value| value.as_str()))
    }

    /// Whether it was written into the configuration as a bare string.
    pub fn is_bare(&self) -> bool {
        matches!(self.origin, Origin::Bare(_))
    }

    fn origin_text(&self) -> String {
        match &self.origin {
            Origin::File(path) => format!("file {}", path.display()),
            Origin::Variable(name, _) => format!("environment variable {name}"),
            Origin::Credential(path) => format!("credential {}", path.display()),
            Origin::Bare(_) => "the configuration".into(),
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot read the secret file {}: {error}", path.display())
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(failed(&"it is larger than 64KiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| failed(&"it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(
        text.strip_suffix('\r').unwrap_or(text).to_owned(),
    ))
}

impl Value for Secret {
    const SECRET: bool = true;

    fn schema() -> serde_json::Value {
        let from = |key: &str, doc: &str| {
            json!({
                "type": "object",
                "description": doc,
                "properties": { key: { "type": "string" } },
                "required": [key],
                "additionalProperties": false,
            })
        };
        json!({ "oneOf": [
            from("file", "A file that holds the secret, relative to this one; re-read when it changes."),
            from("env", "An environment variable that holds the secret."),
            from("credential", "A systemd credential, found in $CREDENTIALS_DIRECTORY."),
            { "type": "string", "description": "The secret itself; `check` warns." },
        ] })
    }

    fn expected() -> String {
        "a secret: `{ file = \"…\" }`, `{ env = \"…\" }` or `{ credential = \"…\" }`".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        if let Some(text) = node.as_str() {
            node.hide();
            if !node.is_from_environment() {
                node.report(
                    Diagnostic::warning(format!(
                        "the secret `{}` stands in the configuration itself",
                        node.path()
                    ))
                    .label("everyone who reads this file reads the secret")
                    .help("use `{ file = \"…\" }`, `{ env = \"…\" }` or `{ credential = \"…\" }`"),
                );
            }
            let secret = Secret {
                origin: Origin::Bare(Arc::new(Zeroizing::new(text.to_owned()))),
            };
            return secret
                .reveal()
                .map(|_| secret)
                .map_err(|_| "this secret is empty".into());
        }
        let entries = node.entries().ok_or_else(|| {
            node.hide();
            node.wrong_type()
        })?;
        let [(key, inner)] = entries.as_slice() else {
            entries.iter().for_each(|(_, inner)| inner.hide());
            return Err("a secret has exactly one of `file`, `env` and `credential`".into());
        };
        let text: String = match *key {
            "file" | "env" | "credential" => inner.read().ok_or(REPORTED)?,
            other => {
                inner.hide();
                return Err(format!("`{other}` is not a place for a secret"));
            }
        };
        let origin = match *key {
            "file" => Origin::File(inner.dir().join(text)),
            "env" => Origin::Variable(text, node.environment().clone()),
            _ => {
                if text.is_empty() || text.contains('/') || text == ".." {
                    return Err(
                        "the name of a credential is the name of a file, without a directory"
                            .into(),
                    );
                }
                let dir = node.environment().get("CREDENTIALS_DIRECTORY");
                let hint = "set LoadCredential= in the systemd unit";
                Origin::Credential(
                    Path::new(&dir.map_err(|error| format!("{error}\n{hint}"))?).join(text),
                )
            }
        };
        let secret = Secret { origin };
        // A secret that is missing at start is a mistake to show now, not a refused login later.
        secret.reveal().map(|_| secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(path: &Path) -> Secret {
        Secret {
            origin: Origin::File(path.to_owned()),
        }
    }

    #[test]
    fn a_secret_file_is_read_anew_and_its_fingerprint_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let secret = of_file(&path);
        let missing = secret.fingerprint();
        std::fs::write(&path, "one\n").unwrap();
        let one = secret.fingerprint();
        assert_eq!(secret.reveal().unwrap().as_str(), "one");
        std::fs::write(&path, "two\r\n").unwrap();
        assert_eq!(secret.reveal().unwrap().as_str(), "two");
        assert_ne!(secret.fingerprint(), one);
        assert_ne!(one, missing);
        std::fs::write(&path, "one").unwrap();
        assert_eq!(
            secret.fingerprint(),
            one,
            "the same secret has the same fingerprint"
        );
    }

    #[test]
    fn a_file_that_cannot_be_a_secret_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let check = |expected: &str| {
            let error = of_file(&path).reveal().unwrap_err();
            assert!(error.contains(expected) && error.contains("key"), "{error}");
        };
        check("No such file");
        std::fs::write(&path, "\n").unwrap();
        check("is empty");
        std::fs::write(&path, [0xff]).unwrap();
        check("not UTF-8");
        std::fs::write(&path, vec![b'a'; 65 * 1024]).unwrap();
        check("larger than 64KiB");
    }

    #[test]
    fn debug_and_display_show_only_where_it_comes_from() {
        let secret = Secret {
            origin: Origin::Bare(Arc::new(Zeroizing::new("hunter2".into()))),
        };
        assert_eq!(
            format!("{secret:?} {secret}"),
            "Secret(the configuration) the configuration"
        );
        assert_eq!(format!("{:?}", of_file(Path::new("/k"))), "Secret(file /k)");
    }
}
