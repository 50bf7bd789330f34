//! Headers as the RFCs draw them: fields in rows of 32 bits.
//!
//! Data only: names and bits, and how a value is written. RFC 791, 768, 8200, 9293; IEEE 802.3.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Layout {
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) cells: &'static [Cell],
}

/// Its name, its bits, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Cell(pub(super) &'static str, pub(super) u16, #[serde(skip)] pub(super) Show);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Number,
    Hex,
    /// IPv4 or IPv6, by its length.
    Address,
    /// Ethernet's.
    Mac,
    Flags,
    /// TCP or UDP, by name.
    Protocol,
    /// One of a header, over what is around.
    Checksum,
}

pub(super) const ETHERNET: Layout = Layout {
    key: "ethernet",
    name: "Ethernet",
    cells: &[Cell("destination", 48, Show::Mac), Cell("source", 48, Show::Mac), Cell("type", 16, Show::Hex)],
};

pub(super) const IPV4: Layout = Layout {
    key: "ipv4",
    name: "IPv4",
    cells: &[
        Cell("version", 4, Show::Number),
        Cell("IHL", 4, Show::Number),
        Cell("DSCP", 6, Show::Number),
        Cell("ECN", 2, Show::Number),
        Cell("total length", 16, Show::Number),
        Cell("identification", 16, Show::Hex),
        Cell("flags", 3, Show::Hex),
        Cell("fragment offset", 13, Show::Number),
        Cell("time to live", 8, Show::Number),
        Cell("protocol", 8, Show::Protocol),
        Cell("header checksum", 16, Show::Checksum),
        Cell("source address", 32, Show::Address),
        Cell("destination address", 32, Show::Address),
    ],
};

pub(super) const IPV6: Layout = Layout {
    key: "ipv6",
    name: "IPv6",
    cells: &[
        Cell("version", 4, Show::Number),
        Cell("DSCP", 6, Show::Number),
        Cell("ECN", 2, Show::Number),
        Cell("flow label", 20, Show::Hex),
        Cell("payload length", 16, Show::Number),
        Cell("next header", 8, Show::Protocol),
        Cell("hop limit", 8, Show::Number),
        Cell("source address", 128, Show::Address),
        Cell("destination address", 128, Show::Address),
    ],
};

pub(super) const UDP: Layout = Layout {
    key: "udp",
    name: "UDP",
    cells: &[
        Cell("source port", 16, Show::Number),
        Cell("destination port", 16, Show::Number),
        Cell("length", 16, Show::Number),
        Cell("checksum", 16, Show::Checksum),
    ],
};

pub(super) const TCP: Layout = Layout {
    key: "tcp",
    name: "TCP",
    cells: &[
        Cell("source port", 16, Show::Number),
        Cell("destination port", 16, Show::Number),
        Cell("sequence number", 32, Show::Hex),
        Cell("acknowledgement number", 32, Show::Hex),
        Cell("offset", 4, Show::Number),
        Cell("rsv", 4, Show::Number),
        Cell("flags", 8, Show::Flags),
        Cell("window", 16, Show::Number),
        Cell("checksum", 16, Show::Checksum),
        Cell("urgent pointer", 16, Show::Number),
    ],
};

pub(super) fn all() -> Vec<Layout> {
    vec![ETHERNET, IPV4, IPV6, UDP, TCP]
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn headers_have_as_many_bits_as_they_have() {
        let bits: Vec<(&str, u16)> =
            all().iter().map(|layout| (layout.key, layout.cells.iter().map(|cell| cell.1).sum())).collect();
        assert_eq!(bits, [("ethernet", 112), ("ipv4", 160), ("ipv6", 320), ("udp", 64), ("tcp", 160)]);
    }
}
