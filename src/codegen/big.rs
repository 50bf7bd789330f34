//! TCP packets of more than 64 KiB (BIG TCP): the length field of their IP header holds 0.
//!
//! Sockets make them where `gso_max_size` or `gso_ipv4_max_size` of their interface is above 65,536, receivers where
//! `gro_max_size` or `gro_ipv4_max_size` is. Over IPv6, kernels before 6.19 put a hop-by-hop header in front of TCP as
//! well, with the jumbo payload option (RFC 2675) and nothing else (`ip6_xmit`, `ipv6_gro_complete`), and take it away
//! when the packet is cut (`ipv6_gso_segment`).
//!
//! They are parts of a flow like its smaller packets, so rules have to match them as well. What cuts packets cuts these,
//! too; the other routines find TCP where it is. Only what the kernel has made is meant: from a network, such lengths
//! and headers come with `gso_size` 0, and pass as they are.
//!
//! The other header that only some packets of a flow have is that of fragments. Rules that count see the first one, which
//! has the ports, and leave it alone.

use asm::{Cond, Insn, Label, Reg::*};

use super::emit::{Emit, L4_LEN, PORTS, UNSPEC, Window};
use super::frame::{Len, Offset, PEEK};
use super::validate::{IpHeader, Least};
use crate::ir::{Family, Proto};
use crate::packet::{ipv6, l4, skb};

/// The prologue's way past an IPv6 header of eight bytes to the diagrams.
pub(super) struct Behind {
    /// What is of no wanted protocol; `R2` holds the number of the next header.
    pub other: Label,
    /// Those that it leads to.
    diagrams: Vec<(Proto, Label)>,
}

impl Behind {
    /// `None`: there is no way.
    pub(super) fn labels(e: &mut Emit, wanted: &[Proto]) -> Option<Behind> {
        if !e.counts && !wanted.contains(&Proto::Tcp) {
            return None;
        }
        let led_to = wanted.iter().filter(|proto| e.counts || **proto == Proto::Tcp).copied();
        let led_to: Vec<Proto> = led_to.collect();
        let diagrams = led_to.into_iter().map(|proto| (proto, e.label(format!("ip6_{proto}")))).collect();
        Some(Behind { other: e.label("ip6_other"), diagrams })
    }

    pub(super) fn diagram(&self, wanted: Proto) -> Option<Label> {
        self.diagrams.iter().find(|(proto, _)| *proto == wanted).map(|(_, label)| *label)
    }

    /// Falls through from nowhere.
    pub(super) fn emit(&self, e: &mut Emit) {
        e.bind(self.other);
        self.find(e, e.pass);
    }

    /// The same in front of the diagrams, for kernels where nothing leads back over them.
    pub(super) fn emit_in_front(&self, e: &mut Emit) {
        let usual = e.label("ip6_usual");
        self.find(e, usual);
        e.bind(usual);
    }

    /// `usual`: where packets without such a header go. Falls through from nowhere.
    fn find(&self, e: &mut Emit, usual: Label) {
        let fragment = e.counts.then(|| e.label("ip6_fragment"));
        if let Some(tcp) = self.diagram(Proto::Tcp) {
            let other = fragment.unwrap_or(usual);
            e.jump_if_note(Cond::ne32(R2, ipv6::HOP_BY_HOP), other, "not hop-by-hop options");
            jumbo(e, tcp);
        }
        if let Some(fragment) = fragment {
            e.bind(fragment);
            self.fragment(e, usual);
        }
    }

    fn fragment(&self, e: &mut Emit, usual: Label) {
        let header = Window::of_ip_header(ipv6::SHORTEST).at(ipv6::LEN);
        e.jump_if_note(Cond::ne32(R2, ipv6::FRAGMENT), usual, "not a fragment");
        e.load(R2, &header, ipv6::FRAGMENT_OFFSET);
        e.op(Insn::rsh32(R2, 3_u32));
        e.jump_if_note(Cond::ne32(R2, 0_u32), e.pass, "not the first");
        load_ports(e);
        e.load(R2, &header, ipv6::FRAGMENT_NEXT);
        for (proto, diagram) in &self.diagrams {
            e.jump_if(Cond::eq32(R2, proto.number()), *diagram);
        }
        e.exit(UNSPEC);
    }
}

