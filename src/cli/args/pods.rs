//! The words of what runtimes of containers call. Never looks at the environment.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Defines, End, GsoArg};

pub const OCI_HOOK: &str = "\
Examples:
  sfunnel oci-hook < state.json
  sfunnel oci-hook --rules /etc/sfunnel/pods.sf --on-error proceed < state.json

For the stage createRuntime of the OCI runtime specification: reads the state of
the container on standard input, and attaches in its network namespace, before
its first process runs. Annotations of the container:
  sfunnel/ruleset            the rules; without them, those of --rules
  sfunnel/interface          names [default: eth0]
  sfunnel/direction          ingress, egress or both, for rules without chains
  sfunnel/end                client or pod, for rules that are a service
  sfunnel/gso                segment, limit or off
  sfunnel/finish-checksums   yes or no
  sfunnel/no-merge           yes or no
  sfunnel/counters           yes or no

Runtimes call it as a file in their directory of hooks says: docs/runtimes.md.
It needs CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE, as runtimes
have them; the container needs none.";

/// How to attach to a container that is being created.
#[derive(Debug, Default, Args)]
pub struct OciHook {
    /// File with the rules of containers that have no annotation `sfunnel/ruleset` [default: nothing is attached]
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// What to do with a container whose rules cannot be attached
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnError::Refuse)]
    pub on_error: OnError,
    /// Interface, for containers without the annotation; repeat it for several [default: eth0]
    #[arg(short, long, value_name = "NAME")]
    pub iface: Vec<String>,
    /// Whose end this is, if the rules are a `service`
    #[arg(long, value_enum, ignore_case = true, value_name = "WHOSE")]
    pub end: Option<End>,
    /// How to handle packets of several segments (GSO) that match a funnel rule [default: segment]
    #[arg(long, value_enum, ignore_case = true, value_name = "HOW")]
    pub gso: Option<GsoArg>,
    /// Finish checksums before a header is pushed: for NAT on the same machine, such as a Service's
    #[arg(long)]
    pub finish_checksums: bool,
    /// Count packets and bytes of every rule
    #[arg(long)]
    pub counters: bool,
    #[command(flatten)]
    pub defines: Defines,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Do not start it
    #[default]
    Refuse,
    /// Start it without them
    Proceed,
}
