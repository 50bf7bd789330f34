//! Companion devices that do not work, or that nothing needs: for `status` and `doctor`.
//!
//! Input: filters and devices. Output: what filters rely on and does not work, what is left over, and why. Never
//! changes anything.

use super::filter::{Filter, Hook};
use super::gso::{shortens, uses};
use super::links::{Device, Interface};
use super::netlink::Netlink;
use super::pair::{self, Pair};
use super::{Result, companion, detach, macvlan};

/// Pairs that nothing uses, and why: their interface is gone, or its filters were removed by somebody else.
pub fn left_behind(netlink: &mut Netlink, devices: &[Device]) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for owner in companion::owners(devices) {
        let interface = devices.iter().map(|device| &device.interface).find(|i| i.number() == owner);
        let filters = match interface {
            Some(interface) => detach::status(netlink, std::slice::from_ref(interface), &Hook::ALL)?,
            None => Vec::new(),
        };
        for pair in Pair::ALL {
            let Some(names) = pair::names(devices, pair, owner) else { continue };
            let why = match interface {
                None => format!("interface {owner}, which it was for, is gone"),
                Some(interface) if uses(&filters, pair, interface) => continue,
                Some(interface) => format!("nothing on {} uses it any more", interface.name),
            };
            left.push(format!("{names}: left over, {why}; `sfunnel detach` removes it"));
        }
    }
    Ok(left)
}

/// The pairs that are used and do not work, and why.
pub fn broken(
    netlink: &mut Netlink,
    filters: &[Filter],
    devices: &[Device],
    interface: &Interface,
) -> Result<Vec<(Pair, String)>> {
    let mut broken = Vec::new();
    for pair in Pair::ALL.into_iter().filter(|pair| uses(filters, *pair, interface)) {
        broken.extend(pair::fault(netlink, devices, pair, interface.number())?.map(|why| (pair, why)));
    }
    if broken.iter().all(|(pair, _)| *pair != Pair::Segmentation) {
        for hook in Hook::ALL.into_iter().filter(|hook| shortens(filters, interface, *hook)) {
            let fault = macvlan::fault(netlink, devices, interface.number(), hook)?;
            broken.extend(fault.map(|why| (Pair::Segmentation, why)));
        }
    }
    Ok(broken)
}
