//! Do packets with pods' addresses get to a node, and does it take them? Asks with pods' addresses, and waits for an answer.
//!
//! Input: the host's interface, other hosts, and from which addresses to which each is asked. Output: an answer for each
//! host, which is good only if every probe came back. A probe goes to its host as the next hop (the header's destination
//! is a pod, the route is the host's), and its answer is seen by a packet socket: it is addressed to a pod, so no other
//! socket gets it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, recv, sendto,
    socket,
};

use super::super::links::Interface;
use super::super::{Error, Netlink, Result, peers};
use super::{ACK, Answer, LOOK, PATIENCE, SYN, TRIES};

/// A host, and pairs of addresses: a pod of this node's, and one behind that host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub host: IpAddr,
    pub pairs: Vec<(IpAddr, IpAddr)>,
}

/// One probe on its way.
struct Probe {
    path: usize,
    pair: (IpAddr, IpAddr),
    came_back: bool,
}

/// The answer of each host, in their order.
pub fn ask(netlink: &mut Netlink, interface: &Interface, paths: &[Path], port: u16) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for path in paths {
        let near = peers::is_on_link(netlink, interface, path.host)?;
        answers.push(if near { Answer::Silent } else { Answer::Distant });
    }
    let near = |at: &usize| answers[*at] != Answer::Distant;
    let mut probes: Vec<Probe> = (0..paths.len())
        .filter(near)
        .flat_map(|path| {
            paths[path].pairs.iter().map(move |pair| Probe { path, pair: *pair, came_back: false })
        })
        .collect();
    if probes.is_empty() {
        return Ok(answers);
    }
    let host = paths[probes[0].path].host;
    let wrong = |source| Error::Probe { host, source };
    let [v4, v6] = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
        let wanted = probes.iter().any(|probe| probe.pair.0.is_ipv4() == (family == AddressFamily::Inet));
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Of this protocol, they take the header from whoever sends.
        wanted.then(|| socket(family, SockType::Raw, flags, SockProtocol::Raw)).transpose()
    });
    let (v4, v6) = (v4.map_err(wrong)?, v6.map_err(wrong)?);
    let listening = listen(interface).map_err(wrong)?;
    let sport = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap_or_default();
    // Another one each time: answers to what was asked before are none.
    let secret = u32::try_from(RandomState::new().build_hasher().finish() & 0xffff_ffff).unwrap_or_default();
    for _ in 0..TRIES {
        for probe in probes.iter().filter(|probe| !probe.came_back) {
            let packet = packet(probe.pair, (sport, port), secret);
            // What cannot be sent is not answered.
            let _ = match (paths[probe.path].host, &v4, &v6) {
                (IpAddr::V4(host), Some(socket), _) => {
                    let to = SockaddrIn::from(SocketAddrV4::new(host, 0));
                    sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)
                }
                (IpAddr::V6(host), _, Some(socket)) => {
                    let scope = if host.is_unicast_link_local() { interface.number() } else { 0 };
                    let to = SockaddrIn6::from(SocketAddrV6::new(host, 0, 0, scope));
                    sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)
                }
                _ => Err(Errno::EAFNOSUPPORT),
            };
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && probes.iter().any(|probe| !probe.came_back) {
            while let Some(packet) = received(&listening) {
                if let Some((from, to)) = answered(&packet, (sport, port), secret) {
                    let asked = probes.iter_mut().filter(|probe| probe.pair == (to, from));
                    asked.for_each(|probe| probe.came_back = true);
                }
            }
            thread::sleep(LOOK);
        }
    }
    for (at, answer) in answers.iter_mut().enumerate() {
        let mut asked = probes.iter().filter(|probe| probe.path == at).peekable();
        if asked.peek().is_some() && asked.all(|probe| probe.came_back) {
            *answer = Answer::Received;
        }
    }
    Ok(answers)
}

/// Hears all that arrives by the interface, before programs on its ingress hook take it.
fn listen(interface: &Interface) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listening = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
    let links = getifaddrs()?.filter(|found| found.interface_name == interface.name);
    let mut links = links.filter_map(|found| found.address?.as_link_addr().copied());
    let link = links.next().ok_or(Errno::ENODEV)?;
    bind(listening.as_raw_fd(), &link)?;
    Ok(listening)
}

fn received(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut packet = vec![0; 128];
    let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).ok()?;
    packet.truncate(length);
    Some(packet)
}

/// A SYN without options, and what is in front of it.
fn packet((from, to): (IpAddr, IpAddr), (sport, dport): (u16, u16), secret: u32) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&sport.to_be_bytes());
    segment[2..4].copy_from_slice(&dport.to_be_bytes());
    segment[4..8].copy_from_slice(&secret.to_be_bytes());
    segment[8..12].copy_from_slice(&(!secret).to_be_bytes());
    segment[12..14].copy_from_slice(&[0x50, SYN]);
    segment[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let addresses = [octets(from), octets(to)].concat();
    let sum = super::checksum(&[&addresses, &[0, 6, 0, 20], &segment]);
    segment[16..18].copy_from_slice(&sum);
    // The kernel fills in what is zero, the checksum among it.
    let header: Vec<u8> = match from {
        IpAddr::V4(_) => [&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0], &addresses[..]].concat(),
        IpAddr::V6(_) => [&[0x60, 0, 0, 0, 0, 20, 6, 64], &addresses[..]].concat(),
    };
    [&header[..], &segment].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// From where to where a packet is that answers a probe.
fn answered(packet: &[u8], (sport, port): (u16, u16), secret: u32) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    let (from, to, segment) = match (packet.first()? >> 4, *packet.get(6)?, *packet.get(9)?) {
        (4, _, 6) => (v4(12)?, v4(16)?, packet.get(20..40)?),
        (6, 6, _) => (v6(8)?, v6(24)?, packet.get(40..60)?),
        _ => return None,
    };
    let word =
        |at: usize| segment.get(at..).and_then(|rest| rest.first_chunk()).map(|w| u32::from_be_bytes(*w));
    let is_answer = word(0)? == u32::from(port) << 16 | u32::from(sport)
        && word(4)? == secret
        && word(8)? == !secret
        && *segment.get(13)? == SYN | ACK;
    is_answer.then_some((from, to))
}
