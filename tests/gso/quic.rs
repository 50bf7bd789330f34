//! QUIC: a client and a server of `quinn`, at full size, both ways through funnels.
//!
//! A QUIC stack sends UDP as bulk senders do: many datagrams in one packet (`UDP_SEGMENT`), none of which may be
//! fragmented, and looks for the longest that fits by itself. What does not come through the funnel is dropped.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use nix::sys::socket::{setsockopt, sockopt};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, ConnectionStats, Endpoint, EndpointConfig, MtuDiscoveryConfig, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig,
};
use sha2::{Digest, Sha256};

use super::support::lab::{DEADLINE, Ns};
use super::support::require;
use super::support::world::{NEEDS, Way, World};
use super::{attach, funnel_strictly, sent};

const PORT: u16 = 8080;

/// Nothing, be it a read or a write, may stand still for longer.
async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(DEADLINE, pin!(step)).await;
    waited.unwrap_or_else(|_| panic!("{what}: stalled"))
}

/// Runs inside, on a thread of its own.
fn run<T: Send>(ns: &Ns, work: impl Future<Output = T> + Send) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    ns.run(|| runtime().block_on(work))
}

async fn send(stream: &mut SendStream, bytes: usize) -> Vec<u8> {
    let mut sum = Sha256::new();
    for at in (0..bytes).step_by(65_536) {
        let chunk: Vec<u8> =
            (at..bytes.min(at + 65_536)).map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect();
        sum.update(&chunk);
        soon("writing", stream.write_all(&chunk)).await.expect("a write");
    }
    stream.finish().expect("the end");
    sum.finalize().to_vec()
}

async fn receive(stream: &mut RecvStream) -> (usize, Vec<u8>) {
    let (mut sum, mut buffer, mut bytes) = (Sha256::new(), vec![0; 65_536], 0);
    while let Some(length) = soon("reading", stream.read(&mut buffer)).await.expect("a read") {
        sum.update(&buffer[..length]);
        bytes += length;
    }
    (bytes, sum.finalize().to_vec())
}

/// Both sides look for the longest datagram that arrives, beginning with 1200 bytes and up to what the link has room
/// for without a funnel, to the byte.
fn transport(longest: u16) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(longest).minimum_change(1);
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(Some(discovery));
    Arc::new(transport)
}

/// With room for all that may be on its way: losses of a full socket are not the subject, and may hide a probe.
fn bind(to: SocketAddr, port: u16) -> UdpSocket {
    let any = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, port)).expect("bind");
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).expect("SO_RCVBUFFORCE");
    socket
}

async fn serve(socket: UdpSocket, mut config: ServerConfig, longest: u16, bytes: usize) -> ConnectionStats {
    config.transport_config(transport(longest));
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime));
    let endpoint = endpoint.expect("a server");
    let incoming = soon("a client", endpoint.accept()).await.expect("a client");
    let connection = soon("the handshake", incoming.into_future()).await.expect("a handshake");
    let (mut back, mut there) = soon("a stream", connection.accept_bi()).await.expect("a stream");
    let (length, sum) = receive(&mut there).await;
    assert_eq!(length, bytes);
    soon("the sum", back.write_all(&sum)).await.expect("a write");
    send(&mut back, bytes).await;
    soon("the client's end", connection.closed()).await;
    connection.stats()
}

async fn request(to: SocketAddr, mut config: ClientConfig, longest: u16, bytes: usize) -> ConnectionStats {
    config.transport_config(transport(longest));
    let endpoint = Endpoint::new(EndpointConfig::default(), None, bind(to, 0), Arc::new(TokioRuntime));
    let endpoint = endpoint.expect("a client");
    let connecting = endpoint.connect_with(config, to, "server").expect("an address");
    let connection = soon("the handshake", connecting).await.expect("a handshake");
    let (mut there, mut back) = soon("a stream", connection.open_bi()).await.expect("a stream");
    let sent = send(&mut there, bytes).await;
    let mut arrived = vec![0; sent.len()];
    soon("the sum", back.read_exact(&mut arrived)).await.expect("a sum");
    assert_eq!(arrived, sent, "what arrived at the server");
    assert_eq!(receive(&mut back).await, (bytes, sent), "what came back");
    connection.close(0_u8.into(), b"");
    soon("the end", endpoint.wait_idle()).await;
    connection.stats()
}

