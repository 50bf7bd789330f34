//! Counters of real packets: read when the process has gone, kept over a replacement, and what is said without
//! the privilege to read them.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use sfunnel::kernel::Counters;
use sfunnel::kernel::counters::Unreadable;

use super::confined::with_capabilities;
use super::support::*;

/// Ports that nobody listens on: what passes is refused, which the sender may find out at its next packet.
const RULES: &str = "udp dport 4739 actions counter drop; udp dport 4740 actions drop; \
                     udp dport 4741 actions unfunnel tcp counter";

fn send(port: u16, times: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..times {
        // Not connected, so that no refusal comes back.
        assert_eq!(socket.send_to(b"ping", ("127.0.0.1", port)).unwrap(), 4);
    }
}

fn status() -> String {
    String::from_utf8(succeed(sfunnel().arg("status")).stdout).unwrap()
}

/// The counters of the only filter there is.
fn counters() -> serde_json::Value {
    let json: serde_json::Value =
        serde_json::from_slice(&succeed(sfunnel().args(["status", "--json"])).stdout).unwrap();
    json[0]["counters"].clone()
}

fn packets(counters: &serde_json::Value, rule: usize) -> u64 {
    counters["rules"][rule]["packets"].as_u64().unwrap()
}

/// Of a rule: each reason with its packets and bytes.
fn reasons(counters: &serde_json::Value, rule: usize) -> Vec<(String, u64, u64)> {
    let reasons = counters["rules"][rule]["reasons"].as_array().unwrap();
    let number = |reason: &serde_json::Value, what: &str| reason[what].as_u64().unwrap();
    let name = |reason: &serde_json::Value| reason["reason"].as_str().unwrap().to_owned();
    reasons.iter().map(|r| (name(r), number(r, "packets"), number(r, "bytes"))).collect()
}

#[test]
fn status_shows_what_was_counted_after_the_process_has_gone() {
    in_netns(|_| {
        succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", RULES]));
        send(4739, 3);
        send(4740, 2);
        send(4741, 1);
        let said = status();
        let mut lines = said.lines();
        let first = lines.next().unwrap();
        assert!(first.starts_with("lo ingress: sfunnel/") && first.contains(" 3 rules, counted, "), "{said}");
        // 4 bytes of payload, and headers of 14 + 20 + 8.
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "  rule 0: 3 packets, 138 bytes: udp dport 4739 actions counter drop",
                "  rule 1: udp dport 4740 actions drop",
                "  rule 2: 0 packets, 0 bytes: udp dport 4741 actions counter unfunnel tcp",
                "    passed: not a funneled packet: 1 packet, 46 bytes",
            ]
        );
        let json = counters();
        assert_eq!((packets(&json, 0), json["rules"][1]["rule"].as_u64()), (3, Some(2)));
        assert_eq!(reasons(&json, 1), [("not-funneled".to_owned(), 1, 46)]);
    });
}

#[test]
fn a_flag_or_a_variable_counts_for_every_rule() {
    in_netns(|_| {
        succeed(sfunnel().args(["attach", "-i", "lo", "--counters", "--ruleset", RULES]));
        send(4740, 2);
        assert_eq!(packets(&counters(), 1), 2);
        succeed(sfunnel().env("SFUNNEL_COUNTERS", "yes").env("IFACES", "lo").env("SFUNNEL_RULESET", RULES));
        send(4740, 2);
        assert_eq!(packets(&counters(), 1), 4);
        succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", "udp dport 4740 actions drop"]));
        assert!(counters().is_null(), "{}", status());
    });
}

#[test]
fn counts_follow_the_meaning_of_a_rule_not_its_words() {
    in_netns(|_| {
        let attach = |address: &str, rule: &str| {
            let define = format!("LB={address}");
            succeed(sfunnel().args([
                "attach",
                "-i",
                "lo",
                "--counters",
                "--define",
                &define,
                "--ruleset",
                rule,
            ]));
        };
        let by_name = "ip daddr $LB udp dport 4739 actions drop";
        attach("127.0.0.1", by_name);
        send(4739, 3);
        assert!(
            status()
                .contains("3 packets, 138 bytes: ip daddr 127.0.0.1 udp dport 4739 actions counter drop\n")
        );
        attach("127.0.0.1", "ip daddr 127.0.0.1/32 udp dport { 4739 } drop");
        assert_eq!(packets(&counters(), 0), 3, "other words, the same rule");
        attach("192.0.2.81", by_name);
        assert_eq!(packets(&counters(), 0), 0, "the same words, another rule");
    });
}

