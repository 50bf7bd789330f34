//! The words of `sfunnel bypass`. Never looks at the environment.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
interface. What this node's pods send is taken on egress of the overlay's, and
sent past it to every node of the rules: each of them has to receive before, or
what is sent to it is lost. So attach with --receive-only on all nodes, then
without.

`sfunnel detach -i NAME` takes either away: on all nodes first from the overlay's
interface, then from the host's.";

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
}

/// The interfaces, and the rules between them.
#[derive(Debug, Default, Args)]
pub struct BypassAttach {
    /// Interface that pods' packets to other nodes leave by, such as flannel.1 or vxlan.calico [variable: OVERLAY_IF]
    #[arg(long, value_name = "NAME")]
    pub overlay_if: Option<String>,
    /// Interface with the address that the other nodes know this one by [variable: HOST_IF]
    #[arg(long, value_name = "NAME")]
    pub host_if: Option<String>,
    /// Receive what other nodes send past the overlay, and send nothing
    #[arg(long)]
    pub receive_only: bool,
    /// Network namespace: a name in /var/run/netns, a path, or a process id [variable: NETNS]
    #[arg(long, value_name = "NAME|PATH|PID")]
    pub netns: Option<String>,
    /// File with the rules, `-` for standard input [default: /etc/sfunnel/ruleset]
    #[arg(long, value_name = "FILE", conflicts_with = "ruleset")]
    pub rules: Option<PathBuf>,
    /// The rules themselves [variable: SFUNNEL_RULESET]
    #[arg(long, value_name = "TEXT")]
    pub ruleset: Option<String>,
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

impl BypassAttach {
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
