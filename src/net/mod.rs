//! Everything that talks rtnetlink: interfaces, the clsact qdisc, tc filters, companion devices, network namespaces;
//! and TCX, through bpf(2).
//!
//! Input: loaded programs and interface names. Output: filters that stay after the process exits.
//! Keeps no state of its own: asks the kernel each time what is attached.

pub mod attach;
pub mod batch;
pub mod card;
pub mod companion;
pub mod detach;
pub mod ethtool;
pub mod filter;
pub mod gso;
pub mod health;
pub mod limit;
pub mod links;
pub mod macvlan;
pub mod mark;
pub mod monitor;
pub mod netlink;
pub mod netns;
pub mod overlay;
pub mod pair;
pub mod peers;
pub mod pods;
pub mod probe;
pub mod qdisc;
pub mod seen;
pub mod tcx;
pub mod turn;
pub mod unseen;
pub mod veth;
pub mod xfrm;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use crate::system;

pub use crate::codegen::Link;
pub use attach::{Attached, Attachment, Plan, plan};
pub use detach::detach;
pub use filter::{Filter, Hook, Point};
pub use gso::Gso;
pub use links::Interface;
pub use mark::Mark;
pub use netlink::Netlink;
pub use seen::{Seen, look, status};
pub use tcx::Order;

/// Bytes of `struct tcmsg`: family and padding, ifindex, handle, parent, info.
const TC_HEADER: usize = 20;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what}: {source}{}", remedy(source))]
    Netlink { what: String, source: netlink::Error },

    #[error("no interface named {}; there are: {}", missing.join(", "), present.join(", "))]
    NoSuchInterface { missing: Vec<String>, present: Vec<String> },

    #[error(
        "packets of {interface} start with a link header that sfunnel does not know (ARPHRD {link_type}); \
         attach to the Ethernet or IP interfaces above or below it"
    )]
    UnknownLink { interface: String, link_type: u16 },

    #[error("{0} is sfunnel's own: a companion device of another interface")]
    OurOwn(String),

    #[error(
        "cannot ask {host} whether it receives: {source}{}",
        if *source == Errno::EPERM { " (CAP_NET_RAW is needed)" } else { system::advice(*source) }
    )]
    Probe { host: std::net::IpAddr, source: Errno },

    #[error("no overlay to bypass: {why}")]
    NoOverlay { why: String },

    #[error("{interface} {why}")]
    Unfit { interface: String, why: String },

    #[error("the number of {interface} is too high for companion devices")]
    NumberTooHigh { interface: String },

    #[error(
        "cannot {what}: {source}{}",
        if_unknown(
            source,
            " (companion pairs need CONFIG_VETH, built in or as module veth, and CONFIG_ETHTOOL_NETLINK)"
        )
    )]
    Pair { what: String, source: netlink::Error },

    #[error(
        "cannot {what}: {source}{}",
        if_unknown(source, " (it needs CONFIG_MACVLAN, built in or as module macvlan)")
    )]
    Macvlan { what: String, source: netlink::Error },

    #[error(
        "the {} of {} is {}, and making it again did not help; {}: find out who changes it, and attach again",
        .0.pair, .0.interface.name, .0.why, .0.pair.lost()
    )]
    Broken(Box<health::Broken>),

    #[error("the companion devices of {interface} did not come up")]
    Down { interface: String },

    #[error(
        "{interface} has the legacy `ingress` qdisc, which leaves no room for clsact and runs egress filters on ingress; \
         move what uses it to clsact, or remove it with `tc qdisc del dev {interface} ingress`, then try again"
    )]
    LegacyIngress { interface: String },

    #[error(
        "{interface} {hook} has a filter that is not sfunnel's at priority {}: {what}; move it to another priority",
        filter::PRIORITY
    )]
    Occupied { interface: String, hook: Hook, what: String },

    #[error(
        "the filters of {interface} {hook} are in shared block {block}, and would be those of every device that uses it; \
         give {interface} a clsact of its own: `tc qdisc del dev {interface} clsact`, then try again"
    )]
    SharedBlock { interface: String, hook: Hook, block: u32 },

    #[error("cannot {what}: {source}{}", tcx_remedy(*source))]
    Tcx { what: String, source: Errno },

    #[error(
        "the kernel has no TCX, so nothing can be attached to that of {interface}; it came with 6.6: use `--hook clsact`"
    )]
    NoTcx { interface: String },

    #[error(
        "there is no program {id} on TCX of {interface} {hook}; {}",
        if present.is_empty() { "there is none at all".to_owned() } else { format!("there are: {}", tcx::list(present)) }
    )]
    NoSuchProgram { id: u32, interface: String, hook: Hook, present: Vec<u32> },

    /// A change failed after others had been made; `standing` says what could not be undone.
    #[error("{cause}; {}", if standing.is_empty() { "everything is as it was before".to_owned() } else { standing.join("; ") })]
    PartWay { cause: Box<Error>, standing: Vec<String> },

    #[error(
        "nothing was changed: another sfunnel is at work in this network namespace ({}), and was not done within {} s; \
         try again when it is, or end it if it hangs",
        turn::describe(holders),
        waited.as_secs()
    )]
    NotOurTurn { holders: Vec<u32>, waited: Duration },

    #[error("nothing was changed: cannot {what}: {}{}", system::said(source), turn_remedy(source))]
    Turn { what: &'static str, source: io::Error },

    #[error("cannot enter network namespace {}: {}", path.display(), netns::explain(source))]
    Namespace { path: PathBuf, source: io::Error },
}

