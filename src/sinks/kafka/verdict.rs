//! What the brokers' and librdkafka's answers mean. Pure.
//!
//! Invariants: what is wrong with the configuration is a [`Trouble`] that stops and never a verdict on a record; a
//! record is refused for good only where the answer was about it alone.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::sinks::{Outcome, Rejection, RejectionKind, Verdict};

/// Longest text of a broker's that is passed on.
const WORDS_MAX: usize = 400;

/// Something about the whole connection, not about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// One line: what is wrong and what to do.
    pub(super) reason: String,
    /// It is the configuration; else it may pass.
    pub(super) stops: bool,
    /// The producer is of no use any more.
    pub(super) fatal: bool,
}

impl Trouble {
    /// Something that may be over soon.
    pub(super) fn passing(reason: String) -> Self {
        Trouble {
            reason,
            stops: false,
            fatal: false,
        }
    }

    /// Something that a person has to mend.
    pub(super) fn stopping(reason: String) -> Self {
        Trouble {
            reason,
            stops: true,
            fatal: false,
        }
    }

    /// As the end of an attempt of which nothing is known to be stored.
    pub(super) fn outcome(self, in_doubt: bool) -> Outcome {
        if self.stops {
            Outcome::Stop {
                reason: self.reason,
            }
        } else {
            Outcome::Retry {
                after: None,
                reason: self.reason,
                in_doubt,
            }
        }
    }
}

/// Says what an error of the client as a whole means; `None` where librdkafka gets over it alone (a broker that is
/// away, a leader that changes).
pub(super) fn trouble(code: Code, words: &str) -> Option<Trouble> {
    let words = brief(words);
    let stop = |reason: String| Some(Trouble::stopping(reason));
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            stop(format!("login refused, check `sasl`: {words}"))
        }
        Code::UnsupportedSASLMechanism | Code::UnsupportedFeature => stop(format!(
            "the brokers do not log in this way, check `sasl.mechanism`: {words}"
        )),
        Code::SSL => stop(format!(
            "tls with the brokers failed, check `tls`, `brokers` and the brokers' certificate: {words}"
        )),
        Code::BrokerTransportFailure if is_tls_alert(words) => stop(format!(
            "the brokers refuse our certificate, check `tls.cert` and `tls.key`: {words}"
        )),
        Code::ClusterAuthorizationFailed => stop(format!(
            "not allowed to write idempotently, grant IdempotentWrite on the cluster: {words}"
        )),
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Some(fenced()),
        // Says in words only what it is about.
        Code::Fatal if words.contains("fenced") => Some(fenced()),
        Code::Fatal => Some(Trouble {
            reason: format!("the producer had to be given up: {words}"),
            stops: words.contains("authorization failed"),
            fatal: true,
        }),
        code => configuration(code, words).and_then(stop),
    }
}

fn fenced() -> Trouble {
    Trouble {
        reason: "another agent took over our transactional id: of two with the same cluster, node, sink and a copy of \
                 the state directory, stop one"
            .to_owned(),
        stops: true,
        fatal: true,
    }
}

/// What it means that a transaction could not be begun, committed or aborted. `words` are what librdkafka complained
/// of before.
pub(super) fn of_transaction(error: &KafkaError, words: Option<String>) -> Trouble {
    let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
    let said = error.to_string();
    if code == Code::InvalidTransactionTimeout {
        return Trouble::stopping(format!(
            "`timeout` is longer than the brokers allow a transaction (their `transaction.max.timeout.ms`): {said}"
        ));
    }
    let fatal = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
    let known =
        trouble(code, &said).or_else(|| fatal.then(|| trouble(Code::Fatal, &said)).flatten());
    known.unwrap_or_else(|| {
        let words = words.map(|words| format!(": {}", brief(&words)));
        Trouble::passing(said + &words.unwrap_or_default())
    })
}

/// What is wrong with the configuration where a request or a record gets this answer.
fn configuration(code: Code, words: &str) -> Option<String> {
    let reason = match code {
        Code::TopicAuthorizationFailed => {
            "not allowed to write to the topic, grant Write and Describe on it"
        }
        Code::ClusterAuthorizationFailed => {
            "not allowed to write idempotently, grant IdempotentWrite on the cluster"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "not allowed to use the transactional id, grant Write and Describe on it"
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            "the topic does not exist, create it or correct `topic`"
        }
        Code::InvalidTopic => "the brokers refuse the topic's name, correct `topic`",
        Code::SaslAuthenticationFailed | Code::Authentication => "login refused, check `sasl`",
        Code::UnsupportedCompressionType => {
            "the brokers do not know this compression, choose another `compression`"
        }
        Code::PolicyViolation => "a policy of the brokers refuses the request",
        _ => return None,
    };
    Some(if words.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason}: {words}")
    })
}

