//! The nodes of a cluster as `bypass` sees them: the host's address, and the addresses of its pods.
//!
//! A list goes in, as somebody has written it or a kernel has told it; a table comes out in which every pod has one
//! host, and is told from the others of its host by a number of one byte. Never knows where the list is from.
//!
//! The pods of a host that differ in nothing but the last byte of their addresses have that for their number. Else they are
//! numbered in the order of their addresses: from 1, or from 0 if there are 256. So what a number means follows
//! from the pods of its own host, whatever others there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::hops::{Clash, Hop, Hops};

/// Some pods of a node: from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    pub host: Ipv4Addr,
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

/// Some pods of a node, and the number of the first; each of the others has one more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    pub node: Node,
    pub number: u32,
}

/// As many pods as a byte tells apart.
pub const MOST: u32 = 256;
/// What is left of an address without its last byte.
const KEPT: u32 = !0xff;

impl Node {
    pub fn hop(&self) -> Hop {
        Hop { host: self.host.into(), first: self.first.into(), last: self.last.into() }
    }

    /// One less than there are addresses.
    fn more(&self) -> u32 {
        self.last.to_bits().saturating_sub(self.first.to_bits())
    }
}

/// Any number of nodes, by the addresses of their pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Nodes(Arc<[Node]>);

/// What is wrong with an entry of a list, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With these, its host has more pods than a byte can tell apart.
    Crowded(usize),
    Clash(Clash),
}

impl Nodes {
    /// # Errors
    ///
    /// All that is wrong with the list, in its order.
    pub fn new(list: &[Node]) -> Result<Self, Vec<Fault>> {
        let hops: Vec<Hop> = list.iter().map(Node::hop).collect();
        let clashes = Hops::new(&hops).err().unwrap_or_default();
        let mut faults: Vec<Fault> = clashes.into_iter().map(Fault::Clash).collect();
        let mut counts: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
        for (at, node) in list.iter().enumerate() {
            let count = counts.entry(node.host).or_default();
            match count.saturating_add(node.more()) {
                most if most >= MOST => faults.push(Fault::Crowded(at)),
                more => *count = more + 1,
            }
        }
        faults.sort_by_key(|fault| fault.entry());
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut nodes = list.to_vec();
        nodes.sort_by_key(|node| node.first);
        Ok(Nodes(nodes.into()))
    }

    /// As many of the list as can be told apart, and the others.
    pub fn most(list: &[Node]) -> (Self, Vec<Node>) {
        let (mut kept, mut left_out) = (list.to_vec(), Vec::new());
        loop {
            match Nodes::new(&kept) {
                Ok(nodes) => return (nodes, left_out),
                Err(faults) => {
                    // Each takes one away, so that this comes to an end.
                    let wrong: BTreeSet<usize> = faults.into_iter().map(Fault::entry).collect();
                    left_out.extend(wrong.iter().rev().map(|at| kept.remove(*at)));
                }
            }
        }
    }

    /// By the addresses of their pods.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    /// Each host, and its pods in the order of their addresses.
    pub fn hosts(&self) -> BTreeMap<Ipv4Addr, Vec<Numbered>> {
        let mut hosts: BTreeMap<Ipv4Addr, Vec<Numbered>> = BTreeMap::new();
        for node in self.iter() {
            hosts.entry(node.host).or_default().push(Numbered { node: *node, number: 0 });
        }
        for pods in hosts.values_mut() {
            let alike = is_alike(pods);
            let mut next = u32::from(pods.iter().map(|pods| pods.node.more() + 1).sum::<u32>() < MOST);
            for Numbered { node, number } in pods {
                *number = if alike { node.first.to_bits() & !KEPT } else { next };
                next = next.saturating_add(node.more()).saturating_add(1);
            }
        }
        hosts
    }

    /// Whether the number of every pod is the last byte of its address.
    pub fn are_alike(&self) -> bool {
        self.hosts().values().all(|pods| is_alike(pods))
    }

    /// For each host a number that is another one, in all likelihood, where something else is known of its pods.
    pub fn digests(&self) -> BTreeMap<Ipv4Addr, u32> {
        let mut hashes: BTreeMap<Ipv4Addr, Sha256> = BTreeMap::new();
        for Node { host, first, last } in self.iter() {
            let hash = hashes.entry(*host).or_default();
            [host, first, last].iter().for_each(|address| hash.update(address.octets()));
        }
        let short =
            |hash: Sha256| hash.finalize().iter().take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        hashes.into_iter().map(|(host, hash)| (host, short(hash))).collect()
    }

