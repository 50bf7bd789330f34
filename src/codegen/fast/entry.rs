//! What is kept of a packet on the stack, and what is remembered of its flow in a map: idioms.
//!
//! Emits loads and stores of the table in [`flow`](crate::flow); decides nothing.

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*, Size};

use super::{ACKED, DEVICES, END, FLOW, FLOWS, IN, KEY, LENGTH, NOEXIST, NOW, VALUE, Way};
use crate::codegen::emit::{Emit, FP, L4_LEN, Window};
use crate::codegen::frame::Slot;
use crate::flow::{SLACK, TICK, key, value};
use crate::packet::{Field, ipv4, l4, skb, tcp};

/// Of a difference of sequence numbers: the first is before the second (RFC 9293, section 3.4).
const NEGATIVE: u32 = 0x8000_0000;

impl Emit {
    /// `slot = src`
    pub(super) fn keep(&mut self, slot: Slot, src: Reg, note: &str) {
        self.op_note(Insn::store(Size::D, FP, slot.offset, src), note);
    }

    /// `dst = slot`
    pub(super) fn kept(&mut self, dst: Reg, slot: Slot, note: &str) {
        self.op_note(Insn::load(Size::D, dst, FP, slot.offset), note);
    }

    pub(super) fn load_flow(&mut self, dst: Reg, field: Field) {
        self.op_note(Insn::load(field.size, dst, FLOW, field.offset), field.name);
    }

    pub(super) fn store_flow(&mut self, field: Field, src: Reg) {
        self.op_note(Insn::store(field.size, FLOW, field.offset, src), field.name);
    }

    pub(super) fn set_flow(&mut self, field: Field, to: u8) {
        let note = format!("{} = {to}", field.name);
        self.op_note(Insn::store_imm(field.size, FLOW, field.offset, i32::from(to)), &note);
    }

    /// Keeps where the packet's data end, how long they are, and what it acknowledges. `L4_LEN` is the length of L4.
    pub(super) fn keep_sequence(&mut self, tcp: &Window, malformed: Label) {
        self.load(R1, tcp, tcp::DATA_OFFSET);
        self.op(Insn::rsh32(R1, 4_u32));
        self.op_note(Insn::lsh32(R1, 2_u32), "length of the TCP header");
        self.jump_if(Cond::lt32(R1, i32::from(tcp::LEN)), malformed);
        self.jump_if_note(Cond::gt32(R1, L4_LEN), malformed, "longer than the packet");
        self.op(Insn::mov32(R2, L4_LEN));
        self.op(Insn::sub32(R2, R1));
        self.keep(LENGTH, R2, "length of the data");
        self.load(R1, tcp, tcp::SEQUENCE);
        self.op(Insn::add32(R1, R2));
        self.keep(END, R1, "where they end");
        self.load(R1, tcp, tcp::ACKNOWLEDGEMENT);
        self.keep(ACKED, R1, "what is acknowledged");
    }

    /// The key, from headers with the pods' own addresses.
    pub(super) fn make_key(&mut self, ip: &Window, l4: &Window, way: &Way) {
        let of_key = KEY.window();
        let inwards = way.name == IN.name;
        self.load_raw(R1, ip, ipv4::ADDRESSES);
        if inwards {
            self.op(Insn::mov64(R2, R1));
            self.op(Insn::rsh64(R1, 32));
            self.op(Insn::lsh64(R2, 32));
            self.op_note(Insn::or64(R1, R2), "the destination is local");
        }
        self.store_raw(&of_key, key::ADDRESSES, R1);
        self.load_raw(R1, l4, l4::PORTS);
        if inwards {
            self.swap_halves();
        }
        self.store_raw(&of_key, key::PORTS, R1);
    }

    /// `R1 =` the same with its halves changed over. Uses R2.
    pub(super) fn swap_halves(&mut self) {
        self.op(Insn::mov32(R2, R1));
        self.op(Insn::rsh32(R1, 16_u32));
        self.op(Insn::lsh32(R2, 16_u32));
        self.op(Insn::or32(R1, R2));
    }

