//! Runs packets through a program in the kernel without attaching it (`BPF_PROG_TEST_RUN`).
//!
//! Input: an ELF object, Ethernet frames. Output: the program's verdict and the frame as it left it.

use std::io;
use std::ops::Range;

use aya::Ebpf;
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use nix::errno::Errno;

use super::{LoadError, classifier, open};
use crate::packet::{Field, skb};
use crate::settings::{self, Settings};

/// `TC_ACT_SHOT`: dropped.
pub const SHOT: i32 = 2;
/// `TC_ACT_REDIRECT`: handed to another device, or sent back.
pub const REDIRECT: i32 = 7;

/// The most that kernels take (`bpf_prog_test_run_skb`): a page of 4 KiB less head room and `skb_shared_info`.
pub const LONGEST: usize = 3520;

/// The least that kernels take: an Ethernet header, and the fixed IP header if the type says that one follows.
pub fn shortest(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14,
    }
}

/// A program that is loaded and attached nowhere. It goes when this is dropped.
#[derive(Debug)]
pub struct Trial {
    object: Ebpf,
    name: String,
}

/// What the kernel knows of a packet, besides its bytes (`struct __sk_buff`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Size of the segments that it is still to be cut into, else 0.
    pub gso_size: u32,
    pub settings: Settings,
}

/// What came of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `TC_ACT_UNSPEC` (-1), [`SHOT`] or [`REDIRECT`].
    pub verdict: i32,
    pub frame: Vec<u8>,
    /// Of all fields, as the program left them.
    pub settings: Settings,
}

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("{length} bytes are more than the kernel takes for a trial run ({LONGEST})")]
    TooLong { length: usize },
    #[error("{length} bytes are fewer than the kernel takes for a trial run ({shortest})")]
    TooShort { length: usize, shortest: usize },
    #[error("cannot run a packet through the program: {}", super::said(.0))]
    Kernel(io::Error),
    #[error("internal error, please report: {0}")]
    Internal(String),
}

impl Trial {
    /// Loads the program `name` of an object.
    pub fn load(elf: &[u8], name: &str) -> Result<Self, LoadError> {
        let mut object = open(elf)?;
        let program = classifier(&mut object, name)?;
        program.load().map_err(|error| super::explain(name, error))?;
        Ok(Self { object, name: name.to_owned() })
    }

    /// Runs one frame.
    pub fn run(&self, frame: &[u8], metadata: Metadata) -> Result<Outcome, TrialError> {
        const SK_BUFF_LEN: usize = 192; // struct __sk_buff
        const ROOM: usize = 128; // what a program may add
        let (length, shortest) = (frame.len(), shortest(frame));
        if length < shortest {
            return Err(TrialError::TooShort { length, shortest });
        }
        let mut context = [0; SK_BUFF_LEN];
        let gso_size = (skb::GSO_SIZE, metadata.gso_size);
        let known =
            settings::fields().filter_map(|(field, member)| Some((member, metadata.settings.get(field)?)));
        for (word, value) in known.chain([gso_size]) {
            if let Some(bytes) = at(word).and_then(|at| context.get_mut(at)) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        }
        let mut out = vec![0; length + ROOM];
        let mut context_out = [0; SK_BUFF_LEN];
        let internal = |error: &dyn std::fmt::Display| TrialError::Internal(error.to_string());
        let program: &SchedClassifier = self
            .object
            .program(&self.name)
            .ok_or_else(|| internal(&"the program is gone"))?
            .try_into()
            .map_err(|error: ProgramError| internal(&error))?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        });
        let result = match result {
            Ok(result) => result,
            Err(ProgramError::SyscallError(error)) => {
                let errno = error.io_error.raw_os_error().map(Errno::from_raw);
                let too_long = errno == Some(Errno::EINVAL) && length > LONGEST;
                return Err(if too_long {
                    TrialError::TooLong { length }
                } else {
                    TrialError::Kernel(error.io_error)
                });
            }
            Err(error) => {
                return Err(match super::cause(&error) {
                    Some(source) => TrialError::Kernel(source),
                    None => internal(&error),
                });
            }
        };
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(usize::MAX));
        let mut settings = Settings::default();
        for (field, member) in settings::fields() {
            let bytes = at(member).and_then(|at| context_out.get(at)?.try_into().ok());
            settings.set(field, bytes.map_or(0, u32::from_ne_bytes));
        }
        Ok(Outcome { verdict: result.return_value.cast_signed(), frame: out, settings })
    }
}

/// The bytes of a member of `struct __sk_buff`; all that are set or read here have four.
fn at(word: Field) -> Option<Range<usize>> {
    let from = usize::try_from(word.offset).ok()?;
    Some(from..from + 4)
}
