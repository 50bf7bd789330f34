//! What `watch` waits for: signals, the file, interfaces; and for how long, until one thing has become quiet.
//!
//! Input: three descriptors and a deadline. Output: one event at a time. It never looks without having been woken,
//! and a descriptor that cannot be read any more is an error, not a reason to look again.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cli::follow::Follow;
use crate::net::monitor::{Changes, Monitor};

/// Changes come in bursts: an editor writes several files, a runtime makes an interface in steps.
const QUIET: Duration = Duration::from_millis(100);
/// One that does not end is looked at all the same.
const LONGEST: Duration = Duration::from_secs(1);

pub(super) struct Events {
    pub(super) file: Follow,
    links: Monitor,
    signals: SignalFd,
    pending: Option<Pending>,
}

/// What has come and was not handed out yet.
struct Pending {
    links: Changes,
    file: bool,
    first: Instant,
    last: Instant,
}

pub(super) enum Event {
    /// SIGTERM, SIGINT
    End,
    /// SIGHUP
    Reload,
    /// Something of these; nothing, if it is only time for what was to be done then.
    Changed { links: Changes, file: bool },
}

impl Events {
    /// In the namespace of the calling thread, whose signals come here from now on.
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags)?;
        Ok(Self { file: Follow::new(file)?, links: Monitor::open()?, signals, pending: None })
    }

    /// Sleeps until there is one, or until then.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> io::Result<Event> {
        loop {
            let now = Instant::now();
            let due =
                self.pending.as_ref().map(|pending| (pending.last + QUIET).min(pending.first + LONGEST));
            if due.is_some_and(|due| due <= now) || until.is_some_and(|until| until <= now) {
                let pending = self.pending.take();
                let file = pending.as_ref().is_some_and(|pending| pending.file);
                if file {
                    // Before the file is read, so that no later change is missed.
                    self.file.arm()?;
                }
                let links = pending.map(|pending| pending.links).unwrap_or_default();
                return Ok(Event::Changed { links, file });
            }
            let next = [due, until].into_iter().flatten().min();
            self.poll(next.map(|next| next.saturating_duration_since(now)))?;
            if let Some(event) = self.signal()? {
                return Ok(event);
            }
            let (links, file) = (self.links.drain()?, self.file.drain()?);
            if links.any || file {
                let now = Instant::now();
                let pending = self.pending.get_or_insert(Pending {
                    links: Changes::default(),
                    file: false,
                    first: now,
                    last: now,
                });
                pending.links.add(links);
                pending.file |= file;
                pending.last = now;
            }
        }
    }

    fn signal(&mut self) -> io::Result<Option<Event>> {
        let Some(info) = self.signals.read_signal()? else { return Ok(None) };
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        if signal == Some(Signal::SIGHUP) {
            self.file.arm()?;
            return Ok(Some(Event::Reload));
        }
        Ok(Some(Event::End))
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<()> {
        // Up, not down: waking before the time is waking twice.
        let timeout = match timeout {
            None => PollTimeout::NONE,
            Some(timeout) => {
                PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let fds = [self.signals.as_fd(), self.links.as_fd(), self.file.as_fd()];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // An overrun socket says POLLERR until it is read. These never end.
        let broken = PollFlags::POLLNVAL | PollFlags::POLLHUP;
        if fds.iter().any(|fd| fd.revents().is_some_and(|events| events.intersects(broken))) {
            return Err(io::Error::other("the kernel has closed what it tells changes by"));
        }
        Ok(())
    }
}
