//! One ruleset with a chain for each hook, attached in one run.

use sfunnel::net::{Hook, Mark, Netlink, filter};

use super::support::*;

const CHAINS: &str =
    "chain ingress { tcp dport 1 drop }; chain egress { tcp dport 2 drop; tcp dport 3 drop }";

/// How many rules ours have on ingress and on egress.
fn rules(netlink: &mut Netlink) -> [Option<usize>; 2] {
    let lo = interface(netlink, "lo");
    Hook::ALL.map(|hook| {
        let names = names(netlink, &lo, hook);
        names.iter().find_map(|name| Mark::read(name)).map(|mark| mark.rules)
    })
}

#[test]
fn one_run_attaches_each_chain_to_its_hook() {
    in_netns(|netlink| {
        let output = succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", CHAINS]));
        assert_eq!(talk(&output), "attached to lo ingress\nattached to lo egress\n");
        assert_eq!(rules(netlink), [Some(1), Some(2)]);
        let egress = "chain egress { tcp dport 2 drop }";
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "both", "--ruleset", egress]));
        assert_eq!(rules(netlink), [Some(1), Some(1)], "a hook without a chain is left as it is");
    });
}

#[test]
fn a_chain_needs_a_segmentation_pair_only_for_its_own_hook() {
    in_netns(|netlink| {
        let eth = device(netlink, "eth");
        up(netlink, "eth");
        let rules =
            "chain ingress { tcp dport 1 drop }; chain egress { udp dport 9 funnel tcp sport 1 dport 2 }";
        succeed(sfunnel().args(["attach", "-i", "eth", "--ruleset", rules]));
        let paired = Hook::ALL.map(|hook| {
            let name = names(netlink, &eth, hook).remove(0);
            Mark::read(&name).unwrap().gso != sfunnel::net::mark::GsoSetup::Pass
        });
        assert_eq!(paired, [false, true]);
    });
}

#[test]
fn the_container_takes_a_variable_for_each_chain() {
    in_netns(|netlink| {
        let mut command = sfunnel();
        command.env("SFUNNEL_RULESET_INGRESS", "tcp dport 1 drop").env("IFACES", "lo");
        let said = talk(&succeed(command.env("SFUNNEL_RULESET_EGRESS", "tcp dport 2 drop\nudp drop")));
        assert!(said.contains("\nattached to lo ingress\nattached to lo egress\n"), "{said}");
        assert!(
            said.contains("ruleset: (SFUNNEL_RULESET_EGRESS)\n===\ntcp dport 2 drop\nudp drop\n===\n"),
            "{said}"
        );
        assert_eq!(rules(netlink), [Some(1), Some(2)]);
        let said = fail(sfunnel().env("SFUNNEL_RULESET_EGRESS", "tcp dport 2 dorp"), 2);
        assert!(said.contains("SFUNNEL_RULESET_EGRESS:1:13"), "{said}");
        let mut both = sfunnel();
        both.env("SFUNNEL_RULESET", "tcp drop").env("SFUNNEL_RULESET_EGRESS", "tcp drop");
        assert!(fail(&mut both, 1).contains("SFUNNEL_RULESET and SFUNNEL_RULESET_EGRESS are both set"));
        assert_eq!(rules(netlink), [Some(1), Some(2)]);
    });
}

#[test]
fn when_one_hook_refuses_the_other_keeps_what_it_had() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", "udp drop; tcp drop"]));
        foreign(netlink, &lo, Hook::Egress, "theirs", filter::PRIORITY, &program(-1, 1));
        let said = fail(sfunnel().args(["attach", "-i", "lo", "--ruleset", CHAINS]), 1);
        assert!(said.contains("lo egress has a filter that is not sfunnel's"), "{said}");
        assert_eq!(rules(netlink), [Some(2), None]);
    });
}

#[test]
fn a_direction_that_leaves_a_chain_out_is_an_error() {
    in_netns(|netlink| {
        let said = fail(sfunnel().args(["attach", "-i", "lo", "-d", "ingress", "--ruleset", CHAINS]), 2);
        assert!(said.contains("the rules have `chain egress`, which --direction leaves out"), "{said}");
        let said = fail(sfunnel().env("SFUNNEL_RULESET", CHAINS).env("DIRECTION", "egress"), 1);
        assert!(said.contains("the rules have `chain ingress`, which DIRECTION leaves out"), "{said}");
        assert_eq!(rules(netlink), [None, None]);
    });
}
