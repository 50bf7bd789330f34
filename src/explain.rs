//! What the rules say to one packet: which rule matches, and which do not and at which test.
//!
//! Input: a ruleset and a frame. Output: reasons in words. Pure: what happens to the packet, and why an action leaves
//! it as it is, is what the program says that ran, see [`kernel::trial`](crate::kernel).

pub mod capture;
pub mod cut;
pub mod ran;
pub mod report;
pub mod words;

use crate::dissect::{Ip, Unmatchable, be16};
use crate::field::{Base, Field};
use crate::ir::{Action, Family, Rule, Ruleset};
use crate::kernel::trial::Metadata;
use crate::matches::{Key, Matches};
use crate::settings::Settings;
use crate::value_text;

/// A packet to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// With an Ethernet header, made up if there was none.
    pub frame: Vec<u8>,
    pub metadata: Metadata,
    /// Bytes that the packet had where it was captured, if that is more than there are here.
    pub cut_from: Option<usize>,
    /// Seconds and microseconds.
    pub time: (u32, u32),
}

/// A rule that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    pub rule: usize,
    /// The first test that fails.
    pub why: String,
}

/// What a scan of the rules finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matching {
    /// The first rule that matches.
    pub rule: Option<usize>,
    /// Those above it.
    pub misses: Vec<Miss>,
}

/// What rules are asked about.
pub fn key(frame: &[u8], settings: &Settings) -> Result<Key, Unmatchable> {
    let ip = Ip::in_frame(frame)?;
    let segment = ip.segment()?;
    let key = Key::new(ip.family, segment.proto);
    Ok(Field::all().fold(key, |key, field| match field.row().place[ip.family.index()] {
        Some(place) if field.exists(ip.family, segment.proto) => {
            let bytes = match place.base {
                Base::Ip => ip.header,
                Base::Port(_) | Base::L4 => segment.bytes,
                Base::Skb => return key.with(field, settings.get(field).unwrap_or_default()),
            };
            key.with(field, place.value(bytes))
        }
        _ => key,
    }))
}

/// Tries the rules from top to bottom.
pub fn matching(ruleset: &Ruleset, key: &Key) -> Matching {
    let mut misses = Vec::new();
    for (index, rule) in ruleset.rules.iter().enumerate() {
        match miss(rule, key) {
            None => return Matching { rule: Some(index), misses },
            Some(why) => misses.push(Miss { rule: index, why }),
        }
    }
    Matching { rule: None, misses }
}

/// The first test of the rule that the packet fails, in the order in which rules are written in normal form.
fn miss(rule: &Rule, key: &Key) -> Option<String> {
    let Some(matches) = rule.of(key.family) else {
        let other = Family::ALL.into_iter().find(|family| *family != key.family)?;
        return Some(format!("{}, wants {other}", key.family));
    };
    let (of_ip, of_l4): (Vec<Field>, Vec<Field>) = Field::all().partition(|field| !field.is_l4());
    let first = |fields: Vec<Field>| fields.into_iter().find_map(|field| outside(matches, field, key));
    let proto = || (rule.proto != key.proto).then(|| format!("{}, wants {}", key.proto, rule.proto));
    first(of_ip).or_else(proto).or_else(|| first(of_l4))
}

/// The field's value, if it is not one that matches.
fn outside(matches: &Matches, field: Field, key: &Key) -> Option<String> {
    let (set, value) = (matches.get(field)?, key.get(field));
    let shown = || field.show(key.family, value);
    let wanted = || value_text::values(field, &[(key.family, set.clone())]);
    (!set.contains(value)).then(|| format!("{field} {}, wants {}", shown(), wanted()))
}

/// Which port below the funneling header the guard of `unfunnel` does not let through.
pub fn guarded(action: &Action, frame: &[u8]) -> Option<String> {
    let Action::Unfunnel { guard, .. } = action else { return None };
    let ip = Ip::in_frame(frame).ok()?;
    let below = ip.segment().ok()?.payload();
    let ports = [("sport", &guard.sport, be16(below, 0)), ("dport", &guard.dport, be16(below, 2))];
    let wrong = ports.into_iter().find(|(_, set, port)| !set.contains(*port));
    wrong.map(|(word, set, port)| format!("{word} {port}, wants {}", value_text::ports(set)))
}
