//! Real flows at full size: nothing stalls, nothing is changed, nothing takes another way than the funnel.

use std::thread;

use super::support::iperf::{self, Server};
use super::support::world::{FLOWS, NEEDS, Way, World};
use super::support::{flows, require};
use super::{IPERF3, attach, funnel_strictly, sent, sfunnel, succeed};

/// A run of two seconds; bytes must come through in each of them, in every direction asked for. (In shorter
/// intervals a busy machine lets iperf3 itself stand still, which sends and receives in one thread.)
fn flows_all_the_time(world: &World, args: &str) {
    let report = iperf::run(&world.client, world.address, &format!("-p 8080 -t 2 -i 1 {args}"));
    let intervals = report["intervals"].as_array().expect("intervals");
    assert!(intervals.len() >= 2, "{report}");
    let sums = if args.contains("bidir") { &["sum", "sum_bidir_reverse"][..] } else { &["sum"] };
    for (number, interval) in intervals.iter().enumerate() {
        for sum in sums {
            let bytes = interval[sum]["bytes"].as_u64().expect("bytes");
            assert!(bytes > 0, "{args}: nothing in interval {number} ({sum}): {interval}");
        }
    }
}

fn iperf_everywhere(outer: &str) {
    if !require(&NEEDS) || !require(&[IPERF3]) {
        return;
    }
    let direct = ["", "-R -P 16", "--bidir -P 4"];
    let nat = ["-P 16", "-R", "--bidir"];
    for (way, runs) in [(Way::Direct, direct), (Way::Nat, nat)] {
        let world = World::new(way);
        if let Some(router) = &world.router {
            router.tool("ethtool", "-K rc tso off gso off");
            router.tool("ethtool", "-K rs tso off gso off");
        }
        funnel_strictly(&world, "tcp", outer);
        for args in runs {
            // One for each run: it is not done with the last when its client is.
            let _server = Server::start(&world.server, 8080);
            flows_all_the_time(&world, args);
        }
        world.no_checksum_errors();
    }
}

#[test]
fn upstream_trap_tcp_gso_runs_at_full_size_through_tcp() {
    iperf_everywhere("tcp");
}

#[test]
fn upstream_trap_tcp_gso_runs_at_full_size_through_udp() {
    iperf_everywhere("udp");
}

#[test]
fn upstream_trap_udp_gso_segments_arrive_byte_for_byte() {
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        let world = World::new(Way::Routed);
        let rules = format!("udp dport 4739 actions funnel {outer} dport 179 sport 540");
        attach(&world.client, "vc", "egress", &rules);
        let rules = format!("{outer} dport 179 sport 540 actions unfunnel udp; udp dport 4739 actions drop");
        attach(&world.server, "vs", "ingress", &rules);
        for (segments, size) in [(2, 100), (3, 1), (20, 1000), (44, 1400)] {
            let arrived = flows::udp_gso(&world.client, &world.server, world.to(4739), segments, size);
            assert_eq!(arrived, segments, "of {size} bytes through {outer}");
        }
        world.no_checksum_errors();
    }
}

/// With `--gso off` such packets pass unchanged and whole, and arrive as they would without us: TCP between the smaller
/// ones that are funneled. (`advmss` stands for the room that those need.)
#[test]
fn upstream_trap_gso_packets_that_are_not_cut_pass_whole() {
    if !require(&NEEDS) {
        return;
    }
    for (inner, outer) in FLOWS {
        let world = World::new(Way::Direct);
        for (ns, iface, near, far) in
            [(&world.client, "vc", "dport", "sport"), (&world.server, "vs", "sport", "dport")]
        {
            ns.tool("ip", &format!("route change 10.1.0.0/24 dev {iface} advmss 1400"));
            let funnel = format!("{inner} {near} 8080 actions funnel {outer} {near} 80 {far} 540");
            let unfunnel = format!("{outer} {far} 80 {near} 540 actions unfunnel {inner}");
            for (direction, rules) in [("egress", &funnel), ("ingress", &unfunnel)] {
                succeed(ns, &["attach", "-i", iface, "-d", direction, "--gso", "off", "--ruleset", rules]);
            }
        }
        let (client, server, to) = (&world.client, &world.server, world.to(8080));
        let (arrived, sent) = match inner {
            "tcp" => (flows::bulk(client, server, to, 8 << 20), 8 << 20),
            _ => (flows::udp_gso(client, server, to, 20, 1000), 20),
        };
        assert_eq!(arrived, sent, "{inner} over {outer}");
        world.no_checksum_errors();
    }
}

