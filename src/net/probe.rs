//! Does a node take what is sent to it past the overlay? Asks, and waits for an answer.
//!
//! Input: this host's address, those of others, and what both should know of each other's pods. Output: for each of
//! them whether it answers. A probe is a TCP segment that opens a connection, with something in its urgent pointer; the
//! program on ingress of the other host's interface sends it back. So an answer says that there is such a program, that
//! it knows the same pods, and that the way keeps the field.

pub mod direct;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, recv, send, socket,
};

use super::{Error, Result};

/// One host to ask: its address, and what its segment's sequence number has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub host: Ipv4Addr,
    pub digest: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As it has to be.
    Received,
    /// The host says that nobody listens on the port: no program has taken the probe, or not known it for one.
    Refused,
    Silent,
    /// The host is behind a router, so that it cannot be the next hop.
    Distant,
}

/// How often each is asked, and how long it may take to answer each time.
const TRIES: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(400);
/// How often answers are looked for in between.
const LOOK: Duration = Duration::from_millis(2);
/// How many are asked at once: each takes a socket.
const AT_ONCE: usize = 64;

/// What is in the urgent pointer: neither byte is 0.
const URGENT: u16 = 0xa55a;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The answer of each peer, in their order.
pub fn ask(own: Ipv4Addr, peers: &[Peer], port: u16) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for peers in peers.chunks(AT_ONCE) {
        answers.extend(ask_some(own, peers, port)?);
    }
    Ok(answers)
}

fn ask_some(own: Ipv4Addr, peers: &[Peer], port: u16) -> Result<Vec<Answer>> {
    let sockets = peers.iter().map(|peer| open(own, peer.host)).collect::<Result<Vec<OwnedFd>>>()?;
    // Below what Linux gives out by default, and another one in each process.
    let sport = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap_or_default();
    let mut answers = vec![Answer::Silent; peers.len()];
    for _ in 0..TRIES {
        for ((peer, socket), _) in peers.iter().zip(&sockets).zip(&answers).filter(|(_, a)| open_yet(**a)) {
            let segment = segment(own, *peer, (sport, port));
            // What cannot be sent is not answered.
            let _ = send(socket.as_raw_fd(), &segment, MsgFlags::MSG_DONTWAIT);
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && answers.iter().any(|answer| open_yet(*answer)) {
            for ((peer, socket), answer) in peers.iter().zip(&sockets).zip(&mut answers) {
                while let Some(packet) = received(socket) {
                    *answer = read(&packet, *peer, (sport, port)).unwrap_or(*answer);
                }
            }
            thread::sleep(LOOK);
        }
    }
    Ok(answers)
}

/// Whether to go on asking: who refuses may be about to attach.
fn open_yet(answer: Answer) -> bool {
    answer == Answer::Silent
}

/// A socket for TCP segments from and to that host, and no others.
fn open(own: Ipv4Addr, host: Ipv4Addr) -> Result<OwnedFd> {
    let wrong = |source| Error::Probe { host: host.into(), source };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Tcp).map_err(wrong)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(own, 0))).map_err(wrong)?;
    match connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(host, 0))) {
        // Then nothing can be sent either.
        Ok(()) | Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Ok(socket),
        Err(source) => Err(wrong(source)),
    }
}

fn received(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut packet = vec![0; 256];
    let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC).ok()?;
    packet.truncate(length);
    Some(packet)
}

/// A SYN without options.
fn segment(own: Ipv4Addr, peer: Peer, (sport, dport): (u16, u16)) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&sport.to_be_bytes());
    segment[2..4].copy_from_slice(&dport.to_be_bytes());
    segment[4..8].copy_from_slice(&peer.digest.to_be_bytes());
    segment[8..12].copy_from_slice(&peer.digest.wrapping_add(1).to_be_bytes());
    segment[12..14].copy_from_slice(&[0x50, SYN]);
    segment[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    segment[18..20].copy_from_slice(&URGENT.to_be_bytes());
    let sum = checksum(&[&own.octets(), &peer.host.octets(), &[0, 6, 0, 20], &segment]);
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// Of parts of even lengths (RFC 1071).
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for word in parts.iter().flat_map(|part| part.chunks_exact(2)) {
        sum += word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let [.., a, b] = (sum ^ 0xffff).to_be_bytes();
    [a, b]
}

/// What a packet answers to the probe, if it is about it.
fn read(packet: &[u8], peer: Peer, (sport, dport): (u16, u16)) -> Option<Answer> {
    let start = usize::from(packet.first()? & 0x0f) * 4;
    let segment = packet.get(start..start + 20)?;
    let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    if (word(0), word(2)) != (dport, sport) {
        return None;
    }
    let sequence = (u32::from(word(4)) << 16) | u32::from(word(6));
    match segment[13] {
        flags if flags & RST != 0 => Some(Answer::Refused),
        flags if flags == SYN | ACK && sequence == peer.digest && word(18) == URGENT => {
            Some(Answer::Received)
        }
        _ => None,
    }
}
