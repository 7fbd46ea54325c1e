//! What a configuration may say, and what it is told where it may not.

use std::path::Path;

use super::*;
use crate::config;

/// The settings of a sink with these keys beside its bucket, or what is wrong with them.
fn settings(keys: &str) -> Result<Settings, String> {
    let keys = match keys.contains("bucket") {
        true => keys.to_owned(),
        false => format!("bucket = \"audit\"\n{keys}"),
    };
    let document =
        config::Document::parse("test.toml", &keys, Path::new(".")).map_err(|d| d.to_string())?;
    let mut section = document.root();
    let settings = Settings::read(&mut section);
    section.finish();
    document.finish().map_err(|d| d.to_string())?;
    settings.ok_or_else(|| panic!("neither settings nor a mistake for {keys}"))
}

#[test]
fn the_shortest_configuration_names_a_bucket_at_aws() {
    let settings = settings("").unwrap();
    assert_eq!(settings.bucket, "audit");
    assert_eq!(settings.compression, Compression::Zstd);
    assert!(settings.endpoint.is_none() && settings.region.is_none());
    assert!(!settings.path_style && settings.keys.is_none());
    assert_eq!(settings.place(), "bucket audit");
}

#[test]
fn an_endpoint_has_the_bucket_in_the_path_unless_told_otherwise() {
    let at =
        |more: &str| settings(&format!("endpoint = \"https://s3.example.com/\"\n{more}")).unwrap();
    assert_eq!(at("").endpoint.as_deref(), Some("https://s3.example.com"));
    assert!(at("").path_style);
    assert!(!at("path_style = false").path_style);
}

#[test]
fn everything_can_be_said_at_once() {
    let settings = settings(
        "region = \"eu-central-1\"\ncompression = \"gzip\"\nstorage_class = \"GLACIER_IR\"\nsse = \"aws:kms\"\n\
         kms_key_id = \"alias/audit\"\nobject_lock = { mode = \"compliance\", days = 30 }\naccess_key = \"AK\"\n\
         secret_key = \"bare\"\nsession_token = \"bare\"\nkey_prefix = \"a/{event:%Y}/\"",
    )
    .unwrap();
    assert_eq!(settings.sse, Some(Sse::Kms));
    let lock = ObjectLock {
        mode: LockMode::Compliance,
        days: 30,
    };
    assert_eq!(settings.object_lock, Some(lock));
    // The access key is an id and no secret.
    assert_eq!(settings.bare_secrets(), 2);
}

#[test]
fn what_cannot_work_is_said_at_its_place() {
    for (keys, part) in [
        ("bucket = \"a\"", "3 to 63"),
        ("bucket = \"audit/logs\"", "key_prefix"),
        ("bucket = \"s3://audit\"", "no bucket's name"),
        ("region = \"Frankfurt\"", "eu-central-1"),
        ("endpoint = \"minio:9000\"", "http"),
        ("endpoint = \"https://u:p@minio\"", "credentials"),
        ("key_prefix = \"{origin.cluster}/\"", "literal prefix"),
        ("key_prefix = \"a//b/\"", "empty part"),
        ("storage_class = \"standard\"", "STANDARD_IA"),
        ("sse = \"kms\"", "aws:kms"),
        ("kms_key_id = \"k\"", "without KMS"),
        ("sse = \"AES256\"\nkms_key_id = \"k\"", "without KMS"),
        ("object_lock = { mode = \"compliance\" }", "`days`"),
        (
            "object_lock = { mode = \"forever\", days = 1 }",
            "governance",
        ),
        (
            "object_lock = { mode = \"compliance\", days = 0 }",
            "less than",
        ),
        ("access_key = \"AK\"", "add `secret_key`"),
        ("secret_key = \"hush-hush\"", "add `access_key`"),
        ("session_token = \"hush-hush\"", "add `access_key`"),
        (
            "endpoint = \"http://minio:9000\"\ntls = { server_name = \"x\" }",
            "does nothing",
        ),
    ] {
        match settings(keys) {
            Err(said) => {
                assert!(said.contains(part), "{keys}: {said}");
                assert!(!said.contains("hush-hush"), "{keys}: {said}");
            }
            Ok(_) => panic!("{keys} is taken"),
        }
    }
}
