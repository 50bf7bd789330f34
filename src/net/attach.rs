//! Attaching to several hooks, all or nothing.
//!
//! [`plan`] looks at every interface and refuses before anything is changed; [`Plan::apply`] changes, and
//! puts back what it can when a change fails all the same. One hook is one message: see [`filter::put`] and [`tcx::put`].
//! Never touches a filter that is not ours.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::filter::{self, Filter, Hook, Point};
use super::links::Interface;
use super::netlink::Netlink;
use super::qdisc::{self, Qdisc};
use super::tcx::{self, Order, Wanted};
use super::{Error, Result};
use crate::kernel::{self, Program};

/// One program for one hook.
#[derive(Debug, Clone)]
pub struct Attachment<'a> {
    pub interface: Interface,
    pub hook: Hook,
    pub point: Point,
    /// On TCX only. `None`: where ours is, or first.
    pub order: Option<Order>,
    pub program: BorrowedFd<'a>,
    /// The program's number.
    pub id: u32,
    /// The filter's name; must start with [`filter::NAME_PREFIX`].
    pub name: String,
}

impl<'a> Attachment<'a> {
    /// To clsact, for a start.
    pub fn new(interface: Interface, hook: Hook, program: &'a Program, name: String) -> Self {
        let (point, order) = (Point::Clsact, None);
        Self { interface, hook, point, order, program: program.as_fd(), id: program.id, name }
    }
}

/// What was done on one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub interface: String,
    pub hook: Hook,
    pub point: Point,
    /// The program that there was before, and where.
    pub replaced: Option<u32>,
    pub moved_from: Option<Point>,
}

/// Attachments that nothing is known to speak against.
#[derive(Debug)]
pub struct Plan<'a> {
    steps: Vec<Step<'a>>,
    /// Interfaces that have no clsact yet.
    bare: Vec<Interface>,
}

#[derive(Debug)]
struct Step<'a> {
    attachment: Attachment<'a>,
    /// At most one, unless somebody was killed while moving it.
    previous: Vec<Previous>,
}

/// Ours from an earlier run, held so that it can be put back: it would be gone once it is replaced.
#[derive(Debug)]
struct Previous {
    filter: Filter,
    held: Option<Rc<OwnedFd>>,
}

/// Looks, changes nothing.
pub fn plan<'a>(netlink: &mut Netlink, attachments: Vec<Attachment<'a>>) -> Result<Plan<'a>> {
    let qdiscs = qdisc::all(netlink)?;
    let several = attachments.len() > 1;
    let mut bare: Vec<Interface> = Vec::new();
    // One run gives many hooks the same program, and finding it means asking for every program there is.
    let mut known: HashMap<u32, Option<Rc<OwnedFd>>> = HashMap::new();
    let mut steps = Vec::new();
    for attachment in attachments {
        let Attachment { interface, hook, point, order, .. } = &attachment;
        let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
        match qdisc {
            Qdisc::Legacy => return Err(Error::LegacyIngress { interface: interface.name.clone() }),
            Qdisc::Absent if !bare.contains(interface) => bare.push(interface.clone()),
            Qdisc::Absent => {}
            Qdisc::Clsact(blocks) => {
                if let Some(block) = blocks.of(*hook) {
                    return Err(Error::SharedBlock { interface: interface.name.clone(), hook: *hook, block });
                }
            }
        }
        let filters = filter::list(netlink, interface, *hook, qdisc)?;
        let foreign = |filter: &&Filter| {
            filter.priority == filter::PRIORITY && filter.is_reached() && !filter.is_ours()
        };
        if let Some(foreign) = filters.iter().find(foreign).filter(|_| *point == Point::Clsact) {
            let what = format!("{} {}", foreign.kind, foreign.name.as_deref().unwrap_or("without a name"));
            return Err(Error::Occupied { interface: interface.name.clone(), hook: *hook, what });
        }
        let tcx = tcx::look(interface, *hook, &filters)?;
        if *point == Point::Tcx {
            tcx::check(tcx.as_ref(), Wanted { interface, hook: *hook, order: *order })?;
        }
        let mut ours = tcx.map(|standing| standing.ours).unwrap_or_default();
        ours.extend(filters.into_iter().filter(Filter::is_ours));
        // A single change is atomic by itself: nothing would have to be put back.
        let puts_back = several || ours.iter().any(|filter| filter.point() != *point);
        let previous = ours.into_iter().map(|filter| Previous {
            held: filter.program.filter(|_| puts_back).and_then(|id| {
                known.entry(id).or_insert_with(|| kernel::program_by_id(id).map(Rc::new)).clone()
            }),
            filter,
        });
        let previous = previous.collect();
        steps.push(Step { attachment, previous });
    }
    Ok(Plan { steps, bare })
}

