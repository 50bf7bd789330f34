//! `bypass` with real sockets: pods on nodes with a VXLAN between them, and what is on the wire.

mod support;

// The bench uses more of it.
#[allow(dead_code)]
#[path = "bypass/cluster.rs"]
mod cluster;
#[path = "bypass/direct.rs"]
mod direct;
#[path = "bypass/lives.rs"]
mod lives;
#[path = "bypass/operating.rs"]
mod operating;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use cluster::{Cluster, NEEDS, SERVICE, address, to};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use support::flows::{Pieces, pattern};
use support::lab::{Capture, DEADLINE, Ns};
use support::{Need, flows, require};

const TCPDUMP: Need = Need::Tool("tcpdump", "tcpdump");
/// Both ways of port 7000.
const RULES: &str = "tcp dport 7000 actions bypass\ntcp sport 7000 actions bypass\n";

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// Where the packet starts that a VXLAN frame carries.
fn inside(frame: &[u8]) -> Option<&[u8]> {
    let vxlan = frame.get(23) == Some(&17) && be16(frame, 36) == Some(4789);
    vxlan.then(|| frame.get(50..)).flatten()
}

/// A TCP packet from or to that port.
fn is_tcp(frame: &[u8], port: u16) -> bool {
    frame.get(23) == Some(&6) && (be16(frame, 34) == Some(port) || be16(frame, 36) == Some(port))
}

/// From host to host, with something in the urgent pointer.
fn bypassed(frame: &[u8]) -> bool {
    frame.get(26..29) == Some(&[192, 168, 77]) && is_tcp(frame, 7000) && be16(frame, 52) != Some(0)
}

#[test]
fn the_flow_leaves_the_overlay_and_nothing_else_does() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let (client, server) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let overlaid = |frame: &[u8], port| inside(frame).is_some_and(|inner| is_tcp(inner, port));

    // Without, all of it is inside the overlay.
    let capture = Capture::start(cluster.host(1), "eth0");
    assert_eq!(flows::tcp(client, server, to(1, 0, 7000), 2, 20), 40);
    let frames = capture.stop(80, |frame| overlaid(frame, 7000)).frames;
    assert!(!frames.iter().any(|frame| bypassed(frame)));

    cluster.attach_all(RULES);
    let capture = Capture::start(cluster.host(1), "eth0");
    assert_eq!(flows::tcp(client, server, to(1, 0, 7000), 2, 20), 40);
    assert_eq!(flows::tcp(client, server, to(1, 0, 7001), 2, 20), 40);
    assert_eq!(flows::udp(client, server, to(1, 0, 7000), 10, 1000), 10);
    // Nobody listens there: the answer is ICMP.
    let nobody = client.run(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    nobody.send_to(b"?", to(1, 0, 7999)).expect("send");
    let inner = |proto| move |frame: &[u8]| inside(frame).is_some_and(|inner| inner.get(23) == Some(&proto));
    let frames = capture.stop(1, inner(1)).frames;
    let count = |wanted: &dyn Fn(&[u8]) -> bool| frames.iter().filter(|frame| wanted(frame)).count();
    assert_eq!(count(&|frame| overlaid(frame, 7000)), 0, "on the overlay");
    assert!(count(&|frame| overlaid(frame, 7001)) >= 80, "another port");
    assert!(count(&inner(17)) >= 10, "UDP");
    assert!(count(&bypassed) >= 80, "the flow");
    assert_eq!(count(&|frame| is_tcp(frame, 7000) && !bypassed(frame)), 0, "neither way");
    cluster.no_checksum_errors();
}

/// Both bodies, each way; the server sees the pod's address.
fn transfer(client: &Ns, from: Option<SocketAddr>, server: &Ns, to: SocketAddr, bytes: usize) -> IpAddr {
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, to.port()))).expect("bind");
    transfer_to(client, from, &listener, to, bytes)
}