/// Alerts that a server sends for our certificate; they arrive behind the handshake in TLS 1.3, as a broken connection.
fn is_tls_alert(words: &str) -> bool {
    words.contains("alert")
        && [
            "certificate",
            "unknown ca",
            "handshake failure",
            "access denied",
        ]
        .iter()
        .any(|part| words.contains(part))
}

/// An answer without librdkafka's own account of it.
fn brief(words: &str) -> &str {
    let words = words.split(" (after ").next().unwrap_or(words).trim();
    let mut end = words.len().min(WORDS_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    &words[..end]
}

/// What a broker, or librdkafka for it, said of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Stored by all replicas in sync.
    Stored,
    /// Known beforehand to be refused, whatever else is in the batch.
    Unfit(Rejection),
    /// Refused with the others of its request: for what it is, or for what one of them is.
    Refused(Rejection),
    /// The configuration is wrong.
    Misplaced(String),
    /// Not stored, or not known to be.
    Again {
        /// For status and log.
        reason: String,
        /// See [`Outcome::Retry`].
        in_doubt: bool,
    },
}

impl Answer {
    /// Of the code in a delivery report.
    pub(super) fn of(code: Code) -> Self {
        let refused = |kind, class: &str| {
            Answer::Refused(Rejection {
                kind,
                class: class.to_owned(),
                reason: code.to_string(),
            })
        };
        match code {
            Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
                refused(RejectionKind::TooLarge, "message_too_large")
            }
            Code::InvalidTimestamp => refused(RejectionKind::Refused, "invalid_timestamp"),
            Code::InvalidRecord => refused(RejectionKind::Refused, "invalid_record"),
            code => match configuration(code, "") {
                Some(reason) => Answer::Misplaced(reason),
                None => Answer::Again {
                    reason: code.to_string(),
                    in_doubt: !matches!(code, Code::PurgeQueue | Code::InvalidDifferentRecord),
                },
            },
        }
    }
}

/// What an attempt comes to. `answers` are by record number, ascending, one for each record; `trouble` is why it was
/// cut short, if it was.
pub(super) fn outcome(answers: Vec<(u64, Answer)>, trouble: Option<Trouble>) -> Outcome {
    let stored = answers.iter().any(|(_, answer)| *answer == Answer::Stored);
    let unfit = answers
        .iter()
        .any(|(_, answer)| matches!(answer, Answer::Unfit(_)));
    if !stored
        && !unfit
        && let Some(whole) = of_all(&answers, trouble.as_ref())
    {
        return whole;
    }
    let mut except = Vec::new();
    for (number, answer) in answers {
        let verdict = match (answer, &trouble) {
            (Answer::Stored, _) => continue,
            (Answer::Unfit(rejection), _) => Verdict::Rejected(rejection),
            (Answer::Refused(rejection), _) => Verdict::Retry {
                reason: format!("refused with others: {}", rejection.reason),
                in_doubt: false,
            },
            (Answer::Misplaced(reason), _) => Verdict::Retry {
                reason,
                in_doubt: false,
            },
            (Answer::Again { in_doubt, .. }, Some(trouble)) => Verdict::Retry {
                reason: trouble.reason.clone(),
                in_doubt,
            },
            (Answer::Again { reason, in_doubt }, None) => Verdict::Retry { reason, in_doubt },
        };
        except.push((number, verdict));
    }
    Outcome::Delivered {
        mark: None,
        except,
        alarms: Vec::new(),
    }
}

