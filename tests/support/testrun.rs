//! Loads programs into the kernel and runs packets through them (`BPF_PROG_TEST_RUN`).
//!
//! In: an ELF object, frames. Out: verdicts and frames as the kernel left them. Attaches nothing. Each program is in the
//! kernel twice, as the product loads it and [with the verifier's test flags](super::flagged), and both must do the same.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};

use super::fields::{SKB, Skb};
use super::flagged::Flagged;
use super::packet::hex;

/// The most that `BPF_PROG_TEST_RUN` takes: a page less head room and `skb_shared_info`.
pub const LONGEST: usize = 3520;

/// The least that it takes: an Ethernet header, and the fixed IP header if there is one after it
/// (`EINVAL` otherwise).
pub fn shortest(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14,
    }
}

/// `struct __sk_buff`, as far as it can be set from outside.
#[derive(Debug, Clone, Copy, Default)]
pub struct SkBuff {
    pub gso_size: u32,
    pub skb: Skb,
    /// Bytes of the frame in the linear area, on kernels that can; 0: all of them.
    pub linear: u32,
    /// The interface, in the namespace of whoever runs it; 0: the loopback.
    pub interface: u32,
}

const SK_BUFF_LEN: usize = 192;
const SK_BUFF_IFINDEX: usize = 40;
const SK_BUFF_DATA_END: usize = 80;
const SK_BUFF_GSO_SIZE: usize = 176;

/// Parses the kernel's BTF once; make one a thread and use it again.
pub struct Loader {
    loader: EbpfLoader<'static>,
    flagged: bool,
}

impl Default for Loader {
    fn default() -> Self {
        // On old kernels, it takes a higher limit first: as the product raises it.
        sfunnel::kernel::features();
        let mut loader = EbpfLoader::new();
        // Our programs have no relocations that would need it.
        loader.btf(None);
        Loader { loader, flagged: true }
    }
}

/// A program in the kernel. It goes when this is dropped.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
    name: String,
    maps: usize,
    flagged: Option<Flagged>,
    runs: AtomicUsize,
}

impl Loader {
    /// For what measures: each program is in the kernel once, without flags.
    pub fn as_the_product() -> Loader {
        Loader { flagged: false, ..Loader::default() }
    }

    /// Loads the program `name` of an object. A refusal says what the verifier said.
    pub fn load(&mut self, elf: &[u8], name: &str) -> Result<Loaded> {
        let mut ebpf = self.loader.load(elf).context("aya cannot read the object")?;
        let maps = ebpf.maps().count();
        let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("no program `{name}`"))?;
        let program: &mut SchedClassifier = program.try_into().context("not a tc classifier")?;
        program.load().map_err(|error| match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                anyhow!("the verifier refused it: {io_error}\n{tail}")
            }
            other => other.into(),
        })?;
        let flagged = self.flagged.then(|| Flagged::of_object(elf, name)).transpose()?;
        Ok(Loaded { ebpf, name: name.to_owned(), maps, flagged, runs: AtomicUsize::new(0) })
    }
}

impl Loaded {
    pub fn program(&self) -> Result<&SchedClassifier> {
        let program = self.ebpf.program(&self.name).ok_or_else(|| anyhow!("it is gone"))?;
        Ok(program.try_into()?)
    }

    pub fn program_mut(&mut self) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(&self.name).ok_or_else(|| anyhow!("it is gone"))?;
        Ok(program.try_into()?)
    }

    /// Instruction slots that are left after verification: fewer than went in when the verifier
    /// found dead code.
    pub fn slots(&self) -> Result<usize> {
        let bytes = self.program()?.info()?.size_translated();
        Ok(bytes.ok_or_else(|| anyhow!("the kernel does not say its size"))? as usize / 8)
    }

    /// Instructions that the verifier looked at, each as often as it did.
    pub fn verified(&self) -> Result<usize> {
        let count = self.program()?.info()?.verified_instruction_count();
        Ok(count.ok_or_else(|| anyhow!("the kernel does not say what it verified"))? as usize)
    }

    /// Maps that the object declares.
    pub fn maps(&self) -> usize {
        self.maps
    }

    /// The return value and the frame afterwards.
    pub fn run(&self, frame: &[u8], context: SkBuff) -> Result<(i32, Vec<u8>)> {
        self.run_known(frame, context).map(|(verdict, frame, _)| (verdict, frame))
    }

    /// The return value, the frame, and what the kernel knows of it afterwards.
    pub fn run_known(&self, frame: &[u8], context: SkBuff) -> Result<(i32, Vec<u8>, Skb)> {
        let mut ctx = [0; SK_BUFF_LEN];
        let mut set = |at: usize, value: u32| {
            ctx[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        };
        set(SK_BUFF_GSO_SIZE, context.gso_size);
        SKB.iter().zip(context.skb).for_each(|((_, at), value)| set(*at, value));
        set(SK_BUFF_DATA_END, context.linear);
        set(SK_BUFF_IFINDEX, context.interface);
        let once = |flagged: Option<&Flagged>| -> Result<(i32, Vec<u8>, Skb)> {
            let mut out = vec![0; frame.len() + 128];
            let mut ctx_out = [0; SK_BUFF_LEN];
            let verdict = match flagged {
                Some(flagged) => flagged.run(frame, &ctx, &mut out, &mut ctx_out)?,
                None => {
                    let result = self.program()?.test_run(TestRunOptions {
                        data_in: Some(frame),
                        data_out: Some(&mut out),
                        ctx_in: Some(&ctx),
                        ctx_out: Some(&mut ctx_out),
                        ..TestRunOptions::default()
                    })?;
                    out.truncate(result.data_size_out as usize);
                    result.return_value
                }
            };
            let word =
                |at: usize| ctx_out[at..at + 4].try_into().map(u32::from_ne_bytes).expect("four bytes");
            Ok((verdict.cast_signed(), out, SKB.map(|(_, at)| word(at))))
        };
        let turn = self.runs.fetch_add(1, Ordering::Relaxed);
        match &self.flagged {
            None => once(None),
            // A second run would find what the first has left: by turns.
            Some(flagged) if flagged.remembers => once(turn.is_multiple_of(2).then_some(flagged)),
            Some(flagged) => {
                let (plain, other) = (once(None)?, once(Some(flagged))?);
                ensure!(
                    plain == other,
                    "with the verifier's test flags, the program does something else\n  before  {}\n  without {} {} {:?}\n  \
                     with    {} {} {:?}",
                    hex(frame),
                    plain.0,
                    hex(&plain.1),
                    plain.2,
                    other.0,
                    hex(&other.1),
                    other.2
                );
                Ok(plain)
            }
        }
    }
}
