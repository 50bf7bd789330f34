//! `bypass watch`: asks the other nodes again and again, and sends past the overlay to those that receive.
//!
//! Input: what `bypass attach` takes. Output: programs that follow what the nodes answer and, if the kernel is
//! asked for them, which nodes there are. Told to stop, it takes away what sends, which nobody would watch any more.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Bypass, Seen};
use crate::cli::{Console, Failure, args, attach};
use crate::net::detach::Whose;
use crate::net::{self, Hook, Netlink, links};

pub(super) fn run(args: &args::BypassWatch, console: &mut Console<'_>) -> Result<(), Failure> {
    let bypass = Bypass::read(&args.attach, console)?;
    let every = Duration::try_from_secs_f64(args.every)
        .ok()
        .filter(|every| *every >= Duration::from_millis(100))
        .ok_or_else(|| Failure::Usage("`--every` takes seconds, 0.1 or more".to_owned()))?;
    let stop = Stop::new()?;
    let mut netlink = attach::open(&bypass.target)?;
    let mut seen = Seen::default();
    let mut failed = String::new();
    loop {
        match bypass.apply(&mut netlink, &mut seen, console) {
            Ok(()) => failed.clear(),
            // Another try would find the same text.
            Err(failure @ (Failure::Rules | Failure::Usage(_) | Failure::NotText(_))) => return Err(failure),
            Err(failure) => {
                let text = failure.to_string();
                if text != failed {
                    console.say(format!("not done, trying again: {text}"));
                }
                failed = text;
            }
        }
        if stop.within(every) {
            return leave(&bypass, &mut netlink, console);
        }
    }
}

/// Nothing is sent past the overlay any more. What receives stays: others may still send.
fn leave(bypass: &Bypass, netlink: &mut Netlink, console: &mut Console<'_>) -> Result<(), Failure> {
    let overlay = links::find(netlink, std::slice::from_ref(&bypass.overlay))?;
    if !net::detach(netlink, &overlay, &[Hook::Egress], Whose::Ours)?.is_empty() {
        console.say(format!("{}: nothing is sent past the overlay", bypass.overlay));
    }
    Ok(())
}

/// The signals that end it.
struct Stop(SignalFd);

impl Stop {
    fn new() -> Result<Self, Failure> {
        let wrong = |errno: nix::errno::Errno| Failure::File {
            what: "cannot wait for signals".to_owned(),
            source: errno.into(),
        };
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        signals.thread_block().map_err(wrong)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&signals, flags).map(Self).map_err(wrong)
    }

    /// Whether it is to end; waits so long for it.
    fn within(&self, time: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + time;
        loop {
            if matches!(self.0.read_signal(), Ok(Some(_))) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(LOOK.min(left));
        }
    }
}
