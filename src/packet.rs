//! The header diagrams: where each field is, in bytes from its header's start.
//!
//! Data only, used by [`codegen`](crate::codegen). All packet fields are in network byte order;
//! whoever loads one converts it.

use asm::Size;

/// A field of a header, or of the context that the kernel hands to the program.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub offset: i16,
    pub size: Size,
}

impl Field {
    /// Bytes from the header's start to the field's end.
    pub fn end(self) -> i16 {
        self.offset + i16::from(self.size.bytes())
    }
}

pub(crate) const fn field(name: &'static str, offset: i16, size: Size) -> Field {
    Field { name, offset, size }
}

/// IEEE 802.3 header.
pub mod ethernet {
    use super::{Field, Size, field};

    /// 32 bits and 16.
    pub const DESTINATION: [Field; 2] =
        [field("ether.dst[0..31]", 0, Size::W), field("ether.dst[32..47]", 4, Size::H)];
    pub const SOURCE: [Field; 2] =
        [field("ether.src[0..31]", 6, Size::W), field("ether.src[32..47]", 10, Size::H)];
    pub const TYPE: Field = field("ether.type", 12, Size::H);
    pub const LEN: i16 = 14;
    pub const TYPE_IPV4: u16 = 0x0800;
    pub const TYPE_IPV6: u16 = 0x86dd;
}

/// Tags of IEEE 802.1Q, up to two of them in front of the EtherType. From the type of the first on.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-------------------------------+-----+-+-----------------------+
/// |   type of tag: 8100 or 88a8   | PCP |D|          VID          |  0
/// +-------------------------------+-----+-+-----------------------+
/// |      another tag's type       | PCP |D|          VID          |  4
/// +-------------------------------+-----+-+-----------------------+
/// |           EtherType           |                                  8
/// +-------------------------------+
/// ```
pub mod vlan {
    use super::{Field, Size, field};

    pub const TAG: Field = field("vlan.type, vlan.tci", 0, Size::W);
    pub const NEXT_TYPE: Field = field("type behind the tag", 4, Size::H);
    pub const NEXT_BUT_ONE_TYPE: Field = field("type behind two tags", 8, Size::H);
    pub const LEN_OF_TWO: i16 = 10;
    pub const TYPE: u16 = 0x8100;
    /// 802.1ad, the outer of two.
    pub const TYPE_SERVICE: u16 = 0x88a8;
}

/// IPv4 header, RFC 791 section 3.1.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-------+-------+---------------+-------------------------------+
/// |Version|  IHL  |      TOS      |         total length          |  0
/// +-------+-------+---------------+-----+-------------------------+
/// |        identification         |flags|     fragment offset     |  4
/// +---------------+---------------+-----+-------------------------+
/// |      TTL      |   protocol    |            checksum           |  8
/// +---------------+---------------+-------------------------------+
/// |                        source address                         | 12
/// +---------------------------------------------------------------+
/// |                      destination address                      | 16
/// +---------------------------------------------------------------+
/// |                   options, up to 40 bytes                     | 20
/// +---------------------------------------------------------------+
/// ```
pub mod ipv4 {
    use super::{Field, Size, field};

    pub const VERSION_IHL: Field = field("ip.version, ip.ihl", 0, Size::B);
    /// Version, IHL, TOS and length in one store.
    pub const FIRST: Field = field("ip.version to ip.length", 0, Size::W);
    pub const TOS: Field = field("ip.tos", 1, Size::B);
    pub const LENGTH: Field = field("ip.length", 2, Size::H);
    pub const ID_FRAGMENT: Field = field("ip.id, ip.flags, ip.offset", 4, Size::W);
    pub const FRAGMENT: Field = field("ip.flags, ip.offset", 6, Size::H);
    pub const TTL: Field = field("ip.ttl", 8, Size::B);
    pub const PROTOCOL: Field = field("ip.protocol", 9, Size::B);
    pub const TTL_PROTOCOL_CHECKSUM: Field = field("ip.ttl, ip.protocol, ip.checksum", 8, Size::W);
    pub const CHECKSUM: Field = field("ip.checksum", 10, Size::H);
    pub const SADDR: Field = field("ip.saddr", 12, Size::W);
    pub const DADDR: Field = field("ip.daddr", 16, Size::W);
    /// Both in one load.
    pub const ADDRESSES: Field = field("ip.saddr, ip.daddr", 12, Size::D);
    pub const SADDR_LAST: Field = field("ip.saddr[24..31]", 15, Size::B);
    pub const DADDR_LAST: Field = field("ip.daddr[24..31]", 19, Size::B);

