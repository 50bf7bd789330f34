//! What the kernel knows of the other nodes of an overlay: whose pods are where.
//!
//! Input: the overlay's interface and the host's. Output: the nodes, this one included, in the order of their
//! pods. A route by the overlay's interface has a prefix of pods and the next hop, the next hop's neighbour entry has a
//! link address, and that one's forwarding entry has the host. Never guesses: what is not known to the end is left out,
//! and said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::links::Interface;
use super::netlink::{self, Answer, Netlink};
use super::overlay::Ends;
use super::{Error, Result};
use crate::nodes::Node;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
/// `struct rtmsg` and `struct ndmsg`.
const HEADER: usize = 12;

/// The nodes, and the prefixes by the overlay that nobody knows the host of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    pub nodes: Vec<Node>,
    pub unknown: Vec<String>,
}

/// IPv4 addresses of an interface.
pub fn addresses(netlink: &mut Netlink, interface: &Interface) -> Result<Vec<Ipv4Addr>> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let answers = dump(netlink, "list the addresses", RTM_GETADDR, &[AF_INET, 0, 0, 0, 0, 0, 0, 0])?;
    let read = |answer: &Answer| {
        let [family, _, _, _, i0, i1, i2, i3] = answer.header()?;
        let of =
            |wanted| answer.attributes(8).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| v4(&value));
        let ours = family == AF_INET && u32::from_ne_bytes([i0, i1, i2, i3]) == interface.number();
        // On a point-to-point interface, the other one is the peer's.
        of(IFA_LOCAL).or(of(IFA_ADDRESS)).filter(|_| ours)
    };
    Ok(answers.iter().filter_map(read).collect())
}

/// The same of IPv6.
pub fn addresses6(netlink: &mut Netlink, interface: &Interface) -> Result<Vec<Ipv6Addr>> {
    const IFA_ADDRESS: u16 = 1;
    let message = [AF_INET6, 0, 0, 0, 0, 0, 0, 0];
    let answers = dump(netlink, "list the addresses", RTM_GETADDR, &message)?;
    let read = |answer: &Answer| {
        let [family, _, _, _, i0, i1, i2, i3] = answer.header()?;
        let ours = family == AF_INET6 && u32::from_ne_bytes([i0, i1, i2, i3]) == interface.number();
        let (_, value) = answer.attributes(8).find(|(kind, _)| *kind == IFA_ADDRESS)?;
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)).filter(|_| ours)
    };
    Ok(answers.iter().filter_map(read).collect())
}

/// Whether the route to a host leads straight to it, by this interface.
pub fn is_on_link(netlink: &mut Netlink, interface: &Interface, host: IpAddr) -> Result<bool> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_VIA: u16 = 18;
    let (family, address) = match host {
        IpAddr::V4(host) => (AF_INET, host.octets().to_vec()),
        IpAddr::V6(host) => (AF_INET6, host.octets().to_vec()),
    };
    let bytes = u8::try_from(address.len()).unwrap_or_default();
    let mut message = vec![0; HEADER];
    (message[0], message[1]) = (family, bytes * 8);
    message.extend((u16::from(bytes) + 4).to_ne_bytes());
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(address);
    let Ok(answers) = netlink.request_bytes(RTM_GETROUTE, &message) else {
        // There is none.
        return Ok(false);
    };
    Ok(answers.iter().any(|answer| {
        let has = |wanted| answer.attributes(HEADER).any(|(kind, _)| kind == wanted);
        let by = answer.attributes(HEADER).find(|(kind, _)| *kind == RTA_OIF).map(|(_, value)| value);
        by.and_then(|by| netlink::word(&by)) == Some(interface.number()) && !has(RTA_GATEWAY) && !has(RTA_VIA)
    }))
}

