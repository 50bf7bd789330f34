//! `bypass direct`: packets with pods' addresses between the hosts, of TCP and UDP, over both versions of IP.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::cluster::{Cluster, NEEDS, address, to};
use super::support::lab::Capture;
use super::support::{flows, require};
use super::{TCPDUMP, be16, inside, transfer};

/// Both ways of port 7000, of both protocols.
const RULES: &str = "tcp dport 7000 actions bypass direct\ntcp sport 7000 actions bypass direct\n\
                     udp dport 7000 actions bypass direct\nudp sport 7000 actions bypass direct\n";

/// A packet from a pod to a pod, of that protocol and from or to that port.
fn is_between_pods(frame: &[u8], proto: u8, port: u16) -> bool {
    let (found, l4, pods) = match be16(frame, 12) {
        Some(0x0800) => {
            let pods = [26, 30].map(|at| frame.get(at..at + 2) == Some(&[10, 244]));
            (frame.get(23), 34, pods)
        }
        Some(0x86dd) => {
            let pods = [22, 38].map(|at| frame.get(at..at + 4) == Some(&[0xfd, 0, 2, 0x44]));
            (frame.get(20), 54, pods)
        }
        _ => return false,
    };
    found == Some(&proto) && pods == [true; 2] && [l4, l4 + 2].iter().any(|at| be16(frame, *at) == Some(port))
}

fn is_overlaid(frame: &[u8], proto: u8, port: u16) -> bool {
    inside(frame).is_some_and(|inner| is_between_pods(inner, proto, port))
}

/// How many frames are on the wire as they are, and how many on the overlay.
fn counted(frames: &[Vec<u8>], proto: u8, port: u16) -> (usize, usize) {
    let count =
        |wanted: fn(&[u8], u8, u16) -> bool| frames.iter().filter(|frame| wanted(frame, proto, port)).count();
    (count(is_between_pods), count(is_overlaid))
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a short exchange between the first pods of two nodes is on the wire of the second.
fn ways(cluster: &Cluster, client: usize, server: usize) -> (usize, usize) {
    let capture = Capture::start(cluster.host(server), "eth0");
    let (from, on) = (cluster.pod(client, 0), cluster.pod(server, 0));
    assert_eq!(flows::tcp(from, on, to(server, 0, 7000), 1, 20), 20);
    let seen = |frame: &[u8]| is_between_pods(frame, TCP, 7000) || is_overlaid(frame, TCP, 7000);
    counted(&capture.stop(40, seen).frames, TCP, 7000)
}

#[test]
fn tcp_and_udp_leave_the_overlay_as_they_are() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let (client, server) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let (direct, overlaid) = ways(&cluster, 0, 1);
    assert!(direct == 0 && overlaid >= 40, "{direct}, {overlaid}");

    cluster.attach_all(RULES);
    let capture = Capture::start(cluster.host(1), "eth0");
    assert_eq!(flows::tcp(client, server, to(1, 0, 7000), 2, 20), 40);
    assert_eq!(flows::udp(client, server, to(1, 0, 7000), 10, 1000), 10);
    assert_eq!(flows::udp_gso(client, server, to(1, 0, 7000), 8, 1000), 8);
    assert_eq!(flows::tcp(client, server, to(1, 0, 7001), 2, 20), 40);
    assert_eq!(flows::udp(client, server, to(1, 0, 7001), 10, 1000), 10);
    let frames = capture.stop(10, |frame| is_overlaid(frame, UDP, 7001)).frames;
    for (proto, least) in [(TCP, 80), (UDP, 10)] {
        let (direct, overlaid) = counted(&frames, proto, 7000);
        assert!(direct >= least && overlaid == 0, "protocol {proto}: {direct}, {overlaid}");
        let (direct, overlaid) = counted(&frames, proto, 7001);
        assert!(direct == 0 && overlaid >= least, "another port, protocol {proto}: {direct}, {overlaid}");
    }
    // One router less than there are hosts, as on the overlay.
    let ours = |frame: &&Vec<u8>| is_between_pods(frame, TCP, 7000);
    assert!(frames.iter().filter(ours).all(|frame| frame[22] == 63), "another TTL");
    // Of another length, and with the pod's address.
    assert_eq!(transfer(client, None, server, to(1, 0, 7000), 16 << 20), IpAddr::from(address(0, 0)));
    cluster.no_checksum_errors();
}

/// The network between the nodes, and pods, have IPv6 as well.
fn add_ipv6(cluster: &Cluster) {
    for (node, n) in cluster.nodes.iter().zip(1..) {
        let host = &node.host;
        for ns in node.pods.iter().chain([host]) {
            for of in ["all", "default"] {
                ns.sysctl(&format!("ipv6/conf/{of}/accept_dad"), "0");
                ns.sysctl(&format!("ipv6/conf/{of}/disable_ipv6"), "0");
            }
        }
        host.sysctl("ipv6/conf/all/forwarding", "1");
        host.tool("ip", &format!("addr add fd00:77::{n}/64 dev eth0 nodad"));
        host.tool("ip", &format!("addr add fd00:244:{n}::1/64 dev br0 nodad"));
        for other in (1..=cluster.nodes.len()).filter(|other| *other != n) {
            host.tool(
                "ip",
                &format!("-6 route add fd00:244:{other}::/64 via fe80::77:{other} dev vx0 onlink"),
            );
            let mac = format!("02:00:00:00:77:{other:02x}");
            host.tool("ip", &format!("-6 neigh add fe80::77:{other} lladdr {mac} dev vx0 nud permanent"));
        }
        for (pod, at) in node.pods.iter().zip(2..) {
            pod.tool("ip", &format!("addr add fd00:244:{n}::{at}/64 dev eth0 nodad"));
            pod.tool("ip", &format!("-6 route add default via fd00:244:{n}::1"));
        }
        node.pods.iter().chain([host]).for_each(|ns| ns.settle());
    }
}

