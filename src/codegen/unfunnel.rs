//! `unfunnel`: pops a funneling header, if the packet has one.
//!
//! Real traffic shares the port, so a packet must prove to be funneled: lengths that agree, and over
//! TCP the original program's sequence and acknowledgement numbers. The outer checksum proves nothing:
//! NAT on a host that leaves checksums to be finished later updates it the wrong way.
//!
//! The flow's hash is kept: receive flow steering compares it with what it saw before this program ran. Only what
//! goes through the merging pair gets one of its own.
//!
//! ```text
//! before   [link][IP, options         ][pushed header][L4, payload          ]
//! after    [link][IP changed, options ][L4 re-based, payload                ]
//! ```

use asm::{Cond, Insn, Label, Reg, Reg::*};
use range_set_blaze::RangeSetBlaze;

use super::checksum::{Rebase, checksum_of, in_packet_order};
use super::counters::Reason;
use super::emit::{Emit, IP, L4_LEN, PORTS, SHOT, Window};
use super::frame::{Len, OPTIONS, Offset, PEEK, part};
use super::merge;
use super::port_set::{Miss, one_of};
use super::segment::{self, GsoPackets};
use super::validate::{IpHeader, Least, validate, validate_plain};
use crate::ir::{Family, Proto};
use crate::packet::{Field, ipv4, l4, marker, skb, tcp, udp};

/// The sum of the addresses.
const SUM: Reg = R3;

pub(super) fn emit(e: &mut Emit, family: Family, inner: Proto, outer: Proto, lists: &[RangeSetBlaze<u16>]) {
    let popped = i16::from(outer.header_len());
    let headers = popped + i16::from(inner.header_len());
    let name = format!("{}unfunnel_{inner}_from_{outer}", family.prefix());
    let guard = Guard::of(e, &name, lists);
    let len = family.header_len();

    match outer {
        // The receiver merges no funneled TCP: its sequence number is constant.
        Proto::Tcp => {
            e.load_skb(R2, skb::GSO_SIZE);
            e.pass_if(Cond::ne32(R2, 0_u32), Reason::Gso, "several packets in one");
        }
        Proto::Udp => e.if_gso("several packets in one"),
    }
    let with_options = validate_plain(e, family, Least(headers, Reason::NotFunneled), &name);
    let (packet, cold) = e.pull_window(&name, len + headers);
    pass_unless_funneled(e, family, &packet.at(len), inner, outer);
    guard.check(e, &packet.at(len + popped), "");
    let merges = e.merges && inner == Proto::Tcp;
    let early =
        e.variant.nat.is_none().then(|| RebaseBeforePop::rebase(e, family, &packet, (inner, outer), &name));
    if merges {
        merge::look(e, family, &packet, outer, &name);
    }
    let fail = e.fail();
    if early.is_some() {
        e.adjust_room_or(packet, -popped, fail);
    } else {
        e.adjust_room(packet, -popped);
    }
    let ports = if e.variant.nat.has_ports() { l4::LEN } else { 0 };
    let ip = e.window_again(IP, len + ports, fail);
    e.update_ip(family, &ip, -popped, outer, inner);
    if early.is_none() {
        e.change_addresses(family, &ip);
        e.change_ports(&ip.at(len), PORTS);
        e.sum_addresses(family, SUM, &ip);
        let inner_at = e.offset(family, 0, None);
        e.rebase(inner_at, inner, SUM, Rebase::FromZero);
        e.replace_l4_ports(inner_at, inner, PORTS);
    }
    if merges {
        e.done_by_way_of_merging(-popped);
    } else {
        e.done(-popped);
    }
    if let Some(early) = early {
        early.finish(e, family, (inner, outer));
    }
    if let Some(with_options) = with_options {
        e.bind(with_options);
        emit_options(e, inner, outer, headers, &guard);
    }
    e.pull(cold);
    guard.finish(e);
}

