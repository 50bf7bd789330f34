//! Builds packets, in Rust or from words such as
//! `ip 10.0.0.1 > 192.168.254.1 udp 25000 > 4739 len 3`.
//!
//! In: what the packet should be, right or wrong on purpose. Out: its bytes. All checksums are
//! computed from scratch over the finished bytes. Knows the RFCs, and nothing of sfunnel but the
//! defaults of a funneling header (an L4 layer with another one in it). Never parses bytes.
//!
//! The words, in any order after the addresses:
//!
//! ```text
//! [vlan ID] ip A > B  [tos N] [id N] [ttl N] [df] [mf] [frag OFFSET] [options WORDS] [version N] [ihl N] [total N] [badip]
//!   (udp|tcp|proto N) [SPORT > DPORT] [nosum] [badsum] [udplen N] [seq N] [ack N] [doff N] [flags N] [window N] [urg N] [tcpopt WORDS]
//!   [/ (udp|tcp) ...]                    the layer inside a funneling header
//!   [len N] [pad N] [truncated N] [gso N]
//! arp | ip6                              frames that are not IPv4
//! ```

use std::fmt;
use std::net::Ipv4Addr;

pub const ETHERNET: usize = 14;
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// One packet. `Display` prints the words that [`Packet::parse`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub kind: Kind,
    /// An in-band 802.1Q tag.
    pub vlan: Option<u16>,
    pub ip: Ip,
    /// The outermost first. All but the first have a pseudo-header without addresses.
    pub layers: Vec<L4>,
    pub payload: usize,
    /// Bytes after the end that the IP header states, as Ethernet pads short frames.
    pub pad: usize,
    pub truncated: Option<usize>,
    /// `__sk_buff.gso_size`: not in the bytes.
    pub gso: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ip4,
    Arp,
    Ip6,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub tos: u8,
    pub id: u16,
    pub ttl: u8,
    pub df: bool,
    pub mf: bool,
    /// In units of eight bytes.
    pub frag: u16,
    /// In 32-bit words.
    pub options: u8,
    pub version: u8,
    pub ihl: Option<u8>,
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
    /// In 32-bit words.
    pub tcpopt: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Csum {
    Right,
    /// One more than right.
    Wrong,
    /// 0: absent, for UDP.
    Zero,
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
        }
    }

    /// Header and what it carries, with the checksum over `pseudo` addresses.
    fn bytes(&self, inside: &[u8], funneling: bool, pseudo: [u8; 8]) -> Vec<u8> {
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
                out.push(self.doff.unwrap_or(5 + self.tcpopt) << 4);
                out.push(self.flags.unwrap_or(flags));
                out.extend(self.window.unwrap_or(window).to_be_bytes());
                out.extend([0, 0]);
                out.extend(self.urg.to_be_bytes());
                out.resize(20 + usize::from(self.tcpopt) * 4, 1); // no-operation options
                16
            }
            _ => {
                out.extend(inside);
                return out;
            }
        };
        out.extend(inside);
        let mut sum = ones_complement(&pseudo) + u32::from(self.proto) + out.len() as u32;
        sum += ones_complement(&out);
        let right = match !fold(sum) {
            0 if self.proto == UDP => 0xffff,
            sum => sum,
        };
        let sum = match self.csum {
            Csum::Right => right,
            // Never the other zero, which is right again, nor an absent one.
            Csum::Wrong => right.checked_add(1).filter(|s| *s != 0xffff).unwrap_or(2),
            Csum::Zero => 0,
        };
        out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

