//! Companion devices that do not work, or that nothing needs: for `status` and `doctor`.
//!
//! Input: filters and devices. Output: what filters rely on and does not work, what is left over, and why. Never
//! changes anything.

use super::filter::{Filter, Hook};
use super::gso::{shortens, uses};
use super::links::{Device, Interface};
use super::netlink::Netlink;
use super::pair::{self, Pair};
use super::seen::{self, Unfinished};
use super::{Result, companion, macvlan, qdisc, turn};

/// What to say of hooks that an interrupted run has left: unless there is one at work just now.
pub fn half(unfinished: &[Unfinished]) -> Result<Vec<String>> {
    if unfinished.is_empty() {
        return Ok(Vec::new());
    }
    let holders = turn::holders()?;
    let said = |half: &Unfinished| {
        let place = format!("{} {}", half.interface.name, half.hook);
        if holders.is_empty() {
            return format!("{place}: {half}");
        }
        format!("{place}: half attached so far: sfunnel is at work ({})", turn::describe(&holders))
    };
    Ok(unfinished.iter().map(said).collect())
}

/// Pairs that nothing uses, and why: their interface is gone, or its filters were removed by somebody else.
pub fn left_behind(netlink: &mut Netlink, devices: &[Device]) -> Result<Vec<String>> {
    let owners = companion::owners(devices);
    let find =
        |owner: u32| devices.iter().map(|d| &d.interface).find(|interface| interface.number() == owner);
    let interfaces: Vec<Interface> = owners.iter().filter_map(|owner| find(*owner)).cloned().collect();
    let filters = seen::status(netlink, &interfaces, &Hook::ALL)?;
    let mut left = Vec::new();
    for owner in owners {
        let interface = find(owner);
        for pair in Pair::ALL {
            let Some(names) = pair::names(devices, pair, owner) else { continue };
            left.push(match interface {
                None => format!(
                    "{names}: left over, interface {owner}, which it was for, is gone; `sfunnel detach` removes it"
                ),
                Some(interface) if uses(&filters, pair, interface) => continue,
                Some(interface) => {
                    let attached = filters.iter().any(|filter| filter.interface.index == interface.index);
                    let how = if attached { "attach` with the same rules" } else { "detach`" };
                    let name = &interface.name;
                    format!("{names}: left over, nothing on {name} uses it any more; `sfunnel {how} removes it")
                }
            });
        }
    }
    Ok(left)
}

/// A pair that is used and does not work, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub interface: Interface,
    pub pair: Pair,
    pub why: String,
}

/// Those of these interfaces.
pub fn broken(
    netlink: &mut Netlink,
    filters: &[Filter],
    devices: &[Device],
    interfaces: &[Interface],
) -> Result<Vec<Broken>> {
    let mut used: Vec<(&Interface, Vec<Pair>)> = Vec::new();
    for interface in interfaces {
        let pairs: Vec<Pair> = Pair::ALL.into_iter().filter(|pair| uses(filters, *pair, interface)).collect();
        if !pairs.is_empty() {
            used.push((interface, pairs));
        }
    }
    if used.is_empty() {
        return Ok(Vec::new());
    }
    let qdiscs = qdisc::all(netlink)?;
    let mut broken = Vec::new();
    for (interface, pairs) in used {
        let mut faults = Vec::new();
        for pair in pairs {
            let fault = pair::fault(netlink, &qdiscs, devices, pair, interface.number())?;
            faults.extend(fault.map(|why| (pair, why)));
        }
        if faults.iter().all(|(pair, _)| *pair != Pair::Segmentation) {
            for hook in Hook::ALL.into_iter().filter(|hook| shortens(filters, interface, *hook)) {
                let fault = macvlan::fault(netlink, &qdiscs, devices, interface.number(), hook)?;
                faults.extend(fault.map(|why| (Pair::Segmentation, why)));
            }
        }
        broken.extend(faults.into_iter().map(|(pair, why)| Broken {
            interface: interface.clone(),
            pair,
            why,
        }));
    }
    Ok(broken)
}