/// The same for a packet with IP options; `R1` holds `ip.ihl`. The kernel closes the room before
/// the options: they are put back where they were.
fn emit_options(e: &mut Emit, inner: Proto, outer: Proto, headers: i16, guard: &Guard<'_>) {
    let popped = i16::from(outer.header_len());
    let (sum, len) = (IP, PORTS);
    let ip = Window::of_ip_header(ipv4::SHORTEST);
    e.ip_header_len(R1);
    validate(e, Least(headers, Reason::NotFunneled), IpHeader::WithOptions(R1));
    let outer_at = Offset { plus: Some(R1), ..e.ip_offset() };
    e.load_bytes(outer_at, PEEK, Len::Const(headers));
    pass_unless_funneled(e, Family::V4, &PEEK.window(), inner, outer);
    guard.check(e, &PEEK.window().at(popped), "_options");
    e.change_ports(&PEEK.window().at(popped), L4_LEN);
    e.load(len, &ip, ipv4::VERSION_IHL);
    e.options_len(len);
    e.save_options(len);
    e.adjust_room(ip, -popped);
    let fail = e.fail();
    let ip = e.window_again(IP, ipv4::LEN, fail);
    e.update_ip(Family::V4, &ip, -popped, outer, inner);
    e.change_addresses(Family::V4, &ip);
    e.sum_addresses(Family::V4, SUM, &ip);
    e.op(Insn::mov64(sum, SUM));
    let (options_at, inner_at) = (e.offset(Family::V4, 0, None), e.offset(Family::V4, 0, Some(len)));
    e.store_bytes(options_at, OPTIONS, Len::Reg(len));
    if e.variant.nat.has_ports() {
        e.store_bytes(inner_at, part(PEEK, popped, l4::LEN), Len::Const(l4::LEN));
    }
    e.rebase(inner_at, inner, sum, Rebase::FromZero);
    e.replace_l4_ports(inner_at, inner, L4_LEN);
    e.done(-popped);
}

/// The inner checksum is re-based before the outer header is popped. So the sum that a device has made of the whole
/// packet (`CHECKSUM_COMPLETE`) can be kept right without a helper: the kernel subtracts the popped header from it
/// (`bpf_skb_generic_pop`), so what the checksum gains is first taken from that header.
struct RebaseBeforePop {
    unfinished: Label,
    /// Only where GRO may have merged.
    restored: Option<Label>,
    rebased: Label,
}

impl RebaseBeforePop {
    /// Uses R1 to R4.
    fn rebase(
        e: &mut Emit,
        family: Family,
        packet: &Window,
        (inner, outer): Protocols,
        name: &str,
    ) -> RebaseBeforePop {
        let merged = outer == Proto::Udp && e.gso != GsoPackets::Pass;
        let early = RebaseBeforePop {
            unfinished: e.label(format!("{name}_unfinished")),
            restored: merged.then(|| e.label(format!("{name}_restored"))),
            rebased: e.label(format!("{name}_rebased")),
        };
        let popped = packet.at(family.header_len());
        e.sum_addresses(family, SUM, packet);
        e.op(Insn::mov32(R4, L4_LEN));
        e.op_note(Insn::sub32(R4, outer.header_len()), "inner length");
        let below = popped.at(i16::from(outer.header_len()));
        e.rebase_finished(name, &below, (family, inner), (SUM, R4), Rebase::FromZero, early.unfinished);
        if let Some(restored) = early.restored {
            e.bind(restored);
        }
        // What 32 bits hold sums to what their halves do, and a multiple of 0xffff is nothing.
        e.op(Insn::sub32(R4, R1));
        e.op_note(Insn::add32(R4, 0xffff_u32), "what the checksum has lost");
        e.load_raw(R1, &popped, l4::PORTS);
        e.fold(R1, R2);
        e.op(Insn::add32(R4, R1));
        e.store_raw(&popped, l4::PORTS, R4);
        e.bind(early.rebased);
        early
    }

    fn finish(self, e: &mut Emit, family: Family, (inner, outer): Protocols) {
        let popped = i16::from(outer.header_len());
        e.bind(self.unfinished);
        let inner_at = e.offset(family, popped, None);
        e.rebase(inner_at, inner, SUM, Rebase::FromZero);
        let fail = e.fail();
        let packet = e.window_again(IP, family.header_len() + popped + i16::from(inner.header_len()), fail);
        match self.restored {
            Some(restored) => self.restore(e, family, &packet, inner, restored),
            None => e.goto(self.rebased),
        }
    }

