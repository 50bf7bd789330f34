//! Loads programs with the flags by which the kernel tests its verifier.
//!
//! In: a program's instructions. Out: its descriptor, or what the verifier said; verdicts and frames. aya cannot be told
//! flags, so these are bpf(2) itself, `BPF_PROG_LOAD` and `BPF_PROG_TEST_RUN`. Attaches nothing.
//!
//! * `BPF_F_TEST_RND_HI32` sets the upper half of a register to random bits wherever an instruction has written the lower
//!   one and the verifier finds that nothing reads the upper: a program that does read it then does something else. On
//!   x86 such a program would go unnoticed, since the processor clears the upper half.
//! * `BPF_F_TEST_STATE_FREQ` makes the verifier compare states more often, so that it takes other ways through a program.
//! * `BPF_F_TEST_REG_INVARIANTS` refuses a program over which the verifier contradicts itself.
//!
//! `BPF_F_STRICT_ALIGNMENT` is not among them: behind an Ethernet header of 14 bytes all words of a packet are two bytes
//! off, and every program that reads one would be refused.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, ensure};
use aya_obj::Object;
use aya_obj::generated::{BPF_F_TEST_REG_INVARIANTS, BPF_F_TEST_RND_HI32, BPF_F_TEST_STATE_FREQ, bpf_insn};
use nix::errno::Errno;
use nix::libc;

const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const SCHED_CLS: u32 = 3;
/// What goes into the log, besides the reason of a refusal, as in `linux/bpf_verifier.h`.
const LOG_STATISTICS: u32 = 4;
const LOG_LENGTH: usize = 1 << 16;

/// Longer programs go without random bits: an instruction becomes up to four, and short jumps would no longer reach.
const LONGEST_WITH_RANDOM_BITS: usize = i16::MAX.unsigned_abs() as usize / 4;

/// The flags that this kernel knows: each has been tried.
static KNOWN: LazyLock<u32> = LazyLock::new(|| {
    // r0 = 0; exit
    let least = [[0xb7_u8, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let all = [BPF_F_TEST_RND_HI32, BPF_F_TEST_STATE_FREQ, BPF_F_TEST_REG_INVARIANTS];
    all.into_iter().filter(|flag| load(&least, *flag).is_ok()).sum()
});

/// The member of `union bpf_attr` that `BPF_PROG_LOAD` takes, up to where we need it.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The one that `BPF_PROG_TEST_RUN` takes, likewise.
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// Loads a program, slots of eight bytes. With what the verifier counted.
pub fn load<Slot: Copy>(code: &[Slot], flags: u32) -> Result<(OwnedFd, String)> {
    let mut said = vec![0_u8; LOG_LENGTH];
    ensure!(size_of_val(code).is_multiple_of(8), "half a slot");
    let attributes = Load {
        prog_type: SCHED_CLS,
        insn_cnt: u32::try_from(size_of_val(code) / 8)?,
        insns: code.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        log_level: LOG_STATISTICS,
        log_size: u32::try_from(said.len())?,
        log_buf: said.as_mut_ptr().expose_provenance() as u64,
        kern_version: 0,
        prog_flags: flags,
    };
    // SAFETY: the kernel reads the program, which has `insn_cnt` slots of eight bytes, and the licence, and writes at most
    // `log_size` bytes to the log; all of them outlive the call. What comes back is a descriptor that is ours to close.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>());
        Errno::result(fd).map(|fd| OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)))
    };
    let said = CStr::from_bytes_until_nul(&said)?.to_string_lossy().into_owned();
    match fd {
        Ok(fd) => Ok((fd, said)),
        Err(errno) => Err(errno).context(said),
    }
}

/// A program that was loaded with all flags that there are for it. It goes when this is dropped.
#[derive(Debug)]
pub struct Flagged {
    fd: OwnedFd,
    /// Whether it has a map, in which a packet may leave something behind.
    pub remembers: bool,
}

impl Flagged {
    /// The program `name` of an object. What maps it has, its instructions name by their descriptors.
    pub fn of_object(elf: &[u8], name: &str) -> Result<Flagged> {
        let object = Object::parse(elf).context("not an object")?;
        let program = object.programs.get(name).ok_or_else(|| anyhow!("no program `{name}`"))?;
        let function = object.functions.get(&program.function_key()).ok_or_else(|| anyhow!("no code"))?;
        // BPF_LD | BPF_IMM | BPF_DW, of a map or of an address in one.
        let names_map = |insn: &bpf_insn| insn.code == 0x18 && matches!(insn.src_reg(), 1 | 2);
        let remembers = function.instructions.iter().any(names_map);
        Ok(Flagged { fd: Flagged::take(&function.instructions)?, remembers })
    }

    /// Only whether the verifier takes it.
    pub fn take<Slot: Copy>(code: &[Slot]) -> Result<OwnedFd> {
        let long = size_of_val(code) / 8 > LONGEST_WITH_RANDOM_BITS;
        let flags = if long { *KNOWN & !BPF_F_TEST_RND_HI32 } else { *KNOWN };
        let loaded = load(code, flags).with_context(|| format!("with the verifier's test flags {flags:#x}"));
        loaded.map(|(fd, _)| fd)
    }

    /// The return value. `out` gets the frame, and is cut to it.
    pub fn run(
        &self,
        frame: &[u8],
        context: &[u8],
        out: &mut Vec<u8>,
        context_out: &mut [u8],
    ) -> Result<u32> {
        let mut attributes = TestRun {
            prog_fd: self.fd.as_raw_fd().unsigned_abs(),
            retval: 0,
            data_size_in: u32::try_from(frame.len())?,
            data_size_out: u32::try_from(out.len())?,
            data_in: frame.as_ptr().expose_provenance() as u64,
            data_out: out.as_mut_ptr().expose_provenance() as u64,
            repeat: 0,
            duration: 0,
            ctx_size_in: u32::try_from(context.len())?,
            ctx_size_out: u32::try_from(context_out.len())?,
            ctx_in: context.as_ptr().expose_provenance() as u64,
            ctx_out: context_out.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the kernel reads the frame and the context, and writes to the other two at most as many bytes as it is
        // told; all of them outlive the call.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
        Errno::result(answer)?;
        out.truncate(usize::try_from(attributes.data_size_out)?);
        Ok(attributes.retval)
    }
}