    /// Those whose host is `kept`.
    pub fn of(&self, kept: impl Fn(Ipv4Addr) -> bool) -> Nodes {
        Nodes(self.0.iter().filter(|node| kept(node.host)).copied().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Fault {
    /// The entry that it is told at: the last of those that it is about.
    pub fn entry(self) -> usize {
        match self {
            Fault::Crowded(at) => at,
            Fault::Clash(clash) => clash.entry(),
        }
    }
}

/// Whether the pods of a host differ in their last byte only.
fn is_alike(pods: &[Numbered]) -> bool {
    let mut all =
        pods.iter().flat_map(|pods| [pods.node.first, pods.node.last]).map(|pod| pod.to_bits() & KEPT);
    let first = all.next();
    all.all(|kept| Some(kept) == first)
}

#[cfg(test)]
mod tests {
    use super::{Clash, Fault, Node, Nodes};

    fn node(host: &str, first: &str, last: &str) -> Node {
        let parse = |text: &str| text.parse().unwrap();
        Node { host: parse(host), first: parse(first), last: parse(last) }
    }

    #[test]
    fn every_pod_has_one_host() {
        let a = node("192.0.2.1", "10.0.1.0", "10.0.1.255");
        let b = node("192.0.2.2", "10.0.2.0", "10.0.2.63");
        let more_of_b = node("192.0.2.2", "10.0.2.128", "10.0.2.255");
        let nodes = Nodes::new(&[more_of_b, b, a]).unwrap();
        assert_eq!(nodes.iter().copied().collect::<Vec<_>>(), [a, b, more_of_b]);
        assert_eq!(nodes.hosts().len(), 2);

        let wrong = |list: &[Node]| Nodes::new(list).unwrap_err();
        assert_eq!(wrong(&[node("192.0.2.1", "10.0.0.0", "10.0.1.255")]), [Fault::Crowded(0)]);
        assert_eq!(wrong(&[node("192.0.2.1", "10.0.0.0", "10.255.255.255")]), [Fault::Crowded(0)]);
        // What would fit comes first, and what does not is not counted.
        let more = node("192.0.2.1", "10.0.3.0", "10.0.3.0");
        let other = node("192.0.2.4", "10.0.4.0", "10.0.4.255");
        assert_eq!(wrong(&[a, more, other]), [Fault::Crowded(1)]);
        assert_eq!(Nodes::most(&[a, more, other]).1, [more]);
        let inside = node("192.0.2.3", "10.0.1.7", "10.0.1.7");
        assert_eq!(wrong(&[a, b, inside]), [Fault::Clash(Clash::Overlap(0, 2))]);
        assert_eq!(wrong(&[inside, a]), [Fault::Clash(Clash::Overlap(0, 1))]);
        // Not hidden by one in between.
        let (first, last) =
            (node("192.0.2.4", "10.0.1.8", "10.0.1.8"), node("192.0.2.5", "10.0.1.9", "10.0.1.9"));
        assert_eq!(
            wrong(&[a, first, last]),
            [Fault::Clash(Clash::Overlap(0, 1)), Fault::Clash(Clash::Overlap(0, 2))]
        );
        assert_eq!(
            wrong(&[a, node("10.0.1.255", "10.0.9.0", "10.0.9.255")]),
            [Fault::Clash(Clash::Pod(1, 0))]
        );
    }

    #[test]
    fn a_number_is_the_last_byte_where_that_will_do() {
        let numbers = |list: &[Node]| {
            let nodes = Nodes::new(list).unwrap();
            let hosts = nodes.hosts().into_values().flatten();
            (nodes.are_alike(), hosts.map(|pods| pods.number).collect::<Vec<_>>())
        };
        let a = node("192.0.2.1", "10.0.1.64", "10.0.1.127");
        assert_eq!(numbers(&[a, node("192.0.2.1", "10.0.1.5", "10.0.1.5")]), (true, vec![5, 64]));
        let apart = node("192.0.2.1", "10.0.0.192", "10.0.0.255");
        assert_eq!(numbers(&[a, apart]), (false, vec![1, 65]));
        // Of another host: it is not its pods' affair.
        let other = node("192.0.2.2", "10.0.2.7", "10.0.2.9");
        assert_eq!(numbers(&[a, apart, other]), (false, vec![1, 65, 7]));
        let across = node("192.0.2.1", "10.0.0.128", "10.0.1.127");
        assert_eq!(numbers(&[across]), (false, vec![0]));
    }
}
