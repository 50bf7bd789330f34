//! The companion devices of an interface: their names and numbers, and what they have in common.
//!
//! Input: an interface and which device. Output: which there are, and one that is set up: it carries whatever an
//! interface can, has no addresses, says nothing by itself. Known by numbers and names, so nothing has to be
//! remembered. Never makes one: that is for `pair` and `macvlan`.

use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::batch::Batch;
use super::filter::{self, Hook};
use super::links::{self, Device, Interface};
use super::netlink::{Netlink, Request};
use super::qdisc::{self, Qdisc};
use super::{Error, Result};
use crate::codegen::Companion;

/// Whatever an interface carries fits (`ETH_MAX_MTU`).
const MTU: u32 = 65_535;
/// Packets of more segments are cut.
const GSO_MAX_SEGS: u32 = 1;
/// And longer ones, too: the number of segments is not always known (`gso_features_check`). Some kernels
/// refuse less than some 300 bytes.
const GSO_MAX_SIZE: u32 = 600;
/// `IFNAMSIZ` without the final NUL.
const NAME_MAX: usize = 15;

/// Which companion of which interface this is, by number and name.
pub fn which(interface: &Interface) -> Option<(Companion, u32)> {
    let (device, of) = Companion::of_number(interface.number())?;
    interface.name.starts_with(&prefix(device, of)).then_some((device, of))
}

/// This companion of an interface, if it is there.
pub fn find(devices: &[Device], wanted: Companion, interface: u32) -> Option<&Device> {
    let number = wanted.number(interface)?;
    let device = devices.iter().find(|device| device.interface.number() == number)?;
    (which(&device.interface) == Some((wanted, interface))).then_some(device)
}

/// The same as it will be once it is made.
pub fn planned(wanted: Companion, interface: &Interface) -> Result<Interface> {
    let index = i32::try_from(number(wanted, interface)?);
    let index = index.map_err(|_| Error::NumberTooHigh { interface: interface.name.clone() })?;
    Ok(Interface { index, name: name(wanted, interface), link_type: interface.link_type })
}

/// The numbers of the interfaces that have companion devices, whether they are still there or not.
pub fn owners(devices: &[Device]) -> Vec<u32> {
    let found = devices.iter().filter_map(|device| which(&device.interface));
    let mut owners: Vec<u32> = found.map(|(_, of)| of).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// The interfaces that are gone and have left devices behind.
pub fn orphans(devices: &[Device]) -> Vec<u32> {
    let alive = |of: u32| devices.iter().any(|device| device.interface.number() == of);
    owners(devices).into_iter().filter(|of| !alive(*of)).collect()
}

fn prefix(device: Companion, interface: u32) -> String {
    let letter = match device {
        Companion::Egress => 'e',
        Companion::Ingress => 'i',
        Companion::Merge => 'm',
        Companion::Merged => 'g',
        Companion::EgressMacvlan => 'c',
        Companion::IngressMacvlan => 'd',
    };
    format!("sf{letter}{interface}-")
}

/// `sfe2-eth0`: what eth0, number 2, sends goes there. Names of interfaces may be as long as this one.
pub fn name(device: Companion, interface: &Interface) -> String {
    let mut name = prefix(device, interface.number());
    name.extend(interface.name.chars().filter(char::is_ascii));
    name.truncate(NAME_MAX);
    name
}

pub fn number(device: Companion, interface: &Interface) -> Result<u32> {
    device
        .number(interface.number())
        .ok_or_else(|| Error::NumberTooHigh { interface: interface.name.clone() })
}

/// What `ip link` says of a device.
fn alias(device: Companion, interface: &Interface) -> String {
    let name = &interface.name;
    match device {
        Companion::Egress | Companion::EgressMacvlan => {
            format!("sfunnel: segments what {name} has on egress")
        }
        Companion::Ingress | Companion::IngressMacvlan => {
            format!("sfunnel: segments what {name} has on ingress")
        }
        Companion::Merge => format!("sfunnel: takes what {name} has unfunneled"),
        Companion::Merged => format!("sfunnel: merges what {name} has unfunneled"),
    }
}

/// What a device is made with, and gets again whenever it is used again.
pub fn settings<T>(device: Companion, message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    let message = message.arp(false).multicast(false).append_extra_attribute(LinkAttribute::Mtu(MTU));
    match device {
        Companion::Egress | Companion::Ingress | Companion::EgressMacvlan | Companion::IngressMacvlan => {
            message
                .append_extra_attribute(LinkAttribute::GsoMaxSegs(GSO_MAX_SEGS))
                .append_extra_attribute(LinkAttribute::GsoMaxSize(GSO_MAX_SIZE))
        }
        Companion::Merge | Companion::Merged => message,
    }
}

/// The same for one that is there.
pub fn set_up<'a>(
    batch: &mut Batch<'a>,
    whom: usize,
    device: Companion,
    found: &'a Interface,
    interface: &Interface,
) {
    // Without IPv6 in the kernel, or with it switched off, this is refused, and not needed.
    batch.add(whom, (RouteNetlinkMessage::SetLink(without_addresses(found)), 0), |_| None);
    let message = settings(device, LinkUnspec::new_with_index(found.number()))
        .append_extra_attribute(LinkAttribute::IfAlias(alias(device, interface)));
    change(batch, whom, found, message);
}

