//! Network interfaces: which there are, and what a packet on them starts with.
//!
//! Input: names. Output: interface numbers and the kind of link header. Never changes an interface.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;

use super::netlink::{self, Netlink};
use super::{Error, Link, Result, companion};

const LOOPBACK: u16 = 772;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: i32,
    pub name: String,
    /// ARPHRD_*, from linux/if_arp.h.
    pub link_type: u16,
}

impl Interface {
    pub fn is_loopback(&self) -> bool {
        self.link_type == LOOPBACK
    }

    /// The number as the messages of rtnetlink and programs want it.
    pub fn number(&self) -> u32 {
        self.index.unsigned_abs()
    }

    /// The link header of this interface's packets; `None` if it is not known.
    pub fn link(&self) -> Option<Link> {
        const ETHER: u16 = 1;
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

/// An interface and what matters of its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub interface: Interface,
    pub mtu: Option<u32>,
    /// Of the link, if it is one of Ethernet's.
    pub address: Option<[u8; 6]>,
    /// Administratively up, and packets can pass.
    pub running: bool,
    /// The same, known to the interface, but perhaps not said by the kernel yet.
    pub carrier: bool,
    /// How many segments a packet of a local TCP socket may hold.
    pub gso_max_segs: Option<u32>,
    /// A tunnel that is told with each packet where to send it.
    pub per_packet: bool,
    /// The number of the interface that a VXLAN sends by, and the address it sends from; as far as it was told.
    pub sends_by: Option<u32>,
    pub sends_from: Option<Ipv4Addr>,
    /// What is at its other end, or below it, is in another namespace.
    pub elsewhere: bool,
    /// It hands packets to other interfaces of the namespace, or may do so.
    pub stacked: bool,
    /// `vrf`, `veth`, ...; hardware says none.
    pub kind: Option<String>,
    /// The number of its group, by which several can be deleted at once.
    pub group: u32,
    /// The number of the bridge, bond or VRF that it is in.
    pub master: Option<u32>,
    /// That of the interface that it is on.
    pub lower: Option<u32>,
    pub ipvlan_l3s: bool,
    /// The kind of its root qdisc.
    pub qdisc: Option<String>,
    /// The hardware: its bus, and its name there.
    pub parent: Option<(String, String)>,
}

impl Device {
    /// The link header of its packets; `None` if it is not known.
    pub fn link(&self) -> Option<Link> {
        match self.interface.link() {
            Some(Link::None) if self.may_rebuild_header() => Some(Link::Either),
            link => link,
        }
    }

    /// Whether its ingress may show a link header that it does not have (`skb_mac_header_rebuild`).
    pub fn may_rebuild_header(&self) -> bool {
        matches!(self.kind.as_deref(), Some("xfrm" | "vti" | "vti6"))
    }

    /// An interface that nothing else is known of.
    pub fn bare(interface: Interface) -> Self {
        Self {
            interface,
            mtu: None,
            address: None,
            running: false,
            carrier: false,
            gso_max_segs: None,
            per_packet: false,
            sends_by: None,
            sends_from: None,
            elsewhere: false,
            stacked: false,
            kind: None,
            group: 0,
            master: None,
            lower: None,
            ipvlan_l3s: false,
            qdisc: None,
            parent: None,
        }
    }
}

/// Every interface of the namespace, in the kernel's order.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Interface>> {
    Ok(devices(netlink)?.into_iter().map(|device| device.interface).collect())
}

