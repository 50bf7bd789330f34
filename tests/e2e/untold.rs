//! ICMP errors that must not be sent: RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e).
//!
//! A router with `10.1.0.1/24` and `2001:db8:1::1/64` on `eth0`, where packets come in, and `10.2.0.1/24` and
//! `2001:db8:2::1/64` on `eth1`, whose MTU is 1400. Each packet fits as it is and not once it is funneled. It goes in at
//! `eth0` or out at `eth1`, and the rule's counters say what became of it: `told`, `untold`, or neither.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::support::lab::{DEADLINE, Ns};
use super::support::packet::Packet;
use super::support::wire::Wire;
use super::support::{Need, require};

struct Router {
    ns: Ns,
    near: Ns,
    _far: Ns,
}

const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]];
const RULE: &str = "udp dport 4739 actions counter funnel tcp sport 540 dport 179";

impl Router {
    fn new() -> Router {
        let (ns, near, far) = (Ns::with_ipv6("router"), Ns::with_ipv6("near"), Ns::with_ipv6("far"));
        for (index, (iface, peer)) in [("eth0", &near), ("eth1", &far)].into_iter().enumerate() {
            let network = index + 1;
            let path = peer.path();
            ns.tool("ip", &format!("link add {iface} type veth peer name {iface} netns {}", path.display()));
            ns.tool("ip", &format!("link set {iface} address 02:00:00:00:00:01"));
            for (ns, host) in [(&ns, 1), (peer, 2)] {
                ns.tool("ip", &format!("addr add 10.{network}.0.{host}/24 brd + dev {iface}"));
                ns.tool("ip", &format!("addr add 2001:db8:{network}::{host}/64 dev {iface} nodad"));
                ns.tool("ip", &format!("link set {iface} up"));
            }
        }
        ns.tool("ip", "link set eth1 mtu 1400");
        for (name, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            ns.sysctl(name, value);
        }
        for ns in [&ns, &near, &far] {
            ns.settle();
        }
        Router { ns, near, _far: far }
    }

    fn sfunnel(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(args).arg("--netns").arg(self.ns.path()).stdin(Stdio::null());
        let output = command.output().expect("sfunnel");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Packets of the rule in all, told and untold.
    fn counts(&self) -> [u64; 3] {
        let status: serde_json::Value =
            serde_json::from_str(&self.sfunnel(&["status", "--json"])).expect("JSON");
        let rule = &status[0]["counters"]["rules"][0];
        let reasons = rule["reasons"].as_array().expect("reasons");
        let of = |reason: &serde_json::Value| reason["packets"].as_u64().expect("a number");
        let all = rule["packets"].as_u64().expect("a number") + reasons.iter().map(of).sum::<u64>();
        let named = |key| reasons.iter().find(|reason| reason["reason"] == key).map_or(0, of);
        [all, named("mtu-told"), named("mtu-untold")]
    }

    /// What becomes of a packet with this destination on the link.
    fn fate(&self, wire: &Wire, words: &str, mac: [u8; 6]) -> &'static str {
        let before = self.counts();
        let mut frame = Packet::parse(words).expect("words").frame();
        frame[..6].copy_from_slice(&mac);
        wire.send(&frame, 0);
        let start = Instant::now();
        let mut after = self.counts();
        while after[0] == before[0] && start.elapsed() < DEADLINE {
            after = self.counts();
        }
        assert_eq!(after[0], before[0] + 1, "{words}: not seen");
        match (after[1] - before[1], after[2] - before[2]) {
            (1, 0) => "told",
            (0, 1) => "untold",
            _ => "neither",
        }
    }
}

fn check(direction: &str, cases: &[(&str, usize, &str)]) {
    if !require(&[Need::Root, Need::Tool("ip", "iproute2")]) {
        return;
    }
    let router = Router::new();
    let (iface, wire) = match direction {
        "ingress" => ("eth0", Wire::new(&router.near, "eth0")),
        _ => ("eth1", Wire::new(&router.ns, "eth1")),
    };
    router.sfunnel(&["attach", "-i", iface, "-d", direction, "--ruleset", RULE]);
    let found: Vec<_> = cases
        .iter()
        .map(|(words, mac, _)| {
            // 1390 bytes, and 1410 with the funnel's header.
            let len = if words.contains(':') { 1342 } else { 1362 };
            let words = format!("ip {words} udp 25000 > 4739 len {len}");
            (words.clone(), *mac, router.fate(&wire, &words, MACS[*mac]))
        })
        .collect();
    let expected = cases.iter().zip(&found).map(|((_, mac, fate), (words, ..))| (words.clone(), *mac, *fate));
    pretty_assertions::assert_eq!(found, expected.collect::<Vec<_>>());
}

const BROADCAST: usize = 1;
const MULTICAST: usize = 2;

