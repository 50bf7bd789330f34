//! Every word of the command line, and its help. Never looks at the environment: see `settings`.

mod bypass;
mod pods;
mod tools;
mod treatment;
mod watch;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::bypass::{
    Bypass, BypassGiven, BypassStatus, BypassWatch, Command as BypassCommand, FLOWS, PeersArg,
};
pub use self::pods::{OciHook, OnError};
pub use self::tools::{Completions, Diff, Doctor, Explain, Input, Manual, Mirror};
pub use self::treatment::{End, GsoArg, HookArg, LogFormat, Treatment};
pub use self::watch::Watch;
use super::settings::Direction;
use crate::ir::Side;
use crate::net::Link;

const EXAMPLES: &str = "\
Examples:
  sfunnel demo
  sfunnel check rules.sf
  sfunnel attach -i eth0 -d egress --rules rules.sf
  sfunnel attach -i eth1 \\
      --ruleset 'tcp dport 179 sport 540 actions unfunnel udp dport 4739'
  sfunnel status
  sfunnel detach -i eth0

Without a command, sfunnel is the entry point of its container image: it does
what the variables SFUNNEL_RULESET, or SFUNNEL_RULESET_INGRESS and
SFUNNEL_RULESET_EGRESS (or the file /etc/sfunnel/ruleset), SFUNNEL_END, IFACES,
DIRECTION, NETNS, SFUNNEL_HOOK, SFUNNEL_ORDER, SFUNNEL_GSO,
SFUNNEL_FINISH_CHECKSUMS, SFUNNEL_NO_MERGE, SFUNNEL_COUNTERS, CLEAN, DEBUG,
N_ATTEMPTS and RETRY_DELAY say.

With CNI_COMMAND set, it is a CNI plugin.

Exit codes: 0 done, 1 the system refused, 2 the rules or the command line are
wrong, 3 something else is attached (`attach --check`).";

/// Of `attach`, whose rules may be in chains.
const ATTACH_SIDE: &str = "Which side of the interface; not needed for rules in chains, which say \
                           where they go [variable: DIRECTION] [default: ingress]";

/// Funnels several ports through one: compiles a ruleset to eBPF and attaches it to tc.
#[derive(Debug, Parser)]
#[command(name = "sfunnel", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile the rules and attach them; attaching again replaces them without a gap
    #[command(after_help = "\
Examples:
  sfunnel attach -i va -d egress \\
      --ruleset 'tcp dport 80 actions funnel udp sport 540 dport 179'
  sfunnel attach -i eth0 -i eth1 -d both --rules rules.sf
  sfunnel attach -i eth0 --ruleset 'chain ingress { tcp dport 23 drop }
                                    chain egress { tcp dport 25 drop }'
  generate-rules | sfunnel attach --netns blue -i eth0 --rules -
  sfunnel attach -i eth0 --define WEB='{ 80, 443 }' \\
      --ruleset 'tcp dport $WEB drop'

All or nothing: if one interface fails, the others are restored.
The filter stays after sfunnel has exited.
Needs CAP_BPF and CAP_NET_ADMIN; --netns needs CAP_SYS_ADMIN as well.")]
    #[command(mut_arg("direction", |side| side.help(ATTACH_SIDE)))]
    Attach(Attach),
    /// Attach what is in a file, and again whenever it changes or an interface appears
    #[command(after_help = watch::WATCH)]
    #[command(mut_arg("direction", |side| side.help(ATTACH_SIDE)))]
    Watch(Watch),
    /// Remove what sfunnel attached, and nothing else
    #[command(after_help = "\
Examples:
  sfunnel detach
  sfunnel detach -i eth0 -d egress
  sfunnel detach --clean

The clsact qdisc goes with the last filter on it.")]
    Detach(Detach),
    /// Take TCP between pods past an overlay network
    #[command(after_help = bypass::BYPASS)]
    Bypass(Bypass),
    /// Show what is attached
    #[command(after_help = "\
Examples:
  sfunnel status
  sfunnel status -i eth0 --json | jq '.[].rules'
  sfunnel status --prometheus > sfunnel.prom
  sfunnel status --html > status.html")]
    Status(Status),
    /// Report errors and weaknesses of a ruleset; needs no privilege
    #[command(after_help = "\
