//! What is accepted, and what it means as sets.

use std::net::Ipv4Addr;

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use sfunnel::diag::{Source, render};
use sfunnel::field::Field;
use sfunnel::ir::{Action, End, Family, Funnel, Guard, Proto, Rule, Ruleset, Rulesets, Side};
use sfunnel::matches::{Set, universe};

use super::{read, talk};

/// The rules of a text that must be fine, without a warning.
fn rules(text: &str) -> Vec<Rule> {
    match read(text) {
        Ok((rules, warnings)) => {
            assert_eq!(warnings, [], "{text}");
            rules
        }
        Err(faults) => panic!("{}", render(&Source::new("rules", text), &faults, false)),
    }
}

fn rule(text: &str) -> Rule {
    let mut rules = rules(text);
    assert_eq!(rules.len(), 1, "{text}");
    rules.remove(0)
}

/// A rule but for its text and place.
fn meaning(text: &str) -> Rule {
    Rule { text: String::new(), span: Default::default(), ..rule(text) }
}

/// The IPv4 addresses that a rule matches.
fn v4(rule: &Rule, field: Field) -> Set {
    rule.of(Family::V4)
        .and_then(|matches| matches.get(field))
        .cloned()
        .unwrap_or_else(|| universe(field, Family::V4))
}

fn addr(text: &str) -> u32 {
    text.parse::<Ipv4Addr>().unwrap().to_bits()
}

const FUNNEL: Action =
    Action::Funnel(Funnel { outer: Proto::Tcp, sport: 540, dport: 80, flags: Funnel::SYN });

fn unfunnel(inner: Proto) -> Action {
    Action::Unfunnel { inner, guard: Guard::default() }
}

#[test]
fn a_missing_match_is_the_full_set() {
    let rule = rule("tcp actions drop");
    assert_eq!((rule.proto, rule.action), (Proto::Tcp, Action::Drop));
    let any = Some(sfunnel::matches::Matches::default());
    assert_eq!(rule.matches, [any.clone(), any]);
}

#[test]
fn a_rule_is_about_the_versions_that_it_names() {
    let about = |text: &str| {
        let rule = rule(text);
        [Family::V4, Family::V6].map(|family| rule.is_about(family))
    };
    for (text, expected) in [
        ("tcp actions drop", [true, true]),
        ("ip tcp actions drop", [true, false]),
        ("ip6 tcp actions drop", [false, true]),
        ("saddr 10.0.0.1 tcp actions drop", [true, false]),
        ("saddr != 10.0.0.1 tcp actions drop", [true, false]),
        ("daddr 2001:db8::/32 tcp actions drop", [false, true]),
        ("ip6 daddr != 2001:db8::/32 tcp actions drop", [false, true]),
        ("saddr ::1 daddr ::2-::f tcp actions drop", [false, true]),
        ("saddr { 10.0.0.1, ::1 } tcp actions drop", [true, true]),
        ("daddr { ::1, 10.0.0.1 } saddr != { 10.0.0.0/8, 2001:db8::/32 } tcp actions drop", [true, true]),
    ] {
        assert_eq!(about(text), expected, "{text}");
    }
}

