//! The way from the source threads to the intake thread: a queue bounded by bytes, with a way past it for control
//! messages, so that a sink's gap can be recorded while the sources wait for a full spool.
//!
//! Invariant: chunks of one source come out in the order in which they went in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue with one taker and any number of givers.
pub(super) struct Inbox<W, C> {
    state: Mutex<State<W, C>>,
    changed: Condvar,
    bytes_max: usize,
}

struct State<W, C> {
    waiting: VecDeque<(usize, W)>,
    urgent: VecDeque<C>,
    /// Sum over `waiting`; may pass `bytes_max` by one message.
    bytes: usize,
    closed: bool,
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<W, C> {
    /// Work, in the order in which it went in.
    Work(W),
    /// A control message, before all work.
    Control(C),
}

/// The message did not go in.
#[derive(Debug)]
pub(super) enum NotTaken<W> {
    /// No room within the wait; try again with what comes back.
    Full(W),
    /// Nobody takes messages any more.
    Closed,
}

impl<W, C> Inbox<W, C> {
    /// A queue that holds about `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Inbox {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                urgent: VecDeque::new(),
                bytes: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            bytes_max,
        }
    }

    /// Puts a message of `bytes` bytes in; waits at most `wait` for room. One message always fits an empty queue.
    pub(super) fn put(&self, bytes: usize, message: W, wait: Duration) -> Result<(), NotTaken<W>> {
        let no_room = |state: &mut State<W, C>| {
            !state.closed && state.bytes > 0 && state.bytes + bytes > self.bytes_max
        };
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), wait, no_room)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(NotTaken::Closed);
        }
        if no_room(&mut state) {
            return Err(NotTaken::Full(message));
        }
        state.bytes += bytes;
        state.waiting.push_back((bytes, message));
        self.changed.notify_all();
        Ok(())
    }

    /// Puts a control message in front of all work, whatever the queue holds. Lost if the queue is closed.
    pub(super) fn put_urgent(&self, message: C) {
        let mut state = self.lock();
        if !state.closed {
            state.urgent.push_back(message);
            self.changed.notify_all();
        }
    }

    /// The next message, control before work; `None` when none came within `wait` (`None`: for ever).
    pub(super) fn take(&self, wait: Option<Duration>) -> Option<Taken<W, C>> {
        let empty = |state: &mut State<W, C>| state.urgent.is_empty() && state.waiting.is_empty();
        let mut state = match wait {
            Some(wait) => {
                self.changed
                    .wait_timeout_while(self.lock(), wait, empty)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self
                .changed
                .wait_while(self.lock(), empty)
                .unwrap_or_else(PoisonError::into_inner),
        };
        let message = state.urgent.pop_front().map(Taken::Control).or_else(|| {
            let (bytes, message) = state.waiting.pop_front()?;
            state.bytes -= bytes;
            Some(Taken::Work(message))
        });
        self.changed.notify_all();
        message
    }

    /// The next control message alone; for a taker that cannot take chunks now.
    pub(super) fn take_urgent(&self, wait: Duration) -> Option<C> {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), wait, |state| state.urgent.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.urgent.pop_front()
    }

    /// Nobody will take messages any more; givers are told.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<W, C>> {
        // A giver that panicked left the queue whole: each change is one push or pop.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_message_over_the_bound_fits_an_empty_queue_and_nothing_else_beside_it() {
        let inbox: Inbox<char, char> = Inbox::new(10);
        assert!(inbox.put(50, 'a', NOW).is_ok());
        assert!(matches!(inbox.put(1, 'b', NOW), Err(NotTaken::Full('b'))));
        assert_eq!(inbox.take(Some(NOW)), Some(Taken::Work('a')));
        assert!(inbox.put(1, 'b', NOW).is_ok());
    }

    #[test]
    fn urgent_messages_pass_a_full_queue() {
        let inbox: Inbox<char, char> = Inbox::new(10);
        assert!(inbox.put(10, 'a', NOW).is_ok());
        inbox.put_urgent('u');
        assert_eq!(inbox.take_urgent(NOW), Some('u'));
        assert_eq!(inbox.take_urgent(NOW), None);
        assert_eq!(inbox.take(Some(NOW)), Some(Taken::Work('a')));
        assert_eq!(inbox.take(Some(NOW)), None);
    }

    #[test]
    fn a_closed_queue_tells_its_givers() {
        let inbox: Inbox<char, char> = Inbox::new(10);
        inbox.close();
        assert!(matches!(inbox.put(1, 'a', NOW), Err(NotTaken::Closed)));
    }
}
