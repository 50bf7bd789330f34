//! A rule as text, in the one form that all rules of one meaning share: its normal form.
//!
//! Takes a [`Rule`], gives a line that `check` reads back to the same sets and action. Never looks at
//! how the rule was written.

use std::net::Ipv4Addr;

use crate::field::{Field, Notation, flag_names};
use crate::ir::{Action, Family, Funnel, Guard, Rule};
use crate::matches::{self, Ports, Set, universe};
use crate::nodes::{Node, Nodes};
use crate::protocol::TCP_FLAGS;

/// The rule on one line, without its end.
pub fn rule(rule: &Rule) -> String {
    format!("{} actions {}", matches(rule), actions(rule))
}

/// What comes before the word `actions`.
pub fn matches(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    // The word for a version of IP, unless the rule is about both.
    match Family::ALL.map(|family| rule.is_about(family)) {
        [true, false] => words.push(Family::V4.to_string()),
        [false, true] => words.push(Family::V6.to_string()),
        _ => {}
    }
    let (of_ip, of_proto): (Vec<Field>, Vec<Field>) = Field::all().partition(|field| !field.is_l4());
    words.extend(of_ip.into_iter().filter_map(|field| matched(rule, field)));
    words.push(rule.proto.to_string());
    words.extend(of_proto.into_iter().filter_map(|field| matched(rule, field)));
    words.join(" ")
}

/// What follows the word `actions`.
pub fn actions(rule: &Rule) -> String {
    // Named one by one, so that none is forgotten.
    let Rule { text: _, span: _, proto: _, matches: _, action, nat, mark, counter } = rule;
    let mark = mark.map(|mark| format!(" mark set {mark}")).unwrap_or_default();
    let counter = if *counter { "counter " } else { "" };
    let action = match (action, nat.is_none()) {
        (Action::Accept, false) => nat.to_string(),
        (other, false) => format!("{} {nat}", self::action(other)),
        (other, true) => self::action(other),
    };
    format!("{counter}{action}{mark}")
}

/// The one that says where the packet goes.
pub fn action(action: &Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Funnel(Funnel { outer, sport, dport, flags }) => {
            let flags = match *flags {
                Funnel::SYN => String::new(),
                flags => format!(" flags {}", flag_names(flags.into(), "|")),
            };
            format!("funnel {outer} sport {sport} dport {dport}{flags}")
        }
        Action::Unfunnel { inner, guard: Guard { sport, dport } } => {
            let guards = [("sport", sport), ("dport", dport)];
            let guards = guards.into_iter().filter(|(_, set)| !set.is_universal());
            let guards: String = guards.map(|(word, set)| format!(" {word} {}", self::ports(set))).collect();
            format!("unfunnel {inner}{guards}")
        }
        Action::Alias { end, port } => format!("alias {end} {port}"),
        Action::Unalias { ports, .. } => {
            format!("unalias {}", listed(ports.iter().map(|port| port.to_string()).collect()))
        }
        Action::Bypass { .. } => "bypass".to_owned(),
        Action::Unbypass { probe: None, .. } => "unbypass".to_owned(),
        Action::Unbypass { probe: Some(port), .. } => format!("unbypass probe {port}"),
    }
}

/// The pods of a node, as prefixes.
fn pods(node: &Node) -> Vec<String> {
    prefixes(Family::V4, &Set::from_iter([node.first.to_bits().into()..=node.last.to_bits().into()]))
}

/// A node, as one writes it.
pub fn node(node: &Node) -> String {
    format!("node {} {}", node.host, listed(pods(node)))
}

/// Nodes, as lines of a ruleset.
pub fn nodes(nodes: &Nodes) -> String {
    let lines = nodes.iter().flat_map(|node| pods(node).into_iter().map(|pods| (node.host, pods)));
    lines.map(|(host, pods)| format!("node {host} {pods}\n")).collect()
}

/// The rules of a node, with this host, for what comes from the others past the overlay.
///
/// What is for another host and comes by all the same (a switch sends frames everywhere whose place it does not know) is not
/// this one's to restore, nor to answer.
pub fn receiving(nodes: &Nodes, own: Ipv4Addr, port: u16) -> String {
    let others = nodes.hosts().into_keys().filter(|host| *host != own);
    let hosts = listed(others.map(|host| host.to_string()).collect());
    format!("{}ip saddr {hosts} daddr {own} tcp actions unbypass probe {port}\n", self::nodes(nodes))
}

