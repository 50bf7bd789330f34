//! The report: rules, the life of a packet, connections on the wire, a summary. 100 columns, no boxes.
//!
//! Input: what a run has found. Output: text on any writer. Never decides whether the run was good.

use std::io::{self, Write};
use std::time::Duration;

use super::flow::{self, FLOWS, Flow};
use super::lab::{Installation, Installed};
use super::life::{self, Block, Row};
use super::packet::Packet;
use super::wire::{Life, Sighting};
use super::{Run, lab};
use crate::dissect::Segment;
use crate::dissect::fields::{self, UNFINISHED};
use crate::ir::Proto;
use crate::paint::Paint;

/// A run that went well.
#[derive(Debug)]
pub struct Report {
    pub(super) life: Life,
    pub(super) runs: Vec<Run>,
    pub(super) installation: Installation,
    /// Namespace, TCP, UDP.
    pub(super) checksum_errors: Vec<(&'static str, u64, u64)>,
    pub(super) took: Duration,
}

impl Report {
    /// Writes it all.
    pub fn write(&self, out: &mut dyn Write, color: bool) -> io::Result<()> {
        let paint = Paint(color);
        self.setting(out, paint)?;
        self.life(out, paint)?;
        self.wire(out, paint)?;
        self.summary(out, paint)
    }

    fn setting(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        writeln!(out, "{}", paint.title("sfunnel demo: one port carries another's packets"))?;
        writeln!(out)?;
        let [client, server] = lab::ADDRESSES;
        writeln!(out, "  {:<70}{:>25}", format!("client {client}"), format!("server {server}"))?;
        for (way, near, far) in [
            ("->", "egress:  funnel  ", "ingress: unfunnel"),
            ("<-", "ingress: unfunnel", "egress:  funnel  "),
        ] {
            let wire = lab::WIRE;
            writeln!(
                out,
                "  socket {way} {near} {way} {wire}  - - - the wire - - -  {wire} {way} {far} {way} socket"
            )?;
        }
        writeln!(out)?;
        writeln!(out, "{}", paint.title("Rules"))?;
        for Installed { role, rules, .. } in &self.installation.programs {
            for (number, rule) in rules.iter().enumerate() {
                let title = if number == 0 { flow::title(*role) } else { "" };
                writeln!(out, "  {title:<16}{rule}")?;
            }
        }
        Ok(())
    }

    fn life(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let [flow, ..] = &FLOWS;
        writeln!(out)?;
        writeln!(out, "{}", paint.title(&format!("The life of a packet: {}", flow.name())))?;
        writeln!(
            out,
            "  One datagram, copied at three places: as the client's socket sends it, right before funnel; on"
        )?;
        writeln!(out, "  the wire; and right after unfunnel, as the server's socket gets it.")?;
        writeln!(out)?;
        let head = format!("{:<22}  {:<14}{:<14}{:<14}", "", "sent", "on the wire", "delivered");
        writeln!(out, "{}", paint.title(head.trim_end()))?;
        let mut unfinished = false;
        for Block { title, pushed, rows } in life::blocks(&self.life).unwrap_or_default() {
            let note = if pushed { "   pushed by funnel, popped by unfunnel" } else { "" };
            let title = format!("  {title}{note}");
            writeln!(out, "{}", if pushed { paint.pushed(&title) } else { title })?;
            for row in rows {
                unfinished |= row.values.iter().any(|value| value.ends_with(UNFINISHED));
                field(out, paint, pushed, &row)?;
            }
        }
        writeln!(out)?;
        let legend = format!("{} changed   {} pushed", paint.changed("*"), paint.pushed("+"));
        writeln!(out, "  {legend}   nothing: as it was sent")?;
        if unfinished {
            writeln!(
                out,
                "  {UNFINISHED} a checksum that the device is to finish (checksum offload): so far it covers addresses, protocol"
            )?;
            writeln!(
                out,
                "    and length. A veth pair leaves it at that. Checksums around it are right once it is finished."
            )?;
        }
        if let Some((offset, header)) = life::pushed(&self.life) {
            writeln!(out)?;
            writeln!(out, "  The {} bytes pushed, from byte {offset} of the frame:", header.len())?;
            for (number, line) in header.chunks(16).enumerate() {
                let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let text: String = line.iter().map(|&byte| fields::printable(byte)).collect();
                let hex = paint.pushed(&format!("{:<48}", hex.join(" ")));
                writeln!(out, "    {:04x}  {hex}  {text}", number * 16)?;
            }
        }
        Ok(())
    }

