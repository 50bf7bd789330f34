//! The companion pairs of an interface: veth pairs in the same namespace, one that cuts packets, one that merges them.
//!
//! Input: an interface, which pair, and the programs for its ends. Output: a pair through which packets pass
//! and nothing else does. Never decides who needs one; why there are any, and what goes on in them, is said in
//! `codegen/segment.rs` and `codegen/merge.rs`.

use std::fmt;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::companion::{self, CompanionProgram};
use super::ethtool::{self, Ethtool};
use super::filter::Hook;
use super::links::{self, Device, Interface};
use super::netlink::Netlink;
use super::{Error, Result, detach, macvlan};
use crate::codegen::Companion;

/// As many processors can merge at a time.
const MAX_QUEUES: u32 = 64;
/// A queue holds 256 packets (`VETH_RING_SIZE`) until its processor comes to merge them, and loses more. Few flows
/// had better share one.
const MIN_QUEUES: u32 = 8;

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

    fn ends(self) -> [Companion; 2] {
        match self {
            Pair::Segmentation => [Companion::Egress, Companion::Ingress],
            Pair::Merging => [Companion::Merge, Companion::Merged],
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

/// The ends of an interface's pair, as far as they are there.
pub fn of(devices: &[Device], pair: Pair, interface: u32) -> [Option<&Device>; 2] {
    pair.ends().map(|end| companion::find(devices, end, interface))
}

/// Sees to it that the interface has a pair and that packets can pass it. `true`: there was none before.
pub fn ensure(
    netlink: &mut Netlink,
    pair: Pair,
    interface: &Interface,
    back: &[CompanionProgram<'_>],
) -> Result<bool> {
    let devices = links::devices(netlink)?;
    let found = of(&devices, pair, interface.number());
    let made = match found {
        [Some(_), Some(_)] => false,
        [None, None] => true,
        // Its other end has gone to another namespace.
        [Some(one), None] | [None, Some(one)] => {
            companion::delete(netlink, &one.interface)?;
            true
        }
    };
    let done = if made { create(netlink, pair, interface) } else { Ok(()) };
    match done.and_then(|()| set_up(netlink, pair, interface, back)) {
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
    match companion::find(&devices, Companion::end(hook.into()), interface.number()) {
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

/// Removes the interface's pair, with what is attached to it and the macvlans on it. Also when the interface itself
/// is gone. Returns the names of the devices that there were.
pub fn remove(netlink: &mut Netlink, pair: Pair, interface: u32) -> Result<Option<String>> {
    let devices = links::devices(netlink)?;
    let names = names(&devices, pair, interface);
    // One end takes the other along.
    if let Some(device) = of(&devices, pair, interface).into_iter().flatten().next() {
        companion::delete(netlink, &device.interface)?;
    }
    Ok(names)
}

/// Which pair, and the names of the devices that are there, for people.
pub fn names(devices: &[Device], pair: Pair, interface: u32) -> Option<String> {
    let names = each(devices, pair, interface);
    (!names.is_empty()).then(|| format!("{pair} {}", names.join(", ")))
}

/// The names of its ends and of the macvlans on them, as far as they are there.
pub fn each(devices: &[Device], pair: Pair, interface: u32) -> Vec<&str> {
    let ends = of(devices, pair, interface).into_iter().flatten();
    let hooks = if pair == Pair::Segmentation { &[Hook::Egress, Hook::Ingress][..] } else { &[] };
    let macvlans = hooks.iter().filter_map(|hook| macvlan::at(devices, interface, *hook));
    ends.chain(macvlans).map(|device| device.interface.name.as_str()).collect()
}

fn create(netlink: &mut Netlink, pair: Pair, interface: &Interface) -> Result<()> {
    let [one, other] = pair.ends();
    let names = pair.ends().map(|end| companion::name(end, interface));
    let peer = fixed(pair, LinkUnspec::new_with_name(&names[1])).index(companion::number(other, interface)?);
    let near = fixed(pair, LinkVeth::new(&names[0], &names[1])).index(companion::number(one, interface)?);
    let peer = companion::settings(other, peer);
    let near =
        companion::settings(one, near).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
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

fn set_up(
    netlink: &mut Netlink,
    pair: Pair,
    interface: &Interface,
    back: &[CompanionProgram<'_>],
) -> Result<()> {
    let devices = links::devices(netlink)?;
    let [Some(one), Some(other)] = of(&devices, pair, interface.number()).map(Option::<&Device>::cloned)
    else {
        return Err(Error::NumberTooHigh { interface: interface.name.clone() });
    };
    let [first, second] = pair.ends();
    let ends = [(first, one.interface), (second, other.interface)];
    for (which, end) in &ends {
        companion::set_up(netlink, *which, end, interface)?;
        companion::put(netlink, *which, Hook::Ingress, end, back)?;
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
        companion::up(netlink, end)?;
    }
    companion::wait_until_running(netlink, &pair.ends(), interface)
}
