//! Checksum arithmetic (RFC 1071, RFC 1624) in registers, and the kernel's helper for L4.
//!
//! # Why no payload is read
//!
//! The inner checksum is re-based as if both addresses were 0.0.0.0, or `::`. From then on the inner segment,
//! checksum included, sums to the complement of its pseudo-header, `~(protocol + length)`, whatever
//! it carries. So the outer checksum is made of constants, addresses, ports and length alone. The
//! kernel calls this local checksum offload (Documentation/networking/checksum-offloads.rst). It is
//! right as well for a packet whose inner checksum is still to be finished (`CHECKSUM_PARTIAL`).

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*};

use super::emit::{Emit, PORTS, Window};
use super::frame::Offset;
use crate::ir::{Family, Proto};
use crate::packet::{Field, marker, tcp, udp};

/// `BPF_F_PSEUDO_HDR`: the pseudo-header changed, so the field of a `CHECKSUM_PARTIAL` packet, which
/// holds the pseudo-header's sum, changes too.
pub(super) const PSEUDO_HDR: i32 = 0x10;
/// `BPF_F_MARK_MANGLED_0`: an absent UDP checksum stays absent, a present one never becomes zero.
const MARK_MANGLED_0: i32 = 0x20;

/// Which way the inner checksum goes: from the packet's addresses to 0.0.0.0 or `::`, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebase {
    ToZero,
    FromZero,
}

/// Sum of 16-bit words, carries folded in: a value below 0x10000.
pub(super) fn ones_complement_sum(words: &[u16]) -> u32 {
    let sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    (folded >> 16) + (folded & 0xffff)
}

/// A 16-bit sum as it is added to words that are in the packet's byte order: sums do not care which one that is, as
/// long as it is the same (RFC 1071, section 2 (B)).
pub(super) fn in_packet_order(sum: u32) -> u16 {
    let [.., a, b] = sum.to_be_bytes();
    u16::from_ne_bytes([a, b])
}

/// The constant part of a pushed header's checksum: the fields of pseudo-header and header that are the same for
/// all packets, less the inner protocol.
///
/// Of the lengths, `inner length + pushed` in the pseudo-header and `inner length` in the inner
/// segment's sum cancel but for `pushed`. UDP carries its length once more, which is not constant.
fn pushed_constants(inner: Proto, outer: Proto, flags: u8) -> u32 {
    let common = [u16::from(outer.number()), u16::from(outer.header_len()), !u16::from(inner.number())];
    let header: &[u32] = match outer {
        Proto::Tcp => &[marker::SEQUENCE, marker::ACKNOWLEDGEMENT, marker::with_flags(flags)],
        Proto::Udp => &[],
    };
    let mut words = common.to_vec();
    for word in header {
        let [a, b, c, d] = word.to_be_bytes();
        words.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
    }
    ones_complement_sum(&words)
}

/// Where an L4 header has its checksum.
pub(super) const fn checksum_of(proto: Proto) -> Field {
    match proto {
        Proto::Tcp => tcp::CHECKSUM,
        Proto::Udp => udp::CHECKSUM,
    }
}

/// The helper's flag for a protocol whose checksum may be absent.
const fn absent_stays(proto: Proto) -> i32 {
    match proto {
        Proto::Tcp => 0,
        Proto::Udp => MARK_MANGLED_0,
    }
}

impl Emit {
    /// `reg = (reg >> 16) + (reg & 0xffff)`: one round of carries.
    pub(super) fn fold(&mut self, reg: Reg, scratch: Reg) {
        self.op(Insn::mov32(scratch, reg));
        self.op(Insn::rsh32(scratch, 16_u32));
        self.op(Insn::and32(reg, 0xffff_u32));
        self.op(Insn::add32(reg, scratch));
    }

    /// `R1 = checksum of the pushed header`, from the sum of the `addresses`, the ports to push and, over UDP, its
    /// length. `more` is added: that length, and what the inner segment sums to beyond what its checksum would
    /// have made of it. All in the packet's byte order, so that nothing is swapped; in 64 bits, so that carries
    /// pile up until they are folded in. Uses R2.
    pub(super) fn pushed_checksum(&mut self, inner: Proto, outer: Proto, addresses: Reg, more: &[Reg]) {
        self.op(Insn::mov64(R1, PORTS));
        self.op(Insn::add64(R1, addresses));
        let constants = in_packet_order(pushed_constants(inner, outer, self.variant.flags));
        self.op_note(Insn::add64(R1, i32::from(constants)), "all that is constant");
        for part in more {
            self.op(Insn::add64(R1, *part));
        }
        // 35 bits at most, then 19, then 17, then 16.
        self.op(Insn::mov32(R2, R1));
        self.op(Insn::and32(R2, 0xffff_u32));
        self.op(Insn::rsh64(R1, 16));
        self.op(Insn::add32(R1, R2));
        self.fold(R1, R2);
        self.fold(R1, R2);
        self.op(Insn::xor32(R1, 0xffff_u32));
    }

