//! The segmentation pair of an interface: a veth pair in the same namespace whose ends send single segments.
//!
//! Comes in: an interface, and the programs for the two ends. Goes out: a pair through which packets pass and
//! nothing else does. Known by the numbers and the names of its ends, so nothing has to be remembered.
//! Never decides who needs one; why there is one, and what goes on in it, is said in `codegen/segment.rs`.

use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::ethtool::Ethtool;
use super::filter::{self, Hook};
use super::links::{self, Device, Interface};
use super::netlink::Netlink;
use super::qdisc::{self, Qdisc};
use super::{Error, Result};
use crate::codegen::Side;

/// Whatever an interface carries fits (`ETH_MAX_MTU`).
const MTU: u32 = 65_535;
/// Packets of more segments are cut.
const GSO_MAX_SEGS: u32 = 1;
/// And longer ones, too: the number of segments is not always known (`gso_features_check`). Some kernels
/// refuse less than some 300 bytes.
const GSO_MAX_SIZE: u32 = 600;
/// `IFNAMSIZ` without the final NUL.
const NAME_MAX: usize = 15;

/// Which end of which interface's pair this is, by number and name.
pub fn end(interface: &Interface) -> Option<(Side, u32)> {
    let (side, of) = Side::of_end(interface.number())?;
    interface.name.starts_with(&prefix(side, of)).then_some((side, of))
}

/// The ends of an interface's pair, for its egress and for its ingress, as far as they are there.
pub fn of(devices: &[Device], interface: u32) -> [Option<&Device>; 2] {
    [Side::Egress, Side::Ingress]
        .map(|side| devices.iter().find(|device| end(&device.interface) == Some((side, interface))))
}

/// The program for one end, and the name of its filter.
#[derive(Debug, Clone)]
pub struct Back<'a> {
    pub side: Side,
    pub program: BorrowedFd<'a>,
    pub name: String,
}

