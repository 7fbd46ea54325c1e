//! What delivery asks of the pipeline: a damaged block read again from its source, and a sink's gap made durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::intake::{Control, IntakeInbox};
use super::ledger::encode_payload;
use crate::delivery::{GapLog, Rebuild, SinkGap};
use crate::event::Origin;
use crate::event::encoding::Span;
use crate::sinks::BoxFuture;
use crate::sources::Reread;

/// The sources that can read a range once more.
pub(super) struct Rereaders(BTreeMap<Origin, Arc<dyn Reread>>);

impl Rereaders {
    pub(super) fn new(sources: impl Iterator<Item = (Origin, Option<Arc<dyn Reread>>)>) -> Self {
        Rereaders(
            sources
                .filter_map(|(origin, reread)| Some((origin, reread?)))
                .collect(),
        )
    }
}

impl Rebuild for Rereaders {
    fn payload(&self, origin: &Origin, span: &Span) -> Option<Vec<u8>> {
        let lines = self.0.get(origin)?.reread(span)?;
        let mut payload = Vec::new();
        encode_payload(&lines, &mut payload);
        Some(payload)
    }
}

/// Hands sinks' gaps to the intake thread.
pub(super) struct SinkGaps(Arc<IntakeInbox>);

impl SinkGaps {
    pub(super) fn new(inbox: Arc<IntakeInbox>) -> Self {
        SinkGaps(inbox)
    }
}

impl GapLog for SinkGaps {
    fn record(&self, sink: &str, gap: SinkGap) -> BoxFuture<'_, Result<(), String>> {
        let (done, recorded) = oneshot::channel();
        self.0.put_urgent(Control::SinkGap {
            sink: sink.to_owned(),
            gap,
            done,
        });
        Box::pin(async move {
            recorded.await.unwrap_or_else(|_| {
                Err("the agent is ending: the gap is recorded at the next start".into())
            })
        })
    }
}