/// The same with settings.
pub fn devices(netlink: &mut Netlink) -> Result<Vec<Device>> {
    const HEADER: usize = 16; // struct ifinfomsg
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_QDISC: u16 = 6;
    const IFLA_MASTER: u16 = 10;
    const IFLA_PARENT_DEV_NAME: u16 = 56;
    const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
    const IFLA_OPERSTATE: u16 = 16;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_GROUP: u16 = 27;
    const IFLA_CARRIER: u16 = 33;
    const IFLA_LINK_NETNSID: u16 = 37;
    const IFLA_GSO_MAX_SEGS: u16 = 40;
    const IFF_UP: u32 = 1;
    const IF_OPER_UP: u8 = 6;
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump(&request).map_err(|source| Error::netlink("list the interfaces", source))?;
    let read = |answer: &netlink::Answer| {
        let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3] = answer.header()?;
        let mut device = Device::bare(Interface {
            index: i32::from_ne_bytes([i0, i1, i2, i3]),
            name: String::new(),
            link_type: u16::from_ne_bytes([t0, t1]),
        });
        let (mut bus, mut parent) = (None, None);
        let up = u32::from_ne_bytes([f0, f1, f2, f3]) & IFF_UP != 0;
        for (kind, value) in answer.attributes(HEADER) {
            match kind {
                IFLA_ADDRESS => device.address = value.try_into().ok(),
                IFLA_IFNAME => device.interface.name = netlink::text(&value),
                IFLA_MTU => device.mtu = netlink::word(&value),
                IFLA_CARRIER => device.carrier = up && value.first() == Some(&1),
                IFLA_OPERSTATE => device.running = value.first() == Some(&IF_OPER_UP),
                IFLA_LINKINFO => {
                    device.per_packet = is_per_packet(&value);
                    (device.sends_by, device.sends_from) = vxlan(&value);
                    device.stacked = is_stacked(&value);
                    device.kind = kind_of(&value);
                    device.ipvlan_l3s = is_ipvlan_l3s(&value);
                }
                IFLA_LINK_NETNSID => device.elsewhere = true,
                IFLA_GROUP => device.group = netlink::word(&value).unwrap_or_default(),
                IFLA_QDISC => device.qdisc = Some(netlink::text(&value)),
                IFLA_LINK => device.lower = netlink::word(&value),
                IFLA_MASTER => device.master = netlink::word(&value),
                IFLA_PARENT_DEV_NAME => parent = Some(netlink::text(&value)),
                IFLA_PARENT_DEV_BUS_NAME => bus = Some(netlink::text(&value)),
                IFLA_GSO_MAX_SEGS => device.gso_max_segs = netlink::word(&value),
                _ => {}
            }
        }
        device.parent = bus.zip(parent);
        (!device.interface.name.is_empty()).then_some(device)
    };
    Ok(answers.iter().filter_map(read).collect())
}

/// Whether it is anything but hardware, which says no kind, or what hands packets to another namespace or a process, or
/// has a queue of its own.
fn is_stacked(info: &[u8]) -> bool {
    const NOT: [&str; 6] = ["veth", "netkit", "tun", "wireguard", "dummy", "ifb"];
    kind_of(info).is_some_and(|kind| !NOT.contains(&kind.as_str()))
}

/// What kind of device the kernel says it is.
fn kind_of(info: &[u8]) -> Option<String> {
    const IFLA_INFO_KIND: u16 = 1;
    let mut attributes = netlink::attributes(info);
    attributes.find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, value)| netlink::text(&value))
}

/// What a VXLAN sends by, and from.
fn vxlan(info: &[u8]) -> (Option<u32>, Option<Ipv4Addr>) {
    const IFLA_VXLAN_LINK: u16 = 3;
    const IFLA_VXLAN_LOCAL: u16 = 4;
    let data = if kind_of(info).as_deref() == Some("vxlan") { data_of(info) } else { Vec::new() };
    let of = |wanted| netlink::attributes(&data).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let from = of(IFLA_VXLAN_LOCAL).and_then(|value| <[u8; 4]>::try_from(value).ok());
    (of(IFLA_VXLAN_LINK).and_then(|value| netlink::word(&value)), from.map(Ipv4Addr::from))
}

/// What there is to know of its kind.
fn data_of(info: &[u8]) -> Vec<u8> {
    const IFLA_INFO_DATA: u16 = 2;
    let data = netlink::attributes(info).find(|(kind, _)| *kind == IFLA_INFO_DATA);
    data.map(|(_, value)| value).unwrap_or_default()
}

/// Whether it takes packets at the local input of another interface (`IPVLAN_MODE_L3S`).
fn is_ipvlan_l3s(info: &[u8]) -> bool {
    const IFLA_IPVLAN_MODE: u16 = 1;
    const L3S: u16 = 2;
    let data = data_of(info);
    let mut data = netlink::attributes(&data);
    kind_of(info).as_deref() == Some("ipvlan")
        && data.any(|(kind, value)| kind == IFLA_IPVLAN_MODE && value == L3S.to_ne_bytes())
}

/// Whether it is a tunnel in "external" (collect metadata) mode. Flags are either empty attributes or a byte.
fn is_per_packet(info: &[u8]) -> bool {
    let collect_metadata = match kind_of(info).as_deref() {
        Some("vxlan") => 25,
        Some("geneve") => 6,
        Some("ipip" | "sit" | "ip6tnl") => 19,
        Some("gre" | "gretap" | "ip6gre" | "ip6gretap" | "erspan" | "ip6erspan") => 18,
        Some("xfrm") => 3,
        _ => return false,
    };
    netlink::attributes(&data_of(info))
        .any(|(kind, value)| kind == collect_metadata && value.first() != Some(&0))
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
            present: all
                .into_iter()
                .filter(|one| companion::which(one).is_none())
                .map(|one| one.name)
                .collect(),
        })
    }
}
