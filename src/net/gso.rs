//! What becomes of packets of several segments on an interface: prepared before attaching, settled after it.
//!
//! Comes in: the user's choice, the interfaces, what stands on them. Goes out: segmentation pairs and interface
//! settings, and for each hook which of them it has. What it did is in the filters' names (`mark`), from where
//! it is taken back when the last filter that says so has gone. Never touches a filter on the interfaces themselves.

use std::fmt;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::filter::{Filter, Hook};
use super::links::{self, Device, Interface};
use super::mark::{Large, Mark};
use super::netlink::Netlink;
use super::pair::{self, Back};
use super::{Error, Result, detach};

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// A segmentation pair.
    #[default]
    Segment,
    /// The interface's sockets make no such packets: `gso_max_segs 1`.
    Limit,
    /// They pass as they are.
    Off,
}

/// What was prepared, and not yet relied on: undone if attaching fails.
#[derive(Debug, Default)]
pub struct Prepared {
    hooks: Vec<(Interface, Hook, Large)>,
    made: Vec<Interface>,
    limited: Vec<(Interface, u32)>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Prepared {
    /// What this hook's filter has to say of packets of several segments.
    pub fn of(&self, interface: &Interface, hook: Hook) -> Large {
        let found = self.hooks.iter().find(|(i, h, _)| i == interface && *h == hook);
        found.map_or(Large::Pass, |(_, _, large)| *large)
    }

    /// Puts back what was before.
    pub fn undo(self, netlink: &mut Netlink) {
        for (interface, before) in self.limited {
            let _ = limit(netlink, &interface, before);
        }
        for interface in self.made {
            let _ = pair::remove(netlink, interface.number());
        }
    }
}

/// Makes what these hooks need. All or nothing.
pub fn prepare(
    netlink: &mut Netlink,
    wanted: Gso,
    interfaces: &[Interface],
    hooks: &[Hook],
    standing: &[Filter],
    back: &[Back<'_>; 2],
) -> Result<Prepared> {
    let devices = links::devices(netlink)?;
    let mut prepared = Prepared::default();
    for interface in interfaces {
        let device = devices.iter().find(|device| device.interface == *interface);
        match prepared.add(netlink, wanted, interface, device, hooks, standing, back) {
            Ok(()) => {}
            Err(error) => {
                prepared.undo(netlink);
                return Err(error);
            }
        }
    }
    Ok(prepared)
}

impl Prepared {
    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        netlink: &mut Netlink,
        wanted: Gso,
        interface: &Interface,
        device: Option<&Device>,
        hooks: &[Hook],
        standing: &[Filter],
        back: &[Back<'_>; 2],
    ) -> Result<()> {
        // What comes back to a loopback device has lost the route it had, and would be taken for forged.
        if wanted == Gso::Off || interface.is_loopback() {
            return Ok(());
        }
        if wanted == Gso::Segment {
            match self.segment(netlink, interface, device, back)? {
                None => {
                    self.hooks.extend(hooks.iter().map(|hook| (interface.clone(), *hook, Large::Pair)));
                    return Ok(());
                }
                Some(why) => self.notes.push(format!(
                    "{}: {why}; falling back to `--gso limit`: new TCP connections send single segments, \
                     other packets of several segments pass as they are",
                    interface.name
                )),
            }
        }
        if !hooks.contains(&Hook::Egress) {
            return Ok(());
        }
        let now = device.and_then(|device| device.gso_max_segs).unwrap_or(u32::from(u16::MAX));
        let before = limited_before(standing, interface).unwrap_or(now);
        if now != 1 {
            limit(netlink, interface, 1)?;
            self.limited.push((interface.clone(), now));
        }
        self.hooks.push((interface.clone(), Hook::Egress, Large::Limited(before)));
        Ok(())
    }

    /// `Some`: why there can be no pair.
    fn segment(
        &mut self,
        netlink: &mut Netlink,
        interface: &Interface,
        device: Option<&Device>,
        back: &[Back<'_>; 2],
    ) -> Result<Option<String>> {
        if device.is_some_and(|device| device.per_packet) {
            return Ok(Some("what this tunnel is told with each packet would be lost in a pair".to_owned()));
        }
        match pair::ensure(netlink, interface, back) {
            Ok(made) => {
                if made {
                    self.made.push(interface.clone());
                }
                Ok(None)
            }
            Err(error) if error.is_not_permitted() => Err(error),
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}

/// After a change: puts back what filters that are gone had asked for. `before` is what stood on these
/// interfaces; `removing`, that nobody is about to use a pair which no filter speaks of. Returns the names
/// of the pairs that were removed.
pub fn settle(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    before: &[Filter],
    removing: bool,
) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let devices = links::devices(netlink)?;
    let now = detach::status(netlink, interfaces, &Hook::ALL)?;
    for interface in interfaces {
        let Some(device) = devices.iter().find(|device| device.interface.index == interface.index) else {
            continue;
        };
        if let (Some(old), None) = (limited_before(before, interface), limited_before(&now, interface))
            && device.gso_max_segs == Some(1)
        {
            limit(netlink, interface, old)?;
        }
        if !uses_pair(&now, interface) && (removing || uses_pair(before, interface)) {
            removed.extend(pair::remove(netlink, interface.number())?);
        }
    }
    for gone in pair::orphans(&devices) {
        removed.extend(pair::remove(netlink, gone)?);
    }
    Ok(removed)
}

/// Pairs that nothing uses, and why: their interface is gone, or its filters were removed by somebody else.
pub fn left_behind(netlink: &mut Netlink, devices: &[Device]) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for owner in pair::owners(devices) {
        let names = pair::names(devices, owner).unwrap_or_default();
        let interface = devices.iter().map(|device| &device.interface).find(|i| i.number() == owner);
        let why = match interface {
            None => format!("interface {owner}, which it was for, is gone"),
            Some(interface) => {
                let filters = detach::status(netlink, std::slice::from_ref(interface), &Hook::ALL)?;
                if uses_pair(&filters, interface) {
                    continue;
                }
                format!("nothing on {} uses it any more", interface.name)
            }
        };
        left.push(format!("segmentation pair {names}: left over, {why}; `sfunnel detach` removes it"));
    }
    Ok(left)
}

/// Whether a filter sends to the interface's pair.
pub fn uses_pair(filters: &[Filter], interface: &Interface) -> bool {
    filters_of(filters, interface).any(|large| large == Large::Pair)
}

fn filters_of<'a>(filters: &'a [Filter], interface: &'a Interface) -> impl Iterator<Item = Large> + 'a {
    let here = filters.iter().filter(|filter| filter.interface.index == interface.index);
    here.filter_map(|filter| Some(Mark::read(filter.name.as_deref()?)?.large))
}

/// `gso_max_segs` as it was before a filter of ours changed it.
fn limited_before(filters: &[Filter], interface: &Interface) -> Option<u32> {
    filters_of(filters, interface).find_map(|large| match large {
        Large::Limited(before) => Some(before),
        Large::Pass | Large::Pair => None,
    })
}

fn limit(netlink: &mut Netlink, interface: &Interface, segments: u32) -> Result<()> {
    let message = LinkUnspec::new_with_index(interface.number())
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments))
        .build();
    netlink
        .request(RouteNetlinkMessage::SetLink(message), 0)
        .map_err(|source| Error::netlink(format!("set gso_max_segs of {}", interface.name), source))
}

impl fmt::Display for Gso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gso::Segment => "segment",
            Gso::Limit => "limit",
            Gso::Off => "off",
        })
    }
}
