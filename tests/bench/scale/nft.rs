//! The same rules for nftables: one of its rules for each of ours, or all of them in one map of concatenated fields.
//!
//! Actions become verdicts: `drop`, and `accept` for all others.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use sfunnel::field::Field;
use sfunnel::ir::{Action, Family, Proto, Rule, Ruleset};
use sfunnel::matches::{Matches, Set};

/// How the rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Rules,
    Map,
}

/// A chain on what the device sends. All on lines of their own: nft is slow with one that is long.
pub fn script(ruleset: &Ruleset, way: Way, device: &str) -> Result<String> {
    let (map, rules) = match way {
        Way::Rules => (String::new(), rules(ruleset)),
        Way::Map => map(ruleset)?,
    };
    Ok(format!(
        "table netdev scale {{\n{map}chain out {{\ntype filter hook egress device {device} priority 0;\n{rules}}}\n}}\n"
    ))
}

fn verdict(rule: &Rule) -> &'static str {
    if rule.action == Action::Drop { "drop" } else { "accept" }
}

fn proto(rule: &Rule) -> &'static str {
    if rule.proto == Proto::Tcp { "tcp" } else { "udp" }
}

fn rules(ruleset: &Ruleset) -> String {
    let mut text = String::new();
    for rule in &ruleset.rules {
        for (family, matches) in rule.each() {
            let version = if family == Family::V4 { "ip" } else { "ip6" };
            if matches.sets().all(|(field, _)| field.is_l4()) {
                let _ = write!(text, "meta protocol {version} ");
            }
            let _ = write!(text, "meta l4proto {} ", proto(rule));
            for (field, set) in matches.sets() {
                let header = if field.is_l4() { proto(rule) } else { version };
                let values: Vec<String> = set.ranges().map(|range| shown(field, family, &range)).collect();
                let _ = match values.as_slice() {
                    [one] => write!(text, "{header} {field} {one} "),
                    _ => write!(text, "{header} {field} {{ {} }} ", values.join(", ")),
                };
            }
            let _ = writeln!(text, "{}", verdict(rule));
        }
    }
    text
}

fn shown(field: Field, family: Family, range: &std::ops::RangeInclusive<u128>) -> String {
    let (first, last) = (*range.start(), *range.end());
    let size = last - first;
    if size == 0 {
        return field.show(family, first);
    }
    // nft takes a range of addresses, and is faster with what is a prefix.
    if !field.is_l4() && size & (size + 1) == 0 && first & size == 0 {
        let bits = field.largest(family).count_ones() - size.count_ones();
        return format!("{}/{bits}", field.show(family, first));
    }
    format!("{}-{}", field.show(family, first), field.show(family, last))
}

/// All rules as elements of one map. Which fields it has follows from the rules.
fn map(ruleset: &Ruleset) -> Result<(String, String)> {
    let families: Vec<Family> = Family::ALL
        .into_iter()
        .filter(|family| ruleset.rules.iter().any(|rule| rule.of(*family).is_some()))
        .collect();
    let [family] = families.as_slice() else { bail!("a map is about one version of IP") };
    let each: Vec<(&Rule, &Matches)> =
        ruleset.rules.iter().filter_map(|rule| Some((rule, rule.of(*family)?))).collect();
    let fields: Vec<Field> =
        Field::all().filter(|field| each.iter().any(|(_, matches)| matches.get(*field).is_some())).collect();
    ensure!(
        each.iter().all(|(_, matches)| matches.sets().all(|(_, set)| set.ranges_len() == 1)),
        "an element has one range in each field: several would multiply"
    );
    let one = |set: Option<&Set>| set.and_then(|set| set.ranges().next());
    let exact = each.iter().all(|(_, matches)| {
        fields.iter().all(|field| one(matches.get(*field)).is_some_and(|range| range.start() == range.end()))
    });
    let (version, address) = if *family == Family::V4 { ("ip", "ipv4_addr") } else { ("ip6", "ipv6_addr") };
    let mut types = vec!["inet_proto"];
    let mut keys = vec!["meta l4proto".to_owned()];
    for field in &fields {
        types.push(if field.is_l4() { "inet_service" } else { address });
        keys.push(format!("{} {field}", if field.is_l4() { "th" } else { version }));
    }
    let flags = if exact { "" } else { "flags interval;\n" };
    let mut text = format!("map rules {{\ntype {} : verdict;\n{flags}elements = {{\n", types.join(" . "));
    for (rule, matches) in &each {
        let mut values = vec![proto(rule).to_owned()];
        values.extend(fields.iter().map(|field| {
            let range = one(matches.get(*field)).unwrap_or(0..=field.largest(*family));
            shown(*field, *family, &range)
        }));
        let _ = writeln!(text, "{} : {},", values.join(" . "), verdict(rule));
    }
    text += "}\n}\n";
    Ok((text, format!("{} vmap @rules\n", keys.join(" . "))))
}
