//! What the original gets wrong, each trap by name: the ones of its rule language, and the ones of
//! its datapath that a single program and packet can show. (Those that need sockets are in `e2e.rs`.)

mod support;

use sfunnel::codegen::{self, Link};
use sfunnel::diag::Source;
use sfunnel::ir::{Family, Proto};
use support::packet::Packet;
use support::testrun::{Loader, SkBuff};
use support::{Need, engine, require};

const FUNNEL: &str = "ip udp dport 4739 actions funnel tcp sport 540 dport 179\n\
                      ip tcp dport 8080 actions funnel udp sport 540 dport 80\n";
const UNFUNNEL: &str = "ip tcp sport 540 dport 179 actions unfunnel udp\n\
                        ip tcp dport 80 actions unfunnel tcp\n\
                        ip udp dport 80 actions unfunnel tcp\n";

/// Runs packets through rules in the kernel; each with the words it must come out as. `None`: as
/// it went in.
fn run(rules: &str, packets: &[(&str, Option<&str>)]) {
    if !require(&[Need::Root]) {
        return;
    }
    let elf = engine::compile(rules, Link::Ethernet).expect("rules").elf;
    let loaded = Loader::default().load(&elf, engine::PROGRAM).expect("a program");
    for (before, after) in packets {
        let packet = Packet::parse(before).expect("words");
        let after = Packet::parse(after.unwrap_or(before)).expect("words").frame();
        let context = SkBuff { gso_size: packet.gso, ..SkBuff::default() };
        let (verdict, frame) = loaded.run(&packet.frame(), context).expect("a run");
        assert_eq!(verdict, -1, "{before}");
        pretty_assertions::assert_eq!(support::packet::hex(&frame), support::packet::hex(&after), "{before}");
    }
}

/// Each of these must be refused for this reason and no other, at these words, and with a remedy.
fn refused(rulesets: &[(&str, &str, &str)]) {
    for (text, at, message) in rulesets {
        let source = Source::new("rules", *text);
        let diagnostics = sfunnel::read(&source).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let found: Vec<_> = diagnostics
            .iter()
            .map(|d| (d.message.as_str(), &text[d.primary.span.start..d.primary.span.end]))
            .collect();
        assert_eq!(found, [(*message, *at)], "{text}");
        assert!(diagnostics[0].help.is_some(), "`{text}`: no remedy");
    }
}

const PORTS: &str = "port must be between 1 and 65535";

/// The rules in normal form.
fn accepted(text: &str) -> Vec<String> {
    let source = Source::new("rules", text);
    match sfunnel::read(&source) {
        Ok(checked) => checked.ruleset.rules.iter().map(sfunnel::rule_text::rule).collect(),
        Err(diagnostics) => panic!("refused: {text}: {diagnostics:?}"),
    }
}

#[test]
fn upstream_trap_a_negation_split_in_two_is_not_lost() {
    refused(&[("ip udp dport ! = 53 actions drop", "! =", "`!` and `=` are apart")]);
}

#[test]
fn upstream_trap_words_need_space_between_them() {
    refused(&[("iptcpdport80 actions drop", "iptcpdport80", "unknown word `iptcpdport80`")]);
}

#[test]
fn upstream_trap_a_repeated_match_is_not_dropped_in_silence() {
    refused(&[
        ("ip udp dport 53 dport 54 actions drop", "dport 54", "`dport` is repeated"),
        ("ip saddr 10.0.0.1 saddr 10.0.0.2 udp actions drop", "saddr 10.0.0.2", "`saddr` is repeated"),
    ]);
}

#[test]
fn upstream_trap_two_protocols_do_not_mean_the_first() {
    refused(&[("ip tcp udp dport 53 actions drop", "udp", "`tcp` and `udp` in one rule")]);
}

#[test]
fn upstream_trap_no_protocol_does_not_pass() {
    refused(&[("ip dport 53 actions drop", "actions", "the rule names no protocol")]);
}

#[test]
fn upstream_trap_a_rule_must_do_something() {
    refused(&[("ip udp dport 53 actions", "actions", "the list of actions is empty")]);
}

#[test]
fn upstream_trap_only_one_action_would_have_run() {
    refused(&[("ip udp dport 53 actions accept drop", "drop", "a rule has one action")]);
}

#[test]
fn upstream_trap_port_zero_is_not_any() {
    refused(&[
        ("ip udp dport 0 actions drop", "0", PORTS),
        ("ip udp dport 53 actions funnel tcp sport 0 dport 179", "0", PORTS),
    ]);
}

#[test]
fn upstream_trap_a_rule_that_cannot_match_is_refused() {
    refused(&[("ip saddr != 0.0.0.0/0 udp actions drop", "saddr != 0.0.0.0/0", "this can never match")]);
}

