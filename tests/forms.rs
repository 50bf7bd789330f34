//! A rule in its other forms, the normal form and JSON: each has all that the rule means, and is read back to the same.
//!
//! Random rules with every field, action and extra. What is read back is compared as a whole, and put together here as
//! struct literals: a rule that gets another field makes this file fail until both forms have it.

mod support;

use std::net::IpAddr;
use std::sync::Arc;

use pretty_assertions::assert_eq;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;
use sfunnel::codegen::{self, Link};
use sfunnel::diag::{Source, Span};
use sfunnel::field::Field;
use sfunnel::ir::{Action, Family, Funnel, Guard, Nat, Proto, Rule, Ruleset};
use sfunnel::matches::{Matches, Set};
use sfunnel::settings::Settings;
use sfunnel::{diagram, json, rule_text};
use support::actions::from_json;
use support::json::{element, member, number, proto, ranges, text};
use support::{arb, rules};

const RULESETS: usize = 1_000;

/// Random rulesets, legal ones only; every third rule counts.
fn random() -> impl Iterator<Item = (String, Ruleset)> {
    let mut runner = TestRunner::deterministic();
    let cases = arb::case(1..8);
    (0..RULESETS).filter_map(move |_| {
        let text = rules::text(&cases.new_tree(&mut runner).expect("a case").current().rules);
        let mut ruleset = sfunnel::read(&Source::new("test", text.as_str())).ok()?.ruleset;
        for rule in ruleset.rules.iter_mut().step_by(3) {
            rule.counter = true;
        }
        Some((text, ruleset))
    })
}

/// Whether the generator has drawn everything that a rule can have.
fn assert_variety(rules: &[Rule]) {
    let some = |what: &str, has: &dyn Fn(&Rule) -> bool| {
        assert!(rules.iter().filter(|rule| has(rule)).count() > 10, "hardly a rule has {what}");
    };
    some("addresses of both families", &|rule| rule.each().count() == 2 && rule.matches_on(Field::SADDR));
    some("flags", &|rule| matches!(rule.action, Action::Funnel(funnel) if funnel.flags != Funnel::SYN));
    some(
        "a guard",
        &|rule| matches!(&rule.action, Action::Unfunnel { guard, .. } if *guard != Guard::default()),
    );
    some("alias", &|rule| matches!(rule.action, Action::Alias { .. }));
    some("unalias", &|rule| matches!(rule.action, Action::Unalias { .. }));
    some("bypass", &|rule| matches!(rule.action, Action::Bypass { .. }));
    some("unbypass", &|rule| matches!(rule.action, Action::Unbypass { .. }));
    some("bypass direct", &|rule| matches!(rule.action, Action::Direct { .. }));
    some("unbypass direct", &|rule| matches!(rule.action, Action::Undirect { .. }));
    some("snat", &|rule| rule.nat.saddr.is_some());
    some("dnat with a port", &|rule| rule.nat.dport.is_some());
    some("set", &|rule| !rule.settings.is_empty());
    some("counter", &|rule| rule.counter);
}

/// What the rule means, without how and where it was written.
fn meaning(rule: &Rule) -> Rule {
    Rule { text: String::new(), span: Span::default(), ..rule.clone() }
}

#[test]
fn the_normal_form_is_read_back_to_the_same_rule() {
    let rules: Vec<Rule> = random().flat_map(|(_, ruleset)| ruleset.rules).collect();
    assert_variety(&rules);
    for rule in &rules {
        let normal = rule_text::rule(rule);
        let nodes = match &rule.action {
            Action::Bypass { nodes } | Action::Unbypass { nodes, .. } => rule_text::nodes(nodes),
            Action::Direct { hops } => rule_text::hops(hops),
            _ => String::new(),
        };
        let checked = sfunnel::read(&Source::new("normal", nodes + &normal));
        let read = checked.unwrap_or_else(|faults| panic!("{faults:#?}\n{}\n{normal}", rule.text)).ruleset;
        let [read] = read.rules.as_slice() else { panic!("not one rule: {normal}") };
        assert_eq!(meaning(read), meaning(rule), "{}\n{normal}", rule.text);
        assert_eq!(rule_text::rule(read), normal);
    }
}

/// Every field that such packets have must be there, and no other.
fn matches(value: Option<&Value>, family: Family, proto: Proto) -> Option<Matches> {
    let fields = value?.as_object().expect("fields");
    let named: Vec<Field> = Field::all().filter(|field| fields.contains_key(field.keyword())).collect();
    let existing: Vec<Field> = Field::all().filter(|field| field.exists(family, proto)).collect();
    assert_eq!((named.len(), &named), (fields.len(), &existing), "{fields:?}");
    Some(named.into_iter().fold(Matches::default(), |matches, field| {
        let set: Set =
            ranges(&fields[field.keyword()]).map(|[first, last]| element(first)..=element(last)).collect();
        matches.with(field, family, Arc::new(set))
    }))
}

/// One of `snat` and `dnat`, where it is named.
fn nat(value: Option<&Value>, name: &str) -> (Option<IpAddr>, Option<u16>) {
    let Some(new) = value.and_then(|nat| nat.get(name)) else { return (None, None) };
    (Some(text(new, "address").parse().expect("an address")), new.get("port").map(number))
}

#[test]
fn the_json_document_has_all_of_a_rule() {
    let mut seen = Vec::new();
    for (written, ruleset) in random() {
        let source = Source::new("test", written.as_str());
        let diagram = diagram::build(&ruleset);
        let program = codegen::compile(&ruleset, &diagram, codegen::Options::pass_gso(Link::Ethernet));
        let program = program.expect("a program");
        let document = json::document(&source, &ruleset, &diagram, &program, Link::Ethernet);
        let document = serde_json::to_value(&document).expect("JSON");
        let listed = member(&document, "rules").as_array().expect("rules");
        assert_eq!(listed.len(), ruleset.rules.len());
        for (index, (rule, value)) in ruleset.rules.iter().zip(listed).enumerate() {
            // One rule a line, behind the nodes.
            let nodes = written.lines().filter(|line| line.starts_with("node ")).count();
            assert_eq!(number::<usize>(member(value, "line")), nodes + index + 1, "{written}");
            assert_eq!(text(value, "normal"), rule_text::rule(rule));
            let (saddr, sport) = nat(value.get("nat"), "snat");
            let (daddr, dport) = nat(value.get("nat"), "dnat");
            let proto = proto(value);
            let mut settings = Settings::default();
            for field in Field::settable() {
                if let Some(value) = value.get(field.keyword()) {
                    settings.set(field, number(value));
                }
            }
            let read = Rule {
                text: text(value, "text").to_owned(),
                span: rule.span,
                proto,
                matches: [("ip", Family::V4), ("ip6", Family::V6)]
                    .map(|(name, family)| matches(value.get(name), family, proto)),
                action: from_json(member(value, "action")),
                nat: Nat { saddr, daddr, sport, dport },
                settings,
                counter: member(value, "counter").as_bool().expect("a yes or no"),
            };
            assert_eq!(&read, rule, "{written}\n{value:#}");
        }
        seen.extend(ruleset.rules);
    }
    assert_variety(&seen);
}
