//! A network namespace without a name.
//!
//! Held by an open file alone, so the kernel takes it away with the process, however that ends: nothing has
//! to be cleaned up. Sockets belong to the namespace of the thread that opens them, for good.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::{panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

use super::Error;

#[derive(Debug)]
pub struct Namespace {
    pub name: &'static str,
    file: File,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Namespace {
    pub fn new(name: &'static str) -> Result<Self, Error> {
        let make = || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        // The calling thread stays where it is.
        let made = thread::Builder::new().spawn(make).map_err(no_thread)?;
        let made = made.join().unwrap_or_else(|payload| panic::resume_unwind(payload));
        made.map(|file| Self { name, file })
            .map_err(|source| Error::system("make a network namespace", source))
    }

    /// Runs `work` in a thread that is in the namespace, to the end.
    pub fn within<T: Send, E: Into<Error> + Send>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, Error> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::system("enter its own namespace", errno))?;
            work().map_err(Into::into)
        };
        thread::scope(|scope| {
            let inside = thread::Builder::new().spawn_scoped(scope, inside).map_err(no_thread)?;
            inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Packets that the namespace has thrown away for their checksum: TCP, UDP.
    pub fn checksum_errors(&self) -> Result<[u64; 2], Error> {
        let text = self.within(|| {
            let fail = |source| Error::system("read the counters in /proc/thread-self/net/snmp", source);
            fs::read_to_string("/proc/thread-self/net/snmp").map_err(fail)
        })?;
        let read = |protocol| {
            counter(&text, protocol, "InCsumErrors").ok_or_else(|| {
                Error::wrong("reading /proc/thread-self/net/snmp", format!("no InCsumErrors of {protocol}"))
            })
        };
        Ok([read("Tcp")?, read("Udp")?])
    }
}

/// `EAGAIN` has another meaning here than on a socket.
fn no_thread(source: io::Error) -> Error {
    let remedy = "raise the limit on processes and threads (`ulimit -u`, `TasksMax=` in a unit of systemd)";
    Error::System { step: "start a thread".to_owned(), source, remedy }
}

/// Two lines a protocol: names, then values.
fn counter(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines =
        text.lines().filter_map(|line| line.split_once(": ")).filter(|(start, _)| *start == protocol);
    let ((_, names), (_, values)) = (lines.next()?, lines.next()?);
    let (_, value) = names.split(' ').zip(values.split(' ')).find(|(candidate, _)| *candidate == name)?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn a_counter_is_found_below_its_name() {
        let text = "Tcp: RtoMin InErrs InCsumErrors\nTcp: 200 -1 7\nUdp: InCsumErrors\nUdp: 0\n";
        assert_eq!(counter(text, "Tcp", "InCsumErrors"), Some(7));
        assert_eq!(counter(text, "Udp", "InCsumErrors"), Some(0));
        assert_eq!(counter(text, "UdpLite", "InCsumErrors"), None);
    }
}