fn transfer_to(
    client: &Ns,
    from: Option<SocketAddr>,
    listener: &TcpListener,
    to: SocketAddr,
    bytes: usize,
) -> IpAddr {
    let listener = listener.try_clone().expect("a descriptor");
    let serving = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("all of it");
        stream.write_all(&got).expect("a write");
        peer.ip()
    });
    let mut stream = client.run(|| dial(from, to));
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // Of each pod, other bytes.
    let seed = match stream.local_addr().expect("an address").ip() {
        IpAddr::V4(pod) => usize::from(pod.octets()[3]),
        IpAddr::V6(_) => 0,
    };
    let sent: Vec<u8> = (0..bytes).map(|at| pattern(at * 7 + seed)).collect();
    stream.write_all(&sent).expect("a write");
    stream.shutdown(Shutdown::Write).expect("the end");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("all of it");
    assert!(back == sent, "{} of {bytes} bytes, or others", back.len());
    serving.join().expect("the server")
}

/// A connection, from a port of the caller's choice if there is one.
fn dial(from: Option<SocketAddr>, to: SocketAddr) -> TcpStream {
    let (Some(SocketAddr::V4(from)), SocketAddr::V4(to)) = (from, to) else {
        return TcpStream::connect_timeout(&to, DEADLINE).expect("a connection");
    };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&fd.as_fd(), sockopt::ReuseAddr, &true).expect("an option");
    bind(fd.as_raw_fd(), &SockaddrIn::from(from)).expect("bind");
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("a connection");
    fd.into()
}

#[test]
fn large_transfers_come_through_whatever_the_offloads() {
    if !require(&NEEDS) {
        return;
    }
    for (of_host, of_pod) in [
        ("tx on gso on gro on", "tx on"),
        ("tx off gso on gro on", "tx on"),
        ("tx on tso off gso on gro on", "tx on"),
        ("tx on gro off", "tx off"),
    ] {
        let cluster = Cluster::new(2, 1);
        for node in &cluster.nodes {
            node.host.tool("ethtool", &format!("-K eth0 {of_host}"));
            node.pods.iter().for_each(|pod| drop(pod.tool("ethtool", &format!("-K eth0 {of_pod}"))));
        }
        cluster.attach_all(RULES);
        let peer = transfer(cluster.pod(0, 0), None, cluster.pod(1, 0), to(1, 0, 7000), 16 << 20);
        assert_eq!(peer, IpAddr::from(address(0, 0)), "{of_host}");
        cluster.no_checksum_errors();
    }
}

#[test]
fn services_and_policies_work_as_they_do_on_the_overlay() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    cluster.attach_all(RULES);
    let (client, server) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let listener = server.run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
    let capture = Capture::start(cluster.host(1), "eth0");
    let peer = transfer_to(client, None, &listener, SocketAddr::from((SERVICE, 80)), 1 << 20);
    assert_eq!(peer, IpAddr::from(address(0, 0)));
    let frames = capture.stop(20, bypassed).frames;
    assert!(!frames.iter().any(|frame| inside(frame).is_some_and(|inner| is_tcp(inner, 7000))));

    // A policy on either node, on the interfaces that it knows.
    for (node, hook) in [(0, "iifname br0 oifname vx0"), (1, "iifname vx0 oifname br0")] {
        let host = cluster.host(node);
        host.nft(&format!(
            "table ip np {{ chain forward {{ type filter hook forward priority 10; {hook} tcp dport 7000 drop; }}\n}}\n"
        ));
        let refused = client.run(|| TcpStream::connect_timeout(&to(1, 0, 7000), DEADLINE / 10));
        assert!(refused.is_err(), "node {node}");
        host.nft("delete table ip np\n");
        assert!(client.run(|| TcpStream::connect_timeout(&to(1, 0, 7000), DEADLINE)).is_ok(), "node {node}");
    }
    cluster.no_checksum_errors();
}

#[test]
fn attaching_and_detaching_leave_connections_as_they_are() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let mut pieces = Pieces::start(cluster.pod(0, 0), cluster.pod(1, 0), to(1, 0, 7000));
    for _ in 0..3 {
        pieces.send(1 << 20);
        cluster.attach_all(RULES);
        pieces.send(1 << 20);
        // Those that send first, then those that receive.
        for interface in ["vx0", "eth0"] {
            for node in [0, 1] {
                assert!(cluster.sfunnel(node, &["detach", "-i", interface]).status.success());
            }
            pieces.send(1 << 20);
        }
    }
    pieces.end();
    cluster.no_checksum_errors();
}

