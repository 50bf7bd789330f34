//! Which program a hook gets: the one place that `attach`, `compile`, `explain` and `doctor` ask.
//!
//! Input: rules, the user's choices, and what an interface can have next to it. Output: what the hook needs, and the
//! options to compile its program with. Pure: asks no kernel, makes no device.

use std::fmt;
use std::net::Ipv4Addr;

use asm::Program;

use crate::codegen::{
    self, Companion, Fast, Features, GsoPackets, Link, Mtu, Onward, Options, Segmenter, Target,
};
use crate::ir::{Ruleset, Side};
use crate::nodes::Nodes;

/// The hook that rules without chains are for, unless the user says another.
pub const DEFAULT_SIDE: Side = Side::Ingress;

/// How GSO packets that match a funnel rule are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// A segmentation pair, and a merging pair for what arrives.
    #[default]
    Segment,
    /// The interface's sockets make no such packets: `gso_max_segs 1`.
    Limit,
    /// They pass as they are.
    Off,
}

impl Gso {
    pub const ALL: [Gso; 3] = [Gso::Segment, Gso::Limit, Gso::Off];
}

impl fmt::Display for Gso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gso::Segment => "segment",
            Gso::Limit => "limit",
            Gso::Off => "off",
        })
    }
}

/// What the user chooses, besides the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    pub gso: Gso,
    /// Everything that is funneled has finished checksums.
    pub finish: bool,
    /// Unfunneled TCP segments are merged.
    pub merge: bool,
}

impl Choices {
    /// # Errors
    ///
    /// What does not go together.
    pub fn new(gso: Gso, finish: bool, merge: bool) -> Result<Self, String> {
        if finish && gso != Gso::Segment {
            return Err(format!(
                "--finish-checksums (SFUNNEL_FINISH_CHECKSUMS) needs a segmentation pair: leave out `--gso {gso}`"
            ));
        }
        Ok(Self { gso, finish, merge })
    }
}

impl Default for Choices {
    fn default() -> Self {
        Self { gso: Gso::Segment, finish: false, merge: true }
    }
}

/// What the rules of a hook ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub side: Side,
    /// Packets of several segments have to be cut.
    pub cut: bool,
    /// And the segments need finished checksums.
    pub finish: bool,
    /// All packets that are funneled need them.
    pub finish_all: bool,
    /// Segments are better merged.
    pub merge: bool,
    /// Headers are pushed.
    pub funnels: bool,
}

impl Needs {
    /// The same on an interface whose card is not trusted with the checksums of what is funneled.
    pub fn on(self, distrusted: bool) -> Self {
        let finish = distrusted && self.side == Side::Egress && self.funnels;
        Self { finish: self.finish || finish, finish_all: self.finish_all || finish, ..self }
    }

    /// What egress unfunnels is on its way out, and is not merged.
    pub fn of(side: Side, ruleset: &Ruleset, choices: Choices) -> Self {
        let Choices { gso, finish, merge } = choices;
        Needs {
            side,
            cut: gso != Gso::Off && codegen::wants_segments(ruleset),
            finish: codegen::wants_checksums(ruleset, finish),
            finish_all: finish && codegen::funnels(ruleset),
            funnels: codegen::funnels(ruleset),
            merge: gso == Gso::Segment && merge && side == Side::Ingress && codegen::wants_merging(ruleset),
        }
    }

    /// What cuts: a macvlan, if there can be one, unless the segments need finished checksums.
    pub fn segmenter(&self, macvlan: bool) -> Segmenter {
        if self.finish || !macvlan { Segmenter::Pair } else { Segmenter::Macvlan }
    }
}

/// What a hook has next to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Companions {
    pub cut: Option<Segmenter>,
    pub merge: bool,
    /// All packets to funnel go through the segmentation pair.
    pub finish: bool,
}

impl Companions {
    /// On an interface where nothing is in the way of what these rules and choices ask for.
    pub fn usual(needs: &Needs, gso: Gso) -> Self {
        let cut = (needs.cut && gso == Gso::Segment).then(|| needs.segmenter(true));
        Companions { cut, merge: needs.merge, finish: cut.is_some() && needs.finish_all }
    }

    /// The program for this hook, on the newest kernels.
    pub fn options(self, link: Link, side: Side) -> Options {
        let gso = self.cut.map_or(GsoPackets::Pass, |segmenter| GsoPackets::Segment(side, segmenter));
        Options {
            link,
            gso,
            merge: self.merge,
            finish: self.finish,
            target: Target::NEWEST,
            onward: Onward::default(),
            fast: false,
        }
    }
}

/// The program that a hook gets where nothing is in the way.
pub fn usual(link: Link, side: Side, ruleset: &Ruleset, choices: Choices) -> Options {
    Companions::usual(&Needs::of(side, ruleset, choices), choices.gso).options(link, side)
}

/// The program of either end of a bypass, which may learn what goes past the stack.
pub fn bypass(onward: Onward, target: Target, fast: bool) -> Options {
    Options { onward, target, fast, ..Options::pass_gso(Link::Ethernet) }
}

