//! A TCP proxy that breaks what passes through it: put before a fake or a real server, it is the network on a bad day. The
//! fault of a connection is drawn when it is accepted.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait::pause;
use crate::fakes::http_server::reset;

/// What happens to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Reset at once.
    Refuse,
    /// Accepted, and then nothing passes in either direction.
    Hang,
    /// Reset when so many bytes went to the server: the request is cut.
    ResetRequestAfter(u64),
    /// Reset when so many bytes came back: the request was taken, its answer is cut.
    ResetAnswerAfter(u64),
    /// Closed in order when so many bytes came back.
    TruncateAnswerAfter(u64),
    /// The answer comes this many bytes at a time, each this long after the other.
    Drip(usize, Duration),
    /// Whatever is asked, the first bytes come back and then the others, again and again. Nothing reaches the server.
    Flood(&'static [u8], &'static [u8]),
    /// All passes, but for answers that come when so many bytes went to the server: those are held back.
    HoldAnswersAfter(u64),
}

type Plan = Box<dyn FnMut(u64) -> Fault + Send>;

/// A running proxy; ends when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    plan: Mutex<Plan>,
    over: AtomicBool,
    /// Raised to break every open connection.
    epoch: AtomicU64,
    /// Faults that did strike.
    struck: AtomicU64,
}

impl Proxy {
    /// A proxy to `upstream` that breaks nothing yet.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), upstream)
    }

    /// As [`Proxy::start`], at an address of the caller's choice.
    pub(crate) fn start_at(address: SocketAddr, upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::new(Box::new(|_| Fault::None)),
            over: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            struck: AtomicU64::new(0),
        });
        let sharing = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &sharing));
        Proxy {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// Where to connect to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same without a scheme.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fault of each connection from now on, by its number; open ones are broken.
    pub(crate) fn plan(&self, plan: impl FnMut(u64) -> Fault + Send + 'static) {
        *self.shared.plan.lock().expect("no holder panics") = Box::new(plan);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Every connection from now on has this fault; open ones are broken.
    pub(crate) fn set(&self, fault: Fault) {
        self.plan(move |_| fault);
    }

    /// Breaks every open connection; the plan stays.
    pub(crate) fn break_open(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// How many faults did strike: a test whose faults never struck has shown nothing.
    pub(crate) fn struck(&self) -> u64 {
        self.shared.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            thread.join().expect("accepting does not panic");
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, stream) in (0..).zip(listener.incoming()) {
        if shared.over.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        let epoch = shared.epoch.load(Ordering::SeqCst);
        let fault = (shared.plan.lock().expect("no holder panics"))(number);
        let shared = Arc::clone(shared);
        // An error of either side ends the connection, as it would without the proxy.
        std::thread::spawn(move || carry(&stream, fault, epoch, &shared));
    }
}

fn carry(client: &TcpStream, fault: Fault, epoch: u64, shared: &Arc<Shared>) -> io::Result<()> {
    if fault == Fault::Refuse {
        shared.struck.fetch_add(1, Ordering::SeqCst);
        return reset(client);
    }
    if fault == Fault::Hang {
        shared.struck.fetch_add(1, Ordering::SeqCst);
        while shared.current(epoch) {
            pause(Duration::from_millis(20));
        }
        return reset(client);
    }
    if let Fault::Flood(first, then) = fault {
        return flood(client, first, then, epoch, shared);
    }
    let server = TcpStream::connect(shared.upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (request_limit, answer_limit) = match fault {
        Fault::ResetRequestAfter(count) => (Some(count), None),
        Fault::ResetAnswerAfter(count) | Fault::TruncateAnswerAfter(count) => (None, Some(count)),
        _ => (None, None),
    };
    let drip = if let Fault::Drip(bytes, each) = fault {
        Some((bytes, each))
    } else {
        None
    };
    let hold = match fault {
        Fault::HoldAnswersAfter(count) => Some(count),
        _ => None,
    };
    let asked = Arc::new(AtomicU64::new(0));
    let broken = Arc::new(AtomicBool::new(false));
    let (upward_client, upward_server) = (client.try_clone()?, server.try_clone()?);
    let (sharing, breaking) = (Arc::clone(shared), Arc::clone(&broken));
    let asking = Arc::clone(&asked);
    let upward = std::thread::spawn(move || {
        let way = Way {
            from: &upward_client,
            to: &upward_server,
            limit: request_limit,
            drip: None,
            hold: None,
            asked: &asking,
            broken: &breaking,
        };
        way.run(epoch, &sharing, true, true)
    });
    let way = Way {
        from: &server,
        to: client,
        limit: answer_limit,
        drip,
        hold,
        asked: &asked,
        broken: &broken,
    };
    let downward = way.run(
        epoch,
        shared,
        false,
        !matches!(fault, Fault::TruncateAnswerAfter(_)),
    );
    if !broken.load(Ordering::SeqCst) {
        client
            .shutdown(Shutdown::Both)
            .or_else(ignore_not_connected)?;
        server
            .shutdown(Shutdown::Both)
            .or_else(ignore_not_connected)?;
    }
    upward
        .join()
        .map_err(|_| io::Error::other("the upward thread panicked"))?
        .and(downward)
}

/// Answers without end, and takes what comes meanwhile, so that nobody waits for the other.
fn flood(
    client: &TcpStream,
    first: &[u8],
    then: &[u8],
    epoch: u64,
    shared: &Shared,
) -> io::Result<()> {
    let mut byte = [0];
    (&mut &*client).read_exact(&mut byte)?;
    shared.struck.fetch_add(1, Ordering::SeqCst);
    let mut asking = client.try_clone()?;
    let taking = std::thread::spawn(move || io::copy(&mut asking, &mut io::sink()));
    client.set_write_timeout(Some(Duration::from_millis(20)))?;
    let mut answered = (&mut &*client).write_all(first);
    while shared.current(epoch) && answered.is_ok() {
        answered = match (&mut &*client).write(then) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Err(error)
            }
            _ => Ok(()),
        };
    }
    reset(client)?;
    client
        .shutdown(Shutdown::Both)
        .or_else(ignore_not_connected)?;
    taking
        .join()
        .map_err(|_| io::Error::other("the taking thread panicked"))?
        .and(answered)
}

fn ignore_not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}

