//! The decision diagram by itself: what holds of every one, whatever the rules.

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sfunnel::codegen;
use sfunnel::diag::Source;
use sfunnel::diagram::{self, Diagram, Node};
use sfunnel::field::Field;
use sfunnel::ir::{self, Family, Proto, Ruleset};
use support::rules::{self as model, Ports};
use support::{arb, rules};

const RULESETS: usize = 2_000;

fn read(text: &str) -> Option<Ruleset> {
    Some(sfunnel::read(&Source::new("test", text)).ok()?.ruleset)
}

fn random() -> impl Iterator<Item = (String, Ruleset)> {
    drawn().filter_map(|rules| {
        let text = rules::text(&rules);
        let ruleset = read(&text)?;
        Some((text, ruleset))
    })
}

/// Random rules as the tests know them.
fn drawn() -> impl Iterator<Item = Vec<model::Rule>> {
    let mut runner = TestRunner::deterministic();
    let cases = arb::case(1..30);
    (0..RULESETS).map(move |_| cases.new_tree(&mut runner).expect("a case").current().rules)
}

/// Every arm of a test can be taken, which is what the verifier asks for, and the emitter waits for no node in vain.
fn is_tight(diagram: &Diagram) -> Result<(), String> {
    let kinds = Family::ALL.into_iter().flat_map(|family| Proto::ALL.map(|proto| (family, proto)));
    let mut stack: Vec<_> = kinds.filter_map(|(family, proto)| diagram.root(family, proto)).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = stack.pop() {
        let Node::Test { arms, .. } = diagram.node(id) else {
            reached.insert(id);
            continue;
        };
        if !reached.insert(id) {
            continue;
        }
        let differ = arms.windows(2).all(|pair| pair[0].then != pair[1].then && pair[0].last < pair[1].last);
        if arms.len() < 2 || !differ {
            return Err(format!("{id} tests what makes no difference: {arms:?}"));
        }
        if arms.iter().any(|arm| arm.then >= id) {
            return Err(format!("{id} leads to a node behind it"));
        }
        stack.extend(arms.iter().map(|arm| arm.then));
    }
    match diagram.nodes().find(|(id, _)| !reached.contains(id)) {
        Some((id, node)) => Err(format!("nothing leads to {id}: {node:?}")),
        None => Ok(()),
    }
}

#[test]
fn every_node_is_reached_and_every_test_makes_a_difference() {
    let mut count = 0;
    for (text, ruleset) in random() {
        is_tight(&diagram::build(&ruleset)).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
        count += 1;
    }
    assert!(count > RULESETS / 2, "only {count} of the random rulesets were legal");
}

/// One rule with sets on four fields, and several of them, cost the sum of their sets.
#[test]
fn sets_on_several_fields_cost_their_sum() {
    let set = |values: Vec<String>| values.join(", ");
    let rule = |number: u32, count: u32| {
        let addresses = |net: u32| {
            let of = |i: u32| std::net::Ipv4Addr::from_bits(net + 5 * (number * count + i)).to_string();
            set((0..count).map(of).collect())
        };
        let ports =
            |base: u32| set((0..count).map(|i| (base + 3 * (number * count + i)).to_string()).collect());
        format!(
            "saddr {{ {} }} daddr {{ {} }} tcp sport {{ {} }} dport {{ {} }} drop\n",
            addresses(0x0a00_0000),
            addresses(0xc0a8_0000),
            ports(1_000),
            ports(20_000)
        )
    };
    for (rules, count) in [(1, 100), (3, 60), (1, 300), (1, 1_000), (10, 30)] {
        let text: String = (0..rules).map(|number| rule(number, count)).collect();
        let ruleset = read(&text).expect("rules");
        let diagram = diagram::build(&ruleset);
        let values = usize::try_from(4 * rules * count).expect("a small number");
        let program =
            codegen::compile(&ruleset, &diagram, codegen::Options::pass_gso(codegen::Link::Ethernet))
                .expect("a program");
        assert!(program.slots() <= 4 * values + 200, "{rules} x 4 x {count}: {} slots", program.slots());
        assert!(diagram.size() <= 8 * usize::try_from(rules).expect("small") + 8, "{} nodes", diagram.size());
    }
    let six = |base: &str| set((0..50).map(|i| format!("2001:db8:{base}::{:x}", 9 * i)).collect());
    let ports = set((0..50).map(|i| (7 * i + 1).to_string()).collect());
    let text = format!(
        "saddr {{ {} }} daddr {{ {} }} udp sport {{ {ports} }} dport {{ {ports} }} drop",
        six("a"),
        six("b")
    );
    assert!(diagram::build(&read(&text).expect("rules")).size() < 10);
}

