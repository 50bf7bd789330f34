//! Two nodes with a strict policy, connections between their pods, and where their packets are.
//!
//! In: a cluster. Out: what conntrack says, and which packets took the long way. Waits with deadlines.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, NEEDS};
use super::support::flows::pattern;
use super::support::lab::{Capture, DEADLINE, Ns};
use super::support::{Need, require};

pub const RULES: &str = "tcp actions bypass\n";

/// As kube-proxy and a policy engine have it: what conntrack calls invalid is dropped first, connections are for the
/// first node's pods to open, and everything else is refused.
const STRICT: &str = "table ip strict {
    counter called_invalid {}
    chain forward { type filter hook forward priority -10; policy drop;
        ct state invalid counter name called_invalid drop
        ct state established,related accept
        ct state new ip saddr 10.244.1.0/24 ip daddr 10.244.2.0/24 accept
    }
}\n";

/// Whether all is there that these tests need.
pub fn can_run() -> bool {
    require(&NEEDS) && require(&[Need::Tool("tcpdump", "tcpdump"), Need::Tool("conntrack", "conntrack")])
}

/// Two nodes, with the policy.
pub fn strict(pods: usize) -> Cluster {
    let cluster = Cluster::new(2, pods);
    for node in &cluster.nodes {
        node.host.nft(STRICT);
    }
    cluster
}

/// How many packets conntrack has called invalid, on both nodes.
pub fn invalid(cluster: &Cluster) -> u64 {
    let counted = |host: &Ns| {
        let text = host.tool("nft", "-j list counter ip strict called_invalid");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let all = json["nftables"].as_array().expect("a list").clone();
        all.iter().find_map(|item| item["counter"]["packets"].as_u64()).expect("a counter")
    };
    cluster.nodes.iter().map(|node| counted(&node.host)).sum()
}

/// Waits until conntrack of both nodes says that of the connections from or to a port, and of nothing else.
pub fn wait_for_state(cluster: &Cluster, port: u16, state: &str) {
    (0..cluster.nodes.len()).for_each(|node| wait_for_state_on(cluster, node, port, state));
}

