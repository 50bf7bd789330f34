//! What of ours is on hooks: programs that are in place, and what somebody left half done who was killed.
//!
//! Input: interfaces and hooks. Output: filters, and notes of programs on TCX that are not there. Whatever the kernel
//! does not do in one step is noted first and tidied up last, so a part of it always shows. Never changes anything.

use std::collections::HashMap;
use std::fmt;

use super::filter::{self, Filter, Hook, Point};
use super::links::Interface;
use super::netlink::Netlink;
use super::qdisc::{self, Qdisc};
use super::{Result, tcx};

#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// In place. Of one hook, those on TCX come first.
    pub ours: Vec<Filter>,
    /// Notes without their programs.
    pub stale: Vec<Filter>,
}

/// Our filters, as they stand; and the notes of our programs on TCX, which run first.
pub fn status(netlink: &mut Netlink, interfaces: &[Interface], hooks: &[Hook]) -> Result<Vec<Filter>> {
    Ok(look(netlink, interfaces, hooks)?.ours)
}

pub fn look(netlink: &mut Netlink, interfaces: &[Interface], hooks: &[Hook]) -> Result<Seen> {
    let qdiscs = qdisc::all(netlink)?;
    look_with(netlink, &qdiscs, interfaces, hooks)
}

/// The same for those who know the qdiscs: listing them costs as much as there are interfaces.
pub fn look_with(
    netlink: &mut Netlink,
    qdiscs: &HashMap<i32, Qdisc>,
    interfaces: &[Interface],
    hooks: &[Hook],
) -> Result<Seen> {
    let mut seen = Seen::default();
    for interface in interfaces {
        let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
        for hook in hooks {
            let filters = filter::list(netlink, interface, *hook, qdisc)?;
            let standing = tcx::look(interface, *hook, &filters)?;
            seen.stale.extend(tcx::stale(standing.as_ref(), &filters));
            seen.ours.extend(standing.into_iter().flat_map(|standing| standing.ours));
            seen.ours.extend(filters.into_iter().filter(Filter::is_ours));
        }
    }
    Ok(seen)
}

/// A hook that somebody was changing who did not come to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub interface: Interface,
    pub hook: Hook,
    what: &'static str,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, .. } = self;
        write!(
            f,
            "half attached by an interrupted run ({what}); `sfunnel attach` with the same rules and interfaces finishes \
             it, `sfunnel detach` takes it away"
        )
    }
}

impl Seen {
    /// All that has, or had, something to say about what was before.
    pub fn all(&self) -> Vec<Filter> {
        self.ours.iter().chain(&self.stale).cloned().collect()
    }

    /// Each hook once.
    pub fn unfinished(&self) -> Vec<Unfinished> {
        let mut points: HashMap<(i32, Hook), Vec<Point>> = HashMap::new();
        for filter in &self.ours {
            points.entry((filter.interface.index, filter.hook)).or_default().push(filter.point());
        }
        let stale = self.stale.iter().map(|note| (note, "the note of a program that is not on TCX"));
        let twice = self.ours.iter().filter_map(|filter| {
            match points.get(&(filter.interface.index, filter.hook)).map(Vec::as_slice) {
                Some([_] | []) | None => None,
                Some(points) if points.contains(&Point::Clsact) => Some((filter, "on TCX and on clsact")),
                Some(_) => Some((filter, "twice on TCX")),
            }
        });
        let mut found: Vec<Unfinished> = Vec::new();
        let mut known: Vec<(i32, Hook)> = Vec::new();
        for (filter, what) in stale.chain(twice) {
            let place = (filter.interface.index, filter.hook);
            if !known.contains(&place) {
                known.push(place);
                found.push(Unfinished { interface: filter.interface.clone(), hook: filter.hook, what });
            }
        }
        found
    }
}