/// The match on a field, if there is one.
fn matched(rule: &Rule, field: Field) -> Option<String> {
    if !rule.matches_on(field) {
        return None;
    }
    let sets = rule.each().map(|(family, matches)| (family, matches.get(field)));
    let sets: Vec<_> =
        sets.map(|(family, set)| (family, set.cloned().unwrap_or_else(|| universe(field, family)))).collect();
    Some(format!("{field} {}", values(field, &sets)))
}

/// What is written after the field's keyword: `10.0.0.1`, `!= 10.0.0.1`, `{ 10.0.0.1, 10.0.0.8/29 }`; whichever of the
/// set and its complement is shorter, if both can be written.
pub fn values(field: Field, sets: &[(Family, Set)]) -> String {
    if let Notation::Flags = field.row().notation {
        return flags(&union(sets));
    }
    let outside: Vec<_> =
        sets.iter().map(|(family, set)| (*family, universe(field, *family) - set)).collect();
    let all = |sets: &[(Family, Set)]| match field.row().notation {
        Notation::Address => sets.iter().flat_map(|(family, set)| prefixes(*family, set)).collect::<Vec<_>>(),
        // The same numbers in both families, but for those that packets of one of them cannot have.
        Notation::Number(_) | Notation::Flags => ranges(field, &union(sets)),
    };
    let (inside, others) = (all(sets), all(&outside));
    let can_be_written = |sets: &[(Family, Set)]| match &field.row().notation {
        // From outside, every family must be named, too.
        Notation::Address => sets.iter().all(|(_, set)| !set.is_empty()),
        Notation::Number(number) => sets.iter().all(|(_, set)| set.first() >= Some(number.min.into())),
        Notation::Flags => true,
    };
    let negated = match (can_be_written(sets), can_be_written(&outside)) {
        (true, false) => false,
        (false, _) => true,
        (true, true) => matches!(field.row().notation, Notation::Address) && others.len() < inside.len(),
    };
    if negated { format!("!= {}", listed(others)) } else { listed(inside) }
}

/// A set of values as its elements, whether they can be written in a rule or not.
pub fn elements(field: Field, family: Family, set: &Set) -> String {
    match field.row().notation {
        Notation::Address => listed(prefixes(family, set)),
        Notation::Number(_) => listed(ranges(field, set)),
        Notation::Flags => match (masked(set), masked(&(universe(Field::FLAGS, family) - set))) {
            (None, None) => cubes(set).iter().map(flags).collect::<Vec<_>>().join(" or "),
            _ => flags(set),
        },
    }
}

fn union(sets: &[(Family, Set)]) -> Set {
    sets.iter().fold(Set::new(), |all, (_, set)| all | set)
}

/// Values of TCP's flags, in the shortest of the forms that rules have for them.
fn flags(set: &Set) -> String {
    let all = |bits: u128| flag_names(bits, ",");
    let outside = universe(Field::FLAGS, Family::V4) - set;
    let exactly = |set: &Set| {
        let each: Vec<String> = set.iter().map(|value| flag_names(value, "|")).collect();
        format!("{{ {} }}", each.join(", "))
    };
    match (masked(set), masked(&outside)) {
        (_, Some((0, mask))) => all(mask),
        (Some((value, mask)), _) => format!("{} / {}", all(value), all(mask)),
        (None, Some((value, mask))) => format!("!= {} / {}", all(value), all(mask)),
        (None, None) if outside.iter().count() < set.iter().count() => format!("!= {}", exactly(&outside)),
        (None, None) => exactly(set),
    }
}

/// The set in parts of which [`masked`] tells the values, halved by one flag after the other.
fn cubes(set: &Set) -> Vec<Set> {
    if set.is_empty() {
        return Vec::new();
    }
    if masked(set).is_some() {
        return vec![set.clone()];
    }
    let parts = TCP_FLAGS.iter().filter_map(|(_, bit)| {
        let (with, without): (Set, Set) = set.iter().partition(|value| value & u128::from(*bit) != 0);
        let halved = !with.is_empty() && !without.is_empty();
        halved.then_some([with, without])
    });
    // The flag that leaves the most that needs no further halving.
    let whole = |parts: &[Set; 2]| {
        parts.iter().filter(|part| masked(part).is_some()).map(|part| part.iter().count()).sum::<usize>()
    };
    let parts = parts.max_by_key(whole);
    parts.iter().flatten().flat_map(cubes).collect()
}

