//! Whatever the distances, every jump of a program lands where its label was bound. A small interpreter
//! that shares no code with the assembler follows the encoded bytes.

use asm::{Assembler, Cond, Insn, Reg};
use proptest::prelude::*;

const JA: u8 = 0x05;
const JA32: u8 = 0x06;
const JEQ32: u8 = 0x16;
const JNE32: u8 = 0x56;
const JSET32: u8 = 0x46;

fn fill(asm: &mut Assembler, count: usize) {
    for _ in 0..count {
        asm.push(Insn::mov64(Reg::R0, 0));
    }
}

/// The opcode, the offset and the immediate of a slot.
fn fields(bytes: &[u8], slot: usize) -> (u8, i16, i32) {
    let b = &bytes[slot * 8..][..8];
    let off = i16::from_ne_bytes([b[2], b[3]]);
    (b[0], off, i32::from_ne_bytes([b[4], b[5], b[6], b[7]]))
}

/// Runs a program of immediate moves and jumps, R1 = `selector` and R2 = `taken`; the first two
/// values that R9 takes.
fn run(bytes: &[u8], selector: usize, taken: bool) -> Vec<i32> {
    let (mut slot, mut seen) = (0usize, Vec::new());
    while seen.len() < 2 {
        let (code, off, imm) = fields(bytes, slot);
        let value = match bytes[slot * 8 + 1] & 0xf {
            1 => i32::try_from(selector).unwrap(),
            _ => i32::from(taken),
        };
        let holds = match code {
            0xb4 => {
                seen.push(imm);
                false
            }
            0xb7 => false,
            0x95 => break,
            JA | JA32 => true,
            JEQ32 | 0x15 => value == imm,
            JNE32 | 0x55 => value != imm,
            JSET32 | 0x45 => value & imm != 0,
            0x26 => value > imm,
            0xb6 => value <= imm,
            code => panic!("unexpected opcode {code:#x} in slot {slot}"),
        };
        slot += 1;
        if holds {
            let away = if code == JA32 { imm } else { off.into() };
            slot = slot.checked_add_signed(isize::try_from(away).unwrap()).unwrap();
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Each block marks itself in R9, is `len` long and ends with a jump. Dispatch on R1 comes
    /// first, so that all are reached.
    #[test]
    fn every_jump_lands_on_the_instruction_that_was_labelled(
        blocks in prop::collection::vec(
            (
                0usize..6,
                any::<usize>(),
                prop_oneof![0usize..4, 0usize..12_000, 32_740usize..32_770],
            ),
            2..16,
        )
    ) {
        let mark = |n: usize| Insn::mov32(Reg::R9, u32::try_from(n).unwrap());
        let mut asm = Assembler::new();
        let labels: Vec<_> = (0..=blocks.len()).map(|_| asm.label("block")).collect();
        for (n, &label) in labels.iter().enumerate() {
            asm.jump_if(Cond::eq32(Reg::R1, u32::try_from(n).unwrap()), label);
        }
        asm.push(Insn::exit());
        for (n, &(kind, to, len)) in blocks.iter().enumerate() {
            asm.bind(labels[n]);
            asm.push(mark(n));
            fill(&mut asm, len);
            let to = labels[to % labels.len()];
            match kind {
                0 => asm.goto(to),
                1 => asm.jump_if(Cond::eq64(Reg::R2, 1), to),
                2 => asm.jump_if(Cond::ne32(Reg::R2, 0), to),
                3 => asm.jump_if(Cond::gt32(Reg::R2, 0), to),
                4 => asm.jump_if(Cond::set32(Reg::R2, 1), to),
                _ => asm.jump_if(Cond::set64(Reg::R2, 3), to),
            }
        }
        asm.bind(labels[blocks.len()]);
        asm.push(mark(blocks.len()));
        asm.push(Insn::exit());
        let bytes = asm.finish().unwrap().bytes();

        for (n, &(kind, to, _)) in blocks.iter().enumerate() {
            for taken in [false, true] {
                let jumps = taken || kind == 0;
                let next = if jumps { to % labels.len() } else { n + 1 };
                let expected = [n, next].map(|n| i32::try_from(n).unwrap());
                prop_assert_eq!(run(&bytes, n, taken), expected);
            }
        }
    }
}
