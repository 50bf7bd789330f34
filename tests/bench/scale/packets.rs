//! Packets that a rule of a set takes, or none: their fields from the rules' sets, their bytes with right lengths.

use std::ops::RangeInclusive;

use sfunnel::diagram::Diagram;
use sfunnel::field::Field;
use sfunnel::ir::{Action, Family, Proto, Ruleset};
use sfunnel::matches::{Key, Matches, Set};

/// Packets that no rule matches.
const MISSES: usize = 4;
/// Combinations of values that are tried for a rule that others may be in front of.
const TRIES: usize = 300;

/// A frame, and the rule that takes it.
#[derive(Debug, Clone)]
pub struct Packet {
    pub key: Key,
    pub rule: Option<usize>,
    pub frame: Vec<u8>,
}

/// Each empty where there is none: no miss if some rule takes everything, no hit if no rule is `accept`.
#[derive(Debug)]
pub struct Packets {
    misses: Vec<Packet>,
    /// Of rules that accept, so that nothing but deciding takes time.
    hits: [Vec<Packet>; 3],
    dropped: Vec<Packet>,
}

impl Packets {
    pub fn of(ruleset: &Ruleset, diagram: &Diagram) -> Packets {
        let count = ruleset.rules.len();
        let mut random = Random(1);
        let orders: [Box<dyn Iterator<Item = usize>>; 3] = [
            Box::new(0..count),
            Box::new((count / 2..count).chain((0..count / 2).rev())),
            Box::new((0..count).rev()),
        ];
        let mut first = |rules: &mut dyn Iterator<Item = usize>, action: &Action| {
            let mut rules = rules.filter(|rule| ruleset.rules[*rule].action == *action);
            rules.find_map(|rule| taken_by(rule, ruleset, diagram, &mut random)).into_iter().collect()
        };
        let dropped = first(&mut (0..count), &Action::Drop);
        let hits = orders.map(|mut order| first(&mut order, &Action::Accept));
        Packets { misses: misses(ruleset, diagram, &mut random), hits, dropped }
    }

    /// What is measured, by name.
    pub fn kinds(&self) -> [(&'static str, &[Packet]); 4] {
        let [first, middle, last] = &self.hits;
        [("miss", &self.misses), ("first", first), ("middle", middle), ("last", last)]
    }

    pub fn all(&self) -> impl Iterator<Item = &Packet> {
        self.misses.iter().chain(self.hits.iter().flatten()).chain(&self.dropped)
    }
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.bits()).unwrap_or(0) % limit.max(1)
    }

    fn in_range(&mut self, range: &RangeInclusive<u128>) -> u128 {
        let bits = u128::from(self.bits()) << 96
            ^ u128::from(self.bits()) << 64
            ^ u128::from(self.bits()) << 32
            ^ u128::from(self.bits());
        let size = range.end() - range.start();
        range.start() + if size == u128::MAX { bits } else { bits % (size + 1) }
    }
}

/// A packet for which this rule is the first.
fn taken_by(index: usize, ruleset: &Ruleset, diagram: &Diagram, random: &mut Random) -> Option<Packet> {
    let rule = &ruleset.rules[index];
    for (family, matches) in rule.each() {
        for _ in 0..TRIES {
            let key = within(matches, family, rule.proto, random);
            if diagram.lookup(&key) == Some(index) {
                return Some(packet(key, Some(index)));
            }
        }
    }
    None
}

fn misses(ruleset: &Ruleset, diagram: &Diagram, random: &mut Random) -> Vec<Packet> {
    let mut found = Vec::new();
    for _ in 0..TRIES * MISSES {
        // Near the rules: all fields but some as one of them has it.
        let rule = &ruleset.rules[random.below(ruleset.rules.len())];
        let Some((family, matches)) = rule.each().next() else { continue };
        let mut matches = matches.clone();
        for field in Field::all().filter(|_| random.below(2) == 0) {
            matches = matches.without(field);
        }
        let key = within(&matches, family, rule.proto, random);
        if diagram.lookup(&key).is_none() {
            found.push(packet(key, None));
        }
        if found.len() == MISSES {
            break;
        }
    }
    found
}

fn within(matches: &Matches, family: Family, proto: Proto, random: &mut Random) -> Key {
    let mut key = Key::new(family, proto);
    for field in Field::all().filter(|field| field.exists(family, proto)) {
        // Values of 0 cannot be written in all fields.
        let any = Set::from_iter([field.smallest(family).max(1)..=field.largest(family)]);
        let ranges: Vec<RangeInclusive<u128>> = matches.get(field).unwrap_or(&any).ranges().collect();
        let range = &ranges[random.below(ranges.len())];
        let value = match random.below(3) {
            0 => *range.start(),
            1 => *range.end(),
            _ => random.in_range(range),
        };
        key = key.with(field, value);
    }
    key
}

fn packet(key: Key, rule: Option<usize>) -> Packet {
    let value = |field: Field, bytes: usize| key.get(field).to_be_bytes()[16 - bytes..].to_vec();
    let mut l4 = [value(Field::SPORT, 2), value(Field::DPORT, 2)].concat();
    match key.proto {
        Proto::Udp => l4.extend([0, 72, 0, 0]),
        Proto::Tcp => l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]),
    }
    l4.extend([7; 64]);
    let number = if key.proto == Proto::Tcp { 6 } else { 17 };
    let length = u16::try_from(l4.len()).unwrap_or(0);
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match key.family {
        Family::V4 => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0, 1, 0, 0, 64, number, 0, 0]);
            frame.extend([value(Field::SADDR, 4), value(Field::DADDR, 4)].concat());
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([number, 64]);
            frame.extend([value(Field::SADDR, 16), value(Field::DADDR, 16)].concat());
        }
    }
    frame.extend(l4);
    Packet { key, rule, frame }
}
