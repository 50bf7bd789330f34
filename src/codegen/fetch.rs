//! A packet's field in a register: where the table of fields says that it is, as the number that rules call it.
//!
//! Takes a [`Place`], emits loads. Never compares.

use asm::{Cond, Insn, Reg, Reg::*};

use super::emit::{Emit, PORTS, Window};
use super::frame::{Len, Offset, PEEK, part};
use crate::field::{Base, Place};
use crate::ir::{End, Family};
use crate::packet::{self, ipv4, ipv6};

/// `key = field`, of a field that is one word or a part of one. Uses R0 to R5 if it is in the L4 header: that may be
/// after IP options, beyond the bytes that are proven.
pub(super) fn emit(e: &mut Emit, key: Reg, family: Family, place: Place, name: &str) {
    let Some(word) = place.words.first() else { return };
    match place.base {
        Base::Ip => e.load(key, &Window::of_ip_header(family.header_len()), *word),
        Base::Skb => e.load_skb(key, *word),
        Base::L4 => l4(e, key, family, *word),
        Base::Port(end) => {
            e.op(Insn::mov32(key, PORTS));
            return match end {
                End::Sport => e.op_note(Insn::rsh32(key, 16_u32), name),
                End::Dport => e.op_note(Insn::and32(key, 0xffff_u32), name),
            };
        }
    }
    let Place { shift, bits, plus, .. } = place;
    if shift > 0 {
        e.op(Insn::rsh32(key, u32::from(shift)));
    }
    if shift + bits < 8 * word.size.bytes() {
        let mask = u32::MAX.checked_shr(32 - u32::from(bits)).unwrap_or(0);
        e.op_note(Insn::and32(key, mask), name);
    }
    if plus > 0 {
        e.op_note(Insn::add32(key, u32::from(plus)), name);
    }
}

/// One word of a field of several.
pub(super) fn word(e: &mut Emit, key: Reg, family: Family, word: packet::Field) {
    e.load(key, &Window::of_ip_header(family.header_len()), word);
}

/// By way of the stack. Where a packet ends before the field, the helper says so and writes zeros
/// (`bpf_skb_load_bytes`, net/core/filter.c): 0 is what rules see of such a packet.
fn l4(e: &mut Emit, key: Reg, family: Family, word: packet::Field) {
    let offset = match family {
        Family::V4 => {
            e.load(R2, &Window::of_ip_header(ipv4::LEN), ipv4::VERSION_IHL);
            e.op(Insn::and32(R2, 0x0f_u32));
            e.ip_header_len(R2);
            let ip = e.ip_offset();
            Offset { bytes: ip.bytes + word.offset, plus: Some(R2) }
        }
        Family::V6 => {
            let plain = e.label("ip6_plain");
            e.op(Insn::mov32(R2, i32::from(ipv6::LEN)));
            e.load(R3, &Window::of_ip_header(ipv6::LEN), ipv6::NEXT_HEADER);
            let behind = e.counts.then(|| e.label("ip6_behind_fragment"));
            if let Some(behind) = behind {
                e.jump_if(Cond::eq32(R3, ipv6::FRAGMENT), behind);
            }
            e.jump_if(Cond::ne32(R3, ipv6::HOP_BY_HOP), plain);
            if let Some(behind) = behind {
                e.bind(behind);
            }
            let header = if e.counts { "BIG TCP's header, or a fragment's" } else { "BIG TCP's header" };
            e.op_note(Insn::add32(R2, i32::from(ipv6::JUMBO_LEN)), header);
            e.bind(plain);
            Offset { bytes: e.ip_offset().bytes + word.offset, plus: Some(R2) }
        }
    };
    let len = i16::from(word.size.bytes());
    let slot = part(PEEK, 0, len);
    e.load_bytes_or_zeros(offset, slot, Len::Const(len));
    e.load(key, &slot.window(), packet::Field { offset: 0, ..word });
}
