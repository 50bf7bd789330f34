//! `bypass attach`: rules on the overlay's interface, and what undoes them on the host's.
//!
//! Input: both interfaces, and one text for all nodes. Output: programs on both. What is received follows from
//! the nodes: nobody writes it, and it is attached first. What is sent goes to those nodes only that have answered a
//! probe since, by the program that receives there.

mod contained;
mod doctor;
mod drift;
mod fast;
mod given;
mod known;
mod pods;
mod status;
mod watch;

use std::collections::BTreeMap;

use super::args;
use super::attach;
use super::counted::Wanted;
use super::how::How;
use super::rules::{Lists, Rules};
use super::{Console, Failure, point};
use crate::codegen::{self, Options};
use crate::diag::Source;
use crate::ir::Side;
use crate::net::detach::Whose;
use crate::net::gso::{self, HookSetup};
use crate::net::mark::Reach;
use crate::net::probe::Answer;
use crate::net::{self, Filter, Hook, Mark, Netlink, limit, links};

pub(super) use contained::{VARIABLES, is_wanted, log_level, run as run_in_container};
use given::Given;
use known::Way;

pub fn run(args: &args::Bypass, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        args::BypassCommand::Attach(args) => {
            let given = Given::read(&args.given, console)?;
            let mut netlink = attach::open(&given.target)?;
            if args.check {
                return drift::check(&given, &mut netlink, console);
            }
            let nothing = |console: &mut Console<'_>| console.say("nothing was attached");
            let mut seen = Seen::default();
            let source = given.source()?;
            given.apply(&source, &mut netlink, &mut seen, console).inspect_err(|_| nothing(console))
        }
        args::BypassCommand::Watch(args) => watch::run(args, console),
        args::BypassCommand::Status(args) => status::run(args, console),
        args::BypassCommand::Doctor(args) => doctor::run(args, console),
    }
}

/// What has been found out of each node, for the next time: only what changes is said again.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<Way, Answer>,
    /// Whatever else there was to say.
    notes: Vec<String>,
    /// The rules that have been read, and judged.
    source: Option<Source>,
    /// What flows that go past the stack take.
    fast: Option<fast::Made>,
}

impl Seen {
    /// Says what has not been said the last time.
    fn note(&mut self, notes: Vec<String>, console: &mut Console<'_>) {
        notes.iter().filter(|note| !self.notes.contains(note)).for_each(|note| console.say(note));
        self.notes = notes;
    }
}

impl Given {
    /// Attaches what is not attached yet. A program that is there already stays.
    fn apply(
        &self,
        source: &Source,
        netlink: &mut Netlink,
        seen: &mut Seen,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let _turn = attach::turn(&self.target, netlink, console)?;
        let known = self.known(source, netlink, seen, console)?;
        let interfaces = [known.ends.host.clone(), known.ends.overlay.clone()];
        let standing = net::status(netlink, &interfaces, &Hook::ALL)?;
        if self.fast.is_none() && seen.answers.is_empty() {
            fast::leave(netlink, &known.ends)?;
        }
        // Programs of an earlier run have maps of their own: all of them are replaced at first.
        if let Some(flows) = self.fast.filter(|_| seen.fast.is_none()) {
            seen.fast = Some(fast::Made::new(flows)?);
        }
        let anew = seen.fast.as_ref().is_some_and(|made| !made.is_everywhere);
        let mut how = self.how;
        how.flows = seen.fast.as_ref().map(fast::Made::descriptors).unwrap_or_default();
        let how = (how, anew);
        let of_host = (&known.ends.host, Hook::Ingress, known.options(Side::Ingress), HookSetup::default());
        put(&known.receiving, of_host, &standing, how, netlink, console)?;
        if self.receive_only {
            return Ok(());
        }
        let answers = known.ask(netlink, self.port)?;
        for (way, answer) in &answers {
            let before = seen.answers.get(way);
            if before != Some(answer) {
                said(*way, *answer, before, self.port).into_iter().for_each(|said| console.say(said));
            }
        }
        seen.answers = answers;
        if let Some(made) = &mut seen.fast {
            made.follow(&known, netlink, self.how, console)?;
        }
        let Some((rules, reach)) = known.sending(&received(&seen.answers)) else {
            let overlay = std::slice::from_ref(&known.ends.overlay);
            let removed = net::detach(netlink, overlay, &[Hook::Egress], Whose::Ours)?;
            if !removed.is_empty() || standing.is_empty() {
                console.say(format!("{}: nothing is sent past the overlay", known.ends.overlay.name));
            }
            seen.fast.iter_mut().for_each(|made| made.is_everywhere = true);
            return Ok(());
        };
        let setup = HookSetup { reach: Some(reach), ..HookSetup::default() };
        let of_overlay = (&known.ends.overlay, Hook::Egress, known.options(Side::Egress), setup);
        put(&rules, of_overlay, &standing, how, netlink, console)?;
        seen.fast.iter_mut().for_each(|made| made.is_everywhere = true);
        Ok(())
    }
}

