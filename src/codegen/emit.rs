//! The idioms of emission: proven windows, loads that convert, exits, cold blocks.
//!
//! [`Emit`] wraps the assembler for the rest of `codegen`, which never sees an offset number of a jump or a raw opcode.
//! Byte order is converted here and nowhere else: what [`Emit::load`] loads is in host order, what [`Emit::store`]
//! stores is in network order.

use asm::{Assembler, Cond, Helper, Insn, Label, Program, Reg, Reg::*, Size};

use super::counters::Reason;
use super::frame::Slot;
use super::routine::Variant;
use super::tags::Kept;
use super::{GsoPackets, Link, Onward, Options, Target};
use crate::packet::{Field, skb, vlan};
use crate::settings;

/// `TC_ACT_UNSPEC`: go on with the hook's next program.
pub(super) const UNSPEC: i32 = -1;
/// `TC_ACT_SHOT`: drop.
pub(super) const SHOT: i32 = 2;

/// How far short jumps go: half of what they could, so that they still reach when the kernel has
/// rewritten every instruction on the way to two. Only programs of thousands of rules notice.
const REACH: u16 = i16::MAX.unsigned_abs() / 2;

/// Survive helper calls. See the module's register contract.
pub(super) const SKB: Reg = R6;
pub(super) const IP: Reg = R7;
pub(super) const PORTS: Reg = R8;
pub(super) const L4_LEN: Reg = R9;
/// The frame pointer, read only.
pub(super) const FP: Reg = R10;

/// Memory that may be read: `len` bytes at `base + offset`, in the packet once a bounds check has proven them, or in the
/// stack frame. Not `Copy`: what moves packet memory takes it by value.
#[derive(Debug)]
pub(super) struct Window {
    base: Reg,
    offset: i16,
    len: i16,
}

impl Window {
    /// The part of this window from `skip` on.
    pub(super) fn at(&self, skip: i16) -> Window {
        assert!(skip <= self.len, "a view beyond its window");
        Window { base: self.base, offset: self.offset + skip, len: self.len - skip }
    }

    /// The link header in front of the IP header, once that has been proven.
    pub(super) fn of_link_header(len: i16) -> Window {
        Window { base: IP, offset: -len, len }
    }

    /// What the prologue has proven of the IP header: nothing between it and the routines moves packet memory.
    pub(super) fn of_ip_header(len: i16) -> Window {
        Window { base: IP, offset: 0, len }
    }

    /// From the EtherType on: the tags, where there are tags. Of what is proven behind the Ethernet header, the start.
    pub(super) fn of_tags() -> Window {
        Window { base: IP, offset: -2, len: vlan::LEN_OF_TWO }
    }

    /// In the stack frame.
    pub(super) fn of_slot(Slot { offset, len }: Slot) -> Window {
        Window { base: FP, offset, len }
    }
}

pub(super) struct Emit {
    asm: Assembler,
    pub(super) link: Link,
    /// Whether `SKB` holds the context.
    pub(super) entered: bool,
    pub(super) gso: GsoPackets,
    /// Whether all packets to funnel go to the segmentation pair.
    pub(super) finish: bool,
    pub(super) target: Target,
    /// Where packets of several segments go, if any do.
    pub(super) segment: Option<Label>,
    /// Whether there is a merging pair.
    pub(super) merges: bool,
    /// Where to go with what is for it, once something has jumped there.
    pub(super) merge: Option<Label>,
    pub(super) onward: Onward,
    pub(super) fast: bool,
    /// What the routine that is being emitted does besides its action.
    pub(super) variant: Variant,
    /// Some rule counts.
    pub(super) counts: bool,
    /// Leaves the packet as it is; bound at the end of the program. In routines, by way of the frame.
    pub(super) pass: Label,
    /// That way, and the other `pass`.
    pub(super) left: Option<(Label, Label)>,
    /// Where the VLAN tag to put back is, and where that is done.
    pub(super) kept: Kept,
    pub(super) retag: Option<Label>,
    /// Drops the packet; bound there as well, if something jumps to it.
    fail: Label,
    can_fail: bool,
    /// Why packets are left alone or dropped that are counted, and where to go with them.
    pub(super) reasons: Vec<(Reason, Label)>,
}

impl Emit {
    pub(super) fn new(options: Options) -> Self {
        let Options { link, gso, merge, finish, target, onward, fast } = options;
        let mut asm = Assembler::new();
        asm.reach(REACH);
        asm.long_jumps(target.long_jumps);
        let (pass, fail) = (asm.label("pass"), asm.label("fail"));
        Emit {
            asm,
            link,
            entered: false,
            gso,
            finish,
            target,
            segment: None,
            merges: merge,
            merge: None,
            onward,
            fast,
            variant: Variant::default(),
            counts: false,
            pass,
            left: None,
            kept: Kept::Nowhere,
            retag: None,
            fail,
            can_fail: false,
            reasons: Vec::new(),
        }
    }

