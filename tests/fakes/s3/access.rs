//! Who is let in, and whether what arrived is what was signed.

use sha2::{Digest, Sha256};

use super::answers::error;
use crate::fakes::http_server::{Answer, Request};
use crate::support::oracle::hex;
use crate::support::s3::{ACCESS_KEY, REGION, SECRET_KEY};
use crate::support::sigv4::ToSign;

/// Accounts and what else is asked of a request.
pub(super) struct Access {
    /// Access key, secret, whether it may do anything.
    accounts: Vec<(&'static str, &'static str, bool)>,
    /// The session token that is valid now.
    pub(super) token: Option<String>,
}

impl Access {
    /// As the real server of the tests has it.
    pub(super) fn usual() -> Self {
        Access {
            accounts: vec![
                (ACCESS_KEY, SECRET_KEY, true),
                ("guest", "guest-secret", false),
            ],
            token: None,
        }
    }

    /// The refusal of a request that is not let in.
    pub(super) fn refuse(&self, request: &Request, now_ms: i64) -> Option<Answer> {
        let Some(parts) = Authorization::of(request) else {
            return Some(error(403, "AccessDenied", "Access Denied"));
        };
        let Some((_, secret, may)) = self
            .accounts
            .iter()
            .find(|(key, _, _)| *key == parts.access_key)
        else {
            return Some(error(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            ));
        };
        if parts.region != REGION {
            let message = format!(
                "The authorization header is malformed; the region '{}' is wrong; expecting '{REGION}'",
                parts.region
            );
            return Some(error(400, "AuthorizationHeaderMalformed", &message));
        }
        let time = request.header("x-amz-date").unwrap_or_default();
        let sent = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time)
            .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
            .map(|time| time.timestamp().as_millisecond());
        if sent.is_ok_and(|sent| sent.abs_diff(now_ms) > 15 * 60 * 1000) {
            return Some(error(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the server's time is too large.",
            ));
        }
        if request.header("x-amz-security-token") != self.token.as_deref() {
            return Some(error(
                400,
                "ExpiredToken",
                "The provided token has expired.",
            ));
        }
        let to_sign = ToSign {
            method: &request.method,
            path: &request.path,
            query: &request.query,
            headers: parts
                .signed
                .split(';')
                .map(|name| {
                    (
                        name.to_owned(),
                        request.header(name).unwrap_or_default().to_owned(),
                    )
                })
                .collect(),
            payload: request.header("x-amz-content-sha256").unwrap_or_default(),
            time,
            region: parts.region,
        };
        if to_sign.signature(secret) != parts.signature {
            return Some(error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            ));
        }
        (!may).then(|| error(403, "AccessDenied", "Access Denied"))
    }
}

/// The parts of an `Authorization`.
struct Authorization<'a> {
    access_key: &'a str,
    region: &'a str,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn of(request: &'a Request) -> Option<Self> {
        let text = request
            .header("authorization")?
            .strip_prefix("AWS4-HMAC-SHA256 ")?;
        let part = |name: &str| {
            text.split(", ")
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let mut scope = part("Credential")?.split('/');
        let (access_key, region) = (scope.next()?, scope.nth(1)?);
        Some(Authorization {
            access_key,
            region,
            signed: part("SignedHeaders")?,
            signature: part("Signature")?,
        })
    }
}

/// The refusal of a body that is not what the request says of it.
pub(super) fn refuse_body(request: &Request, body: &[u8]) -> Option<Answer> {
    let hash = Sha256::digest(body);
    match request.header("x-amz-content-sha256") {
        None => return Some(error(400, "MissingContentSHA256", "")),
        Some("UNSIGNED-PAYLOAD") => {}
        Some(signed) if signed == hex(&hash) => {}
        Some(_) => {
            let message =
                "The provided 'x-amz-content-sha256' header does not match what was computed.";
            return Some(error(400, "XAmzContentSHA256Mismatch", message));
        }
    }
    let checksum = request.header("x-amz-checksum-sha256");
    if checksum.is_some_and(|sent| sent != base64(&hash)) {
        let message = "The SHA256 you specified did not match the calculated checksum.";
        return Some(error(400, "BadDigest", message));
    }
    None
}

/// As checksums are written.
pub(super) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