#[test]
fn ipv6_addresses_in_any_spelling() {
    let bits = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().to_bits();
    let of = |addresses: &str| {
        let rule = rule(&format!("saddr {addresses} tcp actions drop"));
        rule.of(Family::V6).and_then(|matches| matches.get(Field::SADDR)).cloned()
    };
    for (text, first, last) in [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1", "2001:db8::1"),
        ("2001:db8::1/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("::ffff:10.0.0.1", "::ffff:a00:1", "::ffff:a00:1"),
        ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("fd00::/127", "fd00::", "fd00::1"),
        ("fd00::9-fd00::1:0:0", "fd00::9", "fd00::1:0:0"),
    ] {
        let set = of(text).unwrap_or_else(|| universe(Field::SADDR, Family::V6));
        assert!(set.ranges().eq([bits(first)..=bits(last)]), "{text}");
    }
    let outside = of("!= 2001:db8::/32").unwrap();
    assert!(!outside.contains(bits("2001:db8::")) && outside.contains(bits("2001:db9::")));
}

#[test]
fn not_equal_is_the_complement() {
    let rule = rule("ip saddr != 10.0.0.0/8 udp dport != 53 sport != 65535 actions accept");
    for (address, inside) in
        [("9.255.255.255", true), ("10.0.0.0", false), ("10.255.255.255", false), ("11.0.0.0", true)]
    {
        let sources = rule.of(Family::V4).unwrap().get(Field::SADDR).unwrap();
        assert_eq!(sources.contains(addr(address).into()), inside, "{address}");
    }
    assert_eq!(rule.ports(End::Dport).to_string(), "0..=52, 54..=65535");
    assert_eq!(rule.ports(End::Sport).to_string(), "0..=65534");
}

#[test]
fn not_equal_needs_no_blanks() {
    assert_eq!(
        meaning("tcp dport!=80 saddr !=10.0.0.1 actions drop"),
        meaning("tcp dport != 80 saddr != 10.0.0.1 actions drop")
    );
}

#[test]
fn host_bits_do_not_count_and_netmasks_are_prefix_lengths() {
    let expected = addr("10.0.0.0")..=addr("10.255.255.255");
    for prefix in ["10.0.0.0/8", "10.1.2.3/8", "10.0.0.0/255.0.0.0", "10.255.255.255/255.0.0.0"] {
        let rule = rule(&format!("ip daddr {prefix} tcp actions drop"));
        let (first, last) = expected.clone().into_inner();
        assert!(v4(&rule, Field::DADDR).ranges().eq([first.into()..=last.into()]), "{prefix}");
    }
    assert!(!rule("ip daddr 1.2.3.4/0 tcp actions drop").matches_on(Field::DADDR));
    assert!(!rule("ip daddr 1.2.3.4/0.0.0.0 tcp actions drop").matches_on(Field::DADDR));
    for one in ["255.255.255.255", "255.255.255.255/32", "255.255.255.255/255.255.255.255"] {
        assert_eq!(v4(&rule(&format!("ip daddr {one} tcp actions drop")), Field::DADDR).iter().count(), 1);
    }
}

#[test]
fn ip_may_be_left_out() {
    assert_eq!(meaning("saddr 10.0.0.1 tcp actions drop"), meaning("ip saddr 10.0.0.1 tcp actions drop"));
}

#[test]
fn the_word_actions_may_be_left_out() {
    let with = "ip daddr 10.0.0.1 tcp dport 443 actions funnel tcp dport 80 sport 540";
    assert_eq!(meaning(&with.replace("actions ", "")), meaning(with));
    assert_eq!(meaning("tcp dport 80 sport 540 unfunnel tcp").action, unfunnel(Proto::Tcp));
}

#[test]
fn encap_and_decap_are_noise() {
    for funnel in ["funnel tcp", "funnel encap tcp"] {
        for ports in ["sport 540 dport 80", "dport 80 sport 540"] {
            assert_eq!(rule(&format!("udp dport 53 actions {funnel} {ports}")).action, FUNNEL);
        }
    }
    assert_eq!(rule("tcp dport 80 actions unfunnel decap udp").action, unfunnel(Proto::Udp));
}

#[test]
fn alias_names_one_of_the_ports_and_another_number() {
    for (text, end) in [("alias dport 80", End::Dport), ("actions alias sport 80", End::Sport)] {
        let rule = rule(&format!("tcp sport 1 dport 8080 {text}"));
        assert_eq!(rule.action, Action::Alias { end, port: 80 });
    }
    // To a port among others that the rule matches, too: packets to it are left alone.
    assert_eq!(
        rule("ip daddr 10.0.0.1 tcp alias dport 80").action,
        Action::Alias { end: End::Dport, port: 80 }
    );
}

#[test]
fn unalias_takes_a_port_or_a_set_however_it_is_spaced() {
    let sets = ["{ 8080, 8443 }", "{8080,8443}", "{8443 ,8080}", "{ 8080 , 8443, }", "{\t8080,\t8443 }"];
    for set in sets {
        let rule = rule(&format!("tcp dport 80 actions unalias {set}"));
        let Action::Unalias { end: End::Dport, ports } = rule.action else { panic!("{set}") };
        assert_eq!(ports.iter().collect::<Vec<_>>(), [8080, 8443], "{set}");
    }
    assert_eq!(meaning("tcp dport 80 unalias 8080"), meaning("tcp dport 80 actions unalias { 8080 }"));
    assert_eq!(rules("tcp dport 80 unalias { 1, 2 }; udp drop").len(), 2);
}

#[test]
fn a_guard_says_which_inner_ports_may_be_reached() {
    let guard = |text: &str| match rule(&format!("tcp dport 80 unfunnel udp {text}")).action {
        Action::Unfunnel { guard, .. } => (guard.sport.to_string(), guard.dport.to_string()),
        other => panic!("{other:?}"),
    };
    let any = "0..=65535".to_string();
    assert_eq!(guard("dport 53"), (any.clone(), "53..=53".into()));
    assert_eq!(guard("dport { 53, 4739-4740 } sport 5"), ("5..=5".into(), "53..=53, 4739..=4740".into()));
    assert_eq!(guard("sport != 5 mark set 1"), ("0..=4, 6..=65535".into(), any));
}

#[test]
fn flags_are_written_as_in_nftables() {
    let flags = |text: &str| match rule(&format!("udp dport 53 funnel tcp sport 1 dport 2 {text}")).action {
        Action::Funnel(Funnel { flags, .. }) => flags,
        other => panic!("{other:?}"),
    };
    assert_eq!(flags(""), 0x02);
    for text in
        ["flags syn|ack", "flags syn,ack", "flags { syn, ack }", "flags {ack,syn,}", "flags syn | ack"]
    {
        assert_eq!(flags(text), 0x12, "{text}");
    }
    assert_eq!(flags("flags fin|syn|rst|psh|ack|urg|ecn|cwr mark set 1"), 0xff);
    assert_eq!(flags("flags psh accept".replace(" accept", "").as_str()), 0x08);
}

#[test]
fn a_mark_stands_beside_any_action_or_alone() {
    for (text, mark) in [
        ("mark set 7", 7),
        ("mark set 0x10 accept", 16),
        ("accept mark set 4294967295", u32::MAX),
        ("unfunnel udp mark set 0", 0),
        ("mark set 1 funnel udp sport 1 dport 2", 1),
        ("mark set 1 alias dport 9", 1),
        ("unalias 9 mark set 1", 1),
    ] {
        let settings = rule(&format!("tcp dport 80 actions {text}")).settings;
        assert_eq!(settings.to_string(), format!("mark set {mark}"), "{text}");
    }
    assert_eq!(rule("tcp dport 80 mark set 7").action, Action::Accept);
    assert!(rule("tcp dport 80 accept").settings.is_empty());
}

#[test]
fn sets_and_ranges_however_they_are_spaced() {
    let ports = [
        "dport { 80, 443, 8000-8080 }",
        "dport {80,443,8000-8080}",
        "dport { 8000 - 8080 , 443 ,80, }",
        "dport{443,80,8000- 8080}",
        "dport {\n    80,  # web; and\n\t443,\r\n # more\n 8000-8080\n}",
    ];
    for text in ports {
        let rule = rule(&format!("tcp {text} actions drop"));
        assert_eq!(rule.ports(End::Dport).to_string(), "80..=80, 443..=443, 8000..=8080", "{text}");
    }
    for text in ["dport 8000-8080", "dport 8000 - 8080", "dport 8000 -8080", "dport { 8000-8080 }"] {
        assert_eq!(rule(&format!("tcp {text} drop")).ports(End::Dport).to_string(), "8000..=8080", "{text}");
    }
    assert_eq!(rule("tcp dport 80-80 drop").ports(End::Dport).to_string(), "80..=80");
    assert_eq!(rule("tcp dport 1-65535 drop").ports(End::Dport).to_string(), "1..=65535");
}

#[test]
fn sets_of_addresses_hold_addresses_prefixes_and_ranges() {
    let rule =
        rule("ip saddr { 10.0.0.0/8, 192.168.1.1, 172.16.0.1-172.16.0.9, 192.0.2.0/255.255.255.0 } tcp drop");
    let inside = ["10.0.0.0", "10.255.255.255", "172.16.0.1", "172.16.0.9", "192.168.1.1", "192.0.2.77"];
    let outside = ["9.255.255.255", "11.0.0.0", "172.16.0.0", "172.16.0.10", "192.168.1.0", "192.0.3.0"];
    assert!(inside.iter().all(|a| v4(&rule, Field::SADDR).contains(addr(a).into())));
    assert!(!outside.iter().any(|a| v4(&rule, Field::SADDR).contains(addr(a).into())));
}

#[test]
fn not_equal_to_a_set_is_outside_of_all_of_it() {
    let rule = rule("ip daddr != { 10.0.0.0/8, 11.0.0.0/8 } tcp dport != { 80, 443 } sport != 1-1023 drop");
    assert_eq!(rule.ports(End::Dport).to_string(), "0..=79, 81..=442, 444..=65535");
    assert_eq!(rule.ports(End::Sport).to_string(), "0..=0, 1024..=65535");
    assert!(
        v4(&rule, Field::DADDR).contains(addr("12.0.0.0").into())
            && !v4(&rule, Field::DADDR).contains(addr("11.1.1.1").into())
    );
}

#[test]
fn what_overlaps_is_merged() {
    let (rules, warnings) = read("tcp dport { 1-10, 5-20, 7, 21 } drop").unwrap();
    assert_eq!(warnings.len(), 2);
    assert_eq!(rules[0].ports(End::Dport).to_string(), "1..=21");
}

#[test]
fn a_rule_with_a_set_over_lines_keeps_its_text_on_one() {
    let rule = rule("tcp dport {\n  80, # web\n  443\n} actions drop # all");
    assert_eq!(rule.text, "tcp dport { 80, 443 } actions drop");
}

#[test]
fn the_port_that_unalias_restores_is_the_one_matched_by_a_single_number() {
    for (text, expected) in [
        ("tcp dport 80 unalias 8080", End::Dport),
        ("tcp sport 80 unalias 8080", End::Sport),
        ("tcp sport 80 dport != 1 unalias 8080", End::Sport),
        ("tcp sport != 1 dport 80 unalias 8080", End::Dport),
    ] {
        let Action::Unalias { end, .. } = rule(text).action else { panic!("{text}") };
        assert_eq!(end, expected, "{text}");
    }
}

#[test]
fn rules_end_at_newlines_and_semicolons_and_comments_at_the_line() {
    let texts = [
        "tcp dport 1 drop\nudp dport 2 accept",
        "tcp dport 1 drop; udp dport 2 accept",
        ";;\n tcp dport 1 drop ;\t\n\n;udp dport 2 accept;;",
        "# a; tcp dport 3 drop\ntcp dport 1 drop # b; c # d\n#\nudp dport 2 accept#",
        "\u{feff}tcp dport 1 drop\r\n\r\nudp dport 2 accept\r\n",
        "\ttcp\tdport \t 1\x0b\x0cdrop;udp dport 2 accept",
    ];
    for text in texts {
        let dports: Vec<_> = rules(text).iter().map(|rule| rule.ports(End::Dport).first()).collect();
        assert_eq!(dports, [Some(1), Some(2)], "{text:?}");
    }
}

#[test]
fn a_rule_keeps_its_text_on_one_line_and_its_place() {
    let text = "# web\n  ip  tcp\tdport 80 \t actions   drop   # all of it\r\n";
    let rule = rule(text);
    assert_eq!(rule.text, "ip tcp dport 80 actions drop");
    assert_eq!(&text[rule.span.start..rule.span.end], "ip  tcp\tdport 80 \t actions   drop");
}

#[test]
fn the_limits_of_ports_are_1_and_65535() {
    for port in [1, 65535] {
        let rule =
            rule(&format!("tcp sport {port} dport {port} actions funnel udp sport {port} dport {port}"));
        assert_eq!((rule.ports(End::Sport).first(), rule.ports(End::Dport).last()), (Some(port), Some(port)));
    }
}

#[test]
fn rules_by_the_ten_thousand_are_read() {
    let line = |n: u32| format!("ip saddr {} tcp dport 80 actions drop\n", Ipv4Addr::from_bits(n));
    let text: String = (0..65_536).map(line).collect();
    assert_eq!(rules(&text).len(), 65_536);
}

/// Rules that have much to do with each other: whatever compares them must not compare every two.
#[test]
fn funnels_by_the_ten_thousand_are_compared() {
    const COUNT: u32 = 20_000;
    let all = |line: &dyn Fn(u32, Ipv4Addr) -> String| -> String {
        (0..COUNT).map(|n| line(n, Ipv4Addr::from_bits(0x0a00_0000 + n)) + "\n").collect()
    };
    let both = all(&|n, ip| match n % 2 {
        0 => format!("ip daddr {ip} tcp dport 443 actions funnel tcp sport 540 dport 80"),
        _ => format!("ip daddr {ip} udp dport 443 actions funnel tcp sport 540 dport 80"),
    });
    let mixed = all(&|n, ip| match n % 2 {
        0 => format!("ip daddr {ip} udp dport 443 actions funnel tcp sport 540 dport {}", 1 + n % 60_000),
        _ => format!("ip saddr {ip} tcp sport 540 dport {} actions unfunnel udp", 1 + n % 60_000),
    });
    let guarded = "tcp sport 540 dport 80 accept\n".to_owned()
        + &all(&|_, ip| format!("ip saddr {ip} tcp actions funnel tcp sport 540 dport 80"));
    for (name, text) in [("both", both), ("mixed", mixed), ("guarded", guarded)] {
        assert!(rules(&text).len() >= COUNT as usize, "{name}");
    }
    let each =
        all(&|n, ip| format!("ip saddr {ip} tcp actions funnel tcp sport 540 dport {}", 1 + n % 60_000));
    let source = Source::new("rules", each);
    assert!(sfunnel::read(&source).is_err_and(|faults| !faults.is_empty()));
}

#[test]
fn color_only_adds_escapes() {
    let source = Source::new("rules", "tcp dport 80 drop\ntcp dport 80 accept; tcp dport 0 drop");
    let faults = sfunnel::read(&source).unwrap_err();
    let colored = render(&source, &faults, true);
    let pieces = colored.split('\x1b').map(|piece| piece.split_once('m').map_or(piece, |(_, text)| text));
    assert!(colored.contains('\x1b'));
    assert_eq!(pieces.collect::<String>(), render(&source, &faults, false));
}

#[test]
fn no_talk_about_good_rules() {
    assert_eq!(talk("rules", "tcp dport 80 actions drop"), "");
}

proptest! {
    /// Six matches, five of them in any order and any number, always mean the same.
    #[test]
    fn the_order_of_matches_means_nothing(
        matches in proptest::sample::subsequence(
            vec!["ip", "saddr 10.0.0.0/8", "daddr != 10.0.0.1", "sport 53", "dport != 80"], 0..=5),
        seed in any::<proptest::sample::Index>(),
        shuffle in Just(()).prop_perturb(|(), mut rng| rng.random::<u64>()),
    ) {
        let mut written = matches.clone();
        written.push("udp");
        let tidy = written.join(" ");
        let mut key = shuffle;
        written.sort_by_cached_key(|_| { key = key.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15); key });
        let turn = seed.index(written.len());
        written.rotate_left(turn);
        let shuffled = written.join(" ");
        prop_assert_eq!(meaning(&format!("{shuffled} actions drop")), meaning(&format!("{tidy} actions drop")));
    }
}

