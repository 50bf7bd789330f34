//! Many at once, much at once, and addresses that outlive their pods.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::thread;

use sha2::{Digest, Sha256};

use super::cluster::{Cluster, NEEDS, address, to};
use super::support::lab::{Capture, DEADLINE, Ns, link};
use super::support::require;
use super::{RULES, TCPDUMP, bypassed, dial, inside, is_tcp, transfer, transfer_to};

/// On the wire, all connections between two nodes have the same addresses and ports.
#[test]
fn all_pods_of_four_nodes_talk_at_once_from_one_source_port() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    const NODES: usize = 4;
    let cluster = Cluster::new(NODES, 2);
    cluster.attach_all(RULES);
    let pods: Vec<(usize, usize)> = (0..NODES).flat_map(|node| [(node, 0), (node, 1)]).collect();
    let listeners: Vec<TcpListener> = pods
        .iter()
        .map(|(node, pod)| cluster.pod(*node, *pod).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind"))
        .collect();
    let capture = Capture::start(cluster.host(0), "eth0");
    thread::scope(|scope| {
        for (node, pod) in pods.iter().copied() {
            for (server, listener) in
                pods.iter().copied().zip(&listeners).filter(|((other, _), _)| *other != node)
            {
                let cluster = &cluster;
                scope.spawn(move || {
                    let from = SocketAddr::from((address(node, pod), 40_000));
                    let to = to(server.0, server.1, 7000);
                    transfer_to(cluster.pod(node, pod), Some(from), listener, to, 1 << 18);
                });
            }
        }
    });
    let frames = capture.stop(100, bypassed).frames;
    assert!(
        !frames.iter().any(|frame| inside(frame).is_some_and(|inner| is_tcp(inner, 7000))),
        "on the overlay"
    );
    cluster.no_checksum_errors();
}

/// `SFUNNEL_MIB` MiB over one connection.
#[test]
fn a_gibibyte_comes_through_unchanged() {
    if !require(&NEEDS) {
        return;
    }
    const BLOCK: usize = 1 << 20;
    let mebibytes = std::env::var("SFUNNEL_MIB").map_or(1024, |mib| mib.parse().expect("a number of MiB"));
    let cluster = Cluster::new(2, 1);
    cluster.attach_all(RULES);
    let listener = cluster.pod(1, 0).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(4 * DEADLINE)).expect("a timeout");
        let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; BLOCK]);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            sum.update(&buffer[..length]);
            bytes += length;
        }
        (sum.finalize().to_vec(), bytes)
    });
    let mut stream = cluster.pod(0, 0).run(|| dial(None, to(1, 0, 7000)));
    stream.set_write_timeout(Some(4 * DEADLINE)).expect("a timeout");
    let mut sum = Sha256::new();
    let mut block: Vec<u8> = (0..BLOCK).map(super::pattern).collect();
    for number in 0..mebibytes {
        block[..8].copy_from_slice(&u64::to_le_bytes(number));
        sum.update(&block);
        stream.write_all(&block).unwrap_or_else(|error| panic!("after {number} MiB: {error}"));
    }
    stream.shutdown(Shutdown::Write).expect("the end");
    let (got, bytes) = serving.join().expect("the server");
    assert_eq!(bytes, usize::try_from(mebibytes).expect("a number") * BLOCK);
    assert_eq!(got, sum.finalize().to_vec());
    cluster.no_checksum_errors();
}

/// Nothing is remembered of a pod: the next one with its address is reached, and is not taken for the first.
#[test]
fn an_address_that_goes_to_another_pod_leads_there() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let mut cluster = Cluster::new(2, 1);
    cluster.attach_all(RULES);
    transfer(cluster.pod(0, 0), None, cluster.pod(1, 0), to(1, 0, 7000), 1 << 16);
    // A connection is open when its pod goes.
    let listener = cluster.pod(1, 0).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
    let mut orphan = cluster.pod(0, 0).run(|| dial(None, to(1, 0, 7000)));
    let host = cluster.host(1);
    host.tool("ip", "link del pod0");
    drop(listener);
    let pod = Ns::new("another pod");
    link((host, "pod0", "0.0.0.0"), (&pod, "eth0", "10.244.2.2/24"));
    for (ns, name) in [(host, "pod0"), (&pod, "eth0")] {
        ns.tool("ip", &format!("link set {name} mtu 1450"));
    }
    host.tool("ip", "link set pod0 master br0");
    // As CNI plugins announce a new pod.
    host.tool("ip", "neigh flush dev br0");
    pod.tool("ip", "route add default via 10.244.2.1");
    cluster.nodes[1].pods = vec![pod];

    let capture = Capture::start(cluster.host(1), "eth0");
    for (client, server) in [(0, 1), (1, 0)] {
        let peer =
            transfer(cluster.pod(client, 0), None, cluster.pod(server, 0), to(server, 0, 7000), 1 << 16);
        assert_eq!(peer, IpAddr::from(address(client, 0)));
    }
    let frames = capture.stop(20, bypassed).frames;
    assert!(
        !frames.iter().any(|frame| inside(frame).is_some_and(|inner| is_tcp(inner, 7000))),
        "on the overlay"
    );
    // The new pod knows nothing of the old one's connection, and says so.
    orphan.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let _ = orphan.write_all(b"?");
    let answer = orphan.read(&mut [0; 16]);
    assert!(answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    cluster.no_checksum_errors();
}
