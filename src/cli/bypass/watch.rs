//! `bypass watch`: asks the other nodes again and again, and sends past the overlay to those that receive.
//!
//! Input: what `bypass attach` takes. Output: programs that follow what the nodes answer, what the files with the rules
//! say and, if the kernel is asked for them, which nodes there are. Rules that cannot be read change nothing. Told to
//! stop, it takes away what sends, which nobody would watch any more.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::given::Given;
use super::{Seen, fast};
use crate::cli::{Console, Failure, args, attach};
use crate::diag::Source;
use crate::net::detach::Whose;
use crate::net::monitor::Monitor;
use crate::net::{self, Hook, Netlink, links};

/// How long to wait before nodes are asked again, unless it is said.
pub(super) const EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(args: &args::BypassWatch, console: &mut Console<'_>) -> Result<(), Failure> {
    let given = Given::read(&args.given, console)?;
    let every = Duration::try_from_secs_f64(args.every)
        .ok()
        .filter(|every| *every >= Duration::from_millis(100))
        .ok_or_else(|| Failure::Usage("`--every` takes seconds, 0.1 or more".to_owned()))?;
    follow(&given, every, console)
}

pub(super) fn follow(given: &Given, every: Duration, console: &mut Console<'_>) -> Result<(), Failure> {
    let stop = Stop::new()?;
    let mut netlink = attach::open(&given.target)?;
    let mut rules = Following { good: None, bad: None, last: Ok(given.source()?) };
    let mut seen = Seen::default();
    let wrong = |source| Failure::File { what: "cannot follow interfaces".to_owned(), source };
    let mut links = given.fast.map(|_| Monitor::open()).transpose().map_err(wrong)?;
    let mut failed = String::new();
    loop {
        match rules.apply(given, &mut netlink, &mut seen, console) {
            Ok(()) => failed.clear(),
            // There are no others to go on with.
            Err(failure) if is_about_rules(&failure) => return Err(failure),
            Err(failure) => {
                let text = failure.to_string();
                if text != failed {
                    console.say(format!("error: {text}; not done, trying again"));
                }
                failed = text;
            }
        }
        let deadline = Instant::now() + every;
        while let Some(woken) = stop.until(deadline, &mut links)? {
            match woken {
                Woken::Told => return leave(given, &mut netlink, console),
                Woken::Links => {
                    if let Err(failure) = look_at_pods(given, &mut netlink, &mut seen, console) {
                        console.say(format!("error: {failure}; not done, trying again"));
                    }
                }
            }
        }
        rules.read_again(given, console);
    }
}

/// Pods that have come may have flows that go past the stack.
fn look_at_pods(
    given: &Given,
    netlink: &mut Netlink,
    seen: &mut Seen,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let Some(made) = &mut seen.fast else { return Ok(()) };
    let _turn = attach::turn(&given.target, netlink, console)?;
    made.look_again(netlink, given.how, console)
}

/// Another try would find the same text.
fn is_about_rules(failure: &Failure) -> bool {
    matches!(failure, Failure::Rules | Failure::Usage(_) | Failure::NotText(_))
}

const KEPT: &str = "the rules that are attached stay";

/// Rules that may change.
struct Following {
    /// Those that were right the last time, and those that have been refused since.
    good: Option<Source>,
    bad: Option<Source>,
    /// What was read last, or why it could not be.
    last: Result<Source, String>,
}

impl Following {
    /// Says what cannot be read, once.
    fn read_again(&mut self, given: &Given, console: &mut Console<'_>) {
        let now = given.source().map_err(|failure| failure.to_string());
        if now == self.last {
            return;
        }
        match &now {
            Ok(source) => console.say(format!("{} has changed", source.name)),
            Err(why) => console.say(format!("error: {why}; {KEPT}")),
        }
        self.last = now;
    }

    /// The newest rules that are right.
    fn apply(
        &mut self,
        given: &Given,
        netlink: &mut Netlink,
        seen: &mut Seen,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let known = [&self.good, &self.bad];
        let new =
            self.last.as_ref().ok().filter(|source| !known.iter().any(|one| one.as_ref() == Some(*source)));
        if let Some(new) = new.cloned() {
            match given.apply(&new, netlink, seen, console) {
                Err(failure) if is_about_rules(&failure) && self.good.is_some() => {
                    if !matches!(failure, Failure::Rules) {
                        console.say(format!("error: {failure}"));
                    }
                    console.say(format!("error: {} is wrong; {KEPT}", new.name));
                    self.bad = Some(new);
                }
                // Anything else may go away, and whether these are right is not known yet.
                Err(failure) => return Err(failure),
                Ok(()) => {
                    (self.good, self.bad) = (Some(new), None);
                    return Ok(());
                }
            }
        }
        match self.good.clone() {
            Some(good) => given.apply(&good, netlink, seen, console),
            None => Ok(()),
        }
    }
}

/// Nothing is sent past the overlay any more. What receives stays: others may still send.
fn leave(given: &Given, netlink: &mut Netlink, console: &mut Console<'_>) -> Result<(), Failure> {
    let devices = links::devices(netlink)?;
    let ends = given.ends(netlink, &devices)?;
    if given.fast.is_some() {
        fast::leave(netlink, &ends)?;
    }
    let overlay = ends.overlay;
    if !net::detach(netlink, std::slice::from_ref(&overlay), &[Hook::Egress], Whose::Ours)?.is_empty() {
        console.say(format!("{}: nothing is sent past the overlay", overlay.name));
    }
    Ok(())
}

enum Woken {
    /// To end.
    Told,
    /// Interfaces have changed: pods may have come.
    Links,
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

    /// Waits until there is something to do, or for nothing till then.
    fn until(&self, deadline: Instant, links: &mut Option<Monitor>) -> Result<Option<Woken>, Failure> {
        const LOOK: Duration = Duration::from_millis(50);
        loop {
            if matches!(self.0.read_signal(), Ok(Some(_))) {
                return Ok(Some(Woken::Told));
            }
            if let Some(links) = links {
                let wrong = |source| Failure::File { what: "cannot follow interfaces".to_owned(), source };
                let changes = links.drain().map_err(wrong)?;
                if changes.any || changes.lost {
                    return Ok(Some(Woken::Links));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(LOOK.min(left));
        }
    }
}