/// What stands in each chain, by the ports of its rules.
fn chains(text: &str) -> Vec<(Side, Vec<u16>)> {
    let lists = sfunnel::read_lists(&Source::new("rules", text))
        .unwrap_or_else(|_| panic!("{}", talk("rules", text)));
    let Rulesets::Chains(chains) = lists.rulesets else { panic!("no chains in {text}") };
    let ports = |rules: Vec<Rule>| rules.iter().filter_map(|rule| rule.ports(End::Dport).first()).collect();
    chains.into_iter().map(|(side, ruleset)| (side, ports(ruleset.rules))).collect()
}

#[test]
fn a_chain_is_the_list_of_its_hook_wherever_its_lines_end() {
    let both = [(Side::Ingress, vec![1, 2]), (Side::Egress, vec![3])];
    for text in [
        "chain ingress { tcp dport 1 drop; tcp dport 2 drop } chain egress { tcp dport 3 drop }",
        "chain ingress{tcp dport 1 drop;tcp dport 2 drop}chain egress{tcp dport 3 drop}",
        "chain egress { tcp dport 3 drop; }; chain ingress {\n\ttcp dport 1 drop\n\ttcp dport 2 drop\n}\n",
        "chain ingress # { }\r\n{ # }\r\n tcp dport 1 drop # }\r\n tcp dport 2 drop }\r\nchain egress { tcp dport { 3 } drop}",
    ] {
        assert_eq!(chains(text), both, "{text}");
    }
    assert_eq!(chains("chain egress { tcp dport 9 drop }"), [(Side::Egress, vec![9])]);
}

