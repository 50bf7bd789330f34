//! Attaching to several hooks, all or nothing.
//!
//! [`plan`] looks at every interface and refuses before anything is changed; [`Plan::apply`] changes, and
//! puts back what it can when a change fails all the same. All filters go to the kernel in one datagram, so whoever is
//! killed has attached all of them or none; what goes to TCX takes a system call each, and shows if it was interrupted (see
//! [`seen`](super::seen)). Never touches a filter that is not ours.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::filter::{self, Filter, Hook, Point};
use super::limit::Limit;
use super::links::Interface;
use super::netlink::{Netlink, Request};
use super::qdisc::{self, Qdisc};
use super::tcx::{self, Order, Wanted};
use super::{Error, Result, detach};
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
    limits: Vec<Limit>,
}

/// How far it came.
#[derive(Debug, Default)]
struct Done {
    /// Interfaces that have got clsact.
    added: Vec<Interface>,
    steps: Vec<Stage>,
    limited: Vec<Limit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Untouched,
    /// There is a note, and perhaps not yet what it speaks of.
    Noted,
    Attached,
}

impl Done {
    fn is_nothing(&self) -> bool {
        let steps = self.steps.iter().all(|stage| *stage == Stage::Untouched);
        steps && self.added.is_empty() && self.limited.is_empty()
    }
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
    let mut known = HashSet::new();
    let mut steps = Vec::new();
    for attachment in attachments {
        let Attachment { interface, hook, point, order, .. } = &attachment;
        let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
        match qdisc {
            Qdisc::Legacy => return Err(Error::LegacyIngress { interface: interface.name.clone() }),
            Qdisc::Absent if known.insert(interface.index) => bare.push(interface.clone()),
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
        let previous = ours.into_iter().map(|filter| Previous { held: None, filter }).collect();
        steps.push(Step { attachment, previous });
    }
    // A single change is atomic by itself: nothing would have to be put back.
    let put_back = |step: &&mut Step<'_>| several || step.moves().next().is_some();
    let held = kernel::programs_by_id(
        steps
            .iter_mut()
            .filter(put_back)
            .flat_map(|step| step.previous.iter().filter_map(|old| old.filter.program)),
    );
    let held: HashMap<u32, Rc<OwnedFd>> =
        held.into_iter().map(|(id, program)| (id, Rc::new(program))).collect();
    for previous in steps.iter_mut().flat_map(|step| &mut step.previous) {
        previous.held = previous.filter.program.and_then(|id| held.get(&id).cloned());
    }
    Ok(Plan { steps, bare, limits: Vec::new() })
}

impl<'a> Plan<'a> {
    /// The same, and these limits are set in the same message.
    pub fn with(self, limits: Vec<Limit>) -> Self {
        Self { limits, ..self }
    }

    /// Attaches everything, or nothing.
    pub fn apply(self, netlink: &mut Netlink) -> Result<Vec<Attached>> {
        let mut done = Done { steps: vec![Stage::Untouched; self.steps.len()], ..Done::default() };
        match self.change(netlink, &mut done) {
            Ok(()) => Ok(self.steps.iter().map(Step::attached).collect()),
            Err(cause) if done.is_nothing() => Err(cause),
            Err(cause) => Err(Error::PartWay { cause: Box::new(cause), standing: self.undo(netlink, done) }),
        }
    }

    /// First one message; what is on TCX one by one; then one message for what is in the place of others. Whoever is
    /// killed in between leaves notes without programs, or a hook with two of ours, which shows.
    fn change(&self, netlink: &mut Netlink, done: &mut Done) -> Result<()> {
        self.begin(netlink, done)?;
        for (step, stage) in
            self.steps.iter().zip(&mut done.steps).filter(|(_, stage)| **stage == Stage::Noted)
        {
            let Attachment { interface, hook, order, program, id, .. } = &step.attachment;
            tcx::exchange(netlink, Wanted { interface, hook: *hook, order: *order }, (*program, *id))?;
            *stage = Stage::Attached;
        }
        self.finish(netlink)
    }