/// The outcome where no record was stored, if one holds for all.
fn of_all(answers: &[(u64, Answer)], trouble: Option<&Trouble>) -> Option<Outcome> {
    let misplaced = answers.iter().find_map(|(_, answer)| match answer {
        Answer::Misplaced(reason) => Some(reason),
        _ => None,
    });
    if let Some(reason) = misplaced {
        return Some(Outcome::Stop {
            reason: reason.clone(),
        });
    }
    let refused = answers.iter().find_map(|(_, answer)| match answer {
        Answer::Refused(rejection) => Some(rejection),
        _ => None,
    });
    let in_doubt = answers
        .iter()
        .any(|(_, answer)| matches!(answer, Answer::Again { in_doubt: true, .. }));
    let again = answers.iter().find_map(|(_, answer)| match answer {
        Answer::Again { reason, .. } => Some(reason),
        _ => None,
    });
    match (trouble, again, refused) {
        (Some(trouble), ..) => Some(trouble.clone().outcome(in_doubt)),
        (None, Some(reason), None) => Some(Outcome::Retry {
            after: None,
            reason: reason.clone(),
            in_doubt,
        }),
        (None, None, Some(rejection)) => Some(Outcome::Split {
            verdict: rejection.clone(),
        }),
        (None, ..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_large() -> Rejection {
        match Answer::of(Code::MessageSizeTooLarge) {
            Answer::Refused(rejection) => rejection,
            other => panic!("{other:?}"),
        }
    }

    fn again(in_doubt: bool) -> Answer {
        Answer::Again {
            reason: "later".to_owned(),
            in_doubt,
        }
    }

    fn numbered(answers: &[Answer]) -> Vec<(u64, Answer)> {
        (7..).zip(answers.iter().cloned()).collect()
    }

    #[track_caller]
    fn check(answers: &[Answer], trouble: Option<Trouble>, expected: Outcome) {
        assert_eq!(outcome(numbered(answers), trouble), expected);
    }

    fn delivered(except: Vec<(u64, Verdict)>) -> Outcome {
        Outcome::Delivered {
            mark: None,
            except,
            alarms: Vec::new(),
        }
    }

    #[test]
    fn a_record_known_to_be_too_large_is_rejected_alone() {
        check(
            &[Answer::Stored, Answer::Unfit(too_large()), Answer::Stored],
            None,
            delivered(vec![(8, Verdict::Rejected(too_large()))]),
        );
        check(
            &[Answer::Unfit(too_large())],
            None,
            delivered(vec![(7, Verdict::Rejected(too_large()))]),
        );
    }

    #[test]
    fn what_a_broker_refuses_together_is_split_or_sent_again_without_the_rest() {
        let refused = Answer::Refused(too_large());
        check(
            &[refused.clone(), refused.clone()],
            None,
            Outcome::Split {
                verdict: too_large(),
            },
        );
        let verdict = Verdict::Retry {
            reason: format!("refused with others: {}", too_large().reason),
            in_doubt: false,
        };
        check(
            &[refused, Answer::Stored],
            None,
            delivered(vec![(7, verdict)]),
        );
    }

    #[test]
    fn trouble_stops_only_where_nothing_was_stored() {
        let trouble = trouble(
            Code::Authentication,
            "x/bootstrap: no (after 3ms in state AUTH_REQ)",
        );
        let reason = trouble.clone().unwrap().reason;
        assert_eq!(reason, "login refused, check `sasl`: x/bootstrap: no");
        check(
            &[again(false), again(true)],
            trouble.clone(),
            Outcome::Stop {
                reason: reason.clone(),
            },
        );
        let verdict = Verdict::Retry {
            reason,
            in_doubt: true,
        };
        check(
            &[Answer::Stored, again(true)],
            trouble,
            delivered(vec![(8, verdict)]),
        );
    }

    #[test]
    fn nothing_stored_and_nothing_refused_is_tried_again_as_a_whole() {
        check(
            &[again(false), again(true)],
            None,
            Outcome::Retry {
                after: None,
                reason: "later".to_owned(),
                in_doubt: true,
            },
        );
    }

    #[test]
    fn a_wrong_topic_is_configuration_and_no_record_is_rejected_for_it() {
        for code in [
            Code::TopicAuthorizationFailed,
            Code::UnknownTopic,
            Code::InvalidTopic,
        ] {
            let answers = numbered(&[Answer::of(code)]);
            match outcome(answers, None) {
                Outcome::Stop { reason } => assert!(reason.contains("topic"), "{reason}"),
                other => panic!("{code:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_refused_certificate_is_seen_behind_the_broken_connection() {
        let words = "ssl://h:1/bootstrap: Receive failed: error:14094412:SSL routines:ssl3_read_bytes:sslv3 alert bad certificate: SSL alert number 42 (after 4ms in state APIVERSION_QUERY)";
        assert!(trouble(Code::BrokerTransportFailure, words).unwrap().stops);
        let away = "127.0.0.1:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        assert_eq!(trouble(Code::BrokerTransportFailure, away), None);
        assert_eq!(trouble(Code::AllBrokersDown, "1/1 brokers are down"), None);
        assert!(trouble(Code::Fatal, "x").unwrap().fatal);
    }
}
