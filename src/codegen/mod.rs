//! Ruleset and tree to one program.
//!
//! Takes an [`ir::Ruleset`](Ruleset) with its [`Diagram`], gives an [`asm::Program`]. Knows headers and
//! verifier, not the kernel it will run on. Never fails on a legal ruleset, save for its size.
//!
//! # Shape
//!
//! ```text
//! prologue ──▶ a diagram a (family, protocol) ──▶ a leaf a rule ──▶ a routine a (family, action, inner, outer) in use
//!     │               │                │             validate, then act
//!     │               │                │                    │
//!     └───────────────┴── pass ◀───────┴────────────────────┘ (by way of mss: SYN; of mtu: too long)
//! ```
//!
//! # Registers
//!
//! | register | from the prologue on | in a routine |
//! |---|---|---|
//! | R0 | | result of a helper |
//! | R1 to R5 | die at every helper call; R2 holds the key of a test | arguments of helpers |
//! | R6 `SKB` | the context | the same |
//! | R7 `IP` | IP header in the packet; 28 bytes proven, 48 of IPv6 | the same, proven again once there is room |
//! | R8 `PORTS` | source and destination port of the packet | those to push, or the one to write; the length of IP options |
//! | R9 `L4_LEN` | | bytes behind the IP header and its options |
//!
//! # What the verifier asks of the emitter
//!
//! * V1: fall through to the path that ends. Taken branches wait on a stack of 8,192, so
//!   leaves stand inline, each right behind the compare that leads to it.
//! * V2: never a compare that the verifier can decide; it removes dead code one range at a time,
//!   O(n²). The diagram guarantees it: every arm can be taken.
//! * V3: leaves end in their own copy of the two-instruction exit. Jumps to a shared one are long in
//!   a large program, and each long jump costs a slot more.
//! * V4: compare packet words in 32 bits: 64-bit immediates are sign-extended, so 192.168.0.1 would
//!   never be equal to itself.
//! * V5: no unreachable instruction. The assembler refuses them.
//! * Packet bytes are stored to directly, not through `bpf_skb_store_bytes`: 27 of 165 ns a packet. A
//!   program that does is given a kernel prologue that makes cloned packets writable, matching or not
//!   (`bpf_unclone_prologue`, net/core/filter.c). A local TCP socket's clones own their headers
//!   (`skb_clone_writable`), so nothing is copied for them; the call is some 60 ns, for up to 64 KiB.
//! * `CAP_BPF` without `CAP_PERFMON`: no loops, no variable offsets from a packet or frame pointer, no
//!   uninitialised stack. What stands at a variable offset (anything behind IP options) goes through
//!   `bpf_skb_load_bytes` and `bpf_skb_store_bytes`.

mod alias;
mod big;
mod bits;
mod bypass;
mod checksum;
mod classify;
mod companion;
pub mod counters;
mod either;
mod emit;
mod fetch;
mod frame;
mod funnel;
mod inplace;
mod ip;
mod merge;
mod mss;
mod mtu;
mod nat;
mod payload;
mod port_set;
mod prologue;
mod search;
mod segment;
mod target;
mod unfunnel;
mod validate;

use std::collections::HashMap;
use std::fmt;

use asm::{Label, Program};
use range_set_blaze::RangeSetBlaze;

pub use self::bypass::Onward;
pub use self::companion::Companion;
pub use self::merge::compile_merged;
pub use self::segment::{Large, Via, compile_crossed, compile_cut};
pub use self::target::{Features, Mtu, Target};

use self::emit::Emit;
use crate::diagram::Diagram;
use crate::ir::{Action, End, Family, Funnel, Nat, Proto, Rule, Ruleset};
use crate::nodes::Nodes;
use crate::packet::ethernet;

/// What is in front of the IP header on the interface the program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    Ethernet,
    /// An L3 device: tun, wireguard, ipip.
    None,
    /// An L3 device on whose ingress there may be an Ethernet header all the same: xfrm, vti.
    Either,
}

