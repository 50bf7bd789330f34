//! What the devices beside an interface do to what the kernel keeps beside a packet: the table in docs/funneling.md
//! ("What is beside a packet"), a test for each row. A program in front of ours sets one of these things on what is about
//! to take the detour, and one behind ours drops what still has it.

use std::fs;
use std::thread;
use std::time::Instant;

use super::support::bpf_object::elf;
use super::support::lab::{Capture, DEADLINE, Ns};
use super::support::model;
use super::support::packet::Packet;
use super::support::wire::Wire;
use super::support::world::{NEEDS, Way, World, funneled, unfunneled};
use super::support::{Need, require};
use super::{attach, dropped, interfaces};

/// A detour, and how it is made to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detour {
    Pair(&'static str),
    Macvlan(&'static str),
    Merging,
}

use Detour::{Macvlan, Merging, Pair};

const DETOURS: [Detour; 5] =
    [Pair("egress"), Pair("ingress"), Macvlan("egress"), Macvlan("ingress"), Merging];

/// Something beside a packet.
#[derive(Debug, Clone, Copy)]
enum Meta {
    /// A number at this offset of `struct __sk_buff`.
    At(i16),
    /// 64 bits of it.
    Wide(i16),
    /// A priority too large for a socket to set.
    Class,
    /// Set by helpers, as is the next.
    Hash,
    Tag,
}

const MARK: Meta = Meta::At(8);
const QUEUE: Meta = Meta::At(12);
const PRIORITY: Meta = Meta::At(32);
const TC_INDEX: Meta = Meta::At(44);
const TIME: Meta = Meta::Wide(152);

impl Meta {
    fn value(self) -> i32 {
        if let Meta::Class = self { 0x1_0003 } else { 3 }
    }
}

const FUNNEL: &str = "tcp dport 8080 actions funnel udp sport 540 dport 179";
/// What GRO may have merged makes the pair necessary, and finished checksums.
const CROSSES: &str =
    "tcp dport 8080 actions funnel udp sport 540 dport 179; udp dport 9 actions unfunnel udp";
/// Four segments of this size.
const WORDS: &str = "ip 10.1.0.1 > 10.1.0.2 tcp 25000 > 8080 len 2000";
const SEGMENT: u32 = 500;

fn insn(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (offset.to_le_bytes(), value.to_le_bytes());
    [code, dst | src << 4, a, b, c, d, e, f]
}

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_WIDE: u8 = 0x7b;
const MOV: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const IF_NOT: u8 = 0x55;
const IF_ABOVE: u8 = 0x2d;
const CALL: u8 = 0x85;

/// `r6 = skb`, and then all this for packets from a source port, or nothing.
fn from_port(port: u16, body: &[[u8; 8]]) -> Vec<u8> {
    let end = [insn(MOV, 0, 0, 0, -1), insn(0x95, 0, 0, 0, 0)];
    let skip = |more: usize| i16::try_from(body.len() + more).expect("short");
    let head = [
        insn(COPY, 6, 1, 0, 0),
        insn(LOAD, 2, 6, 76, 0), // data
        insn(LOAD, 3, 6, 80, 0), // data_end
        insn(COPY, 4, 2, 0, 0),
        insn(ADD, 4, 0, 0, 36),
        insn(IF_ABOVE, 4, 3, skip(2), 0),
        insn(0x69, 2, 2, 34, 0), // the port
        insn(IF_NOT, 2, 0, skip(0), i32::from(port.to_be())),
    ];
    [&head[..], body, &end].concat().concat()
}

/// Sets it on packets from this port that are still to be cut, or on all.
fn set(meta: Meta, port: u16, whole: bool) -> Vec<u8> {
    let value = meta.value();
    let set = match meta {
        Meta::Class => vec![insn(MOV, 2, 0, 0, value), insn(STORE, 6, 2, 32, 0)],
        Meta::At(offset) => vec![insn(MOV, 2, 0, 0, value), insn(STORE, 6, 2, offset, 0)],
        Meta::Wide(offset) => vec![insn(MOV, 2, 0, 0, value), insn(STORE_WIDE, 6, 2, offset, 0)],
        Meta::Hash => vec![insn(COPY, 1, 6, 0, 0), insn(MOV, 2, 0, 0, value), insn(CALL, 0, 0, 0, 48)],
        Meta::Tag => vec![
            insn(COPY, 1, 6, 0, 0),
            insn(MOV, 2, 0, 0, i32::from(0x8100_u16.to_be())),
            insn(MOV, 3, 0, 0, value),
            insn(CALL, 0, 0, 0, 18), // bpf_skb_vlan_push
        ],
    };
    let skip = i16::try_from(set.len()).expect("short");
    // `if skb->gso_size == 0 goto` the end.
    let size = [insn(LOAD, 2, 6, 176, 0), insn(IF_NOT, 2, 0, 1, 0), insn(0x05, 0, 0, skip, 0)];
    from_port(port, &[if whole { &size[..] } else { &[] }, &set].concat())
}

/// Drops packets from this port that have it.
fn drop_those_with(meta: Meta, port: u16) -> Vec<u8> {
    let (load, offset) = match meta {
        Meta::At(offset) => (LOAD, offset),
        Meta::Wide(offset) => (0x79, offset),
        Meta::Class => (LOAD, 32),
        Meta::Hash => (LOAD, 68),
        Meta::Tag => (LOAD, 24),
    };
    let body = [
        insn(load, 2, 6, offset, 0),
        insn(IF_NOT, 2, 0, 2, meta.value()),
        insn(MOV, 0, 0, 0, 2), // TC_ACT_SHOT
        insn(0x95, 0, 0, 0, 0),
    ];
    from_port(port, &body)
}

/// `tc` puts it on a hook.
fn put(ns: &Ns, iface: &str, hook: &str, priority: u16, code: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("probe.o");
    fs::write(&file, elf(&[("probe", code)])).expect("a file");
    let file = file.display();
    ns.tool("tc", &format!("filter add dev {iface} {hook} prio {priority} bpf da obj {file} sec classifier"));
}

/// Whether what is set before a detour is still there behind it.
fn keeps(meta: Meta, detour: Detour) -> bool {
    let world = World::new(Way::Direct);
    let (hook, rules) = match detour {
        // What GRO may have merged makes the pair necessary.
        Pair(hook) => {
            (hook, "tcp dport 8080 actions funnel udp sport 540 dport 179; udp dport 9 actions unfunnel udp")
        }
        Macvlan(hook) => (hook, "tcp dport 8080 actions funnel udp sport 540 dport 179"),
        Merging => ("ingress", "udp dport 179 actions unfunnel tcp"),
    };
    let (ns, iface) = if hook == "egress" { (&world.client, "vc") } else { (&world.server, "vs") };
    attach(ns, iface, hook, rules);
    let macvlans =
        interfaces(ns).iter().filter(|name| name.starts_with("sfc") || name.starts_with("sfd")).count();
    assert_eq!(macvlans, usize::from(matches!(detour, Macvlan(_))), "{detour:?}");
    // In front of it and behind it, the packet has another source port.
    let (before, after) = if detour == Merging { (540, 25_000) } else { (25_000, 540) };
    put(ns, iface, hook, 1, &set(meta, before, detour != Merging));
    put(ns, iface, hook, 200, &drop_those_with(meta, after));
    // This hook sees what tc has let through.
    world.server.nft(&format!(
        "table netdev seen {{
            counter passed {{}}
            chain in {{ type filter hook ingress device vs priority 0; th sport {after} counter name passed; }}
        }}"
    ));
    let wire = Wire::new(&world.client, "vc");
    let (words, gso, expected) = match detour {
        Merging => ("ip 10.1.0.1 > 10.1.0.2 udp 540 > 179 / tcp 25000 > 8080 len 500", 0, 1),
        Pair(_) | Macvlan(_) => (WORDS, SEGMENT, 4),
    };
    assert!(wire.send(&Packet::parse(words).expect("words").frame(), gso) || hook == "egress");
    let start = Instant::now();
    loop {
        let (kept, lost) = (dropped(ns, iface), passed(&world.server));
        match (kept, lost) {
            _ if kept + lost < expected && start.elapsed() < DEADLINE => thread::yield_now(),
            (kept, 0) if kept == expected => return true,
            (0, lost) if lost == expected => return false,
            _ => panic!("{meta:?}, {detour:?}: {kept} kept it, {lost} lost it, of {expected}"),
        }
    }
}