/// Rules that are wide in all fields share nothing: they are cut into parts, and no input takes long.
#[test]
fn what_shares_nothing_is_cut_into_parts_within_bounds() {
    let text: String = (0..2_000_u32)
        .map(|i| {
            let (a, b, c) = (i * 7_919 % 30_000 + 1, i * 104_729 % 30_000 + 1, i % 120);
            format!(
                "saddr {c}.0.0.0-{}.255.255.255 tcp sport {a}-{} dport {b}-{} drop\n",
                c + 100,
                a + 20_000,
                b + 20_000
            )
        })
        .collect();
    let ruleset = read(&text).expect("rules");
    let diagram = diagram::build(&ruleset);
    assert!(diagram.parts(Family::V4, Proto::Tcp).len() > 1);
    assert!(diagram.size() < 60 * ruleset.rules.len(), "{} nodes", diagram.size());
    is_tight(&diagram).expect("a tight diagram");
}

/// On small rulesets, every packet at a rule's boundary, and beside it, against a plain scan of both.
#[test]
fn diff_is_exact() {
    use sfunnel::diff::diff;
    use sfunnel::field::Field;
    use sfunnel::ir::{Action, Rule};
    use sfunnel::matches::Key;

    let ends = |rulesets: [&Ruleset; 2], field: Field, family: Family| -> BTreeSet<u128> {
        let rules = rulesets.into_iter().flat_map(|ruleset| &ruleset.rules);
        let sets = rules.filter_map(|rule| rule.of(family)?.get(field));
        let ends = sets.flat_map(|set| set.ranges()).flat_map(|range| [*range.start(), *range.end()]);
        let near = ends
            .flat_map(|end| [end.saturating_sub(1), end, end.saturating_add(1)])
            .map(|value| value.clamp(field.smallest(family), field.largest(family)));
        near.chain([field.smallest(family)]).collect()
    };
    let fate = |ruleset: &Ruleset, key: &Key| {
        let rule: Option<&Rule> = ruleset.rules.iter().find(|rule| rule.matches(key));
        let plain = |rule: &&Rule| {
            rule.action != Action::Accept || !rule.nat.is_none() || !rule.settings.is_empty() || rule.counter
        };
        rule.filter(plain).map(|rule| (rule.action.clone(), rule.nat, rule.settings, rule.counter))
    };
    let small: Vec<Ruleset> = random().map(|(_, ruleset)| ruleset).filter(|r| r.rules.len() <= 4).collect();
    assert!(small.len() > 50, "{}", small.len());
    let mut differing = 0;
    for pair in small.windows(2).take(120) {
        let [old, new] = pair else { continue };
        let found = diff(old, new).expect("a bounded answer");
        differing += usize::from(!found.is_empty());
        for (family, proto) in Family::ALL.into_iter().flat_map(|f| Proto::ALL.map(|p| (f, p))) {
            let values: Vec<Vec<u128>> =
                Field::all().map(|field| ends([old, new], field, family).into_iter().collect()).collect();
            let count: usize = values.iter().map(Vec::len).product();
            // All combinations, or every so manieth of them.
            for number in (0..count).step_by(1 + count / 3_000) {
                let mut rest = number;
                let mut key = Key::new(family, proto);
                for (field, values) in Field::all().zip(&values) {
                    key = key.with(field, values[rest % values.len()]);
                    rest /= values.len();
                }
                let said: Vec<_> = found
                    .iter()
                    .filter(|d| d.proto == proto)
                    .filter(|d| {
                        d.packets[family.index()].as_ref().is_some_and(|packets| packets.contains(&key))
                    })
                    .collect();
                let differs = fate(old, &key) != fate(new, &key);
                assert_eq!(said.len(), usize::from(differs), "{key:?}\n{old:?}\n{new:?}");
                if let [said] = said.as_slice() {
                    let first = |ruleset: &Ruleset| ruleset.rules.iter().position(|rule| rule.matches(&key));
                    assert_eq!((said.old, said.new), (first(old), first(new)), "{key:?}");
                }
            }
        }
    }
    assert!(differing > 20, "{differing} pairs differed");
    for ruleset in &small {
        assert_eq!(diff(ruleset, ruleset).expect("a bounded answer"), []);
    }
}

