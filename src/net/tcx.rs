//! Programs on TCX, which run before those on clsact, and which a program there can hide.
//!
//! Input: an interface, a hook, a program and a place among others. Output: a program that stays after the process
//! exits, replaced without a gap. The kernel keeps neither name nor owner of it, and says no more of it than its number
//! to those without CAP_SYS_ADMIN: ours is what there is a note of (see [`filter`]), or, if the note is lost, what has
//! our name. Never removes another's program. All of it is about the calling thread's network namespace.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::filter::{self, Filter, Hook};
use super::links::Interface;
use super::netlink::Netlink;
use super::{Error, Result};
use crate::kernel;
use crate::kernel::bpf::{self, At, Chain};

/// Where among the programs of the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    First,
    Last,
    /// Right before the program with this number.
    Before(u32),
    After(u32),
}

impl Order {
    /// Whether a program is there.
    pub fn holds(self, chain: &[u32], program: u32) -> bool {
        let Some(at) = chain.iter().position(|id| *id == program) else { return false };
        let neighbour = |at: Option<usize>| at.and_then(|at| chain.get(at)).copied();
        match self {
            Order::First => at == 0,
            Order::Last => at + 1 == chain.len(),
            Order::Before(id) => id == program || neighbour(at.checked_add(1)) == Some(id),
            Order::After(id) => id == program || neighbour(at.checked_sub(1)) == Some(id),
        }
    }

    fn at(self) -> At<'static> {
        match self {
            Order::First => At::First,
            Order::Last => At::Last,
            Order::Before(id) => At::Before(id),
            Order::After(id) => At::After(id),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::First => f.write_str("first"),
            Order::Last => f.write_str("last"),
            Order::Before(id) => write!(f, "before {id}"),
            Order::After(id) => write!(f, "after {id}"),
        }
    }
}

/// Numbers of programs as one reads them.
pub fn list(programs: &[u32]) -> String {
    let numbers: Vec<String> = programs.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

/// The same with their names, which takes CAP_SYS_ADMIN.
pub fn describe(programs: &[u32]) -> String {
    let described = programs.iter().map(|id| match kernel::name_of(*id) {
        Some(name) if !name.is_empty() => format!("{name} ({id})"),
        _ => format!("program {id}"),
    });
    described.collect::<Vec<_>>().join(", ")
}

/// What is on a hook's TCX.
#[derive(Debug)]
pub struct Standing {
    chain: Chain,
    /// Ours, in the order in which they run: more than one only if somebody was killed while replacing it.
    pub ours: Vec<Filter>,
}

impl Standing {
    /// In the order in which they run.
    pub fn programs(&self) -> &[u32] {
        &self.chain.programs
    }

    /// The programs that are not ours.
    pub fn others(&self) -> Vec<u32> {
        let ours = |id: &u32| self.ours.iter().any(|filter| filter.program == Some(*id));
        self.chain.programs.iter().copied().filter(|id| !ours(id)).collect()
    }
}

/// How often a change is tried that others get in the way of.
const TRIES: usize = 20;

/// Looks. `filters` are those on this hook's clsact, where the notes are. `None`: the kernel has no TCX.
pub fn look(interface: &Interface, hook: Hook, filters: &[Filter]) -> Result<Option<Standing>> {
    let notes = || filters.iter().filter(|filter| filter.is_note());
    let chain = match bpf::query(interface.number(), hook == Hook::Egress) {
        Ok(chain) => chain,
        Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(None),
        // Whoever may not ask believes the notes.
        Err(Errno::EPERM) => {
            Chain { revision: 0, programs: notes().filter_map(|note| note.program).collect() }
        }
        Err(source) => return Err(Error::tcx("list the programs on TCX of", interface, hook, source)),
    };
    let ours = |id: &u32| {
        let note = notes().find(|note| note.program == Some(*id)).cloned();
        note.or_else(|| {
            let name = kernel::name_of(*id).filter(|name| name.starts_with(filter::NAME_PREFIX))?;
            Some(Filter::without_note(interface, hook, *id, name))
        })
    };
    let ours = chain.programs.iter().filter_map(ours).collect();
    Ok(Some(Standing { chain, ours }))
}

/// What a program becomes one of.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub interface: &'a Interface,
    pub hook: Hook,
    /// `None`: where ours is, or first.
    pub order: Option<Order>,
}

/// Notes of programs that are not there: they are about to be, or have been, or somebody else has taken them away.
pub fn stale(standing: Option<&Standing>, filters: &[Filter]) -> Vec<Filter> {
    let Some(standing) = standing else { return Vec::new() };
    let gone = |note: &&Filter| note.program.is_none_or(|id| !standing.programs().contains(&id));
    filters.iter().filter(|filter| filter.is_note()).filter(gone).cloned().collect()
}

