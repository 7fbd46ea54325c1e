//! The s3 sink's own keys: what they are called, what they mean, which of them go together.
//!
//! Invariants: every mistake is reported at its place; what cannot work (a key id without KMS, half a pair of
//! credentials, a key that no object can have) is refused here and not by the server.

use std::sync::Arc;

use super::key::{self, Prefix};
use crate::config::{Choice, Field, FieldDoc, Secret, Section, Spanned, TableDoc};
use crate::event::Origin;
use crate::net::tls::TlsFiles;
use crate::sinks::http_connection::settings as http;

/// Its keys, beside the common ones.
pub(super) static FIELDS: &[&dyn FieldDoc] = &[
    &BUCKET,
    &REGION,
    &ENDPOINT,
    &PATH_STYLE,
    &KEY_PREFIX,
    &COMPRESSION,
    &STORAGE_CLASS,
    &SSE,
    &KMS_KEY_ID,
    &OBJECT_LOCK,
    &ACCESS_KEY,
    &SECRET_KEY,
    &SESSION_TOKEN,
    &http::TLS,
];

static BUCKET: Field<Spanned<String>> =
    Field::new("bucket", "The bucket. It must exist.").required();

static REGION: Field<Spanned<String>> = Field::new(
    "region",
    "The bucket's region. Without it: `AWS_REGION`, the profile or the machine's metadata; with an `endpoint`, \
     `us-east-1`.",
);

static ENDPOINT: Field<Spanned<String>> = Field::new(
    "endpoint",
    "URL of an S3-compatible server, such as `https://minio.example.com:9000`. Without it, AWS.",
);

static PATH_STYLE: Field<bool> = Field::new(
    "path_style",
    "Whether the bucket stands in the path (`https://host/bucket/key`) instead of the host name. `true` where \
     `endpoint` is set, else `false`.",
);

static KEY_PREFIX: Field<Spanned<String>> = Field::new(
    "key_prefix",
    "What an object's key begins with. A template of `{origin.cluster}`, `{origin.node}`, `{origin.source}` and the \
     time of the object's first event, such as `{event:%Y/%m/%d}`; it begins with a literal. \
     `<node>-<spool>-<first record>-<last record>.jsonl.zst` follows.",
)
.default(key::PREFIX_DEFAULT);

static COMPRESSION: Field<Compression> =
    Field::new("compression", "Of objects.").default("\"zstd\"");

static STORAGE_CLASS: Field<Spanned<String>> = Field::new(
    "storage_class",
    "Storage class of objects, such as `STANDARD_IA` or `GLACIER_IR`. Without it, the bucket's own.",
);

static SSE: Field<Sse> = Field::new(
    "sse",
    "Encryption at the server, beside what the bucket does by itself: `AES256`, or `aws:kms` with `kms_key_id`.",
);

static KMS_KEY_ID: Field<Spanned<String>> = Field::new(
    "kms_key_id",
    "Id or ARN of the KMS key, for `sse = \"aws:kms\"`. Without it, the account's own key for S3.",
);

static OBJECT_LOCK: TableDoc = TableDoc {
    name: "object_lock",
    doc: "Retention of each object, in a bucket with Object Lock: nobody removes or changes it before its time.",
    fields: &[&MODE, &DAYS],
};

static MODE: Field<LockMode> = Field::new(
    "mode",
    "`compliance`: nobody may shorten it; `governance`: those with a special right may.",
)
.required();

static DAYS: Field<u32> = Field::new("days", "Days from the moment of storing.")
    .min("1")
    .max("36500")
    .required();

static ACCESS_KEY: Field<Secret> = Field::new(
    "access_key",
    "Access key id; goes with `secret_key`. Without them the AWS default chain: environment, profile, web identity, \
     the machine's or container's metadata.",
);

static SECRET_KEY: Field<Secret> = Field::new("secret_key", "Secret of `access_key`.");

