//! `dnat` and `snat` with real sockets and default offloads: to an address that nobody has, there and back.
//!
//! Checksums are still to be finished on one way, and are finished in software on the other.

use std::net::SocketAddr;

use super::support::lab::attach;
use super::support::world::{NEEDS, SERVICE, Way, World};
use super::support::{flows, require};

/// A world, and the address that nobody has.
fn worlds() -> [(World, &'static str); 4] {
    const SERVICE6: &str = "fd00:96::10";
    [
        (World::new(Way::Routed), SERVICE),
        (World::new(Way::Finished), SERVICE),
        (World::six(Way::Routed), SERVICE6),
        (World::six(Way::Finished), SERVICE6),
    ]
}

fn to(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// What goes through a connection to an address and port that only rules know.
fn tcp(exchange: impl Fn(&World, SocketAddr)) {
    if !require(&NEEDS) {
        return;
    }
    for (world, service) in worlds() {
        let World { client, server, address, .. } = &world;
        let (hidden, true_port) = (to(address, 80), to(address, 8080));
        let virtual_port = to(service, 8080);
        attach(client, "vc", "egress", &format!("daddr {service} tcp dport 8080 dnat {hidden}"));
        attach(server, "vs", "ingress", &format!("tcp dport 80 dnat {true_port}"));
        attach(server, "vs", "egress", &format!("tcp sport 8080 snat {hidden}"));
        attach(client, "vc", "ingress", &format!("saddr {address} tcp sport 80 snat {virtual_port}"));
        exchange(&world, virtual_port);
        world.no_checksum_errors();
    }
}

#[test]
fn tcp_talks_to_an_address_and_port_that_only_rules_know() {
    tcp(|world, to| {
        assert_eq!(flows::tcp(&world.client, &world.server, to, 5, 20), 100, "{to}, {:?}", world.way);
    });
}

/// In packets of several segments.
#[test]
fn tcp_in_bulk_goes_to_an_address_and_port_that_only_rules_know() {
    let bytes = 4 << 20;
    tcp(|world, to| {
        assert_eq!(flows::bulk(&world.client, &world.server, to, bytes), bytes, "{to}, {:?}", world.way);
    });
}

#[test]
fn udp_arrives_alone_and_in_a_funnel_at_an_address_that_only_rules_know() {
    if !require(&NEEDS) {
        return;
    }
    for (world, service) in worlds() {
        let World { client, server, address, .. } = &world;
        let there = to(service, 4739);
        attach(client, "vc", "egress", &format!("daddr {service} udp dport 4739 dnat {}", to(address, 53)));
        attach(server, "vs", "ingress", &format!("udp dport 53 dnat {}", to(address, 4739)));
        assert_eq!(flows::udp(client, server, there, 100, 1400), 100, "{service}, {:?}", world.way);

        let funnel = "funnel tcp sport 540 dport 179";
        attach(client, "vc", "egress", &format!("daddr {service} udp dport 4739 dnat {address} {funnel}"));
        attach(server, "vs", "ingress", &format!("tcp dport 179 unfunnel udp dnat {}", to(address, 4739)));
        assert_eq!(flows::udp(client, server, there, 100, 1300), 100, "{service}, {:?}", world.way);

        // The packet below may have another source, too.
        attach(client, "vc", "egress", &format!("daddr {address} udp dport 4739 {funnel}"));
        let bound = to(address, 4739);
        attach(server, "vs", "ingress", &format!("tcp dport 179 unfunnel udp snat {service} dnat {bound}"));
        assert_eq!(flows::udp(client, server, bound, 100, 1300), 100, "{service}, {:?}", world.way);
        world.no_checksum_errors();
    }
}
