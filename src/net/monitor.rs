//! What the kernel says of its own accord about interfaces: that they come, change and go.
//!
//! Input: a descriptor to wait on. Output: which interfaces have gone since the last look. Never asks the kernel
//! for anything, and never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// RTNLGRP_LINK
const LINKS: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// How many messages are read at a time: whoever makes interfaces without end must not keep us from all else.
const AT_ONCE: usize = 1000;

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

/// What has happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Anything at all.
    pub any: bool,
    /// Numbers of interfaces that were deleted, or went to another namespace. One of that number may be there again.
    pub gone: Vec<i32>,
    /// There was more than the kernel could keep for us: anything may have happened.
    pub lost: bool,
}

impl Changes {
    pub fn add(&mut self, more: Changes) {
        self.any |= more.any;
        self.lost |= more.lost;
        self.gone.extend(more.gone);
        self.gone.sort_unstable();
        self.gone.dedup();
    }
}

impl Monitor {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(LINKS)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// All that has come so far.
    pub fn drain(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        for _ in 0..AT_ONCE {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => changes.add(read(&datagram)),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => break,
                    Some(Errno::EINTR) => {}
                    Some(Errno::ENOBUFS) => changes.add(Changes { any: true, lost: true, gone: Vec::new() }),
                    _ => return Err(error),
                },
            }
        }
        Ok(changes)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn read(datagram: &[u8]) -> Changes {
    let mut changes = Changes::default();
    let mut rest = datagram;
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        // struct ifinfomsg. Of the family AF_BRIDGE, it is about ports of bridges.
        let header = message.payload().first_chunk::<8>();
        match (message.message_type(), header) {
            (RTM_NEWLINK, Some([0, ..])) => changes.any = true,
            (RTM_DELLINK, Some([0, _, _, _, a, b, c, d])) => {
                changes.any = true;
                changes.gone.push(i32::from_ne_bytes([*a, *b, *c, *d]));
            }
            _ => {}
        }
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        match rest.get(length.next_multiple_of(4)..) {
            Some(next) if !next.is_empty() => rest = next,
            _ => break,
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, index: i32) -> Vec<u8> {
        let mut bytes = 32u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn interfaces_that_go_are_named_and_ports_of_bridges_are_none() {
        const AF_BRIDGE: u8 = 7;
        let all =
            [message(RTM_NEWLINK, 0, 5), message(RTM_DELLINK, AF_BRIDGE, 6), message(RTM_DELLINK, 0, 7)];
        assert_eq!(read(&all.concat()), Changes { any: true, gone: vec![7], lost: false });
        assert_eq!(read(&message(RTM_DELLINK, AF_BRIDGE, 6)), Changes::default());
        assert_eq!(read(&all[0][..20]), Changes::default());
    }
}