    /// The exit of packets that are dropped and that nobody counts, if something jumps there; whether it does.
    pub(super) fn emit_drop(&mut self) -> bool {
        if self.can_fail {
            self.bind(self.fail);
            self.exit(SHOT);
        }
        self.can_fail
    }

    /// Where to drop a packet that nobody counts.
    pub(super) fn plain_fail(&mut self) -> Label {
        self.can_fail = true;
        self.fail
    }

    pub(super) fn finish(self) -> Result<Program, asm::Error> {
        self.asm.finish()
    }

    pub(super) fn label(&mut self, name: impl Into<String>) -> Label {
        self.asm.label(name)
    }

    pub(super) fn bind(&mut self, label: Label) {
        self.asm.bind(label);
    }

    /// How many instructions there are so far.
    pub(super) fn position(&self) -> usize {
        self.asm.position()
    }

    pub(super) fn origin(&mut self, rule: Option<usize>) {
        self.asm.origin(rule.and_then(|rule| u32::try_from(rule).ok()));
    }

    /// The node of the diagram that what follows is about.
    pub(super) fn place(&mut self, place: Option<u32>) {
        self.asm.place(place);
    }

    pub(super) fn op(&mut self, insn: Insn) {
        self.asm.push(insn);
    }

    pub(super) fn op_note(&mut self, insn: Insn, note: &str) {
        self.asm.note(note);
        self.asm.push(insn);
    }

    pub(super) fn goto(&mut self, label: Label) {
        self.asm.goto(label);
    }

    pub(super) fn jump_if(&mut self, cond: Cond, label: Label) {
        self.asm.jump_if(cond, label);
    }

    pub(super) fn jump_if_note(&mut self, cond: Cond, label: Label, note: &str) {
        self.asm.note(note);
        self.asm.jump_if(cond, label);
    }

    /// `skb->mark = what the rule says`, and so on for all that it says. Uses R1.
    pub(super) fn write_settings(&mut self) {
        for (field, word) in settings::fields() {
            if let Some(value) = self.variant.settings.get(field) {
                self.op(Insn::mov32(R1, value));
                let note = format!("{} = {value:#x}", word.name);
                self.op_note(Insn::store(word.size, SKB, word.offset, R1), &note);
            }
        }
    }

    /// The action has been carried out, and the packet has `grown`: what the rule says besides, and on to the
    /// next program. Uses R0 to R5.
    pub(super) fn done(&mut self, grown: i16) {
        self.count(grown);
        self.write_settings();
        self.exit(UNSPEC);
    }

    /// The same for a segment of TCP that has been unfunneled: if `merge::look` said so, by way of the merging pair.
    pub(super) fn done_by_way_of_merging(&mut self, grown: i16) {
        let merge = match self.merge {
            Some(label) => label,
            None => *self.merge.insert(self.asm.label("merge")),
        };
        self.count(grown);
        self.write_settings();
        self.jump_if_note(Cond::ne32(L4_LEN, 0_u32), merge, "data");
        self.exit(UNSPEC);
    }

    /// `return verdict`
    pub(super) fn exit(&mut self, verdict: i32) {
        if verdict == UNSPEC && self.pass_with_tag() {
            return;
        }
        let name = if verdict == SHOT { "TC_ACT_SHOT" } else { "TC_ACT_UNSPEC" };
        self.op_note(Insn::mov32(R0, verdict), name);
        self.op(Insn::exit());
    }

    /// `dst = field`, in host byte order.
    pub(super) fn load(&mut self, dst: Reg, window: &Window, field: Field) {
        self.load_raw(dst, window, field);
        match field.size {
            Size::B => {}
            Size::H => self.op(Insn::be16(dst)),
            Size::W => self.op(Insn::be32(dst)),
            Size::D => self.op(Insn::be64(dst)),
        }
    }

    /// `dst = field`, bytes as they are in the packet.
    pub(super) fn load_raw(&mut self, dst: Reg, window: &Window, field: Field) {
        assert!(field.end() <= window.len, "{} is outside its window", field.name);
        self.op_note(Insn::load(field.size, dst, window.base, window.offset + field.offset), field.name);
    }

    /// `dst = skb->field`: a number in host byte order, or a pointer.
    pub(super) fn load_skb(&mut self, dst: Reg, field: Field) {
        self.op_note(Insn::load(field.size, dst, SKB, field.offset), field.name);
    }

