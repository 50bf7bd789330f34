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

use super::filter::{self, Hook};
use super::links::{self, Device, Interface};
use super::netlink::Netlink;
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
    devices.iter().find(|device| which(&device.interface) == Some((wanted, interface)))
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
pub fn set_up(
    netlink: &mut Netlink,
    device: Companion,
    found: &Interface,
    interface: &Interface,
) -> Result<()> {
    // Without IPv6 in the kernel, or with it switched off, this is refused, and not needed.
    match netlink.request(RouteNetlinkMessage::SetLink(without_addresses(found)), 0) {
        Err(source) if source.is_unanswered() => {
            return Err(Error::netlink(format!("set up {}", found.name), source));
        }
        _ => {}
    }
    let message = settings(device, LinkUnspec::new_with_index(found.number()))
        .append_extra_attribute(LinkAttribute::IfAlias(alias(device, interface)));
    change(netlink, found, message)
}

pub fn up(netlink: &mut Netlink, found: &Interface) -> Result<()> {
    change(netlink, found, LinkUnspec::new_with_index(found.number()).up())
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

/// Attaches those of the programs that are for this hook of this device.
pub fn put(
    netlink: &mut Netlink,
    device: Companion,
    hook: Hook,
    found: &Interface,
    back: &[CompanionProgram<'_>],
) -> Result<()> {
    for back in back.iter().filter(|back| (back.at, back.hook) == (device, hook)) {
        let qdisc = qdisc::all(netlink)?.get(&found.index).copied().unwrap_or_default();
        if qdisc == Qdisc::Absent {
            qdisc::add(netlink, found)?;
        }
        let standing = filter::list(netlink, found, hook, qdisc)?;
        if !standing.iter().any(|filter| filter.is_ours() && filter.name.as_deref() == Some(&back.name)) {
            filter::put(netlink, found, hook, back.program, &back.name)?;
        }
    }
    Ok(())
}

fn change(netlink: &mut Netlink, found: &Interface, message: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
    netlink
        .request(RouteNetlinkMessage::SetLink(message.build()), 0)
        .map_err(|source| Error::netlink(format!("set up {}", found.name), source))
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

/// Whether packets can pass. The kernel activates a veth some time after both of its ends are up, and loses what is
/// sent before that. A macvlan above a device that runs is active as soon as it is up, but the kernel says so a second
/// later (`linkwatch_urgent_event`, net/core/link_watch.c).
pub fn runs(which: Companion, device: &Device) -> bool {
    match which {
        Companion::Egress | Companion::Ingress | Companion::Merge | Companion::Merged => device.running,
        Companion::EgressMacvlan | Companion::IngressMacvlan => device.carrier,
    }
}

pub fn wait_until_running(netlink: &mut Netlink, wanted: &[Companion], interface: &Interface) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let devices = links::devices(netlink)?;
        let running = |which: &Companion| {
            find(&devices, *which, interface.number()).is_some_and(|device| runs(*which, device))
        };
        if wanted.iter().all(running) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Down { interface: interface.name.clone() });
        }
        thread::sleep(Duration::from_millis(1));
    }
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
