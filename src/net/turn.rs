//! One at a time: who changes what is attached in a namespace has the turn.
//!
//! Pairs serve several hooks, so whoever removes one has to know that nobody is about to rely on it. Input: nothing.
//! Output: a turn, which ends when it is dropped or its process ends, however that happens. Never looks at what is
//! attached.
//!
//! Who has the turn, or is about to take it, has a netlink socket in multicast groups that nobody sends to, and the kernel
//! lists these. To join a group of `NETLINK_FIB_LOOKUP` takes CAP_NET_ADMIN in the user namespace that the network
//! namespace belongs to (`netlink_allowed`, net/netlink/af_netlink.c), as attaching does: nobody else can make us wait. It
//! is the same in every container, needs no file system, and goes with the socket. Two that join at the same moment see
//! each other, since each joins before it looks: one leaves again.

use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use rtnetlink::sys::protocols::{NETLINK_FIB_LOOKUP, NETLINK_SOCK_DIAG};
use rtnetlink::sys::{Socket, SocketAddr};

use super::netlink::{self, Netlink};
use super::{Error, Result};

/// Several groups: no other program has happened upon the same.
const GROUPS: u32 = 0x5f;
/// How long a turn is waited for: many times what attaching to hundreds of interfaces takes.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long waiting is not worth a word.
const QUIET: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Nobody else has it meanwhile.
#[derive(Debug)]
pub struct Turn {
    _socket: Socket,
}

impl Turn {
    /// Waits for the turn in the namespace of the calling thread. `waiting` hears once who has it, if that takes a while.
    pub fn wait(patience: Duration, mut waiting: impl FnMut(&[u32])) -> Result<Self> {
        let start = Instant::now();
        let mut said = false;
        let mut mine: Option<(Socket, u32)> = None;
        loop {
            let others = others(mine.as_ref().map(|(_, port)| *port))?;
            mine = match mine {
                Some((socket, _)) if others.is_empty() => return Ok(Self { _socket: socket }),
                None if others.is_empty() => {
                    mine = Some(join()?);
                    continue;
                }
                // Of several that join at once, one stays. Who has the turn already does not look any more.
                mine => mine.filter(|(_, port)| others.iter().all(|other| port < other)),
            };
            let waited = start.elapsed();
            if waited > patience {
                return Err(Error::NotOurTurn { holders: others, waited });
            }
            if waited > QUIET && !said {
                said = true;
                waiting(&others);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Who they are: the number of a netlink socket is mostly that of its process, as its own PID namespace counts.
pub fn describe(holders: &[u32]) -> String {
    let numbers: Vec<String> = holders.iter().map(|port| format!("process {}", port.cast_signed())).collect();
    numbers.join(", ")
}

/// Those that have the turn in the namespace of the calling thread, or are about to. Needs no capability.
pub fn holders() -> Result<Vec<u32>> {
    // A list that changes while it is read may lack one that is there all the time.
    let mut found = list()?;
    found.extend(list()?);
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn join() -> Result<(Socket, u32)> {
    let failed = |source: io::Error| Error::Turn { what: "take the turn", source };
    let mut socket = Socket::new(NETLINK_FIB_LOOKUP).map_err(failed)?;
    let mut address = SocketAddr::new(0, GROUPS);
    socket.bind(&address).map_err(failed)?;
    socket.get_address(&mut address).map_err(failed)?;
    Ok((socket, address.port_number()))
}

/// All but `own`, which must be among them: a list without it is one of another namespace.
fn others(own: Option<u32>) -> Result<Vec<u32>> {
    let mut found = holders()?;
    if let Some(own) = own {
        let at = found.iter().position(|port| *port == own).ok_or_else(|| Error::Turn {
            what: "see whose turn it is: the kernel's list does not show this process",
            source: Errno::ENOENT.into(),
        })?;
        found.remove(at);
    }
    Ok(found)
}

fn list() -> Result<Vec<u32>> {
    if let Ok(found) = diagnosed() {
        return Ok(found);
    }
    // A kernel without CONFIG_NETLINK_DIAG; or nothing works at all, and this says why.
    let text = fs::read_to_string("/proc/thread-self/net/netlink");
    text.map(|text| listed(&text)).map_err(|source| Error::Turn {
        what: "see whose turn it is in /proc/thread-self/net/netlink",
        source,
    })
}

/// As linux/netlink_diag.h has it.
fn diagnosed() -> std::result::Result<Vec<u32>, netlink::Error> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const AF_NETLINK: u8 = 16;
    const NDIAG_SHOW_GROUPS: u32 = 2;
    const HEADER: usize = 28; // struct netlink_diag_msg
    const NETLINK_DIAG_GROUPS: u16 = 1;
    let protocol = u8::try_from(NETLINK_FIB_LOOKUP).unwrap_or(u8::MAX);
    let mut request = vec![AF_NETLINK, protocol, 0, 0, 0, 0, 0, 0];
    request.extend(NDIAG_SHOW_GROUPS.to_ne_bytes());
    request.extend([0; 8]); // any cookie
    let answers = Netlink::open_on(NETLINK_SOCK_DIAG)?.dump_bytes(SOCK_DIAG_BY_FAMILY, &request)?;
    let holder = |answer: &netlink::Answer| {
        let header: [u8; HEADER] = answer.header()?;
        let port = header.get(4..).and_then(netlink::word)?;
        let mut attributes = answer.attributes(HEADER);
        let (_, groups) = attributes.find(|(kind, _)| *kind == NETLINK_DIAG_GROUPS)?;
        (netlink::word(&groups)? == GROUPS).then_some(port)
    };
    Ok(answers.iter().filter_map(holder).collect())
}

/// The columns: address, protocol, number, the first 32 groups in hexadecimal, and more.
fn listed(text: &str) -> Vec<u32> {
    let holder = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let (protocol, port, groups) = (columns.next()?, columns.next()?, columns.next()?);
        let ours =
            protocol.parse() == Ok(NETLINK_FIB_LOOKUP) && u32::from_str_radix(groups, 16) == Ok(GROUPS);
        if ours { port.parse().ok() } else { None }
    };
    text.lines().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_in_these_groups_are_listed() {
        let text = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 10  0          00000000 0        0        0     2        0        1041
0000000000000000 0   4711       0000005f 0        0        0     2        0        28185
0000000000000000 10  4712       00000000 0        0        0     2        0        28186
0000000000000000 10  4713       0000005f 0        0        0     2        0        28187
0000000000000000 10  4294963199 0000005f 0        0        0     2        0        28188
";
        assert_eq!(listed(text), [4713, 4_294_963_199]);
    }
}
