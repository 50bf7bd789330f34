//! One packet at three places, header by header, field by field.
//!
//! Comes in: three frames. Goes out: rows of text with what changed and why. Never prints.

use std::net::Ipv4Addr;

use super::flow::FLOWS;
use super::packet::{Packet, Sum, half, word};
use super::wire::Life;
use crate::ir::Proto;

/// Behind a checksum that is not finished.
pub const UNFINISHED: char = '~';

/// A header, or what is behind the last one.
#[derive(Debug)]
pub struct Block {
    pub title: String,
    /// It is there on the wire only.
    pub pushed: bool,
    pub rows: Vec<Row>,
}

/// A field: in front of funnel, on the wire, behind unfunnel.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub values: [String; 3],
    /// Why it is not the same everywhere.
    pub why: &'static str,
}

impl Row {
    pub fn changed(&self) -> bool {
        let [plain, funneled, _] = &self.values;
        plain != funneled
    }
}

type Fields = Vec<(&'static str, String)>;

/// The table, top to bottom. `None`: not packets of the first flow (they have been read before).
pub fn blocks(life: &Life) -> Option<Vec<Block>> {
    let [flow, ..] = &FLOWS;
    let frames = [&life.plain, &life.funneled, &life.delivered];
    let [Some(plain), Some(funneled), Some(delivered)] = frames.map(|frame| Packet::read(frame, flow)) else {
        return None;
    };
    let outer = funneled.outer?;
    let packets = [plain, funneled, delivered];

    let ip = zip(packets.map(|packet| ipv4(&packet)), |name| match name {
        "total length" => "20 bytes more",
        "protocol" => "what follows IP is TCP now",
        "header checksum" => "covers the two above",
        _ => "",
    });
    let pushed = l4(outer.proto, outer.header(), Sum::Right)
        .into_iter()
        .map(|(name, value)| Row {
            name,
            values: [String::new(), value, String::new()],
            why: pushed_why(name),
        })
        .collect();
    let inner = zip(packets.map(|p| l4(p.inner.proto, p.inner.header(), p.inner_sum())), |name| match name {
        "checksum" => "over addresses 0.0.0.0: NAT-proof",
        _ => "",
    });
    let payload = zip(packets.map(|packet| data(packet.inner.payload())), |_| "");
    let block = |title: String, pushed, rows| Block { title, pushed, rows };
    Some(vec![
        block(format!("IPv4, {} bytes", plain.ip.len()), false, ip),
        block(format!("{}, {} bytes", shout(outer.proto), outer.header().len()), true, pushed),
        block(format!("{}, {} bytes", shout(plain.inner.proto), plain.inner.header().len()), false, inner),
        block(format!("data, {} bytes", plain.inner.payload().len()), false, payload),
    ])
}

/// The header that funnel has pushed, and its offset in the frame.
pub fn pushed(life: &Life) -> Option<(usize, Vec<u8>)> {
    let [flow, ..] = &FLOWS;
    let packet = Packet::read(&life.funneled, flow)?;
    Some((14 + packet.ip.len(), packet.outer?.header().to_vec()))
}

fn pushed_why(name: &str) -> &'static str {
    match name {
        "source port" | "destination port" => "the rule's",
        "sequence" | "acknowledgement" => "the mark that unfunnel looks for",
        "flags" => "to others: a new connection",
        "checksum" => "right for all that follows",
        _ => "always",
    }
}

/// Fields by name, as they are in all three packets.
fn zip([plain, funneled, delivered]: [Fields; 3], why: fn(&str) -> &'static str) -> Vec<Row> {
    plain
        .into_iter()
        .zip(funneled)
        .zip(delivered)
        .map(|(((name, plain), (_, funneled)), (_, delivered))| {
            let values = [plain, funneled, delivered];
            let row = Row { name, values, why: "" };
            Row { why: if row.changed() { why(name) } else { "" }, ..row }
        })
        .collect()
}

fn ipv4(packet: &Packet<'_>) -> Fields {
    let ip = packet.ip;
    let byte = |at: usize| ip.get(at).copied().unwrap_or_default();
    let flags = match half(ip, 6) {
        0x4000 => "DF".to_owned(),
        other => format!("{other:#06x}"),
    };
    let protocol = Proto::ALL.into_iter().find(|proto| proto.number() == byte(9));
    let protocol = protocol.map_or(String::new(), |proto| format!(" {}", shout(proto)));
    vec![
        ("version, IHL", format!("{}, {}", byte(0) >> 4, byte(0) & 0xf)),
        ("type of service", byte(1).to_string()),
        ("total length", half(ip, 2).to_string()),
        ("identification", hex(half(ip, 4))),
        ("flags, offset", flags),
        ("time to live", byte(8).to_string()),
        ("protocol", format!("{}{protocol}", byte(9))),
        ("header checksum", hex(half(ip, 10))),
        ("source", Ipv4Addr::from(word(ip, 12)).to_string()),
        ("destination", Ipv4Addr::from(word(ip, 16)).to_string()),
    ]
}

fn l4(proto: Proto, header: &[u8], sum: Sum) -> Fields {
    let mut fields =
        vec![("source port", half(header, 0).to_string()), ("destination port", half(header, 2).to_string())];
    let checksum = |at| match sum {
        Sum::Unfinished => format!("{} {UNFINISHED}", hex(half(header, at))),
        Sum::Right | Sum::Wrong => hex(half(header, at)),
    };
    match proto {
        Proto::Udp => fields.extend([("length", half(header, 4).to_string()), ("checksum", checksum(6))]),
        Proto::Tcp => fields.extend([
            ("sequence", format!("{:#010x}", word(header, 4))),
            ("acknowledgement", format!("{:#010x}", word(header, 8))),
            ("data offset", (half(header, 12) >> 12).to_string()),
            ("flags", flags(header)),
            ("window", half(header, 14).to_string()),
            ("checksum", checksum(16)),
            ("urgent pointer", half(header, 18).to_string()),
        ]),
    }
    fields
}

fn data(payload: &[u8]) -> Fields {
    let first: Vec<String> = payload.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    vec![("first bytes", first.join(" "))]
}

/// `SYN ACK`, from a TCP header.
pub fn flags(header: &[u8]) -> String {
    const NAMES: [(u16, &str); 6] =
        [(2, "SYN"), (1, "FIN"), (4, "RST"), (8, "PSH"), (16, "ACK"), (32, "URG")];
    let set = half(header, 12);
    NAMES.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

pub fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' }
}

pub fn shout(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}

fn hex(value: u16) -> String {
    format!("{value:#06x}")
}
