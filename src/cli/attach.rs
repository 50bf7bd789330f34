//! `attach`, for the subcommand and for all other ways in; and what it shares with `detach`.
//!
//! Input: rules, a place, and how. Output: programs on hooks, or a failure that has changed nothing.

use std::thread;

use super::args;
use super::counted::{Counting, Wanted};
use super::how::How;
use super::point;
use super::programs::{CompanionPrograms, Programs};
use super::rules::{Lists, Rules};
use super::settings::{self, Patience, Target};
use super::{Console, Failure, bypass, drift};
use crate::diag::Source;
use crate::ir::Side;
use crate::kernel;
use crate::net::gso::{self, Prepared};
use crate::net::health::{self, Broken};
use crate::net::limit::{self, Limit};
use crate::net::links::Device;
use crate::net::turn::{self, Turn};
use crate::net::{self, Attachment, Filter, Hook, Interface, Link, Netlink, companion, links, netns};
use crate::net::{card, unseen};
use crate::policy::{self, Choices, Needs};

pub fn attach(args: &args::Attach, console: &mut Console<'_>) -> Result<(), Failure> {
    console.log_in(args.treatment.log_format);
    let target = Target::read(&args.place, policy::DEFAULT_SIDE.into(), console)?;
    let how = How::read(args, console)?;
    let source = settings::defined(settings::source(args, console)?, &args.defines);
    if args.check {
        return drift::check(&target, how, source, console);
    }
    attach_to(&target, how, source, console)
}

/// Rules first, so that a mistake in them is not hidden behind an interface that is not there yet.
pub(super) fn attach_to(
    target: &Target,
    how: How,
    source: Source,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let lists = lists(how, source, console).inspect_err(|_| console.say("nothing was attached"))?;
    let rules = hooks(target, &lists)?;
    let mut netlink = open(target)?;
    if how.debug {
        console.say(
            "debug: this version has no traces in the kernel (bpf_printk); here is more about what is loaded",
        );
    }
    patiently(how.patience, console, |console| attempt_to_attach(target, &rules, how, &mut netlink, console))
}

/// The rules as they are to be attached.
pub(super) fn lists(how: How, source: Source, console: &mut Console<'_>) -> Result<Lists, Failure> {
    let mut lists = Lists::read(source, how.strict, console)?.at(how.end, console)?;
    how.count(&mut lists);
    Ok(lists)
}

/// The hooks to attach to, with the rules of each. Chains say which.
pub(super) fn hooks<'a>(target: &Target, lists: &'a Lists) -> Result<Vec<(Hook, &'a Rules)>, Failure> {
    bypass::refuse(lists)?;
    let rules = |hook: Hook| Some((hook, lists.of(hook.into())?));
    if let (Some(sides), Some(said)) = (lists.sides(), target.said) {
        let wanted = target.direction.hooks();
        if let Some(left_out) =
            sides.iter().find(|side| !wanted.iter().any(|hook| Side::from(*hook) == **side))
        {
            return Err(Failure::Usage(format!(
                "the rules have `chain {left_out}`, which {said} leaves out: chains say themselves where they go, so leave {said} out"
            )));
        }
    }
    let hooks = if lists.sides().is_some() { &Hook::ALL } else { target.direction.hooks() };
    Ok(hooks.iter().copied().filter_map(rules).collect())
}

