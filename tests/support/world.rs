//! Client, router and server, and the ways from one to the other.
//!
//! In: a [`Way`] and a [`Flow`]. Out: a [`World`] in which the flow is funneled, and what of it arrived.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use super::lab::{DEADLINE, Ns, attach, link};
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
    /// `ip` or `ip6`.
    pub ip: &'static str,
    pub client: Ns,
    pub router: Option<Ns>,
    pub server: Ns,
    /// What the client connects to.
    pub address: &'static str,
}

pub const SERVICE: &str = "10.96.0.10";

/// The addresses of one version of IP.
struct Plan {
    ip: &'static str,
    client: &'static str,
    /// The server's, on one link with the client, and behind the router.
    near: &'static str,
    far: &'static str,
    /// The router's, towards the client and towards the server.
    first: &'static str,
    second: &'static str,
    length: u8,
    service: &'static str,
    forwarding: &'static str,
}

const PLAN: Plan = Plan {
    ip: "ip",
    client: "10.1.0.1",
    near: "10.1.0.2",
    far: "10.2.0.1",
    first: "10.1.0.254",
    second: "10.2.0.254",
    length: 24,
    service: SERVICE,
    forwarding: "ipv4/ip_forward",
};

const PLAN6: Plan = Plan {
    ip: "ip6",
    client: "fd00:1::1",
    near: "fd00:1::2",
    far: "fd00:2::1",
    first: "fd00:1::fe",
    second: "fd00:2::fe",
    length: 64,
    service: "fd00:96::10",
    forwarding: "ipv6/conf/all/forwarding",
};

impl World {
    pub fn new(way: Way) -> World {
        World::make(way, &PLAN, Ns::new)
    }

    /// The same over IPv6.
    pub fn six(way: Way) -> World {
        let world = World::make(way, &PLAN6, Ns::with_ipv6);
        world.wait_until_reachable();
        world
    }

    /// Interfaces come up in their own time, which IPv6 waits for, and a datagram is sent once only.
    fn wait_until_reachable(&self) {
        let start = Instant::now();
        let refused = || {
            let connected = self.client.run(|| TcpStream::connect_timeout(&self.to(1), DEADLINE / 5));
            connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        while !refused() {
            assert!(start.elapsed() < DEADLINE, "the server cannot be reached ({:?})", self.way);
            thread::yield_now();
        }
    }

    fn make(way: Way, plan: &Plan, ns: fn(&'static str) -> Ns) -> World {
        let Plan { ip, near, far, first, second, service, .. } = *plan;
        let with_length = |address: &str| format!("{address}/{}", plan.length);
        let (client, server) = (ns("client"), ns("server"));
        if way == Way::Direct {
            link((&client, "vc", &with_length(plan.client)), (&server, "vs", &with_length(near)));
            return World { way, ip, client, router: None, server, address: near };
        }
        let router = ns("router");
        link((&client, "vc", &with_length(plan.client)), (&router, "rc", &with_length(first)));
        link((&server, "vs", &with_length(far)), (&router, "rs", &with_length(second)));
        router.sysctl(plan.forwarding, "1");
        client.tool("ip", &format!("route add default via {first}"));
        if way.nat() {
            // No route back for the server: replies must go through the router's address.
            router.nft(&format!(
                "table {ip} service {{
                    chain there {{ type nat hook prerouting priority dstnat; {ip} daddr {service} dnat to {far}; }}
                    chain back {{ type nat hook postrouting priority srcnat; oifname rs masquerade; }}
                }}"
            ));
        } else {
            server.tool("ip", &format!("route add default via {second}"));
        }
        if matches!(way, Way::Finished | Way::NatFinished) {
            for leg in ["rc", "rs"] {
                router.tool("ethtool", &format!("-K {leg} tx off"));
            }
        }
        let address = if way.nat() { service } else { far };
        World { way, ip, client, router: Some(router), server, address }
    }

