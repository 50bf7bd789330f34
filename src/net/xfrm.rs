//! IPsec policies of a namespace: is anything that leaves it encrypted?
//!
//! Input: nothing. Output: how many policies there are. Never looks at what they say, and changes nothing.

use nix::errno::Errno;

use super::netlink::Netlink;
use super::{Error, Result};

const NETLINK_XFRM: isize = 6;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// `struct xfrm_userpolicy_id`.
const ID: usize = 64;

/// Of the namespace of the calling thread. `None`: the kernel has no IPsec.
pub fn policies() -> Result<Option<usize>> {
    let mut netlink = match Netlink::open_on(NETLINK_XFRM) {
        Ok(netlink) => netlink,
        Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => return Ok(None),
        Err(source) => return Err(Error::netlink("ask for IPsec policies", source)),
    };
    let answers = netlink.dump_bytes(XFRM_MSG_GETPOLICY, &[0; ID]);
    let answers = answers.map_err(|source| Error::netlink("list the IPsec policies", source))?;
    Ok(Some(answers.len()))
}
