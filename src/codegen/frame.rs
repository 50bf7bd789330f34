//! The stack frame, and moving whole areas of it to and from the packet.
//!
//! ```text
//! FP -  24  PUSHED    the header to push, when it goes after IP options      24 bytes
//! FP -  64  OPTIONS   IP options on their way past that header; TCP options   40
//! FP - 104  PEEK      L4 headers that stand at a variable offset              40
//! FP - 112  SAVED     registers while the payload is summed                    8
//! FP - 496  CHUNK     payload on its way to bpf_csum_diff                    384
//!           REPLY     in it: the answer to a packet that does not fit        152
//!           FIB       in it: what bpf_fib_lookup is asked                     64
//! FP - 500  MTU       what bpf_check_mtu says                                  4
//! FP - 508  COUNTER   the number of the rule's counter, if it counts           4
//! FP - 512  TAG       the VLAN tag to put back                                  4
//! ```

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*, Size};

use super::counters::Reason;
use super::emit::{Emit, FP, Window};
use crate::ir::Family;
use crate::packet::{fib, ipv4};

/// An area of the stack frame, below the frame pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Negative: bytes from the frame pointer to the area's start.
    pub offset: i16,
    pub len: i16,
}

impl Slot {
    pub(super) fn window(self) -> Window {
        Window::of_slot(self)
    }
}

pub(super) const PUSHED: Slot = Slot { offset: -24, len: 24 };
pub(super) const OPTIONS: Slot = Slot { offset: -64, len: ipv4::OPTIONS_MAX };
pub(super) const PEEK: Slot = Slot { offset: -104, len: 40 };
pub(super) const SAVED: Slot = Slot { offset: -112, len: 8 };
pub(super) const CHUNK: Slot = Slot { offset: -496, len: 384 };
pub(super) const REPLY: Slot = Slot { offset: CHUNK.offset, len: 152 };
pub(super) const FIB: Slot = Slot { offset: CHUNK.offset + REPLY.len, len: fib::LEN };
/// Not on a multiple of eight: there, without `CAP_PERFMON`, 6.1 takes what a helper writes to four bytes that
/// have been stored for an attempt to corrupt a spilled pointer.
pub(super) const MTU: Slot = Slot { offset: -500, len: 4 };
/// Not on a multiple of eight: see [`counters`](super::counters).
pub(super) const COUNTER: Slot = Slot { offset: -508, len: 4 };
/// Written after `COUNTER`: 6.1 takes a number whose bounds it knows for spilled here, and then refuses to have the rest of
/// these eight bytes written to without `CAP_PERFMON`.
pub(super) const TAG: Slot = Slot { offset: -512, len: 4 };

const _: () = {
    let areas = [PUSHED, OPTIONS, PEEK, SAVED, CHUNK, MTU, COUNTER, TAG];
    let mut top = 0;
    let mut i = 0;
    while i < areas.len() {
        assert!(areas[i].offset + areas[i].len <= top, "two areas of the frame overlap");
        top = areas[i].offset;
        i += 1;
    }
    assert!(FIB.offset + FIB.len <= CHUNK.offset + CHUNK.len, "it does not fit where it is");
    assert!(top >= -512, "the frame is larger than MAX_BPF_STACK");
};

/// A part of an area.
pub(super) const fn part(area: Slot, skip: i16, len: i16) -> Slot {
    Slot { offset: area.offset + skip, len }
}

/// How many bytes a transfer moves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Len {
    Const(i16),
    /// A register whose bounds the verifier knows.
    Reg(Reg),
}

/// Where in the packet: bytes from its start, plus a register's value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offset {
    pub bytes: i16,
    pub plus: Option<Reg>,
}

impl Emit {
    /// `dst = &slot`
    pub(super) fn address_of(&mut self, dst: Reg, slot: Slot) {
        self.op(Insn::mov64(dst, FP));
        self.op(Insn::add64(dst, i32::from(slot.offset)));
    }

    /// Bytes from the packet's start to `after` bytes after the IP header's fixed part.
    pub(super) fn offset(&self, family: Family, after: i16, plus: Option<Reg>) -> Offset {
        Offset { bytes: self.link.header_len() + family.header_len() + after, plus }
    }

    /// Bytes from the packet's start to the IP header.
    pub(super) fn ip_offset(&self) -> Offset {
        Offset { bytes: self.link.header_len(), plus: None }
    }

    pub(super) fn set_offset(&mut self, dst: Reg, offset: Offset) {
        match offset.plus {
            Some(reg) => {
                self.op(Insn::mov32(dst, reg));
                if offset.bytes != 0 {
                    self.op(Insn::add32(dst, i32::from(offset.bytes)));
                }
            }
            None => self.op(Insn::mov32(dst, i32::from(offset.bytes))),
        }
    }

