//! A packet in words: `udp 10.0.0.1:5000 > 10.0.0.2:4739 len 100`.
//!
//! Input: words. Output: a [`Sample`] whose lengths and checksums are right, or what is wrong with the words.
//!
//! ```text
//! PROTO SRC:PORT > DST:PORT { OPTION }       PROTO is tcp or udp; IPv6 as in [2001:db8::1]:5000
//! in PROTO PORT > PORT                       as funnel sends it: with this header around it
//! len N, ttl N, tos N, id N, df              bytes of data; fields of the IP header
//! gso N, mark N                              size of segments; skb->mark, and other fields of the kernel's structure
//! syn, ack, fin, rst, psh, urg, ecn, cwr     TCP flags; `ack` if none is named
//! seq N, ackno N, window N, urgent N         TCP fields
//! nosum                                      UDP without a checksum
//! ```

use std::net::SocketAddr;
use std::str::FromStr;

use super::Sample;
use crate::dissect::{add, checksum, fold, put};
use crate::ir::Proto;
use crate::kernel::trial::Metadata;
use crate::protocol::TCP_FLAGS;
use crate::settings;

/// What to write instead of something unreadable.
const EXAMPLE: &str =
    "write it like `udp 10.0.0.1:5000 > 10.0.0.2:4739 len 100` or `tcp 10.0.0.1:5000 > 10.0.0.2:80 syn`";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; {EXAMPLE} (see `sfunnel explain --help`)")]
pub struct Error(String);

fn wrong(what: impl Into<String>) -> Error {
    Error(what.into())
}

/// All that words can say, with what holds where they do not.
struct Packet {
    proto: Proto,
    source: SocketAddr,
    destination: SocketAddr,
    /// Protocol and ports of the header around it.
    funnel: Option<(Proto, u16, u16)>,
    data: usize,
    ttl: u8,
    tos: u8,
    id: u16,
    dont_fragment: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    urgent: u16,
    sum: bool,
    metadata: Metadata,
}

/// The most that IP can carry after its header.
const MOST: usize = 65_535 - 40 - 20 - 20;

pub fn packet(text: &str) -> Result<Sample, Error> {
    let spaced = text.replace('>', " > ");
    let mut words = Words(spaced.split_whitespace());
    let mut packet = Packet::read(&mut words)?;
    while let Some(word) = words.0.next() {
        packet.option(word, &mut words)?;
    }
    packet.check()?;
    Ok(Sample { frame: packet.frame(), metadata: packet.metadata, cut_from: None, time: (0, 0) })
}

struct Words<'a>(std::str::SplitWhitespace<'a>);

impl Words<'_> {
    fn value<T: FromStr>(&mut self, what: &str) -> Result<T, Error> {
        let word = self.0.next().ok_or_else(|| wrong(format!("`{what}` needs a value")))?;
        word.parse().map_err(|_| wrong(format!("`{word}` is not a value for `{what}`")))
    }

    fn arrow(&mut self) -> Result<(), Error> {
        match self.0.next() {
            Some(">") => Ok(()),
            _ => Err(wrong("there is no `>` between source and destination")),
        }
    }

    fn proto(&mut self) -> Result<Proto, Error> {
        match self.0.next() {
            Some("tcp") => Ok(Proto::Tcp),
            Some("udp") => Ok(Proto::Udp),
            Some(other) => Err(wrong(format!("`{other}` is neither `tcp` nor `udp`"))),
            None => Err(wrong("there is no packet")),
        }
    }
}

