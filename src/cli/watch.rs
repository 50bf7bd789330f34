//! `watch`: rules follow their file, interfaces that appear get them.
//!
//! Comes in: a file, a place, and what inotify, rtnetlink and signals say. Goes out: hooks that are as the file says.
//! Between two events it sleeps. What is attached is never taken away because of something that went wrong.

mod events;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use self::events::{Event, Events};
use super::attach::{attempt_to_attach, hooks, lists, open};
use super::detach::attempt_to_detach;
use super::files;
use super::how::How;
use super::rules::Lists;
use super::settings::{self, Direction, Patience, Target};
use super::{Console, Failure, args};
use crate::net::detach::Whose;
use crate::net::monitor::Changes;
use crate::net::{self, Hook, Interface, Netlink, companion, links};
use crate::policy;

/// How often an interface that refused is tried again, each time after twice the time.
const RETRIES: u32 = 5;
const FIRST_RETRY: Duration = Duration::from_secs(1);

pub(super) fn run(args: &args::Watch, console: &mut Console<'_>) -> Result<(), Failure> {
    console.log_in(args.treatment.log_format);
    if args.file == Path::new("-") {
        return Err(Failure::Usage("standard input cannot be watched: name a file".to_owned()));
    }
    let target = Target::read(&args.place, policy::DEFAULT_SIDE.into(), console)?;
    let how = How::of(&args.treatment, args.strict, Patience::NONE, console)?;
    // From here on this thread is in the namespace, and so are the sockets.
    let netlink = open(&target)?;
    let target = Target { netns: None, ..target };
    let mut events = Events::new(&args.file)
        .map_err(|source| Failure::File { what: format!("cannot watch {}", args.file.display()), source })?;
    let mut watch = Watch {
        args,
        target,
        how,
        netlink,
        seen: None,
        attached: None,
        known: Vec::new(),
        left_out: BTreeSet::new(),
        again: None,
    };
    watch.begin(&events, console)?;
    notify(&[NotifyState::Ready]);
    loop {
        let event = events.wait(watch.again.as_ref().map(|again| again.at)).map_err(|source| {
            Failure::File { what: format!("cannot go on watching {}", args.file.display()), source }
        })?;
        match event {
            Event::End => break,
            Event::Reload => watch.file(&events, true, console),
            Event::Changed { links, file } => {
                if file {
                    watch.file(&events, false, console);
                }
                watch.links(&links, console);
            }
        }
        watch.try_again(&events, console);
    }
    notify(&[NotifyState::Stopping]);
    watch.end(console)
}

/// The process that started us may not listen.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

struct Watch<'a> {
    args: &'a args::Watch,
    target: Target,
    how: How,
    netlink: Netlink,
    /// What the file held when it was last looked at, right or wrong.
    seen: Option<Vec<u8>>,
    attached: Option<Attached>,
    /// Interfaces that have the rules, or had them until somebody else took them away: that is theirs to decide.
    known: Vec<Interface>,
    /// Numbers of those that packets cannot be read on, which has been said.
    left_out: BTreeSet<i32>,
    again: Option<Again>,
}

/// Rules that were attached, or will be when there is an interface.
struct Attached {
    lists: Lists,
    hooks: Vec<Hook>,
}

/// A try that failed for the system's reasons.
struct Again {
    at: Instant,
    tries: u32,
    /// The file's rules, not only those of an interface.
    file: bool,
}