Examples:
  sfunnel check rules.sf
  sfunnel check --deny warnings rules.sf
  echo 'udp dport 53 actions drop' | sfunnel check -")]
    Check(Check),
    /// Compile a ruleset and show the result; needs no privilege
    #[command(after_help = "\
Examples:
  sfunnel compile rules.sf
  sfunnel compile rules.sf --emit diagram
  sfunnel compile rules.sf --emit html -o rules.html
  sfunnel compile rules.sf --emit svg -o rules.svg
  sfunnel compile rules.sf --emit json | jq '.rules[].normal'
  sfunnel compile rules.sf --emit elf -o rules.o && llvm-objdump -d rules.o
  sfunnel compile rules.sf --emit hex -o rules.hex
  sfunnel compile rules.sf --emit hex --check rules.hex

With --check, asm compares every word of the listing, hex the instructions.
Exit code 0: the same, 1: different, 2: no comparison. docs/golden-tests.md has
more.")]
    Compile(Compile),
    /// Show which rule matches a packet, why the others do not, and its headers before and after
    #[command(after_help = tools::EXPLAIN)]
    Explain(Explain),
    /// Show which packets two rulesets treat differently; needs no privilege
    #[command(after_help = tools::DIFF)]
    Diff(Diff),
    /// Derive the rules of the other end and hook from these; needs no privilege
    #[command(after_help = tools::MIRROR)]
    Mirror(Mirror),
    /// Send packets through funnels and show what happens to them; needs root and no set-up
    #[command(after_help = "\
Examples:
  sfunnel demo
  sfunnel demo | less

Makes two network namespaces without a name and a veth pair between them,
attaches rules at both ends, and sends UDP and TCP through real sockets. It
touches nothing outside and leaves nothing behind, however it ends.")]
    Demo,
    /// Check whether rules can be attached here, and report what prevents it
    #[command(after_help = tools::DOCTOR)]
    Doctor(Doctor),
    /// Attach rules from a container's annotations: an OCI hook for container runtimes
    #[command(after_help = pods::OCI_HOOK)]
    OciHook(OciHook),
    /// Write a completion script for a shell
    #[command(after_help = tools::COMPLETIONS)]
    Completions(Completions),
    /// Write a manual page
    #[command(after_help = tools::MAN)]
    Man(Manual),
}

/// Which hooks.
#[derive(Debug, Default, Args)]
pub struct Place {
    /// Interface; repeat it for several [variable: IFACES] [default: all, lo included]
    #[arg(short, long, value_name = "NAME")]
    pub iface: Vec<String>,
    /// Which side of the interface [variable: DIRECTION] [default: both]
    #[arg(short, long, value_name = "SIDE", ignore_case = true)]
    pub direction: Option<Direction>,
    /// Network namespace: a name in /var/run/netns, a path, or a process id [variable: NETNS]
    #[arg(long, value_name = "NAME|PATH|PID")]
    pub netns: Option<String>,
}

#[derive(Debug, Default, Args)]
pub struct Attach {
    #[command(flatten)]
    pub place: Place,
    /// File with the rules, `-` for standard input [default: /etc/sfunnel/ruleset]
    #[arg(long, value_name = "FILE", conflicts_with = "ruleset")]
    pub rules: Option<PathBuf>,
    /// The rules themselves [variable: SFUNNEL_RULESET]
    #[arg(long, value_name = "TEXT")]
    pub ruleset: Option<String>,
    /// How often to try while an interface does not exist [variable: N_ATTEMPTS] [default: 6]
    #[arg(long, value_name = "N")]
    pub attempts: Option<String>,
    /// Seconds between two tries [variable: RETRY_DELAY] [default: 3]
    #[arg(long, value_name = "SECONDS")]
    pub retry_delay: Option<String>,
    /// Change nothing; report whether exactly this is attached, with exit code 3 if not
    #[arg(long)]
    pub check: bool,
    #[command(flatten)]
    pub treatment: Treatment,
    #[command(flatten)]
    pub defines: Defines,
    #[command(flatten)]
    pub strict: Strict,
}

/// Names that rules use.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub struct Defines {
    /// Define `$NAME`, as if the rules began with `define NAME = VALUE`; repeat it for several
    #[arg(long, value_name = "NAME=VALUE")]
    pub define: Vec<String>,
}

