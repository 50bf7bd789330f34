//! Attaching to several hooks, all or nothing.
//!
//! [`plan`] looks at every interface and refuses before anything is changed; [`Plan::apply`] changes, and
//! puts back what it can when a change fails all the same. One hook is one message: see [`filter::put`].
//! Never touches a filter that is not ours.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::filter::{self, Filter, Hook};
use super::links::Interface;
use super::netlink::Netlink;
use super::qdisc::{self, Blocks, Qdisc};
use super::{Error, Result};
use crate::kernel;

/// One program for one hook.
#[derive(Debug, Clone)]
pub struct Attachment<'a> {
    pub interface: Interface,
    pub hook: Hook,
    pub program: BorrowedFd<'a>,
    /// The filter's name; must start with [`filter::NAME_PREFIX`].
    pub name: String,
}

/// What was done on one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub interface: String,
    pub hook: Hook,
    /// The program that stood there before.
    pub replaced: Option<u32>,
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
    previous: Option<Previous>,
}

/// Ours from an earlier run, held so that it can be put back: it would be gone once it is replaced.
#[derive(Debug)]
struct Previous {
    name: String,
    program: Option<u32>,
    held: Option<Rc<OwnedFd>>,
}

/// Looks, changes nothing.
pub fn plan<'a>(netlink: &mut Netlink, attachments: Vec<Attachment<'a>>) -> Result<Plan<'a>> {
    let qdiscs = qdisc::all(netlink)?;
    // A single change is atomic by itself: nothing would have to be put back.
    let several = attachments.len() > 1;
    let mut bare: Vec<Interface> = Vec::new();
    // One run gives many hooks the same program, and finding it means asking for every program there is.
    let mut known: HashMap<u32, Option<Rc<OwnedFd>>> = HashMap::new();
    let mut steps = Vec::new();
    for attachment in attachments {
        let Attachment { interface, hook, .. } = &attachment;
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
        let standing = filter::list(netlink, interface, *hook, qdisc)?;
        if let Some(foreign) =
            standing.iter().find(|filter| filter.priority == filter::PRIORITY && !filter.is_ours())
        {
            let what = format!("{} {}", foreign.kind, foreign.name.as_deref().unwrap_or("without a name"));
            return Err(Error::Occupied { interface: interface.name.clone(), hook: *hook, what });
        }
        let previous = standing.into_iter().find(Filter::is_ours).map(|filter| Previous {
            name: filter.name.unwrap_or_default(),
            program: filter.program,
            held: filter.program.filter(|_| several).and_then(|id| {
                known.entry(id).or_insert_with(|| kernel::program_by_id(id).map(Rc::new)).clone()
            }),
        });
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
            if qdisc::add(netlink, interface)? {
                added.push(interface.clone());
            }
        }
        let mut attached = Vec::new();
        for Step { attachment: Attachment { interface, hook, program, name }, previous } in &self.steps {
            put(netlink, (interface, *hook), *program, name, added)?;
            *done += 1;
            let replaced = previous.as_ref().and_then(|previous| previous.program);
            attached.push(Attached { interface: interface.name.clone(), hook: *hook, replaced });
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

/// Somebody who detaches may take clsact away after it was found or made: then it is made again.
fn put(
    netlink: &mut Netlink,
    (interface, hook): (&Interface, Hook),
    program: BorrowedFd<'_>,
    name: &str,
    added: &mut Vec<Interface>,
) -> Result<()> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        let error = match filter::put(netlink, interface, hook, program, name) {
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
    filter::put(netlink, interface, hook, program, name)
}

impl Step<'_> {
    fn undo(&self, netlink: &mut Netlink) -> std::result::Result<(), String> {
        let Attachment { interface, hook, .. } = &self.attachment;
        let place = format!("{} {hook}", interface.name);
        let now = filter::list(netlink, interface, *hook, Qdisc::Clsact(Blocks::default()))
            .map_err(|error| format!("{place} may have the new program: {error}"))?;
        let Some(ours) = now.iter().find(|filter| filter.is_ours()) else { return Ok(()) };
        match &self.previous {
            None => {
                filter::remove(netlink, ours).map_err(|error| format!("{place} has the new program: {error}"))
            }
            Some(Previous { held: Some(program), name, .. }) => {
                filter::put(netlink, interface, *hook, program.as_fd(), name)
                    .map_err(|error| format!("{place} has the new program: {error}"))
            }
            Some(Previous { held: None, name, .. }) => Err(format!(
                "{place} has the new program instead of `{name}`: holding on to the old one needs CAP_SYS_ADMIN"
            )),
        }
    }
}