    /// Length without options; also where `bpf_skb_adjust_room` opens and closes room, options or not.
    pub const LEN: i16 = 20;
    /// The shortest packet with an L4 header, which is UDP's.
    pub const SHORTEST: i16 = 28;
    pub const OPTIONS_MAX: i16 = 40;
    /// Version 4, IHL 5: no options.
    pub const PLAIN: u8 = 0x45;
    /// More fragments, or a fragment offset.
    pub const FRAGMENTED: u32 = 0x3fff;
    pub const DONT_FRAGMENT: u32 = 0x4000;
    /// What every host must be able to receive; no link of today carries less.
    pub const LEAST_MTU: u16 = 576;
}

/// IPv6 header, RFC 8200 section 3.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-------+---------------+---------------------------------------+
/// |Version| traffic class |              flow label               |  0
/// +-------+---------------+-------+---------------+---------------+
/// |        payload length         |  next header  |   hop limit   |  4
/// +-------------------------------+---------------+---------------+
/// |                   source address, 16 bytes                    |  8
/// +---------------------------------------------------------------+
/// |                 destination address, 16 bytes                 | 24
/// +---------------------------------------------------------------+
/// ```
pub mod ipv6 {
    use super::{Field, Size, field};

    pub const VERSION: Field = field("ip6.version", 0, Size::B);
    pub const FIRST: Field = field("ip6.version, ip6.class, ip6.label", 0, Size::W);
    pub const LENGTH: Field = field("ip6.length", 4, Size::H);
    pub const LENGTH_NEXT_HOPS: Field = field("ip6.length, ip6.next_header, ip6.hop_limit", 4, Size::W);
    pub const NEXT_HEADER: Field = field("ip6.next_header", 6, Size::B);
    pub const HOP_LIMIT: Field = field("ip6.hop_limit", 7, Size::B);
    /// 32 bits each.
    pub const SADDR: [Field; 4] = [
        field("ip6.saddr[0..31]", 8, Size::W),
        field("ip6.saddr[32..63]", 12, Size::W),
        field("ip6.saddr[64..95]", 16, Size::W),
        field("ip6.saddr[96..127]", 20, Size::W),
    ];
    pub const DADDR: [Field; 4] = [
        field("ip6.daddr[0..31]", 24, Size::W),
        field("ip6.daddr[32..63]", 28, Size::W),
        field("ip6.daddr[64..95]", 32, Size::W),
        field("ip6.daddr[96..127]", 36, Size::W),
    ];

    /// Of the hop-by-hop header that kernels put before TCP of more than 64 KiB: its next header, its length, and
    /// the jumbo payload option (RFC 2675), without the value.
    pub const JUMBO: Field = field("hop.next_header, hop.length, hop.option", 0, Size::W);

    /// Also where `bpf_skb_adjust_room` opens and closes room.
    pub const LEN: i16 = 40;
    /// The number of the hop-by-hop header.
    pub const HOP_BY_HOP: u32 = 0;
    /// [`JUMBO`] of such a header.
    pub const JUMBO_TCP: u32 = 0x0600_c204;
    pub const JUMBO_LEN: i16 = 8;
    /// The number of the header of fragments, which is as long, and what is in it.
    pub const FRAGMENT: u32 = 44;
    pub const FRAGMENT_NEXT: Field = field("fragment.next_header", 0, Size::B);
    pub const FRAGMENT_OFFSET: Field = field("fragment.offset, fragment.flags", 2, Size::H);
    /// The shortest packet with an L4 header, which is UDP's.
    pub const SHORTEST: i16 = 48;
    /// RFC 8200 section 5.
    pub const LEAST_MTU: u16 = 1280;
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443): the message that a packet is longer than the next hop's MTU.
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// |     type      |     code      |           checksum            |  0
/// +---------------+---------------+-------------------------------+
/// |            MTU: the lower half over IPv4 (RFC 1191)           |  4
/// +---------------------------------------------------------------+
/// |               the packet, as much of it as fits               |  8
/// +---------------------------------------------------------------+
/// ```
pub mod icmp {
    use super::{Field, Size, field};