#[test]
fn upstream_trap_ports_have_sixteen_bits() {
    refused(&[
        ("ip udp dport 65536 actions drop", "65536", PORTS),
        ("ip udp dport 99999999999 actions drop", "99999999999", PORTS),
    ]);
}

#[test]
fn upstream_trap_ports_are_not_sums() {
    refused(&[("ip udp sport 1+2 actions drop", "1+2", "expected a port number, found `1+2`")]);
}

#[test]
fn upstream_trap_a_semicolon_in_a_comment_starts_no_rule() {
    let rules = accepted("ip udp dport 53 actions drop # not; ip tcp actions drop");
    assert_eq!(rules, ["ip udp dport 53 actions drop"]);
}

#[test]
fn upstream_trap_a_comment_ends_with_its_line() {
    let rules = ["ip udp dport 53 actions drop", "ip tcp actions accept"];
    assert_eq!(accepted("ip udp dport 53 actions drop # one\nip tcp actions accept\n"), rules);
    assert_eq!(accepted("# all below\nip udp dport 53 actions drop\n\nip tcp actions accept"), rules);
}

#[test]
fn upstream_trap_dnat_is_neither_refused_nor_ignored() {
    run(
        "ip udp dport 53 actions dnat 10.0.0.9",
        &[
            (
                "ip 10.0.0.1 > 10.0.0.2 udp 25000 > 53 len 9",
                Some("ip 10.0.0.1 > 10.0.0.9 udp 25000 > 53 len 9"),
            ),
            ("ip 10.0.0.1 > 10.0.0.2 udp 25000 > 54 len 9", None),
        ],
    );
}

#[test]
fn upstream_trap_a_rule_that_matches_its_own_output() {
    refused(&[(
        "ip tcp actions funnel tcp sport 540 dport 80",
        "funnel tcp sport 540 dport 80",
        "the rule matches its own output and would funnel it again",
    )]);
    let other = "ip tcp actions funnel udp sport 540 dport 80";
    assert_eq!(accepted(other), [other]);
}

#[test]
fn upstream_trap_545_rules_are_not_the_most() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    engine::load(&mut loader, &support::arb::many(546), Link::Ethernet).expect("a program");
}

#[test]
fn upstream_trap_udp_without_a_checksum() {
    run(
        FUNNEL,
        &[
            // Outer TCP has to have one, so it sums the payload.
            (
                "ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4739 nosum len 3",
                Some("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 4739 nosum len 3"),
            ),
            (
                "ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4739 nosum len 1401",
                Some("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 4739 nosum len 1401"),
            ),
        ],
    );
    run(
        "ip udp dport 4739 actions funnel udp sport 540 dport 179",
        &[(
            "ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4739 nosum len 3",
            Some("ip 10.0.0.1 > 10.0.0.2 udp 540 > 179 nosum / udp 25000 > 4739 nosum len 3"),
        )],
    );
    run(
        UNFUNNEL,
        &[(
            "ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 4739 nosum len 3",
            Some("ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4739 nosum len 3"),
        )],
    );
}

#[test]
fn upstream_trap_tcp_mss_is_lowered_by_what_is_pushed() {
    let rules = "tcp dport 8080 actions funnel tcp sport 540 dport 80\n\
                 tcp sport 8080 actions funnel udp sport 80 dport 540";
    run(
        rules,
        &[
            // SYN through TCP: 1460 to 1440. SYN-ACK through UDP, behind other options: to 1452.
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 flags 2 opts 020405b40402080a0000000100000000",
                Some(
                    "ip 10.0.0.1 > 10.0.0.2 tcp 540 > 80 / \
                     tcp 25000 > 8080 flags 2 opts 020405a00402080a0000000100000000",
                ),
            ),
            (
                "ip 10.0.0.2 > 10.0.0.1 tcp 8080 > 25000 flags 18 opts 0103030701020405b4",
                Some(
                    "ip 10.0.0.2 > 10.0.0.1 udp 80 > 540 / \
                     tcp 8080 > 25000 flags 18 opts 0103030701020405ac",
                ),
            ),
            // Several: Linux takes the last, others the first.
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 flags 2 opts 020405b4020405b4",
                Some("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 80 / tcp 25000 > 8080 flags 2 opts 020405a0020405a0"),
            ),
            // One without a value and one that says 0, as Linux skips them; one behind the end is none.
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 flags 2 opts 020301020400000102040218010204ffff00020405b4",
                Some(
                    "ip 10.0.0.1 > 10.0.0.2 tcp 540 > 80 / \
                     tcp 25000 > 8080 flags 2 opts 020301020400000102040204010204ffeb00020405b4",
                ),
            ),
            // A list that does not add up is none from there on.
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 flags 2 opts 020405b401010100022005b4",
                Some(
                    "ip 10.0.0.1 > 10.0.0.2 tcp 540 > 80 / \
                     tcp 25000 > 8080 flags 2 opts 020405a001010100022005b4",
                ),
            ),
            // TCP-AO signs its options, TCP-MD5 does not.
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 flags 2 opts 020405b41d04aabb",
                Some("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 80 / tcp 25000 > 8080 flags 2 opts 020405b41d04aabb"),
            ),
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 flags 2 opts 020405b4131200112233445566778899aabbccddeeff",
                Some(
                    "ip 10.0.0.1 > 10.0.0.2 tcp 540 > 80 / \
                     tcp 25000 > 8080 flags 2 opts 020405a0131200112233445566778899aabbccddeeff",
                ),
            ),
            // A flow that is not funneled keeps its own.
            ("ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 443 flags 2 opts 020405b4", None),
        ],
    );
}

