//! bpf(2) for what aya has no call for: the programs on a TCX hook, a program to one, a program away, and the type
//! information that a program was loaded with.
//!
//! Input: the number of an interface of the calling thread's network namespace, programs, numbers. Output: what the
//! kernel says. The only file with `unsafe`: aya attaches to these hooks by way of links, which go with the process
//! unless they are pinned in a bpffs; `BPF_PROG_ATTACH` needs neither, and no crate has it. Never decides anything.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// What there is on a hook, in the order in which it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Grows with every change.
    pub revision: u64,
    pub programs: Vec<u32>,
}

/// Where on the chain.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    First,
    Last,
    Before(u32),
    After(u32),
    /// In its place: one step.
    InsteadOf(BorrowedFd<'a>),
}

const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const BTF_GET_FD_BY_ID: libc::c_long = 19;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const F_REPLACE: u32 = 1 << 2;
const F_BEFORE: u32 = 1 << 3;
const F_AFTER: u32 = 1 << 4;
const F_ID: u32 = 1 << 5;

/// The member of `union bpf_attr` that `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` take.
#[repr(C)]
#[derive(Debug, Default)]
struct Change {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_id: u32,
    expected_revision: u64,
}

/// The member that `BPF_PROG_QUERY` takes.
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The member that `BPF_BTF_GET_FD_BY_ID` takes.
#[repr(C)]
#[derive(Debug, Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The member that `BPF_OBJ_GET_INFO_BY_FD` takes.
#[repr(C)]
#[derive(Debug, Default)]
struct About {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_btf_info`, as far as Linux 4.18 has it.
#[repr(C)]
#[derive(Debug, Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
}

/// What runs on a hook. `EINVAL`: the kernel has no such hooks (they came with 6.6). Needs CAP_NET_ADMIN.
pub fn query(interface: u32, egress: bool) -> nix::Result<Chain> {
    const MANY: usize = 64; // BPF_MPROG_MAX: no chain has more
    let mut programs = [0u32; MANY];
    let mut attributes = Query {
        target_ifindex: interface,
        attach_type: attach_type(egress),
        prog_ids: programs.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(MANY).unwrap_or_default(),
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attributes)?;
    let count = usize::try_from(attributes.count).unwrap_or_default();
    let programs = programs.get(..count).ok_or(Errno::ENOSPC)?.to_vec();
    Ok(Chain { revision: attributes.revision, programs })
}

/// Attaches a program for as long as the interface lives. `ESTALE`: the chain is another one than that of this
/// `revision`.
pub fn attach(
    interface: u32,
    egress: bool,
    program: BorrowedFd<'_>,
    at: At<'_>,
    revision: u64,
) -> nix::Result<()> {
    let (flags, relative_id) = place(at);
    let replace_bpf_fd = match at {
        At::InsteadOf(old) => descriptor(old),
        At::First | At::Last | At::Before(_) | At::After(_) => 0,
    };
    let mut attributes = Change {
        target_ifindex: interface,
        attach_bpf_fd: descriptor(program),
        attach_type: attach_type(egress),
        attach_flags: flags,
        replace_bpf_fd,
        relative_id,
        expected_revision: revision,
    };
    bpf(PROG_ATTACH, &mut attributes).map(drop)
}

/// Removes what is at this place: the first program, the last, or the one right before or right after another. To name
/// it by its descriptor would need CAP_SYS_ADMIN, unless whoever removes it has loaded it.
pub fn detach(interface: u32, egress: bool, at: At<'_>, revision: u64) -> nix::Result<()> {
    let (flags, relative_id) = place(at);
    let attach_bpf_fd = match at {
        At::InsteadOf(program) => descriptor(program),
        At::First | At::Last | At::Before(_) | At::After(_) => 0,
    };
    let mut attributes = Change {
        target_ifindex: interface,
        attach_bpf_fd,
        attach_type: attach_type(egress),
        attach_flags: flags & !F_REPLACE,
        relative_id,
        expected_revision: revision,
        ..Change::default()
    };
    bpf(PROG_DETACH, &mut attributes).map(drop)
}

/// The type information (BTF) of this number, as it was loaded. `ENOENT`: it is gone. Needs CAP_SYS_ADMIN.
pub fn btf(id: u32) -> nix::Result<Vec<u8>> {
    let number = bpf(BTF_GET_FD_BY_ID, &mut ById { id, ..ById::default() })?;
    let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has opened it for this call, and nothing else knows of it.
    let btf = unsafe { OwnedFd::from_raw_fd(number) };
    let mut bytes = Vec::<u8>::new();
    // The first answer is how many they are: at most 16 MiB (BTF_MAX_SIZE), and they never change.
    for _ in 0..2 {
        let mut info = BtfInfo {
            btf: bytes.as_mut_ptr().expose_provenance() as u64,
            btf_size: u32::try_from(bytes.len()).map_err(|_| Errno::EFBIG)?,
            ..BtfInfo::default()
        };
        let mut about = About {
            bpf_fd: descriptor(btf.as_fd()),
            info_len: u32::try_from(size_of::<BtfInfo>()).unwrap_or_default(),
            info: std::ptr::from_mut(&mut info).expose_provenance() as u64,
        };
        bpf(OBJ_GET_INFO_BY_FD, &mut about)?;
        bytes.resize(usize::try_from(info.btf_size).map_err(|_| Errno::EFBIG)?, 0);
    }
    Ok(bytes)
}

fn place(at: At<'_>) -> (u32, u32) {
    match at {
        At::First => (F_BEFORE, 0),
        At::Last => (F_AFTER, 0),
        At::Before(id) => (F_BEFORE | F_ID, id),
        At::After(id) => (F_AFTER | F_ID, id),
        At::InsteadOf(_) => (F_REPLACE, 0),
    }
}

fn attach_type(egress: bool) -> u32 {
    if egress { TCX_EGRESS } else { TCX_INGRESS }
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

/// Implemented by the members of `union bpf_attr` only, which are what the kernel reads and writes.
trait Attributes {}
impl Attributes for Change {}
impl Attributes for Query {}
impl Attributes for ById {}
impl Attributes for About {}

fn bpf<T: Attributes>(command: libc::c_long, attributes: &mut T) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes at the pointer, which are borrowed, and integers
    // all of them. The addresses among them are that of the array of `count` numbers in `query`, and in `btf` those of
    // `info_len` bytes of integers and of `btf_size` bytes: all outlive the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>() as libc::c_ulong)
    };
    Errno::result(answer)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use aya_obj::generated::{
        bpf_attr__bindgen_ty_6 as TheirChange, bpf_attr__bindgen_ty_8 as TheirById,
        bpf_attr__bindgen_ty_9 as TheirAbout, bpf_attr__bindgen_ty_10 as TheirQuery,
        bpf_btf_info as TheirBtfInfo,
    };

    use super::*;

    #[test]
    fn attributes_are_where_the_kernels_header_has_them() {
        assert_eq!(size_of::<Change>(), size_of::<TheirChange>());
        assert_eq!(offset_of!(Change, attach_bpf_fd), offset_of!(TheirChange, attach_bpf_fd));
        assert_eq!(offset_of!(Change, attach_type), offset_of!(TheirChange, attach_type));
        assert_eq!(offset_of!(Change, attach_flags), offset_of!(TheirChange, attach_flags));
        assert_eq!(offset_of!(Change, replace_bpf_fd), offset_of!(TheirChange, replace_bpf_fd));
        assert_eq!(offset_of!(Change, relative_id), offset_of!(TheirChange, __bindgen_anon_2));
        assert_eq!(offset_of!(Change, expected_revision), offset_of!(TheirChange, expected_revision));
        assert_eq!(size_of::<Query>(), size_of::<TheirQuery>());
        assert_eq!(offset_of!(Query, attach_type), offset_of!(TheirQuery, attach_type));
        assert_eq!(offset_of!(Query, prog_ids), offset_of!(TheirQuery, prog_ids));
        assert_eq!(offset_of!(Query, count), offset_of!(TheirQuery, __bindgen_anon_2));
        assert_eq!(offset_of!(Query, revision), offset_of!(TheirQuery, revision));
        assert_eq!(size_of::<ById>(), size_of::<TheirById>());
        assert_eq!(size_of::<About>(), size_of::<TheirAbout>());
        assert_eq!(offset_of!(About, info_len), offset_of!(TheirAbout, info_len));
        assert_eq!(offset_of!(About, info), offset_of!(TheirAbout, info));
        assert_eq!(offset_of!(BtfInfo, btf_size), offset_of!(TheirBtfInfo, btf_size));
        assert_eq!(size_of::<BtfInfo>(), offset_of!(TheirBtfInfo, name));
    }
}
