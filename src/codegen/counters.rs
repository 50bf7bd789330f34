//! Counting: what each rule did, and why packets were left alone.
//!
//! Only for rules that ask for it. For all others [`Emit::because`] is plain `pass` or `fail`, [`Emit::count`] is
//! nothing, and the program has no map: a rule that counts ends in a routine of its own, never in one
//! that it shares with a rule that does not.
//!
//! Each rule that counts has an entry in a map. Its leaf writes the number of the entry to the frame, the end
//! of the routine looks the entry up and adds to it. Reasons have a cold block each at the end of the program,
//! which does the same, at another place of the same entry.
//!
//! * The number is written in two halves that do not begin on a multiple of eight: the verifier keeps what it
//!   knows of values that do, and 6.14 and later then tell by the number whether a lookup can fail
//!   (`get_constant_map_key`). Each rule's way through the routine would be another one to them.
//! * `lock add` without fetch, on an array that all processors share: kernels before 5.12 have no other
//!   addition, and any reader sees whole numbers. A per-processor array would need no lock, but its
//!   numbers take as much memory as there are processors possible.
//! * Bytes are those of the packet as it came, link header included and VLAN tags not. A GSO packet is one.

use asm::{Cond, Helper, Insn, Label, Reg::*, Size};

use super::emit::{Emit, FP, SHOT, UNSPEC};
use super::frame::{COUNTER, Slot};
use crate::ir::Rule;
use crate::packet::skb;

/// Why a packet that a rule matched was left alone, answered, or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Fragment,
    Gso,
    TooLong,
    Malformed,
    FunneledAlready,
    NotFunneled,
    NotAliasable,
    NotListed,
    NoRoom,
    /// It would not fit, and became the answer that says so.
    MtuTold,
    /// The same, without anybody to tell.
    MtuUntold,
    Guarded,
    NoPeer,
    NotBypassed,
    /// The kernel refused when half was done.
    Failed,
}

impl Reason {
    pub const ALL: [Reason; 15] = [
        Reason::Fragment,
        Reason::Gso,
        Reason::TooLong,
        Reason::Malformed,
        Reason::FunneledAlready,
        Reason::NotFunneled,
        Reason::NotAliasable,
        Reason::NotListed,
        Reason::NoRoom,
        Reason::MtuTold,
        Reason::MtuUntold,
        Reason::Guarded,
        Reason::NoPeer,
        Reason::NotBypassed,
        Reason::Failed,
    ];

    /// For programs.
    pub const fn key(self) -> &'static str {
        match self {
            Reason::Fragment => "fragment",
            Reason::Gso => "gso",
            Reason::TooLong => "too-long",
            Reason::Malformed => "malformed",
            Reason::FunneledAlready => "funneled-already",
            Reason::NotFunneled => "not-funneled",
            Reason::NotAliasable => "not-aliasable",
            Reason::NotListed => "not-listed",
            Reason::NoRoom => "no-room",
            Reason::MtuTold => "mtu-told",
            Reason::MtuUntold => "mtu-untold",
            Reason::Guarded => "guarded",
            Reason::NoPeer => "no-peer",
            Reason::NotBypassed => "not-bypassed",
            Reason::Failed => "failed",
        }
    }

    /// For people: what happened to such packets.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::Fragment => "passed: fragment",
            Reason::Gso => "passed: not segmented yet (GSO), or merged (GRO)",
            Reason::TooLong => "passed: too long to be funneled, or for the host's interface",
            Reason::Malformed => "passed: lengths or checksum not as they must be",
            Reason::FunneledAlready => "passed: funneled already",
            Reason::NotFunneled => "passed: not a funneled packet",
            Reason::NotAliasable => "passed: urgent pointer in use, or that port already",
            Reason::NotListed => "passed: hides no port on the list",
            Reason::NoRoom => "passed: no room in the packet",
            Reason::MtuTold => "answered: over the MTU once funneled, the sender was told (ICMP)",
            Reason::MtuUntold => "dropped: over the MTU once funneled, and nobody to tell",
            Reason::Guarded => "dropped: funneled for a port that the guard of unfunnel leaves out",
            Reason::NoPeer => "passed: not from one node's pods to another's that can be reached",
            Reason::NotBypassed => "passed: hides no pods",
            Reason::Failed => "dropped: the kernel refused when half was done",
        }
    }

    /// Where it stands among a rule's numbers, 1 to 15.
    pub const fn place(self) -> u8 {
        match self {
            Reason::Fragment => 1,
            Reason::Gso => 2,
            Reason::TooLong => 3,
            Reason::Malformed => 4,
            Reason::FunneledAlready => 5,
            Reason::NotFunneled => 6,
            Reason::NotAliasable => 7,
            Reason::NotListed => 8,
            Reason::NoRoom => 9,
            Reason::MtuTold => 10,
            Reason::MtuUntold => 11,
            Reason::Guarded => 12,
            Reason::Failed => 13,
            Reason::NoPeer => 14,
            Reason::NotBypassed => 15,
        }
    }

    const fn verdict(self) -> i32 {
        match self {
            Reason::MtuUntold | Reason::Guarded | Reason::Failed => SHOT,
            _ => UNSPEC,
        }
    }
}

