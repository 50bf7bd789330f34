//! VLAN tags in frames, on their way through a funnel and out of it: as they come to the other end of a wire, wherever
//! the kernel had them meanwhile.
//!
//! ```text
//! red ─va══vb─ blue ─vc══vd─ green        va funnels; vb unfunnels, and all that has come so far is sent on by vc
//! ```

use asm::{Assembler, Helper, Insn, Reg::*};
use aya::programs::tc::{NlOptions, SchedClassifier, TcAttachOptions, TcAttachType};

use super::support::lab::{Capture, Ns, attach, link};
use super::support::model::{self, Link};
use super::support::packet::{Packet, hex};
use super::support::rules::Rule;
use super::support::wire::Wire;
use super::support::world::NEEDS;
use super::support::{Need, require};

const FUNNEL: &str = "udp dport 4739 actions funnel tcp sport 540 dport 179\n\
                      tcp dport 8080 actions funnel udp sport 541 dport 180\n\
                      tcp dport 8081 actions alias dport 80\n\
                      udp dport 9 actions drop";
const UNFUNNEL: &str = "tcp sport 540 dport 179 actions unfunnel udp\n\
                        udp sport 541 dport 180 actions unfunnel tcp\n\
                        tcp dport 80 actions unalias { 8081 }";
const TAGS: [&str; 6] =
    ["", "vlan 7", "svlan 0x3005", "svlan 8 vlan 7", "vlan 0 vlan 0xe009", "vlan 1 vlan 1"];

/// Sends on whatever comes to an ingress hook, behind all other programs, for as long as it lives.
fn send_on(ns: &Ns, from: &str, to: &str) -> aya::Ebpf {
    ns.run(|| {
        let index = nix::net::if_::if_nametoindex(to).expect("an interface");
        let mut asm = Assembler::new();
        asm.push(Insn::mov32(R1, index));
        asm.push(Insn::mov32(R2, 0_u32));
        asm.push(Insn::call(Helper::Redirect));
        asm.push(Insn::exit());
        let elf = sfunnel::elf::wrap(&[("send_on", &asm.finish().expect("a program"))]).expect("an object");
        let mut object = aya::EbpfLoader::new().btf(None).load(&elf).expect("an object");
        let program: &mut SchedClassifier =
            object.program_mut("send_on").expect("it").try_into().expect("a classifier");
        program.load().expect("loaded");
        let options = TcAttachOptions::Netlink(NlOptions { priority: 200, ..NlOptions::default() });
        program.attach_with_options(from, TcAttachType::Ingress, options).expect("attached");
        object
    })
}

struct Line {
    red: Ns,
    blue: Ns,
    green: Ns,
    _sends_on: aya::Ebpf,
}

impl Line {
    fn new() -> Line {
        let [red, blue, green] = ["red", "blue", "green"].map(Ns::new);
        link((&red, "va", "10.1.0.1/24"), (&blue, "vb", "10.1.0.2/24"));
        link((&blue, "vc", "10.2.0.1/24"), (&green, "vd", "10.2.0.2/24"));
        attach(&red, "va", "egress", FUNNEL);
        attach(&blue, "vb", "ingress", UNFUNNEL);
        let _sends_on = send_on(&blue, "vb", "vc");
        Line { red, blue, green, _sends_on }
    }
}

fn needed() -> bool {
    require(&NEEDS) && require(&[Need::Tool("tcpdump", "tcpdump")])
}

/// Not what the kernels say to one another.
const OURS: &str = "ether src 02:00:00:00:00:01";

fn frame(tags: &str, words: &str) -> Vec<u8> {
    Packet::parse(&format!("{tags} {words}")).expect("words").frame()
}

/// How long the tags of a frame are.
fn tags_of(frame: &[u8]) -> usize {
    let tagged = |at: &usize| matches!(frame[*at..at + 2], [0x81, 0x00] | [0x88, 0xa8]);
    4 * [12, 16].iter().take_while(|at| tagged(at)).count()
}

/// Where an older kernel could not put the second tag back, ingress leaves the packet alone.
fn unfunneled(frame: &[u8]) -> bool {
    tags_of(frame) < 8 || sfunnel::kernel::features().nested_tags
}

fn without_tags(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &frame[12 + tags_of(frame)..]].concat()
}

