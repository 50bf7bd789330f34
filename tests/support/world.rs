//! Client, router and server, and the ways from one to the other.
//!
//! In: a [`Way`] and a [`Flow`]. Out: a [`World`] in which the flow is funneled, and what of it arrived.

use std::net::SocketAddr;

use super::lab::{Ns, attach, link};
use super::model::{self, Link};
use super::rules::Rule;
use super::{Need, flows};

/// How the client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
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
    pub const ALL: [Way; 5] = [Way::Direct, Way::Routed, Way::Nat, Way::Finished, Way::NatFinished];

    pub fn nat(self) -> bool {
        matches!(self, Way::Nat | Way::NatFinished)
    }
}

pub struct World {
    pub way: Way,
    pub client: Ns,
    pub router: Option<Ns>,
    pub server: Ns,
    /// What the client connects to.
    pub address: &'static str,
}

pub const SERVICE: &str = "10.96.0.10";

impl World {
    pub fn new(way: Way) -> World {
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

    pub fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse().expect("an address"), port)
    }

    /// One direction, as for flow exports: nothing comes back.
    pub fn funnel_one_way(&self, inner: &str, outer: &str) {
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
    pub fn funnel_both_ways(&self, inner: &str, outer: &str) {
        let a = self.address;
        let rules = [
            (
                &self.client,
                "vc",
                "egress",
                format!("ip daddr {a} {inner} dport 8080 actions funnel {outer} dport 80 sport 540"),
            ),
            (
                &self.server,
                "vs",
                "ingress",
                format!("ip {outer} dport 80 sport 540 actions unfunnel {inner}"),
            ),
            (
                &self.server,
                "vs",
                "egress",
                format!("ip {inner} sport 8080 actions funnel {outer} dport 540 sport 80"),
            ),
            (
                &self.client,
                "vc",
                "ingress",
                format!("ip saddr {a} {outer} sport 80 dport 540 actions unfunnel {inner}"),
            ),
        ];
        for (ns, iface, direction, rules) in rules {
            attach(ns, iface, direction, &rules);
        }
    }

    pub fn no_checksum_errors(&self) {
        for ns in [Some(&self.client), self.router.as_ref(), Some(&self.server)].into_iter().flatten() {
            assert_eq!(ns.checksum_errors(), 0, "InCsumErrors, {} ({:?})", ns.name, self.way);
        }
    }
}

pub const NEEDS: [Need; 4] = [
    Need::Root,
    Need::Tool("ip", "iproute2"),
    Need::Tool("nft", "nftables"),
    Need::Tool("ethtool", "ethtool"),
];

/// The inner and outer protocol of a flow.
pub type Flow = (&'static str, &'static str);
pub const FLOWS: [Flow; 4] = [("udp", "tcp"), ("udp", "udp"), ("tcp", "tcp"), ("tcp", "udp")];

/// Attaches, sends, and returns how many packets at least were funneled towards the server.
pub fn everything_arrives(world: &World, (inner, outer): Flow) -> usize {
    let count = match inner {
        "udp" => {
            world.funnel_one_way(inner, outer);
            let arrived = flows::udp(&world.client, &world.server, world.to(4739), 100, 1400);
            assert_eq!(arrived, 100, "{inner} over {outer}, {:?}", world.way);
            arrived
        }
        _ => {
            world.funnel_both_ways(inner, outer);
            let exchanged = flows::tcp(&world.client, &world.server, world.to(8080), 5, 20);
            assert_eq!(exchanged, 100, "{inner} over {outer}, {:?}", world.way);
            exchanged
        }
    };
    world.no_checksum_errors();
    count
}

/// A frame that left the client through the funnel.
pub fn funneled(frame: &[u8]) -> bool {
    frame.get(34..36) == Some(&540_u16.to_be_bytes())
}

pub fn unfunneled(frame: &[u8], (inner, outer): Flow) -> Vec<u8> {
    let rules = Rule::parse_all(&format!("ip {outer} sport 540 actions unfunnel {inner}"));
    let outcome = model::run(&rules.expect("a rule"), frame, 0, Link::Ethernet);
    assert_ne!(outcome.frame, frame, "this was to be unfunneled");
    outcome.frame
}