impl Packet {
    fn read(words: &mut Words<'_>) -> Result<Self, Error> {
        let proto = words.proto()?;
        let source: SocketAddr = words.value("source")?;
        words.arrow()?;
        let destination: SocketAddr = words.value("destination")?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(wrong("source and destination are of two families"));
        }
        Ok(Self {
            proto,
            source,
            destination,
            funnel: None,
            data: 0,
            ttl: 64,
            tos: 0,
            id: 1,
            dont_fragment: false,
            flags: 0,
            seq: 1,
            ack: 1,
            window: 65_535,
            urgent: 0,
            sum: true,
            metadata: Metadata::default(),
        })
    }

    fn option(&mut self, word: &str, words: &mut Words<'_>) -> Result<(), Error> {
        let tcp_only = ["seq", "ackno", "window", "urgent"].contains(&word);
        let flag = TCP_FLAGS.iter().find(|(name, _)| *name == word);
        if (tcp_only || flag.is_some()) && self.proto == Proto::Udp {
            return Err(wrong(format!("`{word}` is for tcp")));
        }
        match word {
            "in" => {
                let proto = words.proto()?;
                let source = words.value("in")?;
                words.arrow()?;
                self.funnel = Some((proto, source, words.value("in")?));
            }
            "len" => self.data = words.value(word)?,
            "ttl" => self.ttl = words.value(word)?,
            "tos" => self.tos = words.value(word)?,
            "id" => self.id = words.value(word)?,
            "df" => self.dont_fragment = true,
            "gso" => self.metadata.gso_size = words.value(word)?,
            "seq" => self.seq = words.value(word)?,
            "ackno" => self.ack = words.value(word)?,
            "window" => self.window = words.value(word)?,
            "urgent" => self.urgent = words.value(word)?,
            "nosum" if self.proto == Proto::Udp => self.sum = false,
            "nosum" => return Err(wrong("`nosum` is for udp")),
            other => match (flag, settings::fields().find(|(field, _)| field.keyword() == other)) {
                (Some((_, bit)), _) => self.flags |= bit,
                (None, Some((field, _))) => self.metadata.settings.set(field, words.value(word)?),
                (None, None) => return Err(wrong(format!("`{other}` means nothing here"))),
            },
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.data > MOST {
            return Err(wrong(format!("no packet has {} bytes of data", self.data)));
        }
        if !self.sum && self.source.is_ipv6() {
            return Err(wrong("UDP over IPv6 has a checksum"));
        }
        Ok(())
    }

    fn frame(&self) -> Vec<u8> {
        let addresses = match (self.source, self.destination) {
            (SocketAddr::V4(a), SocketAddr::V4(b)) => [a.ip().octets(), b.ip().octets()].concat(),
            (SocketAddr::V6(a), SocketAddr::V6(b)) => [a.ip().octets(), b.ip().octets()].concat(),
            _ => Vec::new(),
        };
        // What funnel carries has its checksum over addresses that are 0.
        let covered = if self.funnel.is_some() { Vec::new() } else { addresses.clone() };
        let data: Vec<u8> = (b'a'..=b'z').cycle().take(self.data).collect();
        let mut body = segment(self.proto, &self.header(), &data, &covered, self.sum);
        let mut proto = self.proto;
        if let Some((outer, sport, dport)) = self.funnel {
            let header = funneling(outer, sport, dport);
            // A checksum that is absent inside is absent outside, if it can be.
            body = segment(outer, &header, &body, &addresses, self.sum || outer == Proto::Tcp);
            proto = outer;
        }
        let length = |extra: usize| u16::try_from(body.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
        let mut frame = vec![0; 12];
        if self.source.is_ipv4() {
            let flags = if self.dont_fragment { 0x40 } else { 0 };
            let mut ip = vec![0x45, self.tos];
            ip.extend(length(20));
            ip.extend(self.id.to_be_bytes());
            ip.extend([flags, 0, self.ttl, proto.number(), 0, 0]);
            ip.extend(addresses);
            let sum = !fold(add(&ip));
            put(&mut ip, 10, sum);
            frame.extend([0x08, 0x00]);
            frame.extend(ip);
        } else {
            frame.extend([0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            frame.extend(length(0));
            frame.extend([proto.number(), self.ttl]);
            frame.extend(addresses);
        }
        frame.extend(body);
        frame
    }

    /// The L4 header without its checksum, and for UDP without its length.
    fn header(&self) -> Vec<u8> {
        let mut header = [self.source.port(), self.destination.port()].map(u16::to_be_bytes).concat();
        if self.proto == Proto::Udp {
            header.extend([0; 4]);
            return header;
        }
        let flags = if self.flags == 0 { 16 } else { self.flags };
        header.extend(self.seq.to_be_bytes());
        header.extend(if flags & 16 != 0 { self.ack } else { 0 }.to_be_bytes());
        header.extend([0x50, flags]);
        header.extend([self.window, 0, self.urgent].map(u16::to_be_bytes).concat());
        header
    }
}

/// The header that `funnel` pushes (docs/funneling.md), without checksum and length.
fn funneling(proto: Proto, sport: u16, dport: u16) -> Vec<u8> {
    let mut header = [sport, dport].map(u16::to_be_bytes).concat();
    match proto {
        Proto::Udp => header.extend([0; 4]),
        Proto::Tcp => {
            header.extend([0xca, 0xfe, 0xba, 0xbe, 0xba, 0xbe, 0xca, 0xfe, 0x50, 2, 4, 0, 0, 0, 0, 0]);
        }
    }
    header
}

/// Header and data, with length and checksum filled in.
fn segment(proto: Proto, header: &[u8], data: &[u8], addresses: &[u8], sum: bool) -> Vec<u8> {
    let mut bytes = [header, data].concat();
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let at = match proto {
        Proto::Udp => {
            put(&mut bytes, 4, length);
            6
        }
        Proto::Tcp => 16,
    };
    if sum {
        let pseudo = add(addresses) + u64::from(proto.number()) + u64::from(length);
        let sum = checksum(proto, pseudo + add(&bytes));
        put(&mut bytes, at, sum);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::packet;
    use crate::dissect::{ChecksumState, Ip, Segment};
    use crate::ir::Proto;

    #[test]
    fn checksums_of_packets_in_words_are_right() {
        for words in [
            "udp 10.0.0.1:5000 > 10.0.0.2:4739 len 100",
            "udp 10.0.0.1:5000>10.0.0.2:4739",
            "tcp 10.0.0.1:5000 > 10.0.0.2:80 syn seq 7 df ttl 1 tos 16 id 9 window 1 urgent 8080",
            "tcp [2001:db8::1]:5000 > [2001:db8::2]:80 psh ack len 31",
            "tcp 10.0.0.1:5000 > 10.0.0.2:80 gso 1448 len 3000",
        ] {
            let sample = packet(words).unwrap();
            let ip = Ip::in_frame(&sample.frame).unwrap();
            let segment = ip.segment().unwrap();
            assert_ne!(ip.sum(), ChecksumState::Wrong, "{words}");
            assert_eq!(segment.sum(ip.addresses()), ChecksumState::Right, "{words}");
        }
        let absent = packet("udp 10.0.0.1:1 > 10.0.0.2:2 nosum len 3").unwrap();
        let ip = Ip::in_frame(&absent.frame).unwrap();
        assert_eq!(ip.segment().unwrap().sum(ip.addresses()), ChecksumState::Absent);
    }

    #[test]
    fn a_funneled_packet_in_words_is_what_funnel_sends() {
        // The example of docs/funneling.md, but for its payload.
        let sample = packet("udp 192.0.2.1:25000 > 198.51.100.1:4739 in tcp 540 > 179 len 3").unwrap();
        let ip = Ip::in_frame(&sample.frame).unwrap();
        let outer = ip.segment().unwrap();
        assert_eq!((outer.proto, outer.sport(), outer.dport()), (Proto::Tcp, 540, 179));
        assert_eq!(outer.sum(ip.addresses()), ChecksumState::Right);
        let inner = Segment::read(Proto::Udp, outer.payload()).unwrap();
        assert_eq!((inner.sport(), inner.dport(), inner.sum(&[0; 8])), (25000, 4739, ChecksumState::Right));
        assert_eq!((outer.checksum(), inner.checksum()), (0xb173, 0xc74a));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (words, part) in [
            ("", "there is no packet"),
            ("icmp 10.0.0.1:1 > 10.0.0.2:2", "`icmp` is neither"),
            ("udp 10.0.0.1 > 10.0.0.2:2", "`10.0.0.1` is not a value for `source`"),
            ("udp 10.0.0.1:1 10.0.0.2:2", "no `>`"),
            ("udp 10.0.0.1:1 > [::1]:2", "two families"),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 syn", "`syn` is for tcp"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 nosum", "`nosum` is for udp"),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 len", "`len` needs a value"),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 len -1", "`-1` is not a value for `len`"),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 len 65535", "no packet has 65535 bytes"),
            ("udp [::1]:1 > [::1]:2 nosum", "has a checksum"),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 blue", "`blue` means nothing"),
        ] {
            let error = packet(words).unwrap_err().to_string();
            assert!(error.contains(part), "{words}: {error}");
        }
    }
}
