//! The four programs with maps of their own, and two pods' interfaces: what `sfunnel bypass attach --fast` loads.
//!
//! Comes in: a segment, and the place where it is met. Goes out: what happens to it, its frame, and what is remembered.

use std::net::Ipv4Addr;

use asm::Program;
use sfunnel::codegen::{self, Fast, Link, Onward, Options};
use sfunnel::diag::Source;
use sfunnel::ir::{Action, Ruleset, Rulesets};
use sfunnel::kernel::Flows;
use sfunnel::{check, diagram, elf};

use super::flow::Flow;
use super::model::{Place, Segment, Verdict, World};
use super::support::lab::Ns;
use super::support::packet::{L4, Packet, TCP};
use super::support::testrun::{Loaded, Loader, SkBuff};

pub struct Bench {
    ns: Ns,
    programs: [Loaded; 4],
    pub flows: Flows,
    pub here: (u32, u32),
    pub other: (u32, u32),
    /// The number of a pod that has gone.
    pub gone: u32,
}

/// A remote end.
pub type End = (Ipv4Addr, u16);

const NODES: &str = "node 192.168.77.1 10.244.1.0/24\nnode 192.168.77.2 10.244.2.0/24\n";
const HERE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 7);
pub const PORT: u16 = 40_000;
pub const PEERS_PORT: u16 = 7000;
const OVERLAY_MAC: [u8; 6] = [2, 0, 0, 0, 0x77, 1];
/// The link addresses of all frames, destination first.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

fn ruleset(rule: &str) -> Ruleset {
    let read = check::read_lists(&Source::new("rules", format!("{NODES}{rule}"))).expect("rules");
    match read.rulesets {
        Rulesets::Anywhere(ruleset) => ruleset,
        _ => panic!("chains"),
    }
}

fn compile(ruleset: &Ruleset, onward: Onward) -> Program {
    let options = Options { onward, fast: true, ..Options::pass_gso(Link::Ethernet) };
    codegen::compile(ruleset, &diagram::build(ruleset), options).expect("a program")
}

/// The clock that programs read, to a hundredth of a second, in ticks.
pub fn now() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("a clock");
    let (seconds, hundredths) =
        uptime.split_once(' ').and_then(|(now, _)| now.split_once('.')).expect("a time");
    let hundredths =
        seconds.parse::<u64>().expect("seconds") * 100 + hundredths.parse::<u64>().expect("hundredths");
    (hundredths * 10_000_000) >> 20
}

impl Bench {
    pub fn new() -> Bench {
        let ns = Ns::new("node");
        let mut flows = Flows::create(64).expect("maps");
        let pods = ["pod0", "pod1", "pod2"];
        for (name, number) in pods.into_iter().zip(11..) {
            ns.tool("ip", &format!("link add {name} index {number} type veth peer name {name}p"));
            ns.run(|| flows.admit(number)).expect("room");
        }
        ns.tool("ip", "link del pod2");
        let bypass = ruleset("tcp actions bypass");
        let Action::Bypass { nodes } = &bypass.rules[0].action else { panic!("no bypass") };
        let overlay = Onward { interface: 1, mac: OVERLAY_MAC };
        let fast = Fast { host: 1, overlay };
        let programs = [
            codegen::compile_leaving(fast, nodes, HERE).expect("a program"),
            compile(&bypass, Onward { interface: 1, mac: [0; 6] }),
            compile(&ruleset("tcp actions unbypass"), overlay),
            codegen::compile_delivered(nodes, HERE).expect("a program"),
        ];
        let descriptors: Vec<i32> = [0; 2].into_iter().chain(flows.descriptors()).collect();
        let mut loader = Loader::default();
        let programs = programs.map(|program| {
            let object = elf::wrap(&[("fast", &program.with_maps(&descriptors))]).expect("an object");
            loader.load(&object, "fast").expect("a program that the verifier takes")
        });
        Bench { ns, programs, flows, here: (11, 1), other: (12, 2), gone: 3 }
    }

