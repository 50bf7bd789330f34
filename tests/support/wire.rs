//! Frames onto an interface, whole or still to be segmented, as a virtual machine would send them.
//!
//! In: a namespace, an interface, frames with an Ethernet header. Out: packets on the interface's egress.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

use super::lab::Ns;

/// A packet socket that takes a `virtio_net_hdr` in front of each frame.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    to: libc::sockaddr_ll,
}

impl Wire {
    pub fn new(ns: &Ns, iface: &str) -> Wire {
        const PACKET_VNET_HDR: i32 = 15;
        ns.run(|| {
            let index = nix::net::if_::if_nametoindex(iface).expect("an interface");
            // SAFETY: plain system calls; nobody else owns the descriptor, pointers and lengths belong together, and an
            // address of zeros is one.
            unsafe {
                let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
                assert!(socket >= 0, "a packet socket: {}", io::Error::last_os_error());
                let socket = OwnedFd::from_raw_fd(socket);
                let on: i32 = 1;
                let set = libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    PACKET_VNET_HDR,
                    std::ptr::from_ref(&on).cast(),
                    size_of::<i32>() as u32,
                );
                assert_eq!(set, 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
                let mut to: libc::sockaddr_ll = std::mem::zeroed();
                to.sll_family = libc::AF_PACKET as u16;
                to.sll_ifindex = index as i32;
                to.sll_halen = 6;
                Wire { socket, to }
            }
        })
    }

    /// `gso_size`: that of a packet that is still to be segmented, else 0. `false`: egress has dropped it.
    pub fn send(&self, frame: &[u8], gso_size: u32) -> bool {
        let mut frame = frame.to_vec();
        let mut header = [0; 10];
        if gso_size > 0 {
            header = unfinished(&mut frame, gso_size);
        }
        let mut to = self.to;
        to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        let bytes = [&header[..], &frame].concat();
        // SAFETY: pointers and lengths belong together.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        let error = io::Error::last_os_error();
        let dropped = sent == -1 && error.raw_os_error() == Some(libc::ENOBUFS);
        assert!(dropped || sent == bytes.len() as isize, "{error}");
        !dropped
    }
}

/// The `virtio_net_hdr` of a large packet without IP options, whose checksum becomes that of its pseudo-header.
fn unfinished(frame: &mut [u8], gso_size: u32) -> [u8; 10] {
    let tagged = |at: &usize| matches!(frame[*at..at + 2], [0x81, 0x00] | [0x88, 0xa8]);
    let ip = 14 + 4 * [12, 16].iter().take_while(|at| tagged(at)).count();
    let v6 = frame[ip - 2] == 0x86;
    let (ip_len, protocol, addresses) = if v6 { (40, 6, ip + 8..ip + 40) } else { (20, 9, ip + 12..ip + 20) };
    let proto = frame[ip + protocol];
    let start = ip + ip_len;
    // VIRTIO_NET_HDR_GSO_TCPV4, _TCPV6, _UDP_L4
    let (gso_type, l4, at) = match (proto, v6) {
        (6, false) => (1, 20, 16),
        (6, true) => (4, 20, 16),
        _ => (5, 8, 6),
    };
    let mut header = [0; 10];
    header[0] = 1; // VIRTIO_NET_HDR_F_NEEDS_CSUM
    header[1] = gso_type;
    for (field, value) in [(2, start + l4), (4, gso_size as usize), (6, start), (8, at)] {
        header[field..field + 2].copy_from_slice(&(value as u16).to_ne_bytes());
    }
    let words = frame[addresses].chunks(2).map(|two| u64::from(two[0]) << 8 | u64::from(two[1]));
    let mut sum = words.sum::<u64>() + u64::from(proto) + (frame.len() - start) as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[start + at..start + at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    header
}
