//! Sets of packets, as rules describe them: a set of values for each field, and any combination of these.
//!
//! Built by [`check`](crate::check) from what was written; asked by everything behind it. One value stands for one
//! family and protocol, which whoever holds it knows. Never knows an action.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use range_set_blaze::RangeSetBlaze;

use crate::field::{Field, Funneled, Reply};
use crate::protocol::{End, Family, Proto};

/// Values of a field, in host byte order: an IPv6 address is one number of 128 bits.
pub type Set = RangeSetBlaze<u128>;
/// Ports by themselves, as actions list them.
pub type Ports = RangeSetBlaze<u16>;

/// A set of packets of one family and protocol: the product of sets of values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matches {
    /// A field that is not here may have any value, so each set of packets has one form.
    sets: BTreeMap<Field, Arc<Set>>,
}

/// All values that a field of this family can have.
pub fn universe(field: Field, family: Family) -> Set {
    Set::from_iter([field.smallest(family)..=field.largest(family)])
}

impl Matches {
    /// All packets of the family and protocol.
    pub const fn all() -> &'static Matches {
        static ALL: Matches = Matches { sets: BTreeMap::new() };
        &ALL
    }

    /// The fields that not every value will do for, each with those that will.
    pub fn sets(&self) -> impl Iterator<Item = (Field, &Arc<Set>)> {
        self.sets.iter().map(|(field, set)| (*field, set))
    }

    /// `None`: any value will do.
    pub fn get(&self, field: Field) -> Option<&Set> {
        self.sets.get(&field).map(Arc::as_ref)
    }

    /// The same packets, but with these values of the field in place of whichever it had.
    pub fn with(mut self, field: Field, family: Family, set: Arc<Set>) -> Matches {
        match universe(field, family).is_subset(&set) {
            true => self.sets.remove(&field),
            false => self.sets.insert(field, set),
        };
        self
    }

    /// The same packets, whatever the field is.
    pub fn without(mut self, field: Field) -> Matches {
        self.sets.remove(&field);
        self
    }

    /// The same packets, whatever all other fields are.
    fn on(&self, kept: impl Fn(Field) -> bool) -> Matches {
        let sets = self.sets.iter().filter(|(field, _)| kept(**field));
        Matches { sets: sets.map(|(field, set)| (*field, set.clone())).collect() }
    }

    /// The same packets, whatever is in the L4 header.
    pub fn without_l4(&self) -> Matches {
        self.on(|field| !field.is_l4())
    }

    /// Whether some packet is in both.
    pub fn meets(&self, other: &Matches) -> bool {
        let common = |set, other| common(set, other).next().is_some();
        self.sets.iter().all(|(field, set)| other.get(*field).is_none_or(|other| common(set, other)))
    }

    /// Whether all of the other's packets are in this.
    pub fn covers(&self, other: &Matches) -> bool {
        self.sets.iter().all(|(field, set)| other.get(*field).is_some_and(|other| other.is_subset(set)))
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.sets.iter().all(|(field, set)| set.contains(key.get(*field)))
    }

    /// The packets that are in both, if there are any.
    pub fn intersection(&self, other: &Matches) -> Option<Matches> {
        let mut both = self.clone();
        for (field, set) in &other.sets {
            let common = match self.get(*field) {
                None => set.clone(),
                Some(own) if own.is_subset(set) => continue,
                Some(own) => Arc::new(own & set.as_ref()),
            };
            if common.is_empty() {
                return None;
            }
            both.sets.insert(*field, common);
        }
        Some(both)
    }

    /// The packets that answer these.
    pub fn reversed(&self) -> Matches {
        let sets = self.sets.iter().filter_map(|(field, set)| match field.row().reply {
            Reply::In(other) => Some((other, set.clone())),
            Reply::Unknown => None,
        });
        Matches { sets: sets.collect() }
    }

    /// What is known of these packets at other places.
    pub fn elsewhere(&self) -> Matches {
        self.on(|field| field.row().reply != Reply::Unknown)
    }

    /// What rules that see the packets after `funnel` can know of them: ports that it has pushed, the rest as it was.
    pub fn funneled(&self, family: Family, sport: u16, dport: u16) -> Matches {
        let kept = self.on(|field| field.row().funneled == Funneled::Kept);
        [(Field::SPORT, sport), (Field::DPORT, dport)]
            .into_iter()
            .fold(kept, |matches, (field, port)| matches.with(field, family, only(port.into())))
    }
}

/// What two sets have in common, in order. Of the operators of sets, this is the one that is asked millions of times:
/// `a & b` is `!(!a | !b)` inside, which takes several times as long for sets of a few ranges.
pub fn common<'a>(a: &'a Set, b: &'a Set) -> impl Iterator<Item = RangeInclusive<u128>> + 'a {
    let (mut a, mut b) = (a.ranges().peekable(), b.ranges().peekable());
    std::iter::from_fn(move || {
        loop {
            let (one, other) = (a.peek()?, b.peek()?);
            let (first, last) = (*one.start().max(other.start()), *one.end().min(other.end()));
            if one.end() < other.end() {
                a.next();
            } else {
                b.next();
            }
            if first <= last {
                return Some(first..=last);
            }
        }
    })
}

/// The set of a single value.
pub fn only(value: u128) -> Arc<Set> {
    Arc::new(Set::from_iter([value]))
}

/// These values as ports.
pub fn ports(set: Option<&Set>) -> Ports {
    let Some(set) = set else { return Ports::universe() };
    let narrow = |value: u128| u16::try_from(value).unwrap_or(u16::MAX);
    set.ranges().map(|range| narrow(*range.start())..=narrow(*range.end())).collect()
}

/// Ports as values of a field.
pub fn widened(ports: &Ports) -> Arc<Set> {
    Arc::new(ports.ranges().map(|range| u128::from(*range.start())..=u128::from(*range.end())).collect())
}

/// The fields of one packet, in host byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub family: Family,
    pub proto: Proto,
    values: BTreeMap<Field, u128>,
}

impl Key {
    pub fn new(family: Family, proto: Proto) -> Self {
        Key { family, proto, values: BTreeMap::new() }
    }

    pub fn with(mut self, field: Field, value: impl Into<u128>) -> Self {
        self.values.insert(field, value.into());
        self
    }

    pub fn with_ports(self, sport: u16, dport: u16) -> Self {
        self.with(Field::of(End::Sport), sport).with(Field::of(End::Dport), dport)
    }

    /// 0 for a field that the packet does not have.
    pub fn get(&self, field: Field) -> u128 {
        self.values.get(&field).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sets_have_in_common_is_their_intersection() {
        let set = |bits: u32| (0..7_u32).filter(|bit| bits >> bit & 1 == 1).map(u128::from).collect::<Set>();
        let sets: Vec<Set> = (0..1 << 7).map(set).collect();
        for a in &sets {
            for b in &sets {
                assert_eq!(common(a, b).collect::<Set>(), a & b);
                assert!(common(a, b).eq((a & b).ranges()), "{a:?} {b:?}");
            }
        }
        let all = Set::universe();
        assert!(common(&all, &all).eq(all.ranges()));
    }
}