    pub fn world(&self, now: u64) -> World {
        let [destination, source] = MACS;
        World { now, here: self.here, other: self.other, macs: [source, destination] }
    }

    pub fn key() -> [u8; 12] {
        Self::key_to((PEER, PEERS_PORT))
    }

    /// The same to another end.
    pub fn key_to((address, port): End) -> [u8; 12] {
        let ports = [PORT.to_be_bytes(), port.to_be_bytes()].concat();
        [&POD.octets()[..], &address.octets(), &ports].concat().try_into().expect("12 bytes")
    }

    pub fn known(&self) -> Option<Flow> {
        self.known_to((PEER, PEERS_PORT))
    }

    pub fn known_to(&self, to: End) -> Option<Flow> {
        self.flows.get(&Self::key_to(to)).expect("the map").map(|bytes| Flow::read(&bytes))
    }

    pub fn know(&mut self, flow: Option<Flow>) {
        match flow {
            Some(flow) => self.flows.set(Self::key(), flow.bytes()).expect("the map"),
            None => self.flows.remove(&Self::key()).expect("the map"),
        }
    }

    /// The segment as it is at that place, of a flow with that remote end.
    pub fn frame_to((address, port): End, place: Place, segment: &Segment) -> Vec<u8> {
        let outwards = matches!(place, Place::Leaving | Place::Passed);
        let mut l4 = if outwards { L4::new(TCP, PORT, port) } else { L4::new(TCP, port, PORT) };
        let flags = [segment.fin, segment.syn, segment.rst, false, segment.ack, segment.urg];
        let flags = flags.iter().zip(0..).map(|(set, bit)| u8::from(*set) << bit).sum();
        (l4.seq, l4.ack, l4.flags, l4.urg) =
            (Some(segment.sequence), Some(segment.acknowledged), Some(flags), segment.urgent);
        l4.opts = match (segment.scale, segment.syn) {
            // MSS, SACK permitted, timestamps, NOP, window scale: as Linux has them.
            (Some(scale), true) => [&[2, 4, 5, 180, 4, 2, 8, 10][..], &[7; 8], &[1, 3, 3, scale]].concat(),
            (None, true) => vec![2, 4, 5, 180, 1, 3, 2, 7],
            (_, false) => Vec::new(),
        };
        let (src, dst) = match place {
            Place::Leaving | Place::Passed => (POD, address),
            Place::Delivered => (address, POD),
            Place::Arriving => {
                l4.urg = 0x0702;
                (THERE, HERE)
            }
        };
        let mut packet = Packet::new(src.into(), dst.into(), vec![l4]);
        packet.payload = segment.length as usize;
        packet.frame()
    }

    /// What happens to it, and what its frame is then.
    pub fn run(&self, place: Place, segment: &Segment) -> (Verdict, Vec<u8>) {
        self.run_to((PEER, PEERS_PORT), place, segment)
    }

    pub fn run_to(&self, to: End, place: Place, segment: &Segment) -> (Verdict, Vec<u8>) {
        let program = match place {
            Place::Leaving => 0,
            Place::Passed => 1,
            Place::Arriving => 2,
            Place::Delivered => 3,
        };
        let context = SkBuff { interface: self.here.0, ..SkBuff::default() };
        let before = Self::frame_to(to, place, segment);
        let (verdict, frame) = self.ns.run(|| self.programs[program].run(&before, context)).expect("a run");
        const SHOT: i32 = 2;
        const REDIRECT: i32 = 7;
        let to_overlay = frame[..6] == OVERLAY_MAC;
        let verdict = match (place, verdict) {
            (_, SHOT) => Verdict::Ends,
            (Place::Leaving | Place::Arriving, REDIRECT) if !to_overlay => Verdict::Fast,
            (Place::Passed | Place::Arriving, REDIRECT) => Verdict::Usual,
            (_, -1) => {
                assert_eq!(frame, before, "changed, and passed");
                Verdict::Usual
            }
            (_, other) => panic!("{place:?}: verdict {other}"),
        };
        (verdict, frame)
    }
}