/// A service's rules, and the chains of both ends, in normal form.
#[test]
fn a_service_is_what_a_client_sends_and_all_else_follows() {
    let text = "service funnel tcp sport 540 dport 179 {\n\
                    udp sport 123 dport 4739 accept; daddr 10.0.0.1 udp dport 6343 counter\n}\n\
                service alias dport 80 { define WEB = { 8080, 8443 }; tcp dport $WEB }";
    let lists = sfunnel::read_lists(&Source::new("rules", text)).expect("a service");
    let Rulesets::Service(service) = lists.rulesets else { panic!("no service in {text}") };
    let rules = |ruleset: &Ruleset| ruleset.rules.iter().map(sfunnel::rule_text::rule).collect::<Vec<_>>();
    let ends = [true, false].map(|client| sfunnel::mirror::end(&service, client).expect("an end"));
    let expected: [[(Side, &[&str]); 2]; 2] = [
        [
            (
                Side::Ingress,
                &[
                    "ip saddr 10.0.0.1 tcp sport 179 dport 540 actions counter unfunnel udp sport 6343",
                    "tcp sport 80 actions unalias { 8080, 8443 }",
                ],
            ),
            (
                Side::Egress,
                &[
                    "udp sport 123 dport 4739 actions accept",
                    "ip daddr 10.0.0.1 udp dport 6343 actions counter funnel tcp sport 540 dport 179",
                    "tcp dport { 8080, 8443 } actions alias dport 80",
                ],
            ),
        ],
        [
            (
                Side::Ingress,
                &[
                    "ip tcp sport 540 dport 179 actions counter unfunnel udp dport 6343",
                    "tcp dport 80 actions unalias { 8080, 8443 }",
                ],
            ),
            (
                Side::Egress,
                &[
                    "udp sport 4739 dport 123 actions accept",
                    "ip udp sport 6343 actions counter funnel tcp sport 179 dport 540",
                    "tcp sport { 8080, 8443 } actions alias sport 80",
                ],
            ),
        ],
    ];
    for (end, expected) in ends.iter().zip(expected) {
        let got: Vec<_> = end.iter().map(|(side, ruleset)| (*side, rules(ruleset))).collect();
        let expected =
            expected.map(|(side, rules)| (side, rules.iter().map(|rule| rule.to_string()).collect()));
        assert_eq!(got, expected);
    }
}

