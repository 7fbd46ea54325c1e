//! What an answer of S3 means, and what no answer means. Pure: status, code and message in, an outcome out.
//!
//! Invariants: whatever is not understood stops the sink or is tried again, never taken for stored; nothing is ever
//! about an event: S3 does not read what it stores; what others wrote in a reason is one line of 512 bytes at most.

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::transport::Unusable;
use crate::clock::Micros;
use crate::net::http_client::HttpError;
use crate::sinks::Outcome;
use crate::sinks::http_connection::bounded;

/// A request that was not carried out, or not seen to be.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server refused it.
    Refused(Refusal),
    /// No answer.
    Broken(HttpError),
    /// No credentials to sign it with.
    Credentials { problem: String, passes: bool },
    /// It could not be made: nothing was sent.
    Unusable(String),
    /// Something answered that is not S3.
    Strange(String),
}

/// An answer that is no success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// S3's own word for it; empty where there is no body (`HEAD`).
    pub(super) code: String,
    /// S3's own sentence.
    pub(super) message: String,
    /// `Retry-After`.
    pub(super) after: Option<Duration>,
    /// `Date`.
    pub(super) date: Option<Micros>,
    /// `x-amz-bucket-region`.
    pub(super) region: Option<String>,
}

impl Trouble {
    /// What the SDK's error says. `now` is for a `Retry-After` that is a date.
    pub(super) fn of<E>(error: &SdkError<E>, now: Micros) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let lines = told(error);
        match error {
            SdkError::ServiceError(context) => {
                Trouble::Refused(refusal(context.raw(), context.err(), now))
            }
            SdkError::ResponseError(context) => {
                let status = context.raw().status().as_u16();
                Trouble::Strange(format!("an answer {status} that is none of S3: {lines}"))
            }
            _ => Trouble::without_answer(error, lines),
        }
    }

    fn without_answer(error: &(dyn std::error::Error + 'static), lines: String) -> Self {
        let mut cause = Some(error);
        while let Some(current) = cause {
            if let Some(error) = current.downcast_ref::<HttpError>() {
                return Trouble::Broken(error.clone());
            }
            if let Some(Unusable(problem)) = current.downcast_ref::<Unusable>() {
                return Trouble::Unusable(problem.clone());
            }
            if let Some(error) = current.downcast_ref::<CredentialsError>() {
                return Trouble::Credentials {
                    problem: told(error),
                    passes: matches!(error, CredentialsError::ProviderTimedOut(_)),
                };
            }
            cause = current.source();
        }
        Trouble::Unusable(lines)
    }

    /// The refusal, where it is one.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Trouble::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the server refused with one of these codes.
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.refusal()
            .is_some_and(|refusal| codes.contains(&refusal.code.as_str()))
    }

    /// Whether the server refused with this status.
    pub(super) fn is_status(&self, status: u16) -> bool {
        self.refusal()
            .is_some_and(|refusal| refusal.status == status)
    }

    /// What it means for the attempt. `doing` and `place` begin the reason; `stores`: whether the request stores.
    pub(super) fn outcome(self, doing: &str, place: &str, stores: bool) -> Outcome {
        let again = |reason: String, after, in_doubt| Outcome::Retry {
            after,
            reason: bounded(reason),
            in_doubt,
        };
        match self {
            Trouble::Refused(refusal) => refusal.outcome(doing, place, stores),
            Trouble::Broken(error @ HttpError::Untrusted(_)) => Outcome::Stop {
                reason: bounded(format!("{doing} at {place}: {error}"))
                    + "; check `tls`, `endpoint` and the server's certificate",
            },
            Trouble::Broken(error @ HttpError::Unreachable(_)) => {
                again(format!("{doing} at {place}: {error}"), None, false)
            }
            Trouble::Broken(error) => again(format!("{doing} at {place}: {error}"), None, stores),
            Trouble::Credentials {
                problem,
                passes: true,
            } => again(
                format!("no credentials for {place}: {problem}"),
                None,
                false,
            ),
            Trouble::Credentials {
                problem,
                passes: false,
            } => Outcome::Stop {
                reason: bounded(format!("no credentials for {place}: {problem}"))
                    + "; set `access_key` and `secret_key`, or give the agent a role or profile",
            },
            Trouble::Unusable(problem) => Outcome::Stop {
                reason: bounded(format!("{doing} at {place} cannot be asked for: {problem}")),
            },
            Trouble::Strange(problem) => {
                again(format!("{doing} at {place}: {problem}"), None, stores)
            }
        }
    }
}