/// What to reject.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Args)]
pub struct Strict {
    /// Treat warnings as errors
    #[arg(long, value_enum, value_name = "WHAT")]
    pub deny: Option<Deny>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Deny {
    Warnings,
}

#[derive(Debug, Default, Args)]
pub struct Detach {
    #[command(flatten)]
    pub place: Place,
    /// Also remove filters that the original sfunnel (the C program) left [variable: CLEAN]
    #[arg(long)]
    pub clean: bool,
}

#[derive(Debug, Default, Args)]
pub struct Status {
    #[command(flatten)]
    pub place: Place,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// As metrics, in the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Write a page for a browser to standard output: docs/page.md
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    pub html: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// File with the rules, `-` for standard input
    pub file: PathBuf,
    #[command(flatten)]
    pub defines: Defines,
    #[command(flatten)]
    pub strict: Strict,
}

#[derive(Debug, Args)]
pub struct Compile {
    /// File with the rules, `-` for standard input
    pub file: PathBuf,
    /// What to show
    #[arg(long, value_enum, default_value_t = Emit::Asm)]
    pub emit: Emit,
    /// Where to write it instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write nothing; compare with what is stored in this file, with exit code 1 if the program is another
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub check: Option<PathBuf>,
    /// Interfaces the program is for: ethernet, none for those without a link header (tun, wireguard, ipip),
    /// or either (xfrm, vti)
    #[arg(long, value_enum, default_value_t = LinkArg::Ethernet)]
    pub link: LinkArg,
    /// Side of the interface the program is for: chooses the chain, and where packets of several segments go
    /// [default: the only chain; ingress, if there is none, as for `attach`]
    #[arg(short, long, value_enum)]
    pub direction: Option<SideArg>,
    /// Whose end this is, if the rules are a `service`
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub end: Option<End>,
    /// What the kernel that it is for lacks; repeat it, or separate by commas. `attach` finds that out by trying
    #[arg(long, value_enum, value_name = "FEATURE", value_delimiter = ',')]
    pub without: Vec<FeatureArg>,
    #[command(flatten)]
    pub chosen: Chosen,
    #[command(flatten)]
    pub defines: Defines,
    #[command(flatten)]
    pub strict: Strict,
}

/// What came after Linux 5.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FeatureArg {
    /// `bpf_check_mtu` (5.12)
    CheckMtu,
    /// `gotol` (6.6)
    LongJumps,
    /// a second VLAN tag on ingress (6.12)
    NestedTags,
}

impl From<Side> for Direction {
    fn from(side: Side) -> Self {
        match side {
            Side::Ingress => Direction::Ingress,
            Side::Egress => Direction::Egress,
        }
    }
}

/// The options of `attach` that choose between programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Chosen {
    /// How GSO packets are handled, as for `attach`; `limit` is `off` to the program
    #[arg(long, value_enum, default_value_t = GsoArg::Segment)]
    pub gso: GsoArg,
    /// The program that finishes checksums before a header is pushed
    #[arg(long)]
    pub finish_checksums: bool,
    /// The program that does not merge unfunneled TCP segments
    #[arg(long)]
    pub no_merge: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SideArg {
    Ingress,
    Egress,
}

impl From<SideArg> for Side {
    fn from(side: SideArg) -> Self {
        match side {
            SideArg::Ingress => Side::Ingress,
            SideArg::Egress => Side::Egress,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The annotated listing
    Asm,
    /// Instructions as bytes, one per line
    Hex,
    /// An object file that any BPF loader takes
    Elf,
    /// The decision diagram
    #[value(alias = "tree")]
    Diagram,
    /// The decision diagram for Graphviz
    Dot,
    /// The decision diagram as a drawing; what is too large for one is folded
    Svg,
    /// Everything on one page, for a browser: docs/page.md
    Html,
    /// Everything, for other tools: docs/tools.md
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkArg {
    Ethernet,
    None,
    Either,
}

impl From<LinkArg> for Link {
    fn from(link: LinkArg) -> Self {
        match link {
            LinkArg::Ethernet => Link::Ethernet,
            LinkArg::None => Link::None,
            LinkArg::Either => Link::Either,
        }
    }
}
