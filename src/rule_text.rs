//! A rule as text, in the one form that all rules of one meaning share: its normal form.
//!
//! Takes a [`Rule`], gives a line that `check` reads back to the same sets and action. Never looks at
//! how the rule was written.

use std::net::{Ipv4Addr, Ipv6Addr};

use range_set_blaze::{Integer, RangeSetBlaze};

use crate::ir::{Action, Family, Funnel, Rule};
use crate::syntax::FLAGS;

/// The rule on one line, without its end.
pub fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    for (word, set) in [("saddr", &rule.saddr), ("daddr", &rule.daddr)] {
        let text = match (set.has(Family::V4), set.has(Family::V6)) {
            _ if *set == set.widened() => continue,
            (_, false) => matched(word, &set.v4, prefixes4),
            _ => matched(word, &set.v6, prefixes6),
        };
        words.push(text);
    }
    if !words.is_empty() || !rule.is_about(Family::V4) {
        let family = if rule.is_about(Family::V4) { Family::V4 } else { Family::V6 };
        words.insert(0, family.to_string());
    }
    words.push(rule.proto.to_string());
    let ports = [("sport", &rule.sport), ("dport", &rule.dport)];
    for (word, set) in ports.into_iter().filter(|(_, set)| !set.is_universal()) {
        words.push(matched(word, set, port_ranges));
    }
    let mark = rule.mark.map(|mark| format!(" mark set {mark}")).unwrap_or_default();
    let counter = if rule.counter { "counter " } else { "" };
    format!("{} actions {counter}{}{mark}", words.join(" "), action(&rule.action))
}

/// What follows the word `actions`.
pub fn action(action: &Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Funnel(Funnel { outer, sport, dport, flags }) => {
            let names = FLAGS.iter().filter(|(_, bit)| flags & bit != 0).map(|(name, _)| *name);
            let flags = match *flags {
                Funnel::SYN => String::new(),
                _ => format!(" flags {}", names.collect::<Vec<_>>().join("|")),
            };
            format!("funnel {outer} sport {sport} dport {dport}{flags}")
        }
        Action::Unfunnel { inner, guard } => {
            let guards = [("sport", &guard.sport), ("dport", &guard.dport)];
            let guards = guards.into_iter().filter(|(_, set)| !set.is_universal());
            let guards: String =
                guards.map(|(word, set)| format!(" {}", matched(word, set, port_ranges))).collect();
            format!("unfunnel {inner}{guards}")
        }
        Action::Alias { end, port } => format!("alias {end} {port}"),
        Action::Unalias { ports, .. } => {
            format!("unalias {}", listed(ports.iter().map(|port| port.to_string()).collect()))
        }
    }
}

/// `dport 80`, `dport != 80`, `dport { 80, 90-99 }`: whichever of a set and its complement is shorter.
fn matched<T: Integer>(
    word: &str,
    set: &RangeSetBlaze<T>,
    items: fn(&RangeSetBlaze<T>) -> Vec<String>,
) -> String {
    let (inside, outside) = (items(set), items(&!set));
    // A range is two numbers. Sets with port 0, which cannot be written, are shorter from outside.
    let numbers = |items: &[String]| items.iter().map(|item| 1 + item.matches('-').count()).sum::<usize>();
    if numbers(&inside) <= numbers(&outside) {
        format!("{word} {}", listed(inside))
    } else {
        format!("{word} != {}", listed(outside))
    }
}

fn listed(items: Vec<String>) -> String {
    match items.as_slice() {
        [one] => one.clone(),
        many => format!("{{ {} }}", many.join(", ")),
    }
}

fn port_ranges(set: &RangeSetBlaze<u16>) -> Vec<String> {
    set.ranges()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect()
}

fn prefixes4(set: &RangeSetBlaze<u32>) -> Vec<String> {
    let ranges = set.ranges().map(|range| (u128::from(*range.start()), u128::from(*range.end())));
    let show = |first: u128| Ipv4Addr::from(u32::try_from(first).unwrap_or(u32::MAX)).to_string();
    ranges.flat_map(|(first, last)| prefixes(first, last, 32, show)).collect()
}

fn prefixes6(set: &RangeSetBlaze<u128>) -> Vec<String> {
    let show = |first: u128| Ipv6Addr::from(first).to_string();
    set.ranges().flat_map(|range| prefixes(*range.start(), *range.end(), 128, show)).collect()
}

/// The fewest prefixes that make up the range, of addresses with this many bits.
fn prefixes(mut first: u128, last: u128, width: u32, show: impl Fn(u128) -> String) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        // As large as alignment and what is left allow.
        let aligned = first.trailing_zeros().min(width);
        let fits = (last - first).checked_add(1).map_or(width, u128::ilog2);
        let bits = aligned.min(fits);
        found.push(if bits == 0 { show(first) } else { format!("{}/{}", show(first), width - bits) });
        let end = first + (u128::MAX >> (128 - bits.max(1))) * u128::from(bits > 0);
        match end.checked_add(1).filter(|next| *next <= last) {
            Some(next) => first = next,
            None => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::prefixes;
    use crate::diag::Source;

    #[test]
    fn a_range_is_cut_into_the_fewest_prefixes() {
        let of = |first, last, width| prefixes(first, last, width, |first| first.to_string());
        assert_eq!(of(0, u128::from(u32::MAX), 32), ["0/0"]);
        assert_eq!(of(0, u128::MAX, 128), ["0/0"]);
        assert_eq!(of(7, 7, 32), ["7"]);
        assert_eq!(of(1, 10, 32), ["1", "2/31", "4/30", "8/31", "10"]);
        assert_eq!(of(u128::MAX - 1, u128::MAX, 128), [format!("{}/127", u128::MAX - 1)]);
    }

    /// The normal form of a text with one rule.
    fn normal(text: &str) -> String {
        let checked = crate::read(&Source::new("test", text)).unwrap();
        super::rule(&checked.ruleset.rules[0])
    }

    #[test]
    fn rules_of_one_meaning_have_one_text() {
        let cases = [
            ("udp dport 53 drop", "udp dport 53 actions drop"),
            (
                "dport 53 ip udp actions funnel encap tcp dport 2 sport 1",
                "udp dport 53 actions funnel tcp sport 1 dport 2",
            ),
            ("daddr 10.1.2.3/255.0.0.0 tcp accept", "ip daddr 10.0.0.0/8 tcp actions accept"),
            ("saddr != 0.0.0.1/32 tcp accept", "ip saddr != 0.0.0.1 tcp actions accept"),
            ("saddr 1.1.1.1/0 tcp sport != 9 accept", "tcp sport != 9 actions accept"),
            ("tcp dport 80 unalias { 9, 8, }", "tcp dport 80 actions unalias { 8, 9 }"),
            ("tcp dport 80 unalias {8}", "tcp dport 80 actions unalias 8"),
        ];
        for (text, expected) in cases {
            assert_eq!(normal(text), expected);
            assert_eq!(normal(expected), expected);
        }
    }
}
