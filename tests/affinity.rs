//! `sessionAffinity: ClientIP` with kube-proxy's own rules: a thousand clients, and on which pods their flows land.
//!
//! Each case twice: with the Service as it has to be without sfunnel, a port for each flow, where more than half of the
//! clients are split over several pods; and with one port, through which all flows of a client reach one pod.

mod support;

#[path = "affinity/city.rs"]
mod city;
#[path = "affinity/proxy.rs"]
mod proxy;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use city::{City, Order, Use, split};
use proxy::{Kind, Mode, Port, Service};
use support::{Need, require};

const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Tool("ip", "iproute2"),
    Need::Tool("nft", "nftables"),
    Need::Tool("iptables-restore", "iptables"),
    Need::Tool("conntrack", "conntrack"),
];

/// `SFUNNEL_CLIENTS`, where a processor is emulated.
fn clients() -> u32 {
    std::env::var("SFUNNEL_CLIENTS").map_or(1_000, |clients| clients.parse().expect("a number"))
}

const BGP: Port = ("tcp", 179);
const RECORDS: Port = ("udp", 4739);
const WEB: Port = ("tcp", 8080);

/// Both ways, everything through TCP 179.
fn clients_end(service: &Service) -> String {
    let (address, port) = (service.address(), service.port(179));
    format!(
        "service funnel tcp sport 540 dport {port} {{ daddr {address} udp dport 4739 }}\n\
         service funnel tcp sport 541 dport {port} {{ daddr {address} tcp dport 8080 }}"
    )
}

const PODS_END: &str = "service funnel tcp sport 540 dport 179 { udp dport 4739 }
service funnel tcp sport 541 dport 179 { tcp dport 8080 }";

fn service(kind: Kind, local: bool, ports: &[Port]) -> Service {
    Service { kind, local, ports: ports.to_vec() }
}

/// First without sfunnel, then with it.
fn kept_together(mode: Mode, kind: Kind, pods: usize, order: Order) {
    let clients = clients();
    let how = Use { ports: vec![BGP, RECORDS, WEB], answers: true, order };
    let without = City::new(mode, service(kind, true, &how.ports), &how.ports, pods);
    let many = split(&without.land(clients, &how));
    assert!(many > clients as usize / 2, "{mode:?}, {kind:?}: {many} of {clients} split without sfunnel");
    drop(without);

    let with = City::new(mode, service(kind, true, &[BGP]), &how.ports, pods);
    with.attach(&clients_end(&with.service), PODS_END);
    let landed = with.land(clients, &how);
    assert_eq!(split(&landed), 0, "{mode:?}, {kind:?}: clients split, of {clients}; without sfunnel {many}");
    let used: BTreeSet<_> = landed.into_iter().flatten().collect();
    assert_eq!(used.len(), pods, "all pods have clients");
}

/// `externalTrafficPolicy: Cluster`: nodes put their own address and another port in place of the client's. One way, a
/// funnel works all the same if rules do not name its source port; and that is better not below 1024 (docs/k8s.md).
fn kept_together_one_way(mode: Mode, kind: Kind, order: Order) {
    let clients = clients();
    let how = Use { ports: vec![BGP, RECORDS], answers: false, order };
    let without = City::new(mode, service(kind, false, &how.ports), &how.ports, 3);
    let many = split(&without.land(clients, &how));
    assert!(many > clients as usize / 2, "{mode:?}, {kind:?}: {many} of {clients} split without sfunnel");
    drop(without);

    let with = City::new(mode, service(kind, false, &[BGP]), &how.ports, 3);
    let (address, port) = (with.service.address(), with.service.port(179));
    with.attach(
        &format!("chain egress {{ daddr {address} udp dport 4739 funnel tcp sport 20540 dport {port} }}"),
        "chain ingress { tcp dport 179 unfunnel udp dport 4739 }",
    );
    assert_eq!(split(&with.land(clients, &how)), 0, "{mode:?}, {kind:?}, policy Cluster");
}

