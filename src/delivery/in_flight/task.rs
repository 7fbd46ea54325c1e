//! What one attempt is about, and its exceptions by what follows from them.

use crate::delivery::numbers::Numbers;
use crate::sinks::{Form, Rejection, RejectionKind, Seal, Verdict};

/// Records of one batch, or what is left of one, without their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Never empty.
    pub records: Numbers,
    /// How they are to be sent.
    pub form: Form,
    /// Some may be stored already.
    pub in_doubt: bool,
    /// As it was written down before its first send, by this process or an earlier one.
    pub seal: Option<Seal>,
    /// Records of the batch that was sealed. Where some of them are done already, the batch cannot be sent as it was:
    /// its destination is asked whether it holds it.
    pub seal_of: u64,
    /// Records of the batch that this is all or a part of.
    pub(super) of: u64,
    /// Others of that batch were accepted.
    pub(super) siblings_accepted: bool,
    /// The batch that was halved, of which this is a part.
    pub(super) halved: Option<u64>,
    /// `MarkFirst` answers in a row.
    pub(super) marks: u8,
}

impl Task {
    pub(super) fn new(records: Numbers, in_doubt: bool) -> Self {
        let of = records.len();
        Task {
            records,
            form: Form::Normal,
            in_doubt,
            seal: None,
            seal_of: 0,
            of,
            siblings_accepted: false,
            halved: None,
            marks: 0,
        }
    }

    /// Whether all that was sealed is still to be sent.
    pub fn seal_is_whole(&self) -> bool {
        self.seal_of == self.records.len()
    }

    pub(super) fn first(&self) -> u64 {
        self.records.first().unwrap_or(0)
    }
}

/// Exceptions of a batch by what follows from them.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) again: Numbers,
    pub(super) in_doubt: bool,
    pub(super) retry: Option<String>,
    pub(super) fallback: Numbers,
    pub(super) refused: Vec<(u64, Rejection)>,
    /// Beyond a limit that the sink knows: dead letters, whatever the destination takes.
    pub(super) beyond_limits: Vec<(u64, Rejection)>,
}

impl Sorted {
    pub(super) fn from(mut except: Vec<(u64, Verdict)>, form: Form) -> Self {
        except.sort_by_key(|(number, _)| *number);
        except.dedup_by_key(|(number, _)| *number);
        let mut sorted = Sorted::default();
        for (number, verdict) in except {
            match verdict {
                Verdict::Retry { reason, in_doubt } => {
                    sorted.again.push(number);
                    sorted.in_doubt |= in_doubt;
                    sorted.retry.get_or_insert(reason);
                }
                Verdict::Rejected(r)
                    if r.kind == RejectionKind::Unparsable && form == Form::Normal =>
                {
                    sorted.fallback.push(number);
                }
                Verdict::Rejected(r) if r.kind == RejectionKind::KnownLimit => {
                    sorted.beyond_limits.push((number, r));
                }
                Verdict::Rejected(rejection) => sorted.refused.push((number, rejection)),
            }
        }
        sorted
    }
}