/// Which bits all values have in common, if that says which values these are: those bits, and which of them are looked
/// at.
fn masked(set: &Set) -> Option<(u128, u128)> {
    let any = Field::FLAGS.largest(Family::V4);
    let (ones, zeros) = set.iter().fold((any, any), |(ones, zeros), value| (ones & value, zeros & !value));
    let mask = ones | zeros;
    (set.iter().count() == 1 << (any & !mask).count_ones()).then_some((ones, mask))
}

/// Ports as one writes them.
pub fn ports(ports: &Ports) -> String {
    values(Field::DPORT, &[(Family::V4, matches::widened(ports).as_ref().clone())])
}

fn listed(items: Vec<String>) -> String {
    match items.as_slice() {
        [one] => one.clone(),
        many => format!("{{ {} }}", many.join(", ")),
    }
}

fn ranges(field: Field, set: &Set) -> Vec<String> {
    let show = |value: u128| field.show(Family::V4, value);
    set.ranges()
        .map(|range| match (*range.start(), *range.end()) {
            (first, last) if first == last => show(first),
            (first, last) => format!("{}-{}", show(first), show(last)),
        })
        .collect()
}

fn prefixes(family: Family, set: &Set) -> Vec<String> {
    let width = Field::SADDR.largest(family).count_ones();
    let show = |first: u128| Field::SADDR.show(family, first);
    set.ranges().flat_map(|range| cut_into_prefixes(*range.start(), *range.end(), width, show)).collect()
}

/// The fewest prefixes that make up the range, of addresses with this many bits.
fn cut_into_prefixes(mut first: u128, last: u128, width: u32, show: impl Fn(u128) -> String) -> Vec<String> {
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
    use super::cut_into_prefixes;
    use crate::diag::Source;

    #[test]
    fn a_range_is_cut_into_the_fewest_prefixes() {
        let of = |first, last, width| cut_into_prefixes(first, last, width, |first| first.to_string());
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
            ("tcp dscp { ef, 0x0a, 11-12 } drop", "dscp { 10-12, 46 } tcp actions drop"),
            ("tcp dscp af11-af12 drop", "dscp 10-12 tcp actions drop"),
            ("tcp ttl != 255 drop", "ip ttl 0-254 tcp actions drop"),
            ("tcp hoplimit 0-9 drop", "ip6 hoplimit 0-9 tcp actions drop"),
            ("tcp length 0-60 drop", "length 0-60 tcp actions drop"),
            ("tcp length 0-39 drop", "ip length 0-39 tcp actions drop"),
            ("ip6 tcp length 0-99 drop", "ip6 length 40-99 tcp actions drop"),
            ("tcp length 65536-65575 drop", "ip6 length 65536-65575 tcp actions drop"),
            ("tcp mark 0x10 mark set 1", "mark 16 tcp actions accept mark set 1"),
            ("tcp flags syn drop", "tcp flags syn actions drop"),
            ("tcp flags ack,0x02 drop", "tcp flags syn,ack actions drop"),
            ("tcp flags syn / syn,ack drop", "tcp flags syn / syn,ack actions drop"),
            ("tcp flags 0x2/syn|ack drop", "tcp flags syn / syn,ack actions drop"),
            ("tcp flags 0 / syn,ack drop", "tcp flags 0 / syn,ack actions drop"),
            ("tcp flags syn / syn drop", "tcp flags syn actions drop"),
            ("tcp flags != syn,ack / syn,ack drop", "tcp flags != syn,ack / syn,ack actions drop"),
            (
                "tcp flags { syn | ack, syn, } drop",
                "tcp flags syn / fin,syn,rst,psh,urg,ecn,cwr actions drop",
            ),
            ("tcp flags { syn | ack, syn, 0 } drop", "tcp flags { 0, syn, syn|ack } actions drop"),
            (
                "tcp flags { syn|ack|psh } drop",
                "tcp flags syn,psh,ack / fin,syn,rst,psh,ack,urg,ecn,cwr actions drop",
            ),
            ("tcp flags != { syn, psh|ack, 0 } drop", "tcp flags != { 0, syn, psh|ack } actions drop"),
            ("tcp dnat [::1]:80 unfunnel udp", "ip6 tcp actions unfunnel udp dnat [::1]:80"),
        ];
        for (text, expected) in cases {
            assert_eq!(normal(text), expected);
            assert_eq!(normal(expected), expected);
        }
    }
}
