//! Buckets, objects and uploads.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::access::base64;
use super::answers::{error, xml};
use super::{About, Conditions, Operation};
use crate::fakes::http_server::{Answer, Request};
use crate::support::oracle::hex;
use crate::support::s3::elements;
use crate::support::sigv4::decoded;

/// Least bytes of a part that is not the last.
const PART_MIN: usize = 5 << 20;

/// Classes that AWS knows and a bucket takes.
const CLASSES: [&str; 4] = [
    "STANDARD",
    "STANDARD_IA",
    "GLACIER_IR",
    "INTELLIGENT_TIERING",
];

/// Headers that belong to an object and are given back with it.
const KEPT: [&str; 8] = [
    "content-type",
    "x-amz-checksum-sha256",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

#[derive(Default)]
struct Bucket {
    lock: bool,
    versioned: bool,
    objects: BTreeMap<String, Object>,
    /// Keys of every version that was ever made, deletions too.
    versions: Vec<String>,
    uploads: BTreeMap<String, Upload>,
}

#[derive(Clone)]
struct Object {
    body: Vec<u8>,
    headers: Vec<(String, String)>,
}

struct Upload {
    key: String,
    headers: Vec<(String, String)>,
    parts: BTreeMap<u32, Vec<u8>>,
}

/// Everything that is stored.
pub(super) struct Store {
    buckets: BTreeMap<String, Bucket>,
    next_upload: u64,
}

impl Store {
    pub(super) fn with_buckets() -> Self {
        let bucket = |lock, versioned| Bucket {
            lock,
            versioned,
            ..Bucket::default()
        };
        let buckets = [
            ("audit", bucket(false, false)),
            ("versioned", bucket(false, true)),
            ("locked", bucket(true, true)),
        ];
        Store {
            buckets: buckets
                .map(|(name, bucket)| (name.to_owned(), bucket))
                .into(),
            next_upload: 0,
        }
    }

    /// Carries a request out.
    pub(super) fn act(
        &mut self,
        operation: Operation,
        conditions: Conditions,
        bucket: &str,
        key: &str,
        request: &Request,
        body: Vec<u8>,
    ) -> Answer {
        self.next_upload += 1;
        let new_id = format!("upload-{}", self.next_upload);
        let Some(bucket) = self.buckets.get_mut(bucket) else {
            return error(404, "NoSuchBucket", "The specified bucket does not exist");
        };
        if request.header("if-none-match").is_some() && conditions == Conditions::Refused {
            return error(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
            );
        }
        let only_new =
            request.header("if-none-match") == Some("*") && conditions == Conditions::Heeded;
        let argument = |name: &str| {
            request
                .query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(found, _)| *found == name)
                .map(|(_, value)| decoded(value))
        };
        let upload = argument("uploadId").unwrap_or_default();
        match operation {
            Operation::Put => bucket.put(key, request, body, only_new),
            Operation::Head | Operation::Get => bucket.get(key),
            Operation::Delete => bucket.delete(key),
            Operation::Begin => bucket.begin(key, request, new_id),
            Operation::Part => {
                let number = argument("partNumber").and_then(|number| number.parse().ok());
                bucket.part(&upload, number.unwrap_or(0), body)
            }
            Operation::Complete => bucket.complete(&upload, &body, only_new),
            Operation::Abort => match bucket.uploads.remove(&upload) {
                Some(_) => Answer::empty(204),
                None => no_such_upload(),
            },
            Operation::Bucket(about) => bucket.about(
                about,
                &argument("prefix").unwrap_or_default(),
                &argument("start-after").unwrap_or_default(),
            ),
        }
    }
}

impl Bucket {
    fn put(&mut self, key: &str, request: &Request, body: Vec<u8>, only_new: bool) -> Answer {
        if let Some(refusal) = self.refuse_headers(request) {
            return refusal;
        }
        if only_new && self.objects.contains_key(key) {
            return exists();
        }
        let tag = hex(&Sha256::digest(&body));
        let headers = kept(request);
        self.store(key, Object { body, headers });
        let answer = Answer::empty(200).with("etag", format!("\"{tag}\""));
        match self.versioned {
            true => answer.with("x-amz-version-id", self.versions.len()),
            false => answer,
        }
    }

    fn store(&mut self, key: &str, object: Object) {
        self.versions.push(key.to_owned());
        self.objects.insert(key.to_owned(), object);
    }

    /// What AWS says of headers that cannot be.
    fn refuse_headers(&self, request: &Request) -> Option<Answer> {
        if request.header("x-amz-object-lock-mode").is_some() {
            if !self.lock {
                let message = "Bucket is missing Object Lock Configuration";
                return Some(error(400, "InvalidRequest", message));
            }
            let checked = [
                "content-md5",
                "x-amz-checksum-sha256",
                "x-amz-checksum-algorithm",
            ];
            if !checked.iter().any(|name| request.header(name).is_some()) {
                let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
                return Some(error(400, "InvalidRequest", message));
            }
        }
        if let Some(class) = request.header("x-amz-storage-class")
            && !CLASSES.contains(&class)
        {
            let message = "The storage class you specified is not valid";
            return Some(error(400, "InvalidStorageClass", message));
        }
        match request.header("x-amz-server-side-encryption-aws-kms-key-id") {
            None | Some("good-key") => None,
            Some("disabled-key") => Some(error(
                400,
                "KMS.DisabledException",
                "arn:aws:kms:us-east-1:1:key/disabled-key is disabled.",
            )),
            Some(_) => Some(error(400, "KMS.NotFoundException", "Invalid keyId")),
        }
    }

