//! `alias` with real sockets: four attachments, all ways, large packets, urgent data, a web server.
//!
//! Every connection is made to port 8080 and travels as one to port 80, both directions of it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, recv, send};
use sha2::{Digest, Sha256};

use super::support::flows::pattern;
use super::support::lab::{Capture, DEADLINE, Ns, attach, find_tool};
use super::support::world::{NEEDS, Way, World};
use super::support::{Need, flows, model, require};

const TCPDUMP: Need = Need::Tool("tcpdump", "tcpdump");

/// Both ends, both directions; `listed` is what the server restores.
fn alias(world: &World, listed: &str) {
    let a = world.address;
    attach(&world.client, "vc", "egress", &format!("ip daddr {a} tcp dport 8080 actions alias dport 80"));
    attach(&world.server, "vs", "ingress", &format!("tcp dport 80 actions unalias {listed}"));
    attach(&world.server, "vs", "egress", "tcp sport 8080 actions alias sport 80");
    attach(&world.client, "vc", "ingress", &format!("ip saddr {a} tcp sport 80 actions unalias 8080"));
}

fn at(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// Seen at the server's interface: to or from port 80, port 8080 in the urgent pointer.
fn aliased(frame: &[u8]) -> bool {
    (at(frame, 36) == Some(80) || at(frame, 34) == Some(80)) && at(frame, 52) == Some(8080)
}

#[test]
fn tcp_talks_through_an_aliased_port_whatever_is_on_the_way() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    for way in Way::ALL {
        let world = World::new(way);
        let capture = Capture::start(&world.server, "vs");
        alias(&world, "{ 8080, 8443 }");
        let exchanged = flows::tcp(&world.client, &world.server, world.to(8080), 5, 20);
        assert_eq!(exchanged, 100, "{way:?}");
        world.no_checksum_errors();
        // Not by any other way: no packet has shown the true port.
        let frames = capture.stop(2 * exchanged, aliased).frames;
        let open = |frame: &&Vec<u8>| at(frame, 34) == Some(8080) || at(frame, 36) == Some(8080);
        assert_eq!(frames.iter().filter(open).count(), 0, "{way:?}: passed by the alias");
        if matches!(way, Way::Finished | Way::NatFinished) {
            for frame in frames.iter().filter(|frame| aliased(frame) && at(frame, 36) == Some(80)) {
                assert!(model::checksums_are_right(frame), "{way:?}");
            }
        }
    }
}

#[test]
fn packets_of_many_segments_are_aliased_whole() {
    if !require(&NEEDS) {
        return;
    }
    for way in [Way::Direct, Way::Nat, Way::NatFinished] {
        for offload in ["on", "off"] {
            let world = World::new(way);
            for (ns, iface) in [(&world.client, "vc"), (&world.server, "vs")] {
                ns.tool("ethtool", &format!("-K {iface} tso {offload} gso {offload}"));
            }
            alias(&world, "8080");
            let bytes = 32 << 20;
            assert_eq!(bulk(&world, 8080, bytes), (bytes, bytes), "{way:?}, offload {offload}");
            world.no_checksum_errors();
            // Large packets were large here, too: far fewer than segments left the client.
            let segments = u64::try_from(bytes).expect("a number") / 1448;
            let sent = counter(&world.client, "vc", "tx_packets");
            assert!(offload == "off" || sent < segments, "{way:?}: {sent} packets, {segments} segments");
        }
    }
}

/// So many bytes each way, one way after the other. How many of them arrived at the server, and back.
fn bulk(world: &World, port: u16, bytes: usize) -> (usize, usize) {
    let listener = listen(&world.server, port);
    let serve = move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut sum = Sum::default();
        sum.read_all(&mut stream);
        write_pattern(&mut stream, bytes);
        let _ = stream.shutdown(Shutdown::Write);
        sum.good
    };
    let serving = thread::spawn(serve);
    let to = world.to(port);
    let mut stream = world.client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write_pattern(&mut stream, bytes);
    stream.shutdown(Shutdown::Write).expect("the end");
    let mut back = Sum::default();
    back.read_all(&mut stream);
    (serving.join().expect("the server"), back.good)
}

