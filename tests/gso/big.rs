//! TCP packets of more than 64 KiB (BIG TCP), where `gso_max_size` and its like allow them: they are parts of a flow
//! like all others, and none may pass a funnel or an alias by.

use std::net::UdpSocket;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use sfunnel::net::{Netlink, links};

use super::support::lab::{DEADLINE, Ns};
use super::support::world::{NEEDS, Way, World};
use super::support::{flows, require};
use super::{attach, funnel_strictly, sfunnel, succeed};

const BYTES: usize = 16 << 20;

/// Lets an interface send and receive packets of 200,000 bytes. (The `ip` of Debian 12 knows IPv6 only.)
fn grow(ns: &Ns, interface: &str) {
    ns.run(|| {
        let mut netlink = Netlink::open().expect("a socket");
        let found = links::find(&mut netlink, &[interface.to_owned()]).expect("the interface").remove(0);
        let message = [
            LinkAttribute::GsoMaxSize(200_000),
            LinkAttribute::GroMaxSize(200_000),
            LinkAttribute::GsoIpv4MaxSize(200_000),
            LinkAttribute::GroIpv4MaxSize(200_000),
        ];
        let message =
            message.into_iter().fold(LinkUnspec::new_with_index(found.number()), |message, attribute| {
                message.append_extra_attribute(attribute)
            });
        netlink.request(RouteNetlinkMessage::SetLink(message.build()), 0).expect("larger packets");
    });
}

/// Two ends with such interfaces; the client's counts what it sends above 64 KiB.
fn worlds() -> [World; 2] {
    let worlds = [World::new(Way::Direct), World::six(Way::Direct)];
    for world in &worlds {
        grow(&world.client, "vc");
        grow(&world.server, "vs");
        world.client.nft(
            "table netdev seen {
                counter big {}
                chain out { type filter hook egress device vc priority 0; meta length > 65600 counter name big; }
            }",
        );
    }
    worlds
}

/// How many packets above 64 KiB have come to a namespace's interface.
fn counted(ns: &Ns) -> u64 {
    let said = ns.tool("nft", "-j list counters");
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let counters = said["nftables"].as_array().expect("a list");
    let counter = counters.iter().find_map(|one| one["counter"]["packets"].as_u64());
    counter.expect("a counter")
}

fn bulk(world: &World) {
    let before = counted(&world.client);
    assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), BYTES), BYTES, "{}", world.ip);
    assert!(counted(&world.client) > before, "{}: no packet was above 64 KiB", world.ip);
    world.no_checksum_errors();
}

#[test]
fn packets_above_64_kib_go_through_the_funnel_as_the_others_do() {
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        for world in worlds() {
            funnel_strictly(&world, "tcp", outer);
            // What comes in one piece has not been through the funnel.
            world.server.nft(
                "table netdev seen {
                    counter whole {}
                    chain in { type filter hook ingress device vs priority 0; meta length > 65600 counter name whole; }
                }",
            );
            bulk(&world);
            assert_eq!(counted(&world.server), 0, "{} over {outer}: not funneled", world.ip);
        }
    }
}

#[test]
fn packets_above_64_kib_are_aliased_and_restored() {
    if !require(&NEEDS) {
        return;
    }
    for world in worlds() {
        attach(&world.client, "vc", "egress", "tcp dport 8080 actions counter alias dport 80");
        attach(
            &world.server,
            "vs",
            "ingress",
            "tcp dport 80 actions counter unalias { 8080 }; tcp dport 8080 drop",
        );
        attach(&world.server, "vs", "egress", "tcp sport 8080 actions alias sport 80");
        attach(&world.client, "vc", "ingress", "tcp sport 80 actions unalias { 8080 }; tcp sport 8080 drop");
        bulk(&world);
        for ns in [&world.client, &world.server] {
            let rule = &counters(ns)[0];
            assert!(rule["bytes"].as_u64() > Some(BYTES as u64), "{}: {rule}", world.ip);
            assert_eq!(rule["reasons"], serde_json::json!([]), "{}", world.ip);
        }
    }
}

#[test]
fn packets_above_64_kib_that_are_not_cut_are_counted() {
    if !require(&NEEDS) {
        return;
    }
    for world in worlds() {
        let rule = "tcp dport 8080 actions counter funnel tcp sport 540 dport 80";
        succeed(&world.client, &["attach", "-i", "vc", "-d", "egress", "--gso", "off", "--ruleset", rule]);
        attach(&world.server, "vs", "ingress", "tcp sport 540 dport 80 actions unfunnel tcp");
        bulk(&world);
        let (rule, seen) = (&counters(&world.client)[0], counted(&world.client));
        let reason = &rule["reasons"][0];
        assert_eq!(reason["reason"], "gso", "{}: {rule}", world.ip);
        assert!(reason["packets"].as_u64() >= Some(seen), "{}: {rule}, {seen}", world.ip);
    }
}

/// The other packets of a flow that pass it by for their size.
#[test]
fn a_datagram_in_fragments_passes_and_is_counted_once() {
    if !require(&NEEDS) {
        return;
    }
    for world in [World::new(Way::Direct), World::six(Way::Direct)] {
        let rule = "udp dport 4739 actions counter funnel udp sport 540 dport 179";
        attach(&world.client, "vc", "egress", rule);
        let to = world.to(4739);
        let any = if to.is_ipv6() { "[::]" } else { "0.0.0.0" };
        let receiver = world.server.run(|| UdpSocket::bind(format!("{any}:4739"))).expect("bind");
        receiver.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let sender = world.client.run(|| UdpSocket::bind(format!("{any}:0"))).expect("bind");
        sender.send_to(&[7; 4000], to).expect("send");
        assert_eq!(receiver.recv(&mut [0; 5000]).expect("a datagram"), 4000, "{}", world.ip);
        let rule = &counters(&world.client)[0];
        assert_eq!((&rule["packets"], &rule["reasons"][0]["packets"]), (&0.into(), &1.into()), "{rule}");
        assert_eq!(rule["reasons"][0]["reason"], "fragment", "{}", world.ip);
    }
}

/// Where nothing can cut, `attach` says that such packets pass.
#[test]
fn interfaces_without_a_pair_are_named_when_attached_to() {
    if !require(&NEEDS) {
        return;
    }
    let ns = Ns::new("alone");
    let funnel = "tcp dport 8080 actions funnel tcp sport 540 dport 80";
    let said = succeed(&ns, &["attach", "-i", "lo", "-d", "both", "--ruleset", funnel]);
    assert_eq!(said.matches("lo: packets of several segments pass as they are").count(), 1, "{said}");
    let said = succeed(
        &ns,
        &["attach", "-i", "lo", "-d", "both", "--ruleset", "tcp dport 8080 actions alias dport 80; tcp drop"],
    );
    assert!(!said.contains("several segments"), "{said}");
}

fn counters(ns: &Ns) -> serde_json::Value {
    let status = sfunnel(ns, &["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
    let hooks = status.as_array().expect("a list").iter();
    let mut counting = hooks.map(|hook| hook["counters"]["rules"].clone()).filter(|rules| !rules.is_null());
    counting.next().expect("counters")
}
