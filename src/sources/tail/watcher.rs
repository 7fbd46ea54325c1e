//! Waits until there may be something to read. What inotify says is a hint that ends a wait early, never the truth:
//! the directory listing is, and it is looked at once a second whatever was heard (NFS, FUSE and mounts of the kubelet
//! say nothing at all).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::super::SourceError;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// The time is up.
    Nothing,
    /// Bytes were written to a file of the directory.
    Data,
    /// Names came or went, or something was missed.
    Names,
    /// Another thread ended it.
    Woken,
}

/// Something to wait on.
pub(super) trait Watch: Send {
    /// Waits for at most `timeout`; zero only looks.
    fn wait(&mut self, timeout: Duration) -> Hint;

    /// Lets bytes come together.
    fn pause(&mut self, time: Duration) {
        crate::clock::pause(time);
    }

    /// Ends a wait from another thread.
    fn waker(&self) -> Arc<dyn Fn() + Send + Sync>;
}

/// The directory's inotify watch and a descriptor for the waker.
#[derive(Debug)]
pub(super) struct Watcher {
    dir: PathBuf,
    wake: Arc<OwnedFd>,
    /// `None` where the system has no more of them: then polling alone has to do.
    inotify: Option<OwnedFd>,
    watching: bool,
}

impl Watcher {
    pub(super) fn new(source_name: &str, dir: PathBuf) -> Result<Self, SourceError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| {
            SourceError {
                source_name: source_name.to_owned(),
                problem: format!("make a descriptor to be woken by: {error}"),
            }
        })?;
        let inotify = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                tracing::warn!(source = source_name, %error, "no inotify: the log is looked at once a second");
                None
            }
        };
        let mut watcher = Watcher {
            dir,
            wake: Arc::new(wake),
            inotify,
            watching: false,
        };
        watcher.watch();
        Ok(watcher)
    }

    /// Watches the directory, which may not be there yet or may have been replaced.
    fn watch(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let names =
            WatchFlags::CREATE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        self.watching =
            inotify::add_watch(inotify, &self.dir, WatchFlags::MODIFY | names | itself).is_ok();
    }

    /// Takes what inotify has to say.
    fn drain(&mut self) -> Hint {
        let Some(inotify) = &self.inotify else {
            return Hint::Nothing;
        };
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut hint = Hint::Nothing;
        // Ends with WOULDBLOCK; any other error is no reason to stop polling either.
        while let Ok(event) = reader.next() {
            let events = event.events();
            let lost = ReadFlags::IGNORED
                | ReadFlags::DELETE_SELF
                | ReadFlags::MOVE_SELF
                | ReadFlags::UNMOUNT;
            if events.intersects(lost) {
                self.watching = false;
            }
            hint = hint.max(if events == ReadFlags::MODIFY {
                Hint::Data
            } else {
                Hint::Names
            });
        }
        hint
    }
}

impl Watch for Watcher {
    fn wait(&mut self, timeout: Duration) -> Hint {
        if !self.watching {
            self.watch();
        }
        let mut descriptors = vec![PollFd::new(&self.wake, PollFlags::IN)];
        if let (Some(inotify), true) = (&self.inotify, self.watching) {
            descriptors.push(PollFd::new(inotify, PollFlags::IN));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // An interrupted wait is a short one.
        if poll(&mut descriptors, Some(&timeout)).is_err() {
            return Hint::Nothing;
        }
        let woken = descriptors[0].revents().contains(PollFlags::IN);
        let told = descriptors
            .get(1)
            .is_some_and(|inotify| !inotify.revents().is_empty());
        drop(descriptors);
        let hint = if told { self.drain() } else { Hint::Nothing };
        if woken {
            let mut count = [0; 8];
            // Nothing to do where another read was faster: the descriptor does not block.
            if rustix::io::read(&self.wake, &mut count).is_ok() && hint < Hint::Names {
                return Hint::Woken;
            }
        }
        hint
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let wake = self.wake.clone();
        Arc::new(move || {
            // Full means that a wake-up is waiting already.
            if rustix::io::write(&*wake, &1_u64.to_ne_bytes()).is_err() {
                tracing::trace!("the source is being woken already");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn wait_ends_when_names_or_bytes_come_and_when_woken() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new("apiserver", dir.path().to_owned()).unwrap();
        assert_eq!(watcher.wait(Duration::ZERO), Hint::Nothing);
        std::fs::write(dir.path().join("audit.log"), "").unwrap();
        assert_eq!(watcher.wait(LONG), Hint::Names);
        std::fs::write(dir.path().join("audit.log"), "x").unwrap();
        assert_eq!(watcher.wait(LONG), Hint::Data);
        let waker = watcher.waker();
        std::thread::spawn(move || waker());
        assert_eq!(watcher.wait(LONG), Hint::Woken);
        assert_eq!(watcher.wait(Duration::ZERO), Hint::Nothing);
    }

    #[test]
    fn a_directory_that_comes_later_is_watched_from_then_on() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("audit");
        let mut watcher = Watcher::new("apiserver", dir.clone()).unwrap();
        assert_eq!(watcher.wait(Duration::ZERO), Hint::Nothing);
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(watcher.wait(Duration::ZERO), Hint::Nothing);
        std::fs::write(dir.join("audit.log"), "x").unwrap();
        assert_eq!(watcher.wait(LONG), Hint::Names);
        std::fs::remove_file(dir.join("audit.log")).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(watcher.wait(LONG), Hint::Names);
        assert!(!watcher.watching);
    }
}
