//! Ingress of a pod's veth: packets as the pod sends them.
//!
//! What comes in: any frame. What goes out: packets of flows that are proven go to the host's interface as `bypass` would send
//! them, all others go on to the stack as they are. Copies of packets become probes.

use std::net::Ipv4Addr;

use asm::{Cond, Helper, Insn, Label, Program, Reg::*, Size};

use super::{ANY, FLOW, Fast, MINE, NOEXIST, NOW, OUT, PODS, REVIVE};
use crate::codegen::bypass;
use crate::codegen::emit::{Emit, IP, PORTS, Window};
use crate::codegen::segment::BPF_F_INGRESS;
use crate::codegen::validate::{IpHeader, Least, validate};
use crate::codegen::{Link, Options, shared_ends};
use crate::flow::{LIFE, OPENED_BY_PEER, OPENED_HERE, OPENED_UNSEEN, PAUSE, UNSCALED, value};
use crate::ir::{Family, Proto};
use crate::nodes::Nodes;
use crate::packet::{Field, ethernet, ipv4, skb, tcp};

/// Of the pods of the host `own` to those of the others, and to Services.
///
/// # Errors
///
/// The program is larger than a kernel can address: the nodes are too many.
pub fn compile_leaving(fast: Fast, nodes: &Nodes, own: Ipv4Addr) -> Result<Program, asm::Error> {
    let mut e = Emit::new(Options::pass_gso(Link::Ethernet));
    e.onward.interface = fast.host;
    emit(&mut e, fast, nodes, own);
    shared_ends(&mut e);
    e.finish()
}

fn emit(e: &mut Emit, fast: Fast, nodes: &Nodes, own: Ipv4Addr) {
    let (here, there) = (nodes.of(|host| host == own), nodes.of(|host| host != own));
    let (packet, cold) = e.enter_tcp();
    let (ip, tcp) = (packet.at(0), packet.at(ipv4::LEN));
    bypass::unless_pod(e, &ip, ipv4::SADDR, &here, "leaves_saddr", e.pass);
    validate(e, Least::header(Proto::Tcp), IpHeader::Plain(Family::V4));
    e.keep_sequence(&tcp, e.pass);
    e.make_key(&ip, &tcp, &OUT);
    e.keep_now();
    e.find_flow();

    let [probe, answer, syn, close, new, known] =
        ["probe", "answer", "syn", "close", "new", "known"].map(|name| e.label(name));
    e.if_copy(probe, answer);
    e.load(R1, &tcp, tcp::FLAGS);
    e.jump_if_note(Cond::set32(R1, tcp::URG), e.pass, "URG");
    e.load(R2, &tcp, tcp::URGENT);
    e.jump_if_note(Cond::ne32(R2, 0_u32), e.pass, "in use");
    e.jump_if_note(Cond::set32(R1, tcp::SYN), syn, "SYN");
    e.op(Insn::mov32(R2, R1));
    e.op(Insn::and32(R2, tcp::ACK | tcp::FIN | tcp::RST));
    e.jump_if_note(Cond::eq32(R2, 0_u32), e.pass, "no ACK");
    e.jump_if_note(Cond::eq64(FLOW, 0), new, "not known");
    e.unless_alias(e.pass);
    e.jump_if_note(Cond::set32(R1, tcp::FIN | tcp::RST), close, "FIN or RST");
    e.bind(known);
    whose(e);
    revive(e);
    e.kept(R1, NOW, "now");
    e.store_flow(value::NOTED, R1);
    let old = e.label("old");
    e.fast_or(&OUT, e.pass, old);

    // What has been copied may have moved.
    e.window_again(IP, ipv4::LEN + tcp::LEN, e.pass);
    e.translate_out(&ip, &tcp);
    bypass::send(e, &ip, &tcp, nodes);

    e.bind(old);
    e.set_flow(value::PROOFS, 0);
    e.goto(e.pass);

    e.bind(new);
    e.jump_if_note(Cond::set32(R1, tcp::FIN | tcp::RST), e.pass, "FIN or RST");
    bypass::unless_pod(e, &ip, ipv4::DADDR, &there, "begins_daddr", e.pass);
    begin(e, known);
    e.bind(syn);
    let [elsewhere, far] = ["elsewhere", "far"].map(|name| e.label(name));
    bypass::unless_pod(e, &ip, ipv4::DADDR, &there, "opens_daddr", elsewhere);
    opens(e, &tcp);
    e.bind(elsewhere);
    bypass::unless_pod(e, &ip, ipv4::DADDR, &here, "opens_near", far);
    e.goto(e.pass);
    e.bind(far);
    e.opens_elsewhere(&tcp);
    e.bind(close);
    e.close_flow();
    e.goto(e.pass);
    e.bind(probe);
    let fail = e.fail();
    e.jump_if_note(Cond::eq64(FLOW, 0), fail, "forgotten meanwhile");
    e.unless_alias(fail);
    e.unless_here(fail);
    e.make_probe(&OUT);
    e.goto(e.pass);
    e.bind(answer);
    e.jump_if_note(Cond::eq64(FLOW, 0), fail, "forgotten meanwhile");
    e.unless_alias(fail);
    answers(e, fast);
    e.pull(cold);
}