/// What there is to know of all nodes.
pub fn of(netlink: &mut Netlink, ends: &Ends) -> Result<Peers> {
    let routes = routes(netlink)?;
    let neighbours = neighbours(netlink, AF_INET, &ends.overlay)?;
    let entries = neighbours_of_bridge(netlink, &ends.overlay)?;
    let mut peers = Peers::default();
    for route in routes.iter().filter(|route| route.interface == Some(ends.overlay.number())) {
        let Some(hop) = route.gateway else { continue };
        let mac = neighbours.iter().find(|(address, _)| *address == hop).map(|(_, mac)| mac);
        match mac.and_then(|mac| entries.iter().find(|(_, known)| known == mac)) {
            Some((host, _)) => peers.nodes.push(Node { host: *host, first: route.first, last: route.last }),
            None => peers.unknown.push(format!("{} by {hop}", route.prefix())),
        }
    }
    let own = addresses(netlink, &ends.overlay)?;
    // The route to this node's own pods has the address of the overlay's interface in it: through a bridge with
    // flannel, to nowhere (more precise routes lead to each pod) with Calico, which has one such for each block.
    let home = |route: &&Route| {
        let others = [Some(ends.overlay.number()), Some(ends.host.number())];
        let inside = own.iter().any(|address| route.first <= *address && *address <= route.last);
        inside && route.gateway.is_none() && !others.contains(&route.interface) && route.length < 32
    };
    let host = addresses(netlink, &ends.host)?;
    let home = routes.iter().filter(home).max_by_key(|route| route.length);
    if let (Some(home), Some(host)) = (home, host.first()) {
        let block = |route: &&Route| route.to_nowhere && home.to_nowhere && (24..32).contains(&route.length);
        let blocks = routes.iter().filter(block).chain([home]);
        peers.nodes.extend(blocks.map(|route| Node { host: *host, first: route.first, last: route.last }));
    }
    peers.nodes.sort_by_key(|node| (node.first, node.host));
    peers.nodes.dedup();
    Ok(peers)
}

/// A route of the main table.
#[derive(Debug)]
pub struct Route {
    first: Ipv4Addr,
    last: Ipv4Addr,
    length: u8,
    gateway: Option<Ipv4Addr>,
    interface: Option<u32>,
    /// What has no route of its own in it is dropped.
    to_nowhere: bool,
}

impl Route {
    fn prefix(&self) -> String {
        format!("{}/{}", self.first, self.length)
    }
}

/// The interface that packets for an address leave by: of the most precise route. Some routes have none.
pub fn way(routes: &[Route], address: Ipv4Addr) -> Option<Option<u32>> {
    let has = |route: &&Route| route.first <= address && address <= route.last;
    routes.iter().filter(has).max_by_key(|route| route.length).map(|route| route.interface)
}

/// Those of the main table, but for the default.
pub fn routes(netlink: &mut Netlink) -> Result<Vec<Route>> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_TABLE: u16 = 15;
    const MAIN: u32 = 254;
    const RTN_BLACKHOLE: u8 = 6;
    let mut message = [0; HEADER];
    message[0] = AF_INET;
    let answers = dump(netlink, "list the routes", RTM_GETROUTE, &message)?;
    let read = |answer: &Answer| {
        let [family, length, _, _, table, _, _, kind, ..] = answer.header::<HEADER>()?;
        let of = |wanted| answer.attributes(HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let table = of(RTA_TABLE).and_then(|value| netlink::word(&value)).unwrap_or(table.into());
        let first = of(RTA_DST).and_then(|value| v4(&value))?;
        if family != AF_INET || table != MAIN || length == 0 || length > 32 {
            return None;
        }
        let bits = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        Some(Route {
            first,
            last: Ipv4Addr::from(first.to_bits() | bits),
            length,
            gateway: of(RTA_GATEWAY).and_then(|value| v4(&value)),
            interface: of(RTA_OIF).and_then(|value| netlink::word(&value)),
            to_nowhere: kind == RTN_BLACKHOLE,
        })
    };
    Ok(answers.iter().filter_map(read).collect())
}

/// Addresses and what they are on the link, of an interface's neighbours.
fn neighbours(netlink: &mut Netlink, family: u8, interface: &Interface) -> Result<Vec<(Ipv4Addr, Vec<u8>)>> {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    let mut message = [0; HEADER];
    message[0] = family;
    let answers = dump(netlink, "list the neighbours", RTM_GETNEIGH, &message)?;
    let read = |answer: &Answer| {
        let [known, _, _, _, i0, i1, i2, i3, ..] = answer.header::<HEADER>()?;
        let of = |wanted| answer.attributes(HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let ours = known == family && u32::from_ne_bytes([i0, i1, i2, i3]) == interface.number();
        Some((of(NDA_DST).and_then(|value| v4(&value))?, of(NDA_LLADDR)?)).filter(|_| ours)
    };
    Ok(answers.iter().filter_map(read).collect())
}

/// Hosts and the link addresses behind them, as the forwarding entries of a VXLAN have it.
fn neighbours_of_bridge(netlink: &mut Netlink, interface: &Interface) -> Result<Vec<(Ipv4Addr, Vec<u8>)>> {
    neighbours(netlink, AF_BRIDGE, interface)
}

fn dump(netlink: &mut Netlink, what: &str, kind: u16, message: &[u8]) -> Result<Vec<Answer>> {
    netlink.dump_bytes(kind, message).map_err(|source| Error::netlink(what, source))
}

fn v4(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}
