//! `attach` and `detach`, for the subcommands and for the container's entry point.

use std::os::fd::AsFd;
use std::thread;

use asm::Program;

use super::args::{self, Strict};
use super::rules::Rules;
use super::settings::{self, Direction, Patience, Target};
use super::{Console, Failure};
use crate::net::detach::Whose;
use crate::net::{self, Attachment, Interface, Link, Mark, Netlink, links, netns};
use crate::{elf, kernel};

/// How to attach, whatever the rules and the place.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) patience: Patience,
    strict: Strict,
    debug: bool,
}

impl How {
    pub(super) fn read(args: &args::Attach, console: &Console<'_>) -> Result<Self, Failure> {
        Ok(Self {
            patience: Patience::read(args, console)?,
            strict: args.strict,
            debug: args.debug || settings::truth("DEBUG", console)?,
        })
    }
}

pub fn attach(args: &args::Attach, console: &mut Console<'_>) -> Result<(), Failure> {
    let target = Target::read(&args.place, Direction::Ingress, console)?;
    let how = How::read(args, console)?;
    let source = settings::source(args, console)?;
    attach_to(&target, how, source, console)
}

pub fn detach(args: &args::Detach, console: &mut Console<'_>) -> Result<(), Failure> {
    // What `attach -d egress` did must not survive a plain `detach`.
    let target = Target::read(&args.place, Direction::Both, console)?;
    let clean = args.clean || settings::truth("CLEAN", console)?;
    let whose = if clean { Whose::OursAndTheOriginals } else { Whose::Ours };
    detach_from(&target, Patience::NONE, whose, console)
}

/// Rules first, so that a mistake in them is not hidden behind an interface that is not there yet.
pub(super) fn attach_to(
    target: &Target,
    how: How,
    source: crate::diag::Source,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let rules =
        Rules::read(source, how.strict, console).inspect_err(|_| console.say("nothing was attached"))?;
    let mut netlink = open(target)?;
    let How { patience, debug, .. } = how;
    if debug {
        console.say(
            "debug: this version has no traces in the kernel (bpf_printk); here is more about what is loaded",
        );
    }
    patiently(patience, console, |console| attempt_to_attach(target, &rules, debug, &mut netlink, console))
}

/// Tries again while an interface does not exist.
fn patiently(
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

pub(super) fn detach_from(
    target: &Target,
    patience: Patience,
    whose: Whose,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let mut netlink = open(target)?;
    patiently(patience, console, |console| attempt_to_detach(target, whose, &mut netlink, console))
}

fn attempt_to_detach(
    target: &Target,
    whose: Whose,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let interfaces = interfaces(target, netlink)?;
    let removed = net::detach(netlink, &interfaces, target.direction.hooks(), whose)?;
    for filter in &removed {
        let name = filter.name.as_deref().unwrap_or_default();
        console.say(format!("detached from {} {}: {name}", filter.interface.name, filter.hook));
    }
    if removed.is_empty() {
        console.say("nothing of sfunnel's is attached there");
    }
    Ok(())
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
    Ok(match &target.interfaces {
        Some(names) => links::find(netlink, names)?,
        None => links::list(netlink)?,
    })
}

fn attempt_to_attach(
    target: &Target,
    rules: &Rules,
    debug: bool,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let mut places: Vec<(Interface, Link)> = Vec::new();
    for interface in interfaces(target, netlink)? {
        match interface.link() {
            Some(link) => places.push((interface, link)),
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
    let kinds: Vec<Link> = [Link::Ethernet, Link::None]
        .into_iter()
        .filter(|link| places.iter().any(|(_, l)| l == link))
        .collect();
    let compiled =
        kinds.iter().map(|link| rules.compile(*link)).collect::<Result<Vec<Program>, Failure>>()?;
    let named: Vec<(&str, &Program)> = kinds.iter().map(|link| program_name(*link)).zip(&compiled).collect();
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    let loaded = kernel::load(&elf::wrap(&named)?, &names).inspect_err(|error| {
        if let Some(text) = rules.explain(error, &named, console.color) {
            console.say(text);
        }
    })?;

    let mut attachments = Vec::new();
    for (interface, link) in &places {
        let Some(which) = kinds.iter().position(|kind| kind == link) else { continue };
        let mark = Mark::new(&compiled[which].bytes(), rules.ruleset.rules.len()).to_string();
        for hook in target.direction.hooks() {
            attachments.push(Attachment {
                interface: interface.clone(),
                hook: *hook,
                program: loaded[which].as_fd(),
                name: mark.clone(),
            });
        }
    }
    let done = net::plan(netlink, attachments)?.apply(netlink)?;
    for net::Attached { interface, hook, replaced } in &done {
        let replaced = replaced.map(|id| format!(", in place of program {id}")).unwrap_or_default();
        console.say(format!("attached to {interface} {hook}{replaced}"));
    }
    if done.is_empty() {
        console.say("attached to nothing: there is no interface to attach to");
    }
    if debug {
        for (program, compiled) in loaded.iter().zip(&compiled) {
            let translated = program.translated.map_or("unknown".to_owned(), |bytes| (bytes / 8).to_string());
            console.say(format!(
                "debug: program {} `{}`: {} instructions, {} long jumps, {translated} after the verifier",
                program.id,
                program.name,
                compiled.slots(),
                compiled.long_jumps(),
            ));
        }
    }
    Ok(())
}

fn program_name(link: Link) -> &'static str {
    match link {
        Link::Ethernet => "sfunnel",
        Link::None => "sfunnel_l3",
    }
}