    pub fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse().expect("an address"), port)
    }

    /// One direction, as for flow exports: nothing comes back.
    pub fn funnel_one_way(&self, inner: &str, outer: &str) {
        let World { ip, address, .. } = *self;
        attach(
            &self.client,
            "vc",
            "egress",
            &format!("{ip} daddr {address} {inner} dport 4739 actions funnel {outer} dport 179 sport 540"),
        );
        attach(
            &self.server,
            "vs",
            "ingress",
            &format!("{ip} {outer} dport 179 sport 540 actions unfunnel {inner}"),
        );
    }

    /// Both directions: four attachments, as the original's introduction has them.
    pub fn funnel_both_ways(&self, inner: &str, outer: &str) {
        let World { ip, address: a, .. } = *self;
        let rules = [
            (
                &self.client,
                "vc",
                "egress",
                format!("{ip} daddr {a} {inner} dport 8080 actions funnel {outer} dport 80 sport 540"),
            ),
            (
                &self.server,
                "vs",
                "ingress",
                format!("{ip} {outer} dport 80 sport 540 actions unfunnel {inner}"),
            ),
            (
                &self.server,
                "vs",
                "egress",
                format!("{ip} {inner} sport 8080 actions funnel {outer} dport 540 sport 80"),
            ),
            (
                &self.client,
                "vc",
                "ingress",
                format!("{ip} saddr {a} {outer} sport 80 dport 540 actions unfunnel {inner}"),
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

/// client ── nat ── strict ── server: the second hop drops what connection tracking calls invalid, as Kubernetes'
/// nodes do. All of them are on one machine, so packets reach the NAT as the client has sent them.
#[derive(Debug)]
pub struct Strict {
    pub client: Ns,
    _nat: Ns,
    _strict: Ns,
    pub server: Ns,
}

impl Strict {
    pub fn new() -> Self {
        let (client, nat) = (Ns::new("client"), Ns::new("nat"));
        let (strict, server) = (Ns::new("strict"), Ns::new("server"));
        link((&client, "vc", "10.1.0.1/24"), (&nat, "rc", "10.1.0.254/24"));
        link((&nat, "rr", "10.3.0.1/24"), (&strict, "rr", "10.3.0.2/24"));
        link((&strict, "rs", "10.2.0.254/24"), (&server, "vs", "10.2.0.1/24"));
        let gateways =
            [(&client, "10.1.0.254"), (&nat, "10.3.0.2"), (&strict, "10.3.0.1"), (&server, "10.2.0.254")];
        for (ns, via) in gateways {
            ns.sysctl("ipv4/ip_forward", "1");
            ns.tool("ip", &format!("route add default via {via}"));
        }
        nat.nft(&format!(
            "table ip service {{
                chain there {{ type nat hook prerouting priority dstnat; ip daddr {SERVICE} dnat to 10.2.0.1; }}
            }}"
        ));
        strict.nft(
            "table ip strict {
                chain passing { type filter hook forward priority filter; ct state invalid drop; }
            }",
        );
        // Between machines, packets are finished.
        for (ns, iface) in [(&nat, "rr"), (&strict, "rr")] {
            ns.tool("ethtool", &format!("-K {iface} tx off"));
        }
        Strict { client, _nat: nat, _strict: strict, server }
    }

    /// What stands for the server, as the client sees it.
    pub fn to(port: u16) -> SocketAddr {
        SocketAddr::new(SERVICE.parse().expect("an address"), port)
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

/// The source port, or `at` two bytes behind it.
pub fn port(frame: &[u8], at: usize) -> Option<u16> {
    let l4 = if frame.get(12..14) == Some(&[0x86, 0xdd]) { 54 } else { 34 };
    let port = frame.get(l4 + at..l4 + at + 2)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}

/// A frame that left the client through the funnel.
pub fn funneled(frame: &[u8]) -> bool {
    port(frame, 0) == Some(540)
}

pub fn unfunneled(frame: &[u8], (inner, outer): Flow) -> Vec<u8> {
    let rules = Rule::parse_all(&format!("{outer} sport 540 actions unfunnel {inner}"));
    let outcome = model::run(&rules.expect("a rule"), frame, 0, Link::Ethernet);
    assert_ne!(outcome.frame, frame, "this was to be unfunneled");
    outcome.frame
}
