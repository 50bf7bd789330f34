//! A flow that goes past the stack: what is on which way, whom the server sees, and what conntrack and policies make of it.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{address, to};
use super::nodes::{
    Echo, LongWay, RULES, bulk, can_run, echo_server, inside, invalid, is_tcp, strict, wait_for_state,
    wait_until_fast, word,
};
use super::support::flows;
use super::support::lab::{Capture, DEADLINE, Ns};

/// From host to host, with something in the urgent pointer.
fn bypassed(frame: &[u8]) -> bool {
    frame.get(26..29) == Some(&[192, 168, 77]) && is_tcp(frame, 7000) && word(frame, 52) != Some(0)
}

#[test]
fn a_proven_flow_meets_neither_netfilter_nor_overlay() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    cluster.attach_all_fast("tcp dport 7000 actions bypass\ntcp sport 7000 actions bypass\n");
    let peers = echo_server(cluster.pod(1, 0), 7000);
    let mut echo = Echo::connect(cluster.pod(0, 0), to(1, 0, 7000));
    assert_eq!(peers.recv_timeout(DEADLINE), Ok(IpAddr::from(address(0, 0))));
    wait_until_fast(&cluster, &mut echo, 7000);

    let (long_way, wire) = (LongWay::watch(&cluster), Capture::start(cluster.host(1), "eth0"));
    // What is not selected, or no TCP.
    let nobody = cluster.pod(0, 0).run(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    nobody.send_to(b"?", to(1, 0, 7999)).expect("send");
    assert_eq!(flows::tcp(cluster.pod(0, 0), cluster.pod(1, 0), to(1, 0, 7001), 1, 20), 20);
    assert_eq!(flows::udp(cluster.pod(0, 0), cluster.pod(1, 0), to(1, 0, 7000), 10, 1000), 10);
    // Last, since with these the capture ends.
    echo.exchange_often(500);
    let frames = wire.stop(1000, bypassed).frames;
    let overlaid = |wanted: &dyn Fn(&[u8]) -> bool| {
        frames.iter().filter(|frame| inside(frame).is_some_and(wanted)).count()
    };
    assert_eq!(overlaid(&|inner| is_tcp(inner, 7000)), 0, "by VXLAN");
    assert!(overlaid(&|inner| inner.get(23) == Some(&1)) >= 1, "ICMP, since nobody listens there");
    assert!(overlaid(&|inner| inner.get(23) == Some(&17)) >= 10, "UDP");
    assert!(overlaid(&|inner| is_tcp(inner, 7001)) >= 40, "another port");
    for (node, packets) in long_way.packets(7000).iter().enumerate() {
        assert!(packets.is_empty(), "{} packets by the long way on node {node}", packets.len());
    }

    drop(echo);
    wait_for_state(&cluster, 7000, "TIME_WAIT");
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// Netfilter's window moves in front of the data: most of a transfer at full size goes fast, whatever finishes checksums.
#[test]
fn bulk_goes_fast_whatever_the_offloads() {
    if !can_run() {
        return;
    }
    const BYTES: usize = 24 << 20;
    for (of_host, of_pod) in [
        ("tx on gso on gro on", "tx on"),
        ("tx off gso on gro on", "tx on"),
        ("tx on tso off gso on gro on", "tx off"),
        ("tx on gro off", "tx off"),
    ] {
        let cluster = strict(1);
        for node in &cluster.nodes {
            node.host.tool("ethtool", &format!("-K eth0 {of_host}"));
            node.pods.iter().for_each(|pod| drop(pod.tool("ethtool", &format!("-K eth0 {of_pod}"))));
        }
        cluster.attach_all_fast(RULES);
        let long_way = LongWay::watch(&cluster);
        bulk(cluster.pod(0, 0), cluster.pod(1, 0), to(1, 0, 7000), BYTES);
        let length = |frame: &Vec<u8>| usize::from(word(frame, 16).unwrap_or_default());
        for packets in long_way.packets(7000) {
            let slow: usize = packets.iter().map(length).sum();
            assert!(slow < 2 * BYTES / 4, "{of_host}: {slow} of {} bytes by the long way", 2 * BYTES);
        }
        wait_for_state(&cluster, 7000, "TIME_WAIT");
        assert_eq!(invalid(&cluster), 0, "{of_host}");
        cluster.no_checksum_errors();
    }
}

/// What netfilter no longer lets through is not sent past it for long: a proof holds 2.5 seconds.
#[test]
fn a_policy_holds_for_flows_that_are_fast() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    cluster.attach_all_fast(RULES);
    let _peers = echo_server(cluster.pod(1, 0), 7000);
    let client = cluster.pod(0, 0);
    for node in [0, 1] {
        let host = cluster.host(node);
        let forbid = || {
            host.nft("table ip np { chain forward { type filter hook forward priority -20; tcp dport 7000 drop; }\n}\n");
        };
        let allow = || host.nft("delete table ip np\n");
        forbid();
        let refused = client.run(|| TcpStream::connect_timeout(&to(1, 0, 7000), DEADLINE / 10));
        assert!(refused.is_err(), "on node {node}, before");
        allow();
        let mut echo = Echo::connect(client, to(1, 0, 7000));
        wait_until_fast(&cluster, &mut echo, 7000);
        forbid();
        echo.exchange_until_silence(Instant::now());
        allow();
        echo.receive_owed();
        wait_until_fast(&cluster, &mut echo, 7000);
    }
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// More connections than are remembered: they are learned again and again, and none is confused with another.
#[test]
fn a_table_of_few_entries_serves_many_connections() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    (0..2).for_each(|node| drop(cluster.attach(node, RULES, &["--receive-only"])));
    (0..2).for_each(|node| drop(cluster.attach(node, RULES, &["--fast", "--flows", "64"])));
    let _peers = echo_server(cluster.pod(1, 0), 7000);
    let mut connections: Vec<Echo> =
        (0..200).map(|_| Echo::connect(cluster.pod(0, 0), to(1, 0, 7000))).collect();
    for round in 0..20 {
        for at in 0..connections.len() {
            let which = (at * 67 + round * 31) % connections.len();
            connections[which].exchange(1 + (at * 131 + round * 71) % 3000);
        }
    }
    drop(connections);
    wait_for_state(&cluster, 7000, "TIME_WAIT");
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// Conntrack may have forgotten a flow that was at rest. Then its first packet seems to open a connection, which the policy
/// allows in one direction only.
#[test]
fn rest_is_survived_whichever_side_speaks_first() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    cluster.attach_all_fast(RULES);
    let (client, server) = (cluster.pod(0, 0), cluster.pod(1, 0));
    // Conntrack forgets these; a third rests while it does not.
    let rest = Duration::from_secs(66);
    let talks: Vec<Talk> = ["client", "server"].map(|first| Talk::new(client, server, first)).into();
    let kept = Talk::new(client, server, "client");
    for talk in talks.iter().chain([&kept]) {
        (0..300).for_each(|_| talk.say("client"));
    }
    thread::sleep(rest);
    kept.say("server");
    for node in &cluster.nodes {
        node.host.tool("conntrack", "-F");
    }
    for talk in &talks {
        let first = talk.first;
        talk.say(first);
        (0..300).for_each(|_| talk.say("client"));
        (0..300).for_each(|_| talk.say("server"));
    }
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// Both ends of a connection.
struct Talk {
    client: TcpStream,
    server: TcpStream,
    first: &'static str,
}

impl Talk {
    fn new(client: &Ns, server: &Ns, first: &'static str) -> Talk {
        let listener = server.run(|| TcpListener::bind("0.0.0.0:0")).expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let client = client.run(|| TcpStream::connect(to(1, 0, port))).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        for end in [&client, &server] {
            end.set_nodelay(true).expect("an option");
            end.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        }
        Talk { client, server, first }
    }

    /// One end says something, and the other answers.
    fn say(&self, who: &str) {
        let (one, other) = match who {
            "client" => (&self.client, &self.server),
            _ => (&self.server, &self.client),
        };
        for (mut from, mut to) in [(one, other), (other, one)] {
            from.write_all(b"hello").expect("a write");
            let mut got = [0; 5];
            to.read_exact(&mut got).unwrap_or_else(|error| panic!("{who} spoke: {error}"));
            assert_eq!(&got, b"hello");
        }
    }
}