#[test]
fn ipv6_leaves_the_overlay_where_the_nodes_have_it() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    add_ipv6(&cluster);
    let (client, server) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let to6 = |port| SocketAddr::from(("fd00:244:2::2".parse::<Ipv6Addr>().expect("an address"), port));
    assert_eq!(flows::tcp(client, server, to6(7000), 1, 2), 2, "by the overlay");

    let nodes = "node fd00:77::1 fd00:244:1::/64\nnode fd00:77::2 fd00:244:2::/64\n";
    cluster.attach_all(&(nodes.to_owned() + RULES));
    assert!(cluster.status(0).contains("2 of 2 peers"), "{}", cluster.status(0));
    let capture = Capture::start(cluster.host(1), "eth0");
    assert_eq!(flows::tcp(client, server, to6(7000), 2, 20), 40);
    assert_eq!(flows::udp(client, server, to6(7000), 10, 1000), 10);
    assert_eq!(flows::tcp(client, server, to(1, 0, 7000), 2, 20), 40);
    assert_eq!(flows::udp(client, server, to6(7001), 10, 1000), 10);
    let frames = capture.stop(10, |frame| is_overlaid(frame, UDP, 7001)).frames;
    let (six, four): (Vec<_>, Vec<_>) =
        frames.into_iter().partition(|frame| be16(inside(frame).unwrap_or(frame), 12) == Some(0x86dd));
    for (frames, proto, least) in [(&six, TCP, 80), (&six, UDP, 10), (&four, TCP, 80)] {
        let (direct, overlaid) = counted(frames, proto, 7000);
        assert!(direct >= least && overlaid == 0, "protocol {proto}: {direct}, {overlaid}");
    }
    assert!(counted(&six, UDP, 7001).1 >= 10, "another port");
    assert_eq!(flows::bulk(client, server, to6(7000), 4 << 20), 4 << 20);
    cluster.no_checksum_errors();
}

/// A probe has what packets of pods have: where that does not arrive, they would be lost.
#[test]
fn a_network_that_drops_pods_addresses_is_not_taken() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    cluster.attach(1, RULES, &["--receive-only"]);
    // Of half of the pods, and only one way.
    cluster.switch.nft(
        "table bridge fussy { chain c { type filter hook prerouting priority 0; ip daddr 10.244.2.128/25 drop;\n}\n}\n",
    );
    let said = cluster.attach(0, RULES, &[]);
    assert!(
        said.contains("node 192.168.77.2 (direct) stays on the overlay: no answer between pods'"),
        "{said}"
    );
    assert!(said.contains("nothing is sent past the overlay"), "{said}");
    assert_eq!(ways(&cluster, 0, 1).0, 0);
    cluster.switch.nft("delete table bridge fussy\n");
    cluster.attach(0, RULES, &[]);
    let (direct, overlaid) = ways(&cluster, 0, 1);
    assert!(direct >= 20 && overlaid >= 20, "answers stay on the overlay: {direct}, {overlaid}");
    cluster.no_checksum_errors();
}

#[test]
fn a_node_that_takes_nothing_direct_stays_on_the_overlay() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(3, 1);
    // Nobody writes nodes.
    let run = |node: usize, more: &[&str]| {
        let args = ["bypass", "attach", "--overlay-if", "vx0", "--host-if", "eth0", "--peers", "kernel"];
        let output = cluster.sfunnel(node, &[&args[..], &["--ruleset", RULES], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    run(1, &["--receive-only"]);
    // It receives, but not direct.
    cluster.attach(2, "tcp actions bypass\n", &["--receive-only"]);
    let said = run(0, &[]);
    assert!(said.contains("node 192.168.77.3 (direct) stays on the overlay"), "{said}");
    assert!(!said.contains("192.168.77.2 (direct) stays"), "{said}");
    assert!(cluster.status(0).contains("1 of 2 peers"), "{}", cluster.status(0));
    assert!(ways(&cluster, 0, 1).0 >= 20);
    assert_eq!(ways(&cluster, 0, 2).0, 0);
    // Behind a router, a host is no next hop.
    cluster.host(0).tool("ip", "route add 192.168.77.2 via 192.168.77.3");
    let said = run(0, &[]);
    assert!(said.contains("192.168.77.2 (direct) stays on the overlay: there is a router"), "{said}");
    assert_eq!(ways(&cluster, 0, 1).0, 0);
    cluster.no_checksum_errors();
}

#[test]
fn what_the_wire_does_not_carry_stays_on_the_overlay() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    cluster.attach_all(RULES);
    cluster.host(0).tool("ip", "link set eth0 mtu 1400");
    let (client, server) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let listening = server.run(|| std::net::UdpSocket::bind(to(1, 0, 7000))).expect("bind");
    let sending = client.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).expect("bind");
    listening.set_read_timeout(Some(super::DEADLINE)).expect("a timeout");
    let capture = Capture::start(cluster.host(1), "eth0");
    for length in [1372, 1373, 1422] {
        sending.send_to(&vec![7; length], to(1, 0, 7000)).expect("send");
        let mut got = [0; 2000];
        assert_eq!(listening.recv(&mut got).expect("a datagram"), length);
    }
    let frames = capture.stop(1, |frame| is_between_pods(frame, UDP, 7000)).frames;
    assert_eq!(counted(&frames, UDP, 7000).0, 1, "the shortest");
    cluster.no_checksum_errors();
}
