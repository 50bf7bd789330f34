//! Loads programs through aya, and makes a refusal readable.
//!
//! Comes in: an ELF object and the names of the programs in it. Goes out: descriptors that keep the programs
//! alive, or an error that says what the kernel said and what to do. Never attaches: see `net`.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::hash::RandomState;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::MapError;
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::system;

pub mod bpf;
pub mod counters;
mod features;
pub mod flows;
mod loaded;
pub mod trial;
mod verdict;
pub mod written;

pub use counters::Counters;
pub use features::features;
pub use flows::Flows;
pub use loaded::{name_of, program_by_id, programs_by_id};
pub use verdict::Refusal;

/// A program in the kernel, for as long as this lives or a filter holds it.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    pub id: u32,
    /// Bytes of the program after the verifier went over it.
    pub translated: Option<u32>,
    fd: OwnedFd,
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Our own ELF is wrong.
    #[error("internal error, please report: {0}")]
    Object(String),
    #[error("not permitted to load a program: {0}")]
    Permission(String),
    #[error("the kernel's verifier refused program `{program}`: {refusal}")]
    Refused { program: String, refusal: Box<Refusal> },
    #[error("cannot make the maps that packets are counted in: {}", said(.0))]
    Maps(io::Error),
    #[error("cannot load program `{program}`: {source}{}", hint(source))]
    Kernel { program: String, source: io::Error },
    #[error("cannot {what}: {}", said(source))]
    System { what: String, source: io::Error },
}

impl LoadError {
    /// The program and the instruction (a slot number) that the verifier stopped at.
    pub fn at(&self) -> Option<(&str, usize)> {
        match self {
            LoadError::Refused { program, refusal } => Some((program.as_str(), refusal.slot?)),
            _ => None,
        }
    }
}

/// One for the process: aya reads all type information of the kernel to make one (5 MB of it, into 15 MB,
/// in 20 ms: twice what all the rest of attaching takes). Our programs have none to relocate.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// Makes what [`load`] needs, without the detour through the kernel's type information. aya cannot be told
/// to leave it alone, but does without where it cannot be opened: so for this moment, nothing can. For a
/// process that has no other threads, and does not run them into this.
pub fn prepare() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    // Where getrandom(2) is forbidden, what hash tables need comes from a file. Once it is there, it is kept.
    let _ = RandomState::new();
    if setrlimit(Resource::RLIMIT_NOFILE, 0, hard).is_ok() {
        LazyLock::force(&LOADER);
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}

/// Loads the named programs of one object, in the order of `names`: all of them, or none.
pub fn load(elf: &[u8], names: &[&str]) -> Result<Vec<Program>, LoadError> {
    let mut object = open(elf)?;
    let mut loaded: HashMap<&str, Program> = HashMap::new();
    for name in names {
        let program = classifier(&mut object, name)?;
        program.load().map_err(|error| explain(name, error))?;
        let what = || format!("keep program `{name}`");
        let info = program.info().map_err(|error| other(what(), &error))?;
        let fd = program.fd().map_err(|error| other(what(), &error))?;
        let fd = fd.as_fd().try_clone_to_owned().map_err(|error| other(what(), &error))?;
        let program =
            Program { name: (*name).to_owned(), id: info.id(), translated: info.size_translated(), fd };
        loaded.insert(name, program);
    }
    Ok(names.iter().filter_map(|name| loaded.remove(name)).collect())
}

/// The same from an object with the rules beside the instructions, or else from one without: an old kernel, or one that
/// lacks what they take, must not be a reason to do without the programs. Where neither will do, the first says more.
pub fn load_with_rules(with: &[u8], without: &[u8], names: &[&str]) -> Result<Vec<Program>, LoadError> {
    match load(with, names) {
        Err(error) if !matches!(error, LoadError::Permission(_)) => {
            load(without, names).map_err(|plain| match error {
                LoadError::Refused { .. } => error,
                _ => plain,
            })
        }
        result => result,
    }
}