#[test]
fn iptables_load_balancer() {
    if require(&NEEDS) {
        kept_together(Mode::Iptables, Kind::LoadBalancer, 2, Order::ClientByClient);
    }
}

#[test]
fn iptables_node_port() {
    if require(&NEEDS) {
        kept_together(Mode::Iptables, Kind::NodePort, 3, Order::ClientByClient);
    }
}

#[test]
fn iptables_cluster_ip() {
    if require(&NEEDS) {
        kept_together(Mode::Iptables, Kind::ClusterIp, 4, Order::ClientByClient);
    }
}

#[test]
fn nftables_load_balancer() {
    if require(&NEEDS) {
        kept_together(Mode::Nftables, Kind::LoadBalancer, 4, Order::PortByPort);
    }
}

#[test]
fn nftables_node_port() {
    if require(&NEEDS) {
        kept_together(Mode::Nftables, Kind::NodePort, 2, Order::PortByPort);
    }
}

#[test]
fn nftables_cluster_ip() {
    if require(&NEEDS) {
        kept_together(Mode::Nftables, Kind::ClusterIp, 3, Order::PortByPort);
    }
}

#[test]
fn policy_cluster_one_way() {
    if require(&NEEDS) {
        for kind in [Kind::LoadBalancer, Kind::NodePort] {
            kept_together_one_way(Mode::Iptables, kind, Order::ClientByClient);
            kept_together_one_way(Mode::Nftables, kind, Order::PortByPort);
        }
    }
}

/// Why not below 1024: NAT looks for another source port among 600 to 1023 then, for each pod and node.
#[test]
fn policy_cluster_runs_out_of_low_ports() {
    if !require(&NEEDS) {
        return;
    }
    let how = Use { ports: vec![RECORDS], answers: false, order: Order::ClientByClient };
    for (sport, enough) in [(540, false), (20_540, true)] {
        let city = City::new(Mode::Nftables, service(Kind::LoadBalancer, false, &[BGP]), &how.ports, 1);
        city.attach(
            &format!("chain egress {{ udp dport 4739 funnel tcp sport {sport} dport 179 }}"),
            "chain ingress { tcp dport 179 unfunnel udp dport 4739 }",
        );
        let clients = city.until_lost(500, RECORDS, &how);
        assert_eq!(clients == 500, enough, "{clients} clients through a funnel with source port {sport}");
        assert!(clients > 300, "{clients} clients through a funnel with source port {sport}");
    }
}

/// Most kernels have IPVS as a module, and many machines have no module of it: `cargo xtask kernels` boots a kernel that
/// has it and runs this there.
#[test]
#[ignore = "needs a kernel with ip_vs: `cargo xtask kernels` runs it"]
fn ipvs() {
    assert!(Path::new("/proc/net/ip_vs").exists(), "no ip_vs in this kernel: modprobe ip_vs ip_vs_rr");
    if require(&NEEDS[..3]) && require(&[Need::Tool("ipvsadm", "ipvsadm")]) {
        for (kind, pods) in [(Kind::LoadBalancer, 2), (Kind::NodePort, 3), (Kind::ClusterIp, 4)] {
            kept_together(Mode::Ipvs, kind, pods, Order::PortByPort);
        }
    }
}

/// Which clients had a flow on that pod.
fn of(landed: &[BTreeSet<Option<Ipv4Addr>>], pod: Ipv4Addr) -> Vec<usize> {
    let had = landed.iter().enumerate().filter(|(_, pods)| pods.contains(&Some(pod)));
    had.map(|(client, _)| client).collect()
}