/// So many bytes there and back over one connection. What client and server say about it.
fn exchange(world: &World, longest: u16, bytes: usize) -> [ConnectionStats; 2] {
    let certified = rcgen::generate_simple_self_signed(vec!["server".to_owned()]).expect("a certificate");
    let certificate = CertificateDer::from(certified.cert);
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).expect("a server");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client");

    let to = world.to(PORT);
    let socket = world.server.run(|| bind(to, PORT));
    thread::scope(|scope| {
        let serving = scope.spawn(|| run(&world.server, serve(socket, server, longest, bytes)));
        let client = run(&world.client, request(to, client, longest, bytes));
        [client, serving.join().expect("the server")]
    })
}

/// Many datagrams in a packet, cut by a pair: by which, for those of the client and those of the server.
fn full_size(world: &World, outer: &str, mebibytes: usize, pairs: [(&Ns, &str); 2]) {
    let mebibytes =
        std::env::var("SFUNNEL_MIB").map_or(mebibytes, |mib| mib.parse().expect("a number of MiB"));
    let longest = if world.ip == "ip" { 1500 - 28 } else { 1500 - 48 };
    let fits = if outer == "tcp" { longest - 20 } else { longest - 8 };
    let said = exchange(world, longest, mebibytes << 20);
    for (side, stats, (ns, end)) in [("client", said[0], pairs[0]), ("server", said[1], pairs[1])] {
        let (cut, sent, path) = (sent(ns, end), stats.udp_tx, stats.path);
        let what = format!("{side}, {} through {outer}, {:?}: {sent:?} {path:?}", world.ip, world.way);
        assert!(sent.datagrams > 2 * sent.ios, "sent one by one: {what}");
        assert!(cut > sent.datagrams / 2, "{cut} by the pair: {what}");
        assert_eq!(path.current_mtu, fits, "the longest that arrives: {what}");
    }
    world.no_checksum_errors();
}

fn runs_through(outer: &str) {
    if !require(&NEEDS) {
        return;
    }
    for world in [World::new(Way::Direct), World::new(Way::NatFinished), World::six(Way::Direct)] {
        funnel_strictly(&world, "udp", outer);
        full_size(&world, outer, 20, [(&world.client, "sfe"), (&world.server, "sfe")]);
    }
}

#[test]
fn quic_at_full_size_runs_through_tcp() {
    runs_through("tcp");
}

#[test]
fn quic_at_full_size_runs_through_udp() {
    runs_through("udp");
}

#[test]
fn quic_that_a_router_forwards_is_funneled_there() {
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        for ((iface, direction), end) in [(("rs", "egress"), "sfe"), (("rc", "ingress"), "sfi")] {
            let world = World::new(Way::Routed);
            let router = world.router.as_ref().expect("a router");
            for iface in ["rc", "rs"] {
                router.tool("ethtool", &format!("-K {iface} gro on rx-udp-gro-forwarding on"));
            }
            let there = format!("udp dport 8080 actions funnel {outer} dport 80 sport 540");
            let arrived =
                format!("{outer} dport 80 sport 540 actions unfunnel udp; udp dport 8080 actions drop");
            let back = format!("udp sport 8080 actions funnel {outer} dport 540 sport 80");
            let returned =
                format!("{outer} sport 80 dport 540 actions unfunnel udp; udp sport 8080 actions drop");
            attach(router, iface, direction, &there);
            attach(&world.server, "vs", "ingress", &arrived);
            attach(&world.server, "vs", "egress", &back);
            attach(router, "rs", "ingress", &returned);
            full_size(&world, outer, 5, [(router, end), (&world.server, "sfe")]);
        }
    }
}

/// With finished checksums, as from a wire, and with those that GRO forgets to finish.
#[test]
fn funneled_quic_that_the_receivers_have_merged_is_taken_apart() {
    if !require(&NEEDS) {
        return;
    }
    for (way, tx) in [(Way::Finished, "off"), (Way::Direct, "on")] {
        let world = World::new(way);
        for (ns, iface) in [(&world.client, "vc"), (&world.server, "vs")] {
            ns.tool("ethtool", &format!("-K {iface} tx {tx} gro on rx-udp-gro-forwarding on"));
        }
        funnel_strictly(&world, "udp", "udp");
        full_size(&world, "udp", 20, [(&world.client, "sfe"), (&world.server, "sfe")]);
        for ns in [&world.client, &world.server] {
            let separated = sent(ns, "sfi");
            assert!(separated > 1000, "{}, {way:?}: {separated} packets: nothing was merged", ns.name);
        }
    }
}