fn jumbo(e: &mut Emit, diagram: Label) {
    let ip = Window::of_ip_header(ipv6::SHORTEST);
    e.load(R2, &ip, ipv6::LENGTH);
    e.jump_if_note(Cond::ne32(R2, 0_u32), e.pass, "not a jumbogram");
    e.load(R2, &ip.at(ipv6::LEN), ipv6::JUMBO);
    e.jump_if_note(Cond::ne32(R2, ipv6::JUMBO_TCP), e.pass, "other options, or not TCP behind them");
    e.load_skb(R2, skb::GSO_SIZE);
    e.jump_if_note(Cond::eq32(R2, 0_u32), e.pass, "not made by a kernel");
    load_ports(e);
    e.goto(diagram);
}

/// Those behind the other header.
fn load_ports(e: &mut Emit) {
    let behind = Offset { bytes: e.ip_offset().bytes + ipv6::LEN + ipv6::JUMBO_LEN, plus: None };
    e.load_bytes(behind, PEEK, Len::Const(l4::LEN));
    e.load(PORTS, &PEEK.window(), l4::PORTS);
}

/// What [`validate`](super::validate::validate_big) has put off: packets too short for their headers, by what they say.
/// Must be emitted: [`emit_big`].
#[derive(Debug)]
pub(super) struct Big {
    pub at: Label,
    pub join: Label,
    pub least: Least,
    pub header: IpHeader,
}

/// Emits what has been put off, if anything has. `jumbo` is emitted where TCP stands behind another header: on entry,
/// `R1` holds the length of both headers.
pub(super) fn emit_big(big: Option<Big>, e: &mut Emit, jumbo: impl FnOnce(&mut Emit, Label)) {
    if let Some(big) = big {
        big.emit(e, jumbo);
    }
}

impl Big {
    /// Finds out the length and goes back. Uses R3, and R1 over IPv6.
    fn emit(self, e: &mut Emit, jumbo: impl FnOnce(&mut Emit, Label)) {
        let Big { at, join, least: Least(least, short), header } = self;
        let short = e.exit_for(short);
        e.bind(at);
        e.jump_if_note(Cond::ne32(L4_LEN, 0_u32), short, "too short for its headers");
        e.load_skb(R3, skb::GSO_SIZE);
        e.jump_if_note(Cond::eq32(R3, 0_u32), short, "not made by a kernel");
        e.load_skb(L4_LEN, skb::LEN);
        let link = e.link.header_len();
        let skipped = link + if let IpHeader::Plain(Family::V6) = header { ipv6::LEN } else { 0 };
        if skipped != 0 {
            e.op_note(Insn::sub32(L4_LEN, i32::from(skipped)), "its true length");
        }
        match header {
            IpHeader::Plain(Family::V4) => {
                let least = i32::from(Family::V4.header_len() + least);
                e.jump_if(Cond::lt32(L4_LEN, least), short);
                e.goto(join);
            }
            IpHeader::WithOptions(_) => {
                e.jump_if(Cond::lt32(L4_LEN, R2), short);
                e.goto(join);
            }
            IpHeader::Plain(Family::V6) => {
                let behind = e.label("ip6_behind_jumbo");
                let least = i32::from(least);
                e.load(R1, &Window::of_ip_header(ipv6::SHORTEST), ipv6::NEXT_HEADER);
                e.jump_if_note(Cond::eq32(R1, ipv6::HOP_BY_HOP), behind, "hop-by-hop options");
                e.jump_if(Cond::lt32(L4_LEN, least), short);
                e.goto(join);
                e.bind(behind);
                e.op(Insn::sub32(L4_LEN, i32::from(ipv6::JUMBO_LEN)));
                e.jump_if(Cond::lt32(L4_LEN, least), short);
                e.op_note(Insn::mov32(R1, i32::from(ipv6::LEN + ipv6::JUMBO_LEN)), "both headers");
                jumbo(e, join);
            }
        }
    }
}