#[test]
fn rules_of_one_chain_are_not_in_the_way_of_the_other() {
    let shadow = "tcp drop; tcp dport 80 accept";
    assert!(talk("rules", shadow).contains("never reached"));
    rules("chain ingress { tcp drop }; chain egress { tcp dport 80 accept }");
}

#[test]
fn where_one_list_is_wanted_a_chain_is_refused() {
    let source = Source::new("rules", "chain ingress { tcp drop }");
    let faults = sfunnel::read(&source).unwrap_err();
    assert!(render(&source, &faults, false).contains("a chain, where one list of rules is wanted"));
}

#[test]
fn a_name_means_what_stands_behind_it() {
    for (with, without) in [
        ("define P = 80\ntcp dport $P drop", "tcp dport 80 drop"),
        ("define P={ 80, 90-99 }; tcp dport != $P drop", "tcp dport != { 80, 90-99 } drop"),
        ("define P = {\n80, # one\n443\n}\ntcp dport { $P, 22 } drop", "tcp dport { 22, 80, 443 } drop"),
        ("define A = 8; define P = { $A, 9 }; tcp dport $P sport $A drop", "tcp dport { 8, 9 } sport 8 drop"),
        ("define A = 8; define B = $A; tcp dport $B-10 drop", "tcp dport 8-10 drop"),
        (
            "define N = { 10.0.0.0/8, 2001:db8::/32 }; daddr $N tcp drop",
            "daddr { 10.0.0.0/8, 2001:db8::/32 } tcp drop",
        ),
        (
            "define N = 10.0.0.1; define M = { $N, 10.0.0.3 }; ip saddr $M tcp drop",
            "ip saddr { 10.0.0.1, 10.0.0.3 } tcp drop",
        ),
        (
            "define S = 540; define D = 80; udp funnel tcp sport $S dport $D",
            "udp funnel tcp sport 540 dport 80",
        ),
        ("define D = 80; tcp dport 8080 alias dport $D", "tcp dport 8080 alias dport 80"),
        ("define D = 0; tcp dscp $D drop", "tcp dscp 0 drop"),
        ("define D = { 0x0a, 46 }; tcp dscp $D mark $D drop", "tcp dscp { 10, 46 } mark { 10, 46 } drop"),
        ("define P = { 1, 2 }; tcp dport 80 unalias $P", "tcp dport 80 unalias { 1, 2 }"),
        ("define P = { 1, 2 }; tcp unfunnel udp dport != $P", "tcp unfunnel udp dport != { 1, 2 }"),
    ] {
        assert_eq!(meaning(with), meaning(without), "{with}");
    }
}

