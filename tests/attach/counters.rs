//! Counters of real packets: read when the process has gone, kept over a replacement, and what is said without
//! the privilege to read them.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

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
                "  rule 2: 0 packets, 0 bytes: udp dport 4741 actions unfunnel tcp counter",
                "  passed: not a funneled packet: 1 packet, 46 bytes",
            ]
        );
        let json = counters();
        assert_eq!((packets(&json, 0), json["rules"][1]["rule"].as_u64()), (3, Some(2)));
        let reasons = json["reasons"].as_array().unwrap();
        let reason = reasons.iter().find(|reason| reason["reason"] == "not-funneled").unwrap();
        assert_eq!((reason["packets"].as_u64(), reason["bytes"].as_u64()), (Some(1), Some(46)));
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
fn each_hook_and_interface_counts_for_itself() {
    in_netns(|netlink| {
        device(netlink, "other");
        succeed(sfunnel().args(["attach", "-i", "lo,other", "-d", "both", "--ruleset", RULES]));
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
        let attach = |rules: &str| succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", rules]));
        attach(rules[1]);
        let stop = Arc::new(AtomicBool::new(false));
        let flood = {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    send(4739, 100);
                    sent += 100;
                }
                sent
            })
        };
        let mut last = 0;
        for round in 0..60 {
            let output = attach(rules[round % 2]);
            assert!(!talk(&output).contains("start from zero"), "{}", talk(&output));
            let now = packets(&counters(), round % 2);
            assert!(now >= last, "round {round}: {now} after {last}");
            last = now;
        }
        stop.store(true, Ordering::Relaxed);
        let sent: u64 = flood.join().unwrap();
        assert!(sent > 1_000);
        assert_eq!(packets(&counters(), 1), sent);
    });
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
        assert_eq!(talk(&succeed(confined().args(attach))), "attached to lo ingress\n");
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
