//! Small rulesets at all of their boundaries, in the three engines.
//!
//! The values that rules name cut each field into intervals that no rule tells apart. A packet at both ends of every
//! interval, in every combination of fields, asks everything that a ruleset can be asked. Each rule sets a mark of its
//! own, so that the kernel says which one it was.

use std::collections::BTreeSet;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use sfunnel::codegen::Link;

use super::support::actions::Action;
use super::support::case::Sample;
use super::support::fields::{FIELDS, Notation, Numbers};
use super::support::packet::{L4, Packet, TCP, UDP};
use super::support::rules::{self, Addr, Extra, Match, Ports, Rule, address, bits};
use super::support::testrun::Loader;
use super::support::{Need, arb, cases, engine, require};

const RULESETS: u32 = 300;
/// Packets of one version and protocol. Where both ends would be more, the first of each interval has to do.
const MOST: usize = 4_000;

#[test]
fn up_to_six_rules_agree_on_every_combination_of_boundaries() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let mut loader = Loader::default();
    let (mut rulesets, mut packets, mut too_many) = (0, 0, 0);
    let wanted = cases(RULESETS);
    while rulesets < wanted {
        let mut rules = arb::case(1..7usize).new_tree(&mut runner).expect("a case").current().rules;
        // The mark tells which rule it was.
        for (rule, mark) in rules.iter_mut().zip(1000..) {
            rule.action = Action::Accept;
            rule.extra = Extra::default();
            rule.extra.set[0] = Some(mark);
        }
        let kinds = [(false, TCP), (false, UDP), (true, TCP), (true, UDP)];
        let grids: Option<Vec<Grid>> =
            kinds.into_iter().map(|(six, proto)| Grid::of(&rules, six, proto)).collect();
        let Some(grids) = grids else {
            too_many += 1;
            continue;
        };
        let (compiled, loaded) = engine::load(&mut loader, &rules, Link::Ethernet)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", rules::text(&rules)));
        for packet in grids.iter().flat_map(Grid::packets) {
            let sample = Sample::new(&packet);
            engine::agree_on(&rules, &compiled.diagram, &loaded, &sample)
                .unwrap_or_else(|error| panic!("{}: {error:#}\n{}", sample.words, rules::text(&rules)));
            packets += 1;
        }
        rulesets += 1;
    }
    assert!(packets > 300 * wanted, "{packets} packets, {too_many} rulesets had too many");
}

/// The values that packets of one version and protocol are made of.
struct Grid {
    six: bool,
    proto: u8,
    /// Addresses and ports, then each of [`FIELDS`]; 0 alone: whatever a packet has.
    values: Vec<Vec<u128>>,
}

impl Grid {
    /// `None`: there would be too many packets.
    fn of(rules: &[Rule], six: bool, proto: u8) -> Option<Grid> {
        let rules: Vec<&Rule> =
            rules.iter().filter(|rule| rule.proto == proto && rule.is_about(six)).collect();
        let ranges = Ranges { rules: &rules, six };
        [true, false].into_iter().find_map(|both| {
            let values = ranges.values(both);
            let count = values.iter().map(Vec::len).try_fold(1, usize::checked_mul)?;
            (count <= MOST).then_some(Grid { six, proto, values })
        })
    }

    fn packets(&self) -> impl Iterator<Item = Packet> + '_ {
        let count: usize = self.values.iter().map(Vec::len).product();
        (0..count).map(|number| {
            let mut rest = number;
            let mut next = self.values.iter().map(|values| {
                let value = values[rest % values.len()];
                rest /= values.len();
                value
            });
            let mut take = || next.next().expect("a value of each field");
            let like = if self.six { "::" } else { "0.0.0.0" }.parse().expect("an address");
            let [saddr, daddr] = [take(), take()].map(|number| address(like, number));
            let [sport, dport] = [take(), take()].map(|port| u16::try_from(port).expect("a port"));
            let mut packet = Packet::new(saddr, daddr, vec![L4::new(self.proto, sport, dport)]);
            for row in FIELDS {
                let value = u32::try_from(take()).expect("32 bits");
                if row.versions[usize::from(self.six)] && row.proto.is_none_or(|proto| proto == self.proto) {
                    (row.write)(&mut packet, value);
                }
            }
            packet
        })
    }
}

struct Ranges<'a> {
    rules: &'a [&'a Rule],
    six: bool,
}

impl Ranges<'_> {
    fn values(&self, both: bool) -> Vec<Vec<u128>> {
        let largest = if self.six { u128::MAX } else { u32::MAX.into() };
        let mut values = vec![
            ends(self.addresses(|rule| &rule.saddr), largest, both),
            ends(self.addresses(|rule| &rule.daddr), largest, both),
            ends(self.ports(|rule| &rule.sport), u16::MAX.into(), both),
            ends(self.ports(|rule| &rule.dport), u16::MAX.into(), both),
        ];
        for (field, row) in FIELDS.iter().enumerate() {
            let matches = self.rules.iter().flat_map(|rule| &rule.others).filter(|m| m.field == field);
            let numbers: Vec<Numbers> = matches.flat_map(|m| m.values.values.clone()).collect();
            values.push(match row.notation {
                Notation::Numbers => {
                    let ranges =
                        numbers.iter().map(|Numbers(first, last)| (u128::from(*first), u128::from(*last)));
                    ends(ranges.collect(), row.largest.into(), both)
                }
                // A value, and what differs from it in one bit that is looked at.
                Notation::Masked => {
                    let near = numbers.iter().flat_map(|Numbers(value, mask)| {
                        let other = (0..8).map(|bit| 1 << bit).filter(move |bit| mask & bit != 0);
                        [*value].into_iter().chain(other.map(move |bit| value ^ bit))
                    });
                    near.chain([0]).map(u128::from).collect::<BTreeSet<_>>().into_iter().collect()
                }
            });
        }
        values
    }

    fn addresses(&self, of: fn(&Rule) -> &Option<Match<Addr>>) -> Vec<(u128, u128)> {
        let values = self.rules.iter().filter_map(|rule| of(rule).as_ref()).flat_map(|m| &m.values);
        let values = values.filter(|value| value.is_ipv6() == self.six);
        values.map(|value| (bits(value.first()), bits(value.last()))).collect()
    }

    fn ports(&self, of: fn(&Rule) -> &Option<Match<Ports>>) -> Vec<(u128, u128)> {
        let values = self.rules.iter().filter_map(|rule| of(rule).as_ref()).flat_map(|m| &m.values);
        values.map(|Ports(first, last)| (u128::from(*first), u128::from(*last))).collect()
    }
}

/// The ends of the intervals into which the ranges cut all values.
fn ends(ranges: Vec<(u128, u128)>, largest: u128, both: bool) -> Vec<u128> {
    if ranges.is_empty() {
        return vec![0];
    }
    let after = |last: u128| last.checked_add(1).filter(|next| *next <= largest);
    let firsts: BTreeSet<u128> =
        ranges.iter().flat_map(|(first, last)| [Some(*first), after(*last)]).flatten().chain([0]).collect();
    let lasts = firsts.iter().filter_map(|first| first.checked_sub(1)).chain([largest]);
    match both {
        true => firsts.iter().copied().chain(lasts).collect::<BTreeSet<_>>().into_iter().collect(),
        false => firsts.into_iter().collect(),
    }
}