/// Attaches a program (its number comes with it), in place of ours if there is one. There must be clsact, for the note.
pub fn put(
    netlink: &mut Netlink,
    wanted: Wanted<'_>,
    program: (BorrowedFd<'_>, u32),
    name: &str,
) -> Result<()> {
    let Wanted { interface, hook, .. } = wanted;
    // First of all: a program without a note is nobody's.
    filter::note(netlink, interface, hook, program, name)?;
    let result = exchange(netlink, wanted, program);
    sweep(netlink, interface, hook)?;
    result
}

/// The same where its note is there already. With CAP_SYS_ADMIN, which is what getting hold of a program takes that
/// others loaded, that is one step; without, it takes two, and between them both run, the new one first.
pub(super) fn exchange(
    netlink: &mut Netlink,
    wanted: Wanted<'_>,
    (program, id): (BorrowedFd<'_>, u32),
) -> Result<()> {
    let Wanted { interface, hook, .. } = wanted;
    let failed = |source| Error::tcx("attach to TCX of", interface, hook, source);
    let mut tries = 0;
    loop {
        let standing = look_again(netlink, interface, hook)?;
        let old = standing.ours.iter().filter_map(|ours| ours.program).find(|old| *old != id);
        let held = old.and_then(kernel::program_by_id);
        let at = match (old, wanted.order, &held) {
            (Some(old), Some(order), _) if !order.holds(standing.programs(), old) => order.at(),
            (Some(_), _, Some(held)) => At::InsteadOf(held.as_fd()),
            (Some(old), _, None) => At::Before(old),
            (None, order, _) => order.unwrap_or(Order::First).at(),
        };
        let egress = hook == Hook::Egress;
        match bpf::attach(interface.number(), egress, program, at, standing.chain.revision) {
            Ok(()) => break,
            // Undoing: it is still there.
            Err(Errno::EEXIST) => break,
            Err(Errno::ESTALE | Errno::ENOENT) if tries < TRIES => tries += 1,
            Err(source) => return Err(failed(source)),
        }
    }
    let standing = look_again(netlink, interface, hook)?;
    for old in standing.ours.iter().filter_map(|ours| ours.program).filter(|old| *old != id) {
        take(interface, hook, old)?;
    }
    Ok(())
}

/// Takes our program away, and its note.
pub fn remove(netlink: &mut Netlink, filter: &Filter) -> Result<()> {
    if let Some(program) = filter.program {
        take(&filter.interface, filter.hook, program)?;
    }
    sweep(netlink, &filter.interface, filter.hook)
}

/// Takes a program away, if it is there. Without CAP_SYS_ADMIN it can be named by what it is next to only; the revision
/// makes sure that it is this one.
pub(super) fn take(interface: &Interface, hook: Hook, program: u32) -> Result<()> {
    let failed = |source| Error::tcx("detach from TCX of", interface, hook, source);
    let egress = hook == Hook::Egress;
    let mut tries = 0;
    loop {
        let Chain { programs, revision } = bpf::query(interface.number(), egress).map_err(failed)?;
        let Some(place) = programs.iter().position(|id| *id == program) else { return Ok(()) };
        let before = place.checked_sub(1).and_then(|before| programs.get(before));
        let at = before.map_or(At::First, |before| At::After(*before));
        match bpf::detach(interface.number(), egress, at, revision) {
            Ok(()) => return Ok(()),
            Err(Errno::ESTALE | Errno::ENOENT) if tries < TRIES => tries += 1,
            Err(source) => return Err(failed(source)),
        }
    }
}

/// Removes the notes of programs that are not there.
pub fn sweep(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Result<()> {
    let filters = filter::on_clsact(netlink, interface, hook)?;
    let standing = look(interface, hook, &filters)?;
    stale(standing.as_ref(), &filters).iter().try_for_each(|note| filter::remove(netlink, note))
}

fn look_again(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Result<Standing> {
    let filters = filter::on_clsact(netlink, interface, hook)?;
    look(interface, hook, &filters)?.ok_or_else(|| Error::NoTcx { interface: interface.name.clone() })
}

/// Which of how many programs on TCX this one is; both count from one.
pub fn place(filter: &Filter) -> Option<(usize, usize)> {
    let chain = bpf::query(filter.interface.number(), filter.hook == Hook::Egress).ok()?;
    let at = chain.programs.iter().position(|id| Some(*id) == filter.program)?;
    Some((at + 1, chain.programs.len()))
}

/// Refuses a place that there is not.
pub fn check(standing: Option<&Standing>, wanted: Wanted<'_>) -> Result<()> {
    let Wanted { interface, hook, order } = wanted;
    let standing = standing.ok_or_else(|| Error::NoTcx { interface: interface.name.clone() })?;
    match order {
        Some(Order::Before(id) | Order::After(id)) if !standing.programs().contains(&id) => {
            Err(Error::NoSuchProgram {
                id,
                interface: interface.name.clone(),
                hook,
                present: standing.programs().to_vec(),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_held_or_not() {
        let chain = [7, 3, 9];
        for (order, there) in [
            (Order::First, 7),
            (Order::Last, 9),
            (Order::Before(9), 3),
            (Order::Before(3), 3),
            (Order::After(7), 3),
            (Order::After(3), 9),
        ] {
            assert!(order.holds(&chain, there), "{order} {there}");
        }
        for (order, elsewhere) in [
            (Order::First, 3),
            (Order::Last, 7),
            (Order::Before(7), 3),
            (Order::After(9), 3),
            (Order::Last, 8),
        ] {
            assert!(!order.holds(&chain, elsewhere), "{order} {elsewhere}");
        }
    }
}
