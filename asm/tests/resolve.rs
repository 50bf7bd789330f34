//! Distances, long forms, reachability.

use asm::{Assembler, Cond, Error, Insn, Program, Reg};
use pretty_assertions::assert_eq;

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

/// A jump over `distance` instructions.
fn forward(cond: Option<Cond>, distance: usize) -> (Program, Vec<u8>) {
    let mut asm = Assembler::new();
    let (over, far) = (asm.label("over"), asm.label("far"));
    match cond {
        Some(cond) => asm.jump_if(cond, far),
        // Something must lead into the filler.
        None => {
            asm.jump_if(Cond::eq64(Reg::R1, 0), over);
            asm.goto(far);
        }
    }
    asm.bind(over);
    fill(&mut asm, distance);
    asm.bind(far);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    (program.clone(), program.bytes())
}

/// A jump back to `distance - 1` instructions before it.
fn backward(cond: Option<Cond>, distance: usize) -> (Program, Vec<u8>) {
    let mut asm = Assembler::new();
    let (head, out) = (asm.label("head"), asm.label("out"));
    asm.bind(head);
    fill(&mut asm, distance - 2);
    asm.jump_if(Cond::eq64(Reg::R1, 0), out);
    match cond {
        Some(cond) => asm.jump_if(cond, head),
        None => asm.goto(head),
    }
    asm.bind(out);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    (program.clone(), program.bytes())
}

#[test]
fn forward_32767_is_short_and_32768_is_long() {
    let eq = Some(Cond::eq32(Reg::R1, 9));
    let (short, bytes) = forward(eq, 32_767);
    assert_eq!((short.long_jumps(), short.slots()), (0, 1 + 32_767 + 1));
    assert_eq!(fields(&bytes, 0), (JEQ32, 32_767, 9));

    let (long, bytes) = forward(eq, 32_768);
    assert_eq!((long.long_jumps(), long.slots()), (1, 2 + 32_768 + 1));
    assert_eq!(fields(&bytes, 0), (JNE32, 1, 9));
    assert_eq!(fields(&bytes, 1), (JA32, 0, 32_768));
}

#[test]
fn forward_goto_32767_is_short_and_32768_is_gotol() {
    let (short, bytes) = forward(None, 32_767);
    assert_eq!(short.long_jumps(), 0);
    assert_eq!(fields(&bytes, 1), (JA, 32_767, 0));

    let (long, bytes) = forward(None, 32_768);
    assert_eq!((long.long_jumps(), long.slots()), (1, 2 + 32_768 + 1));
    assert_eq!(fields(&bytes, 1), (JA32, 0, 32_768));
}

#[test]
fn a_shorter_reach_makes_jumps_long_sooner() {
    for (distance, long) in [(1000, 0), (1001, 1)] {
        let mut asm = Assembler::new();
        asm.reach(1000);
        let far = asm.label("far");
        asm.jump_if(Cond::eq32(Reg::R1, 0), far);
        fill(&mut asm, distance);
        asm.bind(far);
        asm.push(Insn::exit());
        assert_eq!(asm.finish().unwrap().long_jumps(), long, "{distance}");
    }
}

#[test]
fn backward_32768_is_short_and_32769_is_long() {
    let eq = Some(Cond::eq32(Reg::R1, 9));
    let (short, bytes) = backward(eq, 32_768);
    assert_eq!(short.long_jumps(), 0);
    assert_eq!(fields(&bytes, 32_767), (JEQ32, -32_768, 9));

    // The long form jumps from one slot further on.
    let (long, bytes) = backward(eq, 32_769);
    assert_eq!(long.long_jumps(), 1);
    assert_eq!(fields(&bytes, 32_768), (JNE32, 1, 9));
    assert_eq!(fields(&bytes, 32_769), (JA32, 0, -32_770));
}

#[test]
fn backward_goto_32768_is_short_and_32769_is_gotol() {
    let (short, bytes) = backward(None, 32_768);
    assert_eq!(short.long_jumps(), 0);
    assert_eq!(fields(&bytes, 32_767), (JA, -32_768, 0));

    let (long, bytes) = backward(None, 32_769);
    assert_eq!(long.long_jumps(), 1);
    assert_eq!(fields(&bytes, 32_768), (JA32, 0, -32_769));
}