    fn wire(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        for (flow, run) in FLOWS.iter().zip(&self.runs).filter(|(flow, _)| flow.inner == Proto::Tcp) {
            writeln!(out)?;
            writeln!(out, "{}", paint.title(&format!("A connection on the wire: {}", flow.name())))?;
            let head = format!("  {:<20}{:<16}  {:<29}", "", "pushed", "as the socket sent it");
            writeln!(out, "{}", paint.title(head.trim_end()))?;
            for sighting in &run.wire.first {
                line(out, paint, flow, sighting)?;
            }
        }
        Ok(())
    }

    fn summary(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        writeln!(out)?;
        writeln!(out, "{}", paint.title("Summary"))?;
        let head = format!(
            "  {:<21}{:<21}{:>6}{:>10}{:>14}{:>8}{:>18}",
            "flow", "carries", "sent", "received", "bytes, each", "frames", "checksum errors"
        );
        writeln!(out, "{}", paint.title(&head))?;
        for (flow, Run { sent, received, wire }) in FLOWS.iter().zip(&self.runs) {
            let (name, bytes) = (flow.name(), thousands(received.bytes));
            let (sent, received) = (sent.messages, received.messages);
            write!(out, "  {name:<21}{:<21}{sent:>6}{received:>10}{bytes:>14}", flow.title)?;
            writeln!(out, "{:>8}{:>18}", wire.frames, wire.wrong)?;
        }
        let frames: usize = self.runs.iter().map(|run| run.wire.frames).sum();
        let identical: usize = self.runs.iter().map(|run| run.wire.identical).sum();
        writeln!(out)?;
        writeln!(
            out,
            "  on the wire         {frames} frames, all in their funnels, each checksum added up again: right"
        )?;
        writeln!(
            out,
            "  client to server    {identical} packets with data, each the same before funnel and after unfunnel"
        )?;
        let errors: Vec<String> = self
            .checksum_errors
            .iter()
            .map(|(name, tcp, udp)| format!("{name}: tcp {tcp}, udp {udp}"))
            .collect();
        writeln!(out, "  kernel's counters   InCsumErrors {}", errors.join("; "))?;
        let Installation { programs, compiling, loading, attaching } = &self.installation;
        for (number, Installed { role, slots, translated, .. }) in programs.iter().enumerate() {
            let title = if number == 0 { "programs" } else { "" };
            let translated =
                translated.map_or(String::new(), |slots| format!(", {slots} after the verifier's rewriting"));
            writeln!(out, "  {title:<20}{:<16}{slots} instructions{translated}", flow::title(*role))?;
        }
        let (compiling, loading, attaching) = (ms(*compiling), ms(*loading), ms(*attaching));
        writeln!(
            out,
            "  time                {compiling} to compile, {loading} to load, {attaching} to attach; {} in all",
            ms(self.took)
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "{}",
            paint.pushed("Everything arrived as it was sent. The two namespaces are gone with this process.")
        )
    }
}

/// A field of the table.
fn field(out: &mut dyn Write, paint: Paint, pushed: bool, row: &Row) -> io::Result<()> {
    let Row { name, values: [plain, funneled, delivered], why } = row;
    let changed = row.changed();
    let mark = match (pushed, changed) {
        (true, _) => '+',
        (false, true) => '*',
        (false, false) => ' ',
    };
    let middle = format!("{mark} {funneled:<12}");
    let middle = match mark {
        '+' => paint.pushed(&middle),
        '*' => paint.changed(&middle),
        _ => middle,
    };
    let text = format!("    {name:<18}  {plain:<12}{middle}  {delivered:<12}  {}", paint.faint(why));
    writeln!(out, "{}", text.trim_end())
}

/// `client > server   tcp 540 > 80    +  tcp 35846 > 8080   SYN   0 bytes`
fn line(out: &mut dyn Write, paint: Paint, flow: &Flow, sighting: &Sighting) -> io::Result<()> {
    let Some(packet) = Packet::read(&sighting.frame, flow) else { return Ok(()) };
    let Some(outer) = packet.outer else { return Ok(()) };
    let way = if sighting.from_client { "client -> server" } else { "client <- server" };
    let ports =
        |segment: &Segment<'_>| format!("{} {} > {}", segment.proto, segment.sport(), segment.dport());
    let outer = paint.pushed(&format!("{:<16}", ports(&outer)));
    let inner = ports(&packet.inner);
    let flags = fields::flags(packet.inner.header());
    let bytes = packet.inner.payload().len();
    let data = if bytes == 0 { String::new() } else { format!("{bytes} bytes of data") };
    let text = format!("  {way}    {outer}  {inner:<20}{flags:<9}{data}");
    writeln!(out, "{}", text.trim_end())
}

/// `71,250`
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn digits_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
