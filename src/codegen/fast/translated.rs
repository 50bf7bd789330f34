//! Flows whose remote end NAT changes, as kube-proxy does for a Service: how both ends of that are found, and packets changed as
//! NAT would.
//!
//! ```text
//!            leaving                    passed
//!  SYN       pod > Service  ── NAT ──▶  pod > another node's pod
//!            remembered with            the same: the flow is that of the Service, and
//!            its sequence number        the other pod an alias of it
//! ```
//!
//! Nothing is sent to find that out: a connection that does not end at a pod of another node leaves one entry, which the next from the
//! same port replaces. From then on there are proofs and probes as for any flow, only that `passed` and `arriving` find it
//! by its alias. A probe that comes out of NAT at another end than the one that is known proves nothing.

use asm::{Cond, Insn, Label, Reg, Reg::*, Size};

use super::{ANY, END, FLOW, FORM, KEY, MINE, NOW, OTHER_KEY, VALUE};
use crate::codegen::checksum::PSEUDO_HDR;
use crate::codegen::emit::{Emit, IP, PORTS, Window};
use crate::codegen::frame::Slot;
use crate::codegen::nat::New;
use crate::flow::{LIFE, OPENED_HERE, UNSCALED, key, value};
use crate::ir::{Family, Proto};
use crate::packet::{Field, field, ipv4, l4, tcp};

/// What is stored to more than once is stored to as a whole, and the second half of eight bytes before the first: V6.
const PORTS_AND_NONE: Field = field("flow.ports", 8, Size::D);

impl Emit {
    /// What is not a flow, but leads to one, goes to `label`. Uses R2.
    pub(super) fn unless_alias(&mut self, label: Label) {
        self.load_flow(R2, value::IS_ALIAS);
        self.jump_if_note(Cond::ne32(R2, 0_u32), label, "an alias");
    }

    /// An alias is no flow. Uses R2.
    pub(super) fn ignore_alias(&mut self) {
        let [alias, flow] = ["is_alias", "is_flow"].map(|name| self.label(name));
        self.jump_if_note(Cond::eq64(FLOW, 0), flow, "not known");
        self.unless_alias(alias);
        self.goto(flow);
        self.bind(alias);
        self.op(Insn::mov64(FLOW, 0));
        self.bind(flow);
    }

    /// `FLOW =` that which an alias leads to, if that says the same, or 0. Uses R0 to R5.
    pub(super) fn follow_alias(&mut self) {
        let [follow, none, done] = ["follow", "no_flow", "followed"].map(|name| self.label(name));
        // What reads it knows that it is there by another field.
        self.clear(OTHER_KEY);
        self.jump_if_note(Cond::eq64(FLOW, 0), done, "not known");
        self.unless_alias(follow);
        self.goto(done);
        self.bind(follow);
        self.make_other_key();
        self.look_up(OTHER_KEY);
        self.jump_if_note(Cond::eq64(FLOW, 0), done, "forgotten");
        self.load_flow(R1, value::OTHER);
        self.remote(R2, R3);
        self.jump_if_note(Cond::ne32(R1, R2), none, "another end");
        self.load_flow(R1, value::OTHER_PORT);
        self.jump_if_note(Cond::ne32(R1, R3), none, "another end");
        self.unless_alias(none);
        self.goto(done);
        self.bind(none);
        self.op(Insn::mov64(FLOW, 0));
        self.bind(done);
    }

    /// A probe that is not about a flow like this one goes to `label`. Uses R1 and R2.
    pub(super) fn unless_form_fits(&mut self, label: Label) {
        let [plain, fits] = ["form_is_plain", "form_fits"].map(|name| self.label(name));
        self.kept(R2, FORM, "0: a flow that is translated");
        self.load_flow(R1, value::OTHER);
        self.jump_if(Cond::ne64(R2, 0), plain);
        self.jump_if(Cond::eq32(R1, 0_u32), label);
        self.goto(fits);
        self.bind(plain);
        self.jump_if(Cond::ne32(R1, 0_u32), label);
        self.bind(fits);
    }