impl Plan<'_> {
    /// Attaches everything, or nothing.
    pub fn apply(self, netlink: &mut Netlink) -> Result<Vec<Attached>> {
        let mut added = Vec::new();
        let mut done = 0;
        match self.change(netlink, &mut added, &mut done) {
            Ok(attached) => Ok(attached),
            Err(cause) if added.is_empty() && done == 0 => Err(cause),
            Err(cause) => {
                Err(Error::PartWay { cause: Box::new(cause), standing: self.undo(netlink, &added, done) })
            }
        }
    }

    /// `added` and `done` say how far it came.
    fn change(
        &self,
        netlink: &mut Netlink,
        added: &mut Vec<Interface>,
        done: &mut usize,
    ) -> Result<Vec<Attached>> {
        for interface in &self.bare {
            match qdisc::add(netlink, interface) {
                Ok(false) => {}
                Ok(true) => added.push(interface.clone()),
                Err(error) => {
                    if error.is_unanswered() {
                        added.push(interface.clone());
                    }
                    return Err(error);
                }
            }
        }
        let mut attached = Vec::new();
        for Step { attachment, previous } in &self.steps {
            let Attachment { interface, hook, point, .. } = attachment;
            let put = put(netlink, attachment, added);
            // One that may have come about is taken back as well.
            *done += usize::from(put.as_ref().err().is_none_or(Error::is_unanswered));
            put?;
            // The other place is left once this one is taken: never is there none.
            for Previous { filter, .. } in previous.iter().filter(|old| old.filter.point() != *point) {
                remove(netlink, filter)?;
            }
            let first = previous.first().map(|previous| &previous.filter);
            attached.push(Attached {
                interface: interface.name.clone(),
                hook: *hook,
                point: *point,
                replaced: first.and_then(|filter| filter.program),
                moved_from: first.map(Filter::point).filter(|from| from != point),
            });
        }
        Ok(attached)
    }

    /// Takes back the first `done` steps and the qdiscs `added`. Returns what could not be taken back.
    fn undo(&self, netlink: &mut Netlink, added: &[Interface], done: usize) -> Vec<String> {
        let mut standing = Vec::new();
        for step in self.steps.iter().take(done).rev() {
            standing.extend(step.undo(netlink).err());
        }
        for interface in added {
            // An interface that has gone took its qdisc along.
            let _ = super::detach::remove_empty_qdisc(netlink, interface);
        }
        standing
    }
}

fn remove(netlink: &mut Netlink, filter: &Filter) -> Result<()> {
    match filter.point() {
        Point::Clsact => filter::remove(netlink, filter),
        Point::Tcx => tcx::remove(netlink, filter),
    }
}

/// Somebody who detaches may take clsact away after it was found or made: then it is made again.
fn put(netlink: &mut Netlink, attachment: &Attachment<'_>, added: &mut Vec<Interface>) -> Result<()> {
    const TRIES: u32 = 20;
    let Attachment { interface, .. } = attachment;
    for _ in 1..TRIES {
        let error = match put_once(netlink, attachment) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let standing = qdisc::all(netlink)?.get(&interface.index).copied().unwrap_or_default();
        if !error.is_about_the_qdisc() || standing == Qdisc::Legacy {
            return Err(error);
        }
        if standing == Qdisc::Absent && qdisc::add(netlink, interface)? && !added.contains(interface) {
            added.push(interface.clone());
        }
    }
    put_once(netlink, attachment)
}

fn put_once(netlink: &mut Netlink, attachment: &Attachment<'_>) -> Result<()> {
    let Attachment { interface, hook, point, order, program, id, name } = attachment;
    match point {
        Point::Clsact => filter::put(netlink, interface, *hook, *program, name),
        Point::Tcx => {
            tcx::put(netlink, Wanted { interface, hook: *hook, order: *order }, (*program, *id), name)
        }
    }
}

impl Step<'_> {
    fn undo(&self, netlink: &mut Netlink) -> std::result::Result<(), String> {
        let Attachment { interface, hook, .. } = &self.attachment;
        let place = format!("{} {hook}", interface.name);
        self.put_back(netlink).map_err(|error| format!("{place} has the new program: {error}"))?;
        match self.previous.iter().find(|previous| previous.held.is_none()) {
            None => Ok(()),
            Some(Previous { filter, .. }) => Err(format!(
                "{place} has the new program instead of `{}`: holding on to the old one needs CAP_SYS_ADMIN",
                filter.name.as_deref().unwrap_or_default()
            )),
        }
    }

    fn put_back(&self, netlink: &mut Netlink) -> Result<()> {
        let Attachment { interface, hook, point, .. } = &self.attachment;
        let mut back = false;
        for Previous { filter, held } in &self.previous {
            let (Some(held), Some(id)) = (held, filter.program) else { continue };
            let name = filter.name.as_deref().unwrap_or_default();
            match filter.point() {
                Point::Clsact => filter::put(netlink, interface, *hook, held.as_fd(), name)?,
                Point::Tcx => {
                    let wanted = Wanted { interface, hook: *hook, order: None };
                    tcx::put(netlink, wanted, (held.as_fd(), id), name)?;
                }
            }
            back |= filter.point() == *point;
        }
        if back || self.previous.iter().any(|previous| previous.held.is_none()) {
            return Ok(());
        }
        // Nothing of ours was where the new one is.
        let ours = super::detach::status(netlink, std::slice::from_ref(interface), &[*hook])?;
        ours.iter().filter(|filter| filter.point() == *point).try_for_each(|filter| remove(netlink, filter))
    }
}