    /// GRO forgets that a checksum inside was still to be finished: the field keeps the pseudo-header's sum. The
    /// segmentation pair has given each segment an outer checksum, which covers every byte. Two sums over the same
    /// bytes follow from each other, so the inner checksum is
    ///
    /// ```text
    ///   outer checksum + outer ports + outer length      the outer header
    /// +                outer protocol + outer length     its pseudo-header; the addresses are in both, and cancel
    /// ```
    ///
    /// No payload is read: bytes that were damaged on the way make it as wrong as the outer one.
    fn restore(&self, e: &mut Emit, family: Family, packet: &Window, inner: Proto, restored: Label) {
        let outer = Proto::Udp;
        let popped = packet.at(family.header_len());
        let below = popped.at(i16::from(outer.header_len()));
        e.load_skb(R1, skb::TC_INDEX);
        e.jump_if_note(Cond::ne32(R1, segment::CROSSED), self.rebased, "not taken apart here");
        e.sum_addresses(family, SUM, packet);
        e.fold(SUM, R2);
        e.op(Insn::mov32(R4, L4_LEN));
        e.op_note(Insn::sub32(R4, outer.header_len()), "inner length");
        e.pseudo_sum(R4, inner, Some(SUM));
        e.load_raw(R1, &below, checksum_of(inner));
        e.jump_if_note(Cond::eq32(R1, R4), self.rebased, "still to be finished, and re-based as such");
        e.load_raw(R3, &popped, udp::CHECKSUM);
        e.jump_if_note(Cond::eq32(R3, 0_u32), self.rebased, "no outer checksum");
        e.op(Insn::mov32(R4, R1));
        e.op(Insn::mov32(R1, L4_LEN));
        e.op(Insn::be16(R1));
        e.op_note(Insn::lsh32(R1, 1_u32), "the length, twice");
        e.op(Insn::add32(R3, R1));
        e.op_note(Insn::add32(R3, in_packet_order(u32::from(outer.number()))), "outer protocol");
        e.load_raw(R1, &popped, l4::PORTS);
        e.fold(R1, R2);
        e.op(Insn::add32(R1, R3));
        e.fold(R1, R2);
        e.fold(R1, R2);
        e.store_raw(&below, checksum_of(inner), R1);
        e.goto(restored);
    }
}

/// The inner protocol and the outer one.
type Protocols = (Proto, Proto);

/// Which ports below the funneling header may be reached.
struct Guard<'a> {
    ports: Vec<(Field, &'a RangeSetBlaze<u16>, String)>,
    /// Drops a funneled packet with other ports.
    refuse: Option<Miss>,
}

impl<'a> Guard<'a> {
    fn of(e: &mut Emit, name: &str, lists: &'a [RangeSetBlaze<u16>]) -> Self {
        let fields = [l4::SPORT, l4::DPORT].into_iter().zip(e.variant.guard);
        let ports: Vec<_> = fields
            .filter_map(|(field, list)| Some((field, lists.get(list?)?, format!("{name}_{}", field.name))))
            .collect();
        let refuse = (!ports.is_empty()).then(|| match e.unless_counted(SHOT) {
            None => Miss { label: e.exit_for(Reason::Guarded), verdict: None },
            verdict => Miss { label: e.label(format!("{name}_refuse")), verdict },
        });
        Guard { ports, refuse }
    }

    /// Uses R2. `inner` begins with the inner header.
    fn check(&self, e: &mut Emit, inner: &Window, kind: &str) {
        let Some(refuse) = self.refuse else { return };
        for (field, ports, name) in &self.ports {
            e.load(R2, inner, *field);
            let listed = e.label(format!("{name}_listed{kind}"));
            one_of(e, R2, ports, listed, refuse);
            e.bind(listed);
        }
    }