/// Rules on a hook, unless just these are there and it need not be done anew.
fn put(
    rules: &Rules,
    wanted: Wanted<'_>,
    standing: &[Filter],
    (how, anew): (How, bool),
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let (interface, hook, options, HookSetup { reach, .. }) = wanted;
    let here = standing.iter().find(|filter| filter.interface == *interface && filter.hook == hook);
    let there = here.and_then(|filter| Mark::read(filter.name.as_deref()?));
    if !anew && there.is_some() && there == Some(mark(rules, options, reach)?) {
        return Ok(());
    }
    // What `attach` has limited or made beside the interface goes with the program that this one replaces.
    let alone = std::slice::from_ref(interface);
    let limits = match hook {
        Hook::Egress => limit::changes(&links::devices(netlink)?, alone, standing, |_| false),
        Hook::Ingress => Vec::new(),
    };
    let lists = vec![(rules, vec![wanted])];
    for attached in attach::attach_lists(lists, (standing, limits), how, netlink, console)? {
        console.say(point::said(&attached));
    }
    let pairs = gso::remove_unused(netlink, alone).map_err(net::Error::after_attaching)?;
    attach::say_removed(&pairs, console);
    Ok(())
}

/// What the name of a filter with these rules says.
fn mark(rules: &Rules, options: Options, reach: Option<Reach>) -> Result<Mark, Failure> {
    let mark = Mark::new(&rules.compile(options)?.bytes(), rules.ruleset.rules.len());
    Ok(Mark { counted: rules.ruleset.counts(), reach, fast: options.fast, ..mark })
}

/// The ways to those that receive.
fn received(answers: &BTreeMap<Way, Answer>) -> Vec<Way> {
    let received = answers.iter().filter(|(_, answer)| **answer == Answer::Received);
    received.map(|(way, _)| *way).collect()
}

/// What a node's answer means, if there is anything to say about it.
fn said(way: Way, answer: Answer, before: Option<&Answer>, port: u16) -> Option<String> {
    match why_not(answer, way, port) {
        None => before.map(|_| format!("node {way} receives: bypassed from now on")),
        Some(why) => Some(format!("warning: node {way} stays on the overlay: {why}")),
    }
}

/// Why nothing is to be sent past the overlay to a node that answers like this.
fn why_not(answer: Answer, way: Way, port: u16) -> Option<String> {
    match answer {
        Answer::Received => None,
        Answer::Distant => Some("there is a router on the way to it, which knows nothing of pods".to_owned()),
        _ if way.direct => Some(format!(
            "no answer between pods' addresses, from port {port}: no program there takes them, or the network between \
             the nodes does not let them through"
        )),
        Answer::Refused => Some(
            "no program there takes what is sent past it, or something on the way clears the urgent pointer"
                .to_owned(),
        ),
        Answer::Silent => {
            Some(format!("no answer from its port {port}: it is not there, or knows other pods"))
        }
    }
}

/// Rules that bypass, where one interface is named.
pub(super) fn refuse(lists: &Lists) -> Result<(), Failure> {
    match lists.each().any(|(_, rules)| codegen::bypasses(&rules.ruleset)) {
        false => Ok(()),
        true => Err(Failure::Usage(
            "these rules are for two interfaces, an overlay's and the host's: attach them with `sfunnel bypass attach`"
                .to_owned(),
        )),
    }
}
