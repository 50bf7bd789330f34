//! What two rulesets do differently, as sets of packets: exact, whatever the rules.
//!
//! Input: two rulesets for the same hook. Output: the packets whose fate is not the same, as few sets as are found by
//! joining neighbours, each with the rule that decides in either. Never compares texts: rules that mean the same are the
//! same.

use std::sync::Arc;

use crate::diagram::question::{Outcome, ask_both};
use crate::field::Field;
use crate::ir::{Action, Effect, Family, Nat, Proto, Ruleset, about};
use crate::matches::Matches;
use crate::settings::Settings;

/// Packets that one ruleset treats one way, and the other another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub proto: Proto,
    /// By family, IPv4 first; both, if what is said of the packets is the same in both.
    pub packets: [Option<Matches>; 2],
    /// The rules that decide, by their indices. `None`: no rule matches.
    pub old: Option<usize>,
    pub new: Option<usize>,
}

/// They differ in more ways than can be told apart at a bounded cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rulesets are too large, and differ in too many ways, to say exactly how")]
pub struct TooMany;

/// Rules looked at for one family and protocol.
const EFFORT: usize = 20_000_000;
/// Sets of packets for one family and protocol. A longer list is of no use.
pub const MOST: usize = 10_000;
/// Up to so many, each is tried with each other, to be joined.
const MOST_JOINED: usize = 500;

/// What becomes of a packet. `None`: it passes, without a rule or by a plain `accept`.
fn fate(ruleset: &Ruleset, rule: Option<usize>) -> Option<Effect<'_>> {
    let accepted = Effect {
        action: &Action::Accept,
        nat: Nat::default(),
        settings: Settings::default(),
        counter: false,
    };
    let effect = ruleset.rules.get(rule?)?.effect();
    (effect != accepted).then_some(effect)
}

/// All differences, in the order of protocol and family.
///
/// # Errors
///
/// Finding out would cost more than it may.
pub fn diff(old: &Ruleset, new: &Ruleset) -> Result<Vec<Difference>, TooMany> {
    let same = |[a, b]: Outcome| fate(old, a) == fate(new, b);
    let mut all: Vec<Difference> = Vec::new();
    for proto in Proto::ALL {
        for family in Family::ALL {
            let mut effort = EFFORT;
            let lists = [old, new].map(|ruleset| about(&ruleset.rules, family, proto).collect::<Vec<_>>());
            let [first, second] = &lists;
            let answer =
                ask_both(Matches::all(), family, [first, second], &same, &mut effort).ok_or(TooMany)?;
            let differs = |outcome: Outcome| outcome != [None, None];
            let found = answer.packets(&differs, MOST + 1);
            if found.len() > MOST {
                return Err(TooMany);
            }
            for (packets, [old, new]) in joined(found, family) {
                let in_both = all.iter_mut().find(|known| {
                    let said = &known.packets[Family::V4.index()];
                    family == Family::V6
                        && (known.proto, known.old, known.new) == (proto, old, new)
                        && said.as_ref() == Some(&packets)
                        && !names_addresses(&packets)
                });
                match in_both {
                    Some(known) => known.packets[family.index()] = Some(packets),
                    None => {
                        let mut by_family = [None, None];
                        by_family[family.index()] = Some(packets);
                        all.push(Difference { proto, packets: by_family, old, new });
                    }
                }
            }
        }
    }
    Ok(all)
}

fn names_addresses(packets: &Matches) -> bool {
    packets.get(Field::SADDR).is_some() || packets.get(Field::DADDR).is_some()
}

/// Sets with the same outcome that differ in one field only are one.
fn joined(mut found: Vec<(Matches, Outcome)>, family: Family) -> Vec<(Matches, Outcome)> {
    if found.len() > MOST_JOINED {
        return found;
    }
    let mut at = 0;
    while at < found.len() {
        let other = (at + 1..found.len()).find_map(|other| {
            let both =
                (found[at].1 == found[other].1).then(|| union(&found[at].0, &found[other].0, family))??;
            Some((other, both))
        });
        match other {
            Some((other, both)) => {
                found[at].0 = both;
                found.remove(other);
                at = 0; // what has grown may now go with one in front
            }
            None => at += 1,
        }
    }
    found
}

/// The packets of both, if they are one product of sets.
fn union(a: &Matches, b: &Matches, family: Family) -> Option<Matches> {
    let mut differing = Field::all().filter(|field| a.get(*field) != b.get(*field));
    let (field, None) = (differing.next()?, differing.next()) else { return None };
    Some(match (a.get(field), b.get(field)) {
        (Some(one), Some(other)) => a.clone().with(field, family, Arc::new(one | other)),
        _ => a.clone().without(field),
    })
}
