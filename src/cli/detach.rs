//! `detach`, for the subcommand, for the container's entry point and for runtimes.
//!
//! Input: a place, and whose filters. Output: hooks without them, and no companion devices that nobody uses any more.

use super::args;
use super::attach::{interfaces, open, patiently, say_removed, turn};
use super::settings::{self, Direction, Patience, Target};
use super::{Console, Failure};
use crate::net::detach::Whose;
use crate::net::{self, Netlink, gso};

pub fn detach(args: &args::Detach, console: &mut Console<'_>) -> Result<(), Failure> {
    // What `attach -d egress` did must not survive a plain `detach`.
    let target = Target::read(&args.place, Direction::Both, console)?;
    let clean = args.clean || settings::truth("CLEAN", console)?;
    let whose = if clean { Whose::OursAndTheOriginals } else { Whose::Ours };
    detach_from(&target, Patience::NONE, whose, console)
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

pub(super) fn attempt_to_detach(
    target: &Target,
    whose: Whose,
    netlink: &mut Netlink,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let _turn = turn(target, netlink, console)?;
    let interfaces = interfaces(target, netlink)?;
    let removed = net::detach(netlink, &interfaces, target.direction.hooks(), whose)?;
    let pairs = gso::remove_unused(netlink, &interfaces)?;
    for filter in &removed {
        let name = filter.name.as_deref().unwrap_or_default();
        let about = [("interface", filter.interface.name.as_str()), ("hook", &filter.hook.to_string())];
        console.say_about(&about, format!("detached from {} {}: {name}", filter.interface.name, filter.hook));
    }
    say_removed(&pairs, console);
    if removed.is_empty() && pairs.is_empty() {
        console.say("nothing of sfunnel's is attached there");
    }
    Ok(())
}