#[test]
fn names_that_are_given_apart_stand_in_front_and_are_named_in_errors() {
    let source = Source::new("rules.sf", "tcp dport $WEB drop");
    let given = source.clone().with_defines("--define", &["WEB={ 80, 443 }".to_owned()]);
    assert!(sfunnel::read(&given).is_ok());
    let wrong = source.with_defines("--define", &["LB = 10.0.0.1".to_owned(), "WEB=http".to_owned()]);
    let told = render(&wrong, &sfunnel::read(&wrong).unwrap_err(), false);
    assert!(told.contains("--> --define:1:5\n") && told.contains("1 | WEB=http\n"), "{told}");
    assert!(told.contains("`LB` is never used") && !told.contains("rules.sf"), "{told}");
}

#[test]
fn an_address_for_the_packet_says_which_version_the_rule_is_about() {
    let nat = |text: &str| {
        let rule = rule(text);
        (rule.nat.to_string(), [Family::V4, Family::V6].map(|family| rule.is_about(family)))
    };
    for (text, expected, about) in [
        ("tcp dnat 10.0.0.1", "dnat 10.0.0.1", [true, false]),
        ("tcp accept snat 10.0.0.1:80", "snat 10.0.0.1:80", [true, false]),
        ("tcp snat ::1", "snat ::1", [false, true]),
        ("tcp snat [::1]", "snat ::1", [false, true]),
        ("tcp dnat [2001:db8::1]:80 snat ::1", "snat ::1 dnat [2001:db8::1]:80", [false, true]),
        ("tcp dnat ::ffff:10.0.0.1", "dnat ::ffff:10.0.0.1", [false, true]),
        ("define LB = 10.0.0.1; define P = 80; tcp dnat $LB:$P", "dnat 10.0.0.1:80", [true, false]),
        ("ip tcp unfunnel udp dport 5 dnat 10.0.0.1", "dnat 10.0.0.1", [true, false]),
    ] {
        assert_eq!(nat(text), (expected.to_owned(), about), "{text}");
    }
}

#[test]
fn a_funnel_to_another_address_is_looked_at_where_it_goes() {
    let takes = "udp dport 53 daddr 10.0.0.1 funnel udp sport 1 dport 53 dnat 10.0.0.2";
    rules(takes);
    let again = takes.replace("0.2", "0.1");
    assert!(talk("rules", &again).contains("matches its own output"), "{}", talk("rules", &again));
}

#[test]
fn an_alias_with_its_way_back_in_the_other_chain_is_nothing_to_warn_about() {
    let there = "chain egress { tcp dport 8080-8081 alias dport 80; tcp sport 22 alias sport 23 }";
    rules(&format!(
        "{there}; chain ingress {{ tcp sport 80 unalias {{ 8080, 8081 }}; tcp dport 23 unalias 22 }}"
    ));
    // The other hook's rules may be elsewhere.
    rules(there);
    rules("tcp dport 8080 alias dport 80");
}
