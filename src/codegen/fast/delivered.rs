//! Egress of a pod's veth: packets as they are delivered, past netfilter.
//!
//! What comes in: any frame. What goes out: all of it as it is, but for probes, which end here. Nothing is sent from
//! here; what it says is remembered.

use std::net::Ipv4Addr;

use asm::{Cond, Insn, Program, Reg::*};

use super::{ANY, FLOW, IN, Kind};
use crate::codegen::bypass;
use crate::codegen::emit::{Emit, PORTS, Window};
use crate::codegen::validate::{IpHeader, Least, validate};
use crate::codegen::{Link, Options, shared_ends};
use crate::flow::{OPENED_BY_PEER, OPENED_UNSEEN, UNSCALED, value};
use crate::ir::{Family, Proto};
use crate::nodes::Nodes;
use crate::packet::{ipv4, tcp};

/// From the pods of other hosts, and from Services, to pods of the host `own`.
///
/// # Errors
///
/// The program is larger than a kernel can address: the nodes are too many.
pub fn compile_delivered(nodes: &Nodes, own: Ipv4Addr) -> Result<Program, asm::Error> {
    let mut e = Emit::new(Options::pass_gso(Link::Ethernet));
    emit(&mut e, nodes, own);
    shared_ends(&mut e);
    e.finish()
}

fn emit(e: &mut Emit, nodes: &Nodes, own: Ipv4Addr) {
    let (here, there) = (nodes.of(|host| host == own), nodes.of(|host| host != own));
    let (packet, cold) = e.enter_tcp();
    let (ip, tcp) = (packet.at(0), packet.at(ipv4::LEN));
    bypass::unless_pod(e, &ip, ipv4::DADDR, &here, "delivered_daddr", e.pass);
    validate(e, Least::header(Proto::Tcp), IpHeader::Plain(Family::V4));
    e.keep_sequence(&tcp, e.pass);
    e.make_key(&ip, &tcp, &IN);
    e.keep_now();
    e.find_flow();
    e.ignore_alias();

    let [real, syn, probed] = ["real", "syn", "probed"].map(|name| e.label(name));
    let fail = e.fail();
    e.unless_probe_form(&tcp, real);
    e.jump_if(Cond::ne64(FLOW, 0), probed);
    // Not known. Of those that are no pods, it may be anything.
    bypass::unless_pod(e, &ip, ipv4::SADDR, &there, "probed_saddr", e.pass);
    e.goto(fail);
    e.bind(probed);
    e.unless_here(fail);
    e.unless_form_fits(fail);
    e.learn(&IN, Kind::Probe);
    e.goto(fail);

    e.bind(real);
    e.load(R1, &tcp, tcp::FLAGS);
    e.jump_if_note(Cond::set32(R1, tcp::SYN), syn, "SYN");
    e.jump_if_note(Cond::set32(R1, tcp::FIN | tcp::RST), e.pass, "FIN or RST");
    e.op(Insn::and32(R1, tcp::ACK));
    e.jump_if_note(Cond::eq32(R1, 0_u32), e.pass, "no ACK");
    e.jump_if_note(Cond::eq64(FLOW, 0), e.pass, "not known");
    e.unless_here(e.pass);
    e.learn(&IN, Kind::Real);
    e.goto(e.pass);

    e.bind(syn);
    let [of_service, opening] = ["of_service", "opening"].map(|name| e.label(name));
    bypass::unless_pod(e, &ip, ipv4::SADDR, &there, "opens_saddr", of_service);
    e.goto(opening);
    // Nobody but a pod opens a connection that is remembered here.
    e.bind(of_service);
    e.jump_if_note(Cond::eq64(FLOW, 0), e.pass, "not known");
    e.load(R1, &tcp, tcp::FLAGS);
    e.op(Insn::and32(R1, tcp::ACK));
    e.jump_if_note(Cond::eq32(R1, 0_u32), e.pass, "it opens");
    e.bind(opening);
    opens(e, &tcp);
    e.pull(cold);
}

/// A SYN: a new entry. A SYN-ACK adds to that of the SYN which it answers.
fn opens(e: &mut Emit, tcp: &Window) {
    let [new, unseen, opened] = ["new", "unseen", "opened"].map(|name| e.label(name));
    e.read_scale(tcp, PORTS, "in");
    e.op(Insn::mov32(PORTS, R0));
    e.load(R1, tcp, tcp::FLAGS);
    e.op(Insn::and32(R1, tcp::ACK));
    e.jump_if_note(Cond::eq32(R1, 0_u32), new, "it opens");
    e.jump_if_note(Cond::eq64(FLOW, 0), unseen, "not known");
    e.store_flow(value::SCALE_IN, PORTS);
    e.forget_proofs();
    e.goto(e.pass);

    e.bind(new);
    let [by_peer, by_none] =
        [OPENED_BY_PEER, OPENED_UNSEEN].map(|by| u32::from_le_bytes([0, by, UNSCALED, 0]));
    e.op(Insn::mov32(R1, by_peer));
    e.goto(opened);
    e.bind(unseen);
    e.op(Insn::mov32(R1, by_none));
    e.bind(opened);
    e.op(Insn::lsh32(PORTS, 24_u32));
    e.op_note(Insn::or32(R1, PORTS), value::SCALE_IN.name);
    e.clear_value();
    e.open_value(R1);
    e.put_flow(ANY);
    e.goto(e.pass);
}
