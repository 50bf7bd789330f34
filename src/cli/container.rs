//! The container's entry point: no arguments, everything from the environment, a banner first.
//!
//! What the original's entry point says is looked for by scripts and by CI (`grep` on the container's log), so lines of
//! the same meaning begin with the same words here: docs/container.md lists those that differ.

use nix::sys::utsname::uname;

use super::args::{Attach, Place};
use super::attach::{attach_to, interfaces, open};
use super::detach::detach_from;
use super::how::How;
use super::settings::{self, Direction, Target};
use super::{Console, Failure, bypass};
use crate::net::detach::Whose;
use crate::net::{self, Hook};
use crate::policy;

/// Every variable, with what it is when it is not set, as the original shows it: `$NAME='VALUE'`.
const VARIABLES: [(&str, &str); 14] = [
    ("SFUNNEL_END", ""),
    ("IFACES", ""),
    ("DIRECTION", "ingress"),
    ("NETNS", ""),
    ("SFUNNEL_HOOK", "auto"),
    ("SFUNNEL_ORDER", ""),
    ("SFUNNEL_GSO", "segment"),
    ("SFUNNEL_FINISH_CHECKSUMS", "0"),
    ("SFUNNEL_NO_MERGE", "0"),
    ("CLEAN", "0"),
    ("SFUNNEL_COUNTERS", "0"),
    ("DEBUG", "0"),
    ("N_ATTEMPTS", "6"),
    ("RETRY_DELAY", "3"),
];

pub fn run(console: &mut Console<'_>) -> Result<(), Failure> {
    let bypasses = bypass::is_wanted(console);
    if bypasses {
        bypass::log_level(console)?;
    }
    banner(bypasses, console);
    if bypasses {
        if console.variable("IFACES").is_some() {
            return Err(Failure::Usage(
                "IFACES and OVERLAY_IF are both set: the first is for rules on any interfaces, the second for a bypass"
                    .to_owned(),
            ));
        }
        return bypass::run_in_container(console);
    }
    let target = Target::read(&Place::default(), policy::DEFAULT_SIDE.into(), console).inspect_err(|_| {
        let direction = console.variable("DIRECTION").unwrap_or_default();
        if !direction.is_empty() && <Direction as clap::ValueEnum>::from_str(&direction, true).is_err() {
            let direction = one_line(&direction);
            console.say(format!(
                "FATAL: Invalid traffic direction '{direction}'. Allowed values {{ingress, egress, both}}."
            ));
        }
    })?;
    let args = Attach::default();
    let how = How::read(&args, console)?;
    let on = on(&target);
    if settings::truth("CLEAN", console)? {
        console.say(format!("[INFO] Cleaning sfunnel's BPF programs on {on}..."));
        detach_from(&target, how.patience, Whose::OursAndTheOriginals, console)?;
        return succeeded("cleaned", &target, console);
    }
    let source = settings::source(&args, console).inspect_err(|failure| {
        if matches!(failure, Failure::File { .. }) && console.variable("SFUNNEL_RULESET").is_none() {
            console
                .say("[ERROR] Neither '$SFUNNEL_RULESET' is defined nor '/etc/sfunnel/ruleset' can be read.");
        }
    })?;
    for piece in source.pieces() {
        if piece.name.starts_with("SFUNNEL_") {
            console.say(format!(
                "[INFO] {}='{}'",
                piece.name,
                &source.text[piece.span.start..piece.span.end]
            ));
        }
    }
    for piece in source.pieces() {
        console.say(format!("[INFO] Recompiling sfunnel BPF program with ruleset: ({})", piece.name));
        console.say("===");
        console.say(&source.text[piece.span.start..piece.span.end]);
        console.say("===");
    }
    console.say(format!("[INFO] Attaching BPF program on {on}..."));
    attach_to(&target, how, source, console).inspect_err(|failure| {
        if matches!(failure, Failure::Net(_) | Failure::Load(_)) {
            let names = target.interfaces.as_deref().unwrap_or_default().join(" ");
            console.say(format!("[ERROR] unable to attach BPF program to '{names}'!"));
        }
    })?;
    succeeded("attached", &target, console)
}

fn on(target: &Target) -> String {
    let names = target.interfaces.as_deref().unwrap_or_default().join(" ");
    format!("IFACES={{{names}}} DIRECTION={}", said(target.direction))
}

fn said(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
        Direction::Both => "both",
    }
}

/// Of each interface, and of all. (Rules in chains say themselves which direction they are for.)
fn succeeded(what: &str, target: &Target, console: &mut Console<'_>) -> Result<(), Failure> {
    // This thread is in the namespace by now.
    let mut netlink = open(&Target { netns: None, ..target.clone() })?;
    let mut all = interfaces(target, &mut netlink)?;
    if what == "attached" {
        // Without IFACES, those that packets cannot be read on are left out.
        let standing = net::status(&mut netlink, &all, &Hook::ALL)?;
        all.retain(|one| standing.iter().any(|filter| filter.interface == *one));
    }
    let names: Vec<String> = all.into_iter().map(|one| one.name).collect();
    let direction = said(target.direction);
    for name in &names {
        console.say(format!("[INFO] Successfully {what} BPF program(s) on '{name}' DIRECTION={direction}."));
    }
    let names = names.join(" ");
    console.say(format!(
        "[INFO] Successfully {what} BPF program(s) on interfaces {{{names}}} DIRECTION={direction}"
    ));
    Ok(())
}

/// A variable's value cannot make a line of its own.
fn one_line(value: &str) -> String {
    value.replace('\n', " ")
}

fn banner(bypasses: bool, console: &mut Console<'_>) {
    let kernel = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    console.say(format!("[INFO] sfunnel {}", env!("CARGO_PKG_VERSION")));
    console.say("[INFO] ENVs:");
    let of_bypass = if bypasses { &bypass::VARIABLES[..] } else { &[] };
    for (name, default) in VARIABLES.iter().chain(of_bypass) {
        let value = console.variable(name).unwrap_or_else(|| (*default).to_owned());
        console.say(format!("  ${name}='{}'", one_line(&value)));
    }
    console.say("[INFO] Container info:");
    console.say(format!("  Kernel: Linux {kernel}"));
}