#[test]
fn a_far_test_of_bits_hops_over_a_hop() {
    let (long, bytes) = forward(Some(Cond::set32(Reg::R1, 4)), 32_768);
    assert_eq!((long.long_jumps(), long.slots()), (1, 3 + 32_768 + 1));
    assert_eq!(fields(&bytes, 0), (JSET32, 1, 4));
    assert_eq!(fields(&bytes, 1), (JA, 1, 0));
    assert_eq!(fields(&bytes, 2), (JA32, 0, 32_768));
}

#[test]
fn each_inverse_is_the_opposite() {
    for (cond, inverse) in [
        (Cond::eq32(Reg::R1, 7), "w1 != 7"),
        (Cond::ne32(Reg::R1, 7), "w1 == 7"),
        (Cond::gt32(Reg::R1, 7), "w1 <= 7"),
        (Cond::ge32(Reg::R1, 7), "w1 < 7"),
        (Cond::lt32(Reg::R1, 7), "w1 >= 7"),
        (Cond::le32(Reg::R1, 7), "w1 > 7"),
        (Cond::eq64(Reg::R1, 7), "r1 != 7"),
        (Cond::ne64(Reg::R1, 7), "r1 == 7"),
        (Cond::gt64(Reg::R1, 7), "r1 <= 7"),
        (Cond::ge64(Reg::R1, 7), "r1 < 7"),
        (Cond::lt64(Reg::R1, 7), "r1 >= 7"),
        (Cond::le64(Reg::R1, 7), "r1 > 7"),
    ] {
        let (program, _) = forward(Some(cond), 32_768);
        let text = program.text_at(0).unwrap();
        assert_eq!(text, format!("if {inverse} goto +1"));
    }
}

/// Jumps that are all just in reach, each over the next: if the last is lengthened, then so is the
/// one before it, and so on, one a round.
fn cascade(count: usize, extra: usize) -> Program {
    let mut asm = Assembler::new();
    let labels: Vec<_> = (0..count).map(|_| asm.label("far")).collect();
    for &label in &labels {
        asm.jump_if(Cond::eq32(Reg::R1, 9), label);
    }
    // Jump n is in slot n, its label at slot n + 32,768.
    fill(&mut asm, 32_768 - count);
    for (n, &label) in labels.iter().enumerate() {
        if n == count - 1 {
            fill(&mut asm, extra);
        }
        asm.bind(label);
        fill(&mut asm, 1);
    }
    asm.push(Insn::exit());
    asm.finish().unwrap()
}

#[test]
fn one_long_jump_pushes_all_others_out_of_reach() {
    // The larger ones need more rounds than are looked at one by one.
    for count in [2, 3, 10, 100, 1_000] {
        assert_eq!(cascade(count, 0).long_jumps(), 0, "{count}");
        let program = cascade(count, 1);
        let bytes = program.bytes();
        assert_eq!(program.long_jumps(), count);
        for n in 0..count {
            // Behind it: the longer jumps that follow, the filler, the extra one for the last.
            let away = 2 * (count - n - 1) + 32_768 - count + n + usize::from(n == count - 1);
            let expected = (JA32, 0, i32::try_from(away).unwrap());
            assert_eq!(fields(&bytes, 2 * n + 1), expected);
        }
    }
}

#[test]
fn jumps_to_the_next_instruction_are_left_out_and_so_are_chains_of_them() {
    let mut asm = Assembler::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| asm.label(name));
    asm.push(Insn::mov32(Reg::R0, 0));
    asm.goto(d);
    asm.bind(a);
    asm.jump_if(Cond::set32(Reg::R1, 1), b);
    asm.bind(b);
    asm.goto(c);
    asm.bind(c);
    asm.bind(d);
    asm.push(Insn::exit());
    assert_eq!(asm.finish().unwrap().slots(), 2);
}

#[test]
fn a_jump_back_is_never_left_out() {
    let mut asm = Assembler::new();
    let (head, out) = (asm.label("head"), asm.label("out"));
    asm.bind(head);
    asm.jump_if(Cond::eq32(Reg::R1, 0), out);
    asm.goto(head);
    asm.bind(out);
    asm.push(Insn::exit());
    assert_eq!(asm.finish().unwrap().slots(), 3);
}

