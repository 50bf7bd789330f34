//! Services: flows whose remote end NAT changes on the client's node go past the stack of both nodes, and only where NAT says.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use super::bench::{Bench, End, PEER, PEERS_PORT, now};
use super::cluster::{Cluster, SERVICE, address, to};
use super::flow::Flow;
use super::model::{Place, Segment, Verdict};
use super::nodes::{
    Echo, LongWay, RULES, can_run, echo_server, invalid, is_probe, is_tcp, strict, wait_for_state,
    wait_for_state_on, wait_until_fast, wait_until_fast_on, word,
};
use super::support::lab::{Capture, DEADLINE};
use super::support::{Need, require};

/// Before NAT, and past it.
const PORTS: [u16; 2] = [80, 7000];

fn service() -> SocketAddr {
    SocketAddr::from((SERVICE, 80))
}

#[test]
fn a_service_goes_past_the_stack_of_both_nodes() {
    if !can_run() {
        return;
    }
    const BYTES: usize = 1 << 20;
    let cluster = strict(1);
    cluster.attach_all_fast(RULES);
    let peers = echo_server(cluster.pod(1, 0), 7000);
    let client = cluster.pod(0, 0);
    let mut service = Echo::connect(client, service());
    assert_eq!(peers.recv_timeout(DEADLINE), Ok(IpAddr::from(address(0, 0))));
    wait_until_fast_on(&cluster, &mut service, &PORTS);
    let mut direct = Echo::connect(client, to(1, 0, 7000));
    wait_until_fast(&cluster, &mut direct, 7000);

    // Both at once, and then much.
    let long_way = LongWay::watch(&cluster);
    thread::scope(|scope| {
        for echo in [&mut service, &mut direct] {
            scope.spawn(|| echo.exchange_often(500));
        }
    });
    for (node, packets) in long_way.packets_of(&PORTS).iter().enumerate() {
        assert!(packets.is_empty(), "{} packets by the long way on node {node}", packets.len());
    }
    let long_way = LongWay::watch(&cluster);
    (0..16).for_each(|_| service.exchange(BYTES));
    let length = |frame: &Vec<u8>| usize::from(word(frame, 16).unwrap_or_default());
    for packets in long_way.packets_of(&PORTS) {
        let slow: usize = packets.iter().map(length).sum();
        assert!(slow < 2 * 16 * BYTES / 4, "{slow} of {} bytes by the long way", 2 * 16 * BYTES);
    }

    drop((service, direct));
    wait_for_state(&cluster, 7000, "TIME_WAIT");
    wait_for_state_on(&cluster, 0, 80, "TIME_WAIT");
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// From one port to the Service, and to its pod: whose is a packet?
#[test]
fn connections_from_one_port_are_told_apart() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    cluster.attach_all_fast(RULES);
    let _peers = echo_server(cluster.pod(1, 0), 7000);
    let client = cluster.pod(0, 0);
    let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 40_000));
    let connect = |to: SocketAddr| {
        let stream = client.run(|| {
            let stream = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
                .expect("a socket");
            socket::setsockopt(&stream, sockopt::ReuseAddr, &true).expect("an option");
            socket::bind(stream.as_raw_fd(), &SockaddrStorage::from(from)).expect("a port");
            socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to)).expect("a connection");
            TcpStream::from(stream)
        });
        Echo::of(stream)
    };
    for order in [[service(), to(1, 0, 7000)], [to(1, 0, 7000), service()]] {
        let mut both = order.map(connect);
        for _ in 0..20 {
            both.iter_mut().for_each(|echo| echo.exchange_often(50));
            both.iter_mut().for_each(|echo| echo.exchange(50_000));
        }
        // At once: the next pair is from the same port.
        both.iter().for_each(Echo::reset);
    }
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

