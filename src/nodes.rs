//! The nodes of a cluster as `bypass` sees them: the host's address, and the addresses of its pods.
//!
//! A list goes in, as somebody has written it or a kernel has told it; a table comes out in which every pod has one
//! host, and is told from the others of its host by its last byte. Never knows where the list is from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Some pods of a node: from `first` to `last`, all but their last byte the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    pub host: Ipv4Addr,
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

/// What is left of an address once its last byte travels elsewhere.
pub const KEPT: u32 = !0xff;

/// Any number of nodes, by the addresses of their pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Nodes(Arc<[Node]>);

/// What is wrong with an entry of a list, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// More pods than a byte can tell apart.
    Wide(usize),
    /// Both have some of the same addresses.
    Overlap(usize, usize),
    /// One host, and prefixes that differ in more than the last byte: it would take more than that to tell them apart.
    Apart(usize, usize),
    /// The host of the first is among the pods of the second: its own packets would look like theirs.
    Pod(usize, usize),
}

impl Nodes {
    /// # Errors
    ///
    /// All that is wrong with the list, in its order.
    pub fn new(list: &[Node]) -> Result<Self, Vec<Fault>> {
        let mut faults: Vec<Fault> = Vec::new();
        let wide = |node: &Node| (node.first.to_bits() ^ node.last.to_bits()) & KEPT != 0;
        faults.extend((0..list.len()).filter(|at| wide(&list[*at])).map(Fault::Wide));
        let mut order: Vec<usize> = (0..list.len()).collect();
        order.sort_by_key(|at| (list[*at].first, *at));
        // Of those in front, the one that reaches farthest.
        let mut reach: Option<usize> = None;
        for at in order.iter().copied() {
            if let Some(before) = reach.filter(|before| list[*before].last >= list[at].first) {
                faults.push(Fault::Overlap(before.min(at), before.max(at)));
            }
            reach = reach.filter(|before| list[*before].last >= list[at].last).or(Some(at));
        }
        let mut hosts: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        for (at, node) in list.iter().enumerate() {
            let first = *hosts.entry(node.host).or_insert(at);
            if (list[first].first.to_bits() ^ node.first.to_bits()) & KEPT != 0 {
                faults.push(Fault::Apart(first, at));
            }
        }
        for (host, at) in &hosts {
            let behind = order.partition_point(|other| list[*other].first <= *host);
            let pods = behind.checked_sub(1).map(|last| order[last]);
            faults.extend(pods.filter(|pods| list[*pods].last >= *host).map(|pods| Fault::Pod(*at, pods)));
        }
        faults.sort_by_key(|fault| fault.entry());
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Nodes(order.into_iter().map(|at| list[at]).collect()))
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

    /// Each host, with what the addresses of its pods have in common, and 0 for their last byte.
    pub fn hosts(&self) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        let common = |node: &Node| Ipv4Addr::from(node.first.to_bits() & KEPT);
        self.0.iter().map(|node| (node.host, common(node))).collect()
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
            Fault::Wide(at) | Fault::Pod(at, _) | Fault::Overlap(_, at) | Fault::Apart(_, at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Node, Nodes};

    fn node(host: &str, first: &str, last: &str) -> Node {
        let parse = |text: &str| text.parse().unwrap();
        Node { host: parse(host), first: parse(first), last: parse(last) }
    }

    #[test]
    fn every_pod_has_one_host_and_a_byte_of_its_own() {
        let a = node("192.0.2.1", "10.0.1.0", "10.0.1.255");
        let b = node("192.0.2.2", "10.0.2.0", "10.0.2.63");
        let more_of_b = node("192.0.2.2", "10.0.2.128", "10.0.2.255");
        let nodes = Nodes::new(&[more_of_b, b, a]).unwrap();
        assert_eq!(nodes.iter().copied().collect::<Vec<_>>(), [a, b, more_of_b]);
        assert_eq!(nodes.hosts().len(), 2);

        let wrong = |list: &[Node]| Nodes::new(list).unwrap_err();
        assert_eq!(wrong(&[node("192.0.2.1", "10.0.0.0", "10.0.1.255")]), [Fault::Wide(0)]);
        let inside = node("192.0.2.3", "10.0.1.7", "10.0.1.7");
        assert_eq!(wrong(&[a, b, inside]), [Fault::Overlap(0, 2)]);
        assert_eq!(wrong(&[inside, a]), [Fault::Overlap(0, 1)]);
        // Not hidden by one in between.
        let (first, last) =
            (node("192.0.2.4", "10.0.1.8", "10.0.1.8"), node("192.0.2.5", "10.0.1.9", "10.0.1.9"));
        assert_eq!(wrong(&[a, first, last]), [Fault::Overlap(0, 1), Fault::Overlap(0, 2)]);
        assert_eq!(wrong(&[b, node("192.0.2.2", "10.0.3.0", "10.0.3.63")]), [Fault::Apart(0, 1)]);
        assert_eq!(wrong(&[a, node("10.0.1.255", "10.0.9.0", "10.0.9.255")]), [Fault::Pod(1, 0)]);
    }
}