/// The same of one node.
pub fn wait_for_state_on(cluster: &Cluster, node: usize, port: u16, state: &str) {
    let start = Instant::now();
    loop {
        let all = cluster.host(node).tool("conntrack", "-L -p tcp");
        let ours: Vec<&str> = all.lines().filter(|line| line.contains(&format!("dport={port} "))).collect();
        if !ours.is_empty() && ours.iter().all(|line| line.contains(state)) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "not {state}: {all}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Captures on the bridges of both nodes, which packets past the stack do not meet.
pub struct LongWay(Vec<Capture>);

impl LongWay {
    pub fn watch(cluster: &Cluster) -> LongWay {
        LongWay(cluster.nodes.iter().map(|node| Capture::start(&node.host, "br0")).collect())
    }

    /// The packets of TCP from or to the port that were there, on each of the nodes; without our own segments.
    pub fn packets(self, port: u16) -> Vec<Vec<Vec<u8>>> {
        self.packets_of(&[port])
    }

    /// The same of any of these ports.
    pub fn packets_of(self, ports: &[u16]) -> Vec<Vec<Vec<u8>>> {
        let all = self.0.into_iter().map(|capture| capture.stop(0, |_| true).frames);
        let ours = |frame: &Vec<u8>| ports.iter().any(|port| is_tcp(frame, *port)) && !is_probe(frame);
        all.map(|frames| frames.into_iter().filter(ours).collect()).collect()
    }
}

pub fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// A TCP packet from or to that port.
pub fn is_tcp(frame: &[u8], port: u16) -> bool {
    frame.get(23) == Some(&6) && (word(frame, 34) == Some(port) || word(frame, 36) == Some(port))
}

/// A segment of our own making.
pub fn is_probe(frame: &[u8]) -> bool {
    matches!(word(frame, 52), Some(0xfffd | 0xfffe))
}

/// The packet that a VXLAN frame carries.
pub fn inside(frame: &[u8]) -> Option<&[u8]> {
    let vxlan = frame.get(23) == Some(&17) && word(frame, 36) == Some(4789);
    vxlan.then(|| frame.get(50..)).flatten()
}

/// A server that sends back what it gets, to all who connect. It goes with the process.
pub fn echo_server(server: &Ns, port: u16) -> Receiver<IpAddr> {
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
    let (tell, peers) = channel();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = tell.send(peer.ip());
            thread::spawn(move || {
                stream.set_nodelay(true).expect("an option");
                let mut buffer = [0; 1 << 16];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    peers
}

/// A connection to such a server.
pub struct Echo {
    pub stream: TcpStream,
    sent: usize,
}

impl Echo {
    pub fn connect(client: &Ns, to: SocketAddr) -> Echo {
        Echo::of(client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection"))
    }

    pub fn of(stream: TcpStream) -> Echo {
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Echo { stream, sent: 0 }
    }

    /// Closing it will end it at once, on both sides.
    pub fn reset(&self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.stream, nix::sys::socket::sockopt::Linger, &linger)
            .expect("an option");
    }

    /// So many bytes there and back.
    pub fn exchange(&mut self, bytes: usize) {
        self.try_exchange(bytes).expect("an exchange");
    }

    pub fn try_exchange(&mut self, bytes: usize) -> std::io::Result<()> {
        let sent: Vec<u8> = (self.sent..self.sent + bytes).map(pattern).collect();
        self.sent += bytes;
        self.stream.write_all(&sent)?;
        let mut got = vec![0; bytes];
        self.stream.read_exact(&mut got)?;
        assert!(got == sent, "other bytes");
        Ok(())
    }

    pub fn exchange_often(&mut self, times: usize) {
        (0..times).for_each(|_| self.exchange(64));
    }

    /// Exchanges until no answer comes within a second. The answer is still owed. `forbidden`: since when a policy refuses them.
    ///
    /// No request that was *sent* later than is promised may be answered. The programs read the same clock after that, so a
    /// slow machine cannot fail this. Half a second more is for probes that were inside netfilter at that moment.
    pub fn exchange_until_silence(&mut self, forbidden: Instant) {
        const PROMISED: Duration = Duration::from_millis(2500 + 500);
        self.stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        loop {
            let sent = forbidden.elapsed();
            match self.try_exchange(1) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("the connection is gone: {error}"),
            }
            assert!(sent < PROMISED, "let through though sent {sent:?} after it was forbidden");
        }
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    }

    /// The answer that was owed.
    pub fn receive_owed(&mut self) {
        let mut got = [0];
        self.stream.read_exact(&mut got).expect("the answer");
        assert_eq!(got[0], pattern(self.sent - 1));
    }
}

/// Goes on with an exchange until, for a while, no packet of it takes the long way on any node.
pub fn wait_until_fast(cluster: &Cluster, echo: &mut Echo, port: u16) {
    wait_until_fast_on(cluster, echo, &[port]);
}

/// The same for one that has several ports, by turns.
pub fn wait_until_fast_on(cluster: &Cluster, echo: &mut Echo, ports: &[u16]) {
    let start = Instant::now();
    loop {
        let long_way = LongWay::watch(cluster);
        echo.exchange_often(50);
        if long_way.packets_of(ports).iter().all(Vec::is_empty) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "it stays on the long way");
    }
}

/// Sends so many bytes on a new connection and gets as many back, at the same time; all as they have to be.
pub fn bulk(client: &Ns, server: &Ns, to: SocketAddr, bytes: usize) {
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, to.port()))).expect("bind");
    let stream = client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
    let (other, _) = listener.accept().expect("a connection");
    thread::scope(|scope| {
        for stream in [&stream, &other] {
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            scope.spawn(move || send(stream, bytes));
            scope.spawn(move || receive(stream, bytes));
        }
    });
}

fn send(mut stream: &TcpStream, bytes: usize) {
    for at in (0..bytes).step_by(1 << 16) {
        let part: Vec<u8> = (at..bytes.min(at + (1 << 16))).map(pattern).collect();
        stream.write_all(&part).expect("a write");
    }
}

fn receive(mut stream: &TcpStream, bytes: usize) {
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    while at < bytes {
        let length = stream.read(&mut buffer).expect("a read");
        assert!(length > 0, "{at} of {bytes} bytes");
        assert!(buffer[..length].iter().zip(at..).all(|(byte, at)| *byte == pattern(at)), "other bytes");
        at += length;
    }
}
