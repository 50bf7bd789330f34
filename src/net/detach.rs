//! Removes what is ours, and lists what is attached.
//!
//! Input: interfaces and hooks. Output: the filters removed, or found, on clsact and on TCX. Never removes another's filter,
//! nor a clsact that anything hangs on. clsact has no room for a mark of its maker, so an empty one is
//! removed with our last filter, even if somebody else made it: without filters it does nothing.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::filter::{self, Filter, Hook};
use super::links::Interface;
use super::netlink::Netlink;
use super::qdisc::{self, Blocks, Qdisc};
use super::{Error, Result, tcx};

/// Whose filters to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// Also those that the original sfunnel left behind.
    OursAndTheOriginals,
}

/// Removes filters from these hooks of these interfaces; returns which.
pub fn detach(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    hooks: &[Hook],
    whose: Whose,
) -> Result<Vec<Filter>> {
    let mut removed = Vec::new();
    for interface in interfaces {
        let before = removed.len();
        let mut swept = false;
        let qdisc = qdisc::all(netlink)?.get(&interface.index).copied().unwrap_or_default();
        // The kernel put what the original attached to egress on ingress, where there is no egress.
        let hooks = match (qdisc, whose) {
            (Qdisc::Legacy, Whose::OursAndTheOriginals) => &[Hook::Ingress],
            _ => hooks,
        };
        for hook in hooks {
            let filters = filter::list(netlink, interface, *hook, qdisc)?;
            for ours in tcx::look(interface, *hook, &filters)?.into_iter().flat_map(|standing| standing.ours)
            {
                match tcx::remove(netlink, &ours) {
                    Ok(()) => removed.push(ours),
                    Err(error) if gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if filters.iter().any(Filter::is_note) {
                tcx::sweep(netlink, interface, *hook)?;
                swept = true;
            }
            for filter in filters {
                if filter.is_ours() || (whose == Whose::OursAndTheOriginals && filter.is_the_originals()) {
                    match filter::remove(netlink, &filter) {
                        Ok(()) => removed.push(filter),
                        Err(error) if gone(&error) || !is_there(netlink, &filter)? => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        if removed.len() > before || swept {
            match remove_empty_qdisc(netlink, interface) {
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(removed)
}

/// Our filters, as they stand; and the notes of our programs on TCX, which run first.
pub fn status(netlink: &mut Netlink, interfaces: &[Interface], hooks: &[Hook]) -> Result<Vec<Filter>> {
    let qdiscs = qdisc::all(netlink)?;
    let mut found = Vec::new();
    for interface in interfaces {
        let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
        for hook in hooks {
            let filters = filter::list(netlink, interface, *hook, qdisc)?;
            found.extend(
                tcx::look(interface, *hook, &filters)?.into_iter().flat_map(|standing| standing.ours),
            );
            found.extend(filters.into_iter().filter(Filter::is_ours));
        }
    }
    Ok(found)
}

/// Removes clsact if nothing hangs on either of its hooks and nobody shares its filters. The kernel refuses while
/// somebody is about to add a filter or to remove one (`EBUSY`, `qdisc_refcount_dec_if_one`) or has just removed
/// the qdisc (`EINVAL`): then it is looked at again. One that stays in use is left to those who use it.
pub(super) fn remove_empty_qdisc(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(2);
    for _ in 0..TRIES {
        match try_to_remove_empty_qdisc(netlink, interface) {
            Err(Error::Netlink { source, .. })
                if matches!(source.errno(), Some(Errno::EBUSY | Errno::EINVAL)) =>
            {
                thread::sleep(PAUSE)
            }
            result => return result,
        }
    }
    Ok(())
}

fn try_to_remove_empty_qdisc(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    let qdisc = qdisc::all(netlink)?.get(&interface.index).copied().unwrap_or_default();
    if qdisc != Qdisc::Clsact(Blocks::default()) {
        return Ok(());
    }
    for hook in Hook::ALL {
        if !filter::list(netlink, interface, hook, qdisc)?.is_empty() {
            return Ok(());
        }
    }
    qdisc::remove(netlink, interface)
}

/// Somebody was faster, or the interface went away: what we wanted is so.
fn gone(error: &Error) -> bool {
    let errno = match error {
        Error::Netlink { source, .. } => source.errno(),
        Error::Tcx { source, .. } => Some(*source),
        _ => None,
    };
    matches!(errno, Some(Errno::ENOENT | Errno::ENODEV))
}

/// Where its qdisc has gone, the kernel answers `EINVAL` ("Parent Qdisc doesn't exists"), as it does to mistakes.
fn is_there(netlink: &mut Netlink, filter: &Filter) -> Result<bool> {
    let qdisc = qdisc::all(netlink)?.get(&filter.interface.index).copied().unwrap_or_default();
    Ok(filter::list(netlink, &filter.interface, filter.hook, qdisc)?.contains(filter))
}
