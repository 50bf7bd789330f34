//! `dnat` and `snat`: new addresses and ports, each packet by itself.
//!
//! Nothing is remembered: what comes back has to be given the old ones by another rule. With `unfunnel` the inner
//! packet is changed, as part of what is done to it anyway; with `funnel`, the addresses of the whole.
//!
//! The addresses are part of what the L4 checksum is about, but not of the bytes that are summed once it is
//! finished: the kernel is told which of the two has changed (`BPF_F_PSEUDO_HDR`), and does nothing about
//! ports to a checksum that is still to be finished. An absent UDP checksum stays absent.

use std::net::IpAddr;

use asm::{Insn, Reg, Reg::*};

use super::big::emit_big;
use super::checksum::PSEUDO_HDR;
use super::emit::{Emit, IP, L4_LEN, PORTS, Window};
use super::frame::{Len, Offset, PEEK, part};
use super::validate::{IpHeader, validate_big, validate_plain_big};
use crate::ir::{Family, Nat, Proto};
use crate::packet::{Field, ipv4, ipv6, l4};

/// The routine of a rule that does nothing else.
pub(super) fn emit(e: &mut Emit, family: Family, proto: Proto) {
    let name = format!("{}nat_{proto}", family.prefix());
    let (with_options, big) = validate_plain_big(e, family, proto, &name);
    let (of_addresses, of_ports) = (PORTS, L4_LEN);
    let ip = Window::of_ip_header(family.shortest());
    e.change_ports(&ip.at(family.header_len()), of_ports);
    e.change_addresses(family, &ip);
    e.op(Insn::mov32(of_addresses, R1));
    let l4_at = e.offset(family, 0, None);
    e.replace_l4(l4_at, proto, of_addresses, PSEUDO_HDR);
    e.replace_l4_ports(l4_at, proto, of_ports);
    e.done(0);
    emit_big(big, e, |e, _| behind_more(e, family, proto));
    if let Some(with_options) = with_options {
        e.bind(with_options);
        e.ip_header_len(R1);
        let big = validate_big(e, proto, IpHeader::WithOptions(R1));
        behind_more(e, family, proto);
        emit_big(big, e, |_, _| ());
    }
}

/// The same after IP options or another header; `R1` holds the length of all that is before L4.
fn behind_more(e: &mut Emit, family: Family, proto: Proto) {
    let (ip_len, of_addresses, of_ports) = (L4_LEN, IP, PORTS);
    e.op(Insn::mov32(ip_len, R1));
    let l4_at = Offset { plus: Some(ip_len), ..e.ip_offset() };
    let ports = part(PEEK, 0, l4::LEN);
    if e.variant.nat.has_ports() {
        e.load_bytes(l4_at, ports, Len::Const(l4::LEN));
        e.change_ports(&ports.window(), of_ports);
    }
    e.change_addresses(family, &Window::of_ip_header(family.shortest()));
    e.op(Insn::mov32(of_addresses, R1));
    if e.variant.nat.has_ports() {
        e.store_bytes(l4_at, ports, Len::Const(l4::LEN));
    }
    e.replace_l4(l4_at, proto, of_addresses, PSEUDO_HDR);
    e.replace_l4_ports(l4_at, proto, of_ports);
    e.done(0);
}