static SESSION_TOKEN: Field<Secret> = Field::new(
    "session_token",
    "Session token of temporary credentials. Files under these three keys are read again for every request.",
);

/// `compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Zstd,
    Gzip,
    None,
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("zstd", Compression::Zstd),
        ("gzip", Compression::Gzip),
        ("none", Compression::None),
    ];
}

/// `sse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sse {
    Aes256,
    Kms,
}

impl Choice for Sse {
    const WORDS: &'static [(&'static str, Self)] =
        &[("AES256", Sse::Aes256), ("aws:kms", Sse::Kms)];
}

/// `object_lock.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockMode {
    Governance,
    Compliance,
}

impl Choice for LockMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("governance", LockMode::Governance),
        ("compliance", LockMode::Compliance),
    ];
}

/// `object_lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectLock {
    pub(super) mode: LockMode,
    pub(super) days: u32,
}

/// Credentials from the configuration.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) access_key: Secret,
    pub(super) secret_key: Secret,
    pub(super) session_token: Option<Secret>,
}

/// The sink's own configuration, valid as far as the file tells.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) bucket: String,
    pub(super) region: Option<String>,
    /// Without a slash at the end.
    pub(super) endpoint: Option<String>,
    pub(super) path_style: bool,
    pub(super) prefix: Prefix,
    pub(super) compression: Compression,
    pub(super) storage_class: Option<String>,
    pub(super) sse: Option<Sse>,
    pub(super) kms_key_id: Option<String>,
    pub(super) object_lock: Option<ObjectLock>,
    /// `None`: the AWS default chain.
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) tls: TlsFiles,
}

impl Settings {
    /// Reads the section; mistakes go to its diagnostics, `None` then.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let bucket = bucket(section);
        let region = word(
            section,
            &REGION,
            |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            "a region such as `eu-central-1`",
        );
        let endpoint = endpoint(section);
        let path_style = section.get(&PATH_STYLE);
        let prefix = prefix(section);
        let compression = section.get(&COMPRESSION);
        let storage_class = word(
            section,
            &STORAGE_CLASS,
            |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_',
            "a storage class such as `STANDARD_IA`",
        );
        let encryption = encryption(section);
        let object_lock = object_lock(section);
        let keys = keys(section);
        let endpoints = endpoint.iter().flatten().cloned().collect::<Vec<_>>();
        let tls = http::tls(section, Some(&endpoints));
        let endpoint = endpoint?;
        let (sse, kms_key_id) = encryption?;
        Some(Settings {
            bucket: bucket?,
            region: region?,
            path_style: path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            prefix: prefix?,
            compression: compression?,
            storage_class: storage_class?,
            sse,
            kms_key_id,
            object_lock: object_lock?,
            keys: keys?,
            tls: tls?,
        })
    }

    /// Secrets written as bare strings.
    pub(super) fn bare_secrets(&self) -> usize {
        let Some(keys) = &self.keys else { return 0 };
        // The access key's id is no secret, wherever it stands.
        [Some(&keys.secret_key), keys.session_token.as_ref()]
            .into_iter()
            .flatten()
            .filter(|secret| secret.is_bare())
            .count()
    }

    /// Bucket and server, for messages.
    pub(super) fn place(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("bucket {} at {endpoint}", self.bucket),
            None => format!("bucket {}", self.bucket),
        }
    }
}

fn bucket(section: &mut Section<'_>) -> Option<String> {
    let name = section.get(&BUCKET)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let problem = if !(3..=63).contains(&name.value.len()) {
        "a bucket's name has 3 to 63 characters"
    } else if !name.value.chars().all(plain) || name.value.contains("..") {
        "this is no bucket's name"
    } else {
        return Some(name.value);
    };
    section.wrong_value(
        "bucket",
        name.at,
        problem,
        "the bucket's name alone, such as `audit-archive`; what stands before an object's name goes to `key_prefix`",
    );
    None
}