#[test]
fn each_hook_and_interface_counts_for_itself() {
    in_netns(|netlink| {
        device(netlink, "other");
        succeed(sfunnel().args(["attach", "-i", "lo", "-i", "other", "-d", "both", "--ruleset", RULES]));
        send(4739, 5);
        let json: serde_json::Value =
            serde_json::from_slice(&succeed(sfunnel().args(["status", "--json"])).stdout).unwrap();
        for entry in json.as_array().unwrap() {
            let here = entry["interface"] == "lo" && entry["hook"] == "egress";
            assert_eq!(packets(&entry["counters"], 0), if here { 5 } else { 0 }, "{entry}");
        }
    });
}

#[test]
fn no_packet_is_lost_from_the_counters_by_replacing_under_traffic() {
    in_netns(|_| {
        let rules = [
            "udp dport 4739 actions counter drop; tcp dport 1 actions drop",
            "tcp dport 2 actions counter drop; udp dport 4739 actions counter drop",
        ];
        // On egress a packet has met the program when sending it returns. Ingress of lo is behind a queue.
        let attach =
            |rules: &str| succeed(sfunnel().args(["attach", "-i", "lo", "-d", "egress", "--ruleset", rules]));
        attach(rules[1]);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    send(4739, 100);
                    sent += 100;
                }
                sent
            });
            let stopping = Stopping(&stop);
            let mut last = 0;
            for round in 0..60 {
                let output = attach(rules[round % 2]);
                assert!(!talk(&output).contains("start from zero"), "{}", talk(&output));
                let now = packets(&counters(), round % 2);
                assert!(now >= last, "round {round}: {now} after {last}");
                last = now;
            }
            drop(stopping);
            let sent: u64 = flood.join().unwrap();
            assert!(sent > 1_000);
            assert_eq!(packets(&counters(), 1), sent);
        });
    });
}

/// Not the same as a program that does not count: whoever found it on a hook looks again.
#[test]
fn a_program_that_has_gone_is_told_from_one_without_counters() {
    if !require_root() {
        return;
    }
    let program = program(NEXT, 1);
    assert!(Counters::of_program(program.id).unwrap().is_none());
    let id = program.id;
    drop(program);
    assert!(matches!(Counters::of_program(id), Err(Unreadable::Gone)));
}

/// Ends a thread, also when what it is for has failed.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn two_capabilities_count_and_say_that_they_cannot_read() {
    in_netns(|_| {
        let confined = || {
            let mut command = with_capabilities(",+bpf,+net_admin");
            command.arg(binary());
            command
        };
        let attach = ["attach", "-i", "lo", "--ruleset", RULES];
        let said = talk(&succeed(confined().args(attach)));
        assert!(said.ends_with("\nattached to lo ingress\n") && !said.contains("counters"), "{said}");
        send(4739, 3);
        let output = succeed(confined().arg("status"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.ends_with("\n  reading counters needs CAP_SYS_ADMIN\n"), "{said}");
        let output = succeed(confined().args(["status", "--json"]));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json[0]["counters_error"], "reading counters needs CAP_SYS_ADMIN");
        assert!(json[0]["counters"].is_null());
        assert_eq!(packets(&counters(), 0), 3);

        let said = talk(&succeed(confined().args(attach)));
        let zero = "counters of lo ingress start from zero: reading counters needs CAP_SYS_ADMIN\n";
        assert!(said.contains(zero), "{said}");
        assert_eq!(packets(&counters(), 0), 0);
    });
}

/// IPv4 and UDP headers, behind an Ethernet header.
const HEADERS: u64 = 14 + 20 + 8;

