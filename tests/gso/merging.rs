//! The merging pair: what has been unfunneled reaches the stack in packets of many segments, and nothing else
//! changes. What makes the pair, what is not for it, what removes it.

use std::net::UdpSocket;

use super::support::flows;
use super::support::lab::{Capture, Ns};
use super::support::packet::Packet;
use super::support::world::{NEEDS, Way, World, port};
use super::support::{Need, require};
use super::{attach, dropped, funnel_strictly, host, interfaces, json, sent, sfunnel, succeed};

const UNFUNNEL: &str = "tcp sport 540 dport 80 actions unfunnel tcp";
const TOOLS: [Need; 2] = [Need::Tool("tcpdump", "tcpdump"), Need::Tool("ethtool", "ethtool")];

#[test]
fn unfunneled_tcp_reaches_the_stack_merged_and_its_acknowledgements_go_straight_on() {
    const BYTES: usize = 16 << 20;
    if !require(&NEEDS) || !require(&TOOLS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        for world in [World::new(Way::Direct), World::new(Way::NatFinished), World::six(Way::Direct)] {
            funnel_strictly(&world, "tcp", outer);
            let received = || world.server.snmp("Tcp", "InSegs");
            let before = received();
            let capture = Capture::start(&world.server, "vs");
            assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), BYTES), BYTES);
            let what = format!("{} through {outer}, {:?}", world.ip, world.way);

            let segments = u64::try_from(BYTES / 1500).expect("a number");
            let merged = received() - before;
            assert!(merged < segments / 2, "{what}: the stack saw {merged} packets, of {segments} segments");
            assert!(sent(&world.server, "sfm") > segments, "{what}");
            let frames = capture.stop(1, |frame| frame.len() > 3_000).frames;
            let longer = frames.iter().find(|frame| frame.len() > 3_000).expect("a merged packet");
            assert_eq!(port(longer, 2), Some(8080), "{what}: only what has been unfunneled");

            // What comes back is the end of the handshake, acknowledgements, and one or two segments that close.
            let back = sent(&world.client, "sfm");
            assert!(back < 10, "{what}: {back} packets without data were merged");
            world.no_checksum_errors();
        }
    }
}

/// The kernel gives a hash to the first segment that a socket sends after a pause, and to no other (`ooo_okay`,
/// `netdev_pick_tx`); what differs in it is not merged, and comes out in another order.
#[test]
fn segments_of_a_burst_are_merged_in_their_order() {
    const BYTES: usize = 12_000;
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        for world in [World::new(Way::Direct), World::six(Way::Direct)] {
            funnel_strictly(&world, "tcp", outer);
            for _ in 0..20 {
                assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), BYTES), BYTES);
            }
            let late = world.server.snmp("TcpExt", "TCPOFOQueue");
            assert_eq!(late, 0, "{} through {outer}: packets before their turn", world.ip);
        }
    }
}