/// A node that only receives answers by the overlay, and reaches the others.
#[test]
fn one_direction_alone_works() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    cluster.attach(1, RULES, &["--receive-only"]);
    cluster.attach(0, RULES, &[]);
    assert!(cluster.status(0).contains("1 of 1 peers") && !cluster.status(1).contains("peers"));
    for (client, server) in [(0, 1), (1, 0)] {
        transfer(cluster.pod(client, 0), None, cluster.pod(server, 0), to(server, 0, 7000), 1 << 20);
    }
    cluster.no_checksum_errors();
}

/// Of `status`: hashes, rules and peers, whichever programs have them.
fn attached_rules(status: &str) -> Vec<&str> {
    status.lines().filter_map(|line| line.split(", program ").next()).collect()
}

/// How many packets of a short exchange are bypassed, as the server's node sees it; and how many are not.
fn ways(cluster: &Cluster, client: usize, server: usize) -> (usize, usize) {
    let capture = Capture::start(cluster.host(server), "eth0");
    let overlaid = |frame: &[u8]| inside(frame).is_some_and(|inner| is_tcp(inner, 7000));
    let (from, on) = (cluster.pod(client, 0), cluster.pod(server, 0));
    assert_eq!(flows::tcp(from, on, to(server, 0, 7000), 1, 20), 20);
    let frames = capture.stop(40, |frame| bypassed(frame) || overlaid(frame)).frames;
    let count = |wanted: &dyn Fn(&[u8]) -> bool| frames.iter().filter(|frame| wanted(frame)).count();
    (count(&bypassed), count(&overlaid))
}

#[test]
fn a_node_that_does_not_receive_stays_on_the_overlay() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(3, 1);
    cluster.attach(1, RULES, &["--receive-only"]);
    let said = cluster.attach(0, RULES, &[]);
    assert!(said.contains("node 192.168.77.3 stays on the overlay: no program there"), "{said}");
    assert!(!said.contains("192.168.77.2 stays"), "{said}");
    assert!(cluster.status(0).contains("1 of 2 peers"), "{}", cluster.status(0));
    let (bypassed, overlaid) = ways(&cluster, 0, 1);
    assert!(bypassed >= 20 && overlaid >= 20, "answers stay on the overlay: {bypassed}, {overlaid}");
    assert_eq!(ways(&cluster, 0, 2).0, 0);
    // It has gone. What is for it goes to all, as the switch does not know where it is; nobody answers for it.
    cluster.host(2).tool("ip", "link set eth0 down");
    let said = cluster.attach(0, RULES, &[]);
    assert!(said.contains("192.168.77.3 stays on the overlay: no answer from its port 1234"), "{said}");
    cluster.no_checksum_errors();
}

/// A probe has what packets of pods have: where that does not arrive, they would be lost.
#[test]
fn a_way_that_clears_the_urgent_pointer_is_not_taken() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    cluster.switch.nft(
        "table bridge clear { chain c { type filter hook prerouting priority 0; tcp urgptr != 0 tcp urgptr set 0;\n}\n}\n",
    );
    cluster.attach(1, RULES, &["--receive-only"]);
    let said = cluster.attach(0, RULES, &[]);
    assert!(said.contains("nothing is sent past the overlay"), "{said}");
    assert_eq!(ways(&cluster, 0, 1).0, 0);
    cluster.switch.nft("delete table bridge clear\n");
    cluster.attach(0, RULES, &[]);
    assert!(ways(&cluster, 0, 1).0 >= 20);
}

/// Each of the two would give packets the addresses of other pods.
#[test]
fn a_node_that_knows_other_pods_is_not_sent_to() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let others = "node 192.168.77.1 10.244.9.0/24\nnode 192.168.77.2 10.244.2.0/24\ntcp actions bypass\n";
    let attach = ["bypass", "attach", "--overlay-if", "vx0", "--host-if", "eth0", "--receive-only"];
    assert!(cluster.sfunnel(1, &[&attach[..], &["--ruleset", others]].concat()).status.success());
    let said = cluster.attach(0, RULES, &[]);
    assert!(said.contains("or knows other pods") && !cluster.status(0).contains("peers"), "{said}");
}

