//! The macvlans on the ends of the segmentation pair, which cut without crossing it: `codegen/segment.rs` says how.
//!
//! Input: an interface that has a pair, one of its hooks, and the programs for the pair's ends. Output: a macvlan
//! whose segments come back at once. Never decides who needs one. They go with the pair, at the latest.

use std::collections::HashMap;

use rtnetlink::LinkMacVlan;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::MacVlanMode;

use super::batch::Batch;
use super::companion::{self, CompanionProgram};
use super::filter::Hook;
use super::links::{self, Device, Interface};
use super::netlink::{Netlink, Request};
use super::qdisc::{self, Qdisc};
use super::{Error, Result, seen};
use crate::codegen::Companion;
use crate::ir::Side;

/// The macvlan for what an interface has at this hook, if it is there.
pub fn at(devices: &[Device], interface: u32, hook: Hook) -> Option<&Device> {
    companion::find(devices, Companion::macvlan(hook.into()), interface)
}

/// Sees to it that there is one for what each of these hooks has; their pairs are there. `true`: there was none before. An
/// inner error is that of one macvlan, of which nothing is left if there was none before.
pub fn ensure(
    netlink: &mut Netlink,
    devices: &[Device],
    wanted: &[(&Interface, Hook)],
    back: &[CompanionProgram<'_>],
) -> Result<Vec<Result<bool>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut results: Vec<Result<bool>> = Vec::new();
    for (interface, hook) in wanted {
        let below = companion::find(devices, Companion::end((*hook).into()), interface.number());
        let below = match below {
            Some(below) => below.interface.clone(),
            None => companion::planned(Companion::end((*hook).into()), interface)?,
        };
        let macvlan = at(devices, interface.number(), *hook).map(|device| device.interface.clone());
        results.push(Ok(macvlan.is_none()));
        let macvlan =
            macvlan.map_or_else(|| companion::planned(Companion::macvlan((*hook).into()), interface), Ok)?;
        found.push([below, macvlan]);
    }
    let made: Vec<bool> = results.iter().map(|result| *result.as_ref().unwrap_or(&false)).collect();
    let done = fill(netlink, wanted, &found, &made, &mut results, back);
    // Nobody is to rely on one that does not work. The number may be that of somebody else's device.
    if done.is_err() || results.iter().any(Result::is_err) {
        let devices = links::devices(netlink)?;
        for ((interface, hook), (result, made)) in wanted.iter().zip(results.iter().zip(made)) {
            if made && (done.is_err() || result.is_err()) {
                let _ = remove(netlink, &devices, interface, *hook);
            }
        }
    }
    done.map(|()| results)
}

/// Makes those that are to be `made`, and sets all of them up.
fn fill(
    netlink: &mut Netlink,
    wanted: &[(&Interface, Hook)],
    found: &[[Interface; 2]],
    made: &[bool],
    results: &mut [Result<bool>],
    back: &[CompanionProgram<'_>],
) -> Result<()> {
    let mut batch = Batch::default();
    for (whom, ((_, hook), [below, macvlan])) in wanted.iter().zip(found).enumerate() {
        if made[whom] {
            let refused =
                |source| Some(Error::Macvlan { what: format!("make the macvlan {}", macvlan.name), source });
            batch.add(whom, creation((*hook).into(), below, macvlan), refused);
        }
    }
    batch.send(netlink, results)?;

    let qdiscs = qdisc::all(netlink)?;
    let mut batch = Batch::default();
    for (whom, ((interface, hook), [below, macvlan])) in wanted.iter().zip(found).enumerate() {
        let (end, which) = (Companion::end((*hook).into()), Companion::macvlan((*hook).into()));
        let qdisc = qdiscs.get(&below.index).copied().unwrap_or_default();
        companion::put(netlink, &mut batch, whom, (end, Hook::Egress, below, qdisc), back)?;
        companion::set_up(&mut batch, whom, which, macvlan, interface);
        companion::up(&mut batch, whom, macvlan);
    }
    batch.send(netlink, results)?;

    let which =
        |(interface, hook): &(&Interface, Hook)| (Companion::macvlan((*hook).into()), interface.number());
    let fine = wanted.iter().zip(results.iter()).filter(|(_, result)| result.is_ok());
    let down = companion::wait_until_running(netlink, fine.map(|(place, _)| which(place)).collect())?;
    for (place, result) in wanted.iter().zip(results).filter(|(_, result)| result.is_ok()) {
        if down.contains(&which(place)) {
            *result = Err(Error::Down { interface: place.0.name.clone() });
        }
    }
    Ok(())
}

/// Why what this hook has does not come back from its macvlan, if it does not.
pub fn fault(
    netlink: &mut Netlink,
    qdiscs: &HashMap<i32, Qdisc>,
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
    let seen = seen::look_with(netlink, qdiscs, std::slice::from_ref(&end.interface), &[Hook::Egress])?;
    let name = &end.interface.name;
    Ok(seen.ours.is_empty().then(|| format!("without its filter at {name}, egress")))
}

pub fn remove(netlink: &mut Netlink, devices: &[Device], interface: &Interface, hook: Hook) -> Result<()> {
    match at(devices, interface.number(), hook) {
        Some(macvlan) => companion::delete(netlink, &macvlan.interface),
        None => Ok(()),
    }
}

fn creation(side: Side, below: &Interface, macvlan: &Interface) -> Request {
    // In this mode everything goes by the device below, whatever its destination (`macvlan_queue_xmit`, drivers/net/macvlan.c).
    let message =
        LinkMacVlan::new(&macvlan.name, below.number(), MacVlanMode::Private).index(macvlan.number());
    let message = companion::settings(Companion::macvlan(side), message).build();
    (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}
