//! Network interfaces: which there are, and what a packet on them starts with.
//!
//! Comes in: names. Goes out: interface numbers and the kind of link header. Never changes an interface.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;

use super::netlink::{self, Netlink};
use super::{Error, Link, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: i32,
    pub name: String,
    /// ARPHRD_*, from linux/if_arp.h.
    pub link_type: u16,
}

impl Interface {
    /// What stands in front of the IP header on this interface; `None` if we know no such packets.
    pub fn link(&self) -> Option<Link> {
        const ETHER: u16 = 1;
        const LOOPBACK: u16 = 772;
        const PPP: u16 = 512; // tc sees packets before the PPP header is put on, and after it is taken off
        const RAWIP: u16 = 519;
        const TUNNEL: u16 = 768;
        const TUNNEL6: u16 = 769;
        const SIT: u16 = 776;
        const IPGRE: u16 = 778;
        const IP6GRE: u16 = 823;
        const NONE: u16 = 0xfffe;
        match self.link_type {
            ETHER | LOOPBACK => Some(Link::Ethernet),
            PPP | RAWIP | TUNNEL | TUNNEL6 | SIT | IPGRE | IP6GRE | NONE => Some(Link::None),
            _ => None,
        }
    }
}

/// Every interface of the namespace, in the kernel's order.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Interface>> {
    const HEADER: usize = 16; // struct ifinfomsg
    const IFLA_IFNAME: u16 = 3;
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump(&request).map_err(|source| Error::netlink("list the interfaces", source))?;
    Ok(answers
        .iter()
        .filter_map(|answer| {
            let [_, _, t0, t1, i0, i1, i2, i3] = answer.header()?;
            let (_, name) = answer.attributes(HEADER).find(|(kind, _)| *kind == IFLA_IFNAME)?;
            Some(Interface {
                index: i32::from_ne_bytes([i0, i1, i2, i3]),
                name: netlink::text(&name),
                link_type: u16::from_ne_bytes([t0, t1]),
            })
        })
        .collect())
}

/// The interfaces with these names, in this order, each once; every missing one is named in the error.
pub fn find(netlink: &mut Netlink, names: &[String]) -> Result<Vec<Interface>> {
    let all = list(netlink)?;
    let mut found: Vec<Interface> = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    for name in names {
        match all.iter().find(|interface| interface.name == *name) {
            Some(interface) if found.contains(interface) => {}
            Some(interface) => found.push(interface.clone()),
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() {
        Ok(found)
    } else {
        Err(Error::NoSuchInterface {
            missing,
            present: all.into_iter().map(|interface| interface.name).collect(),
        })
    }
}
