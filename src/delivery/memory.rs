//! Bytes that batches may hold, shared by all sinks (design D10).
//!
//! Every sink has one batch reserved, so a sink with nothing in flight can always send: nobody waits for another
//! sink's slow destination, and there is no deadlock. What a sink holds beyond that comes from the shared rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The bytes of all batches.
#[derive(Debug)]
pub struct Memory {
    shared: Mutex<u64>,
    freed: watch::Sender<u64>,
}

impl Memory {
    /// `bytes` for all batches together. Reserves are taken out of it; where they are greater, only they are left.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Memory {
            shared: Mutex::new(bytes),
            freed: watch::Sender::new(0),
        })
    }

    /// A sink's part, with one batch of `reserve` bytes set aside for as long as it lives.
    pub fn account(self: &Arc<Self>, reserve: u64) -> Arc<Account> {
        let reserved = self.take(reserve, true).unwrap_or(0);
        Arc::new(Account {
            memory: Arc::clone(self),
            reserved,
            reserve_used: AtomicBool::new(false),
        })
    }

    /// Changes whenever bytes were given back.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// Bytes that no sink holds or has reserved.
    pub fn unused(&self) -> u64 {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u64, what_is_left: bool) -> Option<u64> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = if what_is_left {
            bytes.min(*shared)
        } else {
            bytes
        };
        *shared = shared.checked_sub(taken)?;
        Some(taken)
    }

    fn give(&self, bytes: u64) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.freed.send_modify(|version| *version += 1);
    }
}

/// One sink's part of the memory.
#[derive(Debug)]
pub struct Account {
    memory: Arc<Memory>,
    reserved: u64,
    reserve_used: AtomicBool,
}

impl Account {
    /// Bytes for one more batch, at most `bytes`: from the sink's own reserve where that is free (whatever the size:
    /// a single record may be larger than a batch), else from what is shared. `None`: wait for [`Memory::freed`].
    pub fn claim(self: &Arc<Self>, bytes: u64) -> Option<Claim> {
        if !self.reserve_used.swap(true, Ordering::AcqRel) {
            return Some(Claim {
                account: Arc::clone(self),
                shared: None,
            });
        }
        let shared = self.memory.take(bytes, false)?;
        Some(Claim {
            account: Arc::clone(self),
            shared: Some(shared),
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.memory.give(self.reserved);
    }
}

/// Bytes that a batch holds; dropping it gives them back.
#[derive(Debug)]
pub struct Claim {
    account: Arc<Account>,
    /// `None`: it is the sink's reserve.
    shared: Option<u64>,
}

impl Claim {
    /// The batch turned out smaller.
    pub fn shrink(&mut self, bytes: u64) {
        if let Some(held) = &mut self.shared
            && *held > bytes
        {
            self.account.memory.give(*held - bytes);
            *held = bytes;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match self.shared {
            Some(bytes) => self.account.memory.give(bytes),
            None => {
                self.account.reserve_used.store(false, Ordering::Release);
                self.account.memory.give(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sink_has_a_batch_even_where_others_hold_all() {
        let memory = Memory::new(100);
        let (a, b) = (memory.account(30), memory.account(30));
        let held: Vec<Claim> = std::iter::from_fn(|| a.claim(20)).collect();
        assert_eq!(held.len(), 3);
        assert_eq!(memory.unused(), 0);
        let own = b.claim(30).unwrap();
        assert!(b.claim(30).is_none());
        drop((held, own));
        assert_eq!(memory.unused(), 40);
    }

    #[test]
    fn a_smaller_batch_gives_back_the_rest_and_says_so() {
        let memory = Memory::new(100);
        let a = memory.account(10);
        let (_own, mut second) = (a.claim(10).unwrap(), a.claim(90).unwrap());
        let mut freed = memory.freed();
        assert!(a.claim(10).is_none());
        freed.mark_unchanged();
        second.shrink(5);
        assert!(freed.has_changed().unwrap());
        assert!(a.claim(85).is_some());
    }

    #[test]
    fn reserves_beyond_the_whole_leave_the_reserves() {
        let memory = Memory::new(10);
        let (a, b) = (memory.account(30), memory.account(30));
        assert!(a.claim(30).is_some_and(|_| b.claim(30).is_some()));
        drop((a, b));
        assert_eq!(memory.unused(), 10);
    }
}
