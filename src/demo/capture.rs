//! Frames as a packet socket sees them, of all interfaces of one namespace.
//!
//! On its way out a frame is seen after tc egress, on its way in before tc ingress: on the wire, that is.
//! Never waits and never sends.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};

use super::{Error, namespace::Namespace};
use crate::net::Interface;

#[derive(Debug, Clone)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub outgoing: bool,
    interface: usize,
}

impl Frame {
    pub fn is_on(&self, interface: &Interface) -> bool {
        usize::try_from(interface.index) == Ok(self.interface)
    }
}

#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    pub frames: Vec<Frame>,
}

impl Capture {
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = namespace.within(|| {
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
                .map_err(|errno| Error::system("open a packet socket", errno))
        })?;
        Ok(Self { socket, frames: Vec::new() })
    }

    /// Takes what has come by since the last time: often enough, so that the socket's buffer never fills.
    pub fn drain(&mut self) -> Result<(), Error> {
        const OUTGOING: u8 = 4; // PACKET_OUTGOING, linux/if_packet.h
        let mut buffer = [0; 0x1_0000];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(from))) => self.frames.push(Frame {
                    bytes: buffer.get(..length).unwrap_or_default().to_vec(),
                    outgoing: from.pkttype() == OUTGOING,
                    interface: from.ifindex(),
                }),
                Ok((_, None)) | Err(Errno::EINTR) => {}
                // An interface went down: an announcement, not a frame.
                Err(Errno::ENETDOWN) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(Error::system("read from its packet socket", errno)),
            }
        }
    }
}
