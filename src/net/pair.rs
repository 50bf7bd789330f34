//! The pairs beside an interface: veth pairs in the same namespace, one that cuts packets, one that merges them.
//!
//! Comes in: an interface, which pair, and the programs for its ends. Goes out: a pair through which packets pass
//! and nothing else does. Known by the numbers and the names of its ends, so nothing has to be remembered.
//! Never decides who needs one; why there are any, and what goes on in them, is said in `codegen/segment.rs`
//! and `codegen/merge.rs`.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::ethtool::{self, Ethtool};
use super::filter::{self, Hook};
use super::links::{self, Device, Interface};
use super::netlink::Netlink;
use super::qdisc::{self, Qdisc};
use super::{Error, Result, detach};
use crate::codegen::PairEnd;

/// Whatever an interface carries fits (`ETH_MAX_MTU`).
const MTU: u32 = 65_535;
/// Packets of more segments are cut.
const GSO_MAX_SEGS: u32 = 1;
/// And longer ones, too: the number of segments is not always known (`gso_features_check`). Some kernels
/// refuse less than some 300 bytes.
const GSO_MAX_SIZE: u32 = 600;
/// As many processors can merge at a time.
const MAX_QUEUES: u32 = 64;
/// A queue holds 256 packets (`VETH_RING_SIZE`) until its processor comes to merge them, and loses more. Few flows
/// had better share one.
const MIN_QUEUES: u32 = 8;
/// `IFNAMSIZ` without the final NUL.
const NAME_MAX: usize = 15;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// What one end sends arrives in single segments.
    Segmentation,
    /// What is sent in single segments arrives merged.
    Merging,
}

impl Pair {
    pub const ALL: [Pair; 2] = [Pair::Segmentation, Pair::Merging];

    fn ends(self) -> [PairEnd; 2] {
        match self {
            Pair::Segmentation => [PairEnd::Egress, PairEnd::Ingress],
            Pair::Merging => [PairEnd::Merge, PairEnd::Merged],
        }
    }

    /// What happens to packets for one that does not work.
    pub fn lost(self) -> &'static str {
        match self {
            Pair::Segmentation => {
                "packets of several segments are lost, with `--finish-checksums` all that is funneled"
            }
            Pair::Merging => "unfunneled TCP is lost",
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pair::Segmentation => "segmentation pair",
            Pair::Merging => "merging pair",
        })
    }
}

/// Which end of which interface's pair this is, by number and name.
pub fn end(interface: &Interface) -> Option<(PairEnd, u32)> {
    let (end, of) = PairEnd::of_number(interface.number())?;
    interface.name.starts_with(&prefix(end, of)).then_some((end, of))
}

/// The ends of an interface's pair, as far as they are there.
pub fn of(devices: &[Device], pair: Pair, interface: u32) -> [Option<&Device>; 2] {
    pair.ends()
        .map(|wanted| devices.iter().find(|device| end(&device.interface) == Some((wanted, interface))))
}

/// The program for what arrives at an end, and the name of its filter.
#[derive(Debug, Clone)]
pub struct Back<'a> {
    pub at: PairEnd,
    pub program: BorrowedFd<'a>,
    pub name: String,
}

/// Sees to it that the interface has a pair and that packets can pass it. `true`: there was none before.
pub fn ensure(netlink: &mut Netlink, pair: Pair, interface: &Interface, back: &[Back<'_>]) -> Result<bool> {
    let devices = links::devices(netlink)?;
    let found = of(&devices, pair, interface.number());
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
        create(netlink, pair, interface)?;
    }
    match set_up(netlink, pair, interface, back) {
        Err(error) if made => {
            let _ = remove(netlink, pair, interface.number());
            Err(error)
        }
        result => result.map(|()| made),
    }
}

/// Whether the segments of what this hook has leave the segmentation pair with finished checksums.
pub fn finish_checksums(
    netlink: &mut Netlink,
    interface: &Interface,
    hook: Hook,
    finished: bool,
) -> Result<()> {
    let devices = links::devices(netlink)?;
    let wanted = match hook {
        Hook::Egress => PairEnd::Egress,
        Hook::Ingress => PairEnd::Ingress,
    };
    match devices.iter().find(|device| end(&device.interface) == Some((wanted, interface.number()))) {
        Some(end) => Ethtool::open()?.set(&end.interface, &[(ethtool::TX_CHECKSUM, !finished)]),
        None => Ok(()),
    }
}