/// One text, attached at both ends, on both hooks: a conversation in bulk and in datagrams, through NAT.
#[test]
fn a_service_carries_a_conversation_from_one_text() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Nat);
    let rules = format!(
        "service funnel tcp sport 540 dport 80 {{ daddr {a} udp dport 4739 }}\n\
         service funnel udp sport 540 dport 80 {{ daddr {a} tcp dport 8080 }}",
        a = world.address
    );
    for (ns, iface, end) in [(&world.client, "vc", "client"), (&world.server, "vs", "pod")] {
        succeed(ns, &["attach", "-i", iface, "--end", end, "--ruleset", &rules]);
    }
    // What takes another way does not come by.
    let router = world.router.as_ref().expect("a router");
    router.nft("table ip only { chain c { type filter hook forward priority 0; tcp dport 8080 drop; udp dport 4739 drop;\n}\n}\n");
    assert_eq!(flows::udp(&world.client, &world.server, world.to(4739), 20, 1000), 20);
    let bytes = 4 << 20;
    assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), bytes), bytes);
    world.no_checksum_errors();
    let said = sfunnel(&world.client, &["attach", "-i", "vc", "--ruleset", &rules]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("--end client"), "{said:?}");
}

#[test]
fn each_segment_of_what_is_cut_is_counted_once() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Direct);
    attach(&world.client, "vc", "egress", "udp dport 4739 actions counter funnel udp dport 179 sport 540");
    attach(&world.server, "vs", "ingress", "udp dport 179 sport 540 actions unfunnel udp");
    assert_eq!(flows::udp_gso(&world.client, &world.server, world.to(4739), 20, 1000), 20);
    let output = sfunnel(&world.client, &["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
    let rule = &status[0]["counters"]["rules"][0];
    let headers = 14 + 20 + 8;
    assert_eq!((&rule["packets"], &rule["bytes"]), (&20.into(), &(20 * (1000 + headers)).into()), "{status}");
    assert_eq!(rule["reasons"], serde_json::json!([]));
}

#[test]
fn tcp_comes_through_unchanged_while_packets_are_lost() {
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        let world = World::new(Way::Direct);
        funnel_strictly(&world, "tcp", outer);
        for ns in [&world.client, &world.server] {
            ns.nft("table ip loss { chain c { type filter hook input priority 0; tcp dport != 0 numgen random mod 1000 < 5 drop;\n}\n}\n");
        }
        let bytes = 64 << 20;
        assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), bytes), bytes, "{outer}");
        world.no_checksum_errors();
    }
}

/// What a router forwards comes in packets of several segments as well: uncut from a virtual machine or a
/// container, merged by GRO from the wire.
#[test]
fn a_router_funnels_what_it_forwards() {
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        for (merged, place) in [
            (false, ("rs", "egress")),
            (false, ("rc", "ingress")),
            (true, ("rs", "egress")),
            (true, ("rc", "ingress")),
        ] {
            let world = World::new(Way::Routed);
            let router = world.router.as_ref().expect("a router");
            if merged {
                world.client.tool("ethtool", "-K vc tso off gso off");
                router.tool("ethtool", "-K rc gro on");
            }
            let (iface, direction) = place;
            let there = format!("tcp dport 8080 actions funnel {outer} dport 80 sport 540");
            let arrived =
                format!("{outer} dport 80 sport 540 actions unfunnel tcp; tcp dport 8080 actions drop");
            attach(router, iface, direction, &there);
            attach(&world.server, "vs", "ingress", &arrived);
            attach(
                &world.server,
                "vs",
                "egress",
                &format!("tcp sport 8080 actions funnel {outer} dport 540 sport 80"),
            );
            attach(
                &world.client,
                "vc",
                "ingress",
                &format!("{outer} sport 80 dport 540 actions unfunnel tcp; tcp sport 8080 actions drop"),
            );
            let bytes = 8 << 20;
            let arrived = flows::bulk(&world.client, &world.server, world.to(8080), bytes);
            assert_eq!(arrived, bytes, "{outer}, {iface} {direction}, merged: {merged}");
            world.no_checksum_errors();
        }
    }
}