    /// A pod opens a connection to who is not a pod: that is remembered until the SYN has passed netfilter. Uses all registers but
    /// `SKB` and `IP`.
    pub(super) fn opens_elsewhere(&mut self, tcp: &Window) {
        self.load(R1, tcp, tcp::FLAGS);
        self.jump_if_note(Cond::set32(R1, tcp::ACK), self.pass, "it does not open");
        self.read_scale(tcp, FLOW, "elsewhere");
        self.op(Insn::lsh32(R0, 16_u32));
        let opening = u32::from_le_bytes([0, OPENED_HERE, 0, UNSCALED]);
        self.op(Insn::mov32(PORTS, opening));
        self.op_note(Insn::or32(PORTS, R0), value::SCALE_OUT.name);
        self.clear_value();
        self.remote(R1, R2);
        let of_value = VALUE.window();
        self.store_raw(&of_value, value::OTHER, R1);
        self.store_raw(&of_value, value::OTHER_REST, R2);
        self.open_value(PORTS);
        self.kept(R1, NOW, "now");
        self.store_raw(&of_value, value::NOTED, R1);
        self.kept(R1, END, "end");
        self.store_raw(&of_value, value::END_OUT, R1);
        self.make_local_key();
        self.put_flow_at(OTHER_KEY, ANY);
        self.goto(self.pass);
    }

    /// A SYN has passed netfilter. If its pod has sent it to somebody else, it is known from here on whom that is. Goes on at `done`.
    /// Uses R0 to R5.
    pub(super) fn opens_translated(&mut self, done: Label) {
        let unknown = self.label("opens_unknown");
        self.jump_if_note(Cond::eq64(FLOW, 0), unknown, "not known");
        self.forget_proofs();
        self.bind(unknown);
        self.make_local_key();
        self.look_up(OTHER_KEY);
        self.jump_if_note(Cond::eq64(FLOW, 0), done, "sent to a pod");
        self.load_flow(R1, value::END_OUT);
        self.kept(R2, END, "end");
        self.jump_if_note(Cond::ne32(R1, R2), done, "another connection");
        self.jump_if_old(value::NOTED, LIFE, done);
        // The flow, and how it is found: in this order, since nothing is known of it by then.
        let of_value = VALUE.window();
        self.clear_value();
        self.remote(R1, R2);
        self.store_raw(&of_value, value::OTHER, R1);
        self.store_raw(&of_value, value::OTHER_REST, R2);
        self.load_flow(R1, value::OPENING);
        self.open_value(R1);
        self.make_other_key();
        self.put_flow_at(OTHER_KEY, ANY);
        self.clear_value();
        self.load_flow(R1, value::OTHER);
        self.store_raw(&of_value, value::OTHER, R1);
        self.load_flow(R1, value::OTHER_PORT);
        self.op_note(Insn::or32(R1, 1 << 16), value::IS_ALIAS.name);
        self.store_raw(&of_value, value::OTHER_REST, R1);
        self.put_flow(ANY);
        self.goto(done);
    }

    /// The remote end becomes what NAT makes of it, if it makes anything of it. The packet's memory may move, and its window is proven
    /// again. Uses R0 to R5, and `PORTS`.
    pub(super) fn translate_out(&mut self, ip: &Window, tcp: &Window) {
        const CHANGE: Slot = MINE[0];
        let plain = self.label("not_translated");
        self.load_flow(R5, value::OTHER);
        self.jump_if_note(Cond::eq32(R5, 0_u32), plain, "not translated");
        self.load_flow(R1, value::OTHER_PORT);
        self.load_raw(PORTS, tcp, l4::DPORT);
        self.store_raw(tcp, l4::DPORT, R1);
        self.op(Insn::xor32(PORTS, 0xffff_u32));
        self.op_note(Insn::add32(PORTS, R1), "change of the port");
        self.change_words(Family::V4, ip, &[(ipv4::DADDR, New::In(R5))]);
        self.keep(CHANGE, R1, "change of the address");
        let at = self.offset(Family::V4, 0, None);
        self.replace_l4(at, Proto::Tcp, PORTS, 0);
        self.kept(R1, CHANGE, "change of the address");
        self.replace_l4(at, Proto::Tcp, R1, PSEUDO_HDR);
        self.window_again(IP, ipv4::LEN + tcp::LEN, self.pass);
        self.bind(plain);
    }