#[test]
fn a_policy_holds_for_services_that_are_fast() {
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
        let refused = client.run(|| TcpStream::connect_timeout(&service(), DEADLINE / 10));
        assert!(refused.is_err(), "on node {node}, before");
        allow();
        let mut echo = Echo::connect(client, service());
        wait_until_fast_on(&cluster, &mut echo, &PORTS);
        forbid();
        echo.exchange_until_silence(Instant::now());
        allow();
        echo.receive_owed();
        wait_until_fast_on(&cluster, &mut echo, &PORTS);
    }
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// NAT forgets a flow, and sends what comes of it to another pod: so does what goes past it, as soon as proofs run out.
#[test]
fn a_service_that_leads_to_another_pod_is_followed() {
    if !can_run() {
        return;
    }
    let cluster = strict(2);
    cluster.attach_all_fast(RULES);
    let first = echo_server(cluster.pod(1, 0), 7000);
    let second = echo_server(cluster.pod(1, 1), 7000);
    let (client, host) = (cluster.pod(0, 0), cluster.host(0));
    let mut echo = Echo::connect(client, service());
    assert!(first.recv_timeout(DEADLINE).is_ok());
    wait_until_fast_on(&cluster, &mut echo, &PORTS);
    host.nft(&format!(
        "flush chain ip proxy pre
         add rule ip proxy pre ip daddr {SERVICE} tcp dport 80 dnat to {}:7000\n",
        address(1, 1)
    ));
    host.tool("conntrack", "-F");
    let start = Instant::now();
    let ended = loop {
        match echo.try_exchange(64) {
            Ok(()) => assert!(start.elapsed() < DEADLINE, "the pod before answers still"),
            Err(error) => break error.kind(),
        }
    };
    assert!(matches!(ended, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended}");
    let mut echo = Echo::connect(client, service());
    assert!(second.recv_timeout(DEADLINE).is_ok());
    wait_until_fast_on(&cluster, &mut echo, &PORTS);
    cluster.no_checksum_errors();
}

/// What a Service has behind it that is not a pod of another node gets nothing that no pod has sent.
#[test]
fn who_is_not_a_pod_is_not_probed() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new(2, 2);
    cluster.attach_all_fast(RULES);
    let other = Ipv4Addr::new(10, 96, 0, 11);
    let local = Ipv4Addr::new(10, 96, 0, 12);
    cluster.host(0).nft(&format!(
        "table ip others {{ chain pre {{ type nat hook prerouting priority -101;
             ip daddr {other} tcp dport 80 dnat to 192.168.77.2:7000
             ip daddr {local} tcp dport 80 dnat to {}:7000
         }}
         }}\n",
        address(0, 1)
    ));
    let _peers = [cluster.host(1), cluster.pod(0, 1)].map(|server| echo_server(server, 7000));
    let client = cluster.pod(0, 0);
    for to in [other, local] {
        let captures = [
            Capture::start(cluster.host(1), "eth0"),
            Capture::start(cluster.pod(0, 1), "eth0"),
            Capture::start(cluster.host(0), "br0"),
        ];
        let mut echo = Echo::connect(client, SocketAddr::from((to, 80)));
        echo.exchange_often(300);
        drop(echo);
        let mut seen = 0;
        for capture in captures {
            let frames = capture.stop(0, |_| true).frames;
            let ours = frames.iter().filter(|frame| PORTS.iter().any(|port| is_tcp(frame, *port)));
            seen += ours.clone().count();
            assert_eq!(ours.filter(|frame| is_probe(frame)).count(), 0, "to {to}");
        }
        assert!(seen > 300, "{seen}");
    }
    cluster.no_checksum_errors();
}