impl Shared {
    fn current(&self, epoch: u64) -> bool {
        !self.over.load(Ordering::SeqCst) && self.epoch.load(Ordering::SeqCst) == epoch
    }
}

/// One direction of a connection.
struct Way<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    limit: Option<u64>,
    drip: Option<(usize, Duration)>,
    /// See [`Fault::HoldAnswersAfter`].
    hold: Option<u64>,
    /// Bytes that this connection's client has sent.
    asked: &'a AtomicU64,
    /// Set by whichever direction breaks the connection: closed without a shutdown, it is a reset.
    broken: &'a AtomicBool,
}

impl Way<'_> {
    fn run(&self, epoch: u64, shared: &Shared, upward: bool, hard: bool) -> io::Result<()> {
        self.from
            .set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut buffer = vec![0; 64 << 10];
        let mut passed = 0;
        while shared.current(epoch) && !self.broken.load(Ordering::SeqCst) {
            let room = self.limit.map_or(buffer.len() as u64, |limit| {
                (limit - passed).min(buffer.len() as u64)
            });
            if room == 0 {
                shared.struck.fetch_add(1, Ordering::SeqCst);
                break;
            }
            let count = match (&mut &*self.from).read(&mut buffer[..room as usize]) {
                Ok(0) => {
                    return self
                        .to
                        .shutdown(Shutdown::Write)
                        .or_else(ignore_not_connected);
                }
                Ok(count) => count,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            passed += count as u64;
            if upward {
                self.asked.fetch_add(count as u64, Ordering::SeqCst);
            }
            if self
                .hold
                .is_some_and(|hold| self.asked.load(Ordering::SeqCst) > hold)
            {
                shared.struck.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            match self.drip {
                None => (&mut &*self.to).write_all(&buffer[..count])?,
                Some((bytes, each)) => {
                    shared.struck.fetch_add(1, Ordering::SeqCst);
                    for piece in buffer[..count].chunks(bytes) {
                        if !shared.current(epoch) {
                            break;
                        }
                        (&mut &*self.to).write_all(piece)?;
                        pause(each);
                    }
                }
            }
        }
        if hard {
            self.broken.store(true, Ordering::SeqCst);
            reset(self.from)?;
            return reset(self.to);
        }
        self.from
            .shutdown(Shutdown::Both)
            .or_else(ignore_not_connected)?;
        self.to
            .shutdown(Shutdown::Both)
            .or_else(ignore_not_connected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each connection's first bytes with 1,000 bytes.
    fn upstream() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("accept");
                let mut request = [0; 10];
                if stream.read_exact(&mut request).is_ok() {
                    // Cut by the proxy in most cases.
                    drop(stream.write_all(&[7; 1000]));
                }
            }
        });
        address
    }

    fn ask(proxy: &Proxy) -> io::Result<usize> {
        let mut stream = TcpStream::connect(proxy.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&[1; 10])?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer.len())
    }

    #[test]
    fn each_fault_breaks_what_it_says_and_is_counted() {
        let proxy = Proxy::start(upstream());
        assert_eq!(ask(&proxy).expect("no fault"), 1000);
        assert_eq!(proxy.struck(), 0);
        for (fault, expected) in [
            (Fault::Refuse, None),
            (Fault::ResetRequestAfter(5), None),
            (Fault::ResetAnswerAfter(300), None),
            (Fault::TruncateAnswerAfter(300), Some(300)),
            (Fault::Drip(500, Duration::from_millis(1)), Some(1000)),
        ] {
            let before = proxy.struck();
            proxy.set(fault);
            assert_eq!(ask(&proxy).ok(), expected, "{fault:?}");
            assert!(proxy.struck() > before, "{fault:?} did not strike");
        }
    }

    #[test]
    fn a_hung_connection_is_broken_by_the_next_plan() {
        let proxy = Proxy::start(upstream());
        proxy.set(Fault::Hang);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&proxy).ok());
            crate::support::wait::until_true(Duration::from_secs(5), "the hang", || {
                proxy.struck() == 1
            });
            proxy.set(Fault::None);
            assert_eq!(asked.join().expect("no panic"), None);
        });
        assert_eq!(ask(&proxy).expect("healed"), 1000);
    }
}