#[test]
fn upstream_trap_ip_options_stay_in_front() {
    run(
        FUNNEL,
        &[
            (
                "ip 10.0.0.1 > 10.0.0.2 options 1 udp 25000 > 4739 len 5",
                Some("ip 10.0.0.1 > 10.0.0.2 options 1 tcp 540 > 179 / udp 25000 > 4739 len 5"),
            ),
            (
                "ip 10.0.0.1 > 10.0.0.2 options 10 tcp 25000 > 8080 tcpopt 3 len 5",
                Some("ip 10.0.0.1 > 10.0.0.2 options 10 udp 540 > 80 / tcp 25000 > 8080 tcpopt 3 len 5"),
            ),
        ],
    );
    run(
        UNFUNNEL,
        &[(
            "ip 10.0.0.1 > 10.0.0.2 options 7 tcp 540 > 179 / udp 25000 > 4739 len 5",
            Some("ip 10.0.0.1 > 10.0.0.2 options 7 udp 25000 > 4739 len 5"),
        )],
    );
}

#[test]
fn upstream_trap_fragments_pass_unchanged_the_first_one_too() {
    for rules in [FUNNEL, UNFUNNEL] {
        run(
            rules,
            &[
                ("ip 10.0.0.1 > 10.0.0.2 mf udp 25000 > 4739 len 64", None),
                ("ip 10.0.0.1 > 10.0.0.2 frag 1 udp 25000 > 4739 len 64", None),
                ("ip 10.0.0.1 > 10.0.0.2 frag 8191 udp 25000 > 4739 len 64", None),
                ("ip 10.0.0.1 > 10.0.0.2 mf tcp 540 > 179 / udp 25000 > 4739 len 64", None),
            ],
        );
    }
}

#[test]
fn upstream_trap_gso_packets_are_never_half_mangled() {
    for gso in [1, 1448, 65_535] {
        let tcp = format!("ip 10.0.0.1 > 10.0.0.2 tcp 25000 > 8080 len 2896 gso {gso}");
        let udp = format!("ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4739 len 2896 gso {gso}");
        let funneled = format!("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 4739 len 9 gso {gso}");
        run(FUNNEL, &[(&tcp, None), (&udp, None)]);
        run(UNFUNNEL, &[(&funneled, None)]);
    }
}

#[test]
fn upstream_trap_traffic_that_is_not_funneled_is_not_cut() {
    run(
        UNFUNNEL,
        &[
            // Real traffic on the same ports: a request, a SYN, a datagram.
            ("ip 10.0.0.1 > 10.0.0.2 tcp 50000 > 80 len 120", None),
            ("ip 10.0.0.1 > 10.0.0.2 tcp 50000 > 80 flags 2 seq 0xdeadbeef ack 0 tcpopt 5", None),
            ("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 len 61", None),
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 len 170", None),
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 len 61", None),
            // Almost: one field off.
            ("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 seq 0xcafebabf / udp 25000 > 4739 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 ack 0xbabecaff / udp 25000 > 4739 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 doff 6 / udp 25000 > 4739 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 4739 udplen 15 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 / tcp 25000 > 8080 doff 4 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 / tcp 25000 > 8080 doff 8 len 8", None),
            // Inside UDP, what no TCP sends: no flags, SYN with FIN, an urgent pointer without URG.
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 / tcp 25000 > 8080 flags 0 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 / tcp 25000 > 8080 flags 3 len 8", None),
            ("ip 10.0.0.1 > 10.0.0.2 udp 540 > 80 / tcp 25000 > 8080 flags 16 urg 22 len 8", None),
        ],
    );
}

