//! `attach --check`: what is attached, compared with what rules would make of it.

use super::support::*;

const RULES: &str =
    "chain ingress { tcp dport 23 drop }; chain egress { udp dport 9 funnel tcp sport 1 dport 2 }";

fn check(more: &[&str]) -> (Option<i32>, String) {
    let output = sfunnel().args(["attach", "--check", "-i", "eth"]).args(more).output().unwrap();
    (output.status.code(), talk(&output))
}

#[test]
fn the_same_rules_are_no_drift_and_others_are() {
    in_netns(|netlink| {
        let eth = device(netlink, "eth");
        up(netlink, "eth");
        let (code, said) = check(&["--ruleset", RULES]);
        assert_eq!(code, Some(3));
        assert!(said.contains("eth egress: nothing of sfunnel's is attached\n"), "{said}");
        assert!(names(netlink, &eth, sfunnel::net::Hook::Ingress).is_empty(), "nothing was changed");

        succeed(sfunnel().args(["attach", "-i", "eth", "--ruleset", RULES]));
        assert_eq!(check(&["--ruleset", RULES]), (Some(0), String::new()));
        let other = RULES.replace("23", "24");
        let (code, said) = check(&["--ruleset", &other]);
        assert_eq!(code, Some(3));
        assert!(said.contains("eth ingress: a program of 1 rule with the hash"), "{said}");
        assert!(said.contains("error: one hook is not as these rules make it\n"), "{said}");
        let (code, said) = check(&["--ruleset", "tcp dport 23 dorp"]);
        assert_eq!(code, Some(2), "{said}");
    });
}

#[test]
fn so_is_another_treatment_of_large_packets() {
    in_netns(|netlink| {
        device(netlink, "eth");
        up(netlink, "eth");
        let ways: [&[&str]; 5] =
            [&[], &["--gso", "limit"], &["--gso", "off"], &["--finish-checksums"], &["--counters"]];
        for way in ways {
            succeed(sfunnel().args(["attach", "-i", "eth", "--ruleset", RULES]).args(way));
            for asked in ways {
                let (code, said) = check(&[&["--ruleset", RULES], asked].concat());
                // Where there can be no pair, attaching falls back to the limit: that is no drift.
                let fallen_back = way == ways[1] && (asked == ways[0] || asked == ways[3]);
                let wanted = if asked == way || fallen_back { 0 } else { 3 };
                assert_eq!(code, Some(wanted), "attached with {way:?}, asked for {asked:?}: {said}");
            }
        }
    });
}

#[test]
fn so_is_a_pair_that_somebody_has_removed() {
    in_netns(|netlink| {
        device(netlink, "eth");
        up(netlink, "eth");
        succeed(sfunnel().args(["attach", "-i", "eth", "--ruleset", RULES]));
        let end = sfunnel::net::links::list(netlink).unwrap();
        let end = end.into_iter().find(|one| one.name.starts_with("sfe")).expect("a segmentation pair");
        delete(netlink, &end);
        let (code, said) = check(&["--ruleset", RULES]);
        assert_eq!(code, Some(3));
        assert!(said.contains("eth egress: the segmentation pair is broken"), "{said}");
        succeed(sfunnel().args(["attach", "-i", "eth", "--ruleset", RULES]));
        assert_eq!(check(&["--ruleset", RULES]), (Some(0), String::new()));
    });
}