    /// The qdiscs that are missing, every filter on clsact, a note of every program that comes to TCX, and limits.
    fn begin(&self, netlink: &mut Netlink, done: &mut Done) -> Result<()> {
        let mut requests: Vec<Request> = self.bare.iter().map(qdisc::addition).collect();
        requests.extend(self.steps.iter().map(|step| request(&step.attachment)));
        requests.extend(self.limits.iter().map(Limit::request));
        let refusals = netlink.batch(requests).map_err(|source| {
            // The kernel may have done all of it.
            done.steps.fill(Stage::Attached);
            done.added.clone_from(&self.bare);
            done.limited.clone_from(&self.limits);
            Error::netlink(format!("attach to {} hooks at once", self.steps.len()), source)
        })?;
        let mut refusals = refusals.into_iter();
        let mut failed = None;
        for (interface, refusal) in self.bare.iter().zip(refusals.by_ref()) {
            match qdisc::added(interface, refusal) {
                Ok(true) => done.added.push(interface.clone()),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let mut again = Vec::new();
        for (at, (step, refusal)) in self.steps.iter().zip(refusals.by_ref()).enumerate() {
            let Attachment { interface, hook, .. } = &step.attachment;
            match refusal.map(|source| filter::refused(interface, *hook, source)) {
                None => done.steps[at] = step.begun(),
                Some(error) => again.push((at, error)),
            }
        }
        for (limit, refusal) in self.limits.iter().zip(refusals) {
            match refusal {
                None => done.limited.push(limit.clone()),
                Some(source) => failed = failed.or(Some(limit.stays(source))),
            }
        }
        for (at, error) in again {
            let attachment = &self.steps[at].attachment;
            match try_again(netlink, attachment, error, &mut done.added) {
                Ok(()) => done.steps[at] = self.steps[at].begun(),
                Err(error) => {
                    if error.is_unanswered() {
                        done.steps[at] = self.steps[at].begun();
                    }
                    failed = failed.or(Some(error));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The other place is left once this one is taken: never is there none.
    fn finish(&self, netlink: &mut Netlink) -> Result<()> {
        let mut left = Vec::new();
        for step in &self.steps {
            let Attachment { interface, hook, point, .. } = &step.attachment;
            for old in step.moves() {
                match (old.point(), old.program) {
                    (Point::Clsact, _) => left.push(old.clone()),
                    (Point::Tcx, Some(id)) => tcx::take(interface, *hook, id)?,
                    (Point::Tcx, None) => {}
                }
            }
            let filters = filter::on_clsact(netlink, interface, *hook)?;
            // Also those of runs that were killed.
            if *point == Point::Tcx || filters.iter().any(Filter::is_note) {
                left.extend(tcx::stale(tcx::look(interface, *hook, &filters)?.as_ref(), &filters));
            }
        }
        detach::remove_all(netlink, &[], left).map(|_| ())
    }

    /// Takes back what was done. Returns what could not be taken back.
    fn undo(&self, netlink: &mut Netlink, done: Done) -> Vec<String> {
        let mut standing = Vec::new();
        for limit in &done.limited {
            // An interface that has gone took it along.
            let _ = limit.take_back(netlink);
        }
        for (step, stage) in self.steps.iter().zip(&done.steps).rev() {
            let Attachment { interface, hook, .. } = &step.attachment;
            standing.extend(match stage {
                Stage::Untouched => None,
                Stage::Noted => tcx::sweep(netlink, interface, *hook).err().map(|error| error.to_string()),
                Stage::Attached => step.undo(netlink).err(),
            });
        }
        let _ = detach::remove_empty_qdiscs(netlink, done.added);
        standing
    }
}

fn request(Attachment { interface, hook, point, program, id, name, .. }: &Attachment<'_>) -> Request {
    match point {
        Point::Clsact => filter::request(interface, *hook, *program, name),
        Point::Tcx => filter::note_request(interface, *hook, (*program, *id), name),
    }
}

/// Somebody may take clsact away after it was found or made: then it is made again.
fn try_again(
    netlink: &mut Netlink,
    attachment: &Attachment<'_>,
    mut error: Error,
    added: &mut Vec<Interface>,
) -> Result<()> {
    const TRIES: u32 = 20;
    let Attachment { interface, hook, .. } = attachment;
    for _ in 0..TRIES {
        let standing = qdisc::all(netlink)?.get(&interface.index).copied().unwrap_or_default();
        if !error.is_about_the_qdisc() || standing == Qdisc::Legacy {
            return Err(error);
        }
        if standing == Qdisc::Absent && qdisc::add(netlink, interface)? && !added.contains(interface) {
            added.push(interface.clone());
        }
        let (message, flags) = request(attachment);
        match netlink.request(message, flags) {
            Ok(()) => return Ok(()),
            Err(source) => error = filter::refused(interface, *hook, source),
        }
    }
    Err(error)
}

impl Step<'_> {
    /// Ours in the other place.
    fn moves(&self) -> impl Iterator<Item = &Filter> {
        let elsewhere = |old: &&Filter| old.point() != self.attachment.point;
        self.previous.iter().map(|previous| &previous.filter).filter(elsewhere)
    }

    /// What its first request makes of it.
    fn begun(&self) -> Stage {
        if self.attachment.point == Point::Tcx { Stage::Noted } else { Stage::Attached }
    }

    fn attached(&self) -> Attached {
        let Attachment { interface, hook, point, .. } = &self.attachment;
        let first = self.previous.first().map(|previous| &previous.filter);
        Attached {
            interface: interface.name.clone(),
            hook: *hook,
            point: *point,
            replaced: first.and_then(|filter| filter.program),
            moved_from: first.map(Filter::point).filter(|from| from != point),
        }
    }

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
        if *point == Point::Tcx {
            tcx::sweep(netlink, interface, *hook)?;
        }
        if back || self.previous.iter().any(|previous| previous.held.is_none()) {
            return Ok(());
        }
        // Nothing of ours was where the new one is.
        let filters = filter::on_clsact(netlink, interface, *hook)?;
        let standing = tcx::look(interface, *hook, &filters)?;
        match point {
            Point::Clsact => {
                filters.iter().filter(|f| f.is_ours()).try_for_each(|f| filter::remove(netlink, f))
            }
            Point::Tcx => {
                let ours = standing.map(|standing| standing.ours).unwrap_or_default();
                ours.iter().try_for_each(|filter| tcx::remove(netlink, filter))
            }
        }
    }
}
