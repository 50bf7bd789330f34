//! `bypass` and `unbypass`: TCP past an overlay, from node to node.
//!
//! ```text
//! before   pod     > pod    URG clear, urgent pointer 0
//! bypass   host    > host   URG clear, urgent pointer: the number of the source, that of the destination
//! ```
//!
//! and back: which pod of a host has which number is known from the nodes. In most clusters, it is the last byte of its
//! address. No byte is pushed. A packet whose urgent pointer is in use, or both of whose numbers are 0, goes on as it was,
//! by the overlay.
//!
//! On egress of the overlay's device, after all that netfilter and routing have done for the pod's packet, it goes
//! straight to the host's interface (`bpf_redirect_neigh`: the kernel's route and neighbour, not netfilter again). On ingress
//! of that interface, before netfilter, it gets its addresses back and is handed to the overlay's device, as if it
//! had come that way. So policies and NAT meet the packets of pods in the places, and on the interfaces, that
//! they know.
//!
//! The sum of the TCP header changes by the urgent pointer, that of the pseudo-header by the addresses; the kernel is told
//! of both, since a checksum that is still to be finished has only the second one in it (`BPF_F_PSEUDO_HDR`).

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*};

use super::Link;
use super::checksum::{PSEUDO_HDR, in_packet_order};
use super::counters::Reason;
use super::emit::{Emit, IP, PORTS, Window};
use super::fast;
use super::frame::Offset;
use super::inplace::{self, Headers};
use super::mtu;
use super::nat::New;
use super::segment::BPF_F_INGRESS;
use super::whereabouts::{Leaf, find, find_or, find_pods, pods, runs};
use crate::ir::{Family, Proto};
use crate::nodes::Nodes;
use crate::packet::{Field, ethernet, ipv4, ipv6, l4, skb, tcp};

/// Where packets that are taken off their way go on: the host's interface for `bypass`, the overlay's for `unbypass`. Known
/// where a program is attached, and all zeros elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Onward {
    pub interface: u32,
    /// What the kernel takes for its own address there, or it would not look at the packet (`eth_type_trans`).
    pub mac: [u8; 6],
}

/// An address that is looked for.
pub(super) const KEY: Reg = R2;
/// What is found for the source and for the destination. Neither survives a helper call as that.
pub(super) const SOURCE: Reg = R5;
pub(super) const DESTINATION: Reg = PORTS;
/// The numbers of both, where they are not the last bytes of their addresses.
const SOURCE_NUMBER: Reg = R4;
const DESTINATION_NUMBER: Reg = R3;

/// What is looked for, in which field, and where it is to be.
const ENDS: [(&str, Field, Reg); 2] = [("daddr", ipv4::DADDR, DESTINATION), ("saddr", ipv4::SADDR, SOURCE)];

pub(super) fn emit(e: &mut Emit, name: &str, nodes: &Nodes) {
    let change = |e: &mut Emit, Headers { ip, tcp, kind }: &Headers<'_>| {
        pass_if_tagged(e, Reason::NoPeer);
        if e.fast && kind.is_empty() {
            fast::passed(e, ip, tcp, nodes);
        }
        inplace::pass_unless_free(e, tcp);
        hide(e, ip, tcp, kind, nodes);
    };
    inplace::routine(e, Family::V4, name, change, |e, tcp| {
        finish(e, tcp);
        to_host(e);
    });
}

/// Does what a routine does to a packet of which all is known already, and ends the path.
pub(super) fn send(e: &mut Emit, ip: &Window, tcp: &Window, nodes: &Nodes) {
    hide(e, ip, tcp, "_sent", nodes);
    finish_plain(e);
    to_host(e);
}

/// Hosts' addresses for those of pods. Leaves what `finish` needs in `PORTS` and `IP`.
fn hide(e: &mut Emit, ip: &Window, tcp: &Window, kind: &str, nodes: &Nodes) {
    let alike = nodes.are_alike();
    for (end, field, found, number) in [
        ("daddr", ipv4::DADDR, DESTINATION, DESTINATION_NUMBER),
        ("saddr", ipv4::SADDR, SOURCE, SOURCE_NUMBER),
    ] {
        e.load(KEY, ip, field);
        find(e, &format!("{end}_host{kind}"), found, &pods(nodes, alike), Leaf::host);
        if !alike {
            e.op_note(Insn::mov32(number, KEY), "the pod's number");
        }
    }
    if alike {
        e.load(R1, ip, ipv4::SADDR_LAST);
        e.op(Insn::lsh32(R1, 8_u32));
        e.load(R2, ip, ipv4::DADDR_LAST);
        e.op(Insn::or32(R1, R2));
    } else {
        e.op(Insn::mov32(R1, SOURCE_NUMBER));
        e.op(Insn::lsh32(R1, 8_u32));
        e.op(Insn::or32(R1, DESTINATION_NUMBER));
    }
    // The verifier knows where numbers start that it has seen computed.
    if alike || nodes.hosts().values().flatten().any(|pods| pods.number == 0) {
        e.pass_if(Cond::eq32(R1, 0_u32), Reason::NoPeer, "would hide nothing");
    }
    e.store(tcp, tcp::URGENT, R1);
    for found in [DESTINATION, SOURCE] {
        e.op_note(Insn::be32(found), "a host's address");
    }
    e.change_words(Family::V4, ip, &[(ipv4::SADDR, New::In(SOURCE)), (ipv4::DADDR, New::In(DESTINATION))]);
    e.load_raw(PORTS, tcp, tcp::URGENT);
    e.op_note(Insn::mov32(IP, R1), "change of the addresses");
}