/// The programs of a pod's veth, where flows go past the stack: name, hook, program.
///
/// # Errors
///
/// The nodes are too many for a program that a kernel can address.
pub fn of_pods(
    fast: Fast,
    nodes: &Nodes,
    own: Ipv4Addr,
) -> Result<[(&'static str, Side, Program); 2], asm::Error> {
    Ok([
        ("sfunnel_leaving", Side::Ingress, codegen::compile_leaving(fast, nodes, own)?),
        ("sfunnel_deliver", Side::Egress, codegen::compile_delivered(nodes, own)?),
    ])
}

/// What the program of a hook asks the kernel for that has these features, on an interface with this MTU, if it is known.
///
/// Without `bpf_check_mtu`, what leaves by the interface is measured by the MTU that it has now. Nobody knows the route
/// of what arrives; and kernels without that helper look at no length when they look up a route (`bpf_fib_lookup`).
pub fn target(features: Features, side: Side, ruleset: &Ruleset, mtu: Option<u32>) -> Target {
    let mtu = mtu.filter(|_| codegen::funnels(ruleset));
    let mtu = match (features.check_mtu, side, mtu.map(u16::try_from)) {
        (true, ..) => Mtu::Asked,
        // No packet is too long for a longer one.
        (false, Side::Egress, Some(Ok(mtu))) => Mtu::Is(mtu),
        (false, ..) => Mtu::Unknown,
    };
    let nested_tags = features.nested_tags || side == Side::Egress;
    Target { long_jumps: features.long_jumps, nested_tags, mtu }
}

/// What [`target`] does on a kernel without `bpf_check_mtu`.
pub const UNASKED: &str = "egress measures what it funnels by the MTU that the interface has when rules are attached, so attach \
     again when that changes; ingress tells no sender that its packets are too long to be forwarded";

/// What [`target`] does on a kernel that cannot put a VLAN tag back into a frame on ingress.
pub const NOT_NESTED: &str = "packets that arrive with two VLAN tags are left alone";

/// Every program that some hook may get for these rules on a kernel that has these features, whatever the choices and the
/// interface (but for its MTU: the usual).
pub fn every(ruleset: &Ruleset, features: Features) -> Vec<Options> {
    const MTU: u32 = 1500;
    let mut all = Vec::new();
    let mut add = |options: Options, side| {
        let options = options.on(target(features, side, ruleset, Some(MTU)));
        if !all.contains(&options) {
            all.push(options);
        }
    };
    for link in [Link::Ethernet, Link::None, Link::Either] {
        for side in [Side::Ingress, Side::Egress] {
            for choices in every_choice() {
                let needs = Needs::of(side, ruleset, choices);
                let usual = Companions::usual(&needs, choices.gso);
                // Devices that cannot be made are done without.
                for companions in [
                    usual,
                    Companions { merge: false, ..usual },
                    Companions { cut: usual.cut.map(|_| needs.segmenter(false)), ..usual },
                    Companions { cut: None, finish: false, ..usual },
                    Companions::default(),
                ] {
                    add(companions.options(link, side), side);
                }
            }
        }
    }
    all
}

/// All choices that go together.
pub fn every_choice() -> Vec<Choices> {
    let flags = [(false, true), (false, false), (true, true), (true, false)];
    let of = |gso| flags.map(|(finish, merge)| Choices::new(gso, finish, merge));
    Gso::ALL.into_iter().flat_map(of).filter_map(Result::ok).collect()
}

/// `BPF_OBJ_NAME_LEN` (include/uapi/linux/bpf.h), less the zero at the end.
const LONGEST_NAME: usize = 15;

/// Names of programs are no longer than [`LONGEST_NAME`]: `sfunnel_l3_inmd`. The last letter: finished, or cut directly.
pub fn name(Options { link, gso, merge, finish, .. }: Options) -> String {
    let link = match link {
        Link::Ethernet => "",
        Link::None => "_l3",
        Link::Either => "_x",
    };
    let (gso, how) = match gso {
        GsoPackets::Pass => (if merge { "_" } else { "" }, ""),
        GsoPackets::Segment(side, segmenter) => {
            let how = match segmenter {
                Segmenter::Macvlan => "d",
                Segmenter::Pair if finish => "f",
                Segmenter::Pair => "",
            };
            (if side == Side::Egress { "_out" } else { "_in" }, how)
        }
    };
    let merge = if merge { "m" } else { "" };
    format!("sfunnel{link}{gso}{merge}{how}")
}

/// A name for each of the programs of one object, no two alike: those that differ only in what they ask the kernel for are
/// told apart by a number.
pub fn names(all: &[Options]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for options in all {
        let plain = name(*options);
        let numbered = (2..).map(|number| {
            let number = format!("_{number}");
            format!("{plain:.length$}{number}", length = LONGEST_NAME - number.len())
        });
        let free = std::iter::once(plain.clone()).chain(numbered).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
}

/// The programs of the companion devices, which need no rules: name, device, the device's hook, program.
///
/// # Errors
///
/// A bug of `codegen`.
pub fn companions() -> Result<[(&'static str, Companion, Side, Program); 5], asm::Error> {
    let (out, back) = (Side::Egress, Side::Ingress);
    Ok([
        ("sfunnel_cross_o", Companion::Ingress, back, codegen::compile_crossed(out)?),
        ("sfunnel_cross_i", Companion::Egress, back, codegen::compile_crossed(back)?),
        ("sfunnel_cut_out", Companion::Egress, out, codegen::compile_cut(out)?),
        ("sfunnel_cut_in", Companion::Ingress, out, codegen::compile_cut(back)?),
        ("sfunnel_merged", Companion::Merged, back, codegen::compile_merged()?),
    ])
}
