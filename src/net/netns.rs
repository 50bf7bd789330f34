//! Network namespaces by name, path or process.
//!
//! Input: what the user wrote. Output: a calling thread that is in that namespace. Never comes back.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::{Error, Result};
use crate::system;

/// Where `ip netns` and container runtimes keep names.
const NAMED: &str = "/var/run/netns";

/// Moves the calling thread into the namespace: a name under /var/run/netns, a path, or a process id.
pub fn enter(target: &str) -> Result<()> {
    let path = locate(target, Path::new(NAMED));
    let fail = |source: io::Error| Error::Namespace { path: path.clone(), source };
    let file = File::open(&path).map_err(fail)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| fail(errno.into()))
}

/// A slash makes it a path; digits are a process unless a namespace has that very name.
fn locate(target: &str, named: &Path) -> PathBuf {
    let by_name = named.join(target);
    if target.contains('/') {
        PathBuf::from(target)
    } else if !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_digit()) && !by_name.exists() {
        PathBuf::from(format!("/proc/{target}/ns/net"))
    } else {
        by_name
    }
}

/// What the system said, and what to do about it.
pub(super) fn explain(source: &io::Error) -> String {
    let hint = match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => "; in a container, mount /var/run/netns (or share the host's process ids)",
        Some(Errno::EPERM) => "; CAP_SYS_ADMIN is needed to enter a namespace",
        Some(Errno::EACCES) => {
            "; CAP_SYS_PTRACE is needed to see the namespace of a process, CAP_SYS_ADMIN to enter it"
        }
        Some(Errno::EINVAL) => {
            "; the file is not a network namespace: in a container, mount /var/run/netns with propagation (HostToContainer)"
        }
        Some(errno) => system::advice(errno),
        None => "",
    };
    format!("{source}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_a_process_unless_a_namespace_has_that_name() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("42"), "").unwrap();
        assert_eq!(locate("42", directory.path()), directory.path().join("42"));
        assert_eq!(locate("43", directory.path()), Path::new("/proc/43/ns/net"));
        assert_eq!(locate("blue", directory.path()), directory.path().join("blue"));
        assert_eq!(locate("/run/x/ns", directory.path()), Path::new("/run/x/ns"));
    }
}
