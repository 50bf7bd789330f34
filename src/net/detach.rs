//! Removes what is ours.
//!
//! Input: interfaces and hooks. Output: the filters removed, from clsact and from TCX. All filters go in one message, and
//! with them the settings that only their names remember. Never removes another's filter, nor a clsact that anything hangs
//! on. clsact has no room for a mark of its maker, so an empty one is removed with our last filter, even if somebody else
//! made it: without filters it does nothing.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::filter::{self, Filter, Hook};
use super::limit::{self, Limit};
use super::links::{self, Interface};
use super::netlink::{Netlink, Request};
use super::qdisc::{self, Blocks, Qdisc};
use super::{Error, Result, tcx};

/// Whose filters to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// Also those that the original sfunnel left behind.
    OursAndTheOriginals,
}

/// What there is, and what of it is to go.
#[derive(Debug, Default)]
struct Job {
    programs: Vec<Filter>,
    filters: Vec<Filter>,
    notes: Vec<Filter>,
    /// All of ours, and notes without programs, whether they go or stay.
    before: Vec<Filter>,
    stays: Vec<Filter>,
}

impl Job {
    fn look(
        &mut self,
        netlink: &mut Netlink,
        place: (&Interface, Hook, Qdisc),
        whose: Option<Whose>,
    ) -> Result<()> {
        let (interface, hook, qdisc) = place;
        let filters = filter::list(netlink, interface, hook, qdisc)?;
        let standing = tcx::look(interface, hook, &filters)?;
        self.before.extend(tcx::stale(standing.as_ref(), &filters));
        let programs = standing.map(|standing| standing.ours).unwrap_or_default();
        self.before.extend(programs.iter().chain(filters.iter().filter(|filter| filter.is_ours())).cloned());
        let Some(whose) = whose else {
            self.stays.extend(programs.into_iter().chain(filters.into_iter().filter(Filter::is_ours)));
            return Ok(());
        };
        self.programs.extend(programs);
        for filter in filters {
            if filter.is_note() {
                self.notes.push(filter);
            } else if filter.is_ours() || (whose == Whose::OursAndTheOriginals && filter.is_the_originals()) {
                self.filters.push(filter);
            }
        }
        Ok(())
    }
}

/// Removes filters from these hooks of these interfaces; returns which.
pub fn detach(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    hooks: &[Hook],
    whose: Whose,
) -> Result<Vec<Filter>> {
    let qdiscs = qdisc::all(netlink)?;
    let mut job = Job::default();
    for interface in interfaces {
        let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
        // The kernel put what the original attached to egress on ingress, where there is no egress.
        let hooks = match (qdisc, whose) {
            (Qdisc::Legacy, Whose::OursAndTheOriginals) => &[Hook::Ingress],
            _ => hooks,
        };
        for hook in Hook::ALL {
            job.look(netlink, (interface, hook, qdisc), hooks.contains(&hook).then_some(whose))?;
        }
    }
    let Job { programs, filters, notes, before, stays } = job;
    let limits = if before.iter().any(|filter| limit::said_by(filter).is_some()) {
        let limited = |interface: &Interface| limit::before(&stays, interface).is_some();
        limit::changes(&links::devices(netlink)?, interfaces, &before, limited)
    } else {
        Vec::new()
    };
    // These one by one; till the end, their notes say that it has begun.
    let mut removed = Vec::new();
    for program in programs {
        let Some(id) = program.program else { continue };
        match tcx::take(&program.interface, program.hook, id) {
            Ok(()) => removed.push(program),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let mut touched: Vec<Interface> = removed.iter().chain(&notes).map(|f| f.interface.clone()).collect();
    let notes_from = filters.len();
    let all = filters.into_iter().chain(notes).collect();
    let went = remove_all(netlink, &limits, all)?;
    removed.extend(went.into_iter().filter(|(at, _)| *at < notes_from).map(|(_, filter)| filter));
    touched.extend(removed.iter().map(|filter| filter.interface.clone()));
    touched.sort_unstable_by_key(|interface| interface.index);
    touched.dedup();
    remove_empty_qdiscs(netlink, touched)?;
    // As one would read them: interface by interface.
    let place = |filter: &Filter| interfaces.iter().position(|interface| *interface == filter.interface);
    removed.sort_by_cached_key(|filter| (place(filter), filter.hook == Hook::Egress));
    Ok(removed)
}

/// Removes filters, and sets limits, in one message. Returns those that were there, and which of the filters they were.
pub(super) fn remove_all(
    netlink: &mut Netlink,
    limits: &[Limit],
    filters: Vec<Filter>,
) -> Result<Vec<(usize, Filter)>> {
    let mut requests: Vec<Request> = limits.iter().map(Limit::request).collect();
    requests.extend(filters.iter().map(filter::removal));
    let mut refusals =
        netlink.batch(requests).map_err(|source| Error::netlink("remove filters", source))?.into_iter();
    let mut failed = None;
    for (limit, refusal) in limits.iter().zip(refusals.by_ref()) {
        let error = refusal.map(|source| limit.stays(source));
        failed = failed.or(error.filter(|error| !gone(error)));
    }
    let mut removed = Vec::new();
    for (at, (filter, refusal)) in filters.into_iter().zip(refusals).enumerate() {
        match refusal.map(|source| filter::stays(&filter, source)) {
            None => removed.push((at, filter)),
            Some(error) if gone(&error) || !is_there(netlink, &filter)? => {}
            Some(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(removed), Err)
}

/// Removes clsact where nothing hangs on either of its hooks and nobody shares its filters. The kernel refuses while
/// somebody is about to add a filter or to remove one (`EBUSY`, `qdisc_refcount_dec_if_one`) or has just removed
/// the qdisc (`EINVAL`): then it is looked at again. One that stays in use is left to those who use it.
pub(super) fn remove_empty_qdiscs(netlink: &mut Netlink, mut interfaces: Vec<Interface>) -> Result<()> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(2);
    for _ in 0..TRIES {
        let qdiscs = qdisc::all(netlink)?;
        let mut busy = Vec::new();
        for interface in interfaces {
            let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
            if qdisc != Qdisc::Clsact(Blocks::default()) || !is_empty(netlink, &interface, qdisc)? {
                continue;
            }
            match qdisc::remove(netlink, &interface) {
                Ok(()) => {}
                Err(error) if gone(&error) => {}
                Err(Error::Netlink { source, .. })
                    if matches!(source.errno(), Some(Errno::EBUSY | Errno::EINVAL)) =>
                {
                    busy.push(interface);
                }
                Err(error) => return Err(error),
            }
        }
        interfaces = busy;
        if interfaces.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn is_empty(netlink: &mut Netlink, interface: &Interface, qdisc: Qdisc) -> Result<bool> {
    for hook in Hook::ALL {
        if !filter::list(netlink, interface, hook, qdisc)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Somebody was faster, or the interface went away: what we wanted is so.
pub(super) fn gone(error: &Error) -> bool {
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