/// A packet at a time: what is learned of NAT, and what packets are changed to.
#[test]
fn what_goes_past_nat_is_what_nat_makes_of_it() {
    if !require(&[Need::Root]) {
        return;
    }
    const WITHIN: u32 = 100;
    let mut bench = Bench::new();
    let of_service: End = (SERVICE, 80);
    let [opens, another] =
        [1000, 2000].map(|sequence| Segment { syn: true, sequence, scale: Some(7), ..Segment::default() });
    assert_eq!(bench.run_to(of_service, Place::Leaving, &opens).0, Verdict::Usual);
    assert_eq!(bench.known_to(of_service), None, "nobody knows yet where it goes");
    assert_eq!(bench.run(Place::Passed, &another).0, Verdict::Usual);
    assert_eq!((bench.known_to(of_service), bench.known()), (None, None), "that is another connection");
    assert_eq!(bench.run(Place::Passed, &opens).0, Verdict::Usual);
    let (flow, alias) = (bench.known_to(of_service).expect("a flow"), bench.known().expect("an alias"));
    let [other, service] = [PEER, SERVICE].map(|address| u32::from_le_bytes(address.octets()));
    assert_eq!((flow.other, flow.other_port, flow.is_alias), (other, PEERS_PORT.to_be(), false));
    assert_eq!((alias.other, alias.other_port, alias.is_alias), (service, 80_u16.to_be(), true));
    assert_eq!((flow.opener, flow.scale_out, flow.scale_in), (1, 7, 0xff));

    // Proven, and probed.
    let now = now();
    let (interface, pod) = bench.here;
    let [pod_mac, gateway_mac] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
    let times = Flow { noted: now, out: now, inwards: now, asked_out: now, asked_in: now, ..flow };
    let proven = Flow { real_out: true, real_in: true, probed_out: true, probed_in: true, ..times };
    let ends = Flow {
        end_out: 5000,
        end_in: 5000,
        ahead_out: 9000,
        ahead_in: 9000,
        acked_out: 5000,
        acked_in: 5000,
        ..proven
    };
    let fast = Flow { interface, pod, pod_mac, gateway_mac, scale_in: 7, ..ends };
    bench.flows.set(Bench::key_to(of_service), fast.bytes()).expect("the map");
    let data =
        Segment { ack: true, sequence: 4000, length: WITHIN, acknowledged: 4900, ..Segment::default() };
    let (verdict, frame) = bench.run_to(of_service, Place::Leaving, &data);
    assert_eq!(verdict, Verdict::Fast);
    let (verdict, arrived) = bench.run(Place::Arriving, &data);
    assert_eq!(verdict, Verdict::Fast);
    let delivered = Bench::frame_to(of_service, Place::Delivered, &data);
    assert_eq!(arrived[..12], [pod_mac, gateway_mac].concat());
    assert_eq!(arrived[12..], delivered[12..]);

    // What its pod sends to the other end itself is not of this flow; as `bypass` would send it, that is the same.
    bench.know(None);
    assert_eq!(frame, bench.run(Place::Passed, &data).1);
    bench.know(Some(alias));

    // A probe is about flows of its own kind.
    for (place, to, urgent, proves) in [
        (Place::Passed, (PEER, PEERS_PORT), 0xfffd, true),
        (Place::Passed, (PEER, PEERS_PORT), 0xfffe, false),
        (Place::Delivered, of_service, 0xfffd, true),
        (Place::Delivered, of_service, 0xfffe, false),
        (Place::Delivered, (PEER, PEERS_PORT), 0xfffd, false),
    ] {
        let unprobed = Flow { probed_out: false, probed_in: false, ..fast };
        bench.flows.set(Bench::key_to(of_service), unprobed.bytes()).expect("the map");
        let probe = Segment { urgent, length: 0, ..data };
        assert_eq!(bench.run_to(to, place, &probe).0, Verdict::Ends, "{place:?} {urgent:#x}");
        let then = bench.known_to(of_service).expect("a flow");
        assert_eq!(then.probed_out || then.probed_in, proves, "{place:?} {to:?} {urgent:#x}");
        assert_eq!(bench.known(), Some(alias));
    }
    // From who is not a pod, it may be anything.
    let stranger = (Ipv4Addr::new(203, 0, 113, 1), 443);
    let (verdict, _) =
        bench.run_to(stranger, Place::Delivered, &Segment { urgent: 0xfffd, length: 0, ..data });
    assert_eq!(verdict, Verdict::Usual);

    // FIN ends it, from either side.
    for (place, to) in [(Place::Leaving, of_service), (Place::Arriving, (PEER, PEERS_PORT))] {
        bench.flows.set(Bench::key_to(of_service), fast.bytes()).expect("the map");
        assert_eq!(bench.run_to(to, place, &Segment { fin: true, ..data }).0, Verdict::Usual);
        let then = bench.known_to(of_service).expect("a flow");
        assert!(then.closing && !then.real_out, "{place:?}");
    }
}
