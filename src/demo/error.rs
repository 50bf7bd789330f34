//! Why the demo did not get to its end: the step, what the system said, what to do.

use std::io;

use nix::errno::Errno;

use super::DEADLINE;
use crate::{kernel, net, system};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something that only the demo asks for.
    #[error("the demo cannot {step}: {source}{}", if remedy.is_empty() { String::new() } else { format!("; {remedy}") })]
    System { step: String, source: io::Error, remedy: &'static str },
    #[error("the demo cannot attach: {0}")]
    Attach(#[from] net::Error),
    #[error("the demo cannot load its programs: {0}")]
    Load(#[from] kernel::LoadError),
    /// Packets went in and something else, or nothing, came out.
    #[error("{step}: {found}; {REPORT}")]
    Wrong { step: String, found: String },
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

const REPORT: &str = "please report it with the kernel's version (uname -r)";

impl Error {
    pub(super) fn system(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (step, source) = (step.into(), source.into());
        let remedy = remedy(source.raw_os_error().map(Errno::from_raw));
        let late = matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let source = if late {
            io::Error::new(io::ErrorKind::TimedOut, format!("nothing came within {} s", DEADLINE.as_secs()))
        } else {
            source
        };
        Error::System { step, source, remedy }
    }

    pub(super) fn wrong(step: impl Into<String>, found: impl Into<String>) -> Self {
        Error::Wrong { step: step.into(), found: found.into() }
    }
}

/// What a refusal means here, where nothing exists that we have not just made.
fn remedy(errno: Option<Errno>) -> &'static str {
    match errno {
        Some(Errno::EPERM | Errno::EACCES) => {
            "run it as root (sudo): CAP_SYS_ADMIN and CAP_NET_RAW are needed for namespaces and packet sockets, \
             CAP_BPF and CAP_NET_ADMIN for the rest"
        }
        Some(Errno::ENOSPC) => "raise the limit on namespaces: sysctl user.max_net_namespaces",
        Some(Errno::EINVAL) => "the kernel needs network namespaces (CONFIG_NET_NS)",
        Some(Errno::EOPNOTSUPP) => {
            "the kernel needs veth pairs: modprobe veth (on the host, if in a container)"
        }
        Some(Errno::EAFNOSUPPORT) => "the kernel needs packet sockets: modprobe af_packet",
        Some(Errno::ENOENT) => "/proc must be mounted",
        // What SO_RCVTIMEO answers, std's timeouts, and ours.
        Some(Errno::EAGAIN | Errno::ETIMEDOUT) => {
            "packets are lost between two namespaces of one machine: does another program or a security policy \
             interfere (`sfunnel status`, `dmesg`)?"
        }
        Some(other) => system::advice(other).trim_start_matches("; "),
        None => "",
    }
}
