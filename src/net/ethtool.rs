//! Offloads on and off, through ethtool's netlink family (Linux 5.6, CONFIG_ETHTOOL_NETLINK).
//!
//! Input: an interface, and what it is to leave to hardware, or to do. Written by hand, since it is
//! two messages: a header, attributes in attributes. Documentation/networking/ethtool-netlink.rst.

use std::io;

use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_GENERIC;

use super::links::Interface;
use super::netlink::{self, Netlink};
use super::{Error, Result};

/// Every checksum that a veth would leave to hardware (`NETIF_F_HW_CSUM`). Off: packets leave it with finished ones.
pub const TX_CHECKSUM: &str = "tx-checksum-ip-generic";
/// Whatever of TCP leaves an interface in one piece (`NETIF_F_ALL_TSO`).
pub const TSO: [&str; 4] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];
/// What arrives is merged (`NETIF_F_GRO`).
pub const GRO: &str = "rx-gro";
const NESTED: u16 = 1 << 15;

/// A socket to ethtool in the namespace of the calling thread.
#[derive(Debug)]
pub struct Ethtool {
    netlink: Netlink,
    family: u16,
}

impl Ethtool {
    pub fn open() -> Result<Self> {
        Self::find()
            .map_err(|source| Error::Pair { what: "reach ethtool's netlink family".to_owned(), source })
    }

    fn find() -> std::result::Result<Self, netlink::Error> {
        const GENL_ID_CTRL: u16 = 0x10;
        const CTRL_CMD_GETFAMILY: u8 = 3;
        const CTRL_ATTR_FAMILY_ID: u16 = 1;
        const CTRL_ATTR_FAMILY_NAME: u16 = 2;
        let mut netlink = Netlink::open_on(NETLINK_GENERIC)?;
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
        let answers = netlink.request_bytes(GENL_ID_CTRL, &message(CTRL_CMD_GETFAMILY, &[&name]))?;
        let mut attributes = answers.iter().flat_map(|answer| answer.attributes(HEADER));
        let id = attributes.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
        let family = id.and_then(|(_, value)| value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes)));
        let absent = || netlink::Error::Socket(io::Error::from(Errno::ENOENT));
        Ok(Self { netlink, family: family.ok_or_else(absent)? })
    }

    /// The names of all features that are on.
    pub fn active(&mut self, interface: &Interface) -> Result<Vec<String>> {
        const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
        const FEATURES_HEADER: u16 = 1 | NESTED;
        const FEATURES_ACTIVE: u16 = 4;
        const HEADER_DEV_INDEX: u16 = 1;
        const BITSET_BITS: u16 = 3;
        const BIT_NAME: u16 = 2;
        let index = attribute(HEADER_DEV_INDEX, &interface.number().to_ne_bytes());
        let request = message(ETHTOOL_MSG_FEATURES_GET, &[&attribute(FEATURES_HEADER, &index)]);
        let answers = self.netlink.request_bytes(self.family, &request).map_err(|source| Error::Pair {
            what: format!("read the offloads of {}", interface.name),
            source,
        })?;
        // Attributes in attributes: those of one kind.
        let of = |bytes: &[u8], wanted: u16| -> Vec<Vec<u8>> {
            let all = netlink::attributes(bytes);
            all.filter(|(kind, _)| kind & !NESTED == wanted).map(|(_, value)| value).collect()
        };
        let attributes = answers.iter().flat_map(|answer| answer.attributes(HEADER));
        let active = attributes.filter(|(kind, _)| kind & !NESTED == FEATURES_ACTIVE).map(|(_, value)| value);
        let bits = active.flat_map(|set| of(&set, BITSET_BITS));
        let bits = bits.flat_map(|bits| netlink::attributes(&bits).map(|(_, bit)| bit).collect::<Vec<_>>());
        Ok(bits.flat_map(|bit| of(&bit, BIT_NAME)).map(|name| netlink::text(&name)).collect())
    }

    /// Sets these features, and no others.
    pub fn set(&mut self, interface: &Interface, features: &[(&str, bool)]) -> Result<()> {
        const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
        const FEATURES_HEADER: u16 = 1 | NESTED;
        const FEATURES_WANTED: u16 = 3 | NESTED;
        const HEADER_DEV_INDEX: u16 = 1;
        const HEADER_FLAGS: u16 = 3;
        const OMIT_REPLY: u32 = 2;
        const BITSET_BITS: u16 = 3 | NESTED;
        const BITS_BIT: u16 = 1 | NESTED;
        const BIT_NAME: u16 = 2;
        const BIT_VALUE: u16 = 3;
        let index = attribute(HEADER_DEV_INDEX, &interface.number().to_ne_bytes());
        let flags = attribute(HEADER_FLAGS, &OMIT_REPLY.to_ne_bytes());
        // Listed, so meant; with a value, so on.
        let bit = |(name, on): &(&str, bool)| {
            let name = attribute(BIT_NAME, &[name.as_bytes(), b"\0"].concat());
            let value = if *on { attribute(BIT_VALUE, &[]) } else { Vec::new() };
            attribute(BITS_BIT, &[name, value].concat())
        };
        let bits = features.iter().flat_map(bit).collect::<Vec<u8>>();
        let request = message(
            ETHTOOL_MSG_FEATURES_SET,
            &[
                &attribute(FEATURES_HEADER, &[index, flags].concat()),
                &attribute(FEATURES_WANTED, &attribute(BITSET_BITS, &bits)),
            ],
        );
        match self.netlink.request_bytes(self.family, &request) {
            Ok(_) => Ok(()),
            Err(source) => {
                Err(Error::Pair { what: format!("set the offloads of {}", interface.name), source })
            }
        }
    }
}

/// Bytes of `struct genlmsghdr`: command, version, two reserved.
const HEADER: usize = 4;

fn message(command: u8, attributes: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![command, 1, 0, 0];
    bytes.extend(attributes.iter().flat_map(|attribute| attribute.iter()));
    bytes
}

/// `struct nlattr`, its value, and padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let name = attribute(2, b"ethtool\0\0");
        assert_eq!(name.len(), 16);
        assert_eq!(netlink::attributes(&name).collect::<Vec<_>>(), [(2, b"ethtool\0\0".to_vec())]);
    }
}
