//! The rules of programs that somebody has loaded, as they were written.
//!
//! Comes in: numbers of programs, and how many rules each has. Goes out: their text, from the type information that
//! the kernel keeps with a program. Never looks at instructions: what is told here is what whoever attached it said.

use std::collections::HashMap;
use std::rc::Rc;

use aya::programs::ProgramInfo;
use nix::errno::Errno;

use super::{bpf, cause, loaded};
use crate::elf;

/// Why rules cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("showing rules needs CAP_SYS_ADMIN")]
    Permission,
    /// Too many for a kernel, or the kernel did not take them.
    #[error("the kernel has no text of the rules")]
    NotKept,
}

/// Programs that were loaded together share one text.
pub type Written = Result<Rc<[String]>, Unknown>;

/// The rules of each of these programs. Of a program that is gone nothing is said.
pub fn of_programs(wanted: &HashMap<u32, usize>) -> HashMap<u32, Written> {
    let found = match loaded::find(wanted.keys().copied()) {
        Ok(found) => found,
        Err(error) => {
            let refused = cause(&error).and_then(|source| source.raw_os_error()).map(Errno::from_raw);
            let why = if refused == Some(Errno::EPERM) { Unknown::Permission } else { Unknown::NotKept };
            return wanted.keys().map(|program| (*program, Err(why))).collect();
        }
    };
    let mut read: HashMap<(u32, usize), Written> = HashMap::new();
    let mut written = |program: u32, info: &ProgramInfo| {
        let (count, id) = (*wanted.get(&program)?, info.btf_id());
        Some(match id {
            None => Err(Unknown::NotKept),
            Some(id) => read.entry((id, count)).or_insert_with(|| text(id, count)).clone(),
        })
    };
    found.iter().filter_map(|(program, info)| Some((*program, written(*program, info)?))).collect()
}

fn text(btf: u32, count: usize) -> Written {
    match bpf::btf(btf) {
        Ok(bytes) => elf::rules(&bytes, count).map(Rc::from).ok_or(Unknown::NotKept),
        Err(Errno::EPERM) => Err(Unknown::Permission),
        Err(_) => Err(Unknown::NotKept),
    }
}