/// The kernel finds route and neighbour: `bpf_redirect_neigh(interface, NULL, 0, 0)`.
fn to_host(e: &mut Emit) {
    e.op_note(Insn::mov32(R1, e.onward.interface), "the host's interface");
    for unused in [R2, R3, R4] {
        e.op(Insn::mov64(unused, 0));
    }
    e.op(Insn::call(Helper::RedirectNeigh));
    e.op(Insn::exit());
}

/// What is not from a pod of the first nodes to one of the others goes to `pass`. Uses R2, R5 and `PORTS`.
pub(super) fn unless_between(e: &mut Emit, ip: &Window, (from, to): (&Nodes, &Nodes), name: &str) {
    for ((end, field, found), nodes) in ENDS.into_iter().zip([to, from]) {
        e.load(KEY, ip, field);
        find(e, &format!("{name}_{end}"), found, &pods(nodes, true), Leaf::host);
    }
}

/// What has no pod of these nodes in that field goes to `other`. Uses R2 and R5.
pub(super) fn unless_pod(e: &mut Emit, ip: &Window, field: Field, nodes: &Nodes, name: &str, other: Label) {
    e.load(KEY, ip, field);
    find_or(e, name, SOURCE, &pods(nodes, true), Leaf::host, other);
}

pub(super) fn emit_unbypass(e: &mut Emit, name: &str, nodes: &Nodes, probe: Option<u16>) {
    let change = |e: &mut Emit, Headers { ip, tcp, kind }: &Headers<'_>| {
        pass_if_tagged(e, Reason::NotBypassed);
        inplace::pass_if_urgent(e, tcp);
        e.load(R1, tcp, tcp::URGENT);
        e.pass_if(Cond::eq32(R1, 0_u32), Reason::NotBypassed, "hides nothing");
        if let Some(port) = probe.filter(|_| kind.is_empty()) {
            answer(e, nodes, ip, tcp, port);
        }
        let numbers = [tcp::URGENT_SECOND, tcp::URGENT_FIRST];
        for (at, (end, field, found)) in ENDS.into_iter().enumerate() {
            e.load(KEY, ip, field);
            find_pods(e, &format!("{end}_pods{kind}"), found, nodes, (tcp, numbers[at]));
        }
        let alike = nodes.are_alike();
        for (at, (_, _, found)) in ENDS.into_iter().enumerate() {
            e.load(R1, tcp, numbers[at]);
            let whole = if alike { Insn::or32(found, R1) } else { Insn::add32(found, R1) };
            e.op_note(whole, "a pod's address");
            e.op(Insn::be32(found));
        }
        if e.fast && kind.is_empty() {
            fast::arriving(e, ip, tcp);
        }
        restore(e, ip, tcp);
        address_to_overlay(e);
        e.op_note(Insn::mov32(IP, R1), "change of the addresses");
    };
    inplace::routine(e, Family::V4, name, change, |e, tcp| {
        finish(e, tcp);
        to_overlay(e);
    });
}

pub(super) fn to_overlay(e: &mut Emit) {
    e.op_note(Insn::mov32(R1, e.onward.interface), "the overlay's device");
    e.redirect(BPF_F_INGRESS);
}

/// The overlay's device takes the frame for its own.
pub(super) fn address_to_overlay(e: &mut Emit) {
    if e.link == Link::Ethernet {
        let [a, b, c, d, x, y] = e.onward.mac;
        let header = Window::of_link_header(ethernet::LEN);
        let [upper, lower] = ethernet::DESTINATION;
        e.store_const(&header, upper, u32::from_be_bytes([a, b, c, d]));
        e.store_const(&header, lower, u32::from(u16::from_be_bytes([x, y])));
    }
}

/// What belongs to a VLAN stays in it: nodes are known without.
pub(super) fn pass_if_tagged(e: &mut Emit, reason: Reason) {
    e.load_skb(R1, skb::VLAN_PRESENT);
    e.pass_if(Cond::ne32(R1, 0_u32), reason, "has a VLAN tag");
}