/// Why packets do not pass an interface's pair, if they do not.
pub fn fault(
    netlink: &mut Netlink,
    devices: &[Device],
    pair: Pair,
    interface: u32,
) -> Result<Option<String>> {
    let [Some(one), Some(other)] = of(devices, pair, interface) else {
        return Ok(Some("missing".to_owned()));
    };
    if let Some(down) = [one, other].into_iter().find(|end| !end.running) {
        return Ok(Some(format!("down: {}", down.interface.name)));
    }
    let receive = match pair {
        Pair::Segmentation => &[one, other][..],
        Pair::Merging => &[other],
    };
    for end in receive {
        if detach::status(netlink, std::slice::from_ref(&end.interface), &[Hook::Ingress])?.is_empty() {
            return Ok(Some(format!("without its filter at {}", end.interface.name)));
        }
    }
    Ok(None)
}

/// Removes the interface's pair, with what is attached to it. Also when the interface itself is gone. Returns
/// the names of the ends that there were.
pub fn remove(netlink: &mut Netlink, pair: Pair, interface: u32) -> Result<Option<String>> {
    let devices = links::devices(netlink)?;
    let names = names(&devices, pair, interface);
    // One end takes the other along.
    if let Some(device) = of(&devices, pair, interface).into_iter().flatten().next() {
        delete(netlink, &device.interface)?;
    }
    Ok(names)
}

/// Which pair, and the names of the ends that are there, for people.
pub fn names(devices: &[Device], pair: Pair, interface: u32) -> Option<String> {
    let ends = of(devices, pair, interface).into_iter().flatten();
    let names: Vec<&str> = ends.map(|device| device.interface.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("{pair} {}", names.join(", ")))
}

