//! The words of `watch`. Never looks at the environment.

use std::path::PathBuf;

use clap::Args;

use super::{Defines, Place, Strict, Treatment};

pub const WATCH: &str = "\
Examples:
  sfunnel watch /etc/sfunnel/ruleset -i eth0 --end client
  sfunnel watch rules.sf -i eth0 -i eth1 --log-format json
  sfunnel watch rules.sf --detach-on-exit

Attaches and stays: when the file changes, its rules replace those that are
attached; when an interface appears or comes back, it gets them. It waits for
the kernel to say so, and asks for nothing meanwhile. Rules that are wrong, or a
file that is gone or empty, change nothing, and it says so.

SIGHUP reads the file again and attaches in any case. SIGTERM and SIGINT end it;
what it attached stays, unless --detach-on-exit is given.
Needs CAP_BPF and CAP_NET_ADMIN; --netns needs CAP_SYS_ADMIN as well.";

/// What to follow.
#[derive(Debug, Args)]
pub struct Watch {
    /// File with the rules
    pub file: PathBuf,
    #[command(flatten)]
    pub place: Place,
    /// Remove what is attached when it ends by SIGTERM or SIGINT
    #[arg(long)]
    pub detach_on_exit: bool,
    #[command(flatten)]
    pub treatment: Treatment,
    #[command(flatten)]
    pub defines: Defines,
    #[command(flatten)]
    pub strict: Strict,
}