#[test]
fn upstream_trap_over_the_mtu_is_counted_by_whether_the_sender_was_told() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo").index.unsigned_abs();
        let message = LinkUnspec::new_with_index(lo).mtu(1500).build();
        netlink.request(RouteNetlinkMessage::SetLink(message), 0).expect("lo with an MTU of 1500");
        let rules = "udp dport 4739 actions counter funnel tcp sport 540 dport 179";
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "egress", "--ruleset", rules]));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let most = 1500 - 20 - 28;
        socket.send_to(&vec![0; most], "127.0.0.1:4739").unwrap();
        socket.send_to(&vec![0; most + 1], "127.0.0.1:4739").unwrap();
        let json = counters();
        let expected = [("mtu-told".to_owned(), 1, most as u64 + 1 + HEADERS)];
        assert_eq!((packets(&json, 0), reasons(&json, 0)), (1, expected.to_vec()));

        // A socket that leaves fragmenting to routers. It also knows of no MTU.
        std::fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1").expect("a sysctl of the namespace");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&vec![0; most + 2], ("127.0.0.2", 4739)).unwrap();
        let [told] = expected;
        let expected = vec![told, ("mtu-untold".to_owned(), 1, most as u64 + 2 + HEADERS)];
        assert_eq!(reasons(&counters(), 0), expected);
        let said = status();
        assert!(
            said.contains(
                "\n    answered: over the MTU once funneled, the sender was told (ICMP): 1 packet, "
            )
        );
        assert!(said.contains("\n    dropped: over the MTU once funneled, and nobody to tell: 1 packet, "));
    });
}

#[test]
fn the_way_through_a_funnel_is_counted_at_both_ends_and_what_a_guard_drops() {
    in_netns(|_| {
        let out = "udp dport 4739-4740 actions counter funnel tcp sport 540 dport 179";
        let back = "tcp sport 540 dport 179 actions unfunnel udp dport 4739 counter";
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "egress", "--ruleset", out]));
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "ingress", "--ruleset", back]));
        let receiver = UdpSocket::bind("127.0.0.1:4739").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        send(4739, 3);
        send(4740, 2);
        let mut buffer = [0; 16];
        for _ in 0..3 {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 4);
        }
        let json: serde_json::Value =
            serde_json::from_slice(&succeed(sfunnel().args(["status", "--json"])).stdout).unwrap();
        for entry in json.as_array().unwrap() {
            let counted = &entry["counters"];
            let bytes = counted["rules"][0]["bytes"].as_u64().unwrap();
            let found = (packets(counted, 0), bytes, reasons(counted, 0));
            // Each hook counts packets as they came to it.
            let funneled = 4 + HEADERS + 20;
            let expected = match entry["hook"].as_str().unwrap() {
                "egress" => (5, 5 * (4 + HEADERS), vec![]),
                _ => (3, 3 * funneled, vec![("guarded".to_owned(), 2, 2 * funneled)]),
            };
            assert_eq!(found, expected, "{entry}");
        }
    });
}

#[test]
fn upstream_trap_fragments_are_counted_one_by_one() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo").index.unsigned_abs();
        let message = LinkUnspec::new_with_index(lo).mtu(1500).build();
        netlink.request(RouteNetlinkMessage::SetLink(message), 0).expect("lo with an MTU of 1500");
        // Later fragments have payload where ports would be: these ones match as well.
        let rules = "udp actions counter funnel tcp sport 540 dport 179";
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "egress", "--ruleset", rules]));
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[1; 4000], "127.0.0.1:4739").unwrap();
        let json = counters();
        let bytes = 8 + 4000 + 3 * (14 + 20);
        let expected = vec![("fragment".to_owned(), 3, bytes)];
        assert_eq!((packets(&json, 0), reasons(&json, 0)), (0, expected.clone()));
        // Reasons are carried over, as what was done is.
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "egress", "--ruleset", rules]));
        assert_eq!(reasons(&counters(), 0), expected);
    });
}

#[test]
fn upstream_trap_gso_off_says_how_many_packets_it_leaves_alone() {
    in_netns(|_| {
        let rules = "udp dport 4739 actions counter funnel tcp sport 540 dport 179";
        succeed(sfunnel().args(["attach", "-i", "lo", "-d", "egress", "--gso", "off", "--ruleset", rules]));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&sender, sockopt::UdpGsoSegment, &100).expect("UDP_SEGMENT");
        sender.send_to(&[1; 1000], "127.0.0.1:4739").unwrap();
        let json = counters();
        assert_eq!((packets(&json, 0), reasons(&json, 0)), (0, vec![("gso".to_owned(), 1, 1000 + HEADERS)]));
    });
}