pub fn up<'a>(batch: &mut Batch<'a>, whom: usize, found: &'a Interface) {
    change(batch, whom, found, LinkUnspec::new_with_index(found.number()).up());
}

fn without_addresses(found: &Interface) -> LinkMessage {
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    LinkUnspec::new_with_index(found.number())
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]))
        .build()
}

/// A program for a device, and the name of its filter.
#[derive(Debug, Clone)]
pub struct CompanionProgram<'a> {
    pub at: Companion,
    pub hook: Hook,
    pub program: BorrowedFd<'a>,
    pub name: String,
}

/// Attaches those of the programs that are for this hook of this device, which has `qdisc`. What has its filter keeps it.
pub fn put<'a>(
    netlink: &mut Netlink,
    batch: &mut Batch<'a>,
    whom: usize,
    place: (Companion, Hook, &'a Interface, Qdisc),
    back: &[CompanionProgram<'_>],
) -> Result<()> {
    let (device, hook, found, qdisc) = place;
    for back in back.iter().filter(|back| (back.at, back.hook) == (device, hook)) {
        if qdisc == Qdisc::Absent {
            batch.add(whom, qdisc::addition(found), |refusal| qdisc::added(found, Some(refusal)).err());
        }
        let standing = filter::list(netlink, found, hook, qdisc)?;
        if !standing.iter().any(|filter| filter.is_ours() && filter.name.as_deref() == Some(&back.name)) {
            let request = filter::request(found, hook, back.program, &back.name);
            batch.add(whom, request, move |source| Some(filter::refused(found, hook, source)));
        }
    }
    Ok(())
}

fn change<'a>(
    batch: &mut Batch<'a>,
    whom: usize,
    found: &'a Interface,
    message: LinkMessageBuilder<LinkUnspec>,
) {
    let refused = |source| Some(Error::netlink(format!("set up {}", found.name), source));
    batch.add(whom, (RouteNetlinkMessage::SetLink(message.build()), 0), refused);
}

pub fn delete(netlink: &mut Netlink, found: &Interface) -> Result<()> {
    let message = LinkUnspec::new_with_index(found.number()).build();
    match netlink.request(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => {
            Err(Error::netlink(format!("remove {}", found.name), error))
        }
        _ => Ok(()),
    }
}

