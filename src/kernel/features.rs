//! Which of the things that came late this kernel has: found out by loading small programs that use them.
//!
//! Input: nothing. Output: [`Features`]. Never looks at a version, which says little about kernels that get
//! changes ported back. What may not be tried is taken to be there: then nothing can be loaded, and whoever tries to
//! load the real program says why.

use std::sync::LazyLock;

use asm::{Assembler, Cond, Helper, Insn, Program, Reg::*, Size};
use nix::errno::Errno;

use super::LoadError;
use crate::codegen::Features;
use crate::elf;

static FEATURES: LazyLock<Features> = LazyLock::new(|| Features {
    check_mtu: takes("sfunnel_mtu", check_mtu()),
    long_jumps: takes("sfunnel_far", long_jump()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_has_what_it_is_to_try() {
        assert_eq!(long_jump().unwrap().long_jumps(), 1);
        assert!(check_mtu().unwrap().listing(&|_| None).contains("call bpf_check_mtu#163"));
    }
}