    /// Keeps the time. Uses R0 to R5.
    pub(super) fn keep_now(&mut self) {
        self.op(Insn::call(Helper::KtimeGetCoarseNs));
        self.op_note(Insn::rsh64(R0, i32::try_from(TICK).unwrap_or_default()), "ticks");
        self.keep(NOW, R0, "now");
    }

    /// `FLOW =` the entry of the key, or 0. Uses R0 to R5.
    pub(super) fn find_flow(&mut self) {
        self.look_up(KEY);
    }

    /// The same of a key that is elsewhere.
    pub(super) fn look_up(&mut self, slot: Slot) {
        self.op_note(Insn::ld_map(R1, FLOWS), "flows");
        self.address_of(R2, slot);
        self.op(Insn::call(Helper::MapLookupElem));
        self.op(Insn::mov64(FLOW, R0));
    }

    /// A new entry without anything known.
    pub(super) fn clear_value(&mut self) {
        self.clear(VALUE);
    }

    /// `VALUE.opening = src`
    pub(super) fn open_value(&mut self, src: Reg) {
        let window = VALUE.window();
        self.store_raw(&window, value::OPENING, src);
    }

    /// Makes an entry of what is in `VALUE`. `flag`: whether it may take the place of another. Uses R0 to R5.
    pub(super) fn put_flow(&mut self, flag: u32) {
        self.put_flow_at(KEY, flag);
    }

    /// The same for a key that is elsewhere.
    pub(super) fn put_flow_at(&mut self, slot: Slot, flag: u32) {
        self.op_note(Insn::ld_map(R1, FLOWS), "flows");
        self.address_of(R2, slot);
        self.address_of(R3, VALUE);
        self.op_note(Insn::mov32(R4, flag), if flag == NOEXIST { "BPF_NOEXIST" } else { "BPF_ANY" });
        self.op(Insn::call(Helper::MapUpdateElem));
    }

    /// `R0 = the number of the interface of the flow's pod`, unless that has gone: `gone`. Uses R1 to R5.
    pub(super) fn find_device(&mut self, gone: Label) {
        self.op_note(Insn::ld_map(R1, DEVICES), "devices");
        self.op(Insn::mov64(R2, FLOW));
        self.op_note(Insn::add64(R2, i32::from(value::POD.offset)), value::POD.name);
        self.op(Insn::call(Helper::MapLookupElem));
        self.jump_if_note(Cond::eq64(R0, 0), gone, "the pod has gone");
        self.op(Insn::load(Size::W, R0, R0, 0));
    }

    /// `if the flow is not that of the pod at this interface goto label`. Uses R1 and R2.
    pub(super) fn unless_here(&mut self, label: Label) {
        self.load_flow(R1, value::INTERFACE);
        self.load_skb(R2, skb::IFINDEX);
        self.jump_if_note(Cond::ne32(R1, R2), label, "of another pod");
    }

    /// `R1 = how many ticks ago that was`, and [`SLACK`] more. Uses R2.
    pub(super) fn age(&mut self, of: Field) {
        self.kept(R1, NOW, "now");
        self.load_flow(R2, of);
        self.op(Insn::sub64(R1, R2));
        self.op(Insn::add64(R1, i32::try_from(SLACK).unwrap_or_default()));
    }

    pub(super) fn jump_if_old(&mut self, of: Field, ticks: u32, label: Label) {
        self.age(of);
        let limit = i32::try_from(ticks + SLACK).unwrap_or(i32::MAX);
        self.jump_if_note(Cond::ge64(R1, limit), label, &format!("{ticks} ticks ago or more"));
    }

    pub(super) fn jump_if_young(&mut self, of: Field, ticks: u32, label: Label) {
        self.age(of);
        let limit = i32::try_from(ticks + SLACK).unwrap_or(i32::MAX);
        self.jump_if_note(Cond::lt64(R1, limit), label, &format!("less than {ticks} ticks ago"));
    }

    /// `if a is before b goto label`, as sequence numbers. `a` is lost.
    pub(super) fn jump_if_before(&mut self, a: Reg, b: Reg, label: Label, note: &str) {
        self.op(Insn::sub32(a, b));
        self.jump_if_note(Cond::set32(a, NEGATIVE), label, note);
    }
}