/// Bytes that were what and where they should be.
#[derive(Default)]
struct Sum {
    seen: usize,
    good: usize,
}

impl Sum {
    fn read_all(&mut self, stream: &mut TcpStream) {
        let mut buffer = vec![0; 1 << 18];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let right = buffer[..length].iter().zip(self.seen..).filter(|(byte, at)| **byte == pattern(*at));
            self.good += right.count();
            self.seen += length;
        }
    }
}

fn write_pattern(stream: &mut impl Write, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        let chunk: Vec<u8> = (at..bytes.min(at + (1 << 18))).map(pattern).collect();
        stream.write_all(&chunk).expect("a write");
        at += chunk.len();
    }
}

fn listen(ns: &Ns, port: u16) -> TcpListener {
    ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind")
}

fn counter(ns: &Ns, iface: &str, name: &str) -> u64 {
    let shown = ns.tool("ip", &format!("-s -j link show {iface}"));
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let side = if name.starts_with("tx") { "tx" } else { "rx" };
    shown[0]["stats64"][side]["packets"].as_u64().expect("a counter")
}

/// Packets with URG keep their true port and their urgent pointer.
#[test]
fn urgent_data_still_arrives_on_an_aliased_port() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Direct);
    alias(&world, "8080");
    let listener = listen(&world.server, 8080);
    let to = world.to(8080);
    let client = world.client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let put = |bytes: &[u8], flags| {
        assert_eq!(send(client.as_raw_fd(), bytes, flags), Ok(bytes.len()));
    };
    put(b"before", MsgFlags::empty());
    put(b"!", MsgFlags::MSG_OOB);
    put(b"after", MsgFlags::empty());
    let mut text = [0; 6];
    server.read_exact(&mut text).expect("what is in front");
    assert_eq!(&text, b"before");
    // Reading past it would discard it.
    let (mut urgent, start) = ([0], Instant::now());
    while recv(server.as_raw_fd(), &mut urgent, MsgFlags::MSG_OOB) != Ok(1) {
        assert!(start.elapsed() < DEADLINE, "no urgent data");
        thread::yield_now();
    }
    assert_eq!(&urgent, b"!");
    server.read_exact(&mut text[..5]).expect("what is behind");
    assert_eq!(&text[..5], b"after");
    world.no_checksum_errors();
}

/// A peer that writes ports into the urgent pointer itself gets to those on the list and to no others.
#[test]
fn a_port_that_is_not_listed_cannot_be_reached_through_the_urgent_pointer() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Direct);
    attach(&world.server, "vs", "ingress", "tcp dport 80 actions unalias { 8080 }");
    let [web, ssh] = [80, 22].map(|port| listen(&world.server, port));
    ssh.set_nonblocking(true).expect("an option");
    let forge = "table ip forge { chain out { type filter hook output priority 0; tcp dport 80 tcp urgptr set 22;\n}\n}\n";
    world.client.nft(forge);
    let to = world.to(80);
    let mut client = world.client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
    let (mut server, _) = web.accept().expect("port 80 gets it");
    client.write_all(b"hello").expect("a write");
    let mut text = [0; 5];
    server.read_exact(&mut text).expect("a read");
    assert_eq!(&text, b"hello");
    assert!(ssh.accept().is_err(), "port 22 got it");

    // The forger was at work: on the list, it is what the connection is to.
    attach(&world.server, "vs", "ingress", "tcp dport 80 actions unalias { 22, 8080 }");
    attach(&world.server, "vs", "egress", "tcp sport 22 actions alias sport 80");
    let client = world.client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
    let start = Instant::now();
    while ssh.accept().is_err() {
        assert!(start.elapsed() < DEADLINE, "port 22 did not get it");
        thread::yield_now();
    }
    drop(client);
}