#[test]
fn a_node_that_leaves_and_comes_back_is_followed() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let rules = cluster.rules(RULES);
    let _first = cluster.watch(0, &rules, &[]);
    let mut second = cluster.watch(1, &rules, &[]);
    for node in [0, 1] {
        cluster.wait_for_status(node, |status| status.contains("1 of 1 peers"));
    }
    let (bypassed, overlaid) = ways(&cluster, 0, 1);
    assert!(bypassed >= 40 && overlaid == 0, "{bypassed}, {overlaid}");
    // A connection lives through all that follows.
    let listener = cluster.pod(1, 0).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
    let mut stream = cluster.pod(0, 0).run(|| dial(None, to(1, 0, 7000)));
    let (mut server, _) = listener.accept().expect("a connection");
    server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut exchange = |byte: u8| {
        stream.write_all(&[byte; 5000]).expect("a write");
        let mut got = [0; 5000];
        server.read_exact(&mut got).expect("a read");
        assert_eq!(got, [byte; 5000]);
    };
    exchange(1);
    second.stop();
    assert!(!cluster.status(1).contains("peers"), "it sends, and nobody watches");
    assert!(cluster.sfunnel(1, &["detach"]).status.success());
    exchange(2);
    cluster.wait_for_status(0, |status| !status.contains("peers"));
    exchange(3);
    let _second = cluster.watch(1, &rules, &[]);
    cluster.wait_for_status(0, |status| status.contains("1 of 1 peers"));
    exchange(4);
    cluster.no_checksum_errors();
}

/// Nobody writes nodes: routes, neighbours and forwarding entries say who they are, also of one that joins.
#[test]
fn nodes_are_those_that_the_kernel_knows() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(3, 1);
    let host = cluster.host(0);
    host.tool("ip", "route del 10.244.3.0/24");
    let peers = ["--peers", "kernel"];
    let _watches = [0, 1, 2].map(|node| cluster.watch(node, RULES, &peers));
    cluster.wait_for_status(0, |status| status.contains("1 of 1 peers"));
    cluster.wait_for_status(1, |status| status.contains("2 of 2 peers"));
    let (bypassed, overlaid) = ways(&cluster, 0, 1);
    assert!(bypassed >= 40 && overlaid == 0, "{bypassed}, {overlaid}");
    host.tool("ip", "route add 10.244.3.0/24 via 10.244.3.0 dev vx0 onlink");
    cluster.wait_for_status(0, |status| status.contains("2 of 2 peers"));
    cluster.wait_for_status(2, |status| status.contains("2 of 2 peers"));
    assert!(ways(&cluster, 0, 2).0 >= 40);
    cluster.no_checksum_errors();
}

/// As Calico has it: blocks of addresses that were free, each with a route to nowhere on its own node.
#[test]
fn a_node_with_several_blocks_has_all_its_pods_bypassed() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(3, 2);
    // The second pods of the first two nodes get addresses elsewhere, with the same last byte as the first's.
    let blocks = [("10.244.77.0/26", "10.244.77.2"), ("10.244.199.0/27", "10.244.199.2")];
    for (node, (block, pod)) in blocks.into_iter().enumerate() {
        let host = cluster.host(node);
        let gateway = format!("{}.1", pod.rsplit_once('.').expect("an address").0);
        host.tool("ip", &format!("addr add {gateway}/26 dev br0"));
        host.tool("ip", &format!("route del {}/26 dev br0", block.split('/').next().expect("an address")));
        host.tool("ip", &format!("route add blackhole {block}"));
        host.tool("ip", &format!("route add {pod} dev br0"));
        let n = node + 1;
        host.tool("ip", &format!("route del 10.244.{n}.0/24 dev br0"));
        host.tool("ip", &format!("route add blackhole 10.244.{n}.0/26"));
        host.tool("ip", &format!("route add 10.244.{n}.2 dev br0"));
        let ns = cluster.pod(node, 1);
        ns.tool("ip", "addr flush dev eth0");
        ns.tool("ip", &format!("addr add {pod}/26 dev eth0"));
        ns.tool("ip", &format!("route add default via {gateway}"));
        for other in (0..3).filter(|other| *other != node) {
            let other = cluster.host(other);
            other.tool("ip", &format!("route del 10.244.{n}.0/24"));
            for block in [format!("10.244.{n}.0/26"), block.to_owned()] {
                other.tool("ip", &format!("route add {block} via 10.244.{n}.0 dev vx0 onlink"));
            }
        }
    }
    let _watches = [0, 1, 2].map(|node| cluster.watch(node, "tcp actions bypass", &["--peers", "kernel"]));
    (0..3).for_each(|node| cluster.wait_for_status(node, |status| status.contains("2 of 2 peers")));
    let second = |node: usize| match blocks.get(node) {
        Some((_, pod)) => pod.parse().expect("an address"),
        None => address(node, 1),
    };
    for (client, server) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
        let on = [address(server, 0), second(server)];
        for (pod, at) in on.into_iter().enumerate() {
            let listener = cluster.pod(server, pod).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
            let capture = Capture::start(cluster.host(server), "eth0");
            for (from, source) in [address(client, 0), second(client)].into_iter().enumerate() {
                let to = SocketAddr::from((at, 7000));
                let peer = transfer_to(cluster.pod(client, from), None, &listener, to, 1 << 16);
                assert_eq!(peer, IpAddr::from(source));
            }
            let frames = capture.stop(20, bypassed).frames;
            let overlaid = |frame: &&Vec<u8>| inside(frame).is_some_and(|inner| is_tcp(inner, 7000));
            assert_eq!(frames.iter().filter(overlaid).count(), 0, "{client} to pod {pod} of {server}");
        }
    }
    cluster.no_checksum_errors();
}