impl Watch<'_> {
    /// The first time, what is wrong is an error: nobody would see to it later.
    fn begin(&mut self, events: &Events, console: &mut Console<'_>) -> Result<(), Failure> {
        let bytes = self.read(events)?;
        self.apply(bytes, console)?;
        let missing = self.missing();
        if !missing.is_empty() {
            console.say(format!("waiting for {}", missing.join(", ")));
        }
        console.say(format!("watching {}", self.args.file.display()));
        Ok(())
    }

    fn read(&self, events: &Events) -> Result<Vec<u8>, Failure> {
        let what = || format!("cannot read {}", self.args.file.display());
        let bytes = events.file.read().map_err(|source| Failure::File { what: what(), source })?;
        if bytes.trim_ascii().is_empty() {
            let source = io::Error::other("it is empty; `sfunnel detach` removes rules");
            return Err(Failure::File { what: what(), source });
        }
        Ok(bytes)
    }

    /// Attaches what the file says, on all interfaces: all or nothing.
    fn apply(&mut self, bytes: Vec<u8>, console: &mut Console<'_>) -> Result<(), Failure> {
        let name = self.args.file.display().to_string();
        self.seen = Some(bytes.clone());
        let source = settings::defined(files::text(&name, bytes)?, &self.args.defines);
        let lists = lists(self.how, source, console)?;
        let rules = hooks(&self.target, &lists)?;
        let now: Vec<Hook> = rules.iter().map(|(hook, _)| *hook).collect();
        let interfaces = self.wanted(console)?;
        if !interfaces.is_empty() {
            let target = self.on(&interfaces, self.target.direction);
            attempt_to_attach(&target, &rules, self.how, &mut self.netlink, console)?;
        }
        let mut stale = self.attached.take().map(|attached| attached.hooks).unwrap_or_default();
        stale.retain(|hook| !now.contains(hook));
        self.known = interfaces;
        let mut hooks = now;
        let result = self.detach(&stale, console);
        if result.is_err() {
            hooks.extend(stale);
        }
        self.attached = Some(Attached { lists, hooks });
        result
    }

    /// What old rules have attached to hooks where there are none any more. Both hooks at once: a process that is killed in
    /// between would leave one direction.
    fn detach(&mut self, hooks: &[Hook], console: &mut Console<'_>) -> Result<(), Failure> {
        let direction = match hooks {
            [Hook::Ingress] => Direction::Ingress,
            [Hook::Egress] => Direction::Egress,
            _ => Direction::Both,
        };
        if self.known.is_empty() || hooks.is_empty() {
            return Ok(());
        }
        let target = self.on(&self.known, direction);
        attempt_to_detach(&target, Whose::Ours, &mut self.netlink, console)
    }

    fn on(&self, interfaces: &[Interface], direction: Direction) -> Target {
        let names = interfaces.iter().map(|interface| interface.name.clone()).collect();
        Target { interfaces: Some(names), direction, said: self.target.said, netns: None }
    }

    /// Those that there are of the interfaces that are to have the rules.
    fn wanted(&mut self, console: &mut Console<'_>) -> Result<Vec<Interface>, Failure> {
        let devices = links::devices(&mut self.netlink)?;
        let mut wanted = Vec::new();
        for device in devices {
            let ours = companion::which(&device.interface).is_some();
            match &self.target.interfaces {
                None if ours => {}
                None if device.link().is_none() => {
                    if self.left_out.insert(device.interface.index) {
                        let Interface { name, link_type, .. } = device.interface;
                        console.say(format!(
                            "left out: {}",
                            net::Error::UnknownLink { interface: name, link_type }
                        ));
                    }
                }
                None => wanted.push(device.interface),
                Some(names) if !names.contains(&device.interface.name) => {}
                Some(_) if ours => return Err(net::Error::OurOwn(device.interface.name).into()),
                Some(_) => wanted.push(device.interface),
            }
        }
        Ok(wanted)
    }

    fn missing(&self) -> Vec<&str> {
        let names = self.target.interfaces.iter().flatten();
        names.filter(|name| self.known.iter().all(|known| known.name != **name)).map(String::as_str).collect()
    }

    /// The file may have changed.
    fn file(&mut self, events: &Events, anyway: bool, console: &mut Console<'_>) {
        let bytes = match self.read(events) {
            Ok(bytes) if !anyway && self.seen.as_ref() == Some(&bytes) => return,
            Ok(bytes) => bytes,
            Err(failure) => {
                // What comes back is news, even if it is what was there.
                if self.seen.take().is_some() || anyway {
                    console.say(format!("error: {failure}"));
                    self.say_kept(console);
                }
                return;
            }
        };
        self.again = None;
        if let Err(failure) = self.apply(bytes, console) {
            self.failed(&failure, true, console);
            self.say_kept(console);
        }
    }

    fn say_kept(&self, console: &mut Console<'_>) {
        console.say("the rules that are attached stay");
    }

    /// Interfaces have come, changed or gone.
    fn links(&mut self, changes: &Changes, console: &mut Console<'_>) {
        if !changes.any {
            return;
        }
        self.known.retain(|known| !changes.gone.contains(&known.index));
        self.left_out.retain(|index| !changes.gone.contains(index));
        if let Err(failure) = self.attach_new(changes.lost, console) {
            self.failed(&failure, false, console);
        }
    }

    /// Attaches to those that do not have the rules, each by itself.
    fn attach_new(&mut self, lost: bool, console: &mut Console<'_>) -> Result<(), Failure> {
        let wanted = self.wanted(console)?;
        self.known.retain(|known| wanted.contains(known));
        if lost {
            // Each may have gone and come back: those without a filter of ours are new.
            let standing = net::status(&mut self.netlink, &self.known, &Hook::ALL)?;
            self.known.retain(|known| standing.iter().any(|filter| filter.interface == *known));
        }
        let Some(attached) = self.attached.take() else { return Ok(()) };
        let mut result = Ok(());
        for interface in wanted.into_iter().filter(|one| !self.known.contains(one)).collect::<Vec<_>>() {
            let target = self.on(std::slice::from_ref(&interface), self.target.direction);
            let done = hooks(&target, &attached.lists)
                .and_then(|rules| attempt_to_attach(&target, &rules, self.how, &mut self.netlink, console));
            match done {
                Ok(()) => self.known.push(interface),
                // Gone again, and when it comes the kernel will say so.
                Err(Failure::Net(error)) if error.is_missing_interface() => {}
                Err(failure) => result = Err(failure),
            }
        }
        self.attached = Some(attached);
        result
    }

    /// Says it, and sees to it that what the system refused is tried again.
    fn failed(&mut self, failure: &Failure, file: bool, console: &mut Console<'_>) {
        if !matches!(failure, Failure::Rules) {
            console.say(format!("error: {failure}"));
        }
        let (tries, before) = self.again.take().map_or((0, false), |again| (again.tries, again.file));
        let file = file || before;
        if failure.code() == 1 && tries < RETRIES {
            let delay = FIRST_RETRY * 2u32.pow(tries);
            console.say(format!("trying again in {} s", delay.as_secs()));
            self.again = Some(Again { at: Instant::now() + delay, tries: tries + 1, file });
        }
    }

    fn try_again(&mut self, events: &Events, console: &mut Console<'_>) {
        let Some(Again { file, .. }) = self.again.as_ref().filter(|again| again.at <= Instant::now()) else {
            return;
        };
        let done = match file {
            true => self.read(events).and_then(|bytes| self.apply(bytes, console)),
            false => self.attach_new(false, console),
        };
        match done {
            Ok(()) => self.again = None,
            Err(failure) => {
                self.failed(&failure, false, console);
            }
        }
    }

    fn end(&mut self, console: &mut Console<'_>) -> Result<(), Failure> {
        if !self.args.detach_on_exit {
            console.say("ended; the rules that are attached stay");
            return Ok(());
        }
        let hooks = self.attached.as_ref().map(|attached| attached.hooks.clone()).unwrap_or_default();
        // One that has gone meanwhile has nothing any more.
        let there = self.wanted(console)?;
        self.known.retain(|known| there.contains(known));
        self.detach(&hooks, console)
    }
}
