//! Every golden's program in the running kernel: accepted, and at what cost.
//!
//! Prints `golden NAME SLOTS PROCESSED` for each program: the instructions that the verifier has gone through. `cargo
//! xtask kernels` makes a table of these lines. Loaded without aya, which keeps the verifier's log of refusals only:
//! kernels before 5.16 tell the number nowhere else.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use asm::Program;
use nix::errno::Errno;
use nix::libc;
use sfunnel::codegen::{self, Options, Target};
use sfunnel::diag::Source;
use sfunnel::ir::Side;
use sfunnel::kernel::{self, Counters};
use sfunnel::{diagram, policy};

use super::support::{Need, golden, require};

/// What goes into the kernel's log, as in `linux/bpf.h` and `linux/bpf_verifier.h`.
const LOG_STATISTICS: u32 = 4;
const LOG_LENGTH: usize = 1 << 16;
const PROG_LOAD: libc::c_long = 5;
const SCHED_CLS: u32 = 3;

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

#[test]
#[allow(clippy::print_stdout, reason = "lines that `cargo xtask kernels` reads")]
fn every_golden_is_accepted() {
    if !require(&[Need::Root]) {
        return;
    }
    // Raises the limit of locked memory where that counts.
    kernel::features();
    let mut refused = Vec::new();
    let mut said = |name: String, result: Result<(usize, u64)>| match result {
        Ok((slots, count)) => println!("golden {name} {slots} {count}"),
        Err(why) => refused.push(format!("{name}: {why:#}")),
    };
    for file in golden::files().expect("testdata/golden") {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a golden");
        let (_, sections) = golden::sections(&text);
        let [(first, rules), others @ ..] = sections.as_slice() else { panic!("{name}: no sections") };
        match golden::options(first) {
            Some(options) => said(name, of_rules(rules, options)),
            None => {
                for (device, _) in others {
                    let program = golden::device(device).expect("a device").expect("a program");
                    said(
                        format!("{name}:{}", device.replace(", ", "-").replace(' ', "-")),
                        processed(&program),
                    );
                }
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
}

/// As it would be attached to egress here.
fn of_rules(rules: &str, options: Options) -> Result<(usize, u64)> {
    let read = sfunnel::read(&Source::new("rules", rules));
    let ruleset = read.map_err(|faults| anyhow!("{} faults in the rules", faults.len()))?.ruleset;
    let target = policy::target(kernel::features(), Side::Egress, &ruleset, Some(1500));
    // What is for the oldest kernels is so everywhere.
    let options = if options.target == Target::NEWEST { options.on(target) } else { options };
    let program = codegen::compile(&ruleset, &diagram::build(&ruleset), options)?;
    if !ruleset.counts() {
        return processed(&program);
    }
    let counters = Counters::create(&ruleset)?;
    processed(&program.with_maps(&counters.descriptors()))
}

/// Slots of the program, and how many instructions the verifier has gone through.
fn processed(program: &Program) -> Result<(usize, u64)> {
    let bytes = program.bytes();
    let license = c"GPL";
    let mut log = vec![0_u8; LOG_LENGTH];
    let address = |pointer: *const u8| pointer.expose_provenance() as u64;
    let attributes = Load {
        prog_type: SCHED_CLS,
        insn_cnt: u32::try_from(program.slots())?,
        insns: address(bytes.as_ptr()),
        license: address(license.as_ptr().cast()),
        log_level: LOG_STATISTICS,
        log_size: u32::try_from(LOG_LENGTH)?,
        log_buf: log.as_mut_ptr().expose_provenance() as u64,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the kernel reads the program, which has `insn_cnt` slots of eight bytes, and the licence, and writes at most
    // `log_size` bytes to the log; all of them outlive the call. What comes back is a descriptor that is ours to close.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>());
        Errno::result(fd).map(|fd| OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)))
    };
    let text = CStr::from_bytes_until_nul(&log)?.to_string_lossy();
    let fd = fd.with_context(|| text.clone().into_owned())?;
    drop(fd);
    let count = text.split_once("processed ").and_then(|(_, rest)| rest.split_once(' '));
    let (count, _) = count.with_context(|| format!("the log has no count: {text}"))?;
    Ok((program.slots(), count.parse()?))
}