    /// `source =` the address that the pod knows the remote end by.
    pub(super) fn translated_source(&mut self, source: Reg) {
        let plain = self.label("source_as_it_is");
        self.load_flow(R1, value::OTHER);
        self.jump_if_note(Cond::eq32(R1, 0_u32), plain, "not translated");
        self.load_raw(source, &OTHER_KEY.window(), key::ADDRESSES);
        self.op(Insn::rsh64(source, 32));
        self.bind(plain);
    }

    /// The source port becomes the one that the pod knows. `PORTS` is what the TCP header has changed by. Uses R2 and R3, keeps R1.
    pub(super) fn translate_in(&mut self, tcp: &Window) {
        let plain = self.label("port_as_it_is");
        self.load_flow(R2, value::OTHER);
        self.jump_if_note(Cond::eq32(R2, 0_u32), plain, "not translated");
        self.load_raw(R2, &OTHER_KEY.window(), PORTS_AND_NONE);
        self.op(Insn::rsh32(R2, 16_u32));
        self.load_raw(R3, tcp, l4::SPORT);
        self.store_raw(tcp, l4::SPORT, R2);
        self.op(Insn::xor32(R3, 0xffff_u32));
        // The upper half is ones, or nothing as well.
        self.op(Insn::and32(PORTS, 0xffff_u32));
        self.op_note(Insn::add32(PORTS, R3), "less the old one");
        self.op_note(Insn::add32(PORTS, R2), "and the new one");
        self.bind(plain);
    }

    /// `address, port =` the remote end in the key.
    fn remote(&mut self, address: Reg, port: Reg) {
        let of_key = KEY.window();
        self.load_raw(address, &of_key, key::ADDRESSES);
        self.op(Insn::rsh64(address, 32));
        self.load_raw(port, &of_key, key::PORTS);
        self.op_note(Insn::rsh32(port, 16_u32), "the remote end");
    }

    /// The key with the flow's other end in place of its remote one. Uses R1 and R2.
    fn make_other_key(&mut self) {
        let (of_key, other) = (KEY.window(), OTHER_KEY.window());
        self.load_flow(R1, value::OTHER);
        self.op(Insn::lsh64(R1, 32));
        self.load_raw(R2, &of_key, key::ADDRESSES);
        self.op_note(Insn::mov32(R2, R2), "the local one");
        self.op(Insn::or64(R1, R2));
        self.store_raw(&other, key::ADDRESSES, R1);
        self.load_flow(R1, value::OTHER_PORT);
        self.op(Insn::lsh32(R1, 16_u32));
        self.load_raw(R2, &of_key, key::PORTS);
        self.op_note(Insn::and32(R2, 0xffff_u32), "the local one");
        self.op(Insn::or32(R1, R2));
        self.store_raw(&other, PORTS_AND_NONE, R1);
    }

    /// In the same place, the key without its remote end. Uses R1.
    fn make_local_key(&mut self) {
        let (of_key, local) = (KEY.window(), OTHER_KEY.window());
        self.load_raw(R1, &of_key, key::ADDRESSES);
        self.op_note(Insn::mov32(R1, R1), "the local one");
        self.store_raw(&local, key::ADDRESSES, R1);
        self.load_raw(R1, &of_key, key::PORTS);
        self.op_note(Insn::and32(R1, 0xffff_u32), "the local one");
        self.store_raw(&local, PORTS_AND_NONE, R1);
    }
}
