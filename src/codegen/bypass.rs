//! `bypass` and `unbypass`: TCP past an overlay, from node to node.
//!
//! ```text
//! before   pod     > pod    URG clear, urgent pointer 0
//! bypass   host    > host   URG clear, urgent pointer: the last byte of the source, that of the destination
//! ```
//!
//! and back: what the addresses of a host's pods have in common is known from the nodes. No byte is pushed. A packet
//! whose urgent pointer is in use, or both of whose last bytes are 0, goes on as it was, by the overlay.
//!
//! On egress of the overlay's device, after all that netfilter and routing have done for the pod's packet, it goes
//! straight to the host's interface (`bpf_redirect_neigh`: the kernel's route and neighbour, not netfilter again). On ingress
//! of that interface, before netfilter, it gets its addresses back and is handed to the overlay's device, as if it
//! had come that way. So policies and NAT meet the packets of pods in the places, and on the interfaces, that
//! they know.
//!
//! The sum of the TCP header changes by the urgent pointer, that of the pseudo-header by the addresses; the kernel is told
//! of both, since a checksum that is still to be finished has only the second one in it (`BPF_F_PSEUDO_HDR`).

use std::net::Ipv4Addr;

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*};

use super::Link;
use super::checksum::PSEUDO_HDR;
use super::counters::Reason;
use super::emit::{Emit, IP, PORTS, Window};
use super::frame::Offset;
use super::inplace::{self, Headers};
use super::nat::New;
use super::search::{Run, Search, search};
use super::segment::BPF_F_INGRESS;
use crate::ir::{Family, Proto};
use crate::nodes::Nodes;
use crate::packet::{ethernet, ipv4, tcp};

/// Where packets that are taken off their way go on: the host's interface for `bypass`, the overlay's for `unbypass`. Known
/// where a program is attached, and all zeros elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Onward {
    pub interface: u32,
    /// What the kernel takes for its own address there, or it would not look at the packet (`eth_type_trans`).
    pub mac: [u8; 6],
}

/// An address that is looked for.
const KEY: Reg = R2;
/// What is found for the source and for the destination. Neither survives a helper call as that.
const SOURCE: Reg = R5;
const DESTINATION: Reg = PORTS;

pub(super) fn emit(e: &mut Emit, name: &str, nodes: &Nodes) {
    let change = |e: &mut Emit, Headers { ip, tcp, kind }: &Headers<'_>| {
        inplace::pass_unless_free(e, tcp);
        for (end, field, found) in [("daddr", ipv4::DADDR, DESTINATION), ("saddr", ipv4::SADDR, SOURCE)] {
            e.load(KEY, ip, field);
            find(e, &format!("{end}_host{kind}"), found, &pods(nodes));
        }
        e.load(R1, ip, ipv4::SADDR_LAST);
        e.op(Insn::lsh32(R1, 8_u32));
        e.load(R2, ip, ipv4::DADDR_LAST);
        e.op(Insn::or32(R1, R2));
        e.pass_if(Cond::eq32(R1, 0_u32), Reason::NoPeer, "would hide nothing");
        e.store(tcp, tcp::URGENT, R1);
        for found in [DESTINATION, SOURCE] {
            e.op_note(Insn::be32(found), "a host's address");
        }
        e.change_words(
            Family::V4,
            ip,
            &[(ipv4::SADDR, New::In(SOURCE)), (ipv4::DADDR, New::In(DESTINATION))],
        );
        e.load_raw(PORTS, tcp, tcp::URGENT);
        e.op_note(Insn::mov32(IP, R1), "change of the addresses");
    };
    inplace::routine(e, Family::V4, name, change, |e, tcp| {
        finish(e, tcp);
        // The kernel finds route and neighbour: `bpf_redirect_neigh(interface, NULL, 0, 0)`.
        e.op_note(Insn::mov32(R1, e.onward.interface), "the host's interface");
        for unused in [R2, R3, R4] {
            e.op(Insn::mov64(unused, 0));
        }
        e.op(Insn::call(Helper::RedirectNeigh));
        e.op(Insn::exit());
    });
}

