//! The words of the tools that explain, mirror and examine. Never looks at the environment.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::{Chosen, Defines, End, Place, SideArg};
use crate::mirror::Role;

pub const MIRROR: &str = "\
Examples:
  sfunnel mirror rules.sf
  sfunnel mirror rules.sf --to pod-ingress > pod-ingress.sf
  sfunnel mirror rules.sf --to pod > pod.sf
  sfunnel mirror \\
      --ruleset 'udp dport 4739 actions funnel tcp sport 540 dport 179'
  sfunnel mirror --from pod-ingress --to client-ingress \\
      --ruleset 'tcp dport 179 sport 540 actions unfunnel udp'

What cannot be known at the other end is left out, with a comment, or it is an
error that says what to write: docs/tools.md. Ports are assumed to be the same
at both ends.";

pub const DIFF: &str = "\
Examples:
  sfunnel diff old.sf new.sf
  sfunnel diff - new.sf < old.sf

One line per set of packets, with the rule that decides in each ruleset. Rules
that mean the same are the same, however they are written; `accept` is what
happens to packets that no rule matches. Exit code 0: no difference, 1: some,
2: a ruleset is wrong or cannot be read.";

pub const EXPLAIN: &str = "\
Examples:
  sfunnel explain rules.sf --packet 'udp 10.0.0.1:5000 > 10.0.0.2:4739 len 100'
  sfunnel explain rules.sf --brief \\
      --packet 'tcp [2001:db8::1]:5000 > [2001:db8::2]:80 syn'
  sfunnel explain --ruleset 'tcp dport 179 sport 540 actions unfunnel udp' \\
      --packet 'udp 10.0.0.1:5000 > 10.0.0.2:4739 in tcp 540 > 179 len 100'
  sfunnel explain rules.sf --pcap in.pcap -w out.pcap --brief
  sfunnel explain rules.sf --pcap in.pcap --html > packets.html

A packet in words is PROTO SRC:PORT > DST:PORT, then any of
  in PROTO PORT > PORT             in a funnel of these ports
  len N, ttl N, tos N, id N, df    bytes of data; of the IP header
  syn, ack, fin, rst, psh, urg, ecn, cwr
                                   TCP flags; ack if none is named
  seq N, ackno N, window N, urgent N
  nosum                            UDP without a checksum
  gso N                            still to be cut into segments of N bytes
  mark N                           skb->mark

Packets run through the real program in the kernel, which attaches nothing and
needs CAP_BPF and CAP_NET_ADMIN. Without them, only the rules are explained.";

pub const DOCTOR: &str = "\
Examples:
  sfunnel doctor
  sfunnel doctor -i eth0 \\
      --ruleset 'udp dport 4739 actions funnel tcp sport 540 dport 179'
  sfunnel doctor -i eth0 rules.sf

Tries what `attach` does, in a network namespace of its own, and checks the
interfaces: link headers, qdiscs, and filters and programs before sfunnel. With
rules, shows how many bytes they add and what fits into the MTU. Exit code 1 if
something would not work.";

/// What doctor looks at.
#[derive(Debug, Default, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub place: Place,
    /// File with rules to check the interfaces against, `-` for standard input
    pub file: Option<PathBuf>,
    /// The rules themselves
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub ruleset: Option<String>,
    /// Whose end this is, if the rules are a `service`
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub end: Option<End>,
    #[command(flatten)]
    pub defines: Defines,
}

pub const COMPLETIONS: &str = "\
Examples:
  sfunnel completions bash > /etc/bash_completion.d/sfunnel
  sfunnel completions zsh > ~/.zfunc/_sfunnel
  sfunnel completions fish > ~/.config/fish/completions/sfunnel.fish";

pub const MAN: &str = "\
Examples:
  sfunnel man | man -l -
  sfunnel man explain > /usr/local/share/man/man8/sfunnel-explain.8";

#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Manual {
    /// The page of one command [default: the page of the program]
    pub command: Option<String>,
}

/// Rules to look at.
#[derive(Debug, Default, Args)]
#[group(required = true, multiple = false)]
pub struct Input {
    /// File with the rules, `-` for standard input
    pub file: Option<PathBuf>,
    /// The rules themselves
    #[arg(long, value_name = "TEXT")]
    pub ruleset: Option<String>,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// File with the old rules, `-` for standard input
    pub old: PathBuf,
    /// File with the new rules
    pub new: PathBuf,
    #[command(flatten)]
    pub defines: Defines,
}

#[derive(Debug, Args)]
pub struct Mirror {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub defines: Defines,
    /// Where these rules are attached [default: inferred from the rules]
    #[arg(long, value_name = "PLACE", value_enum)]
    pub from: Option<From>,
    /// Where the derived rules will be attached
    #[arg(long, value_name = "PLACE", value_enum, default_value_t = To::All)]
    pub to: To,
    /// Addresses are the same at both ends: keep them
    #[arg(long)]
    pub no_nat: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("packets").args(["packet", "pcap"]).required(true))]
pub struct Explain {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub defines: Defines,
    /// The hook [default: every hook that has a chain; without chains, ingress]
    #[arg(short, long, value_enum)]
    pub direction: Option<SideArg>,
    /// Whose end this is, if the rules are a `service`
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub end: Option<End>,
    /// A packet in words; repeat it for more
    #[arg(long, value_name = "WORDS")]
    pub packet: Vec<String>,
    /// Packets from a file, pcap or pcapng, of an Ethernet or IP interface
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Write the packets that are passed on to this file, as pcap
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// One line per packet
    #[arg(long)]
    pub brief: bool,
    /// Write a page for a browser to standard output: docs/page.md
    #[arg(long, conflicts_with = "brief")]
    pub html: bool,
    #[command(flatten)]
    pub chosen: Chosen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    ClientEgress,
    PodIngress,
    PodEgress,
    ClientIngress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum To {
    ClientEgress,
    PodIngress,
    PodEgress,
    ClientIngress,
    /// Both hooks of the client, as chains
    Client,
    /// Both hooks of the pod, as chains
    Pod,
    /// All four, one after the other
    All,
}

impl From {
    pub fn role(self) -> Role {
        match self {
            From::ClientEgress => Role::ClientEgress,
            From::PodIngress => Role::PodIngress,
            From::PodEgress => Role::PodEgress,
            From::ClientIngress => Role::ClientIngress,
        }
    }
}

impl To {
    pub fn roles(self) -> Vec<Role> {
        match self {
            To::ClientEgress => vec![Role::ClientEgress],
            To::PodIngress => vec![Role::PodIngress],
            To::PodEgress => vec![Role::PodEgress],
            To::ClientIngress => vec![Role::ClientIngress],
            To::Client => vec![Role::ClientIngress, Role::ClientEgress],
            To::Pod => vec![Role::PodIngress, Role::PodEgress],
            To::All => Role::ALL.to_vec(),
        }
    }

    /// Whether this is both hooks of one end.
    pub fn is_place(self) -> bool {
        matches!(self, To::Client | To::Pod)
    }
}
