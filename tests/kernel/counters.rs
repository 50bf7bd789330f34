//! Programs that count: the numbers against a model of their own, and what the verifier says.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sfunnel::codegen::Link;

use super::support::counts::Counted;
use super::support::testrun::{Loader, SkBuff};
use super::support::{Need, arb, engine, require, rules};

/// Two of three rules count. Returns all that was counted.
pub fn agree_on_random(cases: u32) -> BTreeSet<Counted> {
    let loader = RefCell::new(Loader::default());
    let seen = RefCell::new(BTreeSet::new());
    let rulesets = prop_oneof![3 => arb::case(1..9usize), 1 => arb::case(9..33usize)];
    let config = Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&rulesets, |case| {
        let agreed = engine::agree_on_counts(&mut loader.borrow_mut(), &case, |rule| rule % 3 != 2);
        seen.borrow_mut().extend(agreed.map_err(|error| TestCaseError::fail(format!("{error:#}")))?);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    seen.into_inner()
}

#[test]
fn model_and_kernel_agree_on_what_is_counted() {
    if !require(&[Need::Root]) {
        return;
    }
    let seen = agree_on_random(300);
    for reason in [
        "fragment",
        "gso",
        "malformed",
        "not-funneled",
        "not-aliasable",
        "not-listed",
        "guarded",
        "no-peer",
        "not-bypassed",
    ] {
        let known = |counted: &Counted| matches!(counted, Counted::Reason(_, known) if *known == reason);
        assert!(seen.iter().any(known), "no packet was left alone because: {reason}");
    }
}

/// Each rule that counts is another value on the way into its routine: were it one to the verifier, it
/// would walk through the routine once for each.
#[test]
fn the_verifier_accepts_20000_rules_that_count() {
    if !require(&[Need::Root]) {
        return;
    }
    let all = arb::many(20_000);
    let text = rules::text(&all).replace(" actions ", " actions counter ");
    let (_, loaded, counters) =
        engine::load_counting(&mut Loader::default(), &text, Link::Ethernet).expect("a program");
    for index in [0, 1, 9_998, 19_999] {
        loaded.run(&super::aimed(&all[index], 0), SkBuff::default()).expect("a run");
        let counts = counters.read().expect("counters");
        assert_eq!(counts.rules[index].count.packets, 1, "rule {index}");
    }
}