/// `rx-udp-gro-forwarding` makes one packet of several funneled ones. The checksums are finished here, as they are
/// on a wire.
#[test]
fn funneled_packets_that_the_receiver_has_merged_are_taken_apart() {
    if !require(&NEEDS) {
        return;
    }
    for at_router in [false, true] {
        let world = World::new(Way::Finished);
        world.client.tool("ethtool", "-K vc tx off");
        let router = world.router.as_ref().expect("a router");
        let (receiver, iface) = if at_router { (router, "rc") } else { (&world.server, "vs") };
        receiver.tool("ethtool", &format!("-K {iface} gro on rx-udp-gro-forwarding on"));
        attach(&world.client, "vc", "egress", "tcp dport 8080 actions funnel udp sport 540 dport 80");
        let arrived = "udp sport 540 dport 80 actions unfunnel tcp; tcp dport 8080 actions drop";
        attach(receiver, iface, "ingress", arrived);
        attach(&world.server, "vs", "egress", "tcp sport 8080 actions funnel udp sport 80 dport 540");
        attach(&world.client, "vc", "ingress", "udp sport 80 dport 540 actions unfunnel tcp");
        let bytes = 16 << 20;
        assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), bytes), bytes, "{at_router}");
        world.no_checksum_errors();
        let separated = sent(receiver, "sfi");
        assert!(separated > 100, "{separated} packets through the pair: nothing was merged");
    }
}

/// From a socket on the same machine checksums are still to be finished when GRO merges, which forgets them. Behind
/// `unfunnel` they are there again, and whoever receives the segments verifies them.
#[test]
fn checksums_that_the_receivers_gro_has_forgotten_are_made() {
    if require(&NEEDS) {
        forgotten(&[World::new(Way::Direct), World::new(Way::Routed), World::six(Way::Direct)]);
    }
}

#[test]
fn checksums_that_gro_has_forgotten_behind_nat_are_made() {
    if require(&NEEDS) {
        forgotten(&[World::new(Way::Nat), World::new(Way::NatFinished)]);
    }
}

fn forgotten(worlds: &[World]) {
    for world in worlds {
        let at_router = world.way == Way::Routed;
        let (receiver, iface) = match &world.router {
            Some(router) if at_router => (router, "rc"),
            _ => (&world.server, "vs"),
        };
        receiver.tool("ethtool", &format!("-K {iface} gro on rx-udp-gro-forwarding on"));
        // A veth hands to its peer's GRO only what it could not have sent in one piece.
        match &world.router {
            Some(router) if !at_router => router.tool("ethtool", "-K rs tso off"),
            _ => world.client.tool("ethtool", "-K vc tso off"),
        };
        attach(&world.client, "vc", "egress", "tcp dport 8080 actions funnel udp sport 540 dport 80");
        let arrived = "udp sport 540 dport 80 actions unfunnel tcp; tcp dport 8080 actions drop";
        attach(receiver, iface, "ingress", arrived);
        attach(&world.server, "vs", "egress", "tcp sport 8080 actions funnel udp sport 80 dport 540");
        attach(&world.client, "vc", "ingress", "udp sport 80 dport 540 actions unfunnel tcp");
        let what = format!("{} {:?}", world.ip, world.way);
        let bytes = 16 << 20;
        assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), bytes), bytes, "{what}");
        world.no_checksum_errors();
        // Behind NAT of unfinished packets the outer checksum is wrong: once they are finished, GRO leaves them alone.
        let separated = sent(receiver, "sfi");
        assert_eq!(separated > 100, world.way != Way::NatFinished, "{what}: {separated} were merged");
    }
}

#[test]
fn a_connection_survives_the_replacement_of_the_rules() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Direct);
    funnel_strictly(&world, "tcp", "udp");
    let replacing = || {
        for _ in 0..10 {
            funnel_strictly(&world, "tcp", "udp");
        }
    };
    let bytes = 512 << 20;
    thread::scope(|scope| {
        let replaced = scope.spawn(replacing);
        assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), bytes), bytes);
        replaced.join().expect("replacements");
    });
    world.no_checksum_errors();
}
