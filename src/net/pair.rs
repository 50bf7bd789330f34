//! The companion pairs of an interface: veth pairs in the same namespace, one that cuts packets, one that merges them.
//!
//! Input: an interface, which pair, and the programs for its ends. Output: a pair through which packets pass
//! and nothing else does. Never decides who needs one; why there are any, and what goes on in them, is said in
//! `codegen/segment.rs` and `codegen/merge.rs`.

use std::collections::HashMap;
use std::fmt;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::batch::Batch;
use super::companion::{self, CompanionProgram};
use super::ethtool::{self, Ethtool};
use super::filter::Hook;
use super::links::{self, Device, Interface};
use super::netlink::{Netlink, Request};
use super::qdisc::{self, Qdisc};
use super::{Error, Result, macvlan, seen};
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

/// Sees to it that interfaces have pairs and that packets can pass them. `devices` are all that there are. `true`: there
/// was none before. An inner error is that of one pair, of which nothing is left if there was none before.
pub fn ensure(
    netlink: &mut Netlink,
    devices: &[Device],
    wanted: &[(Pair, &Interface)],
    back: &[CompanionProgram<'_>],
) -> Result<Vec<Result<bool>>> {
    let mut ends = Vec::new();
    let mut results: Vec<Result<bool>> = Vec::new();
    for (pair, interface) in wanted {
        let found = of(devices, *pair, interface.number());
        if let [Some(one), Some(other)] = found {
            results.push(Ok(false));
            ends.push([one.interface.clone(), other.interface.clone()]);
            continue;
        }
        let [one, other] = pair.ends().map(|end| companion::planned(end, interface));
        let planned = one.and_then(|one| Ok([one, other?]));
        // Its other end has gone to another namespace.
        let cleared =
            found.into_iter().flatten().try_for_each(|end| companion::delete(netlink, &end.interface));
        let (pair, result) = match (planned, cleared) {
            (Ok(planned), Ok(())) => (planned, Ok(true)),
            (Err(error), _) | (_, Err(error)) => ([(*interface).clone(), (*interface).clone()], Err(error)),
        };
        ends.push(pair);
        results.push(result);
    }
    let made: Vec<bool> = results.iter().map(|result| *result.as_ref().unwrap_or(&false)).collect();
    let done = fill(netlink, wanted, &ends, &made, &mut results, back);
    // Nobody is to rely on one that does not work.
    if done.is_err() || results.iter().any(Result::is_err) {
        let devices = links::devices(netlink)?;
        for ((pair, interface), (result, made)) in wanted.iter().zip(results.iter().zip(made)) {
            if made && (done.is_err() || result.is_err()) {
                let _ = remove(netlink, &devices, *pair, interface.number());
            }
        }
    }
    done.map(|()| results)
}

/// Makes those that are to be `made`, and sets all of them up.
fn fill(
    netlink: &mut Netlink,
    wanted: &[(Pair, &Interface)],
    ends: &[[Interface; 2]],
    made: &[bool],
    results: &mut [Result<bool>],
    back: &[CompanionProgram<'_>],
) -> Result<()> {
    let mut batch = Batch::default();
    for (whom, ((pair, _), ends)) in wanted.iter().zip(ends).enumerate().filter(|(whom, _)| made[*whom]) {
        let [one, other] = ends;
        let refused = move |source| {
            Some(Error::Pair { what: format!("make the veth pair {}, {}", one.name, other.name), source })
        };
        batch.add(whom, creation(*pair, ends), refused);
    }
    batch.send(netlink, results)?;

    let qdiscs = if made.contains(&false) { qdisc::all(netlink)? } else { HashMap::new() };
    let mut batch = Batch::default();
    for (whom, ((pair, interface), ends)) in wanted.iter().zip(ends).enumerate() {
        if results[whom].is_err() {
            continue;
        }
        for (which, end) in pair.ends().into_iter().zip(ends) {
            companion::set_up(&mut batch, whom, which, end, interface);
            let known = qdiscs.get(&end.index).copied().filter(|_| !made[whom]);
            let place = (which, Hook::Ingress, end, known.unwrap_or_default());
            companion::put(netlink, &mut batch, whom, place, back)?;
        }
    }
    batch.send(netlink, results)?;

    let mut ethtool = None;
    for (whom, (_, [merge, merged])) in
        wanted.iter().zip(ends).enumerate().filter(|(_, ((pair, _), _))| *pair == Pair::Merging)
    {
        if results[whom].is_ok()
            && let Err(error) = set_merging(&mut ethtool, merge, merged)
        {
            results[whom] = Err(error);
        }
    }

    let mut batch = Batch::default();
    for (whom, ends) in ends.iter().enumerate() {
        ends.iter().for_each(|end| companion::up(&mut batch, whom, end));
    }
    batch.send(netlink, results)?;

    let fine = wanted.iter().zip(results.iter()).filter(|(_, result)| result.is_ok());
    let up = fine.flat_map(|((pair, interface), _)| pair.ends().map(|end| (end, interface.number())));
    let down = companion::wait_until_running(netlink, up.collect())?;
    for ((pair, interface), result) in wanted.iter().zip(results).filter(|(_, result)| result.is_ok()) {
        if pair.ends().iter().any(|end| down.contains(&(*end, interface.number()))) {
            *result = Err(Error::Down { interface: interface.name.clone() });
        }
    }
    Ok(())
}

/// A veth hands to its peer's GRO only what it could not have sent in one piece (`veth_skb_is_eligible_for_gro`,
/// drivers/net/veth.c).
fn set_merging(ethtool: &mut Option<Ethtool>, merge: &Interface, merged: &Interface) -> Result<()> {
    let ethtool = match ethtool {
        Some(open) => open,
        none => none.insert(Ethtool::open()?),
    };
    ethtool.set(merge, &ethtool::TSO.map(|feature| (feature, false)))?;
    ethtool.set(merged, &[(ethtool::GRO, true)])
}

/// Whether the segments that leave the segmentation pair by this end have finished checksums.
pub fn finish_checksums(ethtool: &mut Ethtool, end: &Interface, finished: bool) -> Result<()> {
    ethtool.set(end, &[(ethtool::TX_CHECKSUM, !finished)])
}

/// Why packets do not pass an interface's pair, if they do not.
pub fn fault(
    netlink: &mut Netlink,
    qdiscs: &HashMap<i32, Qdisc>,
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
    for Device { interface, .. } in receive {
        let seen = seen::look_with(netlink, qdiscs, std::slice::from_ref(interface), &[Hook::Ingress])?;
        if seen.ours.is_empty() {
            return Ok(Some(format!("without its filter at {}", interface.name)));
        }
    }
    Ok(None)
}

/// Removes the interface's pair, with what is attached to it and the macvlans on it. Also when the interface itself
/// is gone. Returns the names of the devices that there were.
pub fn remove(
    netlink: &mut Netlink,
    devices: &[Device],
    pair: Pair,
    interface: u32,
) -> Result<Option<String>> {
    let names = names(devices, pair, interface);
    // One end takes the other along.
    if let Some(device) = of(devices, pair, interface).into_iter().flatten().next() {
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

fn creation(pair: Pair, [near, far]: &[Interface; 2]) -> Request {
    let [one, other] = pair.ends();
    let peer = fixed(pair, LinkUnspec::new_with_name(&far.name)).index(far.number());
    let near = fixed(pair, LinkVeth::new(&near.name, &far.name)).index(near.number());
    let peer = companion::settings(other, peer);
    let near =
        companion::settings(one, near).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    (RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
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