/// To connection tracking a funnel through UDP is UDP, which kube-proxy forgets when a pod goes.
#[test]
fn a_replaced_pod_behind_a_funnel_through_udp() {
    if !require(&NEEDS) {
        return;
    }
    let how = Use { ports: vec![BGP, RECORDS], answers: true, order: Order::ClientByClient };
    for mode in [Mode::Iptables, Mode::Nftables] {
        let mut city = City::new(mode, service(Kind::LoadBalancer, true, &[RECORDS]), &how.ports, 3);
        let rules = "service funnel udp sport 540 dport 4739 { tcp dport 179 }";
        city.attach(rules, rules);
        let before = city.land(100, &how);
        assert_eq!(split(&before), 0);
        let gone = city.replace_pod_of(&before[0], &how.ports);
        city.pods.last().expect("the new pod").attach(rules);
        let after = city.land(100, &how);
        assert_eq!(split(&after), 0, "{mode:?}: clients split after a pod was replaced");
        let moved = of(&before, gone);
        assert!(
            moved.contains(&0) && moved.len() < before.len(),
            "{mode:?}: clients of that pod and of others"
        );
        for client in 0..100 {
            assert_eq!(before[client] != after[client], moved.contains(&client), "{mode:?}: client {client}");
        }
    }
}

/// Through TCP it is a connection that has not got beyond its SYN, and kube-proxy forgets no TCP. As long as packets come,
/// they go where the pod was. Forgetting it by hand is the remedy that docs/k8s.md has.
#[test]
fn a_replaced_pod_behind_a_funnel_through_tcp() {
    if !require(&NEEDS) {
        return;
    }
    let how = Use { ports: vec![BGP, RECORDS], answers: true, order: Order::ClientByClient };
    for mode in [Mode::Iptables, Mode::Nftables] {
        let mut city = City::new(mode, service(Kind::LoadBalancer, true, &[BGP]), &how.ports, 3);
        city.attach(&clients_end(&city.service), PODS_END);
        let before = city.land(12, &how);
        assert_eq!(split(&before), 0);
        let gone = city.replace_pod_of(&before[0], &how.ports);
        city.pods.last().expect("the new pod").attach(PODS_END);
        let moved = of(&before, gone);
        assert!(
            moved.contains(&0) && moved.len() < before.len(),
            "{mode:?}: clients of that pod and of others"
        );
        let lost = city.land(12, &how);
        for (client, pods) in lost.iter().enumerate() {
            assert_eq!(pods.contains(&None), moved.contains(&client), "{mode:?}: client {client}");
        }
        city.node.tool("conntrack", &format!("-D -p tcp --orig-port-src 540 --reply-src {gone}"));
        let after = city.land(12, &how);
        assert_eq!(split(&after), 0, "{mode:?}: clients split after it was forgotten");
        for client in (0..12).filter(|client| !moved.contains(client)) {
            assert_eq!(before[client], after[client], "{mode:?}: client {client} stays");
        }
    }
}

/// A limit of the `recent` match and so of kube-proxy in its mode `iptables`, with one port and without sfunnel:
/// addresses beyond so many for each pod are forgotten.
#[test]
fn iptables_forgets_clients() {
    if !require(&NEEDS) {
        return;
    }
    let how = Use { ports: vec![BGP], answers: true, order: Order::ClientByClient };
    for (mode, forgets) in [(Mode::Iptables, true), (Mode::Nftables, false)] {
        let city = City::new(mode, service(Kind::LoadBalancer, true, &[BGP]), &how.ports, 2);
        let (first, second) = (city.land(1_000, &how), city.land(1_000, &how));
        let moved = first.iter().zip(&second).filter(|(first, second)| first != second).count();
        if forgets {
            let limit =
                std::fs::read_to_string("/sys/module/xt_recent/parameters/ip_list_tot").expect("xt_recent");
            let limit: u32 = limit.trim().parse().expect("a number");
            assert_eq!(moved > 0, 2 * limit < 1_000, "{moved} clients moved, {limit} are remembered");
        } else {
            assert_eq!(moved, 0, "{mode:?}");
        }
    }
}