#[test]
fn an_unbound_label_is_an_error_only_if_jumped_to() {
    let mut asm = Assembler::new();
    asm.label("never used");
    let label = asm.label("nowhere");
    asm.jump_if(Cond::eq32(Reg::R1, 0), label);
    asm.push(Insn::exit());
    let label = "nowhere".into();
    assert_eq!(asm.finish().unwrap_err(), Error::Unbound { label });
}

#[test]
fn an_instruction_no_path_leads_to_is_an_error() {
    let mut asm = Assembler::new();
    let (island, out) = (asm.label("island"), asm.label("out"));
    asm.goto(out);
    // They lead to each other only: a bound label is not enough.
    asm.bind(island);
    asm.push(Insn::mov32(Reg::R0, 1));
    asm.goto(island);
    asm.bind(out);
    asm.push(Insn::exit());
    let error = asm.finish().unwrap_err();
    let text = "w0 = 1".into();
    assert_eq!(error, Error::Unreachable { index: 1, text });
}

#[test]
fn running_off_the_end_is_an_error() {
    let runs_off = |text: &str| Error::RunsOff { text: text.into() };
    assert_eq!(Assembler::new().finish().unwrap_err(), runs_off(""));

    let mut asm = Assembler::new();
    asm.push(Insn::mov32(Reg::R0, 0));
    assert_eq!(asm.finish().unwrap_err(), runs_off("w0 = 0"));

    let mut asm = Assembler::new();
    let end = asm.label("end");
    asm.jump_if(Cond::eq32(Reg::R1, 0), end);
    asm.push(Insn::exit());
    asm.bind(end);
    let error = asm.finish().unwrap_err();
    assert_eq!(error, runs_off("if w1 == 0 goto end"));
}

#[test]
fn more_than_a_million_slots_are_too_large() {
    let program = |count| {
        let mut asm = Assembler::new();
        fill(&mut asm, count);
        asm.push(Insn::exit());
        asm.finish()
    };
    assert_eq!(program(999_999).unwrap().slots(), 1_000_000);
    let (slots, limit) = (1_000_001, 1_000_000);
    let error = program(limit).unwrap_err();
    assert_eq!(error, Error::TooLarge { slots, limit });
}

#[test]
fn reachable_turns_false_at_the_end_of_a_path_and_true_at_a_label() {
    let mut asm = Assembler::new();
    let (label, next) = (asm.label("label"), asm.label("next"));
    assert!(asm.reachable());
    asm.jump_if(Cond::eq32(Reg::R1, 0), label);
    assert!(asm.reachable());
    asm.push(Insn::exit());
    assert!(!asm.reachable());
    asm.bind(label);
    assert!(asm.reachable());
    asm.goto(next);
    assert!(!asm.reachable());
}

#[test]
#[should_panic(expected = "label `twice` bound twice")]
fn binding_twice_is_a_bug() {
    let mut asm = Assembler::new();
    let label = asm.label("twice");
    asm.bind(label);
    asm.bind(label);
}

#[test]
#[should_panic(expected = "a label of another assembler")]
fn a_jump_to_another_assemblers_label_is_a_bug() {
    let label = Assembler::new().label("theirs");
    let mut asm = Assembler::new();
    asm.label("ours");
    asm.goto(label);
}

#[test]
fn four_hundred_thousand_slots_most_jumps_long_assemble() {
    let mut asm = Assembler::new();
    let shared = asm.label("shared");
    for rule in 0..60_000u32 {
        let miss = asm.label("miss");
        asm.origin(Some(rule));
        asm.note("udp.dport");
        asm.jump_if(Cond::ne32(Reg::R2, rule), miss);
        asm.jump_if(Cond::set32(Reg::R3, rule), shared);
        fill(&mut asm, 2);
        asm.goto(shared);
        asm.bind(miss);
    }
    asm.bind(shared);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    assert!(program.slots() > 400_000);
    assert!(program.long_jumps() > 100_000);
    assert_eq!(program.bytes().len(), program.slots() * 8);
    let listing = program.listing(&|rule| Some(rule.to_string()));
    assert!(listing.contains("\nmiss.60000:\n"));
}