/// Every packet arrives with the tags that it was sent with, funneled on the wire and as it was behind it. What no rule is
/// about has been looked at as well, and has its tags too.
#[test]
fn tags_stay_where_they_are_in_the_order_of_the_wire() {
    if !needed() {
        return;
    }
    let line = Line::new();
    let wire = Wire::new(&line.red, "va");
    let rules = Rule::parse_all(FUNNEL).expect("rules");
    for tags in TAGS {
        let (there, back) =
            (Capture::start_of(&line.blue, "vb", OURS), Capture::start_of(&line.green, "vd", OURS));
        // Without data, TCP is not merged: it would be seen twice.
        let words = [
            "ip 10.1.0.1 > 10.1.0.2 udp 25000 > 4739 len 31",
            "ip 10.1.0.1 > 10.1.0.2 options 3 udp 25000 > 4739 len 31",
            "ip 2001:db8::1 > 2001:db8::2 udp 25000 > 4739 len 31",
            "ip 10.1.0.1 > 10.1.0.2 tcp 25000 > 8080 flags 16",
            "ip 2001:db8::1 > 2001:db8::2 tcp 25000 > 8080 flags 16",
            "ip 10.1.0.1 > 10.1.0.2 tcp 25000 > 8081 len 30",
            "ip 10.1.0.1 > 10.1.0.2 udp 25000 > 4740 len 31",
            "ip 10.1.0.1 > 10.1.0.2 frag 5 udp 25000 > 4739 len 31",
            "arp",
        ];
        assert!(
            !wire.send(&frame(tags, "ip 10.1.0.1 > 10.1.0.2 udp 25000 > 9 len 31"), 0),
            "{tags}: not dropped"
        );
        for words in words {
            assert!(wire.send(&frame(tags, words), 0), "{tags} {words}");
        }
        let (there, back) =
            (there.stop(words.len(), |_| true).frames, back.stop(words.len(), |_| true).frames);
        let mut funneled = 0;
        for ((words, there), back) in words.iter().zip(&there).zip(&back) {
            let sent = frame(tags, words);
            let plain = without_tags(&sent);
            let expected = model::run(&rules, &plain, 0, Link::Ethernet).frame;
            funneled += usize::from(expected != plain);
            let mut expected = expected;
            expected.splice(12..12, sent[12..12 + tags_of(&sent)].to_vec());
            assert_eq!(hex(there), hex(&expected), "{tags} {words}: on the wire");
            let behind = if unfunneled(&sent) { &sent } else { &expected };
            assert_eq!(hex(back), hex(behind), "{tags} {words}: behind it");
        }
        assert_eq!(funneled, 6, "{tags}");
        assert_eq!((there.len(), back.len()), (words.len(), words.len()), "{tags}");
    }
}

/// Packets of several segments are cut with their tags in them, or beside them. (Older kernels do not take such a packet
/// from a packet socket.)
#[test]
fn segments_have_the_tags_of_what_they_are_cut_from() {
    if !needed() {
        return;
    }
    let line = Line::new();
    let wire = Wire::new(&line.red, "va");
    for tags in TAGS {
        for (words, wanted) in [
            ("ip 10.1.0.1 > 10.1.0.2 udp 25000 > 4739 len 2000", "tcp"),
            ("ip 10.1.0.1 > 10.1.0.2 tcp 25000 > 8080 flags 16 len 2000", "udp"),
        ] {
            let (there, back) =
                (Capture::start_of(&line.blue, "vb", OURS), Capture::start_of(&line.green, "vd", OURS));
            let sent = frame(tags, words);
            let tag_bytes = &sent[12..12 + tags_of(&sent)];
            assert!(wire.send(&sent, 500), "{tags} {words}");
            let tagged =
                |frame: &[u8]| frame[12..].starts_with(tag_bytes) && tags_of(frame) == tag_bytes.len();
            let there = there.stop(4, |frame| tagged(frame)).frames;
            let proto = |frame: &[u8]| without_tags(frame)[23];
            let funneled = there.iter().filter(|frame| proto(frame) == if wanted == "tcp" { 6 } else { 17 });
            let funneled: Vec<_> = funneled.collect();
            assert_eq!(funneled.len(), 4, "{tags} {words}");
            // What is merged again comes in fewer pieces.
            let (plain, pushed) = if wanted == "tcp" { (28, 20) } else { (40, 8) };
            let header = if unfunneled(&sent) { plain } else { plain + pushed };
            let data = |header: usize, frame: &[u8]| without_tags(frame)[14 + header..].to_vec();
            let end = &sent[sent.len() - 32..];
            let back = back.stop(1, |frame| frame.ends_with(end));
            let arrived: Vec<u8> = back.frames.iter().flat_map(|frame| data(header, frame)).collect();
            assert!(back.frames.iter().all(|frame| tagged(frame)), "{tags} {words}: other tags");
            assert_eq!(hex(&arrived), hex(&data(plain, &sent)), "{tags} {words}");
        }
    }
}

/// Who is told that a packet would be too long is in the same VLAN.
#[test]
fn answers_have_the_tags_of_what_they_answer() {
    if !needed() {
        return;
    }
    let line = Line::new();
    let wire = Wire::new(&line.red, "va");
    for tags in TAGS {
        let capture = Capture::start_of(&line.red, "va", "ether src 02:00:00:00:00:02");
        let sent = frame(tags, "ip 10.1.0.1 > 10.1.0.2 df udp 25000 > 4739 len 1460");
        assert!(wire.send(&sent, 0), "{tags}");
        let mut expected = model::too_long(&without_tags(&sent), 1480);
        expected.splice(12..12, sent[12..12 + tags_of(&sent)].to_vec());
        let answers = capture.stop(1, |_| true).frames;
        assert_eq!(answers.iter().map(|frame| hex(frame)).collect::<Vec<_>>(), [hex(&expected)], "{tags}");
    }
}
