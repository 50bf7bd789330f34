//! A rule as text, in the one form that all rules of one meaning share: its normal form.
//!
//! Takes a [`Rule`], gives a line that `check` reads back to the same sets and action. Never looks at
//! how the rule was written.

use std::net::{Ipv4Addr, Ipv6Addr};

use range_set_blaze::{Integer, RangeSetBlaze};

use crate::ir::{Action, Addresses, Family, Funnel, Rule};
use crate::syntax::FLAGS;

/// The rule on one line, without its end.
pub fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    // The word for a version of IP, unless the rule is about both.
    match Family::ALL.map(|family| rule.is_about(family)) {
        [true, false] => words.push(Family::V4.to_string()),
        [false, true] => words.push(Family::V6.to_string()),
        _ => {}
    }
    for (word, set) in [("saddr", &rule.saddr), ("daddr", &rule.daddr)] {
        if *set != set.widened() {
            words.push(format!("{word} {}", addresses(set)));
        }
    }
    words.push(rule.proto.to_string());
    let ports = [("sport", &rule.sport), ("dport", &rule.dport)];
    for (word, set) in ports.into_iter().filter(|(_, set)| !set.is_universal()) {
        words.push(format!("{word} {}", self::ports(set)));
    }
    format!("{} actions {}", words.join(" "), actions(rule))
}

/// What follows the word `actions`.
pub fn actions(rule: &Rule) -> String {
    let mark = rule.mark.map(|mark| format!(" mark set {mark}")).unwrap_or_default();
    let counter = if rule.counter { "counter " } else { "" };
    let action = match (&rule.action, rule.nat.is_none()) {
        (Action::Accept, false) => rule.nat.to_string(),
        (other, false) => format!("{} {}", action(other), rule.nat),
        (other, true) => action(other),
    };
    format!("{counter}{action}{mark}")
}

/// The one that says where the packet goes.
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
            let guards: String = guards.map(|(word, set)| format!(" {word} {}", self::ports(set))).collect();
            format!("unfunnel {inner}{guards}")
        }
        Action::Alias { end, port } => format!("alias {end} {port}"),
        Action::Unalias { ports, .. } => {
            format!("unalias {}", listed(ports.iter().map(|port| port.to_string()).collect()))
        }
    }
}

/// What stands behind `saddr` or `daddr`.
fn addresses(set: &Addresses) -> String {
    match Family::ALL.map(|family| set.has(family)) {
        [_, false] => return addresses4(&set.v4),
        [false, true] => return addresses6(&set.v6),
        [true, true] => {}
    }
    let both = |v4: &RangeSetBlaze<u32>, v6: &RangeSetBlaze<u128>| [prefixes4(v4), prefixes6(v6)].concat();
    let (inside, outside) = (both(&set.v4, &set.v6), both(&!&set.v4, &!&set.v6));
    // From outside, both versions must be named, too.
    let named = !set.v4.is_universal() && !set.v6.is_universal();
    if inside.len() <= outside.len() || !named { listed(inside) } else { format!("!= {}", listed(outside)) }
}

/// What stands there for IPv4 alone.
pub fn addresses4(set: &RangeSetBlaze<u32>) -> String {
    shorter(set, prefixes4)
}

/// The same for IPv6.
pub fn addresses6(set: &RangeSetBlaze<u128>) -> String {
    shorter(set, prefixes6)
}

/// What stands behind `sport` or `dport`.
pub fn ports(set: &RangeSetBlaze<u16>) -> String {
    // Port 0 cannot be written: of a set and its complement, it is in one.
    if set.contains(0) { format!("!= {}", listed(port_ranges(&!set))) } else { listed(port_ranges(set)) }
}

/// `10.0.0.1`, `!= 10.0.0.1`, `{ 10.0.0.1, 10.0.0.8/29 }`: whichever of a set and its complement is shorter.
fn shorter<T: Integer>(set: &RangeSetBlaze<T>, items: fn(&RangeSetBlaze<T>) -> Vec<String>) -> String {
    let (inside, outside) = (items(set), items(&!set));
    if inside.len() <= outside.len() { listed(inside) } else { format!("!= {}", listed(outside)) }
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
                "dport 53 udp actions funnel encap tcp dport 2 sport 1",
                "udp dport 53 actions funnel tcp sport 1 dport 2",
            ),
            ("dport 53 ip udp drop", "ip udp dport 53 actions drop"),
            ("daddr 10.1.2.3/255.0.0.0 tcp accept", "ip daddr 10.0.0.0/8 tcp actions accept"),
            ("saddr != 0.0.0.1/32 tcp accept", "ip saddr != 0.0.0.1 tcp actions accept"),
            ("saddr 2001:db8:0::/32 tcp accept", "ip6 saddr 2001:db8::/32 tcp actions accept"),
            ("saddr { ::1, 10.0.0.1 } tcp accept", "saddr { 10.0.0.1, ::1 } tcp actions accept"),
            ("saddr != { ::1, 10.0.0.1 } tcp accept", "saddr != { 10.0.0.1, ::1 } tcp actions accept"),
            ("saddr 1.1.1.1/0 tcp sport != 9 accept", "ip tcp sport != 9 actions accept"),
            (
                "tcp dport 1-65535 sport != { 1, 2, 7 } accept",
                "tcp sport != { 1-2, 7 } dport 1-65535 actions accept",
            ),
            ("tcp dport { 3, 1-2, 9 } accept", "tcp dport { 1-3, 9 } actions accept"),
            ("tcp dport 80 unalias { 9, 8, }", "tcp dport 80 actions unalias { 8, 9 }"),
            ("tcp dport 80 unalias {8}", "tcp dport 80 actions unalias 8"),
            ("saddr 1.1.1.1 tcp dnat 2.2.2.2:80 accept", "ip saddr 1.1.1.1 tcp actions dnat 2.2.2.2:80"),
            ("tcp dnat [::1]:80 unfunnel udp", "ip6 tcp actions unfunnel udp dnat [::1]:80"),
        ];
        for (text, expected) in cases {
            assert_eq!(normal(text), expected);
            assert_eq!(normal(expected), expected);
        }
    }
}