impl Link {
    const fn header_len(self) -> i16 {
        match self {
            Link::Ethernet => ethernet::LEN,
            Link::None | Link::Either => 0,
        }
    }
}

/// What a program is for, besides its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    pub link: Link,
    pub large: Large,
    /// What `unfunnel` makes of TCP goes through the interface's merging pair. The program is for ingress only.
    pub merge: bool,
    /// Every packet to funnel crosses the segmentation pair first, for a finished checksum: never with a macvlan.
    pub finish: bool,
    pub target: Target,
    /// Where `bypass` and `unbypass` send packets.
    pub onward: Onward,
}

impl Options {
    /// The program that leaves packets of several segments alone, and makes none. Not what `attach` loads by default:
    /// see [`policy`](crate::policy).
    pub const fn pass_gso(link: Link) -> Self {
        Options {
            link,
            large: Large::Pass,
            merge: false,
            finish: false,
            target: Target::NEWEST,
            onward: Onward { interface: 0, mac: [0; 6] },
        }
    }

    #[must_use]
    pub const fn on(self, target: Target) -> Self {
        Options { target, ..self }
    }
}

/// Whether these rules meet packets of several segments that have to be cut: those to funnel, and what a receiver may
/// have merged.
pub fn wants_segments(ruleset: &Ruleset) -> bool {
    funnels(ruleset) || unfunnels_merged(ruleset)
}

/// Whether these rules unfunnel UDP, several packets of which a receiver may have merged into one. (It never merges
/// funneled TCP: the sequence number stands still, and SYN is set, `tcp_gro_receive`.)
fn unfunnels_merged(ruleset: &Ruleset) -> bool {
    let is_one = |rule: &Rule| matches!(rule.action, Action::Unfunnel { .. }) && rule.proto == Proto::Udp;
    ruleset.rules.iter().any(is_one)
}

/// Whether these rules push headers.
pub fn funnels(ruleset: &Ruleset) -> bool {
    ruleset.rules.iter().any(|rule| matches!(rule.action, Action::Funnel(_)))
}

/// Whether these rules send packets on to another interface.
pub fn bypasses(ruleset: &Ruleset) -> bool {
    let is_one = |rule: &Rule| matches!(rule.action, Action::Bypass { .. } | Action::Unbypass { .. });
    ruleset.rules.iter().any(is_one)
}

/// Whether these rules, on ingress, give the stack segments that it would rather have in one piece.
pub fn wants_merging(ruleset: &Ruleset) -> bool {
    ruleset.rules.iter().any(|rule| matches!(rule.action, Action::Unfunnel { inner: Proto::Tcp, .. }))
}

/// Whether these rules need the segments of what they cut with finished checksums: if `all` that is funneled is wanted
/// so, or to unfunnel what has been merged. Such a packet is `CHECKSUM_PARTIAL` for its outer header, and so would be
/// its segments: behind `unfunnel`, whoever finishes them would write where that header was.
pub fn wants_checksums(ruleset: &Ruleset, all: bool) -> bool {
    all && funnels(ruleset) || unfunnels_merged(ruleset)
}

/// A routine that leaves share: all rules with the same action and protocols end in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Routine {
    family: Family,
    verb: Verb,
    inner: Proto,
    outer: Proto,
    variant: Variant,
}

/// What rules ask for besides the action: each combination in use has routines of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Variant {
    mark: Option<u32>,
    /// Of the pushed TCP header.
    flags: u8,
    /// Lists of the inner source and destination ports that may be restored, by number.
    guard: [Option<usize>; 2],
    counted: bool,
    nat: Nat,
}

impl Default for Variant {
    fn default() -> Self {
        Variant { mark: None, flags: Funnel::SYN, guard: [None; 2], counted: false, nat: Nat::default() }
    }
}

