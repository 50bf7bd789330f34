//! The words of `watch`. Never looks at the environment.

use std::path::PathBuf;

use clap::Args;

use super::{Defines, Place, Strict, Treatment};

pub const WATCH: &str = "\
Examples:
  sfunnel watch /etc/sfunnel/ruleset -i eth0 --end client
  sfunnel watch rules.sf -i eth0 -i eth1 --log-format json
  sfunnel watch rules.sf --detach-on-exit

Attaches the rules and keeps running: when the file changes, its rules replace
the attached ones; when an interface appears or comes back, it gets them. The
kernel reports both; nothing is polled. Invalid rules, or a file that is gone or
empty, are reported and change nothing.

SIGHUP makes it read the file and attach again. SIGTERM and SIGINT end it; the
rules stay attached, unless --detach-on-exit is given.
Needs CAP_BPF and CAP_NET_ADMIN; --netns needs CAP_SYS_ADMIN as well.";

/// What to follow.
#[derive(Debug, Args)]
pub struct Watch {
    /// File with the rules
    pub file: PathBuf,
    #[command(flatten)]
    pub place: Place,
    /// Detach when SIGTERM or SIGINT ends it
    #[arg(long)]
    pub detach_on_exit: bool,
    #[command(flatten)]
    pub treatment: Treatment,
    #[command(flatten)]
    pub defines: Defines,
    #[command(flatten)]
    pub strict: Strict,
}
