//! One at a time: who changes a namespace's interfaces has the turn.
//!
//! Pairs serve several hooks, so whoever removes one has to know that nobody is about to rely on it. Comes in:
//! nothing. Goes out: a turn, which ends when it is dropped or its process ends, however that happens. A name in
//! the abstract namespace of Unix sockets is one for each network namespace, and needs no file system.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

const NAME: &[u8] = b"sfunnel/turn";

/// Nobody else has it meanwhile; in a kernel without such sockets, this is only hoped.
#[derive(Debug)]
pub struct Turn {
    _socket: Option<UnixDatagram>,
}

impl Turn {
    /// Waits for the turn in the namespace of the calling thread. `None`: it did not come in time. Any program may
    /// take the name, and must not be able to keep us from working.
    pub fn wait() -> Option<Self> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const PAUSE: Duration = Duration::from_millis(2);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match take() {
                Ok(socket) => return Some(Self { _socket: Some(socket) }),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Some(Self { _socket: None });
                }
                Err(_) if Instant::now() > deadline => return None,
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

fn take() -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}