impl fmt::Display for Variant {
    /// What a label needs to be told from those of other variants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant { mark, flags, guard: [sport, dport], counted, nat } = self;
        if *flags != Funnel::SYN {
            write!(f, "_flags_{flags:02x}")?;
        }
        for (name, list) in [("sport", sport), ("dport", dport)] {
            if let Some(list) = list {
                write!(f, "_{name}_{list}")?;
            }
        }
        if let Some(mark) = mark {
            write!(f, "_mark_{mark:x}")?;
        }
        if !nat.is_none() {
            write!(f, "_{}", nat.to_string().replace([' ', ':'], "_"))?;
        }
        f.write_str(if *counted { "_counted" } else { "" })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Verb {
    /// Only where something else is to be done: without, a leaf is an exit.
    Accept,
    /// Nothing but new addresses and ports.
    Nat,
    Drop,
    Funnel,
    Unfunnel,
    Alias(End),
    /// With the list of this number.
    Unalias(End, usize),
    /// Between the nodes of the table of this number.
    Bypass(usize),
    /// Answering probes at this port.
    Unbypass(usize, Option<u16>),
}

/// The routines in use, in the order of their first use.
#[derive(Debug, Default)]
struct Routines {
    known: Vec<(Routine, Label)>,
    by_routine: HashMap<Routine, Label>,
    /// What `unalias` and `unfunnel` may restore, each list once.
    lists: Vec<RangeSetBlaze<u16>>,
    by_list: HashMap<RangeSetBlaze<u16>, usize>,
    /// What `bypass` and `unbypass` are between: one table, as rulesets are written.
    nodes: Vec<Nodes>,
    /// The entries of rules that count.
    counters: Vec<Option<u32>>,
}

impl Routines {
    /// The number of a list.
    fn list(&mut self, ports: &RangeSetBlaze<u16>) -> usize {
        if let Some(number) = self.by_list.get(ports) {
            return *number;
        }
        let number = self.lists.len();
        self.lists.push(ports.clone());
        self.by_list.insert(ports.clone(), number);
        number
    }

    /// The number of a table of nodes.
    fn table(&mut self, nodes: &Nodes) -> usize {
        self.nodes.iter().position(|known| known == nodes).unwrap_or_else(|| {
            self.nodes.push(nodes.clone());
            self.nodes.len() - 1
        })
    }