    fn finish(&self, e: &mut Emit) {
        if let Some(Miss { label, verdict: Some(verdict) }) = self.refuse {
            e.bind(label);
            e.exit(verdict);
        }
    }
}

/// `l4` begins with the outer header; both headers lie inside.
fn pass_unless_funneled(e: &mut Emit, family: Family, l4: &Window, inner: Proto, outer: Proto) {
    let below = l4.at(i16::from(outer.header_len()));
    match outer {
        Proto::Tcp => {
            e.load(R1, l4, tcp::SEQUENCE);
            e.pass_if(Cond::ne32(R1, marker::SEQUENCE), Reason::NotFunneled, "not a funneling header");
            e.load(R1, l4, tcp::ACKNOWLEDGEMENT);
            e.pass_if(Cond::ne32(R1, marker::ACKNOWLEDGEMENT), Reason::NotFunneled, "not a funneling header");
            e.load(R1, l4, tcp::DATA_OFFSET);
            e.op(Insn::rsh32(R1, 4_u32));
            e.pass_if(Cond::ne32(R1, 5_u32), Reason::NotFunneled, "TCP options");
        }
        Proto::Udp => {
            e.load(R1, l4, udp::LENGTH);
            e.pass_if(Cond::ne32(R1, L4_LEN), Reason::NotFunneled, "not the packet's length");
        }
    }
    e.op(Insn::mov32(R2, L4_LEN));
    e.op_note(Insn::sub32(R2, outer.header_len()), "inner length");
    match inner {
        Proto::Tcp => {
            e.load(R1, &below, tcp::DATA_OFFSET);
            e.op(Insn::rsh32(R1, 4_u32));
            e.op_note(Insn::lsh32(R1, 2_u32), "length of the inner TCP header");
            let pass = e.exit_for(Reason::NotFunneled);
            e.jump_if(Cond::lt32(R1, Proto::Tcp.header_len()), pass);
            e.jump_if(Cond::gt32(R1, R2), pass);
            if outer == Proto::Udp {
                pass_unless_plausible(e, &below);
            }
        }
        Proto::Udp => {
            e.load(R1, &below, udp::LENGTH);
            e.pass_if(Cond::ne32(R1, R2), Reason::NotFunneled, "not the inner length");
            if !family.may_lack_checksum(inner) {
                e.load_raw(R1, &below, udp::CHECKSUM);
                e.pass_if(Cond::eq32(R1, 0_u32), Reason::NotFunneled, "no checksum: never funneled");
            }
        }
    }
}

/// A UDP header has nothing to know a funneling one by, and the offset alone is that of every other text:
/// so the inner segment has to be one that TCP may send (RFC 9293 section 3.1). Of random bytes one in
/// sixty is.
fn pass_unless_plausible(e: &mut Emit, tcp: &Window) {
    // The legal sets of ACK, RST, SYN and FIN: one bit for each set.
    let legal = [tcp::SYN, tcp::RST, tcp::ACK, tcp::ACK | tcp::FIN, tcp::ACK | tcp::SYN, tcp::ACK | tcp::RST];
    let legal = legal.iter().fold(0, |set, flags| set | 1_u32 << flags);
    let urgent = e.label("urgent");

    e.load(R1, tcp, tcp::OFFSET_FLAGS);
    e.pass_if(Cond::set32(R1, tcp::RESERVED), Reason::NotFunneled, "reserved bits");
    e.op(Insn::mov32(R2, R1));
    e.op(Insn::and32(R2, tcp::ACK | tcp::RST | tcp::SYN | tcp::FIN));
    e.op(Insn::mov32(R3, legal));
    e.op(Insn::rsh32(R3, R2));
    e.op(Insn::and32(R3, 1_u32));
    e.pass_if(Cond::eq32(R3, 0_u32), Reason::NotFunneled, "no segment has these flags");
    e.jump_if_note(Cond::set32(R1, tcp::URG), urgent, "tcp.urg");
    e.load_raw(R1, tcp, tcp::URGENT);
    e.pass_if(Cond::ne32(R1, 0_u32), Reason::NotFunneled, "urgent pointer without URG");
    e.bind(urgent);
}