/// The numbers of the interfaces that have pairs, whether they are still there or not.
pub fn owners(devices: &[Device]) -> Vec<u32> {
    let ends = devices.iter().filter_map(|device| end(&device.interface));
    let mut owners: Vec<u32> = ends.map(|(_, of)| of).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// The interfaces that are gone and have left pairs behind.
pub fn orphans(devices: &[Device]) -> Vec<u32> {
    let alive = |of: u32| devices.iter().any(|device| device.interface.number() == of);
    owners(devices).into_iter().filter(|of| !alive(*of)).collect()
}

fn prefix(end: PairEnd, interface: u32) -> String {
    let letter = match end {
        PairEnd::Egress => 'e',
        PairEnd::Ingress => 'i',
        PairEnd::Merge => 'm',
        PairEnd::Merged => 'g',
    };
    format!("sf{letter}{interface}-")
}

/// `sfe2-eth0`: what eth0, number 2, sends goes there. Names of interfaces may be as long as this one.
fn name(end: PairEnd, interface: &Interface) -> String {
    let mut name = prefix(end, interface.number());
    name.extend(interface.name.chars().filter(char::is_ascii));
    name.truncate(NAME_MAX);
    name
}

fn number(end: PairEnd, interface: &Interface) -> Result<u32> {
    end.number(interface.number()).ok_or_else(|| Error::NumberTooHigh { interface: interface.name.clone() })
}

/// What `ip link` says of an end.
fn alias(end: PairEnd, interface: &Interface) -> String {
    let name = &interface.name;
    match end {
        PairEnd::Egress => format!("sfunnel: segments what {name} has on egress"),
        PairEnd::Ingress => format!("sfunnel: segments what {name} has on ingress"),
        PairEnd::Merge => format!("sfunnel: takes what {name} has unfunneled"),
        PairEnd::Merged => format!("sfunnel: merges what {name} has unfunneled"),
    }
}

fn create(netlink: &mut Netlink, pair: Pair, interface: &Interface) -> Result<()> {
    let [one, other] = pair.ends();
    let names = pair.ends().map(|end| name(end, interface));
    let peer = fixed(pair, LinkUnspec::new_with_name(&names[1])).index(number(other, interface)?);
    let near = fixed(pair, LinkVeth::new(&names[0], &names[1])).index(number(one, interface)?);
    let peer = settings(pair, peer);
    let near = settings(pair, near).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    netlink
        .request(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(|source| Error::Pair { what: format!("make the veth pair {}", names.join(", ")), source })
}

/// What an end can be given only when it is made. One that merges does so once for each queue, and what the
/// interface's own queues had on several processors had better not wait for a single one.
fn fixed<T>(pair: Pair, message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    if pair == Pair::Segmentation {
        return message;
    }
    let usable = sched_getaffinity(Pid::from_raw(0)).map_or(1, |set| {
        (0..CpuSet::count()).filter(|processor| set.is_set(*processor).unwrap_or(false)).count()
    });
    let queues = u32::try_from(usable).unwrap_or(MAX_QUEUES).clamp(MIN_QUEUES, MAX_QUEUES);
    message
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
}

/// What both ends are made with, and get again whenever the pair is used again.
fn settings<T>(pair: Pair, message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
    let message = message.arp(false).multicast(false).append_extra_attribute(LinkAttribute::Mtu(MTU));
    match pair {
        Pair::Segmentation => message
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(GSO_MAX_SEGS))
            .append_extra_attribute(LinkAttribute::GsoMaxSize(GSO_MAX_SIZE)),
        Pair::Merging => message,
    }
}

fn set_up(netlink: &mut Netlink, pair: Pair, interface: &Interface, back: &[Back<'_>]) -> Result<()> {
    let devices = links::devices(netlink)?;
    let [Some(one), Some(other)] = of(&devices, pair, interface.number()).map(Option::<&Device>::cloned)
    else {
        return Err(Error::NumberTooHigh { interface: interface.name.clone() });
    };
    let [first, second] = pair.ends();
    let ends = [(first, one.interface), (second, other.interface)];
    for (which, end) in &ends {
        // Without IPv6 in the kernel, or with it switched off, this is refused, and not needed.
        let _ = netlink.request(RouteNetlinkMessage::SetLink(without_addresses(end)), 0);
        let message = settings(pair, LinkUnspec::new_with_index(end.number()))
            .append_extra_attribute(LinkAttribute::IfAlias(alias(*which, interface)));
        change(netlink, end, message)?;
        for back in back.iter().filter(|back| back.at == *which) {
            put(netlink, end, back)?;
        }
    }
    if pair == Pair::Merging {
        // A veth hands to its peer's GRO only what it could not have sent in one piece
        // (`veth_skb_is_eligible_for_gro`, drivers/net/veth.c).
        let [(_, merge), (_, merged)] = &ends;
        let mut ethtool = Ethtool::open()?;
        ethtool.set(merge, &ethtool::TSO.map(|feature| (feature, false)))?;
        ethtool.set(merged, &[(ethtool::GRO, true)])?;
    }
    for (_, end) in &ends {
        change(netlink, end, LinkUnspec::new_with_index(end.number()).up())?;
    }
    wait_until_running(netlink, pair, interface)
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
fn wait_until_running(netlink: &mut Netlink, pair: Pair, interface: &Interface) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let devices = links::devices(netlink)?;
        if of(&devices, pair, interface.number()).iter().all(|end| end.is_some_and(|end| end.running)) {
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

    fn ends(interface: &Interface) -> [Device; 4] {
        PairEnd::ALL.map(|end| {
            let index = i32::try_from(end.number(interface.number()).unwrap()).unwrap();
            device(index, &name(end, interface))
        })
    }

    #[test]
    fn a_pair_is_known_by_numbers_and_names_that_fit() {
        for (index, long) in [(2, "eth0"), (268_435_455, "a-name-too-long"), (7, "größe")] {
            let interface = device(index, long).interface;
            let ends = ends(&interface);
            assert!(ends.iter().all(|end| end.interface.name.len() <= NAME_MAX));
            let known = ends.each_ref().map(|device| end(&device.interface));
            assert_eq!(known, PairEnd::ALL.map(|end| Some((end, interface.number()))));
        }
        assert_eq!(end(&device(0x4000_0008, "eth0").interface), None, "somebody else's");
        assert_eq!(end(&device(2, "sfe2-eth0").interface), None, "somebody else's");
    }

    #[test]
    fn a_pair_without_its_interface_is_an_orphan() {
        let [eth0, eth1] = [device(2, "eth0"), device(3, "eth1")];
        let [pairs0, pairs1] = [ends(&eth0.interface), ends(&eth1.interface)];
        let all = [&[eth0][..], &pairs0, &pairs1].concat();
        assert_eq!(orphans(&all), [3]);
    }
}
