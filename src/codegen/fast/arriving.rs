//! Ingress of the host's interface: what another node's `bypass`, or its fast path, has sent.
//!
//! What comes in: a packet that `unbypass` knows both pods of, not changed yet. What goes out: packets of flows that are
//! proven go into their pod, as if its veth had delivered them; all others go on with `unbypass` as they came. Copies of
//! packets become probes, which take `unbypass`'s way.
//!
//! The kernel does not look at the link addresses of what is put behind a veth (`bpf_redirect_peer`), so whose veth it is has to be
//! certain: the entry names the pod by a number, and only as long as its interface is there does that lead to one.

use asm::{Cond, Helper, Insn, Reg::*};

use super::{FLOW, IN, KEY, MINE, NOW, REVIVE};
use crate::codegen::bypass::{self, DESTINATION, SOURCE};
use crate::codegen::emit::{Emit, IP, Window};
use crate::codegen::segment::BPF_F_INGRESS;
use crate::flow::{OPENED_HERE, PAUSE, key, value};
use crate::packet::{ethernet, ipv4, l4, tcp};

const KEPT_SOURCE: super::Slot = MINE[0];
const KEPT_DESTINATION: super::Slot = MINE[1];
const TARGET: super::Slot = MINE[2];

/// `SOURCE` and `DESTINATION` are the pods' addresses as they are in packets, and are again when it is done. `L4_LEN` is the
/// length of L4, and is lost.
pub(in crate::codegen) fn arriving(e: &mut Emit, ip: &Window, tcp: &Window) {
    let [slow, close, probe, answer, not_revived] =
        ["slow", "close", "probe", "answer", "not_revived"].map(|name| e.label(name));
    let fail = e.fail();
    e.keep(KEPT_SOURCE, SOURCE, "the pod that sends");
    e.keep(KEPT_DESTINATION, DESTINATION, "the pod it is for");
    e.keep_sequence(tcp, slow);
    make_key(e, tcp);
    e.keep_now();
    e.find_flow();
    e.follow_alias();
    e.if_copy(probe, answer);
    e.jump_if_note(Cond::eq64(FLOW, 0), slow, "not known");
    e.load(R1, tcp, tcp::FLAGS);
    e.jump_if_note(Cond::set32(R1, tcp::SYN), slow, "SYN");
    e.jump_if_note(Cond::set32(R1, tcp::FIN | tcp::RST), close, "FIN or RST");

    // As `leaving` does it, the other way round.
    e.load_flow(R1, value::OPENER);
    e.jump_if(Cond::ne32(R1, u32::from(OPENED_HERE)), not_revived);
    e.load_flow(R1, value::POD);
    e.jump_if_note(Cond::eq32(R1, 0_u32), not_revived, "has not sent");
    // What conntrack has forgotten, nothing translates.
    e.load_flow(R1, value::OTHER);
    e.jump_if_note(Cond::ne32(R1, 0_u32), not_revived, "translated");
    e.jump_if_young(value::ASKED_IN, PAUSE, not_revived);
    e.unless_stale(not_revived);
    e.kept(R1, NOW, "now");
    e.store_flow(value::ASKED_IN, R1);
    e.copy_as(REVIVE, "a copy, to become an answer");
    e.bind(not_revived);

    e.fast_or(&IN, slow, slow);
    e.find_device(slow);
    e.keep(TARGET, R0, "the pod's interface");
    e.window_again(IP, ipv4::LEN + tcp::LEN, e.pass);
    both(e);
    e.translated_source(SOURCE);
    bypass::restore(e, ip, tcp);
    e.translate_in(tcp);
    let header = Window::of_link_header(ethernet::LEN);
    // Only now: the change of the addresses is in R1.
    e.op(Insn::mov32(R2, R1));
    e.write_macs(&header, value::POD_MAC, value::GATEWAY_MAC);
    e.op_note(Insn::mov32(IP, R2), "change of the addresses");
    bypass::finish_plain(e);
    e.kept(R1, TARGET, "the pod's interface");
    e.op(Insn::mov32(R2, 0_u32));
    e.op(Insn::call(Helper::RedirectPeer));
    e.op(Insn::exit());

    e.bind(close);
    e.close_flow();
    e.goto(slow);

    e.bind(probe);
    e.jump_if_note(Cond::eq64(FLOW, 0), fail, "forgotten meanwhile");
    e.make_probe(&IN);
    e.as_from_overlay(e.onward);
    e.op_note(Insn::mov32(R1, e.onward.interface), "the overlay's device");
    e.redirect(BPF_F_INGRESS);

    e.bind(answer);
    e.jump_if_note(Cond::eq64(FLOW, 0), fail, "forgotten meanwhile");
    e.make_answer(&IN);
    e.find_device(fail);
    e.keep(TARGET, R0, "the pod's interface");
    e.window_again(IP, 0, fail);
    e.write_macs(&header, value::GATEWAY_MAC, value::POD_MAC);
    e.kept(R1, TARGET, "the pod's interface");
    e.redirect(BPF_F_INGRESS);

    e.bind(slow);
    e.window_again(IP, ipv4::LEN + tcp::LEN, e.pass);
    both(e);
}

fn both(e: &mut Emit) {
    e.kept(SOURCE, KEPT_SOURCE, "the pod that sends");
    e.kept(DESTINATION, KEPT_DESTINATION, "the pod it is for");
}

/// The key, of addresses that are in registers.
fn make_key(e: &mut Emit, tcp: &Window) {
    let of_key = KEY.window();
    e.kept(R1, KEPT_SOURCE, "remote");
    e.op(Insn::lsh64(R1, 32));
    e.kept(R2, KEPT_DESTINATION, "local");
    e.op(Insn::or64(R1, R2));
    e.store_raw(&of_key, key::ADDRESSES, R1);
    e.load_raw(R1, tcp, l4::PORTS);
    e.swap_halves();
    e.store_raw(&of_key, key::PORTS, R1);
}