    /// `bpf_skb_load_bytes(skb, offset, slot, len)`, or `pass`. Uses R0 to R5.
    pub(super) fn load_bytes(&mut self, offset: Offset, slot: Slot, len: Len) {
        self.load_bytes_or_zeros(offset, slot, len);
        let short = self.exit_for(Reason::Malformed);
        self.jump_if(Cond::ne64(R0, 0), short);
    }

    /// The same, but for packets that are shorter: zeros.
    pub(super) fn load_bytes_or_zeros(&mut self, offset: Offset, slot: Slot, len: Len) {
        self.transfer(offset, slot, len);
        self.call(Helper::SkbLoadBytes);
    }

    /// `bpf_skb_store_bytes(skb, offset, slot, len, 0)`, or `fail`.
    pub(super) fn store_bytes(&mut self, offset: Offset, slot: Slot, len: Len) {
        self.store_bytes_with(offset, slot, len, 0);
    }

    pub(super) fn store_bytes_with(&mut self, offset: Offset, slot: Slot, len: Len, flags: u32) {
        self.transfer(offset, slot, len);
        self.op(Insn::mov32(R5, flags));
        self.call(Helper::SkbStoreBytes);
        let fail = self.fail();
        self.jump_if(Cond::ne64(R0, 0), fail);
    }

    fn transfer(&mut self, offset: Offset, slot: Slot, len: Len) {
        self.set_offset(R2, offset);
        self.address_of(R3, slot);
        match len {
            Len::Const(len) => self.op(Insn::mov32(R4, i32::from(len))),
            Len::Reg(reg) => self.op(Insn::mov32(R4, reg)),
        }
    }

    /// `slot = 0`; its length is a multiple of 8.
    pub(super) fn clear(&mut self, slot: Slot) {
        for at in (0..slot.len).step_by(8) {
            self.op(Insn::store_imm(Size::D, FP, slot.offset + at, 0));
        }
    }

    /// Copies the IP options, `len` bytes of them, to the frame. The area is cleared first: a helper
    /// given a variable length may only be given initialised stack.
    pub(super) fn save_options(&mut self, len: Reg) {
        self.clear(OPTIONS);
        let options = self.offset(Family::V4, 0, None);
        self.load_bytes(options, OPTIONS, Len::Reg(len));
    }

    /// `dst = ip.ihl; if dst > 5 goto label`
    pub(super) fn if_options(&mut self, dst: Reg, ip: &Window, label: Label) {
        self.load(dst, ip, ipv4::VERSION_IHL);
        self.op_note(Insn::and32(dst, 0x0f_u32), "ip.ihl");
        self.jump_if_note(Cond::gt32(dst, 5_u32), label, "options");
    }

    /// `ihl = length of the IP header`
    pub(super) fn ip_header_len(&mut self, ihl: Reg) {
        self.op_note(Insn::lsh32(ihl, 2_u32), "length of the IP header");
    }

    /// `version_ihl = length of the options`, 4 to 40; without options, `pass`, which has been ruled
    /// out already: the verifier must see these bounds to let it be the length of a transfer.
    pub(super) fn options_len(&mut self, version_ihl: Reg) {
        self.op_note(Insn::and32(version_ihl, 0x0f_u32), "ip.ihl");
        self.jump_if(Cond::lt32(version_ihl, 6_u32), self.pass);
        self.op(Insn::lsh32(version_ihl, 2_u32));
        self.op_note(Insn::sub32(version_ihl, i32::from(ipv4::LEN)), "length of the options");
    }

    /// `bpf_skb_adjust_room(skb, by, BPF_ADJ_ROOM_NET, 0)`, or `pass`: opens or closes room behind
    /// the fixed part of the IP header. Nothing of the packet may have changed before: it is passed as it is.
    ///
    /// A packet that a device has verified (`CHECKSUM_UNNECESSARY`) is verified again afterwards. The sum of one
    /// that it has summed up (`CHECKSUM_COMPLETE`) follows what is popped and what `bpf_l4_csum_replace` writes, and
    /// IPv4's header sums to the same; it does not follow what is stored. Where it is off, the kernel sums again.
    pub(super) fn adjust_room(&mut self, void: Window, by: i16) {
        let no_room = self.exit_for(Reason::NoRoom);
        self.adjust_room_or(void, by, no_room);
    }

    /// The same for a packet that has changed already: `refused` if the kernel does.
    pub(super) fn adjust_room_or(&mut self, _void: Window, by: i16, refused: Label) {
        self.op(Insn::mov32(R2, i32::from(by)));
        self.op_note(Insn::mov32(R3, 0_u32), "BPF_ADJ_ROOM_NET");
        self.op(Insn::mov32(R4, 0_u32));
        self.call(Helper::SkbAdjustRoom);
        self.jump_if(Cond::ne64(R0, 0), refused);
    }
}