#[test]
fn a_router_answers_no_packet_that_ipv4_forbids_to_answer() {
    check(
        "ingress",
        &[
            ("10.1.0.2 > 10.2.0.2 df", 0, "told"),
            ("10.1.0.9 > 10.2.0.2 df", 0, "told"),
            ("10.1.0.2 > 10.2.0.2 df options 3", 0, "told"),
            // RFC 1122: a source that does not define a single host.
            ("0.0.0.0 > 10.2.0.2 df", 0, "untold"),
            ("0.1.2.3 > 10.2.0.2 df", 0, "untold"),
            ("127.0.0.1 > 10.2.0.2 df", 0, "untold"),
            ("127.9.9.9 > 10.2.0.2 df", 0, "untold"),
            ("224.0.0.1 > 10.2.0.2 df", 0, "untold"),
            ("239.1.1.1 > 10.2.0.2 df", 0, "untold"),
            ("240.0.0.1 > 10.2.0.2 df", 0, "untold"),
            ("255.255.255.255 > 10.2.0.2 df", 0, "untold"),
            ("10.1.0.255 > 10.2.0.2 df", 0, "untold"),
            ("10.2.0.255 > 10.2.0.2 df", 0, "untold"),
            // This machine's own, and one that it has no route to (RFC 1812, section 5.3.7).
            ("10.1.0.1 > 10.2.0.2 df", 0, "untold"),
            ("192.0.2.1 > 10.2.0.2 df", 0, "untold"),
            // A header that fails validation (RFC 1812, section 5.2.2), with and without options.
            ("10.1.0.2 > 10.2.0.2 df badip", 0, "untold"),
            ("10.1.0.2 > 10.2.0.2 df badip options 3", 0, "untold"),
            // It may be fragmented.
            ("10.1.0.2 > 10.2.0.2", 0, "untold"),
            // Fragments, the first one too.
            ("10.1.0.2 > 10.2.0.2 df mf", 0, "neither"),
            // Destinations of many, by address and by link.
            ("10.1.0.2 > 10.2.0.255 df", 0, "neither"),
            ("10.1.0.2 > 224.0.0.1 df", MULTICAST, "neither"),
            ("10.1.0.2 > 255.255.255.255 df", BROADCAST, "neither"),
            ("10.1.0.2 > 10.2.0.2 df", BROADCAST, "neither"),
            ("10.1.0.2 > 10.2.0.2 df", MULTICAST, "neither"),
        ],
    );
}

#[test]
fn a_router_answers_no_packet_that_ipv6_forbids_to_answer() {
    check(
        "ingress",
        &[
            ("2001:db8:1::2 > 2001:db8:2::2", 0, "told"),
            // RFC 4443: a source that does not identify a single node: unspecified, multicast, anycast.
            (":: > 2001:db8:2::2", 0, "untold"),
            ("::1 > 2001:db8:2::2", 0, "neither"),
            ("ff02::1 > 2001:db8:2::2", 0, "neither"),
            ("ff0e::1 > 2001:db8:2::2", 0, "neither"),
            ("2001:db8:1:: > 2001:db8:2::2", 0, "untold"),
            ("2001:db8:1::1 > 2001:db8:2::2", 0, "untold"),
            ("2001:db8:9::1 > 2001:db8:2::2", 0, "untold"),
            // Destinations of many, by address and by link.
            ("2001:db8:1::2 > ff0e::1", MULTICAST, "neither"),
            ("2001:db8:1::2 > 2001:db8:2::2", BROADCAST, "neither"),
            ("2001:db8:1::2 > 2001:db8:2::2", MULTICAST, "neither"),
        ],
    );
}

#[test]
fn nothing_that_leaves_is_answered_where_ipv4_forbids_it() {
    check(
        "egress",
        &[
            ("10.1.0.2 > 10.2.0.2 df", 0, "told"),
            ("10.2.0.1 > 10.2.0.2 df", 0, "told"),
            ("0.0.0.0 > 10.2.0.2 df", 0, "untold"),
            ("0.1.2.3 > 10.2.0.2 df", 0, "untold"),
            ("127.0.0.1 > 10.2.0.2 df", 0, "untold"),
            // Within a host, as on `lo`.
            ("127.0.0.1 > 127.0.0.2 df", 0, "told"),
            ("224.0.0.1 > 10.2.0.2 df", 0, "untold"),
            ("240.0.0.1 > 10.2.0.2 df", 0, "untold"),
            ("255.255.255.255 > 10.2.0.2 df", 0, "untold"),
            ("10.1.0.2 > 10.2.0.2 df badip", 0, "untold"),
            ("10.1.0.2 > 10.2.0.2", 0, "untold"),
            ("10.1.0.2 > 10.2.0.2 df mf", 0, "neither"),
            ("10.2.0.1 > 10.2.0.255 df", BROADCAST, "untold"),
            ("10.2.0.1 > 255.255.255.255 df", BROADCAST, "untold"),
            ("10.2.0.1 > 0.0.0.0 df", 0, "untold"),
            ("10.2.0.1 > 224.0.0.1 df", MULTICAST, "untold"),
            ("10.2.0.1 > 240.0.0.1 df", 0, "untold"),
            ("10.2.0.1 > 10.2.0.2 df", BROADCAST, "untold"),
            ("10.2.0.1 > 10.2.0.2 df", MULTICAST, "untold"),
        ],
    );
}

#[test]
fn nothing_that_leaves_is_answered_where_ipv6_forbids_it() {
    check(
        "egress",
        &[
            ("2001:db8:1::2 > 2001:db8:2::2", 0, "told"),
            ("2001:db8:2::1 > 2001:db8:2::2", 0, "told"),
            ("::2 > 2001:db8:2::2", 0, "told"),
            ("::1 > ::1", 0, "told"),
            (":: > ::", 0, "untold"),
            (":: > 2001:db8:2::2", 0, "untold"),
            ("::1 > 2001:db8:2::2", 0, "untold"),
            ("ff02::1 > 2001:db8:2::2", 0, "untold"),
            ("2001:db8:2::1 > ff0e::1", MULTICAST, "untold"),
            ("2001:db8:2::1 > 2001:db8:2::2", BROADCAST, "untold"),
            ("2001:db8:2::1 > 2001:db8:2::2", MULTICAST, "untold"),
        ],
    );
}
