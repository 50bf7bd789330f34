//! The macvlans on the ends of the segmentation pair, which cut without crossing it: `codegen/segment.rs` says how.
//!
//! Input: an interface that has a pair, one of its hooks, and the programs for the pair's ends. Output: a macvlan
//! whose segments come back at once. Never decides who needs one. They go with the pair, at the latest.

use rtnetlink::LinkMacVlan;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::MacVlanMode;

use super::companion::{self, CompanionProgram};
use super::filter::Hook;
use super::links::{self, Device, Interface};
use super::netlink::Netlink;
use super::{Error, Result, detach};
use crate::codegen::Companion;

/// The macvlan for what an interface has at this hook, if it is there.
pub fn at(devices: &[Device], interface: u32, hook: Hook) -> Option<&Device> {
    companion::find(devices, Companion::macvlan(hook.into()), interface)
}

/// Sees to it that there is one for what this hook has. `true`: there was none before.
pub fn ensure(
    netlink: &mut Netlink,
    interface: &Interface,
    hook: Hook,
    back: &[CompanionProgram<'_>],
) -> Result<bool> {
    let (end, macvlan) = (Companion::end(hook.into()), Companion::macvlan(hook.into()));
    let devices = links::devices(netlink)?;
    let made = at(&devices, interface.number(), hook).is_none();
    let done = if made { create(netlink, end, macvlan, interface) } else { Ok(()) };
    match done.and_then(|()| set_up(netlink, end, macvlan, interface, back)) {
        Err(error) if made => {
            let _ = remove(netlink, interface, hook);
            Err(error)
        }
        result => result.map(|()| made),
    }
}

/// Why what this hook has does not come back from its macvlan, if it does not.
pub fn fault(
    netlink: &mut Netlink,
    devices: &[Device],
    interface: u32,
    hook: Hook,
) -> Result<Option<String>> {
    let end = companion::find(devices, Companion::end(hook.into()), interface);
    let (Some(end), Some(macvlan)) = (end, at(devices, interface, hook)) else {
        return Ok(Some(format!("without its macvlan for {hook}")));
    };
    if !companion::runs(Companion::macvlan(hook.into()), macvlan) {
        return Ok(Some(format!("down: {}", macvlan.interface.name)));
    }
    let filters = detach::status(netlink, std::slice::from_ref(&end.interface), &[Hook::Egress])?;
    let name = &end.interface.name;
    Ok(filters.is_empty().then(|| format!("without its filter at {name}, egress")))
}

pub fn remove(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Result<()> {
    let devices = links::devices(netlink)?;
    match at(&devices, interface.number(), hook) {
        Some(macvlan) => companion::delete(netlink, &macvlan.interface),
        None => Ok(()),
    }
}

fn create(netlink: &mut Netlink, end: Companion, macvlan: Companion, interface: &Interface) -> Result<()> {
    let name = companion::name(macvlan, interface);
    // In this mode everything goes by the device below, whatever its destination (`macvlan_queue_xmit`, drivers/net/macvlan.c).
    let message = LinkMacVlan::new(&name, companion::number(end, interface)?, MacVlanMode::Private)
        .index(companion::number(macvlan, interface)?);
    let message = companion::settings(macvlan, message).build();
    netlink
        .request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(|source| Error::Macvlan { what: format!("make the macvlan {name}"), source })
}

fn set_up(
    netlink: &mut Netlink,
    end: Companion,
    macvlan: Companion,
    interface: &Interface,
    back: &[CompanionProgram<'_>],
) -> Result<()> {
    let devices = links::devices(netlink)?;
    let find =
        |which: Companion| companion::find(&devices, which, interface.number()).map(|d| d.interface.clone());
    let (Some(below), Some(found)) = (find(end), find(macvlan)) else {
        return Err(Error::NumberTooHigh { interface: interface.name.clone() });
    };
    companion::put(netlink, end, Hook::Egress, &below, back)?;
    companion::set_up(netlink, macvlan, &found, interface)?;
    companion::up(netlink, &found)?;
    companion::wait_until_running(netlink, &[macvlan], interface)
}