    fn get(&self, key: &str) -> Answer {
        let Some(object) = self.objects.get(key) else {
            return error(404, "NoSuchKey", "The specified key does not exist.");
        };
        let mut answer = Answer {
            content_type: None,
            ..Answer::json(200, object.body.clone())
        };
        answer.headers.clone_from(&object.headers);
        answer
    }

    fn delete(&mut self, key: &str) -> Answer {
        self.objects.remove(key);
        if self.versioned {
            self.versions.push(key.to_owned());
        }
        Answer::empty(204)
    }

    fn begin(&mut self, key: &str, request: &Request, id: String) -> Answer {
        if let Some(refusal) = self.refuse_headers(request) {
            return refusal;
        }
        let upload = Upload {
            key: key.to_owned(),
            headers: kept(request),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        xml(
            200,
            format!(
                "<InitiateMultipartUploadResult><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ),
        )
    }

    fn part(&mut self, id: &str, number: u32, body: Vec<u8>) -> Answer {
        let Some(upload) = self.uploads.get_mut(id) else {
            return no_such_upload();
        };
        let hash = Sha256::digest(&body);
        upload.parts.insert(number, body);
        Answer::empty(200)
            .with("etag", format!("\"{}\"", hex(&hash)))
            .with("x-amz-checksum-sha256", base64(&hash))
    }

    fn complete(&mut self, id: &str, body: &[u8], only_new: bool) -> Answer {
        let Some(upload) = self.uploads.get(id) else {
            return no_such_upload();
        };
        let wanted = String::from_utf8_lossy(body).into_owned();
        let numbers = elements(&wanted, "PartNumber");
        let tags = elements(&wanted, "ETag");
        let mut whole = Vec::new();
        for (index, (number, tag)) in numbers.iter().zip(&tags).enumerate() {
            let part = number
                .parse()
                .ok()
                .and_then(|number: u32| upload.parts.get(&number));
            let Some(part) = part.filter(|part| tag.contains(&hex(&Sha256::digest(part)))) else {
                return error(
                    400,
                    "InvalidPart",
                    "One or more of the specified parts could not be found.",
                );
            };
            if part.len() < PART_MIN && index + 1 < numbers.len() {
                let message = "Your proposed upload is smaller than the minimum allowed size";
                return error(400, "EntityTooSmall", message);
            }
            whole.extend_from_slice(part);
        }
        if numbers.is_empty() || numbers.len() != tags.len() {
            return error(400, "MalformedXML", "");
        }
        if only_new && self.objects.contains_key(&upload.key) {
            return exists();
        }
        let upload = self.uploads.remove(id).expect("it was there");
        let object = Object {
            body: whole,
            headers: upload.headers,
        };
        self.store(&upload.key, object);
        xml(
            200,
            format!(
                "<CompleteMultipartUploadResult><Key>{}</Key></CompleteMultipartUploadResult>",
                upload.key
            ),
        )
    }

    fn about(&self, about: About, prefix: &str, after: &str) -> Answer {
        match about {
            About::Existence => Answer::empty(200).with("x-amz-bucket-region", "us-east-1"),
            About::Lock if self.lock => xml(
                200,
                "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>".to_owned(),
            ),
            About::Lock => error(
                404,
                "ObjectLockConfigurationNotFoundError",
                "Object Lock configuration does not exist for this bucket",
            ),
            About::Objects => {
                let found: String = self
                    .objects
                    .keys()
                    .filter(|key| key.starts_with(prefix) && key.as_str() > after)
                    .map(|key| format!("<Contents><Key>{key}</Key></Contents>"))
                    .collect();
                xml(
                    200,
                    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"),
                )
            }
            About::Versions => {
                let found: String = self
                    .versions
                    .iter()
                    .filter(|key| key.starts_with(prefix))
                    .map(|key| format!("<Version><Key>{key}</Key><VersionId>v</VersionId></Version>"))
                    .collect();
                xml(200, format!("<ListVersionsResult>{found}</ListVersionsResult>"))
            }
            About::Uploads => {
                let found: String = self
                    .uploads
                    .iter()
                    .filter(|(_, upload)| upload.key.starts_with(prefix))
                    .map(|(id, upload)| {
                        format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", upload.key)
                    })
                    .collect();
                xml(
                    200,
                    format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{found}</ListMultipartUploadsResult>"),
                )
            }
        }
    }
}

fn kept(request: &Request) -> Vec<(String, String)> {
    request
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-amz-meta-") || KEPT.contains(&name.as_str()))
        .cloned()
        .collect()
}

fn exists() -> Answer {
    error(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    )
}

fn no_such_upload() -> Answer {
    error(
        404,
        "NoSuchUpload",
        "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
    )
}
