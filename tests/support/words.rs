//! Packets as words, such as `ip 10.0.0.1 > 192.168.254.1 udp 25000 > 4739 len 3`.
//!
//! In: words. Out: a [`Packet`], and back again. Knows nothing of bytes.
//!
//! The words, in any order after the addresses:
//!
//! ```text
//! [(vlan|svlan) TCI]... ip A > B  [tos N] [id N] [ttl N] [df] [mf] [frag OFFSET] [options WORDS] [ext N] [big|jumbo] [version N] [ihl N] [total N] [badip]
//!   (udp|tcp|proto N) [SPORT > DPORT] [nosum] [badsum] [pseudosum] [udplen N] [seq N] [ack N] [doff N] [flags N] [window N] [urg N] [tcpopt WORDS] [opts HEX]
//!   [/ (udp|tcp) ...]                    the layer inside a funneling header
//!   [len N] [pad N] [truncated N] [gso N] [mark N]
//! arp                                    a frame that is not IP
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::fields::SKB;
use super::packet::{Csum, Kind, L4, Packet, SERVICE_VLAN, TCP, UDP, VLAN, hex, unhex};

impl Packet {
    /// Reads the words in the head of this file.
    pub fn parse(text: &str) -> Result<Packet, String> {
        let spaced = text.replace('>', " > ").replace('/', " / ");
        let mut words = Words { words: spaced.split_whitespace().collect(), at: 0 };
        let nowhere = IpAddr::from(Ipv4Addr::UNSPECIFIED);
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
            "vlan" => self.tags.push((VLAN, words.number(word)?)),
            "svlan" => self.tags.push((SERVICE_VLAN, words.number(word)?)),
            "tos" => self.ip.tos = words.number(word)?,
            "id" => self.ip.id = words.number(word)?,
            "ttl" => self.ip.ttl = words.number(word)?,
            "df" => self.ip.df = true,
            "mf" => self.ip.mf = true,
            "frag" => self.ip.frag = words.number(word)?,
            "options" => self.ip.options = words.number(word)?,
            "ext" => self.ip.ext = Some(words.number(word)?),
            "big" => self.ip.big = Some(false),
            "jumbo" => self.ip.big = Some(true),
            "version" => self.ip.version = Some(words.number(word)?),
            "ihl" => self.ip.ihl = Some(words.number(word)?),
            "total" => self.ip.total = Some(words.number(word)?),
            "badip" => self.ip.bad = true,
            "len" => self.payload = words.number(word)?,
            "pad" => self.pad = words.number(word)?,
            "truncated" => self.truncated = Some(words.number(word)?),
            "gso" => self.gso = words.number(word)?,
            word if SKB.iter().any(|(name, _)| *name == word) => {
                let index = SKB.iter().position(|(name, _)| *name == word).unwrap_or_default();
                self.skb[index] = words.number(word)?;
            }
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
                    "pseudosum" => l4.csum = Csum::Pseudo,
                    "udplen" => l4.udplen = Some(words.number(word)?),
                    "seq" => l4.seq = Some(words.number(word)?),
                    "ack" => l4.ack = Some(words.number(word)?),
                    "doff" => l4.doff = Some(words.number(word)?),
                    "flags" => l4.flags = Some(words.number(word)?),
                    "window" => l4.window = Some(words.number(word)?),
                    "urg" => l4.urg = words.number(word)?,
                    "tcpopt" => l4.tcpopt = words.number(word)?,
                    "opts" => l4.opts = unhex(words.next().unwrap_or(""))?,
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
        for (kind, tci) in &self.tags {
            word(if *kind == VLAN { "vlan" } else { "svlan" }, Some(u64::from(*tci)));
        }
        match self.kind {
            Kind::Ip => {}
            Kind::Arp => f.write_str("arp ")?,
        }
        let before = Packet::new(ip.src, ip.dst, Vec::new()).ip;
        word(&format!("ip {} > {} tos", ip.src, ip.dst), Some(ip.tos.into()));
        word("id", Some(ip.id.into()));
        word("ttl", Some(ip.ttl.into()).filter(|_| ip.ttl != before.ttl));
        word("frag", Some(ip.frag.into()).filter(|_| ip.frag != 0));
        word("options", Some(ip.options.into()).filter(|_| ip.options != 0));
        word("ext", ip.ext.map(u64::from));
        word("version", ip.version.map(u64::from));
        word("ihl", ip.ihl.map(u64::from));
        word("total", ip.total.map(u64::from));
        let [big, jumbo] = [false, true].map(|header| ip.big == Some(header));
        for (flag, name) in [(ip.df, "df"), (ip.mf, "mf"), (ip.bad, "badip"), (big, "big"), (jumbo, "jumbo")]
        {
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
            if !l4.opts.is_empty() {
                out.push(format!("opts {}", hex(&l4.opts)));
            }
            match l4.csum {
                Csum::Right => {}
                Csum::Wrong => out.push("badsum".to_owned()),
                Csum::Pseudo => out.push("pseudosum".to_owned()),
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
        for ((name, _), value) in SKB.iter().zip(self.skb).filter(|(_, value)| *value != 0) {
            word(name, Some(value.into()));
        }
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