fn passed(ns: &Ns) -> u64 {
    let said: serde_json::Value = serde_json::from_str(&ns.tool("nft", "-j list counters")).expect("JSON");
    let all = said["nftables"].as_array().expect("a list");
    all.iter().find_map(|one| one["counter"]["packets"].as_u64()).expect("a counter")
}

/// Sends a packet to be cut, and gives the frames that reach the server.
fn cut(rules: &str) -> Vec<Vec<u8>> {
    let world = World::new(Way::Direct);
    attach(&world.client, "vc", "egress", rules);
    let capture = Capture::start(&world.server, "vs");
    let frame = Packet::parse(WORDS).expect("words").frame();
    assert!(Wire::new(&world.client, "vc").send(&frame, SEGMENT));
    let frames = capture.stop(4, funneled).frames;
    frames.into_iter().filter(|frame| funneled(frame)).collect()
}

#[test]
fn a_checksum_is_finished_by_the_pair_where_rules_need_it() {
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump")]) {
        return;
    }
    for (rules, finished) in [(CROSSES, true), (FUNNEL, false)] {
        for frame in cut(rules) {
            let inside = unfunneled(&frame, ("tcp", "udp"));
            assert_eq!(model::checksums_are_right(&inside), finished, "{rules}");
        }
    }
}

fn row(meta: Meta, kept: &[Detour]) {
    if !require(&NEEDS) || !require(&[Need::Tool("tc", "iproute2")]) {
        return;
    }
    for detour in DETOURS {
        assert_eq!(keeps(meta, detour), kept.contains(&detour), "{meta:?}, {detour:?}");
    }
}

#[test]
fn a_vlan_tag_beside_the_frame_stays_there() {
    row(Meta::Tag, &DETOURS);
}

#[test]
fn a_mark_stays() {
    row(MARK, &DETOURS);
}

#[test]
fn a_priority_stays_on_egress() {
    row(PRIORITY, &[Pair("egress"), Macvlan("egress")]);
}

#[test]
fn a_class_stays_on_egress_without_the_pair() {
    row(Meta::Class, &[Macvlan("egress")]);
}

#[test]
fn the_hash_is_forgotten() {
    row(Meta::Hash, &[]);
}

#[test]
fn the_queue_is_chosen_anew() {
    row(QUEUE, &[]);
}

#[test]
fn the_time_is_forgotten() {
    row(TIME, &[]);
}

#[test]
fn the_index_of_traffic_control_is_forgotten() {
    row(TC_INDEX, &[]);
}