#[test]
fn real_traffic_shares_the_port() {
    if !require(&NEEDS) {
        return;
    }
    for way in [Way::Direct, Way::Nat] {
        let world = World::new(way);
        alias(&world, "{ 8080, 8443 }");
        for port in [80, 8080, 80] {
            let exchanged = flows::tcp(&world.client, &world.server, world.to(port), 3, 20);
            assert_eq!(exchanged, 60, "{port}, {way:?}");
        }
        world.no_checksum_errors();
    }
}

#[test]
fn a_stateful_router_sees_established_connections() {
    if !require(&NEEDS) || !require(&[Need::Tool("conntrack", "conntrack")]) {
        return;
    }
    let world = World::new(Way::Nat);
    alias(&world, "8080");
    let listener = listen(&world.server, 8080);
    let to = world.to(8080);
    let connect = || TcpStream::connect_timeout(&to, DEADLINE);
    let clients: Vec<_> = (0..3).map(|_| world.client.run(connect).expect("a connection")).collect();
    let servers: Vec<_> = clients.iter().map(|_| listener.accept().expect("a connection")).collect();
    let router = world.router.as_ref().expect("a router");
    let flows = router.tool("conntrack", "-L -p tcp");
    let established = flows.lines().filter(|flow| flow.contains("ESTABLISHED") && flow.contains("dport=80 "));
    assert_eq!(established.count(), 3, "{flows}");
    assert!(!flows.contains("8080"), "{flows}");
    drop((clients, servers));
}

/// One after the other, as fast as they go; each is closed by either side in turn.
#[test]
fn many_short_connections_are_all_served() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Nat);
    alias(&world, "8080");
    assert_eq!(flows::tcp(&world.client, &world.server, world.to(8080), 2_000, 1), 2_000);
    world.no_checksum_errors();
}

/// nginx, stopped when this is dropped.
struct Nginx(Child);

impl Nginx {
    fn start(ns: &Ns, directory: &Path, port: u16) -> Nginx {
        let d = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {d}/pid; error_log {d}/error.log; user root; events {{}}
             http {{ access_log off; sendfile on; client_body_temp_path {d}/b; proxy_temp_path {d}/p;
             fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
             server {{ listen {port}; root {d}; }} }}"
        );
        std::fs::write(directory.join("nginx.conf"), config).expect("a file");
        let mut command = Command::new(find_tool("nginx").expect("nginx"));
        command.arg("-c").arg(directory.join("nginx.conf")).arg("-e").arg(directory.join("error.log"));
        let child = ns.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        let nginx = Nginx(child);
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let start = Instant::now();
        while ns.run(|| TcpStream::connect(local)).is_err() {
            assert!(start.elapsed() < DEADLINE, "nginx does not listen");
            thread::yield_now();
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_large_file_comes_through_unchanged() {
    if !require(&NEEDS) || !require(&[Need::Tool("nginx", "nginx"), Need::Tool("curl", "curl")]) {
        return;
    }
    let mebibytes = std::env::var("SFUNNEL_MIB").map_or(256, |mib| mib.parse().expect("a number of MiB"));
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = File::create(directory.path().join("file")).expect("a file");
    write_pattern(&mut file, mebibytes << 20);
    drop(file);
    let world = World::new(Way::Nat);
    alias(&world, "{ 8080, 8443 }");
    let _nginx = Nginx::start(&world.server, directory.path(), 8080);
    let got = directory.path().join("got");
    let url = format!("http://{}:8080/file", world.address);
    world.client.tool("curl", &format!("-sS --fail --max-time 60 -o {} {url}", got.display()));
    let [sent, got] = ["file", "got"].map(|name| sha256(&directory.path().join(name)));
    assert_eq!(sent, got);
    world.no_checksum_errors();
}

fn sha256(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).expect("a file");
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        sum.update(&buffer[..length]);
    }
    sum.finalize().to_vec()
}
