//! Real sockets, default offloads, the real binary: client, router and server in namespaces.
//!
//! Each flow (UDP or TCP through UDP or TCP) takes each way (directly, through a router, through
//! DNAT and SNAT, through a hop that finishes checksums in software): all of it must arrive, and no
//! stack on the way may count a bad checksum. Wireshark's dissector is asked as well.

mod support;

use std::net::SocketAddr;

use support::lab::{self, Capture, Ns, attach, link};
use support::model::{self, Link};
use support::rules::Rule;
use support::{Need, require};

/// How the client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Routed,
    /// The client knows only a service address: the router rewrites both addresses.
    Nat,
    /// The router's interfaces have no checksum offload.
    Finished,
    /// Both.
    NatFinished,
}

impl Way {
    const ALL: [Way; 5] = [Way::Direct, Way::Routed, Way::Nat, Way::Finished, Way::NatFinished];

    fn nat(self) -> bool {
        matches!(self, Way::Nat | Way::NatFinished)
    }
}

struct World {
    way: Way,
    client: Ns,
    router: Option<Ns>,
    server: Ns,
    /// What the client connects to.
    address: &'static str,
}

const SERVICE: &str = "10.96.0.10";

impl World {
    fn new(way: Way) -> World {
        let (client, server) = (Ns::new("client"), Ns::new("server"));
        if way == Way::Direct {
            link((&client, "vc", "10.1.0.1/24"), (&server, "vs", "10.1.0.2/24"));
            return World { way, client, router: None, server, address: "10.1.0.2" };
        }
        let router = Ns::new("router");
        link((&client, "vc", "10.1.0.1/24"), (&router, "rc", "10.1.0.254/24"));
        link((&server, "vs", "10.2.0.1/24"), (&router, "rs", "10.2.0.254/24"));
        router.sysctl("ipv4/ip_forward", "1");
        client.tool("ip", "route add default via 10.1.0.254");
        if way.nat() {
            // No route back for the server: replies must go through the router's address.
            router.nft(&format!(
                "table ip service {{
                    chain there {{ type nat hook prerouting priority dstnat; ip daddr {SERVICE} dnat to 10.2.0.1; }}
                    chain back {{ type nat hook postrouting priority srcnat; oifname rs masquerade; }}
                }}"
            ));
        } else {
            server.tool("ip", "route add default via 10.2.0.254");
        }
        if matches!(way, Way::Finished | Way::NatFinished) {
            for leg in ["rc", "rs"] {
                router.tool("ethtool", &format!("-K {leg} tx off"));
            }
        }
        let address = if way.nat() { SERVICE } else { "10.2.0.1" };
        World { way, client, router: Some(router), server, address }
    }

    fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse().expect("an address"), port)
    }

    /// One direction, as for flow exports: nothing comes back.
    fn funnel_one_way(&self, inner: &str, outer: &str) {
        let address = self.address;
        attach(
            &self.client,
            "vc",
            "egress",
            &format!("ip daddr {address} {inner} dport 4739 actions funnel {outer} dport 179 sport 540"),
        );
        attach(
            &self.server,
            "vs",
            "ingress",
            &format!("ip {outer} dport 179 sport 540 actions unfunnel {inner}"),
        );
    }

    /// Both directions: four attachments, as the original's introduction has them.
    fn funnel_both_ways(&self, inner: &str, outer: &str) {
        let a = self.address;
        let rules = [
            (&self.client, "vc", "egress", format!("ip daddr {a} {inner} dport 8080 actions funnel {outer} dport 80 sport 540")),
            (&self.server, "vs", "ingress", format!("ip {outer} dport 80 sport 540 actions unfunnel {inner}")),
            (&self.server, "vs", "egress", format!("ip {inner} sport 8080 actions funnel {outer} dport 540 sport 80")),
            (&self.client, "vc", "ingress", format!("ip saddr {a} {outer} sport 80 dport 540 actions unfunnel {inner}")),
        ];
        for (ns, iface, direction, rules) in rules {
            attach(ns, iface, direction, &rules);
        }
    }

    fn no_checksum_errors(&self) {
        for ns in [Some(&self.client), self.router.as_ref(), Some(&self.server)].into_iter().flatten() {
            assert_eq!(ns.checksum_errors(), 0, "InCsumErrors, {} ({:?})", ns.name, self.way);
        }
    }
}

const NEEDS: [Need; 4] = [
    Need::Root,
    Need::Tool("ip", "iproute2"),
    Need::Tool("nft", "nftables"),
    Need::Tool("ethtool", "ethtool"),
];

fn udp_arrives(outer: &str) {
    if !require(&NEEDS) {
        return;
    }
    for way in Way::ALL {
        let world = World::new(way);
        world.funnel_one_way("udp", outer);
        let arrived = lab::udp(&world.client, &world.server, world.to(4739), 200, 1400);
        assert_eq!(arrived, 200, "udp over {outer}, {way:?}");
        world.no_checksum_errors();
    }
}

fn tcp_talks(outer: &str) {
    if !require(&NEEDS) {
        return;
    }
    for way in Way::ALL {
        let world = World::new(way);
        world.funnel_both_ways("tcp", outer);
        let exchanged = lab::tcp(&world.client, &world.server, world.to(8080), 5, 40);
        assert_eq!(exchanged, 200, "tcp over {outer}, {way:?}");
        world.no_checksum_errors();
    }
}

#[test]
fn udp_4739_arrives_through_tcp_179_whatever_is_on_the_way() {
    udp_arrives("tcp");
}

#[test]
fn udp_arrives_through_udp_whatever_is_on_the_way() {
    udp_arrives("udp");
}

#[test]
fn tcp_talks_through_tcp_whatever_is_on_the_way() {
    tcp_talks("tcp");
}

#[test]
fn tcp_talks_through_udp_whatever_is_on_the_way() {
    tcp_talks("udp");
}
