//! What is in the way of a bypass: the overlay's interface, the host's, routes, and what encrypts.
//!
//! Input: both interfaces, and the nodes. Output: findings. Reads the kernel's settings; changes nothing, and sends
//! nothing.

use std::fs;

use super::{Finding, Level};
use crate::net::links::Device;
use crate::net::overlay::Ends;
use crate::net::{self, Netlink, peers, xfrm};
use crate::nodes::Node;

/// `others`: the pods of the other nodes.
pub fn overlay(
    netlink: &mut Netlink,
    devices: &[Device],
    ends: &Ends,
    others: &[Node],
) -> net::Result<Vec<Finding>> {
    let device = |number: u32| devices.iter().find(|device| device.interface.number() == number);
    let (Some(over), Some(under)) = (device(ends.overlay.number()), device(ends.host.number())) else {
        return Ok(Vec::new());
    };
    let about = over.interface.name.as_str();
    let mut found = vec![kind(over, under, devices)];
    found.extend(ends.notes().into_iter().map(|note| Finding::new(Level::Note, about, note)));
    found.extend(mtu(over, under));
    for device in [over, under] {
        if !device.carrier {
            let text = "is down, or has no carrier: nothing comes by it";
            found.push(Finding::new(Level::Bad, &device.interface.name, text));
        }
    }
    if sysctl("ip_forward") == Some(0) {
        let text =
            "net.ipv4.ip_forward is 0: what arrives for pods is not forwarded, with or without the overlay";
        found.push(Finding::new(Level::Bad, "forwarding", text));
    }
    found.extend(routes(netlink, ends, others)?);
    if let Some(count @ 1..) = xfrm::policies()? {
        let text = format!(
            "{count} IPsec policies are in force: what they encrypt of the overlay's packets leaves as it is where it is \
             bypassed"
        );
        found.push(Finding::new(Level::Note, "encryption", text));
    }
    Ok(found)
}

/// What it is, and whether it sends by the interface that is said to be the host's.
fn kind(over: &Device, under: &Device, devices: &[Device]) -> Finding {
    let about = over.interface.name.as_str();
    let kind = over.kind.as_deref().unwrap_or("no tunnel that the kernel names");
    let other = over.sends_by.filter(|number| *number != under.interface.number());
    let Some(other) = other else {
        let by =
            over.sends_by.map_or(String::new(), |_| format!(", which sends by {}", under.interface.name));
        return Finding::new(Level::Good, about, format!("{kind}{by}"));
    };
    let other = devices.iter().find(|device| device.interface.number() == other);
    let name = other.map_or("another interface", |device| device.interface.name.as_str());
    let encrypts = other.and_then(|device| device.kind.as_deref()) == Some("wireguard");
    let why = if encrypts { ", which encrypts: what is bypassed would not be" } else { "" };
    let text = format!("{kind}, which sends by {name}, and not by {}{why}", under.interface.name);
    Finding::new(Level::Bad, about, text)
}

fn mtu(over: &Device, under: &Device) -> Option<Finding> {
    let (inner, outer) = (over.mtu?, under.mtu?);
    let about = over.interface.name.as_str();
    let name = &under.interface.name;
    Some(match outer.checked_sub(inner) {
        None => {
            let text =
                format!("MTU {inner}, and {name} has {outer}: what is longer would be lost past the overlay");
            Finding::new(Level::Bad, about, text)
        }
        Some(0) => Finding::new(Level::Good, about, format!("MTU {inner}, as {name}")),
        Some(more) => {
            let text = format!("MTU {inner}; {name} would take {more} bytes more of what is bypassed");
            Finding::new(Level::Note, about, text)
        }
    })
}

/// Whether what comes by the overlay's interface is let in: its reverse path has to lead there.
fn routes(netlink: &mut Netlink, ends: &Ends, others: &[Node]) -> net::Result<Vec<Finding>> {
    let filter = ["all", &ends.overlay.name].map(|of| sysctl(&format!("conf/{of}/rp_filter")).unwrap_or(0));
    let strict = filter.into_iter().max() == Some(1);
    let table = peers::routes(netlink)?;
    let mut found = Vec::new();
    let mut right = 0_usize;
    for node in others {
        // A host's own route, if it has one, is for one address.
        let last = node.last;
        let about = ends.overlay.name.as_str();
        match peers::way(&table, last) {
            Some(way) if way == Some(ends.overlay.number()) => right += 1,
            way => {
                let leads =
                    if way.is_some() { "the route to it leads elsewhere" } else { "there is no route to it" };
                let text = format!("pods of {} ({} to {last}): {leads}", node.host, node.first);
                let (level, more) = match strict {
                    true => (Level::Bad, ", and rp_filter is strict: what comes from there is dropped"),
                    false => (Level::Note, ": answers take another way"),
                };
                found.push(Finding::new(level, about, format!("{text}{more}")));
            }
        }
    }
    if right > 0 {
        let filter = if strict { "strict" } else { "loose or off" };
        let text = format!("rp_filter is {filter}; the routes to pods of {right} prefixes lead by it");
        found.push(Finding::new(Level::Good, &ends.overlay.name, text));
    }
    Ok(found)
}

/// A number of `net.ipv4`, in the namespace of the calling thread.
fn sysctl(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?.trim().parse().ok()
}
