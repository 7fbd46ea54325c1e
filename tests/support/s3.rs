//! What a bucket holds, read and written with requests of our own: no code of the sink and no SDK.

use std::collections::BTreeMap;
use std::io::Read as _;

use sha2::{Digest, Sha256};

use super::http::{Http, Reply};
use super::oracle::hex;
use super::sigv4::{ToSign, encoded};
use super::wait::unix_ms;

/// The account that may do all, at the fake and at the real server.
pub(crate) const ACCESS_KEY: &str = "auditship";
/// Its secret.
pub(crate) const SECRET_KEY: &str = "auditship-secret";
/// Where they are.
pub(crate) const REGION: &str = "us-east-1";

/// A bucket, seen by the account that may do all.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// The server.
    pub(crate) http: Http,
    /// Its name.
    pub(crate) name: String,
}

impl Bucket {
    /// Keys below a prefix, in order; what is none of the sink's objects (its probe) is left out.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut after = String::new();
        loop {
            let query = format!(
                "list-type=2&prefix={}&start-after={}",
                encoded(prefix, false),
                encoded(&after, false)
            );
            let page = self.ask("GET", "", &query, b"", &[]);
            let text = String::from_utf8_lossy(&page.body).into_owned();
            let found = elements(&text, "Key");
            let Some(last) = found.last() else { break };
            after.clone_from(last);
            keys.extend(found.into_iter().filter(|key| key.contains(".jsonl")));
            if elements(&text, "IsTruncated") != ["true"] {
                break;
            }
        }
        keys
    }

    /// Every line of every object below a prefix, in the order of keys.
    pub(crate) fn lines(&self, prefix: &str) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for key in self.keys(prefix) {
            let body = self.content(&key);
            assert!(body.ends_with(b"\n"), "{key} ends in the middle of a line");
            let whole = &body[..body.len() - 1];
            lines.extend(whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        }
        lines
    }

    /// An object, inflated as its name says.
    pub(crate) fn content(&self, key: &str) -> Vec<u8> {
        let stored = self.ask("GET", key, "", b"", &[]).body;
        let mut body = Vec::new();
        if key.ends_with(".zst") {
            body = zstd::decode_all(&*stored).unwrap_or_else(|error| panic!("{key}: {error}"));
        } else if key.ends_with(".gz") {
            flate2::read::MultiGzDecoder::new(&*stored)
                .read_to_end(&mut body)
                .unwrap_or_else(|error| panic!("{key}: {error}"));
        } else {
            body = stored;
        }
        body
    }

    /// Headers of an object, names in lower case.
    pub(crate) fn head(&self, key: &str) -> BTreeMap<String, String> {
        self.ask("HEAD", key, "", b"", &[])
            .headers
            .into_iter()
            .collect()
    }

    /// Writes an object as a stranger would.
    pub(crate) fn put(&self, key: &str, body: &[u8]) {
        self.ask("PUT", key, "", body, &[]);
    }

    /// Begins an upload in parts as an agent that was killed would.
    pub(crate) fn begin_upload(&self, key: &str) {
        self.ask("POST", key, "uploads=", b"", &[]);
    }

    /// Keys of unfinished uploads below a prefix.
    pub(crate) fn uploads(&self, prefix: &str) -> Vec<String> {
        let page = self.ask("GET", "", "uploads=", b"", &[]);
        let mut keys = elements(&String::from_utf8_lossy(&page.body), "Key");
        keys.retain(|key| key.starts_with(prefix));
        keys
    }

    /// Versions of objects below a prefix, deletions too.
    pub(crate) fn versions(&self, prefix: &str) -> usize {
        let page = self.ask(
            "GET",
            "",
            &format!("prefix={}&versions=", encoded(prefix, false)),
            b"",
            &[],
        );
        elements(&String::from_utf8_lossy(&page.body), "VersionId").len()
    }

    /// One signed request, which must succeed.
    #[track_caller]
    pub(crate) fn ask(
        &self,
        method: &str,
        key: &str,
        query: &str,
        body: &[u8],
        more: &[(&str, &str)],
    ) -> Reply {
        let reply = self.try_ask(method, key, query, body, more);
        assert!(
            (200..300).contains(&reply.status),
            "{method} {key}?{query}: {} {}",
            reply.status,
            String::from_utf8_lossy(&reply.body)
        );
        reply
    }

    /// One signed request.
    #[track_caller]
    pub(crate) fn try_ask(
        &self,
        method: &str,
        key: &str,
        query: &str,
        body: &[u8],
        more: &[(&str, &str)],
    ) -> Reply {
        let (_, host) = self.http.url.split_once("://").expect("a URL");
        let payload = hex(&Sha256::digest(body));
        let time = time_of(unix_ms());
        let mut path = format!("/{}", self.name);
        if !key.is_empty() {
            path = format!("{path}/{}", encoded(key, true));
        }
        let mut headers: Vec<(String, String)> = [
            ("host", host),
            ("x-amz-content-sha256", &payload),
            ("x-amz-date", &time),
        ]
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
        let to_sign = ToSign {
            method,
            path: &path,
            query,
            headers: headers.clone(),
            payload: &payload,
            time: &time,
            region: REGION,
        };
        let authorization = to_sign.authorization(ACCESS_KEY, SECRET_KEY);
        headers.push(("authorization".to_owned(), authorization));
        let target = if query.is_empty() {
            path.clone()
        } else {
            format!("{path}?{query}")
        };
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.http
            .call(method, &target, &headers, body)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }
}

/// The texts of all XML elements of a name; S3's answers nest none of those that are asked for here.
pub(crate) fn elements(text: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    text.split(&open)
        .skip(1)
        .filter_map(|rest| {
            Some(
                rest.split_once(&close)?
                    .0
                    .replace("&#34;", "\"")
                    .replace("&amp;", "&"),
            )
        })
        .collect()
}

/// `20260101T000000Z`.
pub(crate) fn time_of(unix_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(unix_ms).expect("a time");
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}
