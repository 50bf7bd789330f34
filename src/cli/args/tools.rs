//! The words of the tools that explain, mirror and examine. Never looks at the environment.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Defines;
use crate::mirror::Role;

pub const MIRROR: &str = "\
Examples:
  sfunnel mirror rules.sf
  sfunnel mirror rules.sf --to pod-ingress > pod-ingress.sf
  sfunnel mirror rules.sf --to pod > pod.sf
  sfunnel mirror --ruleset 'udp dport 4739 actions funnel tcp sport 540 dport 179'
  sfunnel mirror --from pod-ingress --to client-ingress --ruleset 'tcp dport 179 sport 540 actions unfunnel udp'

What cannot be known at the other end is left out, and a comment says so, or it is an
error that says what to write: docs/tools.md. Ports are taken to be the same at both ends.";

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
pub struct Mirror {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub defines: Defines,
    /// Where these rules are attached [default: what they tell]
    #[arg(long, value_name = "PLACE", value_enum)]
    pub from: Option<From>,
    /// Where the rules to write are attached
    #[arg(long, value_name = "PLACE", value_enum, default_value_t = To::All)]
    pub to: To,
    /// Addresses are the same at both ends: keep them
    #[arg(long)]
    pub no_nat: bool,
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
    /// Both of the client, as chains
    Client,
    /// Both of the pod, as chains
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
