//! The words of `sfunnel bypass`. Never looks at the environment.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Attach, Defines, HookArg, Place, Strict, Treatment};

pub const BYPASS: &str = "\
Examples:
  sfunnel bypass attach --overlay-if flannel.1 --host-if eth0 --rules rules.sf
  sfunnel bypass attach --overlay-if flannel.1 --host-if eth0 --receive-only \\
      --rules rules.sf

One text for all nodes: who they are, and what is to be bypassed, such as
  node 192.0.2.1 10.244.1.0/24
  node 192.0.2.2 10.244.2.0/24
  tcp dport { 5201, 11211 } actions bypass

docs/bypass.md says how it works and where it does not.";

pub const ATTACH: &str = "\
What arrives from other nodes is received first, on ingress of the host's
interface. Then the other nodes are asked whether they receive, by a TCP segment
that only the program there answers. What this node's pods send is taken on
egress of the overlay's interface, and sent past it to those that have answered;
all others stay on the overlay. `sfunnel bypass watch` asks again.

`sfunnel detach -i NAME` takes either away: on all nodes first from the overlay's
interface, then from the host's.

Needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW.";

pub const WATCH: &str = "\
Does what `sfunnel bypass attach` does, again and again: a node that no longer
receives is sent to by the overlay, and one that joins past it. With --peers
kernel, the nodes are those that the kernel knows each time. Files with rules or
pods are read each time as well: new rules replace the attached ones; what cannot
be read, or is wrong, is reported and changes nothing.

Ends with SIGTERM or SIGINT, and takes away what sends; what receives stays.";

pub const STATUS: &str = "\
Asks every node whether it receives, and compares with what is attached; with
--fast, also what is attached to pods. Takes what `sfunnel bypass attach` takes,
and changes nothing. Needs CAP_NET_RAW.";

pub const DOCTOR: &str = "\
Looks at both interfaces, their MTUs, routes and rp_filter, at what encrypts, and
asks every node whether it receives: an answer says that the way keeps the urgent
pointer. With --fast, at what flows past the stack would miss. Takes what
`sfunnel bypass attach` takes, and changes nothing. Exit code 1 if something would
not work.";

#[derive(Debug, Args)]
pub struct Bypass {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach the rules to the overlay's interface, and what undoes them to the host's
    #[command(after_help = ATTACH)]
    Attach(BypassAttach),
    /// Attach, and follow which nodes receive, and files that change, until told to stop
    #[command(after_help = WATCH)]
    Watch(BypassWatch),
    /// Show which nodes are bypassed, which stay on the overlay, and why
    #[command(after_help = STATUS)]
    Status(BypassStatus),
    /// Check whether a bypass can work here, and report what prevents it
    #[command(after_help = DOCTOR)]
    Doctor(BypassGiven),
}

/// Of `--flows`.
pub const FLOWS: RangeInclusive<u32> = 16..=1 << 24;

/// The interfaces, and the rules between them.
#[derive(Debug, Default, Args)]
pub struct BypassGiven {
    /// Interface that pods' packets to other nodes leave by, such as flannel.1 or vxlan.calico; `auto`: the only one
    /// of vxlan or geneve that can be bypassed [variable: OVERLAY_IF]
    #[arg(long, value_name = "NAME")]
    pub overlay_if: Option<String>,
    /// Interface with the address that the other nodes know this one by; `auto`: the one that the overlay sends by
    /// [variable: HOST_IF]
    #[arg(long, value_name = "NAME")]
    pub host_if: Option<String>,
    /// TCP port at which nodes are asked whether they receive; nothing has to listen there
    /// [variable: ROUTER_PORT] [default: 1234]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Where the nodes are from, besides those in the rules
    #[arg(long, value_enum, value_name = "WHENCE")]
    pub peers: Option<PeersArg>,
    /// Receive what other nodes send past the overlay, and send nothing
    #[arg(long)]
    pub receive_only: bool,
    /// Let flows go past the node's stack once netfilter has let them through: docs/bypass.md says what policies then see
    /// [variable: ROUTER_FAST]
    #[arg(long, conflicts_with = "receive_only")]
    pub fast: bool,
    /// How many of these are remembered at a time, 150 bytes each [variable: ROUTER_FLOWS] [default: 65536]
    #[arg(long, value_name = "NUMBER", requires = "fast", value_parser = clap::value_parser!(u32).range(i64::from(*FLOWS.start())..=i64::from(*FLOWS.end())))]
    pub flows: Option<u32>,
    /// Network namespace: a name in /var/run/netns, a path, or a process id [variable: NETNS]
    #[arg(long, value_name = "NAME|PATH|PID")]
    pub netns: Option<String>,
    /// File with the rules, `-` for standard input [default: /etc/sfunnel/ruleset]
    #[arg(long, value_name = "FILE", conflicts_with = "ruleset")]
    pub rules: Option<PathBuf>,
    /// The rules themselves [variable: SFUNNEL_RULESET]
    #[arg(long, value_name = "TEXT")]
    pub ruleset: Option<String>,
    /// Folder with rules as eBPF-Router has them, a file each, in place of ours: docs/bypass.md
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["rules", "ruleset"])]
    pub router_rules: Option<PathBuf>,
    /// What `kubectl get pods -A -o json` says, for such rules with labels
    #[arg(long, value_name = "FILE", requires = "router_rules")]
    pub pods: Option<PathBuf>,
    /// Where on the hooks: clsact or TCX, whose programs run first
    /// [variable: SFUNNEL_HOOK] [default: auto]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHERE")]
    pub hook: Option<HookArg>,
    /// Count packets and bytes of every rule; `status` shows them [variable: SFUNNEL_COUNTERS]
    #[arg(long)]
    pub counters: bool,
    /// Say more about what is loaded [variable: DEBUG]
    #[arg(long)]
    pub debug: bool,
    #[command(flatten)]
    pub defines: Defines,
    #[command(flatten)]
    pub strict: Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PeersArg {
    /// Routes of the overlay's interface, their neighbours, and the VXLAN's forwarding entries
    Kernel,
    /// The same, unless the rules have nodes
    Auto,
}

#[derive(Debug, Args)]
pub struct BypassAttach {
    #[command(flatten)]
    pub given: BypassGiven,
    /// Change nothing; report whether exactly this is attached, for the nodes that receive now, with exit code 3 if not
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub struct BypassStatus {
    #[command(flatten)]
    pub given: BypassGiven,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BypassWatch {
    #[command(flatten)]
    pub given: BypassGiven,
    /// How long to wait before the nodes are asked again
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub every: f64,
}

impl BypassGiven {
    /// What it has in common with `attach`.
    pub fn attach(&self) -> Attach {
        Attach {
            place: Place { netns: self.netns.clone(), ..Place::default() },
            rules: self.rules.clone(),
            ruleset: self.ruleset.clone(),
            treatment: Treatment {
                hook: self.hook,
                counters: self.counters,
                debug: self.debug,
                ..Treatment::default()
            },
            defines: self.defines.clone(),
            strict: self.strict,
            ..Attach::default()
        }
    }
}
