//! `gso_max_segs` of interfaces whose sockets are to send single segments, and what it was before.
//!
//! Input: what filters say, and what is so. Output: what is to change, as requests that go together with the filters
//! that know what to put back: whoever is killed leaves both or neither. Never decides who is limited.

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::filter::Filter;
use super::links::{Device, Interface};
use super::mark::{GsoSetup, Mark};
use super::netlink::{self, Netlink, Request};
use super::{Error, Result};

/// One that is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    interface: Interface,
    now: u32,
    then: u32,
}

impl Limit {
    pub(super) fn request(&self) -> Request {
        set(&self.interface, self.then)
    }

    /// What it means when that is refused.
    pub(super) fn stays(&self, source: netlink::Error) -> Error {
        Error::netlink(format!("set gso_max_segs of {}", self.interface.name), source)
    }

    pub(super) fn take_back(&self, netlink: &mut Netlink) -> Result<()> {
        let (message, flags) = set(&self.interface, self.now);
        netlink.request(message, flags).map_err(|source| self.stays(source))
    }
}

fn set(interface: &Interface, segments: u32) -> Request {
    let message = LinkUnspec::new_with_index(interface.number())
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments))
        .build();
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// What has to change where only these interfaces are to be `limited`. `before` are the filters that there were, and notes.
pub fn changes(
    devices: &[Device],
    interfaces: &[Interface],
    before: &[Filter],
    limited: impl Fn(&Interface) -> bool,
) -> Vec<Limit> {
    let change = |interface: &Interface| {
        let device = devices.iter().find(|device| device.interface.index == interface.index)?;
        let now = device.gso_max_segs?;
        let then =
            if limited(interface) { 1 } else { self::before(before, interface).filter(|_| now == 1)? };
        (then != now).then(|| Limit { interface: interface.clone(), now, then })
    };
    interfaces.iter().filter_map(change).collect()
}

/// As it was before a filter of ours changed it.
pub fn before(filters: &[Filter], interface: &Interface) -> Option<u32> {
    let mut here = filters.iter().filter(|filter| filter.interface.index == interface.index);
    here.find_map(said_by)
}

/// The same as one filter has it.
pub fn said_by(filter: &Filter) -> Option<u32> {
    match Mark::read(filter.name.as_deref()?)?.gso {
        GsoSetup::Limited(before) => Some(before),
        GsoSetup::Pass | GsoSetup::Pair | GsoSetup::Macvlan => None,
    }
}
