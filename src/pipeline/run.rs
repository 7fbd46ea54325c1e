//! The running agent: how it ends by itself (`--once`), how it is told to stop, and in which order.
//!
//! Order of an end: sources stop reading, what they gave is made durable, attempts in flight end within the time
//! given, cursors are stored. Whatever is left stays in the spool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

pub use super::intake::Finished;
use super::intake::{Control, IntakeEnd, IntakeInbox};
use super::overview::Overview;
use crate::delivery::Flushed;

/// Everything that runs.
pub struct Agent {
    overview: Arc<Overview>,
    parts: Parts,
    /// Why the intake has ended before it was told to, or that it was told.
    ended: watch::Receiver<Option<Result<(), Lost>>>,
}

/// What `assemble` made, to be stopped in order.
pub(super) struct Parts {
    pub(super) inbox: Arc<IntakeInbox>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) wakers: Vec<Arc<dyn Fn() + Send + Sync>>,
    pub(super) sources: Vec<JoinHandle<()>>,
    pub(super) finished: watch::Sender<Option<Finished>>,
    /// Held for as long as the agent runs.
    pub(super) _lock: Box<dyn Send + Sync>,
}

/// The disk failed, or the intake thread is gone: only a restart into recovery helps.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}: ending, to recover at the next start")]
pub struct Lost(String);

impl Agent {
    pub(super) fn new(
        overview: Arc<Overview>,
        parts: Parts,
        intake: JoinHandle<IntakeEnd>,
        runtime: &Handle,
    ) -> Self {
        let (tell, ended) = watch::channel(None);
        runtime.spawn_blocking(move || {
            let end = match intake.join() {
                Ok(IntakeEnd::Done) => Ok(()),
                Ok(IntakeEnd::Lost(problem)) => Err(Lost(problem)),
                Err(_) => Err(Lost("the intake thread panicked".into())),
            };
            tell.send_replace(Some(end));
        });
        Agent {
            overview,
            parts,
            ended,
        }
    }

    /// What is known of it at any time.
    pub fn overview(&self) -> Arc<Overview> {
        Arc::clone(&self.overview)
    }

    /// Waits until every source has ended and all that they gave is durable; an error when the disk failed before.
    pub async fn sources_finished(&self) -> Result<Finished, Lost> {
        let mut finished = self.parts.finished.subscribe();
        tokio::select! {
            finished = finished.wait_for(Option::is_some) => match finished.map(|f| f.clone()) {
                Ok(Some(finished)) => Ok(finished),
                Ok(None) | Err(_) => Err(Lost("the intake thread is gone".into())),
            },
            ended = self.intake_ended() => match ended {
                Err(lost) => Err(lost),
                Ok(()) => Err(Lost("the intake has ended".into())),
            },
        }
    }

    /// Waits until every required sink has confirmed everything below `record`, has stopped, or had no success for
    /// `give_up`.
    pub async fn flushed(&self, record: u64, give_up: Duration) -> Vec<(String, Flushed)> {
        self.overview.delivery.flushed(record, give_up).await
    }

    /// Stops in order; attempts in flight may take until `limit`.
    pub async fn stop(self, limit: Duration) -> Result<(), Lost> {
        self.parts.stop.store(true, Ordering::Release);
        self.parts.wakers.iter().for_each(|wake| wake());
        self.parts.inbox.put_urgent(Control::Stop);
        let end = self.intake_ended().await;
        self.overview.delivery.stop(limit).await;
        for source in self.parts.sources {
            if source.join().is_err() {
                tracing::error!(
                    "a source thread panicked; what it read last is read again at the next start"
                );
            }
        }
        end
    }

    async fn intake_ended(&self) -> Result<(), Lost> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err(Lost("the intake thread is gone".into())),
        }
    }
}
