//! Requests to Elasticsearch or OpenSearch: what an answer other than the one hoped for means for the sink. The
//! connection itself is the one that sinks over HTTP share.

use super::verdict;
use crate::net::http_client::Answer;
use crate::sinks::Outcome;
pub(super) use crate::sinks::http_connection::{Attempt, Call, Connection};

/// As [`Attempt::call`], where any status but 200 is the outcome that it means.
pub(super) async fn expect_ok(attempt: &Attempt<'_>, call: Call<'_>) -> Result<Answer, Outcome> {
    let doing = call.doing;
    let answer = attempt.call(call).await?;
    if answer.status == 200 {
        Ok(answer)
    } else {
        Err(attempt.refused(&answer, doing))
    }
}

/// What answers other than those hoped for mean.
pub(super) trait Refused {
    /// To a bulk request.
    fn bulk_refused(&self, answer: &Answer, doing: &str) -> Outcome;

    /// To any other request: there is no batch in it to be halved.
    fn refused(&self, answer: &Answer, doing: &str) -> Outcome {
        match self.bulk_refused(answer, doing) {
            Outcome::Split { verdict } => Outcome::Stop {
                reason: verdict.reason,
            },
            outcome => outcome,
        }
    }
}

impl Refused for Attempt<'_> {
    fn bulk_refused(&self, answer: &Answer, doing: &str) -> Outcome {
        verdict::refused(answer, doing, self.now())
    }
}