/// `Some(None)`: none given. `None`: a mistake.
fn word(
    section: &mut Section<'_>,
    field: &Field<Spanned<String>>,
    plain: fn(char) -> bool,
    allowed: &str,
) -> Option<Option<String>> {
    let Some(word) = section.get(field) else {
        return (!section.has(field.name)).then_some(None);
    };
    if word.value.is_empty() || !word.value.chars().all(plain) {
        section.wrong_value(field.name, word.at, "this is none", allowed);
        return None;
    }
    Some(Some(word.value))
}

/// `Some(None)`: none given. `None`: a mistake.
fn endpoint(section: &mut Section<'_>) -> Option<Option<String>> {
    let Some(given) = section.get(&ENDPOINT) else {
        return (!section.has("endpoint")).then_some(None);
    };
    match http::endpoint(&given.value) {
        Ok(endpoint) => Some(Some(endpoint)),
        Err((problem, _)) => {
            let allowed =
                "a URL such as \"https://minio.example.com:9000\", without bucket and credentials";
            section.wrong_value("endpoint", given.at, problem, allowed);
            None
        }
    }
}

fn prefix(section: &mut Section<'_>) -> Option<Prefix> {
    let given = section.get(&KEY_PREFIX)?;
    match Prefix::parse(&given.value) {
        Ok(prefix) => Some(prefix),
        Err(problems) => {
            for problem in problems {
                section.wrong_value("key_prefix", given.at, problem, key::PREFIXES);
            }
            None
        }
    }
}

/// Encryption and the id of its key. `None`: a mistake.
fn encryption(section: &mut Section<'_>) -> Option<(Option<Sse>, Option<String>)> {
    let sse = section.get(&SSE);
    let key = section.get(&KMS_KEY_ID);
    if sse.is_none() && section.has("sse") || key.is_none() && section.has("kms_key_id") {
        return None;
    }
    if let Some(key) = &key
        && sse != Some(Sse::Kms)
    {
        let help = Some("set `sse = \"aws:kms\"`, or take `kms_key_id` out".to_owned());
        section.error_at(key.at, "`kms_key_id` means nothing without KMS", help);
        return None;
    }
    Some((sse, key.map(|key| key.value)))
}

/// `Some(None)`: none given. `None`: a mistake.
fn object_lock(section: &mut Section<'_>) -> Option<Option<ObjectLock>> {
    if !section.has("object_lock") {
        return Some(None);
    }
    let mut table = section.table(&OBJECT_LOCK)?;
    let (mode, days) = (table.get(&MODE), table.get(&DAYS));
    Some(Some(ObjectLock {
        mode: mode?,
        days: days?,
    }))
}

/// `Some(None)`: none given. `None`: a mistake.
fn keys(section: &mut Section<'_>) -> Option<Option<Arc<Keys>>> {
    let access_key = section.get(&ACCESS_KEY);
    let secret_key = section.get(&SECRET_KEY);
    let session_token = section.get(&SESSION_TOKEN);
    let mut whole = true;
    for (has, other) in [
        ("access_key", "secret_key"),
        ("secret_key", "access_key"),
        ("session_token", "access_key"),
    ] {
        if section.has(has) && !section.has(other) {
            let help = Some(format!(
                "add `{other}`, or take `{has}` out for the AWS default chain"
            ));
            section.error_at(
                section.place_of(has),
                format!("`{has}` without `{other}`"),
                help,
            );
            whole = false;
        }
    }
    match (access_key, secret_key) {
        _ if !whole => None,
        (None, None) if !section.has("access_key") => Some(None),
        (access_key, secret_key) => {
            if section.has("session_token") && session_token.is_none() {
                return None;
            }
            Some(Some(Arc::new(Keys {
                access_key: access_key?,
                secret_key: secret_key?,
                session_token,
            })))
        }
    }
}

/// An origin for trying a template.
pub(super) fn sample_origin() -> Origin {
    Origin {
        cluster: "cluster".into(),
        node: "node".into(),
        source: "source".into(),
    }
}

#[cfg(test)]
mod tests;