#[test]
fn the_merging_pair_is_there_as_long_as_ingress_unfunnels_tcp() {
    if !require(&NEEDS) || !require(&TOOLS) {
        return;
    }
    let (host, _far) = host();
    let status = |args: &[&str]| String::from_utf8_lossy(&sfunnel(&host, args).stdout).into_owned();
    for without in ["tcp sport 540 dport 80 actions unfunnel udp", "tcp dport 80 actions alias dport 81"] {
        attach(&host, "eth0", "ingress", without);
        assert_eq!(interfaces(&host).len(), 2, "{without}");
        attach(&host, "eth0", "egress", UNFUNNEL);
        assert_eq!(interfaces(&host).len(), 2, "what egress unfunnels is on its way out");
        attach(&host, "eth0", "ingress", UNFUNNEL);
        for (name, number) in [("sfm7-eth0", 0x4000_003a), ("sfg7-eth0", 0x4000_003b)] {
            let end = &json(&host, &format!("-j -d addr show {name}"))[0];
            assert_eq!(end["ifindex"], number);
            assert_eq!((&end["mtu"], &end["operstate"]), (&65_535.into(), &"UP".into()));
            assert_eq!(end["addr_info"], serde_json::json!([]), "{end}");
            assert!(end["ifalias"].as_str().is_some_and(|text| text.starts_with("sfunnel")), "{end}");
        }
        let features = |name: &str| host.tool("ethtool", &format!("-k {name}"));
        assert!(features("sfm7-eth0").contains("tx-tcp-segmentation: off"));
        assert!(features("sfg7-eth0").contains("\ngeneric-receive-offload: on"));
        let text = status(&["status"]);
        assert!(text.contains("\neth0 merging pair: sfm7-eth0, sfg7-eth0\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&status(&["status", "--json"])).expect("JSON");
        assert_eq!(json[0]["merging_pair"], serde_json::json!(["sfm7-eth0", "sfg7-eth0"]));
        assert_eq!(json[0]["pair"], serde_json::Value::Null);
        // With others of the same need nothing is made anew.
        let address = json_address(&host);
        attach(&host, "eth0", "ingress", &format!("{UNFUNNEL}; tcp dport 1 actions drop"));
        assert_eq!(json_address(&host), address);
        attach(&host, "eth0", "ingress", without);
        assert_eq!(interfaces(&host).len(), 2, "{without}");
    }
    attach(&host, "eth0", "both", &format!("{UNFUNNEL}; udp dport 53 actions funnel tcp sport 1 dport 2"));
    assert_eq!(interfaces(&host).len(), 8, "lo, eth0, both pairs and two macvlans");
    let said = succeed(&host, &["detach"]);
    assert!(
        said.contains("removed segmentation pair sfe7-eth0, sfi7-eth0, sfc7-eth0, sfd7-eth0\n"),
        "{said}"
    );
    assert!(said.contains("removed merging pair sfm7-eth0, sfg7-eth0\n"), "{said}");
    assert_eq!(interfaces(&host).len(), 2);
}

fn json_address(ns: &Ns) -> serde_json::Value {
    json(ns, "-j link show sfm7-eth0")[0]["address"].clone()
}

#[test]
fn a_merging_pair_that_is_missing_is_reported_and_made_again() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    attach(&host, "eth0", "ingress", UNFUNNEL);
    host.tool("ip", "link del sfg7-eth0");
    let output = |args: &[&str]| String::from_utf8_lossy(&sfunnel(&host, args).stdout).into_owned();
    let text = output(&["status"]);
    assert!(text.contains("merging pair: BROKEN, missing; unfunneled TCP is lost; attach again"), "{text}");
    let text = output(&["doctor", "-i", "eth0"]);
    assert!(text.contains("its merging pair is missing; unfunneled TCP is lost: attach again"), "{text}");
    attach(&host, "eth0", "ingress", UNFUNNEL);
    assert_eq!(interfaces(&host).len(), 4);
    for (tool, args, why) in [
        ("ip", "link set sfm7-eth0 down", "down: sfm7-eth0"),
        ("tc", "filter del dev sfg7-eth0 ingress", "without its filter at sfg7-eth0"),
    ] {
        host.tool(tool, args);
        let text = output(&["status"]);
        assert!(text.contains(&format!("merging pair: BROKEN, {why}; ")), "{text}");
        let text = output(&["status", "--json"]);
        assert!(text.contains(&format!("merging pair: {why}")), "{text}");
        let text = output(&["doctor", "-i", "eth0"]);
        assert!(text.contains(&format!("its merging pair is {why}; ")), "{text}");
        attach(&host, "eth0", "ingress", UNFUNNEL);
        assert!(!output(&["status"]).contains("BROKEN"), "{why}");
    }
}

/// Whoever removes a pair must know of whoever is about to rely on it.
#[test]
fn attachments_at_the_same_time_do_not_take_each_others_pairs_away() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    for round in 0..15 {
        attach(&host, "eth0", "ingress", UNFUNNEL);
        std::thread::scope(|scope| {
            for more in [&[][..], &["--no-merge"]] {
                let attach = ["attach", "-i", "eth0", "-d", "ingress", "--ruleset", UNFUNNEL];
                let args = [&attach, more].concat();
                let host = &host;
                scope.spawn(move || succeed(host, &args));
            }
        });
        let text = String::from_utf8_lossy(&sfunnel(&host, &["status"]).stdout).into_owned();
        assert!(!text.contains("BROKEN"), "round {round}: {text}");
        assert_eq!(text.contains("merging pair"), interfaces(&host).len() == 4, "round {round}: {text}");
    }
}

/// With `--gso off` and `limit`, and where a tunnel is told with each packet where it came from, nothing is merged.
#[test]
fn merging_can_be_left_out_and_needs_a_pair() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    for how in [&["--gso", "off"][..], &["--gso", "limit"], &["--no-merge"]] {
        attach(&host, "eth0", "ingress", UNFUNNEL);
        let attach = ["attach", "-i", "eth0", "-d", "ingress", "--ruleset", UNFUNNEL];
        succeed(&host, &[&attach, how].concat());
        assert_eq!(interfaces(&host).len(), 2, "{how:?}");
    }
    succeed(&host, &["attach", "-i", "lo", "-d", "ingress", "--ruleset", UNFUNNEL]);
    assert_eq!(interfaces(&host).len(), 2, "lo");
    host.tool("ip", "link add tunnel type vxlan external dstport 4790");
    let said = succeed(&host, &["attach", "-i", "tunnel", "-d", "ingress", "--ruleset", UNFUNNEL]);
    assert!(!interfaces(&host).iter().any(|name| name.starts_with("sf")), "external");
    assert!(!said.contains("falling back"), "nothing has to be cut: {said}");
}

/// Whatever reaches an end by itself must not get to the interface's stack.
#[test]
fn nothing_gets_through_a_merging_pair_but_what_the_program_has_sent() {
    if !require(&NEEDS) {
        return;
    }
    let (host, far) = host();
    attach(&host, "eth0", "ingress", UNFUNNEL);
    let received = host.run(|| UdpSocket::bind("10.1.0.1:7")).expect("bind");
    let frame = Packet::parse("ip 10.1.0.2 > 10.1.0.1 udp 1 > 7 len 5000").expect("words").frame();
    for end in ["sfm7-eth0", "sfg7-eth0"] {
        flows::send_nonlinear(&host, end, &frame);
    }
    let sender = far.run(|| UdpSocket::bind("10.1.0.2:0")).expect("bind");
    sender.send_to(b"last", "10.1.0.1:7").expect("send");
    let mut buffer = [0; 9000];
    let (length, _) = received.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(&buffer[..length], b"last");
    assert_eq!(dropped(&host, "sfg7-eth0"), 1, "what one end has sent is dropped at the other");
}
