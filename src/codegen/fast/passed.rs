//! Egress of the overlay's interface, past netfilter: what `bypass` is about to send on.
//!
//! What comes in: a packet that a rule bypasses, not changed yet. Goes on with it as it is, but for probes, which end here.
//! A probe to a node that is not sent to any more goes on by the overlay: it ends at the pod's veth there, or with its TTL.

use asm::{Cond, Insn, Reg::*};

use super::{FLOW, Kind, OUT};
use crate::codegen::bypass;
use crate::codegen::emit::{Emit, Window};
use crate::flow::{LIFE, value};
use crate::nodes::Nodes;
use crate::packet::tcp;

/// `L4_LEN` is the length of L4, and is lost, as are `PORTS`.
pub(in crate::codegen) fn passed(e: &mut Emit, ip: &Window, tcp: &Window, nodes: &Nodes) {
    let [real, learned] = ["real", "learned"].map(|name| e.label(name));
    let fail = e.fail();
    bypass::unless_between(e, ip, (nodes, nodes), "passed");
    e.keep_sequence(tcp, learned);
    e.make_key(ip, tcp, &OUT);
    e.keep_now();
    e.find_flow();
    e.follow_alias();

    e.unless_probe_form(tcp, real);
    e.jump_if_note(Cond::eq64(FLOW, 0), fail, "not known");
    e.unless_form_fits(fail);
    e.jump_if_old(value::NOTED, LIFE, fail);
    e.learn(&OUT, Kind::Probe);
    e.goto(fail);

    e.bind(real);
    e.load(R1, tcp, tcp::FLAGS);
    let (no_syn, opens) = (e.label("no_syn"), e.label("opens"));
    e.op(Insn::mov32(R2, R1));
    e.op(Insn::and32(R2, tcp::SYN));
    e.jump_if(Cond::eq32(R2, 0_u32), no_syn);
    e.op(Insn::mov32(R2, R1));
    e.op(Insn::and32(R2, tcp::ACK));
    e.jump_if_note(Cond::eq32(R2, 0_u32), opens, "a SYN alone");
    e.jump_if_note(Cond::eq64(FLOW, 0), learned, "not known");
    e.forget_proofs();
    e.goto(learned);
    e.bind(opens);
    e.opens_translated(learned);
    e.bind(no_syn);
    e.jump_if_note(Cond::eq64(FLOW, 0), learned, "not known");
    e.jump_if_note(Cond::set32(R1, tcp::FIN | tcp::RST), learned, "FIN or RST");
    e.op(Insn::and32(R1, tcp::ACK));
    e.jump_if_note(Cond::eq32(R1, 0_u32), learned, "no ACK");
    e.jump_if_old(value::NOTED, LIFE, learned);
    e.learn(&OUT, Kind::Real);
    e.bind(learned);
}