/// Reads an object, and makes ready to load what is in it.
fn open(elf: &[u8]) -> Result<Ebpf, LoadError> {
    raise_memlock();
    let object = LOADER.lock().unwrap_or_else(PoisonError::into_inner).load(elf);
    object.map_err(|error| other("prepare the programs".to_owned(), &error))
}

fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, LoadError> {
    object
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| LoadError::Object(format!("no program `{name}` in the object")))
}

/// Kernels before 5.11 count a program against RLIMIT_MEMLOCK. Later ones do not care, so failing is fine.
fn raise_memlock() {
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

fn explain(name: &str, error: ProgramError) -> LoadError {
    let program = name.to_owned();
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let refusal = Refusal::read(&io_error, &verifier_log.to_string());
            match (refusal, io_error.raw_os_error().map(Errno::from_raw)) {
                (Some(refusal), _) => LoadError::Refused { program, refusal: Box::new(refusal) },
                (None, Some(Errno::EPERM)) => LoadError::Permission(permission()),
                (None, _) => LoadError::Kernel { program, source: io_error },
            }
        }
        error => other(format!("load program `{name}`"), &error),
    }
}

/// An error of the system wherever the system had a part in it; else we asked for what makes no sense.
fn other(what: String, error: &(dyn Error + 'static)) -> LoadError {
    match cause(error) {
        Some(source) if source.raw_os_error().map(Errno::from_raw) == Some(Errno::EPERM) => {
            LoadError::Permission(permission())
        }
        Some(source) => LoadError::System { what, source },
        None => LoadError::Object(format!("cannot {what}: {error:?}")),
    }
}

/// What the system said, however often aya has wrapped it. A transparent wrapper is not among its own sources.
fn cause(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(source) = error.downcast_ref::<io::Error>() {
            return source.raw_os_error().map(io::Error::from_raw_os_error);
        }
        next = match (error.downcast_ref(), error.downcast_ref()) {
            (Some(ProgramError::IOError(source)), _) | (_, Some(MapError::IoError(source))) => Some(source),
            (Some(ProgramError::MapError(wrapped)), _) => Some(wrapped),
            (Some(ProgramError::Btf(wrapped)), _) => Some(wrapped),
            _ => error.source(),
        };
    }
    None
}

/// What loading will say to those who may not.
pub fn not_permitted() -> LoadError {
    LoadError::Permission(permission())
}

/// What is missing, as precisely as /proc can tell.
fn permission() -> String {
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const BPF: u32 = 39;
    const NEEDED: &str =
        "CAP_BPF and CAP_NET_ADMIN are needed (CAP_SYS_ADMIN instead of CAP_BPF before kernel 5.8)";
    const MEMLOCK: &str =
        "kernels before 5.11 also answer this when RLIMIT_MEMLOCK is too low (`ulimit -l unlimited`)";
    let effective = fs::read_to_string("/proc/thread-self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    let Some(effective) = effective else { return format!("{NEEDED}; {MEMLOCK}") };
    let has = |capability: u32| effective >> capability & 1 == 1;
    let mut missing = Vec::new();
    if !has(BPF) && !has(SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if missing.is_empty() {
        format!(
            "CAP_BPF and CAP_NET_ADMIN are there, but perhaps only in a user namespace (a rootless container): \
             they are needed in the initial one; or a container's seccomp profile does not allow `bpf`; {MEMLOCK}"
        )
    } else {
        format!("{} missing; {NEEDED}", missing.join(" and "))
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::E2BIG) => {
            "; the ruleset makes too large a program: a kernel takes 1,000,000 instructions"
        }
        Some(Errno::EINVAL) => {
            "; the kernel may lack an instruction or a helper that the program uses: 5.10 or later is needed"
        }
        Some(Errno::ENOSYS) => {
            "; this kernel, or the emulator that runs this program, has no bpf system call (CONFIG_BPF_SYSCALL)"
        }
        Some(other) => system::advice(other),
        None => "",
    }
}

/// What the kernel said to a bpf(2) that was not about a program's code.
fn said(source: &io::Error) -> String {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => format!("{source}{}", hint(source)),
        _ => system::said(source),
    }
}
