//! Traffic of real sockets between two namespaces of the [`lab`](super::lab).
//!
//! In: who sends how much to whom. Out: how much of it arrived unchanged. Every wait has a deadline;
//! what is lost is counted, never sent again by us.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lab::{DEADLINE, Ns};

/// Any address of the kind that `to` is of. (Of IPv6, a listener takes IPv4 as well.)
fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// A socket of that address. The one that had it before may live on for a moment after it was closed: in a child of
/// another test's thread, between `fork` and `exec`.
fn ours<T>(bind: impl Fn() -> io::Result<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            socket => return socket.expect("bind"),
        }
    }
}

/// Sends `count` datagrams, numbered and of all sizes up to `longest`, from `client` to `to` and
/// returns how many of them `server` received unchanged.
pub fn udp(client: &Ns, server: &Ns, to: SocketAddr, count: usize, longest: usize) -> usize {
    let datagram = |i: usize| {
        let mut bytes = (i as u32).to_be_bytes().to_vec();
        bytes.resize(4 + i * 37 % longest.saturating_sub(3).max(1), i as u8);
        bytes
    };
    let receiver = server.run(|| ours(|| UdpSocket::bind((any(to), to.port()))));
    let sender = client.run(|| UdpSocket::bind((any(to), 0))).expect("bind");
    receiver.set_read_timeout(Some(DEADLINE / 5)).expect("a timeout");
    let mut intact = 0;
    let mut buffer = vec![0; 65_536];
    // One at a time would hide nothing, and hide losses of a full socket buffer.
    for i in 0..count {
        sender.send_to(&datagram(i), to).expect("send");
        match receiver.recv(&mut buffer) {
            Ok(length) if buffer[..length] == datagram(i) => intact += 1,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    intact
}

/// Connects `connections` times, each time exchanging `exchanges` small requests and responses.
/// Returns how many exchanges came through unchanged; the port is the server's as well.
pub fn tcp(client: &Ns, server: &Ns, to: SocketAddr, connections: usize, exchanges: usize) -> usize {
    let listener = server.run(|| ours(|| TcpListener::bind((any(to), to.port()))));
    let ours = listener.try_clone().expect("a descriptor");
    let serve = move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.set_read_timeout(Some(DEADLINE));
            let _ = stream.set_nodelay(true);
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut request = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut request).is_err() {
                    break;
                }
                request.reverse();
                if stream.write_all(&request).is_err() {
                    break;
                }
            }
        }
    };
    let serving = thread::spawn(serve);
    let mut done = 0;
    for connection in 0..connections {
        let Ok(mut stream) = client.run(|| TcpStream::connect_timeout(&to, DEADLINE / 3)) else {
            break;
        };
        stream.set_read_timeout(Some(DEADLINE / 3)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        for exchange in 0..exchanges {
            let length = 1 + (connection * 131 + exchange * 71) % 1000;
            let request: Vec<u8> = (0..length).map(|i| (i + exchange) as u8).collect();
            let head = (length as u16).to_be_bytes();
            let mut response = vec![0; length];
            // One write: a second would wait for the first's acknowledgement, or be merged with it.
            if stream.write_all(&[&head, &request[..]].concat()).is_err()
                || stream.read_exact(&mut response).is_err()
            {
                return done;
            }
            response.reverse();
            done += usize::from(response == request);
        }
    }
    // Ends what waits for a connection, without a packet: rules may be in the way of one.
    nix::sys::socket::shutdown(ours.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("shutdown");
    serving.join().expect("the server");
    done
}

/// Sends that many bytes over one connection as fast as it goes, and returns how many arrive.
pub fn bulk(client: &Ns, server: &Ns, to: SocketAddr, bytes: usize) -> usize {
    let listener = server.run(|| ours(|| TcpListener::bind((any(to), to.port()))));
    let Ok(mut sender) = client.run(|| TcpStream::connect_timeout(&to, DEADLINE / 3)) else {
        return 0;
    };
    let (mut receiver, _) = listener.accept().expect("a connection");
    receiver.set_read_timeout(Some(DEADLINE / 3)).expect("a timeout");
    sender.set_write_timeout(Some(DEADLINE / 3)).expect("a timeout");
    let chunk = |at: usize| (at / 65_536) as u8;
    let sending = thread::spawn(move || {
        for at in (0..bytes).step_by(65_536) {
            if sender.write_all(&vec![chunk(at); (bytes - at).min(65_536)]).is_err() {
                break;
            }
        }
    });
    let mut received = 0;
    let mut buffer = vec![0; 65_536];
    while received < bytes {
        match receiver.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let bytes = buffer[..length].iter().enumerate();
                assert!(bytes.into_iter().all(|(i, b)| *b == chunk(received + i)), "other bytes");
                received += length;
            }
            _ => break,
        }
    }
    drop(receiver);
    sending.join().expect("the sender");
    received
}

