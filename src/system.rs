//! What to do when the system refuses anything at all for want of descriptors, memory or a system call.
//!
//! Input: an error of the system. Output: the words that follow it. What an error means to one request only
//! (`ENOENT` of a qdisc, `EPERM` of bpf) is said where the request is made. Never an error of ours, nor of the rules.

use std::io;

use nix::errno::Errno;

/// What to do, after "; "; empty if the error says nothing general.
pub fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE => {
            "; this process may not open more files: raise its limit (`ulimit -n 64`, `LimitNOFILE=64` in a unit of systemd)"
        }
        Errno::ENFILE => {
            "; the whole system may not open more files: raise `sysctl fs.file-max`, or find what holds so many (`lsof`)"
        }
        Errno::ENOMEM | Errno::ENOBUFS => {
            "; the kernel has no memory for it: free some, or raise the memory limit of this container or unit"
        }
        Errno::ENOSYS => "; this kernel, or the emulator that runs this program, has no such system call",
        _ => "",
    }
}

/// Whether the system lacks something that it may have again: what was asked for is possible, and not to be done without.
pub fn is_short(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
}

/// What the system said, and what to do.
pub fn said(error: &io::Error) -> String {
    format!("{error}{}", error.raw_os_error().map(Errno::from_raw).map_or("", advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_remedies_are_named() {
        for (errno, words) in [
            (Errno::EMFILE, "ulimit -n"),
            (Errno::ENFILE, "fs.file-max"),
            (Errno::ENOMEM, "no memory"),
            (Errno::ENOBUFS, "no memory"),
            (Errno::ENOSYS, "emulator"),
        ] {
            let text = said(&errno.into());
            assert!(text.contains(words) && text.starts_with(&io::Error::from(errno).to_string()), "{text}");
        }
    }

    #[test]
    fn other_errors_are_left_as_they_are() {
        assert_eq!(said(&Errno::EXDEV.into()), io::Error::from(Errno::EXDEV).to_string());
        assert_eq!(said(&io::Error::other("odd")), "odd");
    }
}