    pub const TYPE_CODE_CHECKSUM: Field = field("icmp.type, icmp.code, icmp.checksum", 0, Size::W);
    pub const MTU: Field = field("icmp.mtu", 4, Size::W);

    pub const LEN: i16 = 8;
    pub const NUMBER: u8 = 1;
    pub const NUMBER_V6: u8 = 58;
    /// Types 3 and 2, codes 4 and 0.
    pub const FRAGMENTATION_NEEDED: u32 = 0x0304;
    pub const PACKET_TOO_BIG: u32 = 0x0200;
}

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): 64 bytes, in host byte order but for addresses.
pub mod fib {
    use super::{Field, Size, field};

    /// The packet's length goes in, an MTU comes out.
    pub const LENGTH_OR_MTU: Field = field("fib.length, fib.mtu", 6, Size::H);
    pub const IFINDEX: i16 = 8;
    /// 16 bytes each; IPv4 takes the first 4.
    pub const SADDR: i16 = 16;
    pub const DADDR: i16 = 32;

    pub const LEN: i16 = 64;
    pub const AF_INET: i32 = 2;
    pub const AF_INET6: i32 = 10;
}

/// UDP header, RFC 768.
///
/// ```text
/// +-------------------------------+-------------------------------+
/// |          source port          |       destination port        |  0
/// +-------------------------------+-------------------------------+
/// |            length             |           checksum            |  4
/// +-------------------------------+-------------------------------+
/// ```
pub mod udp {
    use super::{Field, Size, field};

    pub const LENGTH: Field = field("udp.length", 4, Size::H);
    pub const CHECKSUM: Field = field("udp.checksum", 6, Size::H);
    /// Both in one load.
    pub const LENGTH_CHECKSUM: Field = field("udp.length, udp.checksum", 4, Size::W);
}

/// TCP header, RFC 9293 section 3.1.
///
/// ```text
/// +-------------------------------+-------------------------------+
/// |          source port          |       destination port        |  0
/// +-------------------------------+-------------------------------+
/// |                        sequence number                        |  4
/// +---------------------------------------------------------------+
/// |                    acknowledgement number                     |  8
/// +-------+-------+---------------+-------------------------------+
/// |offset |  rsv  |     flags     |            window             | 12
/// +-------+-------+---------------+-------------------------------+
/// |           checksum            |        urgent pointer         | 16
/// +-------------------------------+-------------------------------+
/// ```
pub mod tcp {
    use super::{Field, Size, field};

    pub const SEQUENCE: Field = field("tcp.sequence", 4, Size::W);
    pub const ACKNOWLEDGEMENT: Field = field("tcp.acknowledgement", 8, Size::W);
    pub const DATA_OFFSET: Field = field("tcp.offset", 12, Size::B);
    pub const FLAGS: Field = field("tcp.flags", 13, Size::B);
    pub const OFFSET_FLAGS: Field = field("tcp.offset, tcp.flags", 12, Size::H);
    /// All three in one store.
    pub const OFFSET_FLAGS_WINDOW: Field = field("tcp.offset, tcp.flags, tcp.window", 12, Size::W);
    pub const CHECKSUM: Field = field("tcp.checksum", 16, Size::H);
    pub const URGENT: Field = field("tcp.urgent", 18, Size::H);
    pub const URGENT_FIRST: Field = field("tcp.urgent[0..7]", 18, Size::B);
    pub const URGENT_SECOND: Field = field("tcp.urgent[8..15]", 19, Size::B);