/// The same for many, of all that there are: in one group, they wait for each other's packets once (`unregister_netdevice_many`,
/// net/core/dev.c) and not one after the other.
pub fn delete_all(netlink: &mut Netlink, devices: &[Device], doomed: &[&Interface]) -> Result<()> {
    const FEW: usize = 2;
    let free = |group: &u32| devices.iter().all(|device| device.group != *group);
    // Numbers that none but our devices have, as groups.
    let group = doomed.iter().map(|one| one.number()).find(free).filter(|_| doomed.len() > FEW);
    if let Some(group) = group {
        let join = |one: &&Interface| {
            let message = LinkUnspec::new_with_index(one.number())
                .append_extra_attribute(LinkAttribute::Group(group))
                .build();
            (RouteNetlinkMessage::SetLink(message), 0)
        };
        let mut requests: Vec<Request> = doomed.iter().map(join).collect();
        let all = LinkMessageBuilder::<LinkUnspec>::default()
            .append_extra_attribute(LinkAttribute::Group(group))
            .build();
        requests.push((RouteNetlinkMessage::DelLink(all), 0));
        let refusals = netlink.batch(requests).map_err(|source| Error::netlink("remove devices", source))?;
        if refusals.iter().all(Option::is_none) {
            return Ok(());
        }
    }
    doomed.iter().try_for_each(|one| delete(netlink, one))
}

/// Whether packets can pass. The kernel activates a veth some time after both of its ends are up, and loses what is
/// sent before that. A macvlan above a device that runs is active as soon as it is up, but the kernel says so a second
/// later (`linkwatch_urgent_event`, net/core/link_watch.c).
pub fn runs(which: Companion, device: &Device) -> bool {
    match which {
        Companion::Egress | Companion::Ingress | Companion::Merge | Companion::Merged => device.running,
        Companion::EgressMacvlan | Companion::IngressMacvlan => device.carrier,
    }
}

/// Waits for these devices of these interfaces. Returns those that packets still cannot pass.
pub fn wait_until_running(
    netlink: &mut Netlink,
    mut wanted: Vec<(Companion, u32)>,
) -> Result<Vec<(Companion, u32)>> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut pause = Duration::from_millis(1);
    let deadline = Instant::now() + PATIENCE;
    while !wanted.is_empty() {
        let devices = links::devices(netlink)?;
        wanted.retain(|(which, of)| !find(&devices, *which, *of).is_some_and(|device| runs(*which, device)));
        if wanted.is_empty() || Instant::now() > deadline {
            break;
        }
        thread::sleep(pause);
        // Listing takes time as well, from those who do the work.
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: i32, name: &str) -> Device {
        let interface = Interface { index, name: name.to_owned(), link_type: 1 };
        Device { running: true, carrier: true, ..Device::bare(interface) }
    }

    fn all_companions(interface: &Interface) -> [Device; 6] {
        Companion::ALL.map(|which| {
            let index = i32::try_from(which.number(interface.number()).unwrap()).unwrap();
            device(index, &name(which, interface))
        })
    }

    #[test]
    fn a_device_is_known_by_a_number_and_a_name_that_fit() {
        for (index, long) in [(2, "eth0"), (134_217_727, "a-name-too-long"), (7, "größe")] {
            let interface = device(index, long).interface;
            let found = all_companions(&interface);
            assert!(found.iter().all(|device| device.interface.name.len() <= NAME_MAX));
            let known = found.each_ref().map(|device| which(&device.interface));
            assert_eq!(known, Companion::ALL.map(|device| Some((device, interface.number()))));
        }
        assert_eq!(which(&device(0x4000_0010, "eth0").interface), None, "somebody else's");
        assert_eq!(which(&device(2, "sfe2-eth0").interface), None, "somebody else's");
    }

    #[test]
    fn devices_without_their_interface_are_orphans() {
        let [eth0, eth1] = [device(2, "eth0"), device(3, "eth1")];
        let [companions0, companions1] = [all_companions(&eth0.interface), all_companions(&eth1.interface)];
        let all = [&[eth0][..], &companions0, &companions1].concat();
        assert_eq!(orphans(&all), [3]);
    }
}
