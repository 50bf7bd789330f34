//! Whatever the distances, every jump of a program lands where its label was bound. A small interpreter
//! that shares no code with the assembler follows the encoded bytes.

use asm::{Assembler, Cond, Error, Insn, Reg};
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

    /// The same without long jumps, by way of islands: forward only, so each block goes to a later one.
    #[test]
    fn every_jump_lands_by_way_of_islands(
        reach in prop_oneof![200u16..400, 1000u16..1100, 16_383u16..=16_383, 32_767u16..=32_767],
        blocks in prop::collection::vec((0usize..4, any::<usize>(), 0usize..12_000), 2..16),
    ) {
        let mark = |n: usize| Insn::mov32(Reg::R9, u32::try_from(n).unwrap());
        let mut asm = Assembler::new();
        asm.long_jumps(false);
        asm.reach(reach);
        let labels: Vec<_> = (0..=blocks.len()).map(|_| asm.label("block")).collect();
        for (n, &label) in labels.iter().enumerate() {
            asm.jump_if(Cond::eq32(Reg::R1, u32::try_from(n).unwrap()), label);
        }
        asm.push(Insn::exit());
        let target = |n: usize, to: usize| n + 1 + to % (blocks.len() - n);
        for (n, &(kind, to, len)) in blocks.iter().enumerate() {
            asm.bind(labels[n]);
            asm.push(mark(n));
            fill(&mut asm, len);
            let to = labels[target(n, to)];
            match kind {
                0 => asm.goto(to),
                1 => asm.jump_if(Cond::eq64(Reg::R2, 1), to),
                2 => asm.jump_if(Cond::gt32(Reg::R2, 0), to),
                _ => asm.jump_if(Cond::set64(Reg::R2, 3), to),
            }
        }
        asm.bind(labels[blocks.len()]);
        asm.push(mark(blocks.len()));
        asm.push(Insn::exit());
        let program = asm.finish().unwrap();
        let bytes = program.bytes();

        prop_assert_eq!(program.long_jumps(), 0);
        for slot in 0..program.slots() {
            let (code, off, _) = fields(&bytes, slot);
            prop_assert!(code != JA32 && (0..=reach).contains(&off.cast_unsigned()), "{slot}: {code:#x} {off}");
        }
        for (n, &(kind, to, _)) in blocks.iter().enumerate() {
            for taken in [false, true] {
                let jumps = taken || kind == 0;
                let next = if jumps { target(n, to) } else { n + 1 };
                let expected = [n, next].map(|n| i32::try_from(n).unwrap());
                prop_assert_eq!(run(&bytes, n, taken), expected);
            }
        }
    }
}

/// Many labels that are all far away from where they are jumped to.
#[test]
fn a_pool_has_an_island_for_each_label_that_is_waited_for() {
    const LABELS: u16 = 1000;
    let mut asm = Assembler::new();
    asm.long_jumps(false);
    let labels: Vec<_> = (0..LABELS).map(|n| asm.label(format!("far_{n}"))).collect();
    for (n, &label) in (0u32..).zip(&labels) {
        asm.jump_if(Cond::eq32(Reg::R1, n), label);
    }
    fill(&mut asm, 50_000);
    asm.push(Insn::exit());
    for (n, &label) in (0u32..).zip(&labels) {
        asm.bind(label);
        asm.push(Insn::mov32(Reg::R9, n));
        asm.push(Insn::exit());
    }
    let program = asm.finish().unwrap();
    assert_eq!(program.islands(), usize::from(LABELS), "one each is enough");
    let bytes = program.bytes();
    for n in 0..usize::from(LABELS) {
        assert_eq!(run(&bytes, n, false), [i32::try_from(n).unwrap()]);
    }
    let listing = program.listing(&|_| None);
    assert!(
        listing.contains("    goto +1000\n    goto far_0                            ; island\n"),
        "{listing}"
    );
    assert!(listing.contains("    if w1 == 999 goto far_999\n"));
}

#[test]
fn islands_lead_forward_only() {
    let mut asm = Assembler::new();
    asm.long_jumps(false);
    let back = asm.label("back");
    asm.bind(back);
    fill(&mut asm, 40_000);
    asm.jump_if(Cond::eq32(Reg::R1, 0), back);
    asm.push(Insn::exit());
    assert_eq!(asm.finish().unwrap_err(), Error::TooFar { label: "back".to_owned() });
}