    /// Re-bases the inner checksum in its `l4` header, with the sum of the `addresses`: what [`Emit::rebase`] does, for
    /// a third of the time. A checksum that is still to be finished holds the pseudo-header's sum and nothing else
    /// (`tcp_v4_send_check`, `udp4_hwcsum`; of finished ones, one in 65,536 does). That one is the helper's: goes to
    /// `unfinished`, with nothing changed.
    ///
    /// `len` is the segment's length, in host byte order, and is lost; `addresses` are folded. Leaves the checksum as it
    /// was in `len`, and as it is in R1. Uses R2.
    pub(super) fn rebase_finished(
        &mut self,
        name: &str,
        l4: &Window,
        (family, inner): (Family, Proto),
        (addresses, len): (Reg, Reg),
        rebase: Rebase,
        unfinished: Label,
    ) {
        let field = checksum_of(inner);
        self.fold(addresses, R2);
        match rebase {
            Rebase::ToZero => self.pseudo_sum(len, inner, Some(addresses)),
            Rebase::FromZero => self.pseudo_sum(len, inner, None),
        }
        self.load_raw(R1, l4, field);
        self.jump_if_note(Cond::eq32(R1, len), unfinished, "the pseudo-header's sum: not finished?");
        self.op(Insn::mov32(len, R1));
        let absent = family.may_lack_checksum(inner).then(|| self.label(format!("{name}_absent")));
        if let Some(absent) = absent {
            self.jump_if_note(Cond::eq32(R1, 0_u32), absent, "no checksum");
        }
        self.op(Insn::xor32(R1, 0xffff_u32));
        // A multiple of 0xffff is nothing in ones' complement, and keeps the sum above 0: then it is folded to one
        // of the two zeros only, the one that the kernel writes (`csum_replace_by_diff`).
        match rebase {
            Rebase::ToZero => {
                self.op(Insn::add32(R1, 3 * 0xffff_u32));
                self.op_note(Insn::sub32(R1, addresses), "less the addresses");
            }
            Rebase::FromZero => {
                self.op(Insn::add32(R1, 0xffff_u32));
                self.op_note(Insn::add32(R1, addresses), "and the addresses");
            }
        }
        self.fold(R1, R2);
        self.fold(R1, R2);
        self.op(Insn::xor32(R1, 0xffff_u32));
        if inner == Proto::Udp {
            self.never_zero(&format!("{name}_not_zero"));
        }
        self.store_raw(l4, field, R1);
        if let Some(absent) = absent {
            self.bind(absent);
        }
    }

    /// `len = the sum of the pseudo-header`, of folded `addresses` and a length in host byte order: which is in the
    /// checksum field until the checksum is finished. Uses R2.
    pub(super) fn pseudo_sum(&mut self, len: Reg, proto: Proto, addresses: Option<Reg>) {
        self.op(Insn::be16(len));
        self.op(Insn::add32(len, in_packet_order(u32::from(proto.number()))));
        if let Some(addresses) = addresses {
            self.op(Insn::add32(len, addresses));
            self.fold(len, R2);
        }
        self.fold(len, R2);
    }

    /// Re-bases the inner checksum with the sum of the `addresses`:
    /// `bpf_l4_csum_replace(skb, offset of checksum, 0, ±sum, flags)`, or `fail`.
    ///
    /// Only this helper knows of every checksum whether it is finished or still partial.
    pub(super) fn rebase(&mut self, l4: Offset, inner: Proto, addresses: Reg, rebase: Rebase) {
        self.op(Insn::mov32(R4, addresses));
        if rebase == Rebase::ToZero {
            self.op(Insn::xor32(R4, u32::MAX));
        }
        self.set_offset(R2, Offset { bytes: l4.bytes + checksum_of(inner).offset, ..l4 });
        self.op(Insn::mov32(R3, 0_u32));
        self.op(Insn::mov32(R5, PSEUDO_HDR | absent_stays(inner)));
        self.call(Helper::L4CsumReplace);
        let fail = self.fail();
        self.jump_if(Cond::ne64(R0, 0), fail);
    }

    /// Bytes of the TCP header have changed by `change`.
    pub(super) fn update_tcp(&mut self, tcp: Offset, change: Reg) {
        self.replace_l4(tcp, Proto::Tcp, change, 0);
    }

    /// What the checksum covers has changed by `change`, a sum in the packet's byte order:
    /// `bpf_l4_csum_replace(skb, offset of checksum, 0, change, flags)`, or `fail`.
    ///
    /// Without `BPF_F_PSEUDO_HDR` nothing happens to a checksum that is still to be finished: whoever
    /// finishes it sums the new bytes.
    pub(super) fn replace_l4(&mut self, l4: Offset, proto: Proto, change: Reg, flags: i32) {
        self.set_offset(R2, Offset { bytes: l4.bytes + checksum_of(proto).offset, ..l4 });
        self.op(Insn::mov32(R3, 0_u32));
        self.op(Insn::mov32(R4, change));
        self.op(Insn::mov32(R5, flags | absent_stays(proto)));
        self.call(Helper::L4CsumReplace);
        let fail = self.fail();
        self.jump_if(Cond::ne64(R0, 0), fail);
    }

    /// `R1 = checksum field; if it is 0 it becomes 0xffff`: zero says "no checksum" (RFC 768).
    pub(super) fn never_zero(&mut self, name: &str) {
        let present = self.label(name);
        self.jump_if(Cond::ne32(R1, 0_u32), present);
        self.op(Insn::mov32(R1, 0xffff_u32));
        self.bind(present);
    }
}