/// How many counters a rule has, each of packets and of bytes: what its action was carried out on, then by
/// reason. Some places are still free.
pub const PLACES: usize = 16;

/// What its action was carried out on.
const DONE: u8 = 0;

/// For each rule the number of its entry, if it counts.
pub fn numbers(rules: &[Rule]) -> Vec<Option<u32>> {
    let mut next = 0..;
    rules.iter().map(|rule| rule.counter.then(|| next.next()).flatten()).collect()
}

/// The program's own numbers of its maps, until descriptors take their place: the counters, and what is
/// known about them, which the program never reads but holds on to.
pub const MAPS: [&str; 2] = ["sfunnel_count", "sfunnel_rules"];
const COUNTERS: u32 = 0;
const RULES: u32 = 1;

impl Emit {
    /// Where to go with a packet for this reason: to `pass` or `fail`, by way of its counter.
    pub(super) fn exit_for(&mut self, reason: Reason) -> Label {
        if !self.variant.counted {
            return if reason.verdict() == SHOT { self.plain_fail() } else { self.pass };
        }
        if let Some((_, label)) = self.reasons.iter().find(|(known, _)| *known == reason) {
            return *label;
        }
        let label = self.label(format!("count_{}", reason.key().replace('-', "_")));
        self.reasons.push((reason, label));
        label
    }

    /// Drops the packet: only where it is half rewritten and the kernel refuses to go on.
    pub(super) fn fail(&mut self) -> Label {
        self.exit_for(Reason::Failed)
    }

    /// The verdict, where there is nothing to count on the way to it.
    pub(super) fn unless_counted(&self, verdict: i32) -> Option<i32> {
        (!self.variant.counted).then_some(verdict)
    }

    /// `if cond goto pass`, for this reason.
    pub(super) fn pass_if(&mut self, cond: Cond, reason: Reason, note: &str) {
        let pass = self.exit_for(reason);
        self.jump_if_note(cond, pass, note);
    }

    /// From here on, what is counted is counted for the rule whose entry has this `number`.
    pub(super) fn choose_counter(&mut self, number: u32) {
        let Slot { offset, .. } = COUNTER;
        let [low, high] = halves(number);
        self.op_note(Insn::store_imm(Size::H, FP, offset, low), &format!("counter {number}"));
        self.op(Insn::store_imm(Size::H, FP, offset + 2, high));
    }

    /// Counts the packet, which the action has been carried out on, and which has `grown`. Uses R0 to R5.
    pub(super) fn count(&mut self, grown: i16) {
        if self.variant.counted {
            self.add_to_counter(DONE, grown);
        }
    }

    /// Counts the packet, which is as it came, for this reason. Uses R0 to R5.
    pub(super) fn count_as(&mut self, reason: Reason) {
        if self.variant.counted {
            self.add_to_counter(reason.place(), 0);
        }
    }

    fn add_to_counter(&mut self, place: u8, grown: i16) {
        let counted = self.label("counted");
        let offset = i16::from(place) * 16;
        self.op_note(Insn::ld_map(R1, RULES), "held on to");
        self.op_note(Insn::ld_map(R1, COUNTERS), "counters");
        self.address_of(R2, COUNTER);
        self.op(Insn::call(Helper::MapLookupElem));
        self.jump_if_note(Cond::eq64(R0, 0), counted, "never");
        self.op(Insn::mov32(R1, 1_u32));
        self.op_note(Insn::atomic_add(Size::D, R0, offset, R1), "packets");
        self.load_skb(R1, skb::LEN);
        if grown != 0 {
            self.op_note(Insn::sub32(R1, i32::from(grown)), "as it came");
        }
        self.op_note(Insn::atomic_add(Size::D, R0, offset + 8, R1), "bytes");
        self.bind(counted);
    }

    /// The cold blocks, one for each reason that there may be.
    pub(super) fn emit_counting(&mut self) {
        for (reason, label) in std::mem::take(&mut self.reasons) {
            self.bind(label);
            self.add_to_counter(reason.place(), 0);
            self.exit(reason.verdict());
        }
    }
}

/// The lower and the upper half of a number, in the order in which they lie in memory.
fn halves(number: u32) -> [i32; 2] {
    let [a, b, c, d] = number.to_ne_bytes();
    [i32::from(i16::from_ne_bytes([a, b])), i32::from(i16::from_ne_bytes([c, d]))]
}
