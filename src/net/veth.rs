//! Virtual cables: a veth pair between two network namespaces, with addresses.
//!
//! Input: names, a far namespace, an address. Output: interfaces that carry packets. Never removes any:
//! a pair goes with its namespaces.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, LinkVeth};

use super::links::Interface;
use super::netlink::{Error, Netlink};

/// Makes a pair: one end here, one in the far namespace, with these names and numbers.
///
/// The two numbers must differ. The kernel takes a device whose number is its peer's for one without a peer
/// (`linkwatch_urgent_event`, net/core/link_watch.c) and activates it up to a second late.
pub fn pair(
    netlink: &mut Netlink,
    [name, peer_name]: [&str; 2],
    [near, far]: [u32; 2],
    namespace: BorrowedFd<'_>,
) -> Result<(), Error> {
    let peer = LinkUnspec::new_with_name(peer_name).index(far).setns_by_fd(namespace.as_raw_fd()).build();
    let near = LinkVeth::new(name, peer_name)
        .index(near)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink.request(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
}

pub fn up(netlink: &mut Netlink, interface: &Interface) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(interface.index.unsigned_abs()).up().build();
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

pub fn address(
    netlink: &mut Netlink,
    interface: &Interface,
    address: Ipv4Addr,
    prefix_len: u8,
) -> Result<(), Error> {
    let message = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(interface.index.unsigned_abs())
        .address(address, prefix_len)
        .build();
    netlink.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Waits until packets can pass. The kernel activates a link some time after both ends are up, and loses
/// what is sent before that: the first casualty would be an ARP request, repeated only a second later.
pub fn wait_until_running(
    netlink: &mut Netlink,
    interface: &Interface,
    deadline: Instant,
) -> Result<(), Error> {
    while !is_running(netlink, interface)? {
        if Instant::now() > deadline {
            return Err(Error::Socket(Errno::ETIMEDOUT.into()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn is_running(netlink: &mut Netlink, interface: &Interface) -> Result<bool, Error> {
    const HEADER: usize = 16; // struct ifinfomsg
    const IFLA_OPERSTATE: u16 = 16;
    const IF_OPER_UP: u8 = 6;
    let answers = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers.iter().any(|answer| {
        let Some([_, _, _, _, i0, i1, i2, i3]) = answer.header() else { return false };
        i32::from_ne_bytes([i0, i1, i2, i3]) == interface.index
            && answer
                .attributes(HEADER)
                .any(|(kind, value)| kind == IFLA_OPERSTATE && value.first() == Some(&IF_OPER_UP))
    }))
}