/// A rule that is warned of as never reached never decides, and one that decides nothing is warned of.
#[test]
fn rules_that_are_never_reached_are_those_that_no_leaf_is() {
    let (mut warned, mut by_several) = (0, 0);
    for (text, ruleset) in random() {
        let checked = sfunnel::read(&Source::new("test", text.as_str())).expect("rules");
        let never: Vec<_> =
            checked.warnings.iter().filter(|w| w.message == "the rule is never reached").collect();
        let diagram = diagram::build(&ruleset);
        let leaves: BTreeSet<usize> = diagram
            .nodes()
            .filter_map(|(_, node)| if let Node::Rule(rule) = node { Some(*rule) } else { None })
            .collect();
        for (index, rule) in ruleset.rules.iter().enumerate() {
            let is_warned = never.iter().any(|w| w.primary.span == rule.span);
            if is_warned {
                warned += 1;
                let alone = Ruleset { rules: ruleset.rules[..=index].to_vec() };
                let without = Ruleset { rules: ruleset.rules[..index].to_vec() };
                let mut marked = alone.clone();
                let mark = Field::named("mark").expect("a field");
                marked.rules[index].settings.set(mark, 0xdead);
                assert_eq!(
                    sfunnel::diff::diff(&marked, &without).expect("a bounded answer"),
                    [],
                    "{index}\n{text}"
                );
            } else {
                assert!(leaves.contains(&index), "rule {index} decides nothing, and nobody says so\n{text}");
            }
        }
        by_several += never.iter().filter(|w| w.secondary.len() > 1).count();
    }
    assert!(warned > 100 && by_several > 0, "{warned} warnings, {by_several} of them about several rules");
}

/// Packets at the boundaries of these rules that the last of them matches, at most 1,000 of each version of IP.
fn at_boundaries(rules: &[model::Rule]) -> Vec<model::Key> {
    let Some(rule) = rules.last() else { return Vec::new() };
    let proto = rule.proto;
    let mut keys = Vec::new();
    for like in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        let near = |ends: BTreeSet<u128>| -> BTreeSet<IpAddr> {
            let near = ends.into_iter().flat_map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)]);
            near.chain([7]).map(|number| model::address(like, number)).collect()
        };
        let addresses = |of: fn(&model::Rule) -> Option<&model::Match<model::Addr>>| {
            let values = rules.iter().filter_map(of).flat_map(|m| &m.values);
            let values = values.filter(|value| value.is_ipv6() == like.is_ipv6());
            near(values.flat_map(|value| [value.first(), value.last()]).map(model::bits).collect())
        };
        let ports = |of: fn(&model::Rule) -> Option<&model::Match<model::Ports>>| -> BTreeSet<u16> {
            let values = rules.iter().filter_map(of).flat_map(|m| &m.values);
            let near = values
                .flat_map(|Ports(first, last)| [first.wrapping_sub(1), *first, *last, last.wrapping_add(1)]);
            near.chain([7]).filter(|port| of(rule).is_none_or(|m| m.matches(*port))).collect()
        };
        let (saddrs, daddrs) = (addresses(|rule| rule.saddr.as_ref()), addresses(|rule| rule.daddr.as_ref()));
        let (sports, dports) = (ports(|rule| rule.sport.as_ref()), ports(|rule| rule.dport.as_ref()));
        let with = |other: &model::Rule| {
            let mut values = support::fields::Values::default();
            for other in other.others.iter().chain(&rule.others) {
                values[other.field] = other.some().unwrap_or_default();
            }
            values
        };
        let others: BTreeSet<support::fields::Values> = rules.iter().map(with).collect();
        let mut all = Vec::new();
        for (saddr, daddr) in saddrs.iter().flat_map(|saddr| daddrs.iter().map(move |daddr| (*saddr, *daddr)))
        {
            let key = |(sport, dport)| {
                let others = others.iter();
                let key = move |others: &_| model::Key { proto, saddr, daddr, sport, dport, others: *others };
                others.map(key).collect::<Vec<_>>()
            };
            let pairs = sports.iter().flat_map(|sport| dports.iter().map(move |dport| (*sport, *dport)));
            // All but the addresses match already: if one key does, all do.
            all.extend(pairs.flat_map(key).take_while(|key| rule.matches(key)));
        }
        let step = 1 + all.len() / 1_000;
        keys.extend(all.into_iter().step_by(step));
    }
    keys
}

/// In the tests' model, which shares nothing with the diagram, earlier rules take all packets of such a rule.
#[test]
fn a_rule_that_is_never_reached_never_decides_in_the_model() {
    let (mut reported, mut tried) = (0, 0);
    for rules in drawn() {
        let text = rules::text(&rules);
        let Ok(checked) = sfunnel::read(&Source::new("test", text.as_str())) else { continue };
        let is_reported = |rule: &ir::Rule| {
            let mut warnings = checked.warnings.iter().filter(|w| w.message == "the rule is never reached");
            warnings.any(|warning| warning.primary.span == rule.span)
        };
        for index in (0..rules.len()).filter(|index| is_reported(&checked.ruleset.rules[*index])) {
            let keys = at_boundaries(&rules[..=index]);
            assert!(!keys.is_empty(), "no packet that rule {index} matches was tried\n{text}");
            for key in &keys {
                let first = rules.iter().position(|rule| rule.matches(key));
                assert!(first < Some(index), "rule {index} decides {key:?}\n{text}");
            }
            reported += 1;
            tried += keys.len();
        }
    }
    assert!(reported > 100 && tried > 100 * reported, "{reported} rules, {tried} packets");
}
