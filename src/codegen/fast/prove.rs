//! What netfilter has let through: proofs, and the end of them.

use asm::{Cond, Insn, Label, Reg::*};

use super::{ACKED, END, FORM, LENGTH, NOW, PROBE_FLAGS, PROBE_TRANSLATED, PROBE_URGENT, Way};
use crate::codegen::emit::{Emit, Window};
use crate::flow::value;
use crate::packet::tcp;

/// What has come out of netfilter.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Real,
    Probe,
}

impl Emit {
    /// A packet of the flow has come out of netfilter, as `kind` says; what it was about is raised if it is higher.
    /// Uses R1 to R3.
    pub(super) fn learn(&mut self, way: &Way, kind: Kind) {
        let name = |part: &str| format!("{part}_{}", way.name);
        let field = match kind {
            Kind::Real => way.real,
            Kind::Probe => way.probed,
        };
        if let Kind::Real = kind {
            // The first one says where the flow is, whatever was known of an earlier one.
            let known = self.label(name("known"));
            let (proven, ends) = (self.label(name("proven")), [way.end, way.ahead]);
            self.load_flow(R1, field);
            self.jump_if_note(Cond::ne32(R1, 0_u32), known, "not the first");
            self.kept(R1, END, "end");
            ends.into_iter().for_each(|end| self.store_flow(end, R1));
            self.kept(R1, ACKED, "acknowledged");
            self.store_flow(way.back.acked, R1);
            self.goto(proven);
            self.bind(known);
            self.raise(way);
            self.bind(proven);
        } else {
            self.raise(way);
        }
        self.set_flow(field, 1);
        self.kept(R1, NOW, "now");
        self.store_flow(way.proven, R1);
    }

    pub(super) fn raise(&mut self, way: &Way) {
        for (slot, field) in [(END, way.end), (ACKED, way.back.acked)] {
            let (higher, done) =
                (self.label(format!("raise_{}", field.name)), self.label(format!("raised_{}", field.name)));
            self.load_flow(R1, field);
            self.kept(R2, slot, "that of the packet");
            self.jump_if_before(R1, R2, higher, "it is higher");
            self.goto(done);
            self.bind(higher);
            self.store_flow(field, R2);
            self.bind(done);
        }
    }

    /// Both proofs are missing from here on.
    pub(super) fn forget_proofs(&mut self) {
        self.set_flow(value::PROOFS, 0);
        self.set_flow(value::OUT, 0);
        self.set_flow(value::IN, 0);
    }

    /// A FIN or RST has been seen: what is left of the flow stays on the long way.
    pub(super) fn close_flow(&mut self) {
        self.set_flow(value::CLOSING, 1);
        self.set_flow(value::NOTED, 0);
        self.forget_proofs();
    }

    /// Whether a packet has just the form of a probe; those that have not go to `not`. Keeps what is probed. Uses R1.
    pub(super) fn unless_probe_form(&mut self, tcp: &Window, not: Label) {
        self.load(R1, tcp, tcp::URGENT);
        self.op(Insn::sub32(R1, PROBE_TRANSLATED));
        self.jump_if(Cond::gt32(R1, PROBE_URGENT - PROBE_TRANSLATED), not);
        self.keep(FORM, R1, "0: a flow that is translated");
        self.load(R1, tcp, tcp::OFFSET_FLAGS);
        self.jump_if_note(Cond::ne32(R1, PROBE_FLAGS), not, "not 20 bytes of TCP, and ACK");
        self.kept(R1, LENGTH, "length of the data");
        self.jump_if_note(Cond::ne64(R1, 0), not, "data");
    }
}
