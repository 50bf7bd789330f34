//! The decision diagram by itself: what holds of every one, whatever the rules.

mod support;

use std::collections::BTreeSet;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sfunnel::codegen;
use sfunnel::diag::Source;
use sfunnel::diagram::{self, Diagram, Node};
use sfunnel::ir::{Family, Proto, Ruleset};
use support::{arb, rules};

const RULESETS: usize = 2_000;

fn read(text: &str) -> Option<Ruleset> {
    Some(sfunnel::read(&Source::new("test", text)).ok()?.ruleset)
}

fn random() -> impl Iterator<Item = (String, Ruleset)> {
    let mut runner = TestRunner::deterministic();
    let cases = arb::case(1..30);
    (0..RULESETS).filter_map(move |_| {
        let case = cases.new_tree(&mut runner).expect("a case").current();
        let text = rules::text(&case.rules);
        let ruleset = read(&text)?;
        Some((text, ruleset))
    })
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