/// The fields that change, each with what it becomes, as it is in the packet.
fn changed(family: Family, nat: &Nat) -> Vec<(Field, u32)> {
    let fields: [&[Field]; 2] = match family {
        Family::V4 => [&[ipv4::SADDR], &[ipv4::DADDR]],
        Family::V6 => [&ipv6::SADDR, &ipv6::DADDR],
    };
    let mut changed = Vec::new();
    for (fields, address) in fields.into_iter().zip([nat.saddr, nat.daddr]) {
        let bytes = match address {
            Some(IpAddr::V4(address)) => address.octets().to_vec(),
            Some(IpAddr::V6(address)) => address.octets().to_vec(),
            None => continue,
        };
        let words = bytes.chunks_exact(4).map(|word| match *word {
            [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
            _ => 0,
        });
        changed.extend(fields.iter().copied().zip(words));
    }
    changed
}

/// What a field of an address becomes, if it does not stay.
pub(super) fn new_word(family: Family, nat: &Nat, field: Field) -> Option<u32> {
    let mut all = changed(family, nat).into_iter();
    all.find(|(changed, _)| changed.offset == field.offset).map(|(_, word)| word)
}

/// What a word of an address becomes, in the packet's byte order.
#[derive(Debug, Clone, Copy)]
pub(super) enum New {
    Is(u32),
    In(Reg),
}

impl Emit {
    /// Writes the new addresses, if there are any, and brings IPv4's checksum up to date. Leaves in R1 what the sum
    /// of the addresses has changed by, in the packet's byte order. Uses R2 to R4.
    pub(super) fn change_addresses(&mut self, family: Family, ip: &Window) {
        let nat = self.variant.nat;
        if nat.is_none() {
            return;
        }
        let words: Vec<_> =
            changed(family, &nat).into_iter().map(|(field, word)| (field, New::Is(word))).collect();
        self.change_words(family, ip, &words);
    }

    /// The same for words of the addresses, each with what it becomes.
    pub(super) fn change_words(&mut self, family: Family, ip: &Window, words: &[(Field, New)]) {
        self.op(Insn::mov32(R1, 0_u32));
        for (field, new) in words.iter().copied() {
            self.load_raw(R2, ip, field);
            self.op(Insn::xor32(R2, u32::MAX));
            self.op_note(Insn::add64(R1, R2), "less the old one");
            self.op(match new {
                New::Is(word) => Insn::mov32(R2, word),
                New::In(reg) => Insn::mov32(R2, reg),
            });
            self.op_note(Insn::add64(R1, R2), "and the new one");
            self.store_raw(ip, field, R2);
        }
        for _ in 0..2 {
            self.op(Insn::mov64(R2, R1));
            self.op(Insn::rsh64(R2, 32));
            self.op(Insn::mov32(R1, R1));
            self.op(Insn::add64(R1, R2));
        }
        if family == Family::V4 {
            self.op(Insn::mov32(R2, R1));
            self.fold(R2, R3);
            self.load_raw(R4, ip, ipv4::CHECKSUM);
            self.op(Insn::xor32(R4, 0xffff_u32));
            self.op_note(Insn::add32(R2, R4), "change of the addresses");
            self.fold(R2, R3);
            self.fold(R2, R3);
            self.op(Insn::xor32(R2, 0xffff_u32));
            self.store_raw(ip, ipv4::CHECKSUM, R2);
        }
    }

    /// Writes the new ports, if there are any, and leaves in `change` what the sum of the header has changed by.
    /// Uses R2.
    pub(super) fn change_ports(&mut self, l4: &Window, change: Reg) {
        let Nat { sport, dport, .. } = self.variant.nat;
        if !self.variant.nat.has_ports() {
            return;
        }
        self.op(Insn::mov32(change, 0_u32));
        // From the end to the start: see `funnel::build`.
        for (field, port) in [(l4::DPORT, dport), (l4::SPORT, sport)] {
            let Some(port) = port else { continue };
            self.load_raw(R2, l4, field);
            self.op(Insn::xor32(R2, 0xffff_u32));
            self.op_note(Insn::add32(change, R2), "less the old one");
            self.op_note(Insn::mov32(R2, u16::from_ne_bytes(port.to_be_bytes())), &format!("port {port}"));
            self.op(Insn::add32(change, R2));
            self.store_raw(l4, field, R2);
        }
    }

    /// What [`change_ports`](Self::change_ports) has left, for the checksum.
    pub(super) fn replace_l4_ports(&mut self, l4: Offset, proto: Proto, change: Reg) {
        if self.variant.nat.has_ports() {
            self.replace_l4(l4, proto, change, 0);
        }
    }
}