    /// `skb->field = src`
    pub(super) fn store_skb(&mut self, field: Field, src: Reg) {
        self.op_note(Insn::store(field.size, SKB, field.offset, src), field.name);
    }

    /// `field = src` in network byte order; `src` is converted in place.
    pub(super) fn store(&mut self, window: &Window, field: Field, src: Reg) {
        match field.size {
            Size::B => {}
            Size::H => self.op(Insn::be16(src)),
            Size::W => self.op(Insn::be32(src)),
            Size::D => self.op(Insn::be64(src)),
        }
        self.store_raw(window, field, src);
    }

    /// `field = src`, bytes as they are in the register.
    pub(super) fn store_raw(&mut self, window: &Window, field: Field, src: Reg) {
        assert!(field.end() <= window.len, "{} is outside its window", field.name);
        self.op_note(Insn::store(field.size, window.base, window.offset + field.offset, src), field.name);
    }

    /// `field = value` in network byte order.
    pub(super) fn store_const(&mut self, window: &Window, field: Field, value: u32) {
        let [a, b, c, d] = value.to_be_bytes();
        let wire = match field.size {
            Size::B => i32::from(d),
            Size::H => i32::from(i16::from_ne_bytes([c, d])),
            Size::W | Size::D => i32::from_ne_bytes([a, b, c, d]),
        };
        assert!(field.end() <= window.len, "{} is outside its window", field.name);
        let note = format!("{} = {value:#x}", field.name);
        self.op_note(Insn::store_imm(field.size, window.base, window.offset + field.offset, wire), &note);
    }

    /// `R0 = helper(skb, ...)`, the other arguments being set already.
    pub(super) fn call(&mut self, helper: Helper) {
        self.op(Insn::mov64(R1, SKB));
        self.op(Insn::call(helper));
    }

    /// Proves the packet up to `after_link` bytes behind the link header, pulling them into the linear area if they are in
    /// fragments, and leaves `IP` at the IP header. Shorter packets go to `pass`.
    ///
    /// The pull is a block of its own out of the way, which ends by joining the usual path.
    pub(super) fn pull_window(&mut self, name: &str, after_link: i16) -> (Window, Cold) {
        let short = self.exit_for(Reason::Malformed);
        self.pull_or(name, after_link, short)
    }

    /// The same, with shorter packets going to `short`.
    pub(super) fn pull_or(&mut self, name: &str, after_link: i16, short: Label) -> (Window, Cold) {
        let linear = self.label(format!("{name}_linear"));
        let pull = self.label(format!("{name}_pull"));
        let len = self.link.header_len() + after_link;
        self.prove(len, pull);
        self.bind(linear);
        (self.point(IP, after_link), Cold { pull, linear, len, short })
    }

    /// The same for bytes known to be linear, with a base of the caller's choice. Shorter packets go to `short`.
    pub(super) fn window_again(&mut self, base: Reg, after_link: i16, short: Label) -> Window {
        self.prove(self.link.header_len() + after_link, short);
        self.point(base, after_link)
    }

    fn point(&mut self, base: Reg, len: i16) -> Window {
        self.op(Insn::mov64(base, R2));
        if self.link.header_len() != 0 {
            self.op_note(Insn::add64(base, i32::from(self.link.header_len())), "IP header");
        }
        Window { base, offset: 0, len }
    }

    /// `R2 = data; R3 = data_end; if R2 + len > R3 goto short`
    fn prove(&mut self, len: i16, short: Label) {
        self.load_skb(R2, skb::DATA);
        self.load_skb(R3, skb::DATA_END);
        self.op(Insn::mov64(R4, R2));
        self.op(Insn::add64(R4, i32::from(len)));
        self.jump_if(Cond::gt64(R4, R3), short);
    }

    /// The block that [`Emit::pull_window`] put off.
    pub(super) fn pull(&mut self, cold: Cold) {
        self.bind(cold.pull);
        self.load_skb(R2, skb::LEN);
        self.jump_if(Cond::lt32(R2, u32::from(cold.len.unsigned_abs())), cold.short);
        self.op(Insn::mov32(R2, i32::from(cold.len)));
        self.call(Helper::SkbPullData);
        self.prove(cold.len, cold.short);
        self.goto(cold.linear);
    }
}

/// A bounds check's unlikely side, still to be emitted. Must be handed to [`Emit::pull`].
#[must_use]
#[derive(Debug)]
pub(super) struct Cold {
    pull: Label,
    linear: Label,
    len: i16,
    short: Label,
}