/// Tries again while an interface does not exist.
pub(super) fn patiently(
    patience: Patience,
    console: &mut Console<'_>,
    mut work: impl FnMut(&mut Console<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut attempt = 1;
    loop {
        match work(console) {
            Err(Failure::Net(error)) if error.is_missing_interface() && attempt < patience.attempts => {
                let Patience { attempts, delay } = patience;
                console.say(format!(
                    "waiting: {error}; try {attempt} of {attempts}, the next in {} s",
                    delay.as_secs_f64()
                ));
                thread::sleep(delay);
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Held while hooks and pairs change. An interface that is not there is said before that, since it needs no turn.
pub(super) fn turn(
    target: &Target,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<Turn, Failure> {
    interfaces(target, netlink)?;
    let waiting = |holders: &[u32]| {
        console.say(format!(
            "waiting: another sfunnel is at work in this network namespace ({})",
            turn::describe(holders)
        ));
    };
    Ok(Turn::wait(turn::PATIENCE, waiting)?)
}

pub(super) fn say_removed(pairs: &[String], console: &mut Console<'_>) {
    for names in pairs {
        console.say(format!("removed {names}"));
    }
}

/// A socket in the target's namespace; the thread goes there as well.
pub(super) fn open(target: &Target) -> Result<Netlink, Failure> {
    if let Some(namespace) = &target.netns {
        netns::enter(namespace)?;
    }
    Netlink::open().map_err(|source| {
        Failure::Net(net::Error::Netlink { what: "open a netlink socket".to_owned(), source })
    })
}

pub(super) fn interfaces(target: &Target, netlink: &mut Netlink) -> Result<Vec<Interface>, Failure> {
    let Some(names) = &target.interfaces else {
        let mut all = links::list(netlink)?;
        all.retain(|interface| companion::which(interface).is_none());
        return Ok(all);
    };
    let found = links::find(netlink, names)?;
    match found.iter().find(|interface| companion::which(interface).is_some()) {
        Some(ours) => Err(net::Error::OurOwn(ours.name.clone()).into()),
        None => Ok(found),
    }
}

pub(super) fn attempt_to_attach(
    target: &Target,
    rules: &[(Hook, &Rules)],
    how: How,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let _turn = match turn(target, netlink, console) {
        // Whoever lacks this for attaching may lack more.
        Err(Failure::Net(error @ net::Error::Turn { .. })) if error.is_not_permitted() => {
            return Err(kernel::not_permitted().into());
        }
        turn => turn?,
    };
    let places = places(target, netlink, console)?;
    let interfaces: Vec<Interface> = places.iter().map(|place| place.interface.clone()).collect();
    let needs = |(hook, rules): &(Hook, &Rules)| Needs::of((*hook).into(), &rules.ruleset, how.choices);
    let needs: Vec<Needs> = rules.iter().map(needs).collect();
    let seen = net::look(netlink, &interfaces, &Hook::ALL)?;
    let before = seen.all();
    let wants_companions = needs.iter().any(|needs| needs.cut || needs.merge);
    let devices = links::devices(netlink)?;
    for device in devices.iter().filter(|device| interfaces.contains(&device.interface)) {
        let unseen = rules.iter().filter_map(|(hook, _)| Some((hook, unseen::why(device, *hook, &devices)?)));
        unseen.for_each(|(hook, why)| console.say(format!("{} {hook}: {why}", device.interface.name)));
    }
    let funnels = needs.iter().any(|needs| needs.funnels);
    if funnels && !kernel::features().check_mtu {
        console.say(format!("this kernel has no bpf_check_mtu (Linux 5.12): {}", policy::UNASKED));
    }
    let others = devices.iter().filter(|device| funnels && companion::which(&device.interface).is_none());
    let distrusted = card::distrusted(others)?;
    let ends = (wants_companions && how.choices.gso == policy::Gso::Segment)
        .then(CompanionPrograms::load)
        .transpose()?;
    let back = ends.as_ref().map(CompanionPrograms::back).unwrap_or_default();
    let prepared = if wants_companions {
        gso::prepare(netlink, how.choices.gso, &interfaces, &needs, &before, &back, &distrusted)?
    } else {
        Prepared::default()
    };
    for note in
        prepared.notes.iter().chain(&cards(&interfaces, &needs, &prepared, &distrusted, &devices, how))
    {
        console.say(note);
    }
    let on_egress = rules.iter().any(|(hook, _)| *hook == Hook::Egress);
    let limits = limit::changes(&devices, &interfaces, &before, |interface| match on_egress {
        true => prepared.limits(interface),
        false => limit::before(&seen.ours, interface).is_some(),
    });
    let done = match attach_prepared(&places, rules, &prepared, (&before, limits), how, netlink, console) {
        Ok(done) => done,
        Err(failure) => {
            prepared.undo(netlink);
            return Err(failure);
        }
    };
    for attached in &done {
        let about = [("interface", attached.interface.as_str()), ("hook", &attached.hook.to_string())];
        console.say_about(&about, point::said(attached));
    }
    if done.is_empty() {
        console.say("attached to nothing: there is no interface to attach to");
    }
    prepared.release_previous();
    let hooks: Vec<Hook> = rules.iter().map(|(hook, _)| *hook).collect();
    mend(netlink, &interfaces, &hooks, console, |netlink, broken| {
        gso::prepare(netlink, how.choices.gso, broken, &needs, &before, &back, &distrusted)
    })
    .map_err(net::Error::after_attaching)?;
    let pairs = gso::remove_unused(netlink, &interfaces).map_err(net::Error::after_attaching)?;
    say_removed(&pairs, console);
    Ok(())
}

/// What was prepared is looked at again now that programs rely on it: somebody else may have taken it away meanwhile.
fn mend(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    hooks: &[Hook],
    console: &mut Console<'_>,
    prepare: impl FnOnce(&mut Netlink, &[Interface]) -> net::Result<Prepared>,
) -> net::Result<()> {
    let filters = net::status(netlink, interfaces, hooks)?;
    let look = |netlink: &mut Netlink| {
        let devices = links::devices(netlink)?;
        health::broken(netlink, &filters, &devices, interfaces)
    };
    let broken = look(netlink)?;
    if broken.is_empty() {
        return Ok(());
    }
    for Broken { interface, pair, why } in &broken {
        let name = &interface.name;
        console
            .say(format!("{name}: somebody else has broken its {pair} meanwhile ({why}); making it again"));
    }
    let mut again: Vec<Interface> = broken.into_iter().map(|broken| broken.interface).collect();
    again.dedup();
    prepare(netlink, &again)?.release_previous();
    match look(netlink)?.into_iter().next() {
        None => Ok(()),
        Some(broken) => Err(net::Error::Broken(Box::new(broken))),
    }
}

/// What there is to say about cards that finish checksums by protocol.
fn cards(
    interfaces: &[Interface],
    needs: &[Needs],
    prepared: &Prepared,
    distrusted: &[card::Distrusted],
    devices: &[Device],
    how: How,
) -> Vec<String> {
    let leaves = needs.iter().any(|needs| needs.funnels && needs.side == Side::Egress);
    let funneling = interfaces.iter().filter(|_| leaves);
    let funneling = funneling.map(|i| (i.clone(), prepared.of(i, Hook::Egress).finishing));
    let Choices { gso, finish, .. } = how.choices;
    // Forwarded, or handed to the interface below.
    let stacked = devices.iter().any(|device| device.stacked && interfaces.contains(&device.interface));
    let arrives = needs.iter().any(|needs| needs.funnels && needs.side == Side::Ingress);
    card::notes(distrusted, &funneling.collect::<Vec<_>>(), gso, !finish && (arrives || stacked && leaves))
}

/// Where to attach, and what packets are like there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) interface: Interface,
    pub(super) link: Link,
    pub(super) mtu: Option<u32>,
}

pub(super) fn places(
    target: &Target,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<Vec<Place>, Failure> {
    let mut places: Vec<Place> = Vec::new();
    let interfaces = interfaces(target, netlink)?;
    let devices = links::devices(netlink)?;
    for interface in interfaces {
        let device = devices.iter().find(|device| device.interface == interface);
        match device.map_or(interface.link(), Device::link) {
            Some(link) => {
                places.push(Place { interface, link, mtu: device.and_then(|device| device.mtu) });
            }
            None => {
                let Interface { name, link_type, .. } = interface;
                let error = net::Error::UnknownLink { interface: name, link_type };
                if target.interfaces.is_some() {
                    return Err(error.into());
                }
                console.say(format!("left out: {error}"));
            }
        }
    }
    Ok(places)
}

fn attach_prepared(
    places: &[Place],
    rules: &[(Hook, &Rules)],
    prepared: &Prepared,
    before: (&[Filter], Vec<Limit>),
    how: How,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<Vec<net::Attached>, Failure> {
    // Each list of rules once, however many hooks have it.
    let mut lists: Vec<(&Rules, Vec<Wanted<'_>>)> = Vec::new();
    for Place { interface, link, mtu } in places {
        for (hook, rules) in rules {
            let setup = prepared.of(interface, *hook);
            let target = policy::target(kernel::features(), (*hook).into(), &rules.ruleset, *mtu);
            let options = setup.companions().options(*link, (*hook).into()).on(target);
            let wanted = (interface, *hook, options, setup);
            match lists.iter_mut().find(|(known, _)| std::ptr::eq(*known, *rules)) {
                Some((_, all)) => all.push(wanted),
                None => lists.push((rules, vec![wanted])),
            }
        }
    }
    attach_lists(lists, before, how, netlink, console)
}

/// Loads and attaches lists of rules, each to several hooks, in this order: all, or none. `standing` is what is there now;
/// `limits` are changed in the same step.
pub(super) fn attach_lists(
    lists: Vec<(&Rules, Vec<Wanted<'_>>)>,
    (standing, limits): (&[Filter], Vec<Limit>),
    how: How,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<Vec<net::Attached>, Failure> {
    let mut loaded = Vec::new();
    for (rules, wanted) in lists {
        loaded.push(if rules.ruleset.counts() {
            Loaded::Counting(Counting::load(rules, wanted, standing, how.flows, console)?)
        } else {
            let options = wanted.iter().map(|(_, _, options, _)| *options);
            Loaded::Plain(Programs::load(rules, options, how.flows, console)?, wanted)
        });
    }
    let mut attachments: Vec<Attachment<'_>> = loaded.iter().flat_map(Loaded::attachments).collect();
    for attachment in &mut attachments {
        how.where_to.choose(netlink, attachment, console)?;
    }
    let done = net::plan(netlink, attachments)?.with(limits).apply(netlink)?;
    for loaded in &mut loaded {
        if let Loaded::Counting(counting) = loaded {
            counting.take_over(&done, console);
        }
        match loaded {
            Loaded::Plain(programs, _) if how.debug => programs.debug(console),
            Loaded::Counting(counting) if how.debug => counting.debug(console),
            _ => {}
        }
    }
    Ok(done)
}

/// The programs of one list of rules.
enum Loaded<'a> {
    Plain(Programs, Vec<Wanted<'a>>),
    Counting(Counting<'a>),
}

impl Loaded<'_> {
    fn attachments(&self) -> Vec<Attachment<'_>> {
        let (programs, wanted) = match self {
            Loaded::Counting(counting) => return counting.attachments(),
            Loaded::Plain(programs, wanted) => (programs, wanted),
        };
        let attachment = |(interface, hook, options, setup): &Wanted<'_>| {
            let (program, name) = programs.of(*options, *setup)?;
            Some(Attachment::new((*interface).clone(), *hook, program, name))
        };
        wanted.iter().filter_map(attachment).collect()
    }
}