#[test]
fn upstream_trap_ipv6_passes_rules_for_ipv4_unchanged_as_documented() {
    for rules in [FUNNEL, UNFUNNEL] {
        run(
            rules,
            &[
                ("ip 2001:db8::1 > 2001:db8::2 udp 25000 > 4739 len 9", None),
                ("ip 2001:db8::1 > 2001:db8::2 tcp 540 > 179 / udp 25000 > 4739 len 90", None),
                ("arp", None),
            ],
        );
    }
}

/// The outermost tag is beside the frame afterwards, where a test run does not show it: `tests/tags.rs` does.
#[test]
fn upstream_trap_tags_in_the_frame_hide_nothing_from_rules() {
    let (plain, funneled) = (
        "ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4739 len 9",
        "ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 4739 len 9",
    );
    for (rules, before, after) in [(FUNNEL, plain, funneled), (UNFUNNEL, funneled, plain)] {
        let [one, two, three] =
            ["vlan 7", "svlan 8 vlan 7", "vlan 1 vlan 2 vlan 3"].map(|tags| format!("{tags} {before}"));
        let inner = format!("vlan 7 {after}");
        run(rules, &[(&one, Some(after)), (&two, Some(&inner)), (&three, None)]);
    }
}

#[test]
fn upstream_trap_the_next_program_on_the_hook_still_runs() {
    // `run` insists on TC_ACT_UNSPEC whatever the rule does, drop aside.
    run(
        "ip udp dport 1 actions accept\nip udp dport 2 actions funnel tcp sport 540 dport 179\n\
         ip tcp dport 3 actions unfunnel udp",
        &[
            ("ip 10.0.0.1 > 10.0.0.2 udp 25000 > 1 len 9", None),
            (
                "ip 10.0.0.1 > 10.0.0.2 udp 25000 > 2 len 9",
                Some("ip 10.0.0.1 > 10.0.0.2 tcp 540 > 179 / udp 25000 > 2 len 9"),
            ),
            (
                "ip 10.0.0.1 > 10.0.0.2 tcp 9 > 3 / udp 25000 > 2 len 9",
                Some("ip 10.0.0.1 > 10.0.0.2 udp 25000 > 2 len 9"),
            ),
            ("ip 10.0.0.1 > 10.0.0.2 udp 25000 > 4 len 9", None),
        ],
    );
}

#[test]
fn upstream_trap_lookup_is_no_scan_of_all_rules() {
    for count in [64_usize, 256, 500, 4096] {
        let text = support::rules::text(&support::arb::many(count));
        let diagram = engine::compile(&text, Link::Ethernet).expect("a program").diagram;
        let most = Proto::ALL.map(|proto| diagram.depth(Family::V4, proto));
        let most = most.into_iter().max().expect("two");
        let allowed = usize::try_from(2 * count.ilog2()).expect("a small number");
        assert!(most <= allowed, "{count} rules: {most} compares");
    }
}

/// What a packet of the usual kind costs is, most of all, the kernel's functions that are called for it. How much time
/// that is, `cargo xtask bench` says.
#[test]
fn upstream_trap_a_funnel_and_its_unfunnel_call_the_kernel_three_times_at_most() {
    for (inner, outer) in [("udp", "tcp"), ("udp", "udp"), ("tcp", "tcp"), ("tcp", "udp")] {
        for rule in [
            format!("ip {inner} dport 4739 actions funnel {outer} sport 540 dport 179"),
            format!("ip {outer} sport 540 dport 179 actions unfunnel {inner}"),
        ] {
            let source = Source::new("rules", rule.as_str());
            let ruleset = sfunnel::read(&source).expect("rules").ruleset;
            let diagram = sfunnel::diagram::build(&ruleset);
            let program = codegen::compile(&ruleset, &diagram, codegen::Options::pass_gso(Link::Ethernet))
                .expect("a program");
            let calls = calls_on_the_way(&program.listing(&|_| None));
            assert!(calls.contains(&"bpf_skb_adjust_room".to_owned()), "{rule}: another way: {calls:?}");
            assert!(calls.len() <= 3, "{rule}: {calls:?}");
        }
    }
}

/// Follows a listing from its start to an exit, past all jumps that depend on something: those are for packets of
/// another kind, as the path that holds falls through. The functions called.
fn calls_on_the_way(listing: &str) -> Vec<String> {
    let code = |line: &str| line.split(';').next().unwrap_or_default().trim().to_owned();
    let lines: Vec<String> = listing.lines().map(code).collect();
    let (mut at, mut calls) = (0, Vec::new());
    while lines[at] != "exit" {
        if let Some(label) = lines[at].strip_prefix("goto ") {
            at = lines.iter().position(|line| *line == format!("{label}:")).expect("the label");
        } else if let Some(call) = lines[at].strip_prefix("call ") {
            calls.push(call.split('#').next().expect("a name").to_owned());
        }
        at += 1;
    }
    calls
}