pub(super) fn emit_unbypass(e: &mut Emit, name: &str, nodes: &Nodes) {
    let change = |e: &mut Emit, Headers { ip, tcp, kind }: &Headers<'_>| {
        inplace::pass_if_urgent(e, tcp);
        e.load(R1, tcp, tcp::URGENT);
        e.pass_if(Cond::eq32(R1, 0_u32), Reason::NotBypassed, "hides nothing");
        for (end, field, found) in [("daddr", ipv4::DADDR, DESTINATION), ("saddr", ipv4::SADDR, SOURCE)] {
            e.load(KEY, ip, field);
            find(e, &format!("{end}_pods{kind}"), found, &hosts(nodes));
        }
        for (last, found) in [(tcp::URGENT_SECOND, DESTINATION), (tcp::URGENT_FIRST, SOURCE)] {
            e.load(R1, tcp, last);
            e.op_note(Insn::or32(found, R1), "a pod's address");
            e.op(Insn::be32(found));
        }
        e.change_words(
            Family::V4,
            ip,
            &[(ipv4::SADDR, New::In(SOURCE)), (ipv4::DADDR, New::In(DESTINATION))],
        );
        e.load_raw(PORTS, tcp, tcp::URGENT);
        e.op_note(Insn::xor32(PORTS, u32::MAX), "the sum loses it");
        e.store_const(tcp, tcp::URGENT, 0);
        if e.link == Link::Ethernet {
            let [a, b, c, d, x, y] = e.onward.mac;
            let header = Window::of_link_header(ethernet::LEN);
            let [upper, lower] = ethernet::DESTINATION;
            e.store_const(&header, upper, u32::from_be_bytes([a, b, c, d]));
            e.store_const(&header, lower, u32::from(u16::from_be_bytes([x, y])));
        }
        e.op_note(Insn::mov32(IP, R1), "change of the addresses");
    };
    inplace::routine(e, Family::V4, name, change, |e, tcp| {
        finish(e, tcp);
        e.op_note(Insn::mov32(R1, e.onward.interface), "the overlay's device");
        e.redirect(BPF_F_INGRESS);
    });
}

/// The checksum, and what the rule says besides.
fn finish(e: &mut Emit, tcp: Offset) {
    e.replace_l4(tcp, Proto::Tcp, IP, PSEUDO_HDR);
    e.update_tcp(tcp, PORTS);
    e.count(0);
    e.set_mark();
}

/// Where an address leads: to what is loaded for it, or nowhere.
type Place = Option<Ipv4Addr>;

/// From the addresses of pods to that of their host.
fn pods(nodes: &Nodes) -> Vec<Run<Place>> {
    runs(nodes.iter().map(|node| (node.first.to_bits(), node.last.to_bits(), node.host)))
}

/// From the address of a host to what those of its pods have in common.
fn hosts(nodes: &Nodes) -> Vec<Run<Place>> {
    runs(nodes.hosts().into_iter().map(|(host, pods)| (host.to_bits(), host.to_bits(), pods)))
}

/// Ranges in ascending order, and the gaps between them. Neighbours that lead to one place are one run.
fn runs(ranges: impl Iterator<Item = (u32, u32, Ipv4Addr)>) -> Vec<Run<Place>> {
    let mut runs: Vec<Run<Place>> = Vec::new();
    let mut next = Some(0);
    for (first, last, to) in ranges {
        if let Some(before) = first.checked_sub(1).filter(|_| next != Some(first)) {
            runs.push(Run { last: before, then: None });
        }
        match runs.last_mut().filter(|run| run.then == Some(to)) {
            Some(run) => run.last = last,
            None => runs.push(Run { last, then: Some(to) }),
        }
        next = last.checked_add(1);
    }
    if next.is_some() {
        runs.push(Run { last: u32::MAX, then: None });
    }
    runs
}

/// `found =` what `KEY` leads to, or `pass`.
fn find(e: &mut Emit, name: &str, found: Reg, runs: &[Run<Place>]) {
    let (known, unknown) = (e.label(name), e.because(Reason::NoPeer));
    search(&mut Find { e, name, found, known, unknown }, KEY, 0, runs);
    e.bind(known);
}

struct Find<'a> {
    e: &'a mut Emit,
    name: &'a str,
    found: Reg,
    known: Label,
    unknown: Label,
}

impl Search for Find<'_> {
    type Place = Place;

    fn emit(&mut self) -> &mut Emit {
        self.e
    }

    fn go(&mut self, place: Place) {
        match place {
            Some(address) => {
                self.e.op_note(Insn::mov32(self.found, address.to_bits()), &address.to_string());
                self.e.goto(self.known);
            }
            None => self.e.goto(self.unknown),
        }
    }

    fn label(&mut self, place: Place) -> Option<Label> {
        place.is_none().then_some(self.unknown)
    }

    fn note(&self, op: &str, value: u32) -> String {
        format!("{op} {}", Ipv4Addr::from(value))
    }

    fn other(&mut self, word: &str, value: u32) -> Label {
        let name = format!("{}_{word}_{}", self.name, Ipv4Addr::from(value));
        self.e.label(name)
    }
}
