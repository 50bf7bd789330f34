//! Devices of other kinds than veth, with traffic before, through the funnel, and after.
//!
//! Most are modules: `cargo xtask kernels` runs these tests in kernels that have them, elsewhere they are ignored.

use std::net::SocketAddr;

use super::support::lab::{Ns, link};
use super::support::world::NEEDS;
use super::support::{flows, require};
use super::{attach, interfaces, succeed};

/// Two ends of a veth called `eth0`, and on each of them a device with these addresses.
struct Pair {
    ends: [Ns; 2],
    /// What is between them, if anything is.
    between: Option<Ns>,
    device: &'static str,
    addresses: [&'static str; 2],
}

const BELOW: [&str; 2] = ["10.1.0.1", "10.1.0.2"];
const ABOVE: [&str; 2] = ["10.5.0.1", "10.5.0.2"];

impl Pair {
    fn veth() -> Pair {
        let ends = [Ns::new("client"), Ns::new("server")];
        link((&ends[0], "eth0", "10.1.0.1/24"), (&ends[1], "eth0", "10.1.0.2/24"));
        Pair { ends, between: None, device: "eth0", addresses: BELOW }
    }

    /// With `d0` above `eth0`, made by these commands of `ip`.
    fn above(commands: &[&str]) -> Pair {
        let pair = Pair::veth();
        for ns in &pair.ends {
            for command in commands {
                ns.tool("ip", command);
            }
        }
        pair.with_d0()
    }

    fn with_d0(mut self) -> Pair {
        for (ns, address) in self.ends.iter().zip(ABOVE) {
            ns.tool("ip", &format!("addr add {address}/24 dev d0"));
            ns.tool("ip", "link set d0 up");
        }
        (self.device, self.addresses) = ("d0", ABOVE);
        self
    }

    /// Not the device but its way: a bridge that shows netfilter what it passes on.
    fn bridge() -> Pair {
        let ends = [Ns::new("client"), Ns::new("server")];
        let between = Ns::new("switch");
        between.tool("ip", "link add b0 type bridge");
        between.tool("ip", "link set b0 up");
        between.sysctl("bridge/bridge-nf-call-iptables", "1");
        between.nft(
            "table ip t {
                chain c { type filter hook forward priority filter; ct state established,related counter accept; }
            }",
        );
        for (port, (ns, address)) in ["p0", "p1"].into_iter().zip(ends.iter().zip(BELOW)) {
            let path = between.path();
            ns.tool("ip", &format!("link add eth0 type veth peer name {port} netns {}", path.display()));
            ns.tool("ip", &format!("addr add {address}/24 dev eth0"));
            ns.tool("ip", "link set eth0 up");
            between.tool("ip", &format!("link set {port} master b0"));
            between.tool("ip", &format!("link set {port} up"));
        }
        Pair { ends, between: Some(between), device: "eth0", addresses: BELOW }
    }

    /// The server is reached in a VRF, and listens outside it.
    fn vrf() -> Pair {
        let pair = Pair::veth();
        let server = &pair.ends[1];
        server.tool("ip", "link add red type vrf table 10");
        server.tool("ip", "link set red up");
        server.tool("ip", "link set eth0 master red");
        for protocol in ["tcp", "udp"] {
            server.sysctl(&format!("ipv4/{protocol}_l3mdev_accept"), "1");
        }
        pair
    }

    fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[1].parse().expect("an address"), port)
    }

    /// A conversation, packets of full size, datagrams. They wait for what comes up in its own time.
    fn carries(&self, what: &str) {
        const BYTES: usize = 4 << 20;
        let [client, server] = &self.ends;
        assert_eq!(flows::tcp(client, server, self.to(8080), 2, 10), 20, "{what}: exchanges");
        assert_eq!(flows::bulk(client, server, self.to(8080), BYTES), BYTES, "{what}: bytes in bulk");
        assert_eq!(flows::udp(client, server, self.to(4739), 30, 1000), 30, "{what}: datagrams");
        for ns in &self.ends {
            assert_eq!(ns.checksum_errors(), 0, "{what}: checksum errors, {}", ns.name);
        }
    }

    /// Funnels both ways. What arrives in any other way than through the funnel is dropped.
    fn funnel(&self, outer: &str) {
        let rules = [
            format!(
                "tcp dport 8080 actions funnel {outer} dport 80 sport 540
                 udp dport 4739 actions funnel {outer} dport 81 sport 540"
            ),
            format!("{outer} sport 80 dport 540 actions unfunnel tcp; tcp sport 8080 actions drop"),
            format!("tcp sport 8080 actions funnel {outer} dport 540 sport 80"),
            format!(
                "{outer} dport 80 sport 540 actions unfunnel tcp
                 {outer} dport 81 sport 540 actions unfunnel udp
                 tcp dport 8080 actions drop
                 udp dport 4739 actions drop"
            ),
        ];
        let hooks = [(0, "egress"), (0, "ingress"), (1, "egress"), (1, "ingress")];
        for ((end, direction), rules) in hooks.into_iter().zip(&rules) {
            attach(&self.ends[end], self.device, direction, rules);
        }
    }
}

fn funnels_as_it_does_without(pair: &Pair) {
    pair.carries("before");
    let before = pair.ends.each_ref().map(interfaces);
    for outer in ["tcp", "udp"] {
        pair.funnel(outer);
        pair.carries(outer);
    }
    for ns in &pair.ends {
        succeed(ns, &["detach", "-i", pair.device]);
    }
    assert_eq!(pair.ends.each_ref().map(interfaces), before, "interfaces, afterwards");
    pair.carries("afterwards");
}

#[test]
#[ignore = "needs a kernel with 8021q: `cargo xtask kernels` runs it"]
fn vlan() {
    if require(&NEEDS) {
        funnels_as_it_does_without(&Pair::above(&["link add link eth0 name d0 type vlan id 7"]));
    }
}

#[test]
#[ignore = "needs a kernel with ipvlan: `cargo xtask kernels` runs it"]
fn ipvlan() {
    if require(&NEEDS) {
        funnels_as_it_does_without(&Pair::above(&["link add link eth0 name d0 type ipvlan mode l2"]));
    }
}

#[test]
#[ignore = "needs a kernel with bonding: `cargo xtask kernels` runs it"]
fn bond() {
    if require(&NEEDS) {
        funnels_as_it_does_without(&Pair::above(&[
            "link set eth0 down",
            "link add d0 type bond mode active-backup miimon 100",
            "link set eth0 master d0",
        ]));
    }
}

#[test]
#[ignore = "needs a kernel with vrf: `cargo xtask kernels` runs it"]
fn vrf() {
    if require(&NEEDS) {
        funnels_as_it_does_without(&Pair::vrf());
    }
}

#[test]
#[ignore = "needs a kernel with br_netfilter: `cargo xtask kernels` runs it"]
fn a_bridge_that_shows_netfilter_what_it_passes_on() {
    if require(&NEEDS) {
        let pair = Pair::bridge();
        funnels_as_it_does_without(&pair);
        let said = pair.between.as_ref().expect("a bridge").tool("nft", "list ruleset");
        assert!(
            said.contains("counter packets") && !said.contains("packets 0 "),
            "netfilter saw nothing: {said}"
        );
    }
}