    /// Length without options.
    pub const LEN: i16 = 20;
    /// Of [`FLAGS`]: the urgent pointer means something.
    pub const URG: u32 = 0x20;
    pub const ACK: u32 = 0x10;
    pub const RST: u32 = 0x04;
    /// Of [`FLAGS`]: the segment opens a connection, and its options say how.
    pub const SYN: u32 = 0x02;
    pub const FIN: u32 = 0x01;
    /// Of [`OFFSET_FLAGS`]: what no RFC has given a meaning. (The fourth bit is accurate ECN's, RFC 9768.)
    pub const RESERVED: u32 = 0x0e00;
    /// The two kinds of option that are a single byte.
    pub const END_OF_OPTIONS: u32 = 0;
    pub const NO_OPERATION: u32 = 1;
    /// TCP-AO, RFC 5925.
    pub const AUTHENTICATION: u32 = 29;
}

/// TCP's option for the maximum segment size, RFC 9293 section 3.2.
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// |    kind 2     |    length 4   |     maximum segment size      |
/// +---------------+---------------+-------------------------------+
/// ```
pub mod mss {
    use super::{Field, Size, field};

    pub const LENGTH: Field = field("length", 1, Size::B);
    pub const VALUE: Field = field("mss", 2, Size::H);

    pub const KIND: u32 = 2;
    pub const LEN: i16 = 4;
    /// What an MSS is not lowered below. Linux takes less for this much (`tcp_min_snd_mss`): with 40
    /// bytes of options, there are 8 left for data.
    pub const LEAST: u32 = 48;
}

/// Both L4 headers begin with the ports.
pub mod l4 {
    use super::{Field, Size, field};

    pub const PORTS: Field = field("sport, dport", 0, Size::W);
    pub const SPORT: Field = field("sport", 0, Size::H);
    pub const DPORT: Field = field("dport", 2, Size::H);
    /// Of both.
    pub const LEN: i16 = 4;
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h): what the program sees of the packet's metadata.
pub mod skb {
    use super::{Field, Size, field};

    pub const LEN: Field = field("skb->len", 0, Size::W);
    pub const PKT_TYPE: Field = field("skb->pkt_type", 4, Size::W);
    pub const PROTOCOL: Field = field("skb->protocol", 16, Size::W);
    pub const VLAN_PRESENT: Field = field("skb->vlan_present", 20, Size::W);
    pub const VLAN_TCI: Field = field("skb->vlan_tci", 24, Size::W);
    pub const VLAN_PROTO: Field = field("skb->vlan_proto", 28, Size::W);
    pub const PRIORITY: Field = field("skb->priority", 32, Size::W);
    pub const INGRESS_IFINDEX: Field = field("skb->ingress_ifindex", 36, Size::W);
    pub const IFINDEX: Field = field("skb->ifindex", 40, Size::W);
    pub const TC_INDEX: Field = field("skb->tc_index", 44, Size::W);
    pub const HASH: Field = field("skb->hash", 68, Size::W);
    pub const DATA: Field = field("skb->data", 76, Size::W);
    pub const DATA_END: Field = field("skb->data_end", 80, Size::W);
    pub const MARK: Field = field("skb->mark", 8, Size::W);
    pub const GSO_SIZE: Field = field("skb->gso_size", 176, Size::W);
}

/// What tells a funneling TCP header from any other: the original program's constants.
pub mod marker {
    pub const SEQUENCE: u32 = 0xcafe_babe;
    pub const ACKNOWLEDGEMENT: u32 = 0xbabe_cafe;
    /// Data offset 5, SYN, window 1024.
    pub const OFFSET_FLAGS_WINDOW: u32 = 0x5002_0400;
    /// The first two of these.
    pub const OFFSET_FLAGS: u32 = OFFSET_FLAGS_WINDOW >> 16;

    /// [`OFFSET_FLAGS_WINDOW`] with other flags.
    pub fn with_flags(flags: u8) -> u32 {
        (OFFSET_FLAGS_WINDOW & !0x00ff_0000) | (u32::from(flags) << 16)
    }
}
