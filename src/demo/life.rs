//! One packet at three places, header by header, field by field.
//!
//! Input: three frames. Output: rows of text with what changed and why. Never prints.

use super::flow::FLOWS;
use super::packet::Packet;
use super::wire::Life;
use crate::dissect::ChecksumState;
use crate::dissect::fields::{self, Fields, upper};

/// A header, or what is after the last one.
#[derive(Debug)]
pub struct Block {
    pub title: String,
    /// It is there on the wire only.
    pub pushed: bool,
    pub rows: Vec<Row>,
}

/// A field: before funnel, on the wire, after unfunnel.
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

/// The table, top to bottom. `None`: not packets of the first flow (they have been read before).
pub fn blocks(life: &Life) -> Option<Vec<Block>> {
    let [flow, ..] = &FLOWS;
    let frames = [&life.plain, &life.funneled, &life.delivered];
    let [Some(plain), Some(funneled), Some(delivered)] = frames.map(|frame| Packet::read(frame, flow)) else {
        return None;
    };
    let outer = funneled.outer?;
    let packets = [plain, funneled, delivered];

    let ip = zip(packets.map(|packet| fields::ipv4(packet.ip)), |name| match name {
        "total length" => "20 bytes more",
        "protocol" => "what follows IP is TCP now",
        "header checksum" => "covers the two above",
        _ => "",
    });
    let pushed = fields::l4(&outer, ChecksumState::Right)
        .into_iter()
        .map(|(name, value)| Row {
            name,
            values: [String::new(), value, String::new()],
            why: pushed_why(name),
        })
        .collect();
    let inner = zip(packets.map(|p| fields::l4(&p.inner, p.inner_sum())), |name| match name {
        "checksum" => "over addresses 0.0.0.0: NAT-proof",
        _ => "",
    });
    let payload = zip(packets.map(|packet| fields::data(packet.inner.payload())), |_| "");
    let block = |title: String, pushed, rows| Block { title, pushed, rows };
    Some(vec![
        block(format!("IPv4, {} bytes", plain.ip.len()), false, ip),
        block(format!("{}, {} bytes", upper(outer.proto), outer.header().len()), true, pushed),
        block(format!("{}, {} bytes", upper(plain.inner.proto), plain.inner.header().len()), false, inner),
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