impl Packet {
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, layers: Vec<L4>) -> Self {
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
            version: 4,
            ihl: None,
            total: None,
            bad: false,
        };
        let kind = Kind::Ip4;
        Packet { kind, vlan: None, ip, layers, payload: 0, pad: 0, truncated: None, gso: 0 }
    }

    /// From the link header on.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = MACS.to_vec();
        if let Some(id) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        match self.kind {
            Kind::Ip4 => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.ip_bytes());
            }
            Kind::Arp => {
                frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
                frame.resize(frame.len() + 20, 0);
            }
            Kind::Ip6 => {
                let segment = self.segment([0; 8]);
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((segment.len() as u16).to_be_bytes());
                frame.extend([self.layers.first().map_or(59, |l4| l4.proto), 64]);
                frame.resize(frame.len() + 32, 0x20);
                frame.extend(segment);
            }
        }
        frame.resize(frame.len() + self.pad, 0xa5);
        if let Some(len) = self.truncated {
            frame.truncate(len);
        }
        frame
    }

    fn segment(&self, pseudo: [u8; 8]) -> Vec<u8> {
        let mut bytes = payload(self.payload);
        for (depth, l4) in self.layers.iter().enumerate().rev() {
            let funneling = depth + 1 < self.layers.len();
            bytes = l4.bytes(&bytes, funneling, if depth == 0 { pseudo } else { [0; 8] });
        }
        bytes
    }

    fn ip_bytes(&self) -> Vec<u8> {
        let ip = &self.ip;
        let mut pseudo = [0; 8];
        pseudo[..4].copy_from_slice(&ip.src.octets());
        pseudo[4..].copy_from_slice(&ip.dst.octets());
        let segment = self.segment(pseudo);
        let header = 20 + usize::from(ip.options) * 4;
        let mut out = vec![ip.version << 4 | ip.ihl.unwrap_or(5 + ip.options) & 15, ip.tos];
        out.extend(ip.total.unwrap_or((header + segment.len()) as u16).to_be_bytes());
        out.extend(ip.id.to_be_bytes());
        let flags = u16::from(ip.df) << 14 | u16::from(ip.mf) << 13 | ip.frag & 0x1fff;
        out.extend(flags.to_be_bytes());
        out.extend([ip.ttl, self.layers.first().map_or(59, |l4| l4.proto), 0, 0]);
        out.extend(pseudo);
        out.resize(header, 1); // no-operation options
        let sum = !fold(ones_complement(&out));
        let sum = if ip.bad { sum ^ 0x0100 } else { sum };
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(segment);
        out
    }

    /// Reads the words in the head of this file.
    pub fn parse(text: &str) -> Result<Packet, String> {
        let spaced = text.replace('>', " > ").replace('/', " / ");
        let mut words = Words { words: spaced.split_whitespace().collect(), at: 0 };
        let nowhere = Ipv4Addr::UNSPECIFIED;
        let mut packet = Packet::new(nowhere, nowhere, Vec::new());
        while let Some(word) = words.next() {
            packet.word(word, &mut words).map_err(|why| format!("`{text}`: {why}"))?;
        }
        Ok(packet)
    }

    fn word(&mut self, word: &str, words: &mut Words) -> Result<(), String> {
        match word {
            "ip" => {
                self.ip.src = words.value(word)?;
                words.expect(">")?;
                self.ip.dst = words.value(word)?;
            }
            "arp" => self.kind = Kind::Arp,
            "ip6" => self.kind = Kind::Ip6,
            "vlan" => self.vlan = Some(words.number(word)?),
            "tos" => self.ip.tos = words.number(word)?,
            "id" => self.ip.id = words.number(word)?,
            "ttl" => self.ip.ttl = words.number(word)?,
            "df" => self.ip.df = true,
            "mf" => self.ip.mf = true,
            "frag" => self.ip.frag = words.number(word)?,
            "options" => self.ip.options = words.number(word)?,
            "version" => self.ip.version = words.number(word)?,
            "ihl" => self.ip.ihl = Some(words.number(word)?),
            "total" => self.ip.total = Some(words.number(word)?),
            "badip" => self.ip.bad = true,
            "len" => self.payload = words.number(word)?,
            "pad" => self.pad = words.number(word)?,
            "truncated" => self.truncated = Some(words.number(word)?),
            "gso" => self.gso = words.number(word)?,
            "/" => {}
            "udp" | "tcp" | "proto" => {
                let proto = match word {
                    "udp" => UDP,
                    "tcp" => TCP,
                    _ => words.number(word)?,
                };
                let mut l4 = L4::new(proto, 0, 0);
                if words.peek().is_some_and(|w| w.parse::<u16>().is_ok()) {
                    l4.sport = words.number(word)?;
                    words.expect(">")?;
                    l4.dport = words.number(word)?;
                }
                self.layers.push(l4);
            }
            _ => {
                let l4 = self.layers.last_mut().ok_or(format!("`{word}` before udp or tcp"))?;
                match word {
                    "nosum" => l4.csum = Csum::Zero,
                    "badsum" => l4.csum = Csum::Wrong,
                    "udplen" => l4.udplen = Some(words.number(word)?),
                    "seq" => l4.seq = Some(words.number(word)?),
                    "ack" => l4.ack = Some(words.number(word)?),
                    "doff" => l4.doff = Some(words.number(word)?),
                    "flags" => l4.flags = Some(words.number(word)?),
                    "window" => l4.window = Some(words.number(word)?),
                    "urg" => l4.urg = words.number(word)?,
                    "tcpopt" => l4.tcpopt = words.number(word)?,
                    _ => return Err(format!("no such word: `{word}`")),
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        let mut word = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                out.push(format!("{name} {value}"));
            }
        };
        let ip = &self.ip;
        word("vlan", self.vlan.map(u64::from));
        match self.kind {
            Kind::Ip4 => {}
            Kind::Arp => f.write_str("arp ")?,
            Kind::Ip6 => f.write_str("ip6 ")?,
        }
        let before = Packet::new(ip.src, ip.dst, Vec::new()).ip;
        word(&format!("ip {} > {} tos", ip.src, ip.dst), Some(ip.tos.into()));
        word("id", Some(ip.id.into()));
        word("ttl", Some(ip.ttl.into()).filter(|_| ip.ttl != before.ttl));
        word("frag", Some(ip.frag.into()).filter(|_| ip.frag != 0));
        word("options", Some(ip.options.into()).filter(|_| ip.options != 0));
        word("version", Some(ip.version.into()).filter(|_| ip.version != 4));
        word("ihl", ip.ihl.map(u64::from));
        word("total", ip.total.map(u64::from));
        for (flag, name) in [(ip.df, "df"), (ip.mf, "mf"), (ip.bad, "badip")] {
            if flag {
                out.push(name.to_owned());
            }
        }
        for (depth, l4) in self.layers.iter().enumerate() {
            let name = match l4.proto {
                UDP => "udp".to_owned(),
                TCP => "tcp".to_owned(),
                other => format!("proto {other}"),
            };
            let slash = if depth == 0 { "" } else { "/ " };
            out.push(format!("{slash}{name} {} > {}", l4.sport, l4.dport));
            let mut word = |name: &str, value: Option<u64>| {
                if let Some(value) = value {
                    out.push(format!("{name} {value}"));
                }
            };
            word("udplen", l4.udplen.map(u64::from));
            word("seq", l4.seq.map(u64::from));
            word("ack", l4.ack.map(u64::from));
            word("doff", l4.doff.map(u64::from));
            word("flags", l4.flags.map(u64::from));
            word("window", l4.window.map(u64::from));
            word("urg", Some(l4.urg.into()).filter(|_| l4.urg != 0));
            word("tcpopt", Some(l4.tcpopt.into()).filter(|_| l4.tcpopt != 0));
            match l4.csum {
                Csum::Right => {}
                Csum::Wrong => out.push("badsum".to_owned()),
                Csum::Zero => out.push("nosum".to_owned()),
            }
        }
        let mut word = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                out.push(format!("{name} {value}"));
            }
        };
        word("len", Some(self.payload as u64));
        word("pad", Some(self.pad as u64).filter(|_| self.pad != 0));
        word("truncated", self.truncated.map(|n| n as u64));
        word("gso", Some(self.gso.into()).filter(|_| self.gso != 0));
        f.write_str(&out.join(" "))
    }
}

struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.at += 1;
        self.words.get(self.at - 1).copied()
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        match self.next() {
            Some(w) if w == word => Ok(()),
            other => Err(format!("expected `{word}`, not {other:?}")),
        }
    }

    fn value<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, String> {
        let word = self.next().unwrap_or("");
        word.parse().map_err(|_| format!("`{word}` will not do after `{name}`"))
    }

    /// Decimal, or hexadecimal after `0x`.
    fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<T, String> {
        let word = self.next().unwrap_or("");
        let value = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        };
        let value = value.and_then(|v| T::try_from(v).ok());
        value.ok_or(format!("`{word}` will not do after `{name}`"))
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
    if !text.is_ascii() || text.len() % 2 != 0 {
        return Err("hexadecimal digits come in pairs".into());
    }
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|e| e.to_string());
    (0..text.len()).step_by(2).map(byte).collect()
}