/// Sends one UDP packet that the kernel or the interface has to cut into `segments` datagrams
/// (`UDP_SEGMENT`), and returns how many of them arrive unchanged.
pub fn udp_gso(client: &Ns, server: &Ns, to: SocketAddr, segments: usize, size: usize) -> usize {
    let receiver = server.run(|| ours(|| UdpSocket::bind((any(to), to.port()))));
    let sender = client.run(|| UdpSocket::bind((any(to), 0))).expect("bind");
    receiver.set_read_timeout(Some(DEADLINE / 5)).expect("a timeout");
    let size_option = i32::try_from(size).expect("a size");
    nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::UdpGsoSegment, &size_option)
        .expect("UDP_SEGMENT");
    let sent: Vec<u8> = (0..segments * size).map(|i| (i / size + i) as u8).collect();
    sender.send_to(&sent, to).expect("send");
    let mut buffer = vec![0; 65_536];
    let mut intact = 0;
    for segment in sent.chunks(size) {
        match receiver.recv(&mut buffer) {
            Ok(length) if &buffer[..length] == segment => intact += 1,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    intact
}

/// Sends a frame of more than a page of which only the link header is in the linear area, as
/// virtual machines do: a packet socket with a virtio header that says how much is headers.
pub fn send_nonlinear(ns: &Ns, iface: &str, frame: &[u8]) {
    use nix::libc;
    use nix::sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket,
    };
    const PACKET_VNET_HDR: libc::c_int = 15;
    /// `struct virtio_net_hdr`: flags, type, and (2..4) the length of the headers.
    const VIRTIO: [u8; 10] = [0, 0, 14, 0, 0, 0, 0, 0, 0, 0];

    assert!(frame.len() > 4096, "shorter frames are always linear");
    ns.run(|| {
        let index = nix::net::if_::if_nametoindex(iface).expect("the interface");
        let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
        let raw = raw.expect("a packet socket");
        let on: libc::c_int = 1;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0x0800_u16.to_be(),
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [2, 0, 0, 0, 0, 2, 0, 0],
        };
        // SAFETY: nix has no safe way to set this option or to make this address; both are given
        // with their own size and live through the calls.
        let address = unsafe {
            let set = libc::setsockopt(
                raw.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of_val(&on) as u32,
            );
            assert_eq!(set, 0, "PACKET_VNET_HDR: {}", std::io::Error::last_os_error());
            let size = Some(size_of_val(&address) as u32);
            LinkAddr::from_raw((&raw const address).cast(), size).expect("an address")
        };
        let bytes = [&VIRTIO, frame].concat();
        let sent = sendto(raw.as_raw_fd(), &bytes, &address, MsgFlags::empty()).expect("sendto");
        assert_eq!(sent, bytes.len());
    });
}

/// Bytes that depend on where they are.
pub fn pattern(at: usize) -> u8 {
    let [a, b, c, ..] = at.to_le_bytes();
    a ^ b.wrapping_mul(7) ^ c
}

/// One connection on which bytes are sent piece by piece. The server sees that each is the right one, and counts them.
pub struct Pieces {
    stream: TcpStream,
    sent: usize,
    serving: JoinHandle<()>,
}

impl Pieces {
    pub fn start(client: &Ns, server: &Ns, to: SocketAddr) -> Pieces {
        let listener = server.run(|| TcpListener::bind(("0.0.0.0", to.port()))).expect("bind");
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            let (mut at, mut buffer) = (0_usize, vec![0; 1 << 16]);
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                let right = buffer[..length].iter().zip(at..).all(|(byte, at)| *byte == pattern(at / 7));
                assert!(right, "other bytes");
                at += length;
            }
            stream.write_all(&at.to_be_bytes()).expect("a write");
        });
        let stream = client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Pieces { stream, sent: 0, serving }
    }

    pub fn send(&mut self, bytes: usize) {
        let part: Vec<u8> = (self.sent..self.sent + bytes).map(|at| pattern(at / 7)).collect();
        self.stream.write_all(&part).expect("a write");
        self.sent += bytes;
    }

    /// All of them have come.
    pub fn end(mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the end");
        let mut got = [0; 8];
        self.stream.read_exact(&mut got).expect("how many bytes");
        assert_eq!(usize::from_be_bytes(got), self.sent);
        self.serving.join().expect("the server");
    }
}