/// The pods' addresses, which are in `SOURCE` and `DESTINATION`, for those of hosts. Leaves the change of the addresses in R1, and
/// that of the TCP header in `PORTS`.
pub(super) fn restore(e: &mut Emit, ip: &Window, tcp: &Window) {
    e.change_words(Family::V4, ip, &[(ipv4::SADDR, New::In(SOURCE)), (ipv4::DADDR, New::In(DESTINATION))]);
    e.load_raw(PORTS, tcp, tcp::URGENT);
    e.op_note(Insn::xor32(PORTS, u32::MAX), "the sum loses it");
    e.store_const(tcp, tcp::URGENT, 0);
}

/// A probe goes back to where it came from, and what comes back from a probe goes to whoever has sent it. Both name what
/// is known of the pods of both nodes in their sequence number: with anything else, they are taken for packets of pods.
fn answer(e: &mut Emit, nodes: &Nodes, ip: &Window, tcp: &Window, port: u16) {
    let [not_to, none] = ["not_to_probe", "no_probe"].map(|name| e.label(name));
    e.op(Insn::mov32(R1, PORTS));
    e.op_note(Insn::and32(R1, 0xffff_u32), "dport");
    e.jump_if(Cond::ne32(R1, port), not_to);
    unless_probe(e, "to_probe", nodes, (ip, tcp), tcp::SYN, none);
    turn_round(e, Family::V4, ip, tcp);
    e.count(0);
    e.write_settings();
    e.load_skb(R1, skb::IFINDEX);
    e.redirect(0);

    e.bind(not_to);
    e.op(Insn::mov32(R1, PORTS));
    e.op_note(Insn::rsh32(R1, 16_u32), "sport");
    e.jump_if(Cond::ne32(R1, port), none);
    unless_probe(e, "from_probe", nodes, (ip, tcp), tcp::SYN | tcp::ACK, none);
    let pass = e.exit_for(Reason::NoPeer);
    e.goto(pass);
    e.bind(none);
}

/// Source and destination change places, and the flag ACK says so.
pub(super) fn turn_round(e: &mut Emit, family: Family, ip: &Window, tcp: &Window) {
    if e.link == Link::Ethernet {
        mtu::swap_addresses(e);
    }
    let addresses: Vec<(Field, Field)> = match family {
        Family::V4 => vec![(ipv4::SADDR, ipv4::DADDR)],
        Family::V6 => ipv6::SADDR.into_iter().zip(ipv6::DADDR).collect(),
    };
    for (source, destination) in addresses {
        e.load_raw(R1, ip, source);
        e.load_raw(R2, ip, destination);
        e.store_raw(ip, source, R2);
        e.store_raw(ip, destination, R1);
    }
    e.load_raw(R1, tcp, l4::SPORT);
    e.load_raw(R2, tcp, l4::DPORT);
    e.store_raw(tcp, l4::SPORT, R2);
    e.store_raw(tcp, l4::DPORT, R1);
    e.store_const(tcp, tcp::FLAGS, tcp::SYN | tcp::ACK);
    let changed = in_packet_order(tcp::ACK);
    e.op_note(Insn::mov32(PORTS, changed), "the sum has the flag ACK more");
    let tcp_at = e.offset(family, 0, None);
    e.update_tcp(tcp_at, PORTS);
}

/// Goes on unless the packet has not these flags, or another sequence number than a probe between these two hosts.
fn unless_probe(
    e: &mut Emit,
    name: &str,
    nodes: &Nodes,
    (ip, tcp): (&Window, &Window),
    flags: u32,
    none: Label,
) {
    e.load(R1, tcp, tcp::FLAGS);
    e.jump_if(Cond::ne32(R1, flags), none);
    let digests = nodes.digests().into_iter();
    let digests = runs(digests.map(|(host, digest)| (host.to_bits(), host.to_bits(), Leaf::of(digest))));
    for (end, field, found) in ENDS {
        e.load(KEY, ip, field);
        find(e, &format!("{name}_{end}"), found, &digests, |leaf| format!("its pods: {:08x}", leaf.value));
    }
    e.op_note(Insn::xor32(SOURCE, DESTINATION), "what is known of both");
    e.load(R1, tcp, tcp::SEQUENCE);
    e.jump_if(Cond::ne32(R1, SOURCE), none);
}

/// [`finish`], without IP options.
pub(super) fn finish_plain(e: &mut Emit) {
    let tcp_at = e.offset(Family::V4, 0, None);
    finish(e, tcp_at);
}

/// The checksum, and what the rule says besides.
fn finish(e: &mut Emit, tcp: Offset) {
    e.replace_l4(tcp, Proto::Tcp, IP, PSEUDO_HDR);
    e.update_tcp(tcp, PORTS);
    e.count(0);
    e.write_settings();
}
