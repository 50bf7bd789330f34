//! IPv6 with real sockets: every flow on every way, `alias`, one ruleset for both versions, and L3 devices.
//!
//! Default offloads; one of the ways is a hop that finishes checksums in software.

use std::net::SocketAddr;

use super::on_every_way;
use super::support::lab::{Capture, Ns, attach, link};
use super::support::model;
use super::support::world::{FLOWS, NEEDS, Way, World, everything_arrives, funneled, port, unfunneled};
use super::support::{Need, flows, require};

#[test]
fn udp_over_ipv6_arrives_through_tcp_whatever_is_on_the_way() {
    on_every_way(("udp", "tcp"), World::six);
}

#[test]
fn udp_over_ipv6_arrives_through_udp_whatever_is_on_the_way() {
    on_every_way(("udp", "udp"), World::six);
}

#[test]
fn tcp_over_ipv6_talks_through_tcp_whatever_is_on_the_way() {
    on_every_way(("tcp", "tcp"), World::six);
}

#[test]
fn tcp_over_ipv6_talks_through_udp_whatever_is_on_the_way() {
    on_every_way(("tcp", "udp"), World::six);
}

#[test]
fn wireshark_finds_no_bad_checksum_in_ipv6_behind_a_hop_that_finishes_them() {
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump"), Need::Tool("tshark", "tshark")]) {
        return;
    }
    for flow in FLOWS {
        let world = World::six(Way::Finished);
        let capture = Capture::start(&world.server, "vs");
        let count = everything_arrives(&world, flow);
        let finished = capture.stop(count, funneled);
        assert_eq!(finished.bad_checksums("ipv6.src == fd00:1::1"), Vec::<String>::new(), "{flow:?}");
        assert!(finished.dissected("ipv6.src == fd00:1::1") >= count, "{flow:?}: what was dissected?");
        for frame in finished.frames.iter().filter(|frame| funneled(frame)) {
            assert!(model::checksums_are_right(frame), "outer, {flow:?}");
            assert!(model::checksums_are_right(&unfunneled(frame, flow)), "inner, {flow:?}");
        }
    }
}

/// Datagrams that fill the MTU once they are funneled, and replies in the other direction.
#[test]
fn udp_over_ipv6_at_full_size() {
    if !require(&NEEDS) {
        return;
    }
    for (outer, pushed) in [("tcp", 20), ("udp", 8)] {
        let world = World::six(Way::Finished);
        world.funnel_one_way("udp", outer);
        let longest = 1500 - 40 - 8 - pushed;
        // Sizes go through all values modulo 37, the longest among them.
        let arrived = flows::udp(&world.client, &world.server, world.to(4739), longest, longest);
        assert_eq!(arrived, longest, "through {outer}");
        world.no_checksum_errors();
    }
}

/// Packets of many segments are cut before they are funneled; what is not in the funnel is dropped.
#[test]
fn bulk_tcp_over_ipv6_goes_through_the_funnel() {
    if !require(&NEEDS) {
        return;
    }
    for (outer, way) in [("tcp", Way::Direct), ("udp", Way::Finished)] {
        let world = World::six(way);
        world.funnel_both_ways("tcp", outer);
        for (ns, iface, to, back) in
            [(&world.server, "vs", "dport", "sport"), (&world.client, "vc", "sport", "dport")]
        {
            let rules = format!(
                "{outer} {to} 80 {back} 540 actions unfunnel tcp\n\
                 tcp {to} 8080 actions drop"
            );
            attach(ns, iface, "ingress", &rules);
        }
        let bytes = 8 << 20;
        assert_eq!(
            flows::bulk(&world.client, &world.server, world.to(8080), bytes),
            bytes,
            "{outer}, {way:?}"
        );
        world.no_checksum_errors();
    }
}

