//! Which of the things that came late this kernel has: found out by loading small programs that use them.
//!
//! Input: nothing. Output: [`Features`]. Never looks at a version, which says little about kernels that get
//! changes ported back. What may not be tried is taken to be there: then nothing can be loaded, and whoever tries to
//! load the real program says why.

use std::sync::LazyLock;

use asm::{Assembler, Cond, Helper, Insn, Program, Reg::*, Size};
use nix::errno::Errno;

use super::LoadError;
use super::trial::{Metadata, Trial};
use crate::codegen::Features;
use crate::elf;

static FEATURES: LazyLock<Features> = LazyLock::new(|| Features {
    check_mtu: takes("sfunnel_mtu", check_mtu()),
    long_jumps: takes("sfunnel_far", long_jump()),
    nested_tags: nests_tags(),
});

/// Tried once for the process.
pub fn features() -> Features {
    *FEATURES
}

fn takes(name: &str, program: Result<Program, asm::Error>) -> bool {
    let Some(object) = program.ok().and_then(|program| elf::wrap(&[(name, &program)]).ok()) else {
        return true;
    };
    match super::load(&object, &[name]) {
        Err(LoadError::Refused { .. }) => false,
        Err(LoadError::Kernel { source, .. }) => {
            source.raw_os_error().map(Errno::from_raw) != Some(Errno::EINVAL)
        }
        Ok(_) | Err(_) => true,
    }
}

/// `bpf_check_mtu(skb, 0, &mtu, 0, 0)`
fn check_mtu() -> Result<Program, asm::Error> {
    const MTU: i16 = -4;
    let mut asm = Assembler::new();
    asm.push(Insn::store_imm(Size::W, R10, MTU, 0));
    asm.push(Insn::mov32(R2, 0));
    asm.push(Insn::mov64(R3, R10));
    asm.push(Insn::add64(R3, i32::from(MTU)));
    asm.push(Insn::mov32(R4, 0));
    asm.push(Insn::mov32(R5, 0));
    asm.push(Insn::call(Helper::CheckMtu));
    asm.push(Insn::mov32(R0, -1));
    asm.push(Insn::exit());
    asm.finish()
}

/// `if skb->len == 0 goto far`, where nothing is near.
fn long_jump() -> Result<Program, asm::Error> {
    let mut asm = Assembler::new();
    asm.reach(0);
    let far = asm.label("far");
    asm.push(Insn::mov32(R0, -1));
    asm.push(Insn::load(Size::W, R2, R1, 0));
    asm.jump_if(Cond::eq32(R2, 0), far);
    asm.push(Insn::mov32(R0, -1));
    asm.bind(far);
    asm.push(Insn::exit());
    asm.finish()
}

/// Whether a packet with two VLAN tags still begins where its outermost one in the frame does. In older kernels it
/// begins behind both, and what is received next takes IP for a tag.
fn nests_tags() -> bool {
    let name = "sfunnel_tags";
    let Some(object) = two_tags().ok().and_then(|program| elf::wrap(&[(name, &program)]).ok()) else {
        return true;
    };
    let Ok(trial) = Trial::load(&object, name) else { return true };
    let mut frame = [0; 60];
    frame[12] = 0x08; // IPv4
    trial.run(&frame, Metadata::default()).is_ok_and(|outcome| outcome.verdict == NESTED)
}

/// What [`two_tags`] says of a kernel that leaves the packet where it begins.
const NESTED: i32 = 1;

/// Pushes two tags, and looks what the kernel takes for the network header: the first one's TCI?
fn two_tags() -> Result<Program, asm::Error> {
    const FIRST: u16 = 0x0fed;
    const TYPE: u16 = 0x8100;
    const SLOT: i16 = -4;
    const FROM_NETWORK_HEADER: i32 = 1;
    let in_packet = |number: u16| i32::from(u16::from_ne_bytes(number.to_be_bytes()));
    let mut asm = Assembler::new();
    let other = asm.label("other");
    asm.push(Insn::mov64(R6, R1));
    for tag in [FIRST, 1] {
        asm.push(Insn::mov64(R1, R6));
        asm.push(Insn::mov32(R2, in_packet(TYPE)));
        asm.push(Insn::mov32(R3, i32::from(tag)));
        asm.push(Insn::call(Helper::SkbVlanPush));
    }
    asm.push(Insn::mov64(R1, R6));
    asm.push(Insn::mov32(R2, 0));
    asm.push(Insn::mov64(R3, R10));
    asm.push(Insn::add64(R3, i32::from(SLOT)));
    asm.push(Insn::mov32(R4, 2));
    asm.push(Insn::mov32(R5, FROM_NETWORK_HEADER));
    asm.push(Insn::call(Helper::SkbLoadBytesRelative));
    asm.push(Insn::load(Size::H, R2, R10, SLOT));
    asm.push(Insn::mov32(R0, 0));
    asm.jump_if(Cond::ne32(R2, in_packet(FIRST)), other);
    asm.push(Insn::mov32(R0, NESTED));
    asm.bind(other);
    asm.push(Insn::exit());
    asm.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_has_what_it_is_to_try() {
        assert_eq!(long_jump().unwrap().long_jumps(), 1);
        assert!(check_mtu().unwrap().listing(&|_| None).contains("call bpf_check_mtu#163"));
    }
}
