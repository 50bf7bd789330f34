//! Whose pods are behind which host, as `bypass direct` sees it: the host's address is the next hop to its pods.
//!
//! A list goes in, as somebody has written it or a kernel has told it; a table comes out in which every pod has one host, of
//! its own version of IP. Never knows where the list is from, nor tells pods of one host apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::Family;

/// Some pods, from `first` to `last`, and the host they are behind. All three are of one version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hop {
    pub host: IpAddr,
    pub first: IpAddr,
    pub last: IpAddr,
}

/// What is wrong with an entry of a list, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// Both have some of the same addresses.
    Overlap(usize, usize),
    /// The host of the first is among the pods of the second: its own packets would look like theirs.
    Pod(usize, usize),
}

/// Any number of hops, those of IPv4 first, by the addresses of their pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Hops(Arc<[Hop]>);

impl Hop {
    pub fn family(&self) -> Family {
        if self.host.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl Hops {
    /// # Errors
    ///
    /// All that is wrong with the list, in its order.
    pub fn new(list: &[Hop]) -> Result<Self, Vec<Clash>> {
        let order = order(list);
        let mut clashes = Vec::new();
        // Of those in front, the one that reaches farthest. Addresses of IPv4 are in front of those of IPv6.
        let mut reach: Option<usize> = None;
        for at in order.iter().copied() {
            if let Some(before) = reach.filter(|before| list[*before].last >= list[at].first) {
                clashes.push(Clash::Overlap(before.min(at), before.max(at)));
            }
            reach = reach.filter(|before| list[*before].last >= list[at].last).or(Some(at));
        }
        let mut hosts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (at, hop) in list.iter().enumerate() {
            hosts.entry(hop.host).or_insert(at);
        }
        for (host, at) in &hosts {
            let behind = order.partition_point(|other| list[*other].first <= *host);
            let pods = behind.checked_sub(1).map(|last| order[last]);
            clashes.extend(pods.filter(|pods| list[*pods].last >= *host).map(|pods| Clash::Pod(*at, pods)));
        }
        clashes.sort_by_key(|clash| clash.entry());
        if clashes.is_empty() {
            Ok(Hops(order.into_iter().map(|at| list[at]).collect()))
        } else {
            Err(clashes)
        }
    }

    /// As many of the list as go together, and the others.
    pub fn most(list: &[Hop]) -> (Self, Vec<Hop>) {
        let (mut kept, mut left_out) = (list.to_vec(), Vec::new());
        loop {
            match Hops::new(&kept) {
                Ok(hops) => return (hops, left_out),
                Err(clashes) => {
                    // Each takes one away, so that this comes to an end.
                    let wrong: BTreeSet<usize> = clashes.into_iter().map(Clash::entry).collect();
                    left_out.extend(wrong.iter().rev().map(|at| kept.remove(*at)));
                }
            }
        }
    }

    pub fn hosts(&self) -> BTreeSet<IpAddr> {
        self.iter().map(|hop| hop.host).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Hop> {
        self.0.iter()
    }

    /// Those of one version of IP.
    pub fn of(&self, family: Family) -> impl Iterator<Item = &Hop> {
        self.iter().filter(move |hop| hop.family() == family)
    }

    /// Those whose host is `kept`.
    #[must_use]
    pub fn towards(&self, kept: impl Fn(IpAddr) -> bool) -> Hops {
        Hops(self.iter().filter(|hop| kept(hop.host)).copied().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Clash {
    /// The entry that it is told at: the last of those that it is about.
    pub fn entry(self) -> usize {
        match self {
            Clash::Pod(at, _) | Clash::Overlap(_, at) => at,
        }
    }
}

/// By the first of their pods.
fn order(list: &[Hop]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by_key(|at| (list[*at].first, *at));
    order
}

#[cfg(test)]
mod tests {
    use super::{Clash, Hop, Hops};
    use crate::protocol::Family;

    fn hop(host: &str, first: &str, last: &str) -> Hop {
        let parse = |text: &str| text.parse().unwrap();
        Hop { host: parse(host), first: parse(first), last: parse(last) }
    }

    #[test]
    fn every_pod_is_behind_one_host_of_its_own_version() {
        let a = hop("192.0.2.1", "10.0.0.0", "10.3.255.255");
        let b = hop("2001:db8::2", "fd00::", "fd00::ffff");
        let c = hop("192.0.2.2", "10.4.0.0", "10.4.0.0");
        let hops = Hops::new(&[b, c, a]).unwrap();
        assert_eq!(hops.iter().copied().collect::<Vec<_>>(), [a, c, b]);
        assert_eq!(hops.of(Family::V6).copied().collect::<Vec<_>>(), [b]);
        assert_eq!(hops.towards(|host| host == c.host), Hops::new(&[c]).unwrap());

        let wrong = |list: &[Hop]| Hops::new(list).unwrap_err();
        assert_eq!(
            Hops::most(&[a, c, hop("192.0.2.3", "10.3.0.0", "10.3.0.0")]).0,
            Hops::new(&[a, c]).unwrap()
        );
        let inside = hop("2001:db8::3", "fd00::7", "fd00::7");
        assert_eq!(wrong(&[inside, a, b]), [Clash::Overlap(0, 2)]);
        assert_eq!(wrong(&[a, hop("10.3.255.255", "10.9.0.0", "10.9.0.0")]), [Clash::Pod(1, 0)]);
        assert_eq!(wrong(&[b, hop("fd00::1", "fd01::", "fd01::1")]), [Clash::Pod(1, 0)]);
        // The last address of IPv4 is not beside the first of IPv6.
        let (last, first) =
            (hop("192.0.2.1", "255.255.255.255", "255.255.255.255"), hop("2001:db8::1", "::", "::1"));
        assert!(Hops::new(&[last, first]).is_ok());
    }
}
