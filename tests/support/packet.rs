//! Builds packets; `words.rs` does so from words such as
//! `ip 10.0.0.1 > 192.168.254.1 udp 25000 > 4739 len 3`. Addresses of IPv6 make an IPv6 packet.
//!
//! In: what the packet should be, right or wrong on purpose. Out: its bytes. All checksums are
//! computed from scratch over the finished bytes. Knows the RFCs, and nothing of sfunnel but the
//! defaults of a funneling header (an L4 layer with another one in it). Never parses bytes.

use std::net::IpAddr;

use super::fields::Skb;

pub const ETHERNET: usize = 14;
/// Types of tags: of 802.1Q, and of 802.1ad.
pub const VLAN: u16 = 0x8100;
pub const SERVICE_VLAN: u16 = 0x88a8;
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// One packet. `Display` prints the words that [`Packet::parse`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub kind: Kind,
    /// VLAN tags in the frame, the outermost first: the type and the TCI of each.
    pub tags: Vec<(u16, u16)>,
    pub ip: Ip,
    /// The outermost first. All but the first have a pseudo-header without addresses.
    pub layers: Vec<L4>,
    pub payload: usize,
    /// Bytes after the end that the IP header states, as Ethernet pads short frames.
    pub pad: usize,
    pub truncated: Option<usize>,
    /// `__sk_buff.gso_size`: not in the bytes.
    pub gso: u32,
    /// The other members of `__sk_buff`: neither.
    pub skb: Skb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The version that the addresses are of.
    Ip,
    Arp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub tos: u8,
    pub id: u16,
    pub ttl: u8,
    pub df: bool,
    pub mf: bool,
    /// In units of eight bytes.
    pub frag: u16,
    /// In 32-bit words.
    pub options: u8,
    /// IPv6: an extension header of this number, eight bytes long.
    pub ext: Option<u8>,
    /// As a kernel makes it that has more to send than the length field can say: the field holds 0. Over IPv6, with a
    /// hop-by-hop header in front of TCP if `true`.
    pub big: Option<bool>,
    pub version: Option<u8>,
    pub ihl: Option<u8>,
    /// IPv4: the total length. IPv6: the payload length.
    pub total: Option<u16>,
    pub bad: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L4 {
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub csum: Csum,
    pub udplen: Option<u16>,
    pub seq: Option<u32>,
    pub ack: Option<u32>,
    pub doff: Option<u8>,
    pub flags: Option<u8>,
    pub window: Option<u16>,
    pub urg: u16,
    /// No-operation options, in 32-bit words.
    pub tcpopt: u8,
    /// Options byte by byte, in front of those; filled up to 32-bit words with zeros.
    pub opts: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Csum {
    Right,
    /// One more than right.
    Wrong,
    /// 0: absent, for UDP.
    Zero,
    /// The pseudo-header's sum, as while it is still to be finished.
    Pseudo,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

impl L4 {
    pub fn new(proto: u8, sport: u16, dport: u16) -> Self {
        L4 {
            proto,
            sport,
            dport,
            csum: Csum::Right,
            udplen: None,
            seq: None,
            ack: None,
            doff: None,
            flags: None,
            window: None,
            urg: 0,
            tcpopt: 0,
            opts: Vec::new(),
        }
    }

    /// Header and what it carries, with the checksum over `pseudo` addresses.
    fn bytes(&self, inside: &[u8], funneling: bool, pseudo: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(inside.len() + 20);
        out.extend(self.sport.to_be_bytes());
        out.extend(self.dport.to_be_bytes());
        let at = match self.proto {
            UDP => {
                let len = self.udplen.unwrap_or((8 + inside.len()) as u16);
                out.extend(len.to_be_bytes());
                out.extend([0, 0]);
                6
            }
            TCP => {
                let (seq, ack, flags, window) = match funneling {
                    true => (0xcafe_babe, 0xbabe_cafe, 0x02, 1024),
                    false => (0x0102_0304, 0x0506_0708, 0x18, 29_200),
                };
                out.extend(self.seq.unwrap_or(seq).to_be_bytes());
                out.extend(self.ack.unwrap_or(ack).to_be_bytes());
                let words = self.opts.len().div_ceil(4);
                out.push(self.doff.unwrap_or(5 + words as u8 + self.tcpopt) << 4);
                out.push(self.flags.unwrap_or(flags));
                out.extend(self.window.unwrap_or(window).to_be_bytes());
                out.extend([0, 0]);
                out.extend(self.urg.to_be_bytes());
                out.extend(&self.opts);
                out.resize(20 + words * 4, 0);
                out.resize(out.len() + usize::from(self.tcpopt) * 4, 1); // no-operation options
                16
            }
            _ => {
                out.extend(inside);
                return out;
            }
        };
        out.extend(inside);
        let unfinished = ones_complement(pseudo) + u32::from(self.proto) + out.len() as u32;
        let right = match !fold(unfinished + ones_complement(&out)) {
            0 if self.proto == UDP => 0xffff,
            sum => sum,
        };
        let sum = match self.csum {
            Csum::Right => right,
            // Never the other zero, which is right again, nor an absent one.
            Csum::Wrong => right.checked_add(1).filter(|s| *s != 0xffff).unwrap_or(2),
            Csum::Zero => 0,
            Csum::Pseudo => fold(unfinished),
        };
        out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

impl Packet {
    pub fn new(src: IpAddr, dst: IpAddr, layers: Vec<L4>) -> Self {
        let ip = Ip {
            src,
            dst,
            tos: 0,
            id: 1,
            ttl: 64,
            df: false,
            mf: false,
            frag: 0,
            options: 0,
            ext: None,
            big: None,
            version: None,
            ihl: None,
            total: None,
            bad: false,
        };
        let kind = Kind::Ip;
        Packet {
            kind,
            tags: Vec::new(),
            ip,
            layers,
            payload: 0,
            pad: 0,
            truncated: None,
            gso: 0,
            skb: Skb::default(),
        }
    }

    /// From the link header on.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = MACS.to_vec();
        for (kind, tci) in &self.tags {
            frame.extend([kind.to_be_bytes(), tci.to_be_bytes()].concat());
        }
        match self.kind {
            Kind::Ip => {
                let (ethertype, packet) = match (self.ip.src, self.ip.dst) {
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        ([0x86, 0xdd], self.ip6_bytes(&[src.octets(), dst.octets()].concat()))
                    }
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        ([0x08, 0x00], self.ip4_bytes(&[src.octets(), dst.octets()].concat()))
                    }
                    _ => panic!("two kinds of addresses in one packet"),
                };
                frame.extend(ethertype);
                frame.extend(packet);
            }
            Kind::Arp => {
                frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
                frame.resize(frame.len() + 20, 0);
            }
        }
        frame.resize(frame.len() + self.pad, 0xa5);
        if let Some(len) = self.truncated {
            frame.truncate(len);
        }
        frame
    }

    fn segment(&self, pseudo: &[u8]) -> Vec<u8> {
        let mut bytes = payload(self.payload);
        for (depth, l4) in self.layers.iter().enumerate().rev() {
            let funneling = depth + 1 < self.layers.len();
            bytes = l4.bytes(&bytes, funneling, if depth == 0 { pseudo } else { &[] });
        }
        bytes
    }

    fn ip6_bytes(&self, addresses: &[u8]) -> Vec<u8> {
        let ip = &self.ip;
        let mut segment = self.segment(addresses);
        let mut next = self.layers.first().map_or(59, |l4| l4.proto);
        if let Some(ext) = ip.ext {
            // As a fragment header: the only fragment. As any other: filled up with padding.
            let rest = if ext == 44 { [0, 0, 0, 0, 0, 0, 1] } else { [0, 1, 4, 0, 0, 0, 0] };
            segment.splice(0..0, [next].into_iter().chain(rest));
            next = ext;
        }
        if ip.big == Some(true) {
            let [a, b, c, d] = (segment.len() as u32 + 8).to_be_bytes();
            segment.splice(0..0, [next, 0, 0xc2, 4, a, b, c, d]);
            next = 0;
        }
        let (version, [label_high, label_low]) = (ip.version.unwrap_or(6), ip.id.to_be_bytes());
        let mut out = vec![version << 4 | ip.tos >> 4, ip.tos << 4, label_high, label_low];
        let length = if ip.big.is_some() { 0 } else { segment.len() as u16 };
        out.extend(ip.total.unwrap_or(length).to_be_bytes());
        out.extend([next, ip.ttl]);
        out.extend(addresses);
        out.extend(segment);
        out
    }

    fn ip4_bytes(&self, addresses: &[u8]) -> Vec<u8> {
        let ip = &self.ip;
        let segment = self.segment(addresses);
        let header = 20 + usize::from(ip.options) * 4;
        let mut out = vec![ip.version.unwrap_or(4) << 4 | ip.ihl.unwrap_or(5 + ip.options) & 15, ip.tos];
        let length = if ip.big.is_some() { 0 } else { (header + segment.len()) as u16 };
        out.extend(ip.total.unwrap_or(length).to_be_bytes());
        out.extend(ip.id.to_be_bytes());
        let flags = u16::from(ip.df) << 14 | u16::from(ip.mf) << 13 | ip.frag & 0x1fff;
        out.extend(flags.to_be_bytes());
        out.extend([ip.ttl, self.layers.first().map_or(59, |l4| l4.proto), 0, 0]);
        out.extend(addresses);
        out.resize(header, 1); // no-operation options
        let sum = !fold(ones_complement(&out));
        let sum = if ip.bad { sum ^ 0x0100 } else { sum };
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(segment);
        out
    }
}

/// `len` bytes that differ from their neighbours, and with the length.
pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len + 13) as u8).collect()
}

fn ones_complement(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)));
    words.sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// `0a0b0c`, for messages and case files.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err("hexadecimal digits come in pairs".into());
    }
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|e| e.to_string());
    (0..text.len()).step_by(2).map(byte).collect()
}