    fn label(&mut self, e: &mut Emit, routine: Routine) -> Label {
        if let Some(label) = self.by_routine.get(&routine) {
            return *label;
        }
        let Routine { family, verb, inner, outer, variant } = routine;
        let name = match verb {
            Verb::Accept => format!("accept_{outer}"),
            Verb::Nat => format!("nat_{outer}"),
            Verb::Drop => format!("drop_{outer}"),
            Verb::Funnel => format!("funnel_{inner}_in_{outer}"),
            Verb::Unfunnel => format!("unfunnel_{inner}_from_{outer}"),
            Verb::Alias(end) => format!("alias_{end}"),
            Verb::Unalias(end, list) => format!("unalias_{end}_{list}"),
            Verb::Bypass(table) => format!("bypass_{table}"),
            Verb::Unbypass(table, None) => format!("unbypass_{table}"),
            Verb::Unbypass(table, Some(port)) => format!("unbypass_{table}_probe_{port}"),
        };
        let label = e.label(format!("{}{name}{variant}", family.prefix()));
        self.known.push((routine, label));
        self.by_routine.insert(routine, label);
        label
    }
}

/// The program that does what the rules say to packets of an interface of this kind.
///
/// # Errors
///
/// The program is larger than a kernel can address; anything else is a bug of this module.
pub fn compile(ruleset: &Ruleset, diagram: &Diagram, options: Options) -> Result<Program, asm::Error> {
    let mut e = Emit::new(options);
    e.counts = ruleset.counts();
    if options.link == Link::Either {
        let rebuilt = e.label("rebuilt");
        e.entered = true;
        either::emit(&mut e, rebuilt);
        e.link = Link::None;
        body(&mut e, ruleset, diagram);
        e.bind(rebuilt);
        // No companion device: on its way there the packet would lose what says that it was decrypted.
        (e.link, e.large, e.merges, e.finish) = (Link::Ethernet, Large::Pass, false, false);
        body(&mut e, ruleset, diagram);
        (e.link, e.large, e.merges) = (Link::None, options.large, options.merge);
    } else {
        body(&mut e, ruleset, diagram);
    }
    e.finish()
}

/// All but the exits that everything shares.
fn body(e: &mut Emit, ruleset: &Ruleset, diagram: &Diagram) {
    let mut routines = Routines { counters: counters::numbers(&ruleset.rules), ..Routines::default() };
    let [v4, v6] = Family::ALL.map(|family| {
        Proto::ALL.into_iter().filter(|proto| diagram.root(family, *proto).is_some()).collect::<Vec<_>>()
    });
    prologue::emit(e, &v4, &v6, |e, family, proto| {
        classify::emit(e, diagram, (family, proto), &ruleset.rules, &mut routines);
    });
    e.origin(None);
    let funnels_tcp = |r: &Routine| r.verb == Verb::Funnel && r.inner == Proto::Tcp;
    let lower_mss = routines.known.iter().any(|(r, _)| funnels_tcp(r)).then(|| e.label("lower_mss"));
    let mut funneled = Vec::new();
    for of in Family::ALL.into_iter().flat_map(|family| [false, true].map(|counted| (family, counted))) {
        let funnels = |r: &Routine| r.verb == Verb::Funnel && (r.family, r.variant.counted) == of;
        if routines.known.iter().any(|(r, _)| funnels(r)) {
            let (family, counted) = of;
            let variant = Variant { counted, ..Variant::default() };
            let too_long = e.label(format!("{}too_long{variant}", family.prefix()));
            funneled.push((of, funnel::Shared { lower_mss, too_long }));
        }
    }
    for (Routine { family, verb, inner, outer, variant }, label) in routines.known {
        e.variant = variant;
        e.bind(label);
        match verb {
            Verb::Nat => nat::emit(e, family, outer),
            Verb::Accept | Verb::Drop => validate::emit_verdict(e, family, outer, verb),
            Verb::Funnel => {
                let shared = funneled.iter().find(|(of, _)| *of == (family, variant.counted));
                if let Some((_, shared)) = shared {
                    funnel::emit(e, family, inner, outer, *shared);
                }
            }
            Verb::Unfunnel => unfunnel::emit(e, family, inner, outer, &routines.lists),
            Verb::Alias(end) => alias::emit(e, family, end),
            Verb::Unalias(end, list) => {
                if let Some(ports) = routines.lists.get(list) {
                    alias::emit_unalias(e, family, end, list, ports);
                }
            }
            Verb::Bypass(table) => {
                if let Some(nodes) = routines.nodes.get(table) {
                    bypass::emit(e, &format!("bypass_{table}"), nodes);
                }
            }
            Verb::Unbypass(table, probe) => {
                if let Some(nodes) = routines.nodes.get(table) {
                    bypass::emit_unbypass(e, &format!("unbypass_{table}"), nodes, probe);
                }
            }
        }
    }
    // What comes here has been counted.
    e.variant = Variant::default();
    if let Some(label) = lower_mss {
        e.bind(label);
        mss::emit(e);
    }
    // Where nobody asks what fits, nothing is told.
    let told = |_: &_| e.target.mtu != Mtu::Unknown;
    for ((family, counted), shared) in funneled.into_iter().filter(told).collect::<Vec<_>>() {
        e.variant.counted = counted;
        e.bind(shared.too_long);
        mtu::emit(e, family);
    }
    e.variant = Variant::default();
}
