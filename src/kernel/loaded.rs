//! Programs that somebody has loaded, by number.
//!
//! Comes in: numbers. Goes out: descriptors, names and what else the kernel says of those that are still there. Never looks
//! into a program: see [`written`](super::written) for its rules, [`counters`](super::counters) for what it has counted.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{ProgramError, ProgramInfo, loaded_programs};
use nix::errno::Errno;

use super::cause;

/// Those of `wanted` that are there. aya asks for all programs in turn, so several cost no more than one.
///
/// # Errors
///
/// What the kernel answers to those who may not ask (it takes CAP_SYS_ADMIN), most of all.
pub(super) fn find(wanted: impl IntoIterator<Item = u32>) -> Result<HashMap<u32, ProgramInfo>, ProgramError> {
    let mut wanted: HashSet<u32> = wanted.into_iter().collect();
    let mut found = HashMap::new();
    let mut all = loaded_programs();
    while !wanted.is_empty()
        && let Some(program) = all.next()
    {
        match program {
            Ok(info) if wanted.remove(&info.id()) => drop(found.insert(info.id(), info)),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Any program may go between its number and its descriptor.
fn is_gone(error: &ProgramError) -> bool {
    cause(error).and_then(|source| source.raw_os_error()).map(Errno::from_raw) == Some(Errno::ENOENT)
}

/// `None` without CAP_SYS_ADMIN, or if it is gone.
pub fn program_by_id(id: u32) -> Option<OwnedFd> {
    programs_by_id([id]).remove(&id)
}

/// The same for several.
pub fn programs_by_id(wanted: impl IntoIterator<Item = u32>) -> HashMap<u32, OwnedFd> {
    let found = find(wanted).unwrap_or_default();
    let descriptor =
        |(id, info): (u32, ProgramInfo)| Some((id, info.fd().ok()?.as_fd().try_clone_to_owned().ok()?));
    found.into_iter().filter_map(descriptor).collect()
}

/// The name of a program. `None` without CAP_SYS_ADMIN, or if it is gone.
pub fn name_of(id: u32) -> Option<String> {
    let info = find([id]).ok()?.remove(&id)?;
    info.name_as_str().map(str::to_owned)
}