#[test]
fn interfaces_that_cannot_be_the_ends_of_a_bypass_are_refused() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let said = |args: &[&str]| {
        let output = cluster.sfunnel(0, args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let rules = cluster.rules(RULES);
    let with = |overlay: &str, host: &str| {
        said(&["bypass", "attach", "--overlay-if", overlay, "--host-if", host, "--ruleset", &rules])
    };
    assert!(with("eth0", "eth0").contains("both the overlay's interface and the host's"));
    assert!(with("vx9", "eth0").contains("no interface named vx9"));
    assert!(with("vx0", "pod0").contains("name that as the host's interface"));
    assert!(said(&["attach", "-i", "vx0", "--ruleset", &rules]).contains("sfunnel bypass attach"));
    cluster.host(0).tool("ip", "link set vx0 master br0");
    assert!(with("vx0", "eth0").contains("in the bridge br0"));
    let status = cluster.sfunnel(0, &["status"]);
    assert!(!String::from_utf8_lossy(&status.stdout).contains("sfunnel/"), "nothing was attached");
}

/// As its ConfigMap is mounted, with the file names that are the mount's own.
#[test]
fn rules_of_the_original_are_read_from_their_folder() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("r0", "type=cidr\nfrom=\"10.244.2.0/24\"\nto=10.244.0.0/16\n");
    write("r1", "type=podLabel\nname=app\nvalue=web\n");
    write("..data", "not a rule");
    let pods = folder.path().join(".pods.json");
    let path = pods.display().to_string();
    let rules = folder.path().display().to_string();
    let attach = |node, last: &[&str]| {
        let ends = ["bypass", "attach", "--overlay-if", "vx0", "--host-if", "eth0", "--peers", "kernel"];
        let output = cluster.sfunnel(node, &[&ends[..], &["--router-rules", &rules], last].concat());
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = attach(0, &[]);
    assert!(!done && said.contains("give it with `--pods`"), "{said}");
    let pod = |address: &str| {
        let pod = format!(
            r#"{{"metadata":{{"labels":{{"app":"web"}}}},"spec":{{}},"status":{{"podIP":"{address}"}}}}"#
        );
        std::fs::write(&pods, format!(r#"{{"items":[{pod}]}}"#)).expect("a file");
    };
    for (address, taken) in [("10.244.2.9", false), ("10.244.2.2", true)] {
        pod(address);
        for node in [1, 0, 1] {
            let (done, said) = attach(node, &["--pods", &path]);
            assert!(done, "{said}");
        }
        let (bypassed, overlaid) = ways(&cluster, 0, 1);
        assert_eq!((bypassed >= 40, overlaid == 0), (taken, taken), "{bypassed}, {overlaid}");
    }
}