fn refusal<E: ProvideErrorMetadata>(raw: &HttpResponse, error: &E, now: Micros) -> Refusal {
    let header = |name: &str| raw.headers().get(name).map(str::to_owned);
    let date = header("date").and_then(|text| time_of(&text));
    let after = header("retry-after").and_then(|text| match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let us = time_of(&text)?.0.saturating_sub(date.unwrap_or(now).0);
            Some(Duration::from_micros(u64::try_from(us).unwrap_or(0)))
        }
    });
    Refusal {
        status: raw.status().as_u16(),
        code: error.code().unwrap_or_default().to_owned(),
        message: error.message().unwrap_or_default().to_owned(),
        after,
        date,
        region: header("x-amz-bucket-region"),
    }
}

/// An HTTP date.
fn time_of(text: &str) -> Option<Micros> {
    let time = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(Micros(time.timestamp().as_microsecond()))
}

/// Codes that mean: once more, as it is.
const AGAIN: [&str; 14] = [
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
];

impl Refusal {
    fn outcome(self, doing: &str, place: &str, stores: bool) -> Outcome {
        let reason = self.reason(doing, place);
        let again = AGAIN.contains(&self.code.as_str())
            || self.code == "NoSuchUpload"
            || matches!(self.status, 408 | 425 | 429 | 500..=599) && self.code != "NotImplemented";
        if again {
            return Outcome::Retry {
                after: self.after,
                // 5xx may hide that it was carried out; a 4xx was looked at and refused.
                in_doubt: stores && self.status >= 500 && self.code != "SlowDown",
                reason,
            };
        }
        let advice = self.advice();
        Outcome::Stop {
            reason: format!("{reason}; {advice}"),
        }
    }

    fn reason(&self, doing: &str, place: &str) -> String {
        let Refusal {
            status,
            code,
            message,
            ..
        } = self;
        let mut line = format!("{doing} at {place} answered {status}");
        for (sign, text) in [(" ", code), (": ", message)] {
            if !text.is_empty() {
                line.push_str(sign);
                line.push_str(text);
            }
        }
        bounded(line)
    }

    /// What an operator has to do.
    fn advice(&self) -> String {
        let code = self.code.as_str();
        if code.starts_with("KMS.") || code.starts_with("kms:") || self.message.contains("KMS") {
            return "mend the key under `kms_key_id` (or the bucket's own): it must exist, be enabled, and let the \
                    credentials use it (kms:GenerateDataKey, kms:Decrypt)"
                .to_owned();
        }
        let text = match code {
            "NoSuchBucket" => "make the bucket, or correct `bucket` and `endpoint`",
            "InvalidAccessKeyId" => "correct `access_key`, or make the key active again",
            "SignatureDoesNotMatch" => "correct `secret_key`",
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "ExpiredTokenException" => {
                "renew the temporary credentials: files are read again for every request"
            }
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "IllegalLocationConstraintException" => return self.region_advice(),
            "InvalidStorageClass" => "correct `storage_class`",
            "EntityTooLarge" | "MaxMessageLengthExceeded" => {
                "lower `batch.bytes`: the server takes no object so large"
            }
            "InvalidRequest"
            | "ObjectLockConfigurationNotFoundError"
            | "InvalidRetentionPeriod"
            | "MissingContentMD5"
                if self.message.to_lowercase().contains("lock")
                    || self.message.to_lowercase().contains("retention")
                    || code != "InvalidRequest" =>
            {
                "turn on Object Lock for the bucket, or take `object_lock` out"
            }
            "KeyTooLongError" | "XMinioInvalidObjectName" => "shorten `key_prefix`",
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
                "give the credentials s3:PutObject, s3:GetObject and s3:AbortMultipartUpload on the prefix (and \
                 s3:PutObjectRetention with `object_lock`)"
            }
            _ => match self.status {
                301 | 307 | 308 => return self.region_advice(),
                401 | 403 => "check the credentials and their rights on the bucket",
                404 => "check `bucket` and `endpoint`",
                407 => "the proxy wants credentials: write them into `proxy`",
                405 | 501 => "is this an S3 server? check `endpoint`",
                _ => "check the sink's keys and what stands before the server",
            },
        };
        text.to_owned()
    }

    fn region_advice(&self) -> String {
        match self.named_region() {
            Some(region) => format!("set `region = \"{region}\"`"),
            None => "set `region` to the bucket's own, or correct `endpoint`".to_owned(),
        }
    }

    /// The region that the server names: in a header, or `expecting 'eu-west-1'` in the message.
    fn named_region(&self) -> Option<String> {
        self.region.clone().or_else(|| {
            let rest = self.message.split("expecting ").nth(1)?;
            // Each server has its own quotes.
            let region = rest.strip_prefix(['\'', '"'])?;
            Some(region.split(['\'', '"']).next()?.to_owned())
        })
    }
}

/// An error and its causes in one line.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let text = current.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = current.source();
    }
    bounded(line)
}