#[test]
fn alias_over_ipv6_carries_bulk_tcp_both_ways() {
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump")]) {
        return;
    }
    for way in [Way::Direct, Way::Nat, Way::Finished] {
        let world = World::six(way);
        let a = world.address;
        attach(
            &world.client,
            "vc",
            "egress",
            &format!("ip6 daddr {a} tcp dport 8080 actions alias dport 80"),
        );
        attach(&world.server, "vs", "ingress", "tcp dport 80 actions unalias { 8080, 8443 }");
        attach(&world.server, "vs", "egress", "tcp sport 8080 actions alias sport 80");
        attach(&world.client, "vc", "ingress", &format!("saddr {a} tcp sport 80 actions unalias 8080"));
        let capture = Capture::start(&world.server, "vs");
        let bytes = 8 << 20;
        assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), bytes), bytes, "{way:?}");
        let frames =
            capture.stop(10, |frame| port(frame, 2) == Some(80) && port(frame, 18) == Some(8080)).frames;
        assert_eq!(frames.iter().filter(|frame| port(frame, 2) == Some(8080)).count(), 0, "{way:?}");
        world.no_checksum_errors();
    }
}

/// Neither rule says which version: one attachment serves both, at the same time.
#[test]
fn upstream_trap_ipv6_does_not_leak_as_one_ruleset_serves_both_versions() {
    if !require(&NEEDS) {
        return;
    }
    for (inner, outer) in FLOWS {
        let world = World::six(Way::Direct);
        world.client.tool("ip", "addr add 10.1.0.1/24 dev vc");
        world.server.tool("ip", "addr add 10.1.0.2/24 dev vs");
        for (ns, iface, to, back) in
            [(&world.client, "vc", "dport", "sport"), (&world.server, "vs", "sport", "dport")]
        {
            attach(
                ns,
                iface,
                "egress",
                &format!("{inner} {to} 8080 actions funnel {outer} {to} 80 {back} 540"),
            );
            attach(ns, iface, "ingress", &format!("{outer} {back} 80 {to} 540 actions unfunnel {inner}"));
        }
        for address in ["10.1.0.2", "fd00:1::2"] {
            let to = SocketAddr::new(address.parse().expect("an address"), 8080);
            let arrived = match inner {
                "udp" => flows::udp(&world.client, &world.server, to, 60, 1200),
                _ => flows::tcp(&world.client, &world.server, to, 3, 20),
            };
            assert_eq!(arrived, 60, "{inner} over {outer}, {address}");
        }
        world.no_checksum_errors();
    }
}

/// VXLAN-GPE, whose packets start with the IP header.
#[test]
fn ipv6_on_devices_without_a_link_header() {
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump")]) {
        return;
    }
    for (inner, outer) in FLOWS {
        let (client, server) = (Ns::with_ipv6("client"), Ns::with_ipv6("server"));
        link((&client, "vc", "10.1.0.1/24"), (&server, "vs", "10.1.0.2/24"));
        for (ns, here, far, peer) in
            [(&client, "fd00:9::1", "fd00:9::2", "10.1.0.2"), (&server, "fd00:9::2", "fd00:9::1", "10.1.0.1")]
        {
            ns.tool("ip", "link add l3 type vxlan external gpe dstport 4790");
            ns.tool("ip", "link set l3 mtu 1400 up");
            ns.tool("ip", &format!("addr add {here}/128 dev l3"));
            ns.settle();
            ns.tool("ip", &format!("route add {far} encap ip id 7 dst {peer} dev l3 src {here}"));
        }
        let rules = |to: &str, back: &str| {
            (
                format!("{inner} {to} 8080 actions funnel {outer} {to} 80 {back} 540"),
                format!("{outer} {back} 80 {to} 540 actions unfunnel {inner}"),
            )
        };
        for (ns, (egress, ingress)) in
            [(&client, rules("dport", "sport")), (&server, rules("sport", "dport"))]
        {
            attach(ns, "l3", "egress", &egress);
            attach(ns, "l3", "ingress", &ingress);
        }
        let to = SocketAddr::new("fd00:9::2".parse().expect("an address"), 8080);
        let capture = Capture::start(&server, "l3");
        let arrived = match inner {
            "udp" => flows::udp(&client, &server, to, 60, 1200),
            _ => flows::tcp(&client, &server, to, 3, 20),
        };
        assert_eq!(arrived, 60, "{inner} over {outer}");
        capture.stop(60, |packet| packet.get(40..42) == Some(&540_u16.to_be_bytes()));
        assert_eq!(client.checksum_errors() + server.checksum_errors(), 0, "{inner} over {outer}");
    }
}