/// Sees to it that the interface has a pair and that packets can pass it. `true`: there was none before.
pub fn ensure(netlink: &mut Netlink, interface: &Interface, back: &[Back<'_>; 2]) -> Result<bool> {
    let devices = links::devices(netlink)?;
    let found = of(&devices, interface.number());
    let made = match found {
        [Some(_), Some(_)] => false,
        [None, None] => true,
        // Its other end has gone to another namespace.
        [Some(one), None] | [None, Some(one)] => {
            delete(netlink, &one.interface)?;
            true
        }
    };
    if made {
        create(netlink, interface)?;
    }
    match set_up(netlink, interface, back) {
        Err(error) if made => {
            let _ = remove(netlink, interface.number());
            Err(error)
        }
        result => result.map(|()| made),
    }
}

/// Removes the interface's pair, with what is attached to it. Also when the interface itself is gone. Returns
/// the names of the ends that there were.
pub fn remove(netlink: &mut Netlink, interface: u32) -> Result<Option<String>> {
    let devices = links::devices(netlink)?;
    let names = names(&devices, interface);
    // One end takes the other along.
    if let Some(device) = of(&devices, interface).into_iter().flatten().next() {
        delete(netlink, &device.interface)?;
    }
    Ok(names)
}

/// The names of the ends that are there, for people.
pub fn names(devices: &[Device], interface: u32) -> Option<String> {
    let ends = of(devices, interface).into_iter().flatten();
    let names: Vec<&str> = ends.map(|device| device.interface.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The numbers of the interfaces that have a pair, whether they are still there or not.
pub fn owners(devices: &[Device]) -> Vec<u32> {
    let ends = devices.iter().filter_map(|device| end(&device.interface));
    let mut owners: Vec<u32> = ends.map(|(_, of)| of).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// The interfaces that are gone and have left a pair behind.
pub fn orphans(devices: &[Device]) -> Vec<u32> {
    let alive = |of: u32| devices.iter().any(|device| device.interface.number() == of);
    owners(devices).into_iter().filter(|of| !alive(*of)).collect()
}

fn prefix(side: Side, interface: u32) -> String {
    let side = match side {
        Side::Egress => 'e',
        Side::Ingress => 'i',
    };
    format!("sf{side}{interface}-")
}

/// `sfe2-eth0`: what eth0, number 2, sends goes there. Names of interfaces may be as long as this one.
fn name(side: Side, interface: &Interface) -> String {
    let mut name = prefix(side, interface.number());
    name.extend(interface.name.chars().filter(char::is_ascii));
    name.truncate(NAME_MAX);
    name
}

fn number(side: Side, interface: &Interface) -> Result<u32> {
    side.end(interface.number()).ok_or_else(|| Error::NumberTooHigh { interface: interface.name.clone() })
}

fn create(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    let [egress, ingress] = [Side::Egress, Side::Ingress].map(|side| name(side, interface));
    let peer = end_settings(LinkUnspec::new_with_name(&ingress)).index(number(Side::Ingress, interface)?);
    let near = end_settings(LinkVeth::new(&egress, &ingress)).index(number(Side::Egress, interface)?);
    let near = near.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    netlink
        .request(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(|source| Error::Pair { what: format!("make the veth pair {egress}, {ingress}"), source })
}

/// What both ends are made with, and get again whenever the pair is used again.
fn end_settings<T>(message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    message
        .arp(false)
        .multicast(false)
        .append_extra_attribute(LinkAttribute::Mtu(MTU))
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(GSO_MAX_SEGS))
        .append_extra_attribute(LinkAttribute::GsoMaxSize(GSO_MAX_SIZE))
}

fn set_up(netlink: &mut Netlink, interface: &Interface, back: &[Back<'_>; 2]) -> Result<()> {
    let devices = links::devices(netlink)?;
    let [Some(egress), Some(ingress)] = of(&devices, interface.number()).map(Option::<&Device>::cloned)
    else {
        return Err(Error::NumberTooHigh { interface: interface.name.clone() });
    };
    let ends = [(Side::Egress, egress.interface), (Side::Ingress, ingress.interface)];
    let mut ethtool = Ethtool::open()?;
    for (side, end) in &ends {
        // Without IPv6 in the kernel, or with it switched off, this is refused, and not needed.
        let _ = netlink.request(RouteNetlinkMessage::SetLink(without_addresses(end)), 0);
        let alias = format!("sfunnel: segments what {} has on {}", interface.name, hook_of(*side));
        let message = end_settings(LinkUnspec::new_with_index(end.number()))
            .append_extra_attribute(LinkAttribute::IfAlias(alias));
        change(netlink, end, message)?;
        // A packet that GRO has merged is `CHECKSUM_PARTIAL` for its outer header, and so would be its segments.
        // `bpf_l4_csum_replace` would then take the finished inner checksum for an unfinished one.
        ethtool.finish_checksums(end)?;
        // What one end has sent comes in at the other.
        for back in back.iter().filter(|back| back.side != *side) {
            put(netlink, end, back)?;
        }
    }
    for (_, end) in &ends {
        change(netlink, end, LinkUnspec::new_with_index(end.number()).up())?;
    }
    wait_until_running(netlink, interface)
}

fn hook_of(side: Side) -> Hook {
    match side {
        Side::Ingress => Hook::Ingress,
        Side::Egress => Hook::Egress,
    }
}

fn without_addresses(end: &Interface) -> LinkMessage {
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    LinkUnspec::new_with_index(end.number())
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]))
        .build()
}

fn put(netlink: &mut Netlink, end: &Interface, back: &Back<'_>) -> Result<()> {
    let qdisc = qdisc::all(netlink)?.get(&end.index).copied().unwrap_or_default();
    if qdisc == Qdisc::Absent {
        qdisc::add(netlink, end)?;
    }
    let standing = filter::list(netlink, end, Hook::Ingress, qdisc)?;
    if standing.iter().any(|filter| filter.is_ours() && filter.name.as_deref() == Some(&back.name)) {
        return Ok(());
    }
    filter::put(netlink, end, Hook::Ingress, back.program, &back.name)
}

fn change(netlink: &mut Netlink, end: &Interface, message: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
    netlink
        .request(RouteNetlinkMessage::SetLink(message.build()), 0)
        .map_err(|source| Error::netlink(format!("set up {}", end.name), source))
}

fn delete(netlink: &mut Netlink, end: &Interface) -> Result<()> {
    let message = LinkUnspec::new_with_index(end.number()).build();
    match netlink.request(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => {
            Err(Error::netlink(format!("remove {}", end.name), error))
        }
        _ => Ok(()),
    }
}

/// The kernel activates a link some time after both ends are up, and loses what is sent before that.
fn wait_until_running(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let devices = links::devices(netlink)?;
        if of(&devices, interface.number()).iter().all(|end| end.is_some_and(|end| end.running)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::PairDown { interface: interface.name.clone() });
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: i32, name: &str) -> Device {
        let interface = Interface { index, name: name.to_owned(), link_type: 1 };
        Device { interface, mtu: None, running: true, gso_max_segs: None, per_packet: false }
    }

    fn ends(interface: &Interface) -> [Device; 2] {
        [Side::Egress, Side::Ingress].map(|side| {
            let index = i32::try_from(side.end(interface.number()).unwrap()).unwrap();
            device(index, &name(side, interface))
        })
    }

    #[test]
    fn a_pair_is_known_by_numbers_and_names_that_fit() {
        for (index, long) in [(2, "eth0"), (536_870_911, "a-name-too-long"), (7, "größe")] {
            let interface = device(index, long).interface;
            let ends = ends(&interface);
            assert!(ends.iter().all(|end| end.interface.name.len() <= NAME_MAX));
            let known = ends.each_ref().map(|device| end(&device.interface));
            let number = interface.number();
            assert_eq!(known, [Some((Side::Egress, number)), Some((Side::Ingress, number))]);
        }
        assert_eq!(end(&device(0x4000_0002, "eth0").interface), None, "somebody else's");
        assert_eq!(end(&device(2, "sfe2-eth0").interface), None, "somebody else's");
    }

    #[test]
    fn a_pair_without_its_interface_is_an_orphan() {
        let [eth0, eth1] = [device(2, "eth0"), device(3, "eth1")];
        let [pair0, pair1] = [ends(&eth0.interface), ends(&eth1.interface)];
        let all = [&[eth0][..], &pair0, &pair1].concat();
        assert_eq!(orphans(&all), [3]);
    }
}