impl Error {
    pub(crate) fn netlink(what: impl Into<String>, source: netlink::Error) -> Self {
        Error::Netlink { what: what.into(), source }
    }

    pub(crate) fn tcx(what: &str, interface: &Interface, hook: Hook, source: Errno) -> Self {
        Error::Tcx { what: format!("{what} {} {hook}", interface.name), source }
    }

    pub fn is_not_permitted(&self) -> bool {
        let errno = match self {
            Error::Netlink { source, .. } | Error::Pair { source, .. } | Error::Macvlan { source, .. } => {
                source.errno()
            }
            Error::Turn { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        };
        errno == Some(Errno::EPERM)
    }

    /// Whether there is no doing without: of permission, or of descriptors or memory, which there may be again.
    pub(crate) fn is_final(&self) -> bool {
        self.is_not_permitted() || self.is_short()
    }

    /// Whether the system lacks what it may have again.
    pub(crate) fn is_short(&self) -> bool {
        self.netlink_source().and_then(netlink::Error::errno).is_some_and(system::is_short)
    }

    /// Whether the kernel may have done what it was asked for all the same.
    fn is_unanswered(&self) -> bool {
        self.netlink_source().is_some_and(netlink::Error::is_unanswered)
    }

    fn netlink_source(&self) -> Option<&netlink::Error> {
        match self {
            Error::Netlink { source, .. } | Error::Pair { source, .. } | Error::Macvlan { source, .. } => {
                Some(source)
            }
            _ => None,
        }
    }

    /// An error of what is done once the rules are attached.
    pub fn after_attaching(self) -> Self {
        let standing =
            "the rules are attached, but not all that belongs to them is done: attach again".to_owned();
        Error::PartWay { cause: Box::new(self), standing: vec![standing] }
    }

    /// What the kernel says to a well-formed request for a filter when there is no qdisc for it, or will soon be none.
    fn is_about_the_qdisc(&self) -> bool {
        const THIS: [Errno; 3] = [Errno::EINVAL, Errno::ENOENT, Errno::EBUSY];
        matches!(self, Error::Netlink { source, .. } if source.errno().is_some_and(|errno| THIS.contains(&errno)))
    }

    /// Whether waiting may help: an interface is not there yet, or went while we were at it.
    pub fn is_missing_interface(&self) -> bool {
        match self {
            Error::NoSuchInterface { .. } => true,
            Error::Netlink { source, .. } => source.errno() == Some(Errno::ENODEV),
            Error::Tcx { source, .. } => *source == Errno::ENODEV,
            // What could not be undone is what is wanted: trying again completes it.
            Error::PartWay { cause, .. } => cause.is_missing_interface(),
            _ => false,
        }
    }
}

/// What to say when the kernel does not know the kind of device.
fn if_unknown(source: &netlink::Error, what: &'static str) -> &'static str {
    if source.errno() == Some(Errno::EOPNOTSUPP) { what } else { "" }
}

fn turn_remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => " (CAP_NET_ADMIN is needed in the namespace that the interface is in)",
        Some(Errno::EACCES) => {
            " (a security policy forbids it: SELinux has a class netlink_fib_lookup_socket)"
        }
        Some(Errno::ENOENT) => " (mount /proc, or use a kernel with CONFIG_NETLINK_DIAG)",
        _ => "",
    }
}

fn tcx_remedy(source: Errno) -> &'static str {
    match source {
        Errno::EPERM => " (CAP_NET_ADMIN is needed in the namespace that the interface is in)",
        Errno::ERANGE => " (a chain takes 64 programs)",
        Errno::ESTALE => " (somebody else keeps changing what is there)",
        other => system::advice(other),
    }
}

fn remedy(source: &netlink::Error) -> &'static str {
    match source.errno() {
        Some(Errno::EPERM) => " (CAP_NET_ADMIN is needed in the namespace that the interface is in)",
        Some(Errno::EMSGSIZE) => {
            " (attach to fewer interfaces at a time, or raise `sysctl net.core.wmem_max`)"
        }
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => {
            " (the kernel needs CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, built in or as modules cls_bpf and sch_ingress)"
        }
        _ => "",
    }
}
