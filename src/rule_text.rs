//! A rule as text, in the one form that all rules of one meaning share: its normal form.
//!
//! Takes a [`Rule`], gives a line that `check` reads back to the same sets and action. Never looks at
//! how the rule was written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::Field;
use crate::hops::{Hop, Hops};
use crate::ir::{Action, Family, Rule};
use crate::matches::{Set, universe};
use crate::nodes::{Node, Nodes};
use crate::value_text::{listed, prefixes, values};

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
    let Rule { text: _, span: _, proto: _, matches: _, action, nat, settings, counter } = rule;
    // What stands beside `accept` may do without the word.
    let word = (*action != Action::Accept || nat.is_none()).then(|| action.to_string());
    let words = [
        counter.then(|| "counter".to_owned()),
        word,
        (!nat.is_none()).then(|| nat.to_string()),
        (!settings.is_empty()).then(|| settings.to_string()),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
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

/// The same of what `bypass direct` is between.
pub fn hops(hops: &Hops) -> String {
    let lines = hops.iter().flat_map(|hop| pods_behind(hop).into_iter().map(|pods| (hop.host, pods)));
    lines.map(|(host, pods)| format!("node {host} {pods}\n")).collect()
}

fn pods_behind(hop: &Hop) -> Vec<String> {
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    };
    prefixes(hop.family(), &Set::from_iter([bits(hop.first)..=bits(hop.last)]))
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

/// The same for what comes past the overlay as it is.
pub fn receiving_direct(hops: &Hops, own: &[IpAddr], port: u16) -> String {
    let mut text = String::new();
    for family in Family::ALL {
        let (to, from): (Vec<&Hop>, Vec<&Hop>) = hops.of(family).partition(|hop| own.contains(&hop.host));
        if to.is_empty() || from.is_empty() {
            continue;
        }
        let set = |hops: &[&Hop]| listed(hops.iter().flat_map(|hop| pods_behind(hop)).collect());
        let between = format!("saddr {} daddr {}", set(&from), set(&to));
        text += &format!("{between} tcp actions unbypass direct probe {port}\n");
        text += &format!("{between} udp actions unbypass direct\n");
    }
    text
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

#[cfg(test)]
mod tests {
    use crate::diag::Source;

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