/// The flow is that of the pod behind this interface, or becomes it. A pod that is there, and has the flow, keeps it as long as
/// it is proven: so no other can take it by sending with its address.
fn whose(e: &mut Emit) {
    let [take, ours] = ["take", "ours"].map(|name| e.label(name));
    // What is nobody's yet has no pod that could be there.
    e.find_device(take);
    e.load_skb(R2, skb::IFINDEX);
    e.jump_if(Cond::eq32(R0, R2), ours);
    for proof in [value::OUT, value::IN] {
        e.jump_if_old(proof, LIFE, take);
    }
    e.goto(e.pass);

    e.bind(take);
    e.load_skb(R1, skb::IFINDEX);
    e.keep(MINE[0], R1, "this interface");
    e.op_note(Insn::ld_map(R1, PODS), "pods");
    e.address_of(R2, MINE[0]);
    e.op(Insn::call(Helper::MapLookupElem));
    e.jump_if_note(Cond::eq64(R0, 0), e.pass, "no pod's");
    // In this order: another processor must not find the new pod with proofs of the old.
    e.forget_proofs();
    e.op(Insn::load(Size::W, R1, R0, 0));
    e.store_flow(value::POD, R1);
    e.load_skb(R1, skb::IFINDEX);
    e.store_flow(value::INTERFACE, R1);
    let header = Window::of_link_header(ethernet::LEN);
    let macs = value::GATEWAY_MAC.into_iter().chain(value::POD_MAC);
    for (at, field) in (0..).step_by(2).zip(macs) {
        e.load_raw(R1, &header, Field { name: "ether.dst, ether.src", offset: at, size: Size::H });
        e.store_flow(field, R1);
    }
    e.bind(ours);
}

/// After long rest, of a flow that the peer has opened: conntrack may have forgotten it, and policies may refuse what seems to
/// be a connection from here. So it is shown an answer from there first.
fn revive(e: &mut Emit) {
    let not = e.label("not_revived");
    e.load_flow(R1, value::OPENER);
    e.jump_if(Cond::ne32(R1, u32::from(OPENED_BY_PEER)), not);
    e.load_flow(R1, value::NOTED);
    e.jump_if_note(Cond::eq64(R1, 0), not, "has not sent");
    e.jump_if_young(value::NOTED, PAUSE, not);
    e.unless_stale(not);
    e.copy_as(REVIVE, "a copy, to become an answer");
    e.bind(not);
}

/// An entry of which nothing is known.
fn begin(e: &mut Emit, known: Label) {
    e.clear_value();
    let opening = u32::from_le_bytes([0, OPENED_UNSEEN, UNSCALED, UNSCALED]);
    e.op(Insn::mov32(R1, opening));
    e.open_value(R1);
    e.put_flow(NOEXIST);
    e.find_flow();
    e.jump_if_note(Cond::eq64(FLOW, 0), e.pass, "no room");
    e.goto(known);
}

/// A SYN: a new entry, in which a SYN-ACK keeps what the SYN before it has said.
fn opens(e: &mut Emit, tcp: &Window) {
    let ready = e.label("syn_ready");
    e.load(R1, tcp, tcp::FLAGS);
    let [here, unseen] = [OPENED_HERE, OPENED_UNSEEN].map(|by| u32::from_le_bytes([0, by, 0, UNSCALED]));
    e.op(Insn::mov32(PORTS, here));
    e.op(Insn::and32(R1, tcp::ACK));
    e.jump_if_note(Cond::eq32(R1, 0_u32), ready, "it opens");
    e.op(Insn::mov32(PORTS, unseen));
    e.jump_if(Cond::eq64(FLOW, 0), ready);
    e.load_flow(PORTS, value::OPENER);
    e.op(Insn::lsh32(PORTS, 8_u32));
    e.load_flow(R1, value::SCALE_IN);
    e.op(Insn::lsh32(R1, 24_u32));
    e.op(Insn::or32(PORTS, R1));
    e.bind(ready);
    e.read_scale(tcp, FLOW, "out");
    e.op(Insn::lsh32(R0, 16_u32));
    e.op_note(Insn::or32(PORTS, R0), value::SCALE_OUT.name);
    e.clear_value();
    e.open_value(PORTS);
    e.put_flow(ANY);
    e.goto(e.pass);
}

/// An answer to the copy, as if it came from the peer by the overlay.
fn answers(e: &mut Emit, fast: Fast) {
    e.make_answer(&OUT);
    e.as_from_overlay(fast.overlay);
    e.op_note(Insn::mov32(R1, fast.overlay.interface), "the overlay's device");
    e.redirect(BPF_F_INGRESS);
}
